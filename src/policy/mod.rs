//! Which vision tokens go on, and where: the stage policies, in pure Rust.
//!
//! A policy is asked before layer 0 which vision tokens enter the model, before each layer what the layer does with
//! vision ([`LayerPlan`]) and, after a layer whose plan says so, which vision tokens go on ([`Decision`]). It sees prompt
//! rows, embeddings and a small statistic ([`Statistic`]), never tensors of the model.
//!
//! - [`config`]: the fields of a policy, their defaults and ranges, the TOML policy file, the list of policies.
//! - [`presets`]: policies for known models, chosen from a model's metadata.
//! - [`visipruner`], [`fixed`], [`vtw`], [`fastv`], [`pyramiddrop`], [`sparsevlm`]: policies that act between layers;
//!   [`rank`] is what the last three share.
//! - [`divprune`], [`random`], [`uniform`]: policies that act before layer 0; [`before`] is what they share, and
//!   [`composed`] puts one of them before one of the others.
//! - [`off`]: no policy; [`dense_staged`]: nothing is dropped, though all is run as if it might be.
//! - [`budget`]: how many vision tokens are kept.
//! - [`contribution`]: cosine and norm of a vision token's contribution, from the probe's sums.
//! - [`trace`]: what a prefill did, layer by layer.
//! - [`shape`]: the sizes of a model, from its metadata.
//! - [`cost`]: FLOPs and KV bytes of what was done, and of what a dense prefill would have done.
#![forbid(unsafe_code)]

pub mod before;
pub mod budget;
pub mod composed;
pub mod config;
pub mod contribution;
pub mod cost;
pub mod dense_staged;
pub mod divprune;
pub mod fastv;
pub mod fixed;
pub mod off;
pub mod presets;
pub mod pyramiddrop;
pub mod random;
pub mod rank;
pub mod shape;
pub mod sparsevlm;
pub mod trace;
pub mod uniform;
pub mod visipruner;
pub mod vtw;

mod embeddings;
mod skipped;
mod statistic;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use config::{PolicyConfig, PolicyError, PolicyOverrides};
pub use embeddings::{Embeddings, Needs};
pub use skipped::Skipped;
pub use statistic::{AttentionReading, ProbeReading, Reading, Statistic, largest};

/// What the name of a policy file ends with that stands beside a model.
pub const FILE_SUFFIX: &str = ".policy.toml";

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
        let spans = self.vision.iter().map(ExactSizeIterator::len);
        spans.fold(0, usize::saturating_add)
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

    /// Why no policy has anything to do on this prompt, if so: it has no image, or it ends in one.
    pub fn nothing_to_prune(&self) -> Option<Skipped> {
        if self.n_vision() == 0 {
            Some(Skipped::NoImage)
        } else if self.ends_in_image() {
            Some(Skipped::EndsInImage)
        } else {
            None
        }
    }

    /// The text rows of the prompt, ascending.
    pub fn text_rows(&self) -> Vec<Row> {
        let mut is_text = vec![true; self.n_rows];
        for span in &self.vision {
            // What lies beyond the prompt is no row of it.
            if let Some(rows) = is_text.get_mut(span.start..span.end.min(self.n_rows)) {
                rows.fill(false);
            }
        }
        (0..self.n_rows)
            .filter(|&row| is_text[row])
            .map(|row| Row(row as u32))
            .collect()
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
#[non_exhaustive]
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
    /// What is read from the layer, if anything.
    pub probe: Option<Statistic>,
    /// Ask for a [`Decision`] after this layer.
    pub decides: bool,
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
    /// The layer in which the picture is read: found by its contributions, or named by a schedule. It ran on all rows,
    /// the next one on those that mattered there. Policies that know no such layer leave it empty; what they drop is
    /// in the trace anyway.
    pub fusion_layer: Option<usize>,
    /// The last layer with vision rows: the layer whose count completed the exit, the fusion layer if it kept
    /// nothing, or the layer before the one from which a schedule drops vision.
    pub exit_layer: Option<usize>,
    /// Why no row was dropped, if none was.
    pub skipped: Option<Skipped>,
}

/// A policy for any prompt of any model: what a session is given. [`PolicyConfig`] is one; a program may bring its own.
pub trait Policy: Send + Sync {
    /// What reports call it.
    fn name(&self) -> String;

