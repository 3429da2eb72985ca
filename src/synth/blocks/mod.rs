//! Random weights in the stored form of each type.
//!
//! Blocks are filled with random bytes, which makes their quants uniformly random, and then get scales that give the
//! weights the deviation that was asked for. The layouts are those of `ggml-common.h` (llama-cpp-sys-2 0.1.161).
//!
//! Where a type's quants lie off zero (`-8 ..= 7`), the signs of the scales are random, or the block's minimum makes up
//! for it: a mean of a tenth of a deviation would be harmless in one weight, but summed over a row of thousands it
//! becomes the strongest direction of the matrix by far, and all hidden rows would turn into it.

use crate::gguf::{GgmlType, encode, f32_to_f16_bits};
use crate::rng::Rng;

/// How the weights of a tensor are distributed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// Their mean, 0 for quantized types.
    pub mean: f32,
    /// Their standard deviation.
    pub std: f32,
    /// So many rows at the start are 0.
    pub n_zero_rows: u64,
}

impl Weights {
    /// Weights around 0.
    pub fn centred(std: f32) -> Weights {
        Weights {
            mean: 0.0,
            std,
            n_zero_rows: 0,
        }
    }
}

/// The random weights of one tensor, from its first row to its last.
pub(super) struct Blocks {
    rng: Rng,
    form: Form,
    /// Bytes of the rows that are still to be 0.
    n_zero_bytes: u64,
}

/// How random bytes become weights.
enum Form {
    /// Each number is one of these, in the bytes of its type.
    Numbers { table: Vec<u8>, n_bytes: usize },
    /// Each block gets its scales.
    Blocks {
        n_bytes: usize,
        scales: Scales,
        set: fn(&mut [u8], Scales),
    },
}

/// F16 bits that go into every block.
#[derive(Clone, Copy)]
struct Scales {
    d: [u8; 2],
    /// What is added (Q4_1, Q5_1) or, times a scale, taken away (Q4_K, Q5_K).
    min: [u8; 2],
}

/// The numbers that a weight of a floating-point type is chosen from: 12 of 16 random bits, so that the table stays in
/// the first-level cache.
const N_NUMBERS: u16 = 1 << 12;

/// Mean square of the scales of Q4_K and Q5_K, 32 ..= 63, and of Q6_K, 64 ..= 127.
const K_SCALE_SQUARE: f32 = 2341.5;
const Q6_K_SCALE_SQUARE: f32 = 9461.5;

impl Blocks {
    /// The weights of a tensor of type `ty` with rows of `row_bytes`, or `None` for types that are not made here.
    pub(super) fn new(ty: GgmlType, weights: Weights, row_bytes: u64, rng: Rng) -> Option<Blocks> {
        let form = match ty {
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => numbers(ty, weights)?,
            _ => quantized(ty, weights.std)?,
        };
        Some(Blocks {
            rng,
            form,
            n_zero_bytes: weights.n_zero_rows * row_bytes,
        })
    }

    /// The next rows.
    pub(super) fn fill(&mut self, rows: &mut [u8]) {
        match &self.form {
            Form::Numbers { table, n_bytes } => {
                let mut random = [0; 2 * 256];
                for numbers in rows.chunks_mut(n_bytes * 256) {
                    self.rng.fill(&mut random);
                    for (number, random) in numbers.chunks_exact_mut(*n_bytes).zip(random.chunks_exact(2)) {
                        let i = usize::from(u16::from_le_bytes([random[0], random[1]]) % N_NUMBERS);
                        number.copy_from_slice(&table[i * n_bytes..][..*n_bytes]);
                    }
                }
            }
            Form::Blocks { n_bytes, scales, set } => {
                self.rng.fill(rows);
                for block in rows.chunks_exact_mut(*n_bytes) {
                    set(block, *scales);
                }
            }
        }
        let n_zero_bytes = self.n_zero_bytes.min(rows.len() as u64);
        rows[..n_zero_bytes as usize].fill(0);
        self.n_zero_bytes -= n_zero_bytes;
    }
}

/// Numbers at equal distances, symmetric about the mean.
fn numbers(ty: GgmlType, weights: Weights) -> Option<Form> {
    let n = f32::from(N_NUMBERS);
    let step = weights.std / mean_square(n).sqrt();
    let values: Vec<f32> = (0..N_NUMBERS)
        .map(|i| weights.mean + step * (f32::from(i) - (n - 1.0) / 2.0))
        .collect();
    Some(Form::Numbers {
        table: encode(ty, &values)?,
        n_bytes: usize::try_from(ty.block_bytes()).ok()?,
    })
}

