//! Which tensor gets which type in a quantized language model.
//!
//! The rules are those of `llama-quant.cpp: llama_tensor_get_type_impl` and `tensor_type_fallback` of
//! llama-cpp-sys-2 0.1.161, for dense models without an importance matrix.

use crate::gguf::{GgmlType, file_type_name};

/// A quantization of a whole file, as llama.cpp names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "they are called so")]
#[allow(missing_docs, reason = "the names say all there is")]
pub enum Mix {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
}

/// What a matrix does in the model, as far as its type depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Output,
    AttentionValue {
        il: usize,
        n_layer: usize,
    },
    FfnDown {
        il: usize,
        n_layer: usize,
    },
    /// Token embeddings too.
    Other,
}

impl Mix {
    /// Every quantization that is made here, the largest first.
    pub const ALL: [Mix; 13] = [
        Mix::F32,
        Mix::F16,
        Mix::BF16,
        Mix::Q8_0,
        Mix::Q6_K,
        Mix::Q5_K_M,
        Mix::Q5_K_S,
        Mix::Q5_1,
        Mix::Q5_0,
        Mix::Q4_K_M,
        Mix::Q4_K_S,
        Mix::Q4_1,
        Mix::Q4_0,
    ];

    /// `general.file_type` (`llama.h: enum llama_ftype`).
    pub fn file_type(self) -> u32 {
        match self {
            Mix::F32 => 0,
            Mix::F16 => 1,
            Mix::Q4_0 => 2,
            Mix::Q4_1 => 3,
            Mix::Q8_0 => 7,
            Mix::Q5_0 => 8,
            Mix::Q5_1 => 9,
            Mix::Q4_K_S => 14,
            Mix::Q4_K_M => 15,
            Mix::Q5_K_S => 16,
            Mix::Q5_K_M => 17,
            Mix::Q6_K => 18,
            Mix::BF16 => 32,
        }
    }

    /// Its name, such as `Q4_K_M`.
    pub fn name(self) -> &'static str {
        file_type_name(self.file_type()).unwrap_or("unknown")
    }

    /// The quantization called `name` in capital or small letters, or `None`.
    pub fn named(name: &str) -> Option<Mix> {
        Mix::ALL
            .into_iter()
            .find(|mix| mix.name().eq_ignore_ascii_case(name))
    }

    /// Whether weights are in blocks with scales.
    pub(super) fn is_quantized(self) -> bool {
        !matches!(self, Mix::F32 | Mix::F16 | Mix::BF16)
    }

    /// The type of most matrices.
    fn base(self) -> GgmlType {
        match self {
            Mix::F32 => GgmlType::F32,
            Mix::F16 => GgmlType::F16,
            Mix::BF16 => GgmlType::BF16,
            Mix::Q4_0 => GgmlType::Q4_0,
            Mix::Q4_1 => GgmlType::Q4_1,
            Mix::Q5_0 => GgmlType::Q5_0,
            Mix::Q5_1 => GgmlType::Q5_1,
            Mix::Q8_0 => GgmlType::Q8_0,
            Mix::Q4_K_S | Mix::Q4_K_M => GgmlType::Q4_K,
            Mix::Q5_K_S | Mix::Q5_K_M => GgmlType::Q5_K,
            Mix::Q6_K => GgmlType::Q6_K,
        }
    }

    /// The type of a matrix with rows of `row_len` weights.
    pub(super) fn matrix_type(self, role: Role, row_len: usize) -> GgmlType {
        if !self.is_quantized() {
            return self.base();
        }
        let wanted = match role {
            Role::Output => self.output_type(row_len),
            Role::AttentionValue { il, n_layer } => self.attention_value_type(il, n_layer),
            Role::FfnDown { il, n_layer } => self.ffn_down_type(il, n_layer),
            Role::Other => self.base(),
        };
        fitting(wanted, row_len)
    }

    fn output_type(self, row_len: usize) -> GgmlType {
        if self == Mix::Q8_0 || !fits(self.base(), row_len) {
            GgmlType::Q8_0
        } else {
            GgmlType::Q6_K
        }
    }

    fn attention_value_type(self, il: usize, n_layer: usize) -> GgmlType {
        match self {
            Mix::Q4_K_M | Mix::Q5_K_M if use_more_bits(il, n_layer) => GgmlType::Q6_K,
            Mix::Q4_K_S if il < 4 => GgmlType::Q5_K,
            _ => self.base(),
        }
    }

    fn ffn_down_type(self, il: usize, n_layer: usize) -> GgmlType {
        match self {
            Mix::Q4_K_M | Mix::Q5_K_M if use_more_bits(il, n_layer) => GgmlType::Q6_K,
            Mix::Q4_K_S if il < n_layer / 8 => GgmlType::Q5_K,
            _ => self.base(),
        }
    }
}

