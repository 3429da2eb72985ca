//! Small models with random weights, as GGUF files that llama.cpp loads: every architecture that can be
//! pruned, and LLaVA-1.5's kind of projector.
//!
//! The weights are scaled so that the models behave: attention is neither uniform nor one-hot, every layer
//! changes the hidden rows by about half of their size, logits have a standard deviation of about 2, and the
//! end-of-sequence token is never the most likely one.

use std::collections::HashMap;
use std::path::Path;

use visipruner::gguf::{GgmlType, GgufWriter};

use super::rng::Rng;

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
}

impl Arch {
    pub const ALL: [Arch; 5] = [Arch::Llama, Arch::Qwen2, Arch::Qwen3, Arch::Qwen2Vl, Arch::Gemma3];

    /// `general.architecture`
    pub fn name(self) -> &'static str {
        match self {
            Arch::Llama => "llama",
            Arch::Qwen2 => "qwen2",
            Arch::Qwen3 => "qwen3",
            Arch::Qwen2Vl => "qwen2vl",
            Arch::Gemma3 => "gemma3",
        }
    }

    fn has_qkv_bias(self) -> bool {
        matches!(self, Arch::Qwen2 | Arch::Qwen2Vl)
    }

    fn has_qk_norm(self) -> bool {
        matches!(self, Arch::Qwen3 | Arch::Gemma3)
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
        plan_tokenizer(&mut model.writer);
        self.plan_outer_tensors(&mut model);
        for il in 0..self.n_layer {
            self.plan_attention(&mut model, il);
            self.plan_ffn(&mut model, il);
        }
        model.write(path.as_ref());
    }

    fn plan_metadata(&self, writer: &mut GgufWriter) {
        let arch = self.arch.name();
        let key = |suffix: &str| format!("{arch}.{suffix}");
        let n_embd_head = self.n_embd_head as u32;
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
            .set(key("attention.head_count_kv"), self.n_head_kv as u32)
            .set(key("attention.key_length"), n_embd_head)
            .set(key("attention.value_length"), n_embd_head)
            .set(key("attention.layer_norm_rms_epsilon"), 1e-5f32)
            .set(key("rope.dimension_count"), n_embd_head)
            .set(key("rope.freq_base"), 10_000f32)
            .set(key("vocab_size"), vocabulary().len() as u32);
        if self.arch == Arch::Qwen2Vl {
            let pairs = self.n_embd_head as i32 / 2;
            let (time, y) = (pairs / 4, (pairs - pairs / 4) / 2);
            writer.set(key("rope.dimension_sections"), vec![time, y, pairs - time - y, 0]);
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
        model.vector("output_norm.weight", n_embd, 1.0, 0.1);
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
            plan_layer_norm(model, "v.post_ln", self.n_embd);
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
        plan_layer_norm(model, "v.pre_ln", self.n_embd);
    }

    fn plan_layer(&self, model: &mut Plan, il: usize) {
        let name = |suffix: &str| format!("v.blk.{il}.{suffix}");
        let n_embd = self.n_embd;
        plan_layer_norm(model, &name("ln1"), n_embd);
        plan_layer_norm(model, &name("ln2"), n_embd);
        for projection in ["attn_q", "attn_k", "attn_v", "attn_out"] {
            plan_linear(model, &name(projection), n_embd, n_embd);
        }
        plan_linear(model, &name("ffn_up"), n_embd, self.n_ff);
        plan_linear(model, &name("ffn_down"), self.n_ff, n_embd);
    }

    fn plan_mlp(&self, model: &mut Plan) {
        let (n_in, n_hidden) = match self.kind {
            ProjectorKind::Llava => (self.n_embd, self.n_embd_out),
            // 2x2 patches become one token
            ProjectorKind::Qwen2Vl => (4 * self.n_embd, 4 * self.n_embd),
        };
        plan_linear(model, "mm.0", n_in, n_hidden);
        plan_linear(model, "mm.2", n_hidden, self.n_embd_out);
    }
}

fn plan_layer_norm(model: &mut Plan, name: &str, n: usize) {
    model.vector(format!("{name}.weight"), n, 1.0, 0.1);
    model.vector(format!("{name}.bias"), n, 0.0, 0.1);
}

fn plan_linear(model: &mut Plan, name: &str, n_in: usize, n_out: usize) {
    model.matrix(
        format!("{name}.weight"),
        n_in,
        n_out,
        1.0 / (n_in as f64).sqrt(),
        &[],
    );
    model.vector(format!("{name}.bias"), n_out, 0.0, 0.1);
}

/// Where a tensor's elements come from.
#[derive(Debug, Clone)]
struct Init {
    mean: f64,
    std: f64,
    zero_rows: Vec<usize>,
}

impl Init {
    fn normal(std: f64) -> Init {
        Init {
            mean: 0.0,
            std,
            zero_rows: Vec::new(),
        }
    }
}

/// A file that is about to be written.
struct Plan {
    seed: u64,
    ty: GgmlType,
    writer: GgufWriter,
    inits: HashMap<String, Init>,
}

