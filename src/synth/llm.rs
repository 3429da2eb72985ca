//! The language model's file.
//!
//! Weights are scaled so that the model behaves although it has learned nothing: query and key have a deviation of 1, so
//! that attention scores have one of about 1 and attention is neither uniform nor a single token; a layer adds less to
//! a hidden row than what is there, so that rows neither vanish nor explode.

use super::blocks::Weights;
use super::mix::{Mix, Role};
use super::plan::Plan;
use super::shapes::LlmSizes;
use super::{Synth, vocabulary};
use crate::gguf::GgmlType;

/// What attention adds, as a fraction of its input. All rows get nearly the same from random attention: the mean over
/// the tokens before them. In TinyLlama's shape (22 layers, computed with the dequantized weights, 180 vision rows with
/// a cosine of 0.64 to each other) rows grow alike at 1, to a cosine of 0.73, and grow apart at 0.5, to 0.38.
const ATTENTION_GAIN: f32 = 0.5;
/// Deviation of the logits: large enough for the most likely token to stand out.
const LOGIT_STD: f32 = 2.0;
/// Deviation of biases.
const BIAS_STD: f32 = 0.2;
/// Deviation of the weights of norms, whose mean is 1.
const NORM_STD: f32 = 0.1;
/// `ggml.h: GGML_QNT_VERSION` of llama-cpp-sys-2 0.1.161.
const QUANTIZATION_VERSION: u32 = 2;

pub(super) fn plan(synth: &Synth) -> Plan {
    let sizes = &synth.shape.llm;
    let mut plan = Plan::new(synth.seed);
    set_metadata(&mut plan, synth);
    vocabulary::set(plan.metadata(), sizes.n_vocab);
    let mut model = Llm {
        sizes,
        n_layer: synth.n_layer,
        mix: synth.mix,
        plan,
    };
    model.matrix(
        "token_embd.weight",
        Role::Other,
        sizes.n_embd,
        sizes.n_vocab,
        Weights::centred(1.0),
    );
    for il in 0..synth.n_layer {
        model.plan_attention(il);
        model.plan_ffn(il);
    }
    model.plan_output();
    model.plan
}

fn set_metadata(plan: &mut Plan, synth: &Synth) {
    let sizes = &synth.shape.llm;
    let key = |suffix: &str| format!("{}.{suffix}", sizes.arch);
    plan.metadata()
        .set("general.architecture", sizes.arch)
        .set("general.type", "model")
        .set("general.name", synth.name())
        .set("general.description", synth.description())
        .set("general.file_type", synth.mix.file_type())
        .set(key("context_length"), sizes.n_ctx_train as u32)
        .set(key("embedding_length"), sizes.n_embd as u32)
        .set(key("block_count"), synth.n_layer as u32)
        .set(key("feed_forward_length"), sizes.n_ff as u32)
        .set(key("attention.head_count"), sizes.n_head as u32)
        .set(key("attention.head_count_kv"), sizes.n_head_kv as u32)
        .set(key("attention.layer_norm_rms_epsilon"), sizes.rms_eps)
        .set(key("rope.dimension_count"), (sizes.n_embd / sizes.n_head) as u32)
        .set(key("rope.freq_base"), sizes.rope_theta)
        .set(key("vocab_size"), sizes.n_vocab as u32);
    if synth.mix.is_quantized() {
        plan.metadata()
            .set("general.quantization_version", QUANTIZATION_VERSION);
    }
}

struct Llm<'a> {
    sizes: &'a LlmSizes,
    n_layer: usize,
    mix: Mix,
    plan: Plan,
}

impl Llm<'_> {
    /// A matrix from `n_in` to `n_out`.
    fn matrix(&mut self, name: &str, role: Role, n_in: usize, n_out: usize, weights: Weights) {
        let ty: GgmlType = self.mix.matrix_type(role, n_in);
        self.plan.tensor(name, &[n_in, n_out], ty, weights);
    }

    /// A matrix that turns rows of deviation 1 into rows of deviation `gain`.
    fn linear(&mut self, name: &str, role: Role, n_in: usize, n_out: usize, gain: f32) {
        let weights = Weights::centred(gain / (n_in as f32).sqrt());
        self.matrix(name, role, n_in, n_out, weights);
    }

    fn plan_attention(&mut self, il: usize) {
        let LlmSizes { n_embd, n_head, .. } = *self.sizes;
        let n_embd_kv = n_embd / n_head * self.sizes.n_head_kv;
        let n_layer = self.n_layer;
        let name = |suffix: &str| format!("blk.{il}.{suffix}");
        self.plan.vector(name("attn_norm.weight"), n_embd, 1.0, NORM_STD);
        let value = Role::AttentionValue { il, n_layer };
        for (projection, role, n_out) in [
            ("attn_q", Role::Other, n_embd),
            ("attn_k", Role::Other, n_embd_kv),
            ("attn_v", value, n_embd_kv),
        ] {
            self.linear(&name(&format!("{projection}.weight")), role, n_embd, n_out, 1.0);
            if self.sizes.arch == "qwen2" {
                self.plan
                    .vector(name(&format!("{projection}.bias")), n_out, 0.0, BIAS_STD);
            }
        }
        let output = name("attn_output.weight");
        self.linear(&output, Role::Other, n_embd, n_embd, ATTENTION_GAIN);
    }

    fn plan_ffn(&mut self, il: usize) {
        let LlmSizes { n_embd, n_ff, .. } = *self.sizes;
        let name = |suffix: &str| format!("blk.{il}.{suffix}.weight");
        let down = Role::FfnDown {
            il,
            n_layer: self.n_layer,
        };
        self.plan.vector(name("ffn_norm"), n_embd, 1.0, NORM_STD);
        self.linear(&name("ffn_gate"), Role::Other, n_embd, n_ff, 1.0);
        self.linear(&name("ffn_up"), Role::Other, n_embd, n_ff, 1.0);
        self.linear(&name("ffn_down"), down, n_ff, n_embd, 1.0);
    }

    /// Control tokens have the logit 0, far below the most likely token's: answers don't end by themselves.
    fn plan_output(&mut self) {
        let LlmSizes { n_embd, n_vocab, .. } = *self.sizes;
        self.plan.vector("output_norm.weight", n_embd, 1.0, NORM_STD);
        let weights = Weights {
            n_zero_rows: vocabulary::N_CONTROL,
            ..Weights::centred(LOGIT_STD / (n_embd as f32).sqrt())
        };
        self.matrix("output.weight", Role::Output, n_embd, n_vocab, weights);
    }
}
