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
    /// What was computed of `model.actual`, without the encoder: less where rows were there already.
    pub computed: u64,
}

/// One layer's work on `n` vision tokens as the paper counts it: `4nd^2 + 2n^2d + 3ndm` multiply-adds, with `d` the
/// width and `m` the width of the feed-forward layer. It knows no grouped queries.
pub fn paper_layer_ops(shape: &ModelShape, n: usize) -> u64 {
    let (d, m) = (shape.n_embd, shape.n_ff);
    sum([
        product([4, n, d, d]),
        product([2, n, n, d]),
        product([3, n, d, m]),
    ])
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
    let again = trace.replayed.map_or(0, |replay| {
        product([2, replay.n_rows, replay.n_layers]).saturating_mul(prompt.layer_weights())
    });
    let computed = sum(trace.layers.iter().map(|layer| prompt.computed(layer)));
    let head = product([2, shape.n_embd, shape.n_vocab]);
    let computed = sum([computed, again, head]);
    let images = layout.vision.iter().map(ExactSizeIterator::len);
    let encoder = vision.map_or(0, |vision| {
        sum(images.map(|n_tokens| encoder_flops(vision, n_tokens)))
    });
    let beside_layers = head.saturating_add(encoder);
    let pair = |dense, actual| DenseActual { dense, actual };
    Flops {
        paper: pair(dense.paper, actual.paper),
        model: pair(
            dense.model.saturating_add(beside_layers),
            actual.model.saturating_add(beside_layers),
        ),
        vision_attention: pair(dense.vision_attention, actual.vision_attention),
        computed,
    }
}

/// One image through the vision encoder and the projector: patch embedding, layers with full attention, projector.
pub fn encoder_flops(vision: &VisionShape, n_tokens: usize) -> u64 {
    let n_patches = n_tokens.saturating_mul(vision.n_patches_per_token);
    let n = n_patches.saturating_add(vision.n_extra_rows);
    let (d, m) = (vision.n_embd, vision.n_ff);
    let patch = product([3, n_patches, vision.patch_size, vision.patch_size, d]);
    let layers = [
        product([4, vision.n_layer, n, d, d]),
        product([vision.n_ff_matrices, vision.n_layer, n, d, m]),
        product([2, vision.n_layer, n, n, d]),
    ];
    let projector = product([n_tokens, vision.n_projector_weights]);
    sum([patch, sum(layers), projector]).saturating_mul(2)
}

/// As large as a number can be where it would be larger: sizes come from files, which may say anything.
fn product<const N: usize>(factors: [usize; N]) -> u64 {
    let factors = factors.into_iter().map(|factor| factor as u64);
    factors.fold(1, u64::saturating_mul)
}

/// As [`product`].
fn sum(terms: impl IntoIterator<Item = u64>) -> u64 {
    terms.into_iter().fold(0, u64::saturating_add)
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
                paper: sum([sums.paper, paper_layer_ops(self.shape, layer.vision.len())]),
                model: sum([sums.model, self.layer_flops(layer.n_rows, pairs)]),
                vision_attention: sum([sums.vision_attention, self.vision_attention(layer, pairs)]),
            }
        })
    }

    /// What a layer computed: of rows that were there nothing.
    fn computed(&self, layer: &LayerTrace) -> u64 {
        let all = Pairs::of(self.layout, self.causal_images, &layer.vision);
        let pairs = layer.resident.iter().fold(all, |pairs, rows| {
            pairs.without(self.layout, self.causal_images, &layer.vision, rows)
        });
        let n_resident = layer.resident.iter().map(ExactSizeIterator::len).sum();
        self.layer_flops(layer.n_rows.saturating_sub(n_resident), pairs)
    }

    /// One layer on so many rows: projections, feed-forward, scores and values.
    fn layer_flops(&self, n_rows: usize, pairs: Pairs) -> u64 {
        let n_pairs = sum([
            pairs.text_to_text,
            pairs.text_to_vision,
            pairs.vision_to_text,
            pairs.vision_to_vision,
        ]);
        let in_matrices = product([2, n_rows]).saturating_mul(self.layer_weights());
        sum([in_matrices, self.scores(n_pairs), self.values(n_pairs)])
    }

    /// Entries of one layer's matrices.
    fn layer_weights(&self) -> u64 {
        let s = self.shape;
        sum([
            product([s.n_embd, s.n_head, s.n_embd_head_k]),
            product([s.n_embd, s.n_head_kv, s.n_embd_head_k]),
            product([s.n_embd, s.n_head_kv, s.n_embd_head_v]),
            product([s.n_head, s.n_embd_head_v, s.n_embd]),
            product([3, s.n_embd, s.n_ff]),
        ])
    }

    fn vision_attention(&self, layer: &LayerTrace, pairs: Pairs) -> u64 {
        let n_text = pairs.text_to_vision;
        // Pairs whose score is needed, pairs whose value is.
        let (text_scores, text_values) = match layer.attention.text_to_vision {
            TextToVision::Keep => (n_text, n_text),
            TextToVision::Zero => (n_text, 0),
            TextToVision::ZeroFirstHalf => (n_text, n_text - pairs.text_to_first_half),
            TextToVision::MergeOntoFirst => (n_text, pairs.n_text_seeing),
            TextToVision::Mask => (0, 0),
        };
        let n_vision = pairs.vision_to_vision;
        let (vision_scores, vision_values) = match layer.attention.vision_to_vision {
            VisionToVision::Keep => (n_vision, n_vision),
            VisionToVision::Zero => (n_vision, 0),
            VisionToVision::Mask => (0, 0),
        };
        let n_scores = sum([text_scores, vision_scores, pairs.vision_to_text]);
        let n_values = sum([text_values, vision_values, pairs.vision_to_text]);
        sum([self.scores(n_scores), self.values(n_values)])
    }

    /// The scores of so many pairs, all query heads.
    fn scores(&self, n_pairs: u64) -> u64 {
        product([2, self.shape.n_head, self.shape.n_embd_head_k]).saturating_mul(n_pairs)
    }

    /// The shares of so many pairs in the output, all query heads.
    fn values(&self, n_pairs: u64) -> u64 {
        product([2, self.shape.n_head, self.shape.n_embd_head_v]).saturating_mul(n_pairs)
    }
}