impl Plan {
    fn new(seed: u64, ty: GgmlType) -> Plan {
        Plan {
            seed,
            ty,
            writer: GgufWriter::new(),
            inits: HashMap::new(),
        }
    }

    fn tensor(&mut self, name: impl Into<String>, dims: &[usize], ty: GgmlType, init: Init) {
        let name = name.into();
        self.writer.tensor(&name, dims, ty);
        self.inits.insert(name, init);
    }

    fn vector(&mut self, name: impl Into<String>, n: usize, mean: f64, std: f64) {
        self.tensor(
            name,
            &[n],
            GgmlType::F32,
            Init {
                mean,
                std,
                zero_rows: Vec::new(),
            },
        );
    }

    fn matrix(&mut self, name: impl Into<String>, n_in: usize, n_out: usize, std: f64, zero_rows: &[usize]) {
        let init = Init {
            zero_rows: zero_rows.to_vec(),
            ..Init::normal(std)
        };
        self.tensor(name, &[n_in, n_out], self.ty, init);
    }

    fn write(self, path: &Path) {
        let written = self.writer.write_file(path, |tensor| {
            let init = &self.inits[&tensor.name];
            let mut rng = Rng::named(self.seed, &tensor.name);
            let mut values: Vec<f32> = (0..tensor.n_elements())
                .map(|_| (init.mean + init.std * rng.normal()) as f32)
                .collect();
            for row in &init.zero_rows {
                values[row * tensor.dims[0]..][..tensor.dims[0]].fill(0.0);
            }
            values
        });
        written.expect("a random model can be written");
    }
}

fn file_type(ty: GgmlType) -> u32 {
    match ty {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q8_0 => 7,
        other => panic!(
            "random models are written as F32, F16 or Q8_0, not {}",
            other.name()
        ),
    }
}

/// The tokens `<unk>`, `<s>` and `</s>`.
pub const UNK: usize = 0;
pub const BOS: usize = 1;
pub const EOS: usize = 2;

/// LLaVA-1.5's template.
const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    {% if message['role'] == 'system' %}{{ message['content'] + ' ' }}\
    {% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}\
    {% else %}{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}\
    {% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}";

/// A token of a SentencePiece vocabulary.
struct Piece {
    text: String,
    score: f32,
    /// `llama.h: enum llama_token_type`
    kind: i32,
}

fn plan_tokenizer(writer: &mut GgufWriter) {
    let pieces = vocabulary();
    let texts: Vec<String> = pieces.iter().map(|piece| piece.text.clone()).collect();
    let scores: Vec<f32> = pieces.iter().map(|piece| piece.score).collect();
    let kinds: Vec<i32> = pieces.iter().map(|piece| piece.kind).collect();
    writer
        .set("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.pre", "default")
        .set("tokenizer.ggml.tokens", texts)
        .set("tokenizer.ggml.scores", scores)
        .set("tokenizer.ggml.token_type", kinds)
        .set("tokenizer.ggml.unknown_token_id", UNK as u32)
        .set("tokenizer.ggml.bos_token_id", BOS as u32)
        .set("tokenizer.ggml.eos_token_id", EOS as u32)
        .set("tokenizer.ggml.add_bos_token", true)
        .set("tokenizer.ggml.add_eos_token", false)
        .set("tokenizer.ggml.add_space_prefix", true)
        .set("tokenizer.chat_template", CHAT_TEMPLATE);
}

/// Control tokens, all bytes, a few words with every prefix of theirs (SentencePiece merges pairs), printable
/// ASCII.
fn vocabulary() -> Vec<Piece> {
    const NORMAL: i32 = 1;
    const UNKNOWN: i32 = 2;
    const CONTROL: i32 = 3;
    const BYTE: i32 = 6;
    let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
    let mut pieces: Vec<Piece> = special
        .map(|(text, kind)| Piece {
            text: text.to_owned(),
            score: 0.0,
            kind,
        })
        .into();
    pieces.extend((0..=255u8).map(|byte| Piece {
        text: format!("<0x{byte:02X}>"),
        score: 0.0,
        kind: BYTE,
    }));
    for (rank, text) in merged_pieces().into_iter().enumerate() {
        pieces.push(Piece {
            text,
            score: -(rank as f32),
            kind: NORMAL,
        });
    }
    pieces
}

fn merged_pieces() -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for word in [
        "\u{2581}USER:",
        "\u{2581}ASSISTANT:",
        "\u{2581}the",
        "\u{2581}what",
        "\u{2581}is",
        "\u{2581}in",
    ] {
        let ends = word.char_indices().map(|(i, c)| i + c.len_utf8()).skip(1);
        for prefix in ends.map(|end| &word[..end]) {
            if !pieces.iter().any(|piece| piece == prefix) {
                pieces.push(prefix.to_owned());
            }
        }
    }
    pieces.push("\u{2581}".to_owned());
    pieces.extend((33..127u8).map(|byte| char::from(byte).to_string()));
    pieces
}
