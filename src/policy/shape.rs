//! The sizes of a model, as its metadata gives them: what presets are chosen by and costs are computed from.

/// A language model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelShape {
    /// `general.name`, for messages; may be empty.
    pub name: String,
    /// `general.architecture`.
    pub arch: String,
    /// Layers.
    pub n_layer: usize,
    /// Width of a hidden row.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads.
    pub n_head_kv: usize,
    /// Width of one head's queries and keys.
    pub n_embd_head_k: usize,
    /// Width of one head's values.
    pub n_embd_head_v: usize,
    /// Width of the gated feed-forward layer.
    pub n_ff: usize,
    /// Rows of the output head.
    pub n_vocab: usize,
    /// Vision tokens that one image becomes, if it is the same number for every image.
    pub n_vision_tokens: Option<usize>,
}

/// A vision encoder of transformer layers on patches, and the projector behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VisionShape {
    /// Layers that run.
    pub n_layer: usize,
    /// Width of a patch's row.
    pub n_embd: usize,
    /// Width of the feed-forward layer.
    pub n_ff: usize,
    /// Matrices in one feed-forward layer: 2, or 3 if it is gated.
    pub n_ff_matrices: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Patches that become one vision token: 1 for LLaVA, 4 where 2 x 2 patches are merged.
    pub n_patches_per_token: usize,
    /// Rows beside the patches: 1 with a class token.
    pub n_extra_rows: usize,
    /// Weights of the projector's matrices, each used once per vision token.
    pub n_projector_weights: usize,
}
