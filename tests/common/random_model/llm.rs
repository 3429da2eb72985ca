//! Language models.

use std::path::Path;

use visipruner::gguf::{GgmlType, GgufWriter};

use super::plan::{Init, Plan, file_type};
use super::tokenizer::{self, BOS, EOS, UNK, vocabulary};

/// Slices that Qwen3-VL adds.
const N_SLICES: usize = 3;

/// Rows that a short convolution of LFM2 spans.
const N_CONVOLVED: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// Interleaved RoPE, no biases.
    Llama,
    /// Biases on query, key and value.
    Qwen2,
    /// Norms on query and key.
    Qwen3,
    /// Biases, and M-RoPE: positions of four components.
    Qwen2Vl,
    /// Norms before and after, sliding windows in all layers but every third, scaled embeddings.
    Gemma3,
    /// As Llama, and scores grow with the position of the query.
    Mistral3,
    /// Norms on query and key, M-RoPE, and slices of a picture's rows that are added after the first layers. Not among
    /// [`ALL`](Self::ALL): the projector would have to make the slices.
    Qwen3Vl,
    /// Short convolutions in all layers but every third, which has attention. It cannot be cut.
    Lfm2,
}

impl Arch {
    /// Of each way of building a layer one that can be cut.
    pub const ALL: [Arch; 6] = [
        Arch::Llama,
        Arch::Qwen2,
        Arch::Qwen3,
        Arch::Qwen2Vl,
        Arch::Gemma3,
        Arch::Mistral3,
    ];

    /// `general.architecture`
    pub fn name(self) -> &'static str {
        match self {
            Arch::Llama => "llama",
            Arch::Qwen2 => "qwen2",
            Arch::Qwen3 => "qwen3",
            Arch::Qwen2Vl => "qwen2vl",
            Arch::Gemma3 => "gemma3",
            Arch::Mistral3 => "mistral3",
            Arch::Qwen3Vl => "qwen3vl",
            Arch::Lfm2 => "lfm2",
        }
    }

    fn has_qkv_bias(self) -> bool {
        matches!(self, Arch::Qwen2 | Arch::Qwen2Vl)
    }

    fn has_qk_norm(self) -> bool {
        matches!(self, Arch::Qwen3 | Arch::Qwen3Vl | Arch::Gemma3 | Arch::Lfm2)
    }

    fn has_post_norm(self) -> bool {
        self == Arch::Gemma3
    }
}

/// A language model. Its width is `n_head * n_embd_head`.
#[derive(Debug, Clone)]
pub struct RandomLlm {
    pub arch: Arch,
    pub seed: u64,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub n_embd_head: usize,
    pub n_ff: usize,
    pub n_ctx_train: usize,
    /// No output matrix: the token embeddings serve for it.
    pub tied_output: bool,
    /// The type of matrices; vectors are F32.
    pub ty: GgmlType,
    /// Standard deviation of the attention scores.
    pub sharpness: f64,
    /// Width of the sliding window, for Gemma 3.
    pub n_swa: usize,
    /// Soft cap of the logits, for Gemma 3.
    pub logit_softcap: Option<f32>,
    /// The last layer adds nothing to its input.
    pub has_idle_last_layer: bool,
}

impl RandomLlm {
    /// 8 layers, 4 heads of 32 on 2 KV heads, F32.
    pub fn new(arch: Arch, seed: u64) -> RandomLlm {
        RandomLlm {
            arch,
            seed,
            n_layer: 8,
            n_head: 4,
            n_head_kv: 2,
            n_embd_head: 32,
            n_ff: 192,
            n_ctx_train: 2048,
            tied_output: false,
            ty: GgmlType::F32,
            sharpness: 1.5,
            n_swa: 24,
            logit_softcap: None,
            has_idle_last_layer: false,
        }
    }

    pub fn n_embd(&self) -> usize {
        self.n_head * self.n_embd_head
    }

