//! FLOPs and KV bytes of a prefill, and of the same prefill without pruning.
//!
//! Three counts, each with its own definition; none of them is measured:
//!
//! - **paper**: the formula of the paper's tables, [`paper_layer_ops`]. Vision tokens only, multiply-adds.
//! - **model**: what runs. All rows of all layers, grouped queries, the output head for one row, and the vision
//!   encoder with its projector; 2 FLOPs per multiply-add. Masked weights are counted, because the rows run.
//! - **vision attention**: the part of attention that concerns vision, as far as the masks of the shallow stage leave
//!   it; 2 FLOPs per multiply-add. A pair of a query and a key that it may see counts if either is a vision token.
//!   Its score costs `n_embd_head_k` multiply-adds per query head, its share of the output `n_embd_head_v`. A weight
//!   masked before softmax needs neither; one zeroed after softmax still needs the score; merged weights need all
//!   scores, but only one value per query.
//!
//! Normalisation, softmax, rotary positions and embedding lookup are left out, as usual. Generated tokens are not
//! part of these counts.

use serde::{Deserialize, Serialize};

use super::shape::{ModelShape, VisionShape};
use super::trace::{LayerTrace, PrefillTrace};
use super::{PromptLayout, TextToVision, VisionIndex, VisionToVision};

/// A count without pruning and as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DenseActual {
    /// Without pruning.
    pub dense: u64,
    /// As it was.
    pub actual: u64,
}

impl DenseActual {
    /// `actual / dense`, `None` if there was nothing to count.
    pub fn ratio(self) -> Option<f64> {
        (self.dense > 0).then(|| self.actual as f64 / self.dense as f64)
    }
}

/// The three counts of a prefill, see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flops {
    /// The paper's formula, in multiply-adds.
    pub paper: DenseActual,
    /// What runs, in FLOPs.
    pub model: DenseActual,
    /// Attention that concerns vision, in FLOPs.
    pub vision_attention: DenseActual,
}

/// Bytes of keys and values that the prompt occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KvBytes {
    /// Without pruning: every layer holds every row.
    pub dense: u64,
    /// As it is after the prefill.
    pub actual: u64,
}

impl KvBytes {
    /// From the cells that each layer holds and the bytes of one cell of each layer.
    pub fn of(n_rows: usize, n_cells: &[usize], cell_bytes: &[usize]) -> Self {
        let total = |cells: &mut dyn Iterator<Item = usize>| {
            cells
                .zip(cell_bytes)
                .map(|(cells, &bytes)| cells as u64 * bytes as u64)
                .sum()
        };
        Self {
            dense: total(&mut n_cells.iter().map(|_| n_rows)),
            actual: total(&mut n_cells.iter().copied()),
        }
    }
}

/// One layer's work on `n` vision tokens as the paper counts it: `4nd^2 + 2n^2d + 3ndm` multiply-adds, with `d` the
/// width and `m` the width of the feed-forward layer. It knows no grouped queries.
pub fn paper_layer_ops(shape: &ModelShape, n: usize) -> u64 {
    let (n, d, m) = (n as u64, shape.n_embd as u64, shape.n_ff as u64);
    4 * n * d * d + 2 * n * n * d + 3 * n * d * m
}

/// The counts of a prefill.
///
/// `vision` is the encoder that made the prompt's vision tokens, if any; `causal_images` says whether an image's rows
/// see only what precedes them.
pub fn prefill_flops(
    shape: &ModelShape,
    vision: Option<&VisionShape>,
    layout: &PromptLayout,
    causal_images: bool,
    trace: &PrefillTrace,
) -> Flops {
    let prompt = Prompt {
        shape,
        layout,
        causal_images,
    };
    let dense = prompt.layers(&vec![LayerTrace::dense(layout); trace.layers.len()]);
    let actual = prompt.layers(&trace.layers);
    let head = 2 * (shape.n_embd * shape.n_vocab) as u64;
    let encoder: u64 = vision.map_or(0, |vision| {
        layout
            .vision
            .iter()
            .map(|span| encoder_flops(vision, span.len()))
            .sum()
    });
    let pair = |dense, actual| DenseActual { dense, actual };
    Flops {
        paper: pair(dense.paper, actual.paper),
        model: pair(dense.model + head + encoder, actual.model + head + encoder),
        vision_attention: pair(dense.vision_attention, actual.vision_attention),
    }
}

/// One image through the vision encoder and the projector: patch embedding, layers with full attention, projector.
pub fn encoder_flops(vision: &VisionShape, n_tokens: usize) -> u64 {
    let n_patches = (n_tokens * vision.n_patches_per_token) as u64;
    let n = n_patches + vision.n_extra_rows as u64;
    let (d, m) = (vision.n_embd as u64, vision.n_ff as u64);
    let patch = n_patches * 3 * (vision.patch_size * vision.patch_size) as u64 * d;
    let layer = n * (4 * d * d + vision.n_ff_matrices as u64 * d * m) + 2 * n * n * d;
    let projector = (n_tokens * vision.n_projector_weights) as u64;
    2 * (patch + vision.n_layer as u64 * layer + projector)
}

