//! The method, literally: the `llama` architecture in double precision with attention weights `a[h][i][j]`
//! written out, and the three stages as the paper's text has them.
//!
//! Nothing is dropped here: every row runs through every layer, a key that is no longer there gets minus
//! infinity before softmax, and what comes out for a row that is no longer there is ignored. The decisions
//! are taken from the vectors `c_j` themselves. Nothing is shared with the crate's own policies and engine
//! but the configuration and the reader of the file.

mod math;
mod stages;

use std::ops::Range;
use std::path::Path;

use visipruner::gguf::{Gguf, f16_bits_to_f32, f32_to_f16_bits};
use visipruner::policy::config::{
    ExitCount, Layer0, ShallowMask, TokensThresholdUnit, VisiPrunerConfig, VisualSelfAttention,
};
use visipruner::policy::fixed::Schedule;
use visipruner::policy::{PolicyConfig, PromptLayout};

pub use math::argmax;
use math::{Matrix, add, dot, norm, rms_norm, softmax};
use stages::{Kind, Operator, kinds, operate, operator, visible};

/// One row of a prompt.
#[derive(Debug, Clone)]
pub enum Input {
    Token(usize),
    /// `[n_embd]`
    Embedding(Vec<f64>),
}

/// What keys and values are rounded to before attention sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvPrecision {
    Exact,
    F16,
}

/// What decides which vision tokens are there.
#[derive(Debug, Clone)]
pub enum Rule {
    Policy(PolicyConfig),
    /// The vision tokens of each layer, `[n_layer]`.
    Present(Vec<Vec<usize>>),
}

/// A model of the `llama` architecture.
pub struct Reference {
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub n_embd_head: usize,
    pub n_vocab: usize,
    pub kv_precision: KvPrecision,
    eps: f64,
    freq_base: f64,
    token_embd: Matrix,
    output_norm: Vec<f64>,
    output: Matrix,
    layers: Vec<Layer>,
}

struct Layer {
    attn_norm: Vec<f64>,
    wq: Matrix,
    wk: Matrix,
    wv: Matrix,
    wo: Matrix,
    ffn_norm: Vec<f64>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// What one layer holds of one row: keys and values, `[n_head_kv][n_embd_head]`.
#[derive(Debug, Clone)]
pub struct Cell {
    pub k: Vec<Vec<f64>>,
    pub v: Vec<Vec<f64>>,
}

/// What happened in one layer.
#[derive(Debug, Clone)]
pub struct LayerRun {
    /// Rows that are there, text and vision.
    pub n_rows: usize,
    /// The vision tokens that are there, ascending; `cos` and `norm` are parallel to it.
    pub tokens: Vec<usize>,
    /// `cos(o - c_j, o)`
    pub cos: Vec<f64>,
    /// `||c_j||`
    pub norm: Vec<f64>,
    /// `||o||`
    pub output_norm: f64,
    /// `o`, the last row's attention output before the output projection: `[n_head * n_embd_head]`
    pub output: Vec<f64>,
    /// The last row as it leaves the layer: `[n_embd]`
    pub hidden: Vec<f64>,
    /// `a[h][last][j]`, `[n_head][n_rows of the prompt]`, after the shallow operators.
    pub weights: Vec<Vec<f64>>,
    /// The cells that the cache holds after the prefill, by prompt row.
    pub cells: Vec<Option<Cell>>,
}

/// A prefill.
pub struct Run<'a> {
    reference: &'a Reference,
    /// `[n_layer]`
    pub layers: Vec<LayerRun>,
    pub fusion_layer: Option<usize>,
    /// The vision tokens that went on after the fusion layer.
    pub kept: Option<Vec<usize>>,
    /// The last layer with vision.
    pub exit_layer: Option<usize>,
    /// The logits of the last row, `[n_vocab]`.
    pub logits: Vec<f64>,
    /// How near any statistic came to the threshold that it was compared with, relative to the statistic's
    /// scale (`1 - cos` for cosines, the norm for norms): what an implementation may be wrong by without
    /// deciding otherwise.
    pub margin: f64,
}

/// What was generated after a prefill.
pub struct Decoded {
    pub tokens: Vec<usize>,
    /// The logits that each token was chosen from, `[n_tokens][n_vocab]`.
    pub logits: Vec<Vec<f64>>,
}

