//! The models whose shapes are known, with their true sizes.

/// A language model and the vision encoder before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Its name, as [`Shape::named`] knows it.
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    /// The language model.
    pub llm: LlmSizes,
    /// The vision encoder.
    pub vision: VisionSizes,
    /// What maps the encoder's output into the language model.
    pub projector: ProjectorKind,
}

/// Sizes of a decoder with gated feed-forward layers and RoPE.
#[derive(Debug, Clone, PartialEq)]
pub struct LlmSizes {
    /// `general.architecture`: `llama`, or `qwen2`, which has biases on query, key and value.
    pub arch: &'static str,
    /// Layers.
    pub n_layer: usize,
    /// Width of the hidden rows; a head's width is `n_embd / n_head`.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads.
    pub n_head_kv: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
    /// Tokens in the vocabulary; [`MIN_VOCAB`](super::MIN_VOCAB) or more.
    pub n_vocab: usize,
    /// The longest context, in tokens.
    pub n_ctx_train: usize,
    /// Base of RoPE's frequencies.
    pub rope_theta: f32,
    /// What RMS norms add to the mean square.
    pub rms_eps: f32,
}

/// Sizes of a CLIP encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionSizes {
    /// Side of the images, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Layers that are stored, all of which run: LLaVA takes the output of the last but one, and its files leave the
    /// last one out.
    pub n_layer: usize,
    /// Width.
    pub n_embd: usize,
    /// Heads.
    pub n_head: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
}

/// `clip.projector_type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectorKind {
    /// LLaVA-1.5: two linear layers, a token for each patch.
    Mlp,
    /// MobileVLM: two linear layers and two blocks of convolutions, a token for four patches.
    Ldp,
    /// MobileVLM V2: two linear layers, pooling and one convolution, a token for four patches.
    LdpV2,
}

impl ProjectorKind {
    /// As it stands in the file.
    pub fn name(self) -> &'static str {
        match self {
            ProjectorKind::Mlp => "mlp",
            ProjectorKind::Ldp => "ldp",
            ProjectorKind::LdpV2 => "ldpv2",
        }
    }
}

impl VisionSizes {
    /// Patches of an image.
    pub fn n_patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }
}

impl Shape {
    /// The shape called `name`, or `None`.
    pub fn named(name: &str) -> Option<&'static Shape> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// Vision tokens of an image.
    pub fn n_vision_tokens(&self) -> usize {
        match self.projector {
            ProjectorKind::Mlp => self.vision.n_patches(),
            ProjectorKind::Ldp | ProjectorKind::LdpV2 => self.vision.n_patches() / 4,
        }
    }
}

/// CLIP ViT-L/14 at 336 pixels, without its 24th layer.
const CLIP_L_336: VisionSizes = VisionSizes {
    image_size: 336,
    patch_size: 14,
    n_layer: 23,
    n_embd: 1024,
    n_head: 16,
    n_ff: 4096,
};

/// LLaMA-2 7B, as Vicuna-7B v1.5.
const LLAMA_2_7B: LlmSizes = LlmSizes {
    arch: "llama",
    n_layer: 32,
    n_embd: 4096,
    n_head: 32,
    n_head_kv: 32,
    n_ff: 11008,
    n_vocab: 32000,
    n_ctx_train: 4096,
    rope_theta: 1e4,
    rms_eps: 1e-5,
};

const MOBILELLAMA_2_7B: LlmSizes = LlmSizes {
    n_embd: 2560,
    n_ff: 6912,
    n_ctx_train: 2048,
    rms_eps: 1e-6,
    ..LLAMA_2_7B
};

/// All shapes, the largest first. Sizes are those of the models' `config.json`.
pub static SHAPES: [Shape; 8] = [
    Shape {
        name: "llava-1.5-13b",
        what: "Vicuna 13B v1.5, CLIP ViT-L/14-336",
        llm: LlmSizes {
            n_layer: 40,
            n_embd: 5120,
            n_head: 40,
            n_head_kv: 40,
            n_ff: 13824,
            ..LLAMA_2_7B
        },
        vision: CLIP_L_336,
        projector: ProjectorKind::Mlp,
    },
    Shape {
        name: "qwen2-7b",
        what: "Qwen2 7B behind LLaVA-1.5's encoder and projector",
        llm: LlmSizes {
            arch: "qwen2",
            n_layer: 28,
            n_embd: 3584,
            n_head: 28,
            n_head_kv: 4,
            n_ff: 18944,
            n_vocab: 152_064,
            n_ctx_train: 32768,
            rope_theta: 1e6,
            rms_eps: 1e-6,
        },
        vision: CLIP_L_336,
        projector: ProjectorKind::Mlp,
    },
    Shape {
        name: "bakllava-7b",
        what: "Mistral 7B v0.1, CLIP ViT-L/14-336",
        llm: LlmSizes {
            n_head_kv: 8,
            n_ff: 14336,
            n_ctx_train: 32768,
            ..LLAMA_2_7B
        },
        vision: CLIP_L_336,
        projector: ProjectorKind::Mlp,
    },
    Shape {
        name: "llava-1.5-7b",
        what: "Vicuna 7B v1.5, CLIP ViT-L/14-336",
        llm: LLAMA_2_7B,
        vision: CLIP_L_336,
        projector: ProjectorKind::Mlp,
    },
    Shape {
        name: "mobilevlm-3b",
        what: "MobileLLaMA 2.7B, CLIP ViT-L/14-336, LDP",
        llm: MOBILELLAMA_2_7B,
        vision: CLIP_L_336,
        projector: ProjectorKind::Ldp,
    },
    Shape {
        name: "mobilevlm-v2-3b",
        what: "MobileLLaMA 2.7B, CLIP ViT-L/14-336, LDPv2",
        llm: MOBILELLAMA_2_7B,
        vision: CLIP_L_336,
        projector: ProjectorKind::LdpV2,
    },
    Shape {
        name: "tinyllama-1.1b",
        what: "TinyLlama 1.1B behind LLaVA-1.5's encoder and projector",
        llm: LlmSizes {
            n_layer: 22,
            n_embd: 2048,
            n_head: 32,
            n_head_kv: 4,
            n_ff: 5632,
            n_ctx_train: 2048,
            ..LLAMA_2_7B
        },
        vision: CLIP_L_336,
        projector: ProjectorKind::Mlp,
    },
    Shape {
        name: "tiny",
        what: "nothing real: for tests of a second",
        llm: LlmSizes {
            n_layer: 8,
            n_embd: 256,
            n_head: 8,
            n_head_kv: 4,
            // rows that 256-weight blocks don't fit
            n_ff: 672,
            n_vocab: 512,
            n_ctx_train: 2048,
            ..LLAMA_2_7B
        },
        vision: VisionSizes {
            image_size: 112,
            patch_size: 14,
            n_layer: 3,
            n_embd: 128,
            n_head: 4,
            n_ff: 512,
        },
        projector: ProjectorKind::Mlp,
    },
];
