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
            let n_text = text_rows(&mut pairs, (span.start - row) as u64, n_seen, n_seen_first_half);
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

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of image spans, of which there is one"
)]
mod tests {
    use super::*;
    use crate::policy::{Skipped, Stage, VisionAttention};

    fn llava_7b() -> ModelShape {
        ModelShape {
            n_layer: 32,
            n_embd: 4096,
            n_head: 32,
            n_head_kv: 32,
            n_embd_head_k: 128,
            n_embd_head_v: 128,
            n_ff: 11008,
            n_vocab: 32000,
            ..ModelShape::default()
        }
    }

    /// Grouped queries, and heads whose widths do not follow from the model's.
    fn small() -> ModelShape {
        ModelShape {
            n_layer: 3,
            n_embd: 10,
            n_head: 4,
            n_head_kv: 2,
            n_embd_head_k: 3,
            n_embd_head_v: 5,
            n_ff: 7,
            n_vocab: 11,
            ..ModelShape::default()
        }
    }

    fn two_images() -> PromptLayout {
        PromptLayout {
            n_rows: 12,
            vision: vec![2..5, 7..10],
        }
    }

    fn dense(layout: &PromptLayout, n_layer: usize) -> PrefillTrace {
        PrefillTrace::dense(layout, n_layer, Skipped::Off)
    }