impl Reference {
    /// Reads a model whose tensors are F32, F16, BF16 or Q8_0.
    pub fn load(path: &Path) -> Reference {
        let gguf = Gguf::open(path).expect("the model opens");
        assert_eq!(gguf.str("general.architecture").unwrap(), "llama");
        let number = |key: &str| gguf.u32(&format!("llama.{key}")).unwrap() as usize;
        let vector = |name: &str| -> Vec<f64> {
            let elements = gguf.read_tensor_f32(name).unwrap_or_else(|e| panic!("{e}"));
            elements.into_iter().map(f64::from).collect()
        };
        let matrix = |name: &str| Matrix {
            n_in: gguf.tensor(name).expect(name).dims[0] as usize,
            elements: vector(name),
        };
        let n_layer = number("block_count");
        let (n_embd, n_head) = (number("embedding_length"), number("attention.head_count"));
        let layer = |il: usize| {
            let name = |suffix: &str| format!("blk.{il}.{suffix}.weight");
            Layer {
                attn_norm: vector(&name("attn_norm")),
                wq: matrix(&name("attn_q")),
                wk: matrix(&name("attn_k")),
                wv: matrix(&name("attn_v")),
                wo: matrix(&name("attn_output")),
                ffn_norm: vector(&name("ffn_norm")),
                gate: matrix(&name("ffn_gate")),
                up: matrix(&name("ffn_up")),
                down: matrix(&name("ffn_down")),
            }
        };
        let is_tied = gguf.tensor("output.weight").is_none();
        let token_embd = matrix("token_embd.weight");
        let n_embd_head = gguf
            .opt_u32("llama.attention.key_length")
            .unwrap()
            .map_or(n_embd / n_head, |n| n as usize);
        assert_eq!(
            gguf.opt_u32("llama.rope.dimension_count").unwrap(),
            Some(n_embd_head as u32)
        );
        Reference {
            n_layer,
            n_embd,
            n_head,
            n_head_kv: gguf
                .opt_u32("llama.attention.head_count_kv")
                .unwrap()
                .map_or(n_head, |n| n as usize),
            n_embd_head,
            n_vocab: token_embd.elements.len() / n_embd,
            kv_precision: KvPrecision::Exact,
            eps: gguf.f32("llama.attention.layer_norm_rms_epsilon").unwrap().into(),
            freq_base: gguf
                .opt_f32("llama.rope.freq_base")
                .unwrap()
                .map_or(10_000.0, f64::from),
            output_norm: vector("output_norm.weight"),
            output: matrix(if is_tied {
                "token_embd.weight"
            } else {
                "output.weight"
            }),
            token_embd,
            layers: (0..n_layer).map(layer).collect(),
        }
    }