    /// Writes the model.
    pub fn write(&self, path: impl AsRef<Path>) {
        let mut model = Plan::new(self.seed, self.ty);
        self.plan_metadata(&mut model.writer);
        tokenizer::plan(&mut model.writer);
        self.plan_outer_tensors(&mut model);
        for il in 0..self.n_layer {
            if self.has_attention(il) {
                self.plan_attention(&mut model, il);
            } else {
                self.plan_convolution(&mut model, il);
            }
            self.plan_ffn(&mut model, il);
        }
        model.write(path.as_ref());
    }

    fn plan_metadata(&self, writer: &mut GgufWriter) {
        let arch = self.arch.name();
        let key = |suffix: &str| format!("{arch}.{suffix}");
        let n_embd_head = self.n_embd_head as u32;
        let n_head_kv = |il| {
            if self.has_attention(il) {
                self.n_head_kv as u32
            } else {
                0
            }
        };
        writer
            .set("general.architecture", arch)
            .set("general.type", "model")
            .set("general.name", format!("random {arch} {}", self.seed))
            .set("general.file_type", file_type(self.ty))
            .set(key("context_length"), self.n_ctx_train as u32)
            .set(key("embedding_length"), self.n_embd() as u32)
            .set(key("block_count"), self.n_layer as u32)
            .set(key("feed_forward_length"), self.n_ff as u32)
            .set(key("attention.head_count"), self.n_head as u32)
            .set(key("attention.key_length"), n_embd_head)
            .set(key("attention.value_length"), n_embd_head)
            .set(key("attention.layer_norm_rms_epsilon"), 1e-5f32)
            .set(key("rope.dimension_count"), n_embd_head)
            .set(key("rope.freq_base"), 10_000f32)
            .set(key("vocab_size"), vocabulary().len() as u32);
        if self.arch == Arch::Lfm2 {
            let n_head_kv: Vec<u32> = (0..self.n_layer).map(n_head_kv).collect();
            writer
                .set(key("attention.head_count_kv"), n_head_kv)
                .set(key("shortconv.l_cache"), N_CONVOLVED as u32);
        } else {
            writer.set(key("attention.head_count_kv"), self.n_head_kv as u32);
        }
        if self.arch == Arch::Qwen3Vl {
            writer.set(key("n_deepstack_layers"), N_SLICES as u32);
        }
        if matches!(self.arch, Arch::Qwen2Vl | Arch::Qwen3Vl) {
            let pairs = self.n_embd_head as i32 / 2;
            let (time, y) = (pairs / 4, (pairs - pairs / 4) / 2);
            writer.set(key("rope.dimension_sections"), vec![time, y, pairs - time - y, 0]);
        }
        if self.arch == Arch::Mistral3 {
            writer
                .set(key("attention.temperature_scale"), 0.1f32)
                .set(key("rope.scaling.original_context_length"), 16u32);
        }
        if self.arch == Arch::Gemma3 {
            let is_sliding: Vec<bool> = (0..self.n_layer).map(|il| il % 3 != 2).collect();
            writer
                .set(key("attention.sliding_window"), self.n_swa as u32)
                .set(key("attention.sliding_window_pattern"), is_sliding);
            if let Some(cap) = self.logit_softcap {
                writer.set(key("final_logit_softcapping"), cap);
            }
        }
    }

    fn plan_outer_tensors(&self, model: &mut Plan) {
        let (n_embd, n_vocab) = (self.n_embd(), vocabulary().len());
        let tied_std = 2.0 / (n_embd as f64).sqrt();
        // Gemma multiplies token embeddings by sqrt(n_embd).
        let embd_std = if self.tied_output || self.arch == Arch::Gemma3 {
            tied_std
        } else {
            0.7
        };
        let zero_rows: &[usize] = if self.tied_output { &[UNK, EOS] } else { &[] };
        model.matrix("token_embd.weight", n_embd, n_vocab, embd_std, zero_rows);
        let output_norm = if self.arch == Arch::Lfm2 {
            "token_embd_norm.weight"
        } else {
            "output_norm.weight"
        };
        model.vector(output_norm, n_embd, 1.0, 0.1);
        if !self.tied_output {
            model.matrix("output.weight", n_embd, n_vocab, tied_std, &[UNK, BOS, EOS]);
        }
    }

