//! The sizes that policies and costs are computed from, out of files' metadata.

use crate::engine::options::VisionEncoder;
use crate::gguf::{Gguf, LlmShape, ProjectorShape};
use crate::policy::shape::{ModelShape, VisionShape};

/// The sizes of a language model. `n_vision_tokens`: of one image, where it is the same number for every image.
///
/// Of models whose layers differ the widest layer is taken.
pub fn model_shape(llm: &LlmShape, n_vision_tokens: Option<usize>) -> ModelShape {
    let widest = |of_layers: &[u32]| of_layers.iter().max().map_or(0, |&n| n as usize);
    ModelShape {
        name: llm.name.clone().unwrap_or_default(),
        arch: llm.arch.clone(),
        n_layer: llm.n_layer as usize,
        n_embd: llm.n_embd as usize,
        n_head: widest(&llm.n_head),
        n_head_kv: widest(&llm.n_head_kv),
        n_embd_head_k: llm.head_dim_k as usize,
        n_embd_head_v: llm.head_dim_v as usize,
        n_ff: widest(&llm.n_ff),
        n_vocab: llm.n_vocab as usize,
        n_vision_tokens,
    }
}

/// The sizes of a vision encoder and its projector. `gguf` is the file that `shape` was read from.
pub fn vision_shape(gguf: &Gguf, shape: &ProjectorShape, encoder: VisionEncoder) -> VisionShape {
    let n_patches = (shape.patches_per_side() as usize).pow(2);
    let n_patches_per_token = match shape.n_tokens_per_image {
        Some(n_tokens) if n_tokens > 0 => n_patches.div_ceil(n_tokens as usize),
        // Qwen2-VL and what follows it merge 2 x 2 patches.
        _ if shape.projector_type.ends_with("_merger") => 4,
        _ => 1,
    };
    let is_gated = gguf.tensor("v.blk.0.ffn_gate.weight").is_some();
    VisionShape {
        n_layer: n_layer_run(shape, encoder),
        n_embd: shape.n_embd as usize,
        n_ff: shape.n_ff as usize,
        n_ff_matrices: if is_gated { 3 } else { 2 },
        patch_size: shape.patch_size as usize,
        n_patches_per_token,
        n_extra_rows: usize::from(shape.has_class_embedding),
        n_projector_weights: n_projector_weights(gguf),
    }
}

/// Encoder layers that run. Stock llama.cpp leaves out LLaVA's last stored one.
fn n_layer_run(shape: &ProjectorShape, encoder: VisionEncoder) -> usize {
    let n_stored = shape.n_layer as usize;
    let deepest = shape
        .feature_layers
        .iter()
        .filter_map(|&il| usize::try_from(il).ok())
        .max();
    match (deepest, encoder) {
        (Some(il), _) => il.min(n_stored),
        (None, VisionEncoder::Upstream) if is_llava(&shape.projector_type) => n_stored.saturating_sub(1),
        (None, _) => n_stored,
    }
}

fn is_llava(projector_type: &str) -> bool {
    matches!(projector_type, "mlp" | "mlp_norm" | "ldp" | "ldpv2")
}

fn n_projector_weights(gguf: &Gguf) -> usize {
    let matrices = gguf
        .tensors()
        .iter()
        .filter(|tensor| tensor.name.starts_with("mm.") && tensor.dims.len() >= 2);
    matrices.map(|tensor| tensor.n_elements() as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn projector(projector_type: &str, feature_layers: &[i32]) -> ProjectorShape {
        ProjectorShape {
            name: None,
            file_type: None,
            projector_type: projector_type.to_owned(),
            image_size: 336,
            patch_size: 14,
            n_layer: 23,
            n_embd: 1024,
            n_head: 16,
            n_ff: 4096,
            projection_dim: 768,
            has_class_embedding: true,
            feature_layers: feature_layers.to_vec(),
            n_embd_out: Some(4096),
            n_tokens_per_image: Some(576),
            n_params: 0,
            file_bytes: 0,
        }
    }

    #[test]
    fn upstream_runs_one_layer_less_of_llavas_encoder() {
        let llava = projector("mlp", &[]);
        assert_eq!(n_layer_run(&llava, VisionEncoder::Reference), 23);
        assert_eq!(n_layer_run(&llava, VisionEncoder::Upstream), 22);
        assert_eq!(
            n_layer_run(&projector("gemma3", &[]), VisionEncoder::Upstream),
            23
        );
        assert_eq!(
            n_layer_run(&projector("mlp", &[7, 21]), VisionEncoder::Upstream),
            21
        );
        assert_eq!(
            n_layer_run(&projector("mlp", &[-1]), VisionEncoder::Reference),
            23
        );
    }
}
