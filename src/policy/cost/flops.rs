//! FLOPs of layers, output head and vision encoder, as the [module above](super) defines them.

use super::pairs::Pairs;
use crate::policy::shape::{ModelShape, VisionShape};
use crate::policy::trace::{LayerTrace, PrefillTrace};
use crate::policy::{PromptLayout, TextToVision, VisionToVision};

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

/// The three counts of a prefill, see the [module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flops {
    /// The paper's formula, in multiply-adds.
    pub paper: DenseActual,
    /// What runs, in FLOPs.
    pub model: DenseActual,
    /// Attention that concerns vision, in FLOPs.
    pub vision_attention: DenseActual,
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

impl Prompt<'_> {
    fn layers(&self, layers: &[LayerTrace]) -> Sums {
        layers.iter().fold(Sums::default(), |sums, layer| {
            let pairs = Pairs::of(self.layout, self.causal_images, &layer.vision);
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
        let n_pairs =
            pairs.text_to_text + pairs.text_to_vision + pairs.vision_to_text + pairs.vision_to_vision;
        2 * n_rows * weights as u64 + n_pairs * (self.score_flops() + self.value_flops())
    }

    fn vision_attention(&self, layer: &LayerTrace, pairs: Pairs) -> u64 {
        let (score, value) = (self.score_flops(), self.value_flops());
        let text = match layer.attention.text_to_vision {
            TextToVision::Keep => pairs.text_to_vision * (score + value),
            TextToVision::Zero => pairs.text_to_vision * score,
            TextToVision::ZeroFirstHalf => {
                pairs.text_to_vision * score + (pairs.text_to_vision - pairs.text_to_first_half) * value
            }
            TextToVision::MergeOntoFirst => pairs.text_to_vision * score + pairs.n_text_seeing * value,
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
}
