//! The architectures, read from their files: what a layer makes of a row.

use std::path::Path;

use visipruner::gguf::{Array, Gguf, f16_bits_to_f32, f32_to_f16_bits};

use super::*;

/// A model of the architecture `llama`, `gemma3` or `qwen2vl`.
pub struct Reference {
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub n_embd_head: usize,
    pub n_vocab: usize,
    pub kv_precision: KvPrecision,
    /// Whether the tokens of an image see each other both ways, which is for the projector to say.
    pub both_ways: bool,
    eps: f64,
    freq_base: f64,
    rope: Rope,
    activation: Activation,
    /// What token embeddings are multiplied by.
    embd_scale: f64,
    /// Width of the sliding window.
    n_swa: usize,
    token_embd: Matrix,
    output_norm: Vec<f64>,
    output: Matrix,
    layers: Vec<Layer>,
}

/// Which elements of a head rotate together, and by which component of the position.
enum Rope {
    /// Neighbours.
    Interleaved,
    /// One of the first half and one of the second; so many pairs in turn by time, by y and by x, or all of them by time.
    Halves(Option<Position>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Activation {
    Silu,
    Gelu,
}

struct Layer {
    attn_norm: Vec<f64>,
    wq: Projection,
    wk: Projection,
    wv: Projection,
    q_norm: Option<Vec<f64>>,
    k_norm: Option<Vec<f64>>,
    wo: Matrix,
    post_attention_norm: Option<Vec<f64>>,
    ffn_norm: Vec<f64>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    post_ffw_norm: Option<Vec<f64>>,
    is_sliding: bool,
}

struct Projection {
    weight: Matrix,
    bias: Option<Vec<f64>>,
}

impl Projection {
    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let y = self.weight.apply(x);
        match &self.bias {
            Some(bias) => add(&y, bias),
            None => y,
        }
    }
}

/// The tensors and numbers of a file.
struct File {
    gguf: Gguf,
    arch: String,
}

impl File {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    fn number(&self, suffix: &str) -> usize {
        self.gguf.u32(&self.key(suffix)).unwrap() as usize
    }

    fn opt_number(&self, suffix: &str) -> Option<usize> {
        self.gguf.opt_u32(&self.key(suffix)).unwrap().map(|n| n as usize)
    }

    fn float(&self, suffix: &str) -> Option<f64> {
        self.gguf.opt_f32(&self.key(suffix)).unwrap().map(f64::from)
    }

    fn vector(&self, name: &str) -> Vec<f64> {
        let elements = self.gguf.read_tensor_f32(name).unwrap_or_else(|e| panic!("{e}"));
        elements.into_iter().map(f64::from).collect()
    }

    fn opt_vector(&self, name: &str) -> Option<Vec<f64>> {
        self.gguf.tensor(name).map(|_| self.vector(name))
    }

    fn matrix(&self, name: &str) -> Matrix {
        Matrix {
            n_in: self.gguf.tensor(name).expect(name).dims[0] as usize,
            elements: self.vector(name),
        }
    }

    fn projection(&self, name: &str) -> Projection {
        Projection {
            weight: self.matrix(&format!("{name}.weight")),
            bias: self.opt_vector(&format!("{name}.bias")),
        }
    }

    fn layer(&self, il: usize) -> Layer {
        let name = |suffix: &str| format!("blk.{il}.{suffix}");
        let weight = |suffix: &str| name(&format!("{suffix}.weight"));
        let sliding = self.key("attention.sliding_window_pattern");
        Layer {
            attn_norm: self.vector(&weight("attn_norm")),
            wq: self.projection(&name("attn_q")),
            wk: self.projection(&name("attn_k")),
            wv: self.projection(&name("attn_v")),
            q_norm: self.opt_vector(&weight("attn_q_norm")),
            k_norm: self.opt_vector(&weight("attn_k_norm")),
            wo: self.matrix(&weight("attn_output")),
            post_attention_norm: self.opt_vector(&weight("post_attention_norm")),
            ffn_norm: self.vector(&weight("ffn_norm")),
            gate: self.matrix(&weight("ffn_gate")),
            up: self.matrix(&weight("ffn_up")),
            down: self.matrix(&weight("ffn_down")),
            post_ffw_norm: self.opt_vector(&weight("post_ffw_norm")),
            is_sliding: self.flags(&sliding).is_some_and(|is_sliding| is_sliding[il]),
        }
    }

