//! Random blocks against dequantizers written from the description of each type.

use super::*;
use crate::gguf::{decode, f16_bits_to_f32};

const TYPES: [GgmlType; 11] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
];

const ROW_LEN: usize = 2048;
const N_ROWS: usize = 128;

fn random(ty: GgmlType, weights: Weights, seed: u64) -> Vec<u8> {
    let row_bytes = ty.tensor_bytes(ROW_LEN as u64, ROW_LEN as u64).unwrap();
    let mut bytes = vec![0; row_bytes as usize * N_ROWS];
    let mut blocks = Blocks::new(ty, weights, row_bytes, Rng::named(seed, "x")).unwrap();
    blocks.fill(&mut bytes);
    bytes
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16_bits_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn low_or_high(byte: u8, i: usize) -> u8 {
    if i == 0 { byte & 15 } else { byte >> 4 }
}

/// Bit `i` of a bit field.
fn bit(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 8] >> (i % 8) & 1
}

fn dequantize(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    if let Some(values) = decode(ty, bytes) {
        return values;
    }
    let block = match ty {
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 => legacy_block,
        GgmlType::Q4_K | GgmlType::Q5_K => k_block,
        GgmlType::Q6_K => q6_k_block,
        other => panic!("{other:?}"),
    };
    let blocks = bytes.chunks_exact(ty.block_bytes() as usize);
    blocks.flat_map(|bytes| block(ty, bytes)).collect()
}

/// 32 weights: the low halves of 16 bytes, then their high halves; a fifth bit from a bit field.
fn legacy_block(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let d = half(bytes, 0);
    let (n_head, has_fifth, zero) = match ty {
        GgmlType::Q4_0 => (2, false, -8.0 * d),
        GgmlType::Q5_0 => (2, true, -16.0 * d),
        GgmlType::Q4_1 => (4, false, half(bytes, 2)),
        GgmlType::Q5_1 => (4, true, half(bytes, 2)),
        other => panic!("{other:?}"),
    };
    let (fifths, quants) = bytes[n_head..].split_at(if has_fifth { 4 } else { 0 });
    let quant = |i: usize| low_or_high(quants[i % 16], i / 16);
    let fifth = |i: usize| if has_fifth { bit(fifths, i) << 4 } else { 0 };
    (0..32)
        .map(|i| d * f32::from(quant(i) | fifth(i)) + zero)
        .collect()
}

/// 256 weights in 8 sub-blocks of 32; two sub-blocks share 32 bytes, and each its bit of the 32 bytes of fifth bits.
fn k_block(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let (d, dmin) = (half(bytes, 0), half(bytes, 2));
    let packed = &bytes[4..16];
    let (fifths, quants) = bytes[16..].split_at(if ty == GgmlType::Q5_K { 32 } else { 0 });
    let mut values = Vec::new();
    for j in 0..8 {
        let (scale, min) = if j < 4 {
            (packed[j] & 63, packed[j + 4] & 63)
        } else {
            let high = |i: usize| (packed[i] >> 6) << 4;
            (packed[j + 4] & 15 | high(j - 4), packed[j + 4] >> 4 | high(j))
        };
        for l in 0..32 {
            let quant = low_or_high(quants[j / 2 * 32 + l], j % 2);
            let fifth = fifths.get(l).map_or(0, |bits| (bits >> j & 1) << 4);
            values.push(d * f32::from(scale) * f32::from(quant | fifth) - dmin * f32::from(min));
        }
    }
    values
}

/// 256 weights in two halves of 4 groups of 32; 4 low bits each from two groups' bytes, 2 high bits from all four's.
fn q6_k_block(_: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let d = half(bytes, 208);
    let mut values = Vec::new();
    for i in 0..256 {
        let (side, group, l) = (i / 128, i % 128 / 32, i % 32);
        let low = low_or_high(bytes[side * 64 + group % 2 * 32 + l], group / 2);
        let high = bytes[128 + side * 32 + l] >> (2 * group) & 3;
        let scale = bytes[192 + i / 16].cast_signed();
        values.push(d * f32::from(scale) * (f32::from(low | high << 4) - 32.0));
    }
    values
}

fn mean_and_std(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
    (mean, (square - mean * mean).sqrt())
}