    /// The layers at which a model of `n_layer` layers may have to be cut, ascending, without 0: what the engine's KV
    /// cache groups are made from, before any prompt is known. Only there may what [`build`](Self::build) returns let
    /// fewer rows go on, read a layer, or treat one differently from the layer before, whatever the prompt.
    fn cuts(&self, n_layer: usize) -> Vec<usize>;

    /// Whether it acts before layer 0 and leaves all layers as they are: it then runs on every model, also on those that
    /// cannot be cut. Default: no.
    fn acts_before_model(&self) -> bool {
        false
    }

    /// Policies of equal keys do the same. Default: equal to no other policy's.
    fn key(&self) -> String {
        format!("{}@{:p}", self.name(), std::ptr::from_ref(self))
    }

    /// What it does to vision tokens before they meet a question: before layer 0, or among themselves. Policies of equal
    /// keys can share what was computed of a picture; empty: nothing. Default: equal to no other policy's.
    fn shared_key(&self) -> String {
        self.key()
    }

    /// The policy at work on one prompt, which has an image and ends in text (see [`begin`] for the others).
    ///
    /// # Errors
    /// A policy that cannot run on a model of `n_layer` layers; [`PolicyError::Custom`] for one's own words.
    fn build(&self, n_layer: usize, layout: &PromptLayout) -> Result<Box<dyn StagePolicy>, PolicyError>;
}

/// Puts a policy to work on a prompt. One without an image, or one that ends in an image, gets [`off::Off`] with the
/// reason.
///
/// # Errors
/// As [`Policy::build`].
pub fn begin(
    policy: &dyn Policy,
    n_layer: usize,
    layout: &PromptLayout,
) -> Result<Box<dyn StagePolicy>, PolicyError> {
    match layout.nothing_to_prune() {
        Some(reason) => Ok(Box::new(off::Off::because(reason))),
        None => policy.build(n_layer, layout),
    }
}

/// A policy at work on one prompt.
///
/// The engine calls [`start`](Self::start) at most once, for pictures that have not entered the model yet, then
/// [`begin`](Self::begin), then for each layer [`plan`](Self::plan), runs it, and calls [`decide`](Self::decide) once if the plan
/// said `decides`. Plans are asked for as often as the engine likes, also ahead of decisions that are still to come: layers
/// of the same plan may be run together, and those that a decision or another plan has overtaken are run again. What a policy
/// does not define leaves the model as it is.
pub trait StagePolicy: Send {
    /// The embeddings that [`start`](Self::start) and [`begin`](Self::begin) look at.
    fn needs_embeddings(&self) -> Needs {
        Needs::Nothing
    }

    /// Which vision tokens enter layer 0; the others are never computed. `present` are those that may: those of new
    /// pictures, or what another policy has left of them ([`composed`]). `embeddings` hold at least what is needed.
    fn start(&mut self, present: &[VisionIndex], embeddings: &Embeddings<'_>) -> Decision {
        let _ = (present, embeddings);
        Decision::KeepAll
    }

    /// A turn begins: `entered` are all vision tokens that have entered layer 0, now or for an earlier question.
    fn begin(&mut self, entered: &[VisionIndex], embeddings: &Embeddings<'_>) {
        let _ = (entered, embeddings);
    }

    /// The text rows whose attention [`Statistic::TextAttention`] averages, ascending. Asked after
    /// [`begin`](Self::begin).
    fn raters(&self) -> &[Row] {
        &[]
    }

    /// What layer `il` does.
    fn plan(&self, il: usize) -> LayerPlan {
        let _ = il;
        LayerPlan::default()
    }

    /// What goes on after layer `il`. `reading` is there if and only if the plan asked for a probe, and of the kind that
    /// it asked for.
    fn decide(&mut self, il: usize, reading: Option<&Reading>) -> Decision {
        let _ = (il, reading);
        Decision::KeepAll
    }

    /// The layers whose KV cells of vision tokens are forgotten once the prompt has run, as far as the model has them.
    fn evict_after_prefill(&self) -> Option<Range<usize>> {
        None
    }

    /// What it came to. Asked after the last layer.
    fn outcome(&self) -> Outcome;
}