    /// Runs a prompt.
    pub fn run(&self, prompt: &[Input], layout: &PromptLayout, rule: &Rule) -> Run<'_> {
        assert_eq!(prompt.len(), layout.n_rows);
        let kinds = kinds(layout);
        let mut hidden: Vec<Vec<f64>> = prompt.iter().map(|input| self.embed(input)).collect();
        let mut run = Run {
            reference: self,
            layers: Vec::new(),
            fusion_layer: None,
            kept: None,
            exit_layer: None,
            logits: Vec::new(),
            margin: f64::INFINITY,
        };
        let mut counted = 0;
        for il in 0..self.n_layer {
            let present = run.present(il, &kinds, rule);
            let layer = self.run_layer(il, &mut hidden, &kinds, &present, operator(rule, il));
            run.decide(il, &layer, rule, &mut counted);
            run.layers.push(layer);
        }
        run.evict_shallow(&kinds, rule);
        run.logits = self.logits(hidden.last().expect("a prompt has rows"));
        run
    }

    fn run_layer(
        &self,
        il: usize,
        hidden: &mut [Vec<f64>],
        kinds: &[Kind],
        present: &[bool],
        operator: Operator,
    ) -> LayerRun {
        let n_rows = hidden.len();
        let mut queries = Vec::new();
        let mut cells = Vec::new();
        for (i, x) in hidden.iter().enumerate() {
            let (q, cell) = self.project(il, x, i);
            queries.push(q);
            cells.push(cell);
        }
        let mut last = None;
        for i in 0..n_rows {
            let visible = visible(i, kinds, present, operator);
            let mut weights = self.attention_weights(&queries[i], &cells, &visible);
            weights.iter_mut().for_each(|a| operate(a, i, kinds, operator));
            let o = self.attention_output(&weights, &cells);
            hidden[i] = self.finish_layer(il, &hidden[i], &o);
            last = Some((weights, o));
        }
        let (weights, o) = last.expect("a prompt has rows");
        LayerRun {
            hidden: hidden[n_rows - 1].clone(),
            ..self.observe(weights, &o, cells, kinds, present)
        }
    }

    /// The contributions `c_j` of the vision tokens to the last row's output `o`, by their definition.
    fn observe(
        &self,
        weights: Vec<Vec<f64>>,
        o: &[f64],
        cells: Vec<Cell>,
        kinds: &[Kind],
        present: &[bool],
    ) -> LayerRun {
        let mut layer = LayerRun {
            n_rows: present.iter().filter(|&&is_present| is_present).count(),
            tokens: Vec::new(),
            cos: Vec::new(),
            norm: Vec::new(),
            output_norm: norm(o),
            output: o.to_vec(),
            hidden: Vec::new(),
            weights,
            cells: Vec::new(),
        };
        for (row, &kind) in kinds.iter().enumerate() {
            if let (Kind::Vision(token), true) = (kind, present[row]) {
                let c = self.contribution(&layer.weights, &cells, row);
                let rest: Vec<f64> = o.iter().zip(&c).map(|(o, c)| o - c).collect();
                layer.tokens.push(token);
                layer.cos.push(dot(&rest, o) / (norm(&rest) * norm(o)));
                layer.norm.push(norm(&c));
            }
        }
        layer.cells = cells
            .into_iter()
            .zip(present)
            .map(|(cell, &is_present)| is_present.then_some(cell))
            .collect();
        layer
    }

    /// `c_j = concat_h(a[h][last][j] * v[g(h)][j])`
    fn contribution(&self, weights: &[Vec<f64>], cells: &[Cell], j: usize) -> Vec<f64> {
        (0..self.n_head)
            .flat_map(|h| cells[j].v[self.kv_head(h)].iter().map(move |v| weights[h][j] * v))
            .collect()
    }

    /// The KV head that query head `h` uses.
    pub fn kv_head(&self, h: usize) -> usize {
        h / (self.n_head / self.n_head_kv)
    }

    pub fn embed(&self, input: &Input) -> Vec<f64> {
        match input {
            Input::Token(token) => self.token_embd.row(*token).to_vec(),
            Input::Embedding(row) => row.clone(),
        }
    }

    /// Queries `[n_head][n_embd_head]` and the cell of a row.
    pub fn project(&self, il: usize, x: &[f64], pos: usize) -> (Vec<Vec<f64>>, Cell) {
        let layer = &self.layers[il];
        let x = rms_norm(x, &layer.attn_norm, self.eps);
        let heads = |flat: Vec<f64>| -> Vec<Vec<f64>> {
            flat.chunks(self.n_embd_head).map(<[f64]>::to_vec).collect()
        };
        let rotated = |mut heads: Vec<Vec<f64>>| {
            heads.iter_mut().for_each(|head| self.rotate(head, pos));
            heads
        };
        let q = rotated(heads(layer.wq.apply(&x)));
        let k = rotated(heads(layer.wk.apply(&x)));
        let v = heads(layer.wv.apply(&x));
        (
            q,
            Cell {
                k: self.stored(k),
                v: self.stored(v),
            },
        )
    }

    /// RoPE on interleaved pairs.
    fn rotate(&self, head: &mut [f64], pos: usize) {
        let n = head.len() as f64;
        for (pair, xy) in head.chunks_exact_mut(2).enumerate() {
            let angle = pos as f64 * self.freq_base.powf(-2.0 * pair as f64 / n);
            let (sin, cos) = angle.sin_cos();
            (xy[0], xy[1]) = (xy[0] * cos - xy[1] * sin, xy[0] * sin + xy[1] * cos);
        }
    }

    fn stored(&self, heads: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let round = |x: f64| match self.kv_precision {
            KvPrecision::Exact => x,
            KvPrecision::F16 => f16_bits_to_f32(f32_to_f16_bits(x as f32)).into(),
        };
        heads
            .into_iter()
            .map(|head| head.into_iter().map(round).collect())
            .collect()
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

    /// The row that leaves the layer: output projection, residual, SwiGLU, residual.
    pub fn finish_layer(&self, il: usize, x: &[f64], o: &[f64]) -> Vec<f64> {
        let layer = &self.layers[il];
        let x = add(x, &layer.wo.apply(o));
        let normed = rms_norm(&x, &layer.ffn_norm, self.eps);
        let (gate, up) = (layer.gate.apply(&normed), layer.up.apply(&normed));
        let inner: Vec<f64> = gate
            .iter()
            .zip(&up)
            .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
            .collect();
        add(&x, &layer.down.apply(&inner))
    }

    /// `[n_vocab]`: what an attention output of layer `il` would say by itself.
    pub fn value_output_lens(&self, il: usize, o: &[f64]) -> Vec<f64> {
        self.logits(&self.layers[il].wo.apply(o))
    }

    pub fn logits(&self, x: &[f64]) -> Vec<f64> {
        self.output.apply(&rms_norm(x, &self.output_norm, self.eps))
    }
}
