//! The projector's file: a CLIP encoder and what maps its output into the language model, matrices in F16 as in the
//! files that are published.

use super::Synth;
use super::blocks::Weights;
use super::plan::Plan;
use super::shapes::{ProjectorKind, Shape, VisionSizes};
use crate::gguf::GgmlType;

/// What attention and feed-forward layers add, as fractions of their inputs. Activations and attention of random layers
/// give all patches much the same; larger gains would make the patches alike.
const ATTENTION_GAIN: f32 = 0.25;
const FFN_GAIN: f32 = 0.5;
const BIAS_STD: f32 = 0.1;
const NORM_STD: f32 = 0.1;
/// `llama.h: LLAMA_FTYPE_MOSTLY_F16`
const FILE_TYPE: u32 = 1;
const LAYER_NORM_EPS: f32 = 1e-5;
/// CLIP's normalization of red, green and blue.
const IMAGE_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const IMAGE_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

pub(super) fn plan(synth: &Synth) -> Plan {
    let mut plan = Plan::new(synth.seed);
    set_metadata(&mut plan, synth);
    let mut encoder = Encoder {
        shape: synth.shape,
        plan,
    };
    encoder.plan_input();
    for il in 0..synth.shape.vision.n_layer {
        encoder.plan_layer(il);
    }
    match synth.shape.projector {
        ProjectorKind::Mlp => encoder.plan_mlp("mm.0", "mm.2"),
        ProjectorKind::Ldp => encoder.plan_ldp(),
        ProjectorKind::LdpV2 => encoder.plan_ldpv2(),
    }
    encoder.plan
}

fn set_metadata(plan: &mut Plan, synth: &Synth) {
    let Shape {
        llm,
        vision,
        projector,
        ..
    } = synth.shape;
    plan.metadata()
        .set("general.architecture", "clip")
        .set("general.type", "mmproj")
        .set("general.name", format!("synthetic {}", synth.shape.name))
        .set("general.description", synth.description())
        .set("general.file_type", FILE_TYPE)
        .set("clip.has_text_encoder", false)
        .set("clip.has_vision_encoder", true)
        .set("clip.has_llava_projector", true)
        .set("clip.projector_type", projector.name())
        .set("clip.use_gelu", false)
        .set("clip.vision.image_size", vision.image_size as u32)
        .set("clip.vision.patch_size", vision.patch_size as u32)
        .set("clip.vision.embedding_length", vision.n_embd as u32)
        .set("clip.vision.feed_forward_length", vision.n_ff as u32)
        .set("clip.vision.projection_dim", llm.n_embd as u32)
        .set("clip.vision.block_count", vision.n_layer as u32)
        .set("clip.vision.attention.head_count", vision.n_head as u32)
        .set("clip.vision.attention.layer_norm_epsilon", LAYER_NORM_EPS)
        // Says that all stored layers run. Without it stock llama.cpp leaves the last one out, and would be measured
        // with less work.
        .set("clip.vision.feature_layer", vec![vision.n_layer as i32])
        .set("clip.vision.image_mean", IMAGE_MEAN.to_vec())
        .set("clip.vision.image_std", IMAGE_STD.to_vec());
}

struct Encoder<'a> {
    shape: &'a Shape,
    plan: Plan,
}

