//! Image projectors.

use std::path::Path;

use visipruner::gguf::{GgmlType, GgufWriter};

use super::plan::{Init, Plan, file_type};

/// Which model's vision encoder and projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectorKind {
    Llava,
    Qwen2Vl,
}

/// A projector of LLaVA-1.5's kind: a CLIP encoder with a class embedding, and two linear layers.
#[derive(Debug, Clone)]
pub struct RandomProjector {
    pub seed: u64,
    pub kind: ProjectorKind,
    /// Patches along each side of an image.
    pub patches_per_side: usize,
    pub patch_size: usize,
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_ff: usize,
    /// The width of the language model.
    pub n_embd_out: usize,
    pub has_class_embedding: bool,
    /// `clip.vision.feature_layer`
    pub feature_layer: Option<i32>,
    /// The type of matrices; vectors are F32.
    pub ty: GgmlType,
}

impl RandomProjector {
    /// LLaVA's kind: 4x4 patches of 8 pixels, 3 layers of width 64, F32.
    pub fn new(seed: u64, n_embd_out: usize) -> RandomProjector {
        RandomProjector {
            seed,
            kind: ProjectorKind::Llava,
            patches_per_side: 4,
            patch_size: 8,
            n_layer: 3,
            n_embd: 64,
            n_head: 2,
            n_ff: 128,
            n_embd_out,
            has_class_embedding: true,
            feature_layer: None,
            ty: GgmlType::F32,
        }
    }

    /// Qwen2-VL's kind, for pictures of any size.
    pub fn qwen2vl(seed: u64, n_embd_out: usize) -> RandomProjector {
        RandomProjector {
            kind: ProjectorKind::Qwen2Vl,
            has_class_embedding: false,
            ..RandomProjector::new(seed, n_embd_out)
        }
    }

    /// Of LLaVA's kind.
    pub fn n_tokens_per_image(&self) -> usize {
        self.patches_per_side * self.patches_per_side
    }

    /// Writes the projector.
    pub fn write(&self, path: impl AsRef<Path>) {
        let mut model = Plan::new(self.seed, self.ty);
        self.plan_metadata(&mut model.writer);
        self.plan_input(&mut model);
        for il in 0..self.n_layer {
            self.plan_layer(&mut model, il);
        }
        self.plan_mlp(&mut model);
        model.write(path.as_ref());
    }

    fn plan_metadata(&self, writer: &mut GgufWriter) {
        writer
            .set("general.architecture", "clip")
            .set("general.type", "mmproj")
            .set("general.name", format!("random projector {}", self.seed))
            .set("general.file_type", file_type(self.ty))
            .set("clip.has_text_encoder", false)
            .set("clip.has_vision_encoder", true)
            .set("clip.has_llava_projector", self.kind == ProjectorKind::Llava)
            .set(
                "clip.projector_type",
                match self.kind {
                    ProjectorKind::Llava => "mlp",
                    ProjectorKind::Qwen2Vl => "qwen2vl_merger",
                },
            )
            .set("clip.use_gelu", false)
            .set(
                "clip.vision.image_size",
                (self.patches_per_side * self.patch_size) as u32,
            )
            .set("clip.vision.patch_size", self.patch_size as u32)
            .set("clip.vision.embedding_length", self.n_embd as u32)
            .set("clip.vision.feed_forward_length", self.n_ff as u32)
            .set("clip.vision.projection_dim", self.n_embd_out as u32)
            .set("clip.vision.block_count", self.n_layer as u32)
            .set("clip.vision.attention.head_count", self.n_head as u32)
            .set("clip.vision.attention.layer_norm_epsilon", 1e-5f32)
            .set("clip.vision.image_mean", vec![0.481f32, 0.458, 0.408])
            .set("clip.vision.image_std", vec![0.269f32, 0.261, 0.276]);
        if let Some(il) = self.feature_layer {
            writer.set("clip.vision.feature_layer", vec![il]);
        }
    }

    fn plan_input(&self, model: &mut Plan) {
        let n_pos = self.n_tokens_per_image() + usize::from(self.has_class_embedding);
        let patch = [self.patch_size, self.patch_size, 3, self.n_embd];
        let std = 1.0 / (self.patch_size as f64 * 3f64.sqrt());
        // Rows of one patch's side are too short for blocks.
        let ty = if self.ty == GgmlType::F32 {
            GgmlType::F32
        } else {
            GgmlType::F16
        };
        model.tensor("v.patch_embd.weight", &patch, ty, Init::normal(std));
        if self.kind == ProjectorKind::Qwen2Vl {
            // for the second frame of a film, which a still picture is, too; positions are rotary
            model.tensor("v.patch_embd.weight.1", &patch, ty, Init::normal(std));
            model.layer_norm("v.post_ln", self.n_embd);
            return;
        }
        if self.has_class_embedding {
            model.vector("v.class_embd", self.n_embd, 0.0, 0.5);
        }
        model.tensor(
            "v.position_embd.weight",
            &[self.n_embd, n_pos],
            GgmlType::F32,
            Init::normal(0.5),
        );
        model.layer_norm("v.pre_ln", self.n_embd);
    }

    fn plan_layer(&self, model: &mut Plan, il: usize) {
        let name = |suffix: &str| format!("v.blk.{il}.{suffix}");
        let n_embd = self.n_embd;
        model.layer_norm(&name("ln1"), n_embd);
        model.layer_norm(&name("ln2"), n_embd);
        for projection in ["attn_q", "attn_k", "attn_v", "attn_out"] {
            model.linear(&name(projection), n_embd, n_embd);
        }
        model.linear(&name("ffn_up"), n_embd, self.n_ff);
        model.linear(&name("ffn_down"), self.n_ff, n_embd);
    }

    fn plan_mlp(&self, model: &mut Plan) {
        let (n_in, n_hidden) = match self.kind {
            ProjectorKind::Llava => (self.n_embd, self.n_embd_out),
            // 2x2 patches become one token
            ProjectorKind::Qwen2Vl => (4 * self.n_embd, 4 * self.n_embd),
        };
        model.linear("mm.0", n_in, n_hidden);
        model.linear("mm.2", n_hidden, self.n_embd_out);
    }
}