    fn plan_attention(&self, model: &mut Plan, il: usize) {
        let n_embd = self.n_embd();
        let n_embd_kv = self.n_head_kv * self.n_embd_head;
        let name = |suffix: &str| format!("blk.{il}.{suffix}");
        let std = 1.0 / (n_embd as f64).sqrt();
        let sharpness = self.sharpness;
        model.vector(name("attn_norm.weight"), n_embd, 1.0, 0.1);
        model.matrix(name("attn_q.weight"), n_embd, n_embd, std * sharpness, &[]);
        model.matrix(name("attn_k.weight"), n_embd, n_embd_kv, std, &[]);
        model.matrix(name("attn_v.weight"), n_embd, n_embd_kv, std, &[]);
        let idle = self.idle_rows(il);
        model.matrix(name("attn_output.weight"), n_embd, n_embd, std * 0.7, &idle);
        if self.arch.has_qkv_bias() {
            model.vector(name("attn_q.bias"), n_embd, 0.0, 0.2);
            model.vector(name("attn_k.bias"), n_embd_kv, 0.0, 0.2);
            model.vector(name("attn_v.bias"), n_embd_kv, 0.0, 0.2);
        }
        if self.arch.has_qk_norm() {
            model.vector(name("attn_q_norm.weight"), self.n_embd_head, sharpness, 0.1);
            model.vector(name("attn_k_norm.weight"), self.n_embd_head, 1.0, 0.1);
        }
        if self.arch.has_post_norm() {
            model.vector(name("post_attention_norm.weight"), n_embd, 0.5, 0.05);
        }
    }

    /// In place of attention: each element of a row mixed with those of the rows just before it.
    fn plan_convolution(&self, model: &mut Plan, il: usize) {
        let n_embd = self.n_embd();
        let name = |suffix: &str| format!("blk.{il}.{suffix}");
        let std = 1.0 / (n_embd as f64).sqrt();
        model.vector(name("attn_norm.weight"), n_embd, 1.0, 0.1);
        model.matrix(name("shortconv.in_proj.weight"), n_embd, 3 * n_embd, std, &[]);
        let kernel = [N_CONVOLVED, n_embd];
        model.tensor(
            name("shortconv.conv.weight"),
            &kernel,
            GgmlType::F32,
            Init::normal(0.7),
        );
        model.matrix(name("shortconv.out_proj.weight"), n_embd, n_embd, std * 0.7, &[]);
    }

    fn has_attention(&self, il: usize) -> bool {
        self.arch != Arch::Lfm2 || il % 3 == 2
    }

    fn plan_ffn(&self, model: &mut Plan, il: usize) {
        let n_embd = self.n_embd();
        let name = |suffix: &str| format!("blk.{il}.{suffix}");
        let std = 1.0 / (n_embd as f64).sqrt();
        model.vector(name("ffn_norm.weight"), n_embd, 1.0, 0.1);
        model.matrix(name("ffn_gate.weight"), n_embd, self.n_ff, std, &[]);
        model.matrix(name("ffn_up.weight"), n_embd, self.n_ff, std, &[]);
        model.matrix(
            name("ffn_down.weight"),
            self.n_ff,
            n_embd,
            1.0 / (self.n_ff as f64).sqrt(),
            &self.idle_rows(il),
        );
        if self.arch.has_post_norm() {
            model.vector(name("post_ffw_norm.weight"), n_embd, 0.5, 0.05);
        }
    }

    /// The rows of the matrices that write to the hidden rows which are to be zero.
    fn idle_rows(&self, il: usize) -> Vec<usize> {
        let is_idle = self.has_idle_last_layer && il + 1 == self.n_layer;
        (0..if is_idle { self.n_embd() } else { 0 }).collect()
    }
}