/// Sums over layers.
#[derive(Default)]
struct Sums {
    paper: u64,
    model: u64,
    vision_attention: u64,
}

/// What all layers of a prompt have in common.
struct Prompt<'a> {
    shape: &'a ModelShape,
    layout: &'a PromptLayout,
    causal_images: bool,
}

/// Pairs of a query and a key that it may see, in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Pairs {
    text_to_text: u64,
    text_to_vision: u64,
    /// Those of `text_to_vision` whose key is in the first half of all vision tokens.
    text_to_first_half: u64,
    vision_to_text: u64,
    vision_to_vision: u64,
    /// Text queries that see any vision.
    n_text_seeing: u64,
}

impl Prompt<'_> {
    fn layers(&self, layers: &[LayerTrace]) -> Sums {
        layers.iter().fold(Sums::default(), |sums, layer| {
            let pairs = self.pairs(&layer.vision);
            Sums {
                paper: sums.paper + paper_layer_ops(self.shape, layer.vision.len()),
                model: sums.model + self.layer_flops(layer.n_rows as u64, pairs),
                vision_attention: sums.vision_attention + self.vision_attention(layer, pairs),
            }
        })
    }

    /// One layer on so many rows: projections, feed-forward, scores and values.
    fn layer_flops(&self, n_rows: u64, pairs: Pairs) -> u64 {
        let s = self.shape;
        let weights = s.n_embd
            * (s.n_head * s.n_embd_head_k + s.n_head_kv * (s.n_embd_head_k + s.n_embd_head_v))
            + s.n_head * s.n_embd_head_v * s.n_embd
            + 3 * s.n_embd * s.n_ff;
        let n_pairs = pairs.text_to_text
            + pairs.text_to_vision
            + pairs.vision_to_text
            + pairs.vision_to_vision;
        2 * n_rows * weights as u64 + n_pairs * (self.score_flops() + self.value_flops())
    }

    fn vision_attention(&self, layer: &LayerTrace, pairs: Pairs) -> u64 {
        let (score, value) = (self.score_flops(), self.value_flops());
        let text = match layer.attention.text_to_vision {
            TextToVision::Keep => pairs.text_to_vision * (score + value),
            TextToVision::Zero => pairs.text_to_vision * score,
            TextToVision::ZeroFirstHalf => {
                pairs.text_to_vision * score
                    + (pairs.text_to_vision - pairs.text_to_first_half) * value
            }
            TextToVision::MergeOntoFirst => {
                pairs.text_to_vision * score + pairs.n_text_seeing * value
            }
            TextToVision::Mask => 0,
        };
        let vision = match layer.attention.vision_to_vision {
            VisionToVision::Keep => pairs.vision_to_vision * (score + value),
            VisionToVision::Zero => pairs.vision_to_vision * score,
            VisionToVision::Mask => 0,
        };
        text + vision + pairs.vision_to_text * (score + value)
    }

    /// The score of one pair, all query heads.
    fn score_flops(&self) -> u64 {
        2 * (self.shape.n_head * self.shape.n_embd_head_k) as u64
    }

    /// One pair's share of the output, all query heads.
    fn value_flops(&self) -> u64 {
        2 * (self.shape.n_head * self.shape.n_embd_head_v) as u64
    }

    /// Counts the pairs by walking the rows in order.
    fn pairs(&self, present: &[VisionIndex]) -> Pairs {
        let first_half = self.layout.n_vision() / 2;
        let mut pairs = Pairs::default();
        let (mut n_text, mut n_seen, mut n_seen_first_half, mut index) = (0, 0, 0, 0);
        let mut row = 0;
        let mut text_rows = |pairs: &mut Pairs, n: u64, seen: u64, seen_first_half: u64| {
            pairs.text_to_text += n * n_text + n * (n + 1) / 2;
            pairs.text_to_vision += n * seen;
            pairs.text_to_first_half += n * seen_first_half;
            pairs.n_text_seeing += if seen > 0 { n } else { 0 };
            n_text += n;
            n_text
        };
        for span in &self.layout.vision {
            let n_text = text_rows(
                &mut pairs,
                (span.start - row) as u64,
                n_seen,
                n_seen_first_half,
            );
            let tokens = index..index + span.len();
            let in_image = || {
                present
                    .iter()
                    .map(|token| token.0 as usize)
                    .filter(|token| tokens.contains(token))
            };
            let n = in_image().count() as u64;
            pairs.vision_to_text += n * n_text;
            pairs.vision_to_vision += n * n_seen
                + if self.causal_images {
                    n * (n + 1) / 2
                } else {
                    n * n
                };
            n_seen += n;
            n_seen_first_half += in_image().filter(|&token| token < first_half).count() as u64;
            index = tokens.end;
            row = span.end;
        }
        text_rows(
            &mut pairs,
            (self.layout.n_rows - row) as u64,
            n_seen,
            n_seen_first_half,
        );
        pairs
    }
}