    fn flags(&self, key: &str) -> Option<Vec<bool>> {
        match self.gguf.opt_array(key).unwrap() {
            Some(Array::Bool(flags)) => Some(flags.clone()),
            _ => None,
        }
    }

    fn rope(&self) -> Rope {
        let sections = self.gguf.opt_array(&self.key("rope.dimension_sections")).unwrap();
        let sections = sections.and_then(Array::as_integers).map(|sections| {
            let n_pairs = |component: usize| sections[component] as usize;
            [n_pairs(0), n_pairs(1), n_pairs(2)]
        });
        match self.arch.as_str() {
            "llama" => Rope::Interleaved,
            "gemma3" => Rope::Halves(None),
            "qwen2vl" => Rope::Halves(Some(sections.expect("M-RoPE has sections"))),
            other => panic!("there is no literal implementation of {other}"),
        }
    }
}

impl Reference {
    /// Reads a model whose tensors are F32, F16, BF16 or Q8_0.
    pub fn load(path: &Path) -> Reference {
        let gguf = Gguf::open(path).expect("the model opens");
        let arch = gguf.str("general.architecture").unwrap().to_owned();
        let file = File { gguf, arch };
        let is_gemma = file.arch == "gemma3";
        let (n_embd, n_head) = (
            file.number("embedding_length"),
            file.number("attention.head_count"),
        );
        let (n_layer, token_embd) = (file.number("block_count"), file.matrix("token_embd.weight"));
        let n_embd_head = file.opt_number("attention.key_length").unwrap_or(n_embd / n_head);
        assert_eq!(file.opt_number("rope.dimension_count"), Some(n_embd_head));
        let is_tied = file.gguf.tensor("output.weight").is_none();
        Reference {
            n_layer,
            n_embd,
            n_head,
            n_head_kv: file.opt_number("attention.head_count_kv").unwrap_or(n_head),
            n_embd_head,
            n_vocab: token_embd.elements.len() / n_embd,
            kv_precision: KvPrecision::Exact,
            both_ways: false,
            eps: file.float("attention.layer_norm_rms_epsilon").unwrap(),
            freq_base: file.float("rope.freq_base").unwrap_or(10_000.0),
            rope: file.rope(),
            activation: if is_gemma {
                Activation::Gelu
            } else {
                Activation::Silu
            },
            embd_scale: if is_gemma { (n_embd as f64).sqrt() } else { 1.0 },
            n_swa: file.opt_number("attention.sliding_window").unwrap_or(0),
            output_norm: file.vector("output_norm.weight"),
            output: file.matrix(if is_tied {
                "token_embd.weight"
            } else {
                "output.weight"
            }),
            token_embd,
            layers: (0..n_layer).map(|il| file.layer(il)).collect(),
        }
    }

    /// The KV head that query head `h` uses.
    pub fn kv_head(&self, h: usize) -> usize {
        h / (self.n_head / self.n_head_kv)
    }

    pub fn embed(&self, input: &Input) -> Vec<f64> {
        match input {
            Input::Token(token) => {
                let row = self.token_embd.row(*token);
                row.iter().map(|x| x * self.embd_scale).collect()
            }
            Input::Embedding(row) => row.clone(),
        }
    }

    /// Queries `[n_head][n_embd_head]` and the cell of a row.
    pub fn project(&self, il: usize, x: &[f64], pos: Position) -> (Vec<Vec<f64>>, Cell) {
        let layer = &self.layers[il];
        let x = rms_norm(x, &layer.attn_norm, self.eps);
        let heads = |projection: &Projection| -> Vec<Vec<f64>> {
            let flat = projection.apply(&x);
            flat.chunks(self.n_embd_head).map(<[f64]>::to_vec).collect()
        };
        let rotated = |heads: Vec<Vec<f64>>, norm: &Option<Vec<f64>>| -> Vec<Vec<f64>> {
            let normed = heads.into_iter().map(|head| match norm {
                Some(weight) => rms_norm(&head, weight, self.eps),
                None => head,
            });
            normed.map(|head| self.rotate(head, pos)).collect()
        };
        let q = rotated(heads(&layer.wq), &layer.q_norm);
        let k = rotated(heads(&layer.wk), &layer.k_norm);
        let cell = Cell {
            k: self.stored(k),
            v: self.stored(heads(&layer.wv)),
        };
        (q, cell)
    }

