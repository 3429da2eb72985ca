//! Which vision tokens go on, and where: the stage policies, in pure Rust.
//!
//! A policy is asked before each layer what the layer does with vision ([`LayerPlan`]) and, after a layer whose plan
//! says so, which vision tokens go on ([`Decision`]). It sees prompt rows and a small statistic, never tensors.
//!
//! - [`config`]: the fields of a policy, their defaults and ranges, the TOML policy file.
//! - [`presets`]: policies for known models, chosen from a model's metadata.
//! - [`visipruner`], [`fixed`], [`off`]: the policies.
//! - [`contribution`]: cosine and norm of a vision token's contribution, from the probe's sums.
//! - [`trace`]: what a prefill did, layer by layer.
//! - [`shape`]: the sizes of a model, from its metadata.
//! - [`cost`]: FLOPs and KV bytes of what was done, and of what a dense prefill would have done.
#![forbid(unsafe_code)]

pub mod config;
pub mod contribution;
pub mod cost;
pub mod fixed;
pub mod off;
pub mod presets;
pub mod shape;
pub mod trace;
pub mod visipruner;

mod skipped;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use config::{PolicyConfig, PolicyError, PolicyOverrides};
pub use skipped::Skipped;

/// Index of a token among all rows of the prompt (text and vision). It never changes while rows are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Row(pub u32);

/// Index of a vision token among all vision tokens of the prompt, over all images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VisionIndex(pub u32);

/// Where the vision tokens sit in a prompt of `n_rows` tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromptLayout {
    /// Tokens in the prompt, text and vision.
    pub n_rows: usize,
    /// The rows of each image, ascending and disjoint.
    pub vision: Vec<Range<usize>>,
}

impl PromptLayout {
    /// Number of vision tokens, over all images.
    pub fn n_vision(&self) -> usize {
        self.vision.iter().map(ExactSizeIterator::len).sum()
    }

    /// The prompt row of every vision token: entry `j` is the row of `VisionIndex(j)`.
    pub fn vision_rows(&self) -> Vec<Row> {
        self.vision
            .iter()
            .flat_map(Clone::clone)
            .map(|row| Row(row as u32))
            .collect()
    }

    /// Whether the last token of the prompt, the one that is probed and gives the logits, belongs to an image.
    pub fn ends_in_image(&self) -> bool {
        self.n_rows > 0 && self.vision.iter().any(|span| span.contains(&(self.n_rows - 1)))
    }

    /// Whether the image spans are ascending, disjoint, not empty and inside the prompt.
    pub fn is_well_formed(&self) -> bool {
        let mut end = 0;
        for span in &self.vision {
            if span.start < end || span.is_empty() {
                return false;
            }
            end = span.end;
        }
        end <= self.n_rows && u32::try_from(self.n_rows).is_ok()
    }
}

/// The part of the method that a layer belongs to, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// All rows, ordinary attention, nothing to decide.
    #[default]
    Dense,
    /// Attention to vision is cut down, all rows go on.
    Shallow,
    /// The layer is searched for the fusion of the image, up to and including the fusion layer.
    Middle,
    /// After the fusion layer, while vision rows are left.
    Deep,
    /// No vision rows are left.
    Text,
}

/// What text and vision queries do with vision keys in one layer.
///
/// `Zero` and the merges act on the weights *after* softmax (the denominator is untouched), `Mask` before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct VisionAttention {
    /// Queries: text rows that follow an image.
    pub text_to_vision: TextToVision,
    /// Queries: vision rows.
    pub vision_to_vision: VisionToVision,
}

impl VisionAttention {
    /// Whether this is ordinary attention.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// What text queries do with vision keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextToVision {
    /// Ordinary attention.
    #[default]
    Keep,
    /// Weights zeroed after softmax.
    Zero,
    /// Weights on the first half of all vision tokens zeroed after softmax.
    ZeroFirstHalf,
    /// Weights summed onto the first vision token after softmax.
    MergeOntoFirst,
    /// Keys masked before softmax.
    Mask,
}

/// What vision queries do with vision keys (their own among them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisionToVision {
    /// Ordinary attention.
    #[default]
    Keep,
    /// Weights zeroed after softmax.
    Zero,
    /// Keys masked before softmax; a row that would see nothing at all keeps itself.
    Mask,
}

/// What one layer does, asked before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerPlan {
    /// Which part of the method this is.
    pub stage: Stage,
    /// How vision keys are treated.
    pub attention: VisionAttention,
    /// Compute the contribution of each vision token to the last prompt token, see [`ProbeReading`].
    pub probe: bool,
    /// Ask for a [`Decision`] after this layer.
    pub decides: bool,
}

/// The contributions `c_j = concat_h(a[h][last][j] * v[g(h)][j])` of the vision tokens to the attention output `o` of
/// the last prompt token in one layer, as sums from which cosine and norm follow in closed form (see
/// [`contribution`]).
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReading {
    /// The vision tokens still present, ascending; the other vectors are parallel to it.
    pub tokens: Vec<VisionIndex>,
    /// `||c_j||^2`
    pub norm2: Vec<f64>,
    /// `o . c_j`
    pub dot: Vec<f64>,
    /// `||o||^2`
    pub output_norm2: f64,
}

/// Which vision tokens go on to the next layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// All that are present.
    KeepAll,
    /// Only these, ascending. Empty means that vision is gone.
    Keep(Vec<VisionIndex>),
}

/// What a policy came to, asked after the last layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// The layer that the kept set was taken from. It ran on all rows; the next layer is the first with fewer.
    pub fusion_layer: Option<usize>,
    /// The last layer with vision rows: the layer whose count completed the exit, the fusion layer if it kept
    /// nothing, or the layer before the one from which a schedule drops vision.
    pub exit_layer: Option<usize>,
    /// Why no row was dropped, if none was.
    pub skipped: Option<Skipped>,
}

/// A policy at work on one prompt.
///
/// The engine calls [`plan`](Self::plan) with layers that never descend (it may ask for a layer again), runs the
/// layer, and calls [`decide`](Self::decide) once if the plan said `decides`.
pub trait StagePolicy {
    /// What layer `il` does.
    fn plan(&self, il: usize) -> LayerPlan;

    /// What goes on after layer `il`. `reading` is there if and only if the plan asked for a probe.
    fn decide(&mut self, il: usize, reading: Option<&ProbeReading>) -> Decision;

    /// The layers that may have to start with other rows than the layer before, or be treated differently from it,
    /// ascending, without 0: the engine cuts its graph and its KV cache there and nowhere else.
    fn boundaries(&self, n_layer: usize) -> Vec<usize>;

    /// The layers whose KV cells of vision tokens are forgotten once the prompt has run.
    fn evict_after_prefill(&self) -> Option<Range<usize>> {
        None
    }

    /// What it came to. Asked after the last layer.
    fn outcome(&self) -> Outcome;
}
