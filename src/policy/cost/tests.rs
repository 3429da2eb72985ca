use super::pairs::Pairs;
use super::*;
use crate::policy::shape::{ModelShape, VisionShape};
use crate::policy::trace::{LayerTrace, PrefillTrace};
use crate::policy::{
    PromptLayout, Skipped, Stage, TextToVision, VisionAttention, VisionIndex, VisionToVision,
};

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
                assert_eq!(
                    Pairs::of(layout, causal_images, &present),
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