/// A type of blocks at `d = 1`.
struct BlockType {
    /// Mean square of its weights.
    mean_square: f32,
    /// The block's minimum that centres them, over `d`.
    min: f32,
    set: fn(&mut [u8], Scales),
}

/// Mean square of `n` whole numbers in a row, counted from their middle.
fn mean_square(n: f32) -> f32 {
    (n * n - 1.0) / 12.0
}

fn block_type(ty: GgmlType) -> Option<BlockType> {
    // Quants are 0 .. n. The mean square of those counted from a half beside the middle has 1/4 more.
    let new = |mean_square, min, set| BlockType {
        mean_square,
        min,
        set,
    };
    Some(match ty {
        GgmlType::Q4_0 => new(mean_square(16.0) + 0.25, 0.0, set_signed),
        GgmlType::Q4_1 => new(mean_square(16.0), -7.5, set_with_min),
        GgmlType::Q5_0 => new(mean_square(32.0) + 0.25, 0.0, set_signed),
        GgmlType::Q5_1 => new(mean_square(32.0), -15.5, set_with_min),
        // -127 ..= 127, and 0 once more
        GgmlType::Q8_0 => new(mean_square(255.0) * 255.0 / 256.0, 0.0, set_q8_0),
        GgmlType::Q4_K => new(K_SCALE_SQUARE * mean_square(16.0), 7.5, set_k),
        GgmlType::Q5_K => new(K_SCALE_SQUARE * mean_square(32.0), 15.5, set_k),
        GgmlType::Q6_K => new(Q6_K_SCALE_SQUARE * (mean_square(64.0) + 0.25), 0.0, set_q6_k),
        _ => return None,
    })
}

fn quantized(ty: GgmlType, std: f32) -> Option<Form> {
    let BlockType {
        mean_square,
        min,
        set,
    } = block_type(ty)?;
    let d = std / mean_square.sqrt();
    let half = |x: f32| f32_to_f16_bits(x).to_le_bytes();
    Some(Form::Blocks {
        n_bytes: usize::try_from(ty.block_bytes()).ok()?,
        scales: Scales {
            d: half(d),
            min: half(d * min),
        },
        set,
    })
}

/// Q4_0, Q5_0: `d`, then quants that lie half a step off zero. The sign of `d` is random, as it is in real files.
fn set_signed(block: &mut [u8], scales: Scales) {
    let sign = block[1] & 0x80;
    block[0] = scales.d[0];
    block[1] = scales.d[1] ^ sign;
}

/// Q4_1, Q5_1: `d`, `m`, then quants.
fn set_with_min(block: &mut [u8], scales: Scales) {
    block[..2].copy_from_slice(&scales.d);
    block[2..4].copy_from_slice(&scales.min);
}

/// Q8_0: `d`, then quants of -127 ..= 127.
fn set_q8_0(block: &mut [u8], scales: Scales) {
    block[..2].copy_from_slice(&scales.d);
    for quant in &mut block[2..] {
        *quant = if *quant == 0x80 { 0 } else { *quant };
    }
}

/// Q4_K, Q5_K: `d`, `dmin`, 8 scales and 8 minima of 6 bits in 12 bytes, then quants. Each minimum is its scale: then
/// `dmin` alone centres all of them.
fn set_k(block: &mut [u8], scales: Scales) {
    block[..2].copy_from_slice(&scales.d);
    block[2..4].copy_from_slice(&scales.min);
    for j in 0..4 {
        let (low, high) = (32 | (block[4 + j] & 31), 32 | (block[8 + j] & 31));
        block[4 + j] = low | ((high >> 4) << 6);
        block[8 + j] = block[4 + j];
        block[12 + j] = (high & 15) | ((high & 15) << 4);
    }
}

/// Q6_K: quants, 16 scales of 8 bits with a sign, `d`. Quants lie half a step off zero.
fn set_q6_k(block: &mut [u8], scales: Scales) {
    for scale in &mut block[192..208] {
        let magnitude = (64 | (*scale & 63)).cast_signed();
        let is_negative = *scale & 0x80 != 0;
        *scale = if is_negative { -magnitude } else { magnitude }.cast_unsigned();
    }
    block[208..].copy_from_slice(&scales.d);
}

#[cfg(test)]
mod tests;