/// The first and the last eighth of the layers, and every third between them.
fn use_more_bits(il: usize, n_layer: usize) -> bool {
    let n_first = n_layer / 8;
    il < n_first || il >= 7 * n_layer / 8 || (il - n_first) % 3 == 2
}

fn fits(ty: GgmlType, row_len: usize) -> bool {
    (row_len as u64).is_multiple_of(ty.block_len())
}

/// A type of smaller blocks where rows are not whole blocks.
fn fitting(ty: GgmlType, row_len: usize) -> GgmlType {
    if fits(ty, row_len) {
        return ty;
    }
    let smaller = match ty {
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        other => other,
    };
    if fits(smaller, row_len) {
        smaller
    } else {
        GgmlType::F16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for mix in Mix::ALL {
            assert_eq!(Mix::named(mix.name()), Some(mix));
            assert_eq!(Mix::named(&mix.name().to_lowercase()), Some(mix));
        }
        assert_eq!(Mix::Q4_K_M.name(), "Q4_K_M");
        assert_eq!(Mix::named("IQ2_XS"), None);
    }

    /// As `llama-quantize` prints it for LLaMA-2 7B.
    #[test]
    fn q4_k_m_of_32_layers() {
        let better = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        for il in 0..32 {
            let expected = if better.contains(&il) {
                GgmlType::Q6_K
            } else {
                GgmlType::Q4_K
            };
            for role in [
                Role::AttentionValue { il, n_layer: 32 },
                Role::FfnDown { il, n_layer: 32 },
            ] {
                assert_eq!(Mix::Q4_K_M.matrix_type(role, 4096), expected, "{role:?}");
            }
        }
        assert_eq!(Mix::Q4_K_M.matrix_type(Role::Output, 4096), GgmlType::Q6_K);
        assert_eq!(Mix::Q4_K_M.matrix_type(Role::Other, 4096), GgmlType::Q4_K);
    }

    #[test]
    fn q4_k_s_of_40_layers() {
        let n_q5_k = |role: fn(usize) -> Role| {
            let types: Vec<_> = (0..40)
                .map(|il| Mix::Q4_K_S.matrix_type(role(il), 5120))
                .collect();
            let n = types.iter().take_while(|ty| **ty == GgmlType::Q5_K).count();
            assert!(types[n..].iter().all(|ty| *ty == GgmlType::Q4_K));
            n
        };
        assert_eq!(n_q5_k(|il| Role::AttentionValue { il, n_layer: 40 }), 4);
        assert_eq!(n_q5_k(|il| Role::FfnDown { il, n_layer: 40 }), 5);
    }

    #[test]
    fn the_output_has_six_bits_or_more() {
        let output = |mix: Mix| mix.matrix_type(Role::Output, 4096);
        assert_eq!(output(Mix::Q4_0), GgmlType::Q6_K);
        assert_eq!(output(Mix::Q5_K_S), GgmlType::Q6_K);
        assert_eq!(output(Mix::Q8_0), GgmlType::Q8_0);
        assert_eq!(output(Mix::F16), GgmlType::F16);
    }

    #[test]
    fn rows_that_are_no_whole_blocks() {
        let ffn_down = Role::FfnDown { il: 0, n_layer: 8 };
        assert_eq!(Mix::Q4_K_M.matrix_type(Role::Other, 672), GgmlType::Q5_0);
        assert_eq!(Mix::Q5_K_M.matrix_type(Role::Other, 672), GgmlType::Q5_1);
        assert_eq!(Mix::Q4_K_M.matrix_type(ffn_down, 672), GgmlType::Q8_0);
        assert_eq!(Mix::Q4_K_M.matrix_type(Role::Output, 672), GgmlType::Q8_0);
        assert_eq!(Mix::Q4_K_M.matrix_type(Role::Other, 40), GgmlType::F16);
        assert_eq!(Mix::Q8_0.matrix_type(Role::Other, 40), GgmlType::F16);
    }
}