    /// RoPE.
    fn rotate(&self, mut head: Vec<f64>, pos: Position) -> Vec<f64> {
        let n = head.len();
        for pair in 0..n / 2 {
            let (i, j, component) = match &self.rope {
                Rope::Interleaved => (2 * pair, 2 * pair + 1, 0),
                Rope::Halves(None) => (pair, pair + n / 2, 0),
                Rope::Halves(Some([time, y, _])) => {
                    let component = usize::from(pair >= *time) + usize::from(pair >= time + y);
                    (pair, pair + n / 2, component)
                }
            };
            let angle = pos[component] as f64 * self.freq_base.powf(-2.0 * pair as f64 / n as f64);
            let (sin, cos) = angle.sin_cos();
            (head[i], head[j]) = (head[i] * cos - head[j] * sin, head[i] * sin + head[j] * cos);
        }
        head
    }

    fn stored(&self, heads: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let round = |x: f64| match self.kv_precision {
            KvPrecision::Exact => x,
            KvPrecision::F16 => in_half_precision(x),
        };
        heads
            .into_iter()
            .map(|head| head.into_iter().map(round).collect())
            .collect()
    }

    /// Whether a query sees a key that far before it.
    pub fn is_in_window(&self, il: usize, query: Position, key: Position) -> bool {
        !self.layers[il].is_sliding || query[0] < key[0] + self.n_swa
    }

    /// `a[h][j]`: softmax over the visible keys, 0 for the others.
    pub fn attention_weights(&self, q: &[Vec<f64>], cells: &[Cell], visible: &[bool]) -> Vec<Vec<f64>> {
        let scale = 1.0 / (self.n_embd_head as f64).sqrt();
        let head = |h: usize| {
            let score = |j: usize| match visible.get(j) {
                Some(true) => scale * dot(&q[h], &cells[j].k[self.kv_head(h)]),
                _ => f64::NEG_INFINITY,
            };
            softmax((0..cells.len()).map(score).collect())
        };
        (0..self.n_head).map(head).collect()
    }

    /// `o = concat_h(sum_j a[h][j] * v[g(h)][j])`
    pub fn attention_output(&self, weights: &[Vec<f64>], cells: &[Cell]) -> Vec<f64> {
        let mut o = Vec::new();
        for (h, a) in weights.iter().enumerate() {
            let mut sum = vec![0.0; self.n_embd_head];
            for (a, cell) in a.iter().zip(cells) {
                if *a != 0.0 {
                    sum.iter_mut()
                        .zip(&cell.v[self.kv_head(h)])
                        .for_each(|(s, v)| *s += a * v);
                }
            }
            o.extend(sum);
        }
        o
    }

    /// The row that leaves the layer: output projection, residual, gated feed-forward network, residual.
    pub fn finish_layer(&self, il: usize, x: &[f64], o: &[f64]) -> Vec<f64> {
        let layer = &self.layers[il];
        let post = |y: Vec<f64>, norm: &Option<Vec<f64>>| match norm {
            Some(weight) => rms_norm(&y, weight, self.eps),
            None => y,
        };
        let x = add(x, &post(layer.wo.apply(o), &layer.post_attention_norm));
        let normed = rms_norm(&x, &layer.ffn_norm, self.eps);
        let (gate, up) = (layer.gate.apply(&normed), layer.up.apply(&normed));
        let inner: Vec<f64> = gate
            .iter()
            .zip(&up)
            .map(|(&g, u)| self.activation.of(g) * u)
            .collect();
        add(&x, &post(layer.down.apply(&inner), &layer.post_ffw_norm))
    }

    /// `[n_vocab]`: what an attention output of layer `il` would say by itself.
    pub fn value_output_lens(&self, il: usize, o: &[f64]) -> Vec<f64> {
        self.logits(&self.layers[il].wo.apply(o))
    }

    pub fn logits(&self, x: &[f64]) -> Vec<f64> {
        self.output.apply(&rms_norm(x, &self.output_norm, self.eps))
    }
}

impl Activation {
    fn of(self, x: f64) -> f64 {
        match self {
            Activation::Silu => x / (1.0 + (-x).exp()),
            // ggml looks it up in a table of half precision: that error is too large to be left to the tolerance.
            Activation::Gelu if x.abs() < 10.0 => in_half_precision(gelu(in_half_precision(x))),
            Activation::Gelu => x.max(0.0),
        }
    }
}

/// The approximation by a hyperbolic tangent.
fn gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    0.5 * x * (1.0 + inner.tanh())
}

fn in_half_precision(x: f64) -> f64 {
    f16_bits_to_f32(f32_to_f16_bits(x as f32)).into()
}
