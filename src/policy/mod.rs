//! Which vision tokens go on, and where: the stage policies, in pure Rust.
//!
//! A policy is asked before each layer what the layer does with vision ([`LayerPlan`]) and, after a layer whose plan
//! says so, which vision tokens go on ([`Decision`]). It sees prompt rows and a small statistic, never tensors.
#![forbid(unsafe_code)]

use std::ops::Range;

/// Index of a token among all rows of the prompt (text and vision). It never changes while rows are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u32);

/// Index of a vision token among all vision tokens of the prompt, over all images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VisionIndex(pub u32);

/// Where the vision tokens sit in a prompt of `n_rows` tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptLayout {
    /// Tokens in the prompt, text and vision.
    pub n_rows: usize,
    /// The rows of each image, ascending and disjoint.
    pub vision: Vec<Range<usize>>,
}

/// What text and vision queries do with vision keys in one layer.
///
/// `Zero` and the merges act on the weights *after* softmax (the denominator is untouched), `Mask` before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VisionAttention {
    /// Queries: text rows that follow an image.
    pub text_to_vision: TextToVision,
    /// Queries: vision rows.
    pub vision_to_vision: VisionToVision,
}

/// What text queries do with vision keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// How vision keys are treated.
    pub attention: VisionAttention,
    /// Compute the contribution of each vision token to the last prompt token, see [`ProbeReading`].
    pub probe: bool,
    /// Ask for a [`Decision`] after this layer.
    pub decides: bool,
}

/// The contributions `c_j = concat_h(a[h][last][j] * v[g(h)][j])` of the vision tokens to the attention output `o` of
/// the last prompt token in one layer, as sums from which cosine and norm follow in closed form.
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

/// A policy at work on one prompt.
///
/// The engine calls [`plan`](Self::plan) with ascending layers, runs the layer, and calls
/// [`decide`](Self::decide) if the plan said `decides`.
pub trait StagePolicy {
    /// What layer `il` does.
    fn plan(&self, il: usize) -> LayerPlan;

    /// What goes on after layer `il`. `reading` is there if and only if the plan asked for a probe.
    fn decide(&mut self, il: usize, reading: Option<&ProbeReading>) -> Decision;

    /// The layers that may have to start with other rows than the layer before, or be treated differently from it,
    /// ascending, without 0: the engine cuts its graph and its KV cache there and nowhere else.
    fn boundaries(&self, n_layer: usize) -> Vec<usize>;
}
