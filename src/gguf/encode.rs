//! Numbers in and out of the tensor types that need no tables: F32, F16, BF16 and Q8_0.

use super::GgmlType;

/// Rounds to F16, to nearest, ties to even; returns the bits. What exceeds the range becomes infinite.
pub fn f32_to_f16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    // 65520 is halfway between the largest F16 and the next power of two.
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        return sign | subnormal_f16_bits(f32::from_bits(magnitude));
    }
    let rebiased = magnitude - 0x3800_0000;
    let odd = (rebiased >> 13) & 1;
    sign | ((rebiased + 0xfff + odd) >> 13) as u16
}

/// The bits of a magnitude below 2^-14: a multiple of 2^-24.
fn subnormal_f16_bits(magnitude: f32) -> u16 {
    // Adding 2^-1 leaves a unit in the last place of 2^-24, so that the addition itself rounds to nearest
    // even.
    let aligned = magnitude + 0.5;
    (aligned.to_bits() - 0.5f32.to_bits()) as u16
}

/// The value of F16 bits.
pub fn f16_bits_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let mantissa = u32::from(bits & 0x3ff);
    match exponent {
        0 => {
            let magnitude = mantissa as f32 / 16_777_216.0;
            f32::from_bits(magnitude.to_bits() | sign)
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | (mantissa << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13)),
    }
}

/// Rounds to BF16, to nearest, ties to even; returns the bits.
pub fn f32_to_bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let odd = (bits >> 16) & 1;
    ((bits + 0x7fff + odd) >> 16) as u16
}

/// The value of BF16 bits.
pub fn bf16_bits_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bytes of `values` as `ty`, or `None` for a type that is not written here or if the values are not
/// whole blocks.
pub fn encode(ty: GgmlType, values: &[f32]) -> Option<Vec<u8>> {
    let bytes = match ty {
        GgmlType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        GgmlType::F16 => halves(values, f32_to_f16_bits),
        GgmlType::BF16 => halves(values, f32_to_bf16_bits),
        GgmlType::Q8_0 if values.len().is_multiple_of(Q8_0_LEN) => values
            .chunks_exact(Q8_0_LEN)
            .flat_map(encode_q8_0_block)
            .collect(),
        _ => return None,
    };
    Some(bytes)
}

/// The values of the bytes of a tensor of type `ty`, or `None` for a type that is not read here or if the
/// bytes are not whole blocks.
pub fn decode(ty: GgmlType, bytes: &[u8]) -> Option<Vec<f32>> {
    let block_bytes = usize::try_from(ty.block_bytes()).ok()?;
    if !bytes.len().is_multiple_of(block_bytes) {
        return None;
    }
    let values = match ty {
        GgmlType::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        GgmlType::F16 => from_halves(bytes, f16_bits_to_f32),
        GgmlType::BF16 => from_halves(bytes, bf16_bits_to_f32),
        GgmlType::Q8_0 => bytes
            .chunks_exact(block_bytes)
            .flat_map(decode_q8_0_block)
            .collect(),
        _ => return None,
    };
    Some(values)
}

const Q8_0_LEN: usize = 32;

fn halves(values: &[f32], bits: fn(f32) -> u16) -> Vec<u8> {
    values.iter().flat_map(|&x| bits(x).to_le_bytes()).collect()
}

fn from_halves(bytes: &[u8], value: fn(u16) -> f32) -> Vec<f32> {
    bytes
        .chunks_exact(2)
        .map(|b| value(u16::from_le_bytes([b[0], b[1]])))
        .collect()
}

/// 32 values as an F16 scale and 32 signed bytes. As `ggml-quants.c: quantize_row_q8_0_ref`, the bytes are
/// computed with the scale before it is rounded.
fn encode_q8_0_block(values: &[f32]) -> [u8; 2 + Q8_0_LEN] {
    let largest = values.iter().fold(0f32, |max, x| max.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut block = [0; 2 + Q8_0_LEN];
    block[..2].copy_from_slice(&f32_to_f16_bits(scale).to_le_bytes());
    for (byte, x) in block[2..].iter_mut().zip(values) {
        *byte = ((x * inverse).round() as i8).cast_unsigned();
    }
    block
}

fn decode_q8_0_block(block: &[u8]) -> impl Iterator<Item = f32> {
    let scale = f16_bits_to_f32(u16::from_le_bytes([block[0], block[1]]));
    block[2..]
        .iter()
        .map(move |byte| scale * f32::from(byte.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_round_trips() {
        for bits in 0..=u16::MAX {
            let value = f16_bits_to_f32(bits);
            if value.is_nan() {
                assert!(f16_bits_to_f32(f32_to_f16_bits(value)).is_nan());
            } else {
                assert_eq!(f32_to_f16_bits(value), bits, "{value}");
            }
        }
    }

    #[test]
    fn f16_values() {
        for (bits, value) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 2f32.powi(-14)),
            (0x0001, 2f32.powi(-24)),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(f16_bits_to_f32(bits), value);
        }
    }

    /// Between two neighbours, the rounding goes to the nearer one, and from the middle to the even one.
    #[test]
    fn f16_rounds_to_nearest_even() {
        for low in 0..0x7bffu16 {
            let (a, b) = (f16_bits_to_f32(low), f16_bits_to_f32(low + 1));
            let middle = a + (b - a) / 2.0;
            let even = if low % 2 == 0 { low } else { low + 1 };
            assert_eq!(f32_to_f16_bits(middle), even);
            assert_eq!(f32_to_f16_bits(middle.next_down()), low);
            assert_eq!(f32_to_f16_bits(middle.next_up()), low + 1);
            assert_eq!(f32_to_f16_bits(-middle), even | 0x8000);
        }
        assert_eq!(f32_to_f16_bits(65519.996), 0x7bff);
        assert_eq!(f32_to_f16_bits(65520.0), 0x7c00);
        assert_eq!(f32_to_f16_bits(f32::MAX), 0x7c00);
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        assert_eq!(f32_to_bf16_bits(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(f32_to_bf16_bits(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(f32_to_bf16_bits(f32::from_bits(0x3f80_8001)), 0x3f81);
        assert!(bf16_bits_to_f32(f32_to_bf16_bits(f32::NAN)).is_nan());
        assert_eq!(bf16_bits_to_f32(0xc000), -2.0);
    }

    #[test]
    fn q8_0_is_within_half_a_step() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) * 0.1).collect();
        let bytes = encode(GgmlType::Q8_0, &values).unwrap();
        assert_eq!(bytes.len(), 68);
        let step = 3.15 / 127.0;
        for (x, y) in values.iter().zip(decode(GgmlType::Q8_0, &bytes).unwrap()) {
            // 127 steps of a scale that is off by half an F16 unit in the last place (2^-12) at most
            assert!((x - y).abs() <= step * (0.5 + 127.0 / 4096.0), "{x} {y}");
        }
        assert_eq!(
            decode(GgmlType::Q8_0, &encode(GgmlType::Q8_0, &[0.0; 32]).unwrap()),
            Some(vec![0.0; 32])
        );
    }

    #[test]
    fn what_is_not_whole_blocks_is_refused() {
        assert_eq!(encode(GgmlType::Q8_0, &[1.0; 31]), None);
        assert_eq!(encode(GgmlType::Q4_K, &[1.0; 256]), None);
        assert_eq!(decode(GgmlType::F32, &[0; 5]), None);
        assert_eq!(decode(GgmlType::Q4_0, &[0; 18]), None);
    }
}