/// From a first layer's to the narrowest that a scale has to reach: 18,944 inputs.
#[test]
fn weights_have_the_deviation_asked_for() {
    for ty in TYPES {
        for std in [1.0f32, 0.0156, 0.0073] {
            let values = dequantize(ty, &random(ty, Weights::centred(std), 1));
            assert_eq!(values.len(), ROW_LEN * N_ROWS);
            assert!(values.iter().all(|x| x.is_finite()), "{ty:?}");
            let (mean, actual) = mean_and_std(&values);
            let std = f64::from(std);
            // 262,144 weights: the mean of the 4-bit types, whose blocks are signed as one, deviates by 0.2 %
            assert!(mean.abs() < 0.01 * std, "{ty:?}: mean {mean} of {std}");
            assert!((actual / std - 1.0).abs() < 0.02, "{ty:?}: {actual} for {std}");
        }
    }
}

/// Random rows of mean 0 sum to about `sqrt(n)` deviations; any mean would show here first.
#[test]
fn no_direction_sticks_out() {
    for ty in TYPES {
        let values = dequantize(ty, &random(ty, Weights::centred(1.0), 2));
        let sums: Vec<f32> = values.chunks_exact(ROW_LEN).map(|row| row.iter().sum()).collect();
        let (mean, std) = mean_and_std(&sums);
        let expected = (ROW_LEN as f64).sqrt();
        // the deviation of a mean of 128, times 4
        assert!(mean.abs() < 4.0 * expected / 128f64.sqrt(), "{ty:?}: {mean}");
        assert!((0.7..1.4).contains(&(std / expected)), "{ty:?}: {std}");
    }
}

/// Neighbours and far weights are independent, so products of them average to 0.
#[test]
fn weights_do_not_repeat() {
    for ty in TYPES {
        let values = dequantize(ty, &random(ty, Weights::centred(1.0), 3));
        for distance in [1, 16, 32, 256, ROW_LEN] {
            let n = values.len() - distance;
            let products = values
                .iter()
                .zip(&values[distance..])
                .map(|(x, y)| f64::from(x * y));
            let mean = products.sum::<f64>() / n as f64;
            // 1 over the root of n is 0.002; off-zero quants under one sign share 0.25 / 21.5
            assert!(mean.abs() < 0.02, "{ty:?} at distance {distance}: {mean}");
        }
    }
}

#[test]
fn vectors_have_a_mean() {
    let weights = Weights {
        mean: 1.0,
        ..Weights::centred(0.1)
    };
    let (mean, std) = mean_and_std(&dequantize(GgmlType::F32, &random(GgmlType::F32, weights, 4)));
    assert!(
        (mean - 1.0).abs() < 0.002 && (std - 0.1).abs() < 0.002,
        "{mean} {std}"
    );
}

#[test]
fn the_first_rows_can_be_zero() {
    for ty in TYPES {
        let weights = Weights {
            n_zero_rows: 3,
            ..Weights::centred(1.0)
        };
        let values = dequantize(ty, &random(ty, weights, 5));
        let (zero, rest) = values.split_at(3 * ROW_LEN);
        assert!(zero.iter().all(|&x| x == 0.0), "{ty:?}");
        assert!(mean_and_std(&rest[..ROW_LEN]).1 > 0.9, "{ty:?}");
    }
}

/// In pieces of two rows as in one piece.
#[test]
fn pieces_make_the_whole() {
    for ty in TYPES {
        let row_bytes = ty.tensor_bytes(ROW_LEN as u64, ROW_LEN as u64).unwrap();
        let weights = Weights {
            n_zero_rows: 3,
            ..Weights::centred(1.0)
        };
        let mut blocks = Blocks::new(ty, weights, row_bytes, Rng::named(6, "x")).unwrap();
        let mut bytes = vec![0; row_bytes as usize * N_ROWS];
        for piece in bytes.chunks_mut(2 * row_bytes as usize) {
            blocks.fill(piece);
        }
        assert!(bytes == random(ty, weights, 6), "{ty:?}");
    }
}

#[test]
fn other_types_are_not_made() {
    for ty in [GgmlType::IQ2_XS, GgmlType::I32, GgmlType::MXFP4] {
        assert!(Blocks::new(ty, Weights::centred(1.0), 64, Rng::named(0, "")).is_none());
    }
}