impl Encoder<'_> {
    fn plan_input(&mut self) {
        let VisionSizes {
            n_embd, patch_size, ..
        } = self.shape.vision;
        let n_inputs = 3 * patch_size * patch_size;
        let n_pos = self.shape.vision.n_patches() + 1;
        self.plan.tensor(
            "v.patch_embd.weight",
            &[patch_size, patch_size, 3, n_embd],
            GgmlType::F16,
            Weights::centred(1.0 / (n_inputs as f32).sqrt()),
        );
        self.plan.vector("v.class_embd", n_embd, 0.0, 1.0);
        // as large as the patches, so that those of an even picture differ
        self.plan.tensor(
            "v.position_embd.weight",
            &[n_embd, n_pos],
            GgmlType::F16,
            Weights::centred(1.0),
        );
        self.norm("v.pre_ln", n_embd);
    }

    fn plan_layer(&mut self, il: usize) {
        let VisionSizes { n_embd, n_ff, .. } = self.shape.vision;
        let name = |suffix: &str| format!("v.blk.{il}.{suffix}");
        self.norm(&name("ln1"), n_embd);
        for projection in ["attn_q", "attn_k", "attn_v"] {
            self.linear(&name(projection), n_embd, n_embd, 1.0);
        }
        self.linear(&name("attn_out"), n_embd, n_embd, ATTENTION_GAIN);
        self.norm(&name("ln2"), n_embd);
        self.linear(&name("ffn_up"), n_embd, n_ff, 1.0);
        self.linear(&name("ffn_down"), n_ff, n_embd, FFN_GAIN);
    }

    /// Two layers, from the encoder's width to the language model's.
    fn plan_mlp(&mut self, first: &str, second: &str) {
        let n_embd_out = self.shape.llm.n_embd;
        self.linear(first, self.shape.vision.n_embd, n_embd_out, 1.0);
        self.linear(second, n_embd_out, n_embd_out, 1.0);
    }

    /// MobileVLM's "lightweight downsample projector" (arXiv 2312.16886, section 3.3): behind the two layers two
    /// inverted residual blocks of MobileNetV3, which squeeze the channels to a quarter to weigh them.
    fn plan_ldp(&mut self) {
        self.plan_mlp("mm.model.mlp.1", "mm.model.mlp.3");
        let n_embd = self.shape.llm.n_embd;
        let n_squeezed = (n_embd / 4).next_multiple_of(8);
        for block in [1, 2] {
            let name = |suffix: &str| format!("mm.model.mb_block.{block}.block.{suffix}");
            self.depthwise(&name("0.0.weight"), n_embd);
            self.norm(&name("0.1"), n_embd);
            self.linear(&name("1.fc1"), n_embd, n_squeezed, 1.0);
            self.linear(&name("1.fc2"), n_squeezed, n_embd, 1.0);
            self.matrix(&name("2.0.weight"), n_embd, n_embd, 1.0);
            self.norm(&name("2.1"), n_embd);
        }
    }

    /// MobileVLM V2's projector (arXiv 2402.03766, section 3.3): behind the two layers pooling and a convolution that
    /// tells positions.
    fn plan_ldpv2(&mut self) {
        self.plan_mlp("mm.model.mlp.0", "mm.model.mlp.2");
        let n_embd = self.shape.llm.n_embd;
        self.depthwise("mm.model.peg.0.weight", n_embd);
        self.plan.vector("mm.model.peg.0.bias", n_embd, 0.0, BIAS_STD);
    }

    fn norm(&mut self, name: &str, n: usize) {
        self.plan.vector(format!("{name}.weight"), n, 1.0, NORM_STD);
        self.plan.vector(format!("{name}.bias"), n, 0.0, BIAS_STD);
    }

    fn linear(&mut self, name: &str, n_in: usize, n_out: usize, gain: f32) {
        self.matrix(&format!("{name}.weight"), n_in, n_out, gain);
        self.plan.vector(format!("{name}.bias"), n_out, 0.0, BIAS_STD);
    }

    /// A matrix that turns rows of deviation 1 into rows of deviation `gain`.
    fn matrix(&mut self, name: &str, n_in: usize, n_out: usize, gain: f32) {
        let weights = Weights::centred(gain / (n_in as f32).sqrt());
        self.plan.tensor(name, &[n_in, n_out], GgmlType::F16, weights);
    }

    /// A convolution of 3x3 over each channel by itself.
    fn depthwise(&mut self, name: &str, n_channels: usize) {
        let weights = Weights::centred(1.0 / 3.0);
        self.plan
            .tensor(name, &[3, 3, n_channels], GgmlType::F16, weights);
    }
}