    #[test]
    fn the_paper_counts_3_82_tera_for_llava_7b() {
        let layout = PromptLayout {
            n_rows: 624,
            vision: vec![35..611],
        };
        let flops = prefill_flops(&llava_7b(), None, &layout, true, &dense(&layout, 32));
        assert_eq!(flops.paper.dense, 3_817_152_184_320);
        assert_eq!((flops.paper.dense as f64 / 1e10).round() / 100.0, 3.82);
        // Two per weight and row, without the embedding table: about 2 * 6.6e9 * 624.
        let weights = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008);
        let attention = 32 * 624 * 625 / 2 * 4 * 4096;
        assert_eq!(
            flops.model.dense,
            2 * 624 * weights + attention + 2 * 4096 * 32000
        );
        assert_eq!(
            flops.model,
            DenseActual {
                dense: flops.model.dense,
                actual: flops.model.dense
            }
        );
    }

    #[test]
    fn grouped_queries_shrink_keys_and_values_only() {
        let layout = PromptLayout {
            n_rows: 2,
            vision: Vec::new(),
        };
        let flops = prefill_flops(&small(), None, &layout, true, &dense(&layout, 1));
        // Wq 10x12, Wk 10x6, Wv 10x10, Wo 20x10, three of 10x7; three pairs of 4 heads at 3 + 5; head 10x11.
        let weights = 120 + 60 + 100 + 200 + 210;
        assert_eq!(flops.model.dense, 2 * (2 * weights + 3 * 4 * 8 + 110));
        assert_eq!(flops.vision_attention, DenseActual::default());
        assert_eq!((flops.paper.dense, flops.paper.ratio()), (0, None));
    }

    /// Pairs counted one by one, from the rows.
    fn count_pairs(layout: &PromptLayout, present: &[VisionIndex], causal_images: bool) -> Pairs {
        let vision_rows = layout.vision_rows();
        let index = |row: usize| vision_rows.iter().position(|vision| vision.0 as usize == row);
        let image = |row: usize| layout.vision.iter().position(|span| span.contains(&row));
        let is_present = |row: &usize| index(*row).is_none_or(|j| present.contains(&VisionIndex(j as u32)));
        let rows: Vec<usize> = (0..layout.n_rows).filter(is_present).collect();
        let mut pairs = Pairs::default();
        for &query in &rows {
            let mut sees_vision = false;
            for &key in &rows {
                let both_ways = !causal_images && image(query).is_some() && image(query) == image(key);
                if key > query && !both_ways {
                    continue;
                }
                match (index(query), index(key)) {
                    (None, None) => pairs.text_to_text += 1,
                    (Some(_), None) => pairs.vision_to_text += 1,
                    (Some(_), Some(_)) => pairs.vision_to_vision += 1,
                    (None, Some(j)) => {
                        pairs.text_to_vision += 1;
                        pairs.text_to_first_half += u64::from(j < vision_rows.len() / 2);
                        sees_vision = true;
                    }
                }
            }
            pairs.n_text_seeing += u64::from(sees_vision);
        }
        pairs
    }

    #[test]
    fn pairs_are_those_that_may_see_each_other() {
        let layouts = [
            two_images(),
            PromptLayout {
                n_rows: 5,
                vision: Vec::new(),
            },
            PromptLayout {
                n_rows: 9,
                vision: vec![0..4],
            },
            PromptLayout {
                n_rows: 9,
                vision: vec![1..4, 4..8],
            },
        ];
        for layout in &layouts {
            for present in [&[0, 1, 2, 3, 4, 5, 6][..], &[0, 2, 5], &[3], &[]] {
                let n = layout.n_vision() as u32;
                let present: Vec<_> = present
                    .iter()
                    .copied()
                    .filter(|&j| j < n)
                    .map(VisionIndex)
                    .collect();
                for causal_images in [true, false] {
                    let prompt = Prompt {
                        shape: &small(),
                        layout,
                        causal_images,
                    };
                    assert_eq!(
                        prompt.pairs(&present),
                        count_pairs(layout, &present, causal_images),
                        "{layout:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn masks_leave_the_work_that_their_operator_needs() {
        let (layout, shape) = (two_images(), small());
        let of = |text_to_vision, vision_to_vision| {
            let attention = VisionAttention {
                text_to_vision,
                vision_to_vision,
            };
            let mut trace = dense(&layout, 1);
            trace.layers[0] = LayerTrace {
                stage: Stage::Shallow,
                attention,
                ..LayerTrace::dense(&layout)
            };
            let flops = prefill_flops(&shape, None, &layout, true, &trace);
            assert_eq!(flops.model.actual, flops.model.dense);
            flops.vision_attention.actual
        };
        let pairs = count_pairs(&layout, &dense(&layout, 1).layers[0].vision, true);
        let (score, value) = (2 * 4 * 3, 2 * 4 * 5);
        let text_to_vision = |per_pair: u64| pairs.text_to_vision * per_pair;
        let rest = (pairs.vision_to_vision + pairs.vision_to_text) * (score + value);
        let vision = VisionToVision::Keep;
        assert_eq!(
            of(TextToVision::Keep, vision),
            text_to_vision(score + value) + rest
        );
        assert_eq!(of(TextToVision::Zero, vision), text_to_vision(score) + rest);
        assert_eq!(of(TextToVision::Mask, vision), rest);
        // Rows 5, 6 see three vision tokens, rows 10, 11 six; three of all six are the first half.
        assert_eq!(
            of(TextToVision::MergeOntoFirst, vision),
            text_to_vision(score) + 4 * value + rest
        );
        assert_eq!(
            of(TextToVision::ZeroFirstHalf, vision),
            text_to_vision(score) + 6 * value + rest
        );
        let text = TextToVision::Mask;
        assert_eq!(
            of(text, VisionToVision::Mask),
            pairs.vision_to_text * (score + value)
        );
        assert_eq!(
            of(text, VisionToVision::Zero),
            pairs.vision_to_text * (score + value) + pairs.vision_to_vision * score
        );
    }

    #[test]
    fn dropped_rows_cost_nothing() {
        let layout = two_images();
        let mut trace = dense(&layout, 3);
        let kept = vec![VisionIndex(1), VisionIndex(4)];
        trace.layers[1] = LayerTrace {
            n_rows: 8,
            vision: kept,
            ..LayerTrace::dense(&layout)
        };
        trace.layers[2] = LayerTrace {
            n_rows: 6,
            vision: Vec::new(),
            ..LayerTrace::dense(&layout)
        };
        let flops = prefill_flops(&small(), None, &layout, true, &trace);
        let shape = small();
        let paper: u64 = [6, 2, 0].map(|n| paper_layer_ops(&shape, n)).iter().sum();
        assert_eq!(
            flops.paper,
            DenseActual {
                dense: 3 * paper_layer_ops(&shape, 6),
                actual: paper
            }
        );
        let text_only = PromptLayout {
            n_rows: 6,
            vision: Vec::new(),
        };
        let text = prefill_flops(&shape, None, &text_only, true, &dense(&text_only, 1))
            .model
            .dense;
        let kept_only = PromptLayout {
            n_rows: 8,
            vision: vec![2..3, 5..6],
        };
        let kept = prefill_flops(&shape, None, &kept_only, true, &dense(&kept_only, 1));
        let full = prefill_flops(&shape, None, &layout, true, &dense(&layout, 1));
        let head = 2 * 110;
        assert_eq!(
            flops.model.actual,
            full.model.dense + kept.model.dense + text - 2 * head
        );
        assert_eq!(
            flops.vision_attention.actual,
            full.vision_attention.dense + kept.vision_attention.dense
        );
    }

    /// Pictures are encoded whole; then it is as if the prompt had shorter ones.
    #[test]
    fn what_never_entered_costs_its_encoding_only() {
        let (layout, shape) = (two_images(), small());
        let entered = vec![VisionIndex(0), VisionIndex(2), VisionIndex(5)];
        let mut trace = dense(&layout, 3);
        trace.entered = Some(entered.clone());
        for layer in &mut trace.layers {
            layer.n_rows = 9;
            layer.vision = entered.clone();
        }
        let vision = VisionShape {
            n_layer: 1,
            n_embd: 4,
            n_ff: 6,
            n_ff_matrices: 2,
            patch_size: 2,
            n_patches_per_token: 1,
            n_extra_rows: 1,
            n_projector_weights: 9,
        };
        let flops = prefill_flops(&shape, Some(&vision), &layout, true, &trace);
        let short = PromptLayout {
            n_rows: 9,
            vision: vec![2..4, 6..7],
        };
        let expected = prefill_flops(&shape, None, &short, true, &dense(&short, 3));
        assert_eq!(
            flops.model.actual,
            expected.model.dense + 2 * encoder_flops(&vision, 3)
        );
        assert_eq!(flops.paper.actual, expected.paper.dense);
        assert_eq!(flops.vision_attention.actual, expected.vision_attention.dense);
        let whole = prefill_flops(&shape, Some(&vision), &layout, true, &dense(&layout, 3));
        assert_eq!(flops.model.dense, whole.model.dense);
        assert_eq!(trace.n_cells(), [9, 9, 9]);
    }

    #[test]
    fn the_encoder_counts_once_per_image() {
        let vision = VisionShape {
            n_layer: 2,
            n_embd: 4,
            n_ff: 6,
            n_ff_matrices: 2,
            patch_size: 2,
            n_patches_per_token: 4,
            n_extra_rows: 1,
            n_projector_weights: 9,
        };
        // Three tokens: twelve patches of 2x2x3 numbers, thirteen rows.
        let layer = 13 * (4 * 16 + 2 * 4 * 6) + 2 * 13 * 13 * 4;
        assert_eq!(encoder_flops(&vision, 3), 2 * (12 * 12 * 4 + 2 * layer + 27));
        let layout = two_images();
        let with = prefill_flops(&small(), Some(&vision), &layout, true, &dense(&layout, 3));
        let without = prefill_flops(&small(), None, &layout, true, &dense(&layout, 3));
        assert_eq!(
            with.model.dense - without.model.dense,
            2 * encoder_flops(&vision, 3)
        );
        assert_eq!(with.model.actual, with.model.dense);
    }

    #[test]
    fn kv_bytes_follow_cells() {
        let bytes = KvBytes::of(12, &[12, 7, 5], &[100, 100, 40]);
        assert_eq!(
            bytes,
            KvBytes {
                dense: 12 * 240,
                actual: 1200 + 700 + 200
            }
        );
    }
}
