//! The method, literally: models in double precision with attention weights `a[h][i][j]` written out, the three
//! stages as the paper's text has them, and conversations turn by turn.
//!
//! Nothing is dropped here: every row runs through every layer, a key that is no longer there gets minus
//! infinity before softmax, and what comes out for a row that is no longer there is ignored. The decisions
//! are taken from the vectors `c_j` themselves. Nothing is shared with the crate's own policies and engine
//! but the configuration and the reader of the file.

mod math;
mod model;
mod ranking;
mod stages;
mod turns;

use std::collections::BTreeMap;
use std::ops::Range;

use visipruner::policy::config::{
    ExitCount, Layer0, ShallowMask, TokensThresholdUnit, VisiPrunerConfig, VisualSelfAttention,
};
use visipruner::policy::fixed::Schedule;
use visipruner::policy::{PolicyConfig, PromptLayout};

pub use math::argmax;
use math::{Matrix, add, dot, norm, rms_norm, softmax};
pub use model::Reference;
use stages::{Kind, Operator, kinds, operate, operator};

pub use turns::Conversation;

/// One row of a prompt.
#[derive(Debug, Clone)]
pub enum Input {
    Token(usize),
    /// `[n_embd]`
    Embedding(Vec<f64>),
}

/// Where a row is: time, y and x. The three are one but for vision tokens with M-RoPE.
pub type Position = [usize; 3];

/// Rows with what is known of them before anything runs.
#[derive(Debug, Clone)]
pub struct Prompt {
    pub inputs: Vec<Input>,
    pub layout: PromptLayout,
    pub pos: Vec<Position>,
    /// Of the row that follows.
    pub next_pos: usize,
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
    /// The vision tokens that are there, ascending; `attention`, `cos` and `norm` are parallel to it.
    pub tokens: Vec<usize>,
    /// `mean_h a[h][last][j]`
    pub attention: Vec<f64>,
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
    /// The vision tokens that entered layer 0.
    pub entered: Vec<usize>,
    /// The vision tokens that go on, wherever there are fewer than before and a layer is left to run: the layer after
    /// which that is, if any ran, and the tokens.
    pub drops: Vec<(Option<usize>, Vec<usize>)>,
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
    /// The vision tokens that are there.
    vision: Vec<usize>,
    /// Vision tokens of the prompt.
    n_vision: usize,
    pos: Vec<Position>,
    next_pos: usize,
}

/// What was generated after a prefill.
pub struct Decoded {
    pub tokens: Vec<usize>,
    /// The logits that each token was chosen from, `[n_tokens][n_vocab]`.
    pub logits: Vec<Vec<f64>>,
}

/// What the rows of a layer are, and which are there.
struct Scene<'a> {
    kinds: &'a [Kind],
    pos: &'a [Position],
    /// The last row that each one sees, if it is there.
    sees_until: &'a [usize],
    present: &'a [bool],
    operator: Operator,
    /// What the layer holds of text that was settled by earlier turns, by row: keys only.
    settled: &'a BTreeMap<usize, Cell>,
}

impl Prompt {
    pub fn new(inputs: &[Input], layout: &PromptLayout) -> Prompt {
        Prompt {
            inputs: inputs.to_vec(),
            layout: layout.clone(),
            pos: (0..inputs.len()).map(|row| [row; 3]).collect(),
            next_pos: inputs.len(),
        }
    }

    /// With M-RoPE. `grids` are columns and rows of each image: its tokens share their time, lie on a grid, and take as many
    /// positions as its longer side.
    pub fn with_grids(inputs: &[Input], layout: &PromptLayout, grids: &[(usize, usize)]) -> Prompt {
        let (mut pos, mut next_pos) = (Vec::new(), 0);
        let mut images = layout.vision.iter().zip(grids).peekable();
        while pos.len() < inputs.len() {
            match images.next_if(|(span, _)| span.start == pos.len()) {
                Some((span, &(n_cols, n_lines))) => {
                    let place = |i: usize| [next_pos, next_pos + i / n_cols, next_pos + i % n_cols];
                    pos.extend((0..span.len()).map(place));
                    next_pos += n_cols.max(n_lines);
                }
                None => {
                    pos.push([next_pos; 3]);
                    next_pos += 1;
                }
            }
        }
        Prompt {
            pos,
            next_pos,
            ..Prompt::new(inputs, layout)
        }
    }
}

impl Reference {
    /// Runs a prompt of one turn.
    pub fn run(&self, prompt: &[Input], layout: &PromptLayout, rule: &Rule) -> Run<'_> {
        Conversation::new(self, rule.clone()).ask(&Prompt::new(prompt, layout))
    }

    fn run_layer(&self, il: usize, hidden: &mut [Vec<f64>], scene: &Scene) -> LayerRun {
        let n_rows = hidden.len();
        let mut queries = BTreeMap::new();
        let mut cells = Vec::new();
        for (i, x) in hidden.iter().enumerate() {
            cells.push(match scene.settled.get(&i) {
                Some(cell) => cell.clone(),
                None => {
                    let (q, cell) = self.project(il, x, scene.pos[i]);
                    queries.insert(i, q);
                    cell
                }
            });
        }
        let mut last = None;
        for (i, q) in queries {
            let mut weights = self.attention_weights(&q, &cells, &self.visible(il, i, scene));
            weights
                .iter_mut()
                .for_each(|a| operate(a, i, scene.kinds, scene.operator));
            let o = self.attention_output(&weights, &cells);
            hidden[i] = self.finish_layer(il, &hidden[i], &o);
            last = Some((weights, o));
        }
        let (weights, o) = last.expect("a prompt has rows");
        LayerRun {
            hidden: hidden[n_rows - 1].clone(),
            ..self.observe(weights, &o, cells, scene)
        }
    }

    /// The contributions `c_j` of the vision tokens to the last row's output `o`, by their definition.
    fn observe(&self, weights: Vec<Vec<f64>>, o: &[f64], cells: Vec<Cell>, scene: &Scene) -> LayerRun {
        let present = scene.present;
        let mut layer = LayerRun {
            n_rows: present.iter().filter(|&&is_present| is_present).count(),
            tokens: Vec::new(),
            attention: Vec::new(),
            cos: Vec::new(),
            norm: Vec::new(),
            output_norm: norm(o),
            output: o.to_vec(),
            hidden: Vec::new(),
            weights,
            cells: Vec::new(),
        };
        for (row, &kind) in scene.kinds.iter().enumerate() {
            if let (Kind::Vision(token), true) = (kind, present[row]) {
                let c = self.contribution(&layer.weights, &cells, row);
                let rest: Vec<f64> = o.iter().zip(&c).map(|(o, c)| o - c).collect();
                let attention: f64 = layer.weights.iter().map(|head| head[row]).sum();
                layer.tokens.push(token);
                layer.attention.push(attention / self.n_head as f64);
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

    /// Which keys query `i` sees before softmax.
    fn visible(&self, il: usize, i: usize, scene: &Scene) -> Vec<bool> {
        let is_visible = |j: usize| {
            scene.present[j]
                && self.is_in_window(il, scene.pos[i], scene.pos[j])
                && !scene.operator.masks(scene.kinds[i], scene.kinds[j])
        };
        let mut visible: Vec<bool> = (0..=scene.sees_until[i]).map(is_visible).collect();
        // A row that sees nothing keeps itself; so does a row that is gone, whose result nobody sees.
        if !visible.contains(&true) {
            visible[i] = true;
        }
        visible
    }
}
