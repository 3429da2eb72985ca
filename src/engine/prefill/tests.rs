//! The loop against a fake engine: no weights, scripted probes, every call checked.
#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of image spans, of which there is one"
)]

mod fake;
mod literal;

use std::ops::{ControlFlow, Range};

use super::*;
use crate::policy::config::*;
use crate::policy::fixed::Schedule;
use crate::policy::{PolicyConfig, Skipped, Stage, TextToVision, VisionAttention, VisionToVision};
use fake::{Contribution, Fake, FakeError};

/// BOS and two more text rows, four vision rows, three text rows.
fn one_image() -> PromptLayout {
    PromptLayout {
        n_rows: 10,
        vision: vec![3..7],
    }
}

/// Text between two images: rows 0-1 text, 2-4 image, 5-6 text, 7-9 image, 10-11 text.
fn two_images() -> PromptLayout {
    PromptLayout {
        n_rows: 12,
        vision: vec![2..5, 7..10],
    }
}

const N_LAYER: usize = 10;

/// Small enough for ten layers: k = 2, so layers 3 to 9 are probed.
fn config(stages: &str) -> VisiPrunerConfig {
    VisiPrunerConfig {
        stages: stages.parse().unwrap(),
        shallow_mid_layer: 2,
        mid_deep_layer: Some(6),
        ..VisiPrunerConfig::default()
    }
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Runs a prompt on a fake engine and holds every rule that holds for any policy against what came out.
fn run_with(
    engine: &mut Fake,
    layout: &PromptLayout,
    policy: &PolicyConfig,
    adjust: impl FnOnce(&mut PrefillParams<'_>),
) -> PrefillTrace {
    let mut params = PrefillParams {
        layout,
        n_layer: N_LAYER,
        max_rows_per_call: usize::MAX,
        causal_images: true,
    };
    adjust(&mut params);
    engine.layout = layout.clone();
    let mut policy = policy.build(N_LAYER, layout).unwrap();
    let boundaries = policy.boundaries(N_LAYER);
    let trace = prefill(engine, &params, policy.as_mut(), &mut go_on).unwrap();
    engine.check_trace(&trace, &params, &boundaries);
    literal::check_attention(engine, &trace, &params);
    trace
}

fn run(engine: &mut Fake, layout: &PromptLayout, config: VisiPrunerConfig) -> PrefillTrace {
    run_with(engine, layout, &PolicyConfig::VisiPruner(config), |_| {})
}

fn indices(tokens: &[u32]) -> Option<Vec<VisionIndex>> {
    Some(tokens.iter().copied().map(VisionIndex).collect())
}

fn rows_per_layer(trace: &PrefillTrace) -> Vec<usize> {
    trace.layers.iter().map(|layer| layer.n_rows).collect()
}

fn probed_layers(trace: &PrefillTrace) -> Vec<usize> {
    (0..trace.layers.len())
        .filter(|&il| trace.layers[il].probe.is_some())
        .collect()
}

/// Contributions by which layer 5 fires and keeps vision tokens 1 and 2, which matter in layers 6 and 8 only.
fn typical() -> Fake {
    Fake::new(|il, token| match (il, token.0) {
        (5, 1) => Contribution::Turning(0.3),
        (5, 2) => Contribution::Along(0.25),
        (6 | 8, 1) => Contribution::Turning(0.3),
        _ => Contribution::Turning(0.001),
    })
}

#[test]
fn fusion_and_exit() {
    let mut engine = typical();
    let trace = run(&mut engine, &one_image(), config("middle,deep"));
    assert_eq!((trace.fusion_layer, trace.prune_from()), (Some(5), Some(6)));
    assert_eq!(trace.kept, indices(&[1, 2]));
    assert_eq!(trace.kept_rows, Some(vec![Row(4), Row(5)]));
    // Layers 7 and 9 count: the exit comes in the last layer, so that no layer runs without vision.
    assert_eq!((trace.exit_layer, trace.exit_from()), (Some(9), Some(10)));
    assert_eq!(rows_per_layer(&trace), [10, 10, 10, 10, 10, 10, 8, 8, 8, 8]);
    assert_eq!(probed_layers(&trace), [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(trace.skipped, None);
    let ranges: Vec<_> = engine.calls.iter().map(|call| call.layers.clone()).collect();
    assert_eq!(ranges, [0..4, 4..5, 5..6, 6..7, 7..8, 8..9, 9..10]);
    assert!(
        engine
            .calls
            .iter()
            .all(|call| call.attention == CallAttention::Plain && call.causal)
    );
}

#[test]
fn earliest_exit_is_three_layers_after_fusion() {
    let mut engine = Fake::new(|il, _| {
        if il == 4 {
            Contribution::Turning(0.3)
        } else {
            Contribution::Turning(0.001)
        }
    });
    let trace = run(&mut engine, &one_image(), config("middle,deep"));
    assert_eq!(
        (trace.fusion_layer, trace.exit_layer, trace.exit_from()),
        (Some(4), Some(6), Some(7))
    );
    assert_eq!(trace.kept, indices(&[0, 1, 2, 3]));
    assert_eq!(rows_per_layer(&trace), [10, 10, 10, 10, 10, 10, 10, 6, 6, 6]);
    assert_eq!(probed_layers(&trace), [3, 4, 5, 6]);
    let stages: Vec<_> = trace.layers.iter().map(|layer| layer.stage).collect();
    use Stage::*;
    assert_eq!(
        stages,
        [Dense, Dense, Dense, Middle, Middle, Deep, Deep, Text, Text, Text]
    );
    // What is left runs in one range.
    assert_eq!(engine.calls.last().unwrap().layers, 7..10);
}

#[test]
fn everything_kept_does_not_switch_the_exit_off() {
    let mut engine = Fake::new(|il, _| {
        if il == 3 {
            Contribution::Turning(0.3)
        } else {
            Contribution::Turning(0.001)
        }
    });
    let trace = run(&mut engine, &one_image(), config("middle,deep"));
    assert_eq!(trace.kept.as_ref().map(Vec::len), Some(4));
    assert_eq!((trace.exit_layer, trace.skipped), (Some(5), None));
}

#[test]
fn an_empty_kept_set_is_an_exit_at_the_fusion_layer() {
    // Turns the output beyond 0.995, but stays below the tokens' threshold of 0.2.
    let mut engine = Fake::new(|_, _| Contribution::Turning(0.15));
    let trace = run(&mut engine, &one_image(), config("middle,deep"));
    assert_eq!((trace.fusion_layer, trace.exit_layer), (Some(3), Some(3)));
    assert_eq!(trace.kept, indices(&[]));
    assert_eq!(rows_per_layer(&trace), [10, 10, 10, 10, 6, 6, 6, 6, 6, 6]);
    assert_eq!(trace.skipped, None);
}

#[test]
fn an_empty_kept_set_is_an_exit_without_the_deep_stage_too() {
    let mut engine = Fake::new(|_, _| Contribution::Turning(0.15));
    let trace = run(&mut engine, &one_image(), config("middle"));
    assert_eq!((trace.exit_layer, trace.exit_from()), (Some(3), Some(4)));
}

#[test]
fn nothing_fires() {
    // Layer 5 comes nearest: cos = 1 / sqrt(1 + 0.05^2).
    let mut engine = Fake::new(|il, token| match (il, token.0) {
        (5, 2) => Contribution::Turning(0.05),
        _ => Contribution::Along(0.5),
    });
    let trace = run(&mut engine, &one_image(), config("middle,deep"));
    assert_eq!(
        (trace.fusion_layer, trace.exit_layer, &trace.kept),
        (None, None, &None)
    );
    assert_eq!(rows_per_layer(&trace), [10; N_LAYER]);
    let Some(Skipped::NoLayerFired {
        il_first: 3,
        il_last: 9,
        min_cos: Some(cos),
        threshold,
    }) = trace.skipped
    else {
        panic!("{:?}", trace.skipped);
    };
    assert!((cos - 1.0025_f64.sqrt().recip()).abs() < 1e-9, "{cos}");
    assert_eq!(threshold, 0.995);
}

#[test]
fn layer_k_itself_is_not_probed() {
    let mut engine = Fake::new(|_, _| Contribution::Turning(0.3));
    let trace = run(
        &mut engine,
        &one_image(),
        VisiPrunerConfig {
            shallow_mid_layer: 6,
            ..config("middle")
        },
    );
    assert_eq!((trace.fusion_layer, probed_layers(&trace)), (Some(7), vec![7]));
}

#[test]
fn no_layer_above_k() {
    let mut engine = Fake::new(|_, _| Contribution::Turning(0.3));
    let trace = run(
        &mut engine,
        &one_image(),
        VisiPrunerConfig {
            shallow_mid_layer: 9,
            ..config("middle")
        },
    );
    assert_eq!(probed_layers(&trace), [0; 0]);
    let reason = trace.skipped.unwrap().to_string();
    assert_eq!(
        reason,
        "the middle stage starts at layer 10, but the last layer is 9"
    );
}

#[test]
fn fusion_in_the_last_layer_comes_too_late() {
    let mut engine = Fake::new(|il, token| match (il, token.0) {
        (9, 2) => Contribution::Turning(0.3),
        _ => Contribution::Along(0.01),
    });
    let trace = run(&mut engine, &one_image(), config("middle,deep"));
    assert_eq!((trace.fusion_layer, trace.prune_from()), (Some(9), Some(10)));
    assert_eq!(trace.kept, indices(&[2]));
    assert_eq!(trace.skipped, Some(Skipped::TooLate { il: 9 }));
}

#[test]
fn everything_kept_and_no_exit_is_nothing_pruned() {
    let mut engine = Fake::new(|_, _| Contribution::Turning(0.3));
    let trace = run(&mut engine, &one_image(), config("middle"));
    assert_eq!(trace.skipped, Some(Skipped::AllKept { il: 3 }));
    assert_eq!(probed_layers(&trace), [3]);
}

/// After fusion at layer 3, layers count towards the exit as given from layer 4 on.
fn counting(counts: [bool; 6]) -> Fake {
    Fake::new(move |il, _| match il {
        3 => Contribution::Turning(0.3),
        4.. if !counts[il - 4] => Contribution::Turning(0.3),
        _ => Contribution::Along(0.001),
    })
}

#[test]
fn exit_count_is_cumulative_or_consecutive() {
    let counts = [true, false, true, true, true, true];
    let exit = |exit_count, exit_layers| {
        let config = VisiPrunerConfig {
            exit_count,
            exit_layers,
            ..config("middle,deep")
        };
        run(&mut counting(counts), &one_image(), config).exit_layer
    };
    assert_eq!(exit(ExitCount::Cumulative, 2), Some(6));
    assert_eq!(exit(ExitCount::Consecutive, 2), Some(7));
    assert_eq!(exit(ExitCount::Cumulative, 1), Some(4));
    assert_eq!(exit(ExitCount::Consecutive, 1), Some(4));
    assert_eq!(exit(ExitCount::Cumulative, 4), Some(8));
    assert_eq!(exit(ExitCount::Consecutive, 4), Some(9));
    assert_eq!(exit(ExitCount::Consecutive, 5), None);
}

#[test]
fn one_kept_token_that_matters_keeps_the_layer_from_counting() {
    let mut engine = Fake::new(|il, token| match (il, token.0) {
        (3, 0 | 3) | (4.., 3) => Contribution::Turning(0.3),
        _ => Contribution::Along(0.001),
    });
    let trace = run(&mut engine, &one_image(), config("middle,deep"));
    assert_eq!((trace.kept, trace.exit_layer), (indices(&[0, 3]), None));
}

#[test]
fn dropped_tokens_have_no_say_in_the_exit() {
    // Token 1 would matter in every layer after fusion, but was dropped.
    let mut engine = Fake::new(|il, token| match (il, token.0) {
        (3, 0) | (4.., 1) => Contribution::Turning(0.3),
        _ => Contribution::Along(0.001),
    });
    let trace = run(&mut engine, &one_image(), config("middle,deep"));
    assert_eq!((trace.kept, trace.exit_layer), (indices(&[0]), Some(5)));
}

#[test]
fn thresholds_are_strict_as_published() {
    // norm > threshold: a token exactly at it goes; cos < threshold: a layer exactly at it does not fire.
    let config = VisiPrunerConfig {
        tokens_threshold: 0.25,
        layer_threshold: 1.0,
        ..config("middle")
    };
    let mut engine = Fake::new(|il, token| match (il, token.0) {
        (4, 0) => Contribution::Along(0.25),
        (4, 1) => Contribution::Turning(0.5),
        _ => Contribution::Along(0.5),
    });
    let trace = run(&mut engine, &one_image(), config);
    assert_eq!((trace.fusion_layer, trace.kept), (Some(4), indices(&[1, 2, 3])));
}

#[test]
fn a_cosine_at_the_exit_threshold_counts() {
    // The cosine of a contribution along the output is exactly 1.
    let mut engine = Fake::new(|il, _| match il {
        3 => Contribution::Turning(0.3),
        _ => Contribution::Along(0.25),
    });
    let config = VisiPrunerConfig {
        exit_threshold: 1.0,
        ..config("middle,deep")
    };
    assert_eq!(run(&mut engine, &one_image(), config).exit_layer, Some(5));
}

#[test]
fn relative_thresholds_scale_with_the_output() {
    let script = |_, token: VisionIndex| Contribution::Turning(0.1 + 0.1 * f64::from(token.0));
    let kept = |unit, output_norm| {
        let config = VisiPrunerConfig {
            tokens_threshold_unit: unit,
            tokens_threshold: 0.25,
            ..config("middle")
        };
        run(
            &mut Fake::new(script).with_output_norm(output_norm),
            &one_image(),
            config,
        )
        .kept
    };
    // Contributions are scripted relative to the output: norms 0.1, 0.2, 0.3, 0.4 times its norm.
    assert_eq!(kept(TokensThresholdUnit::Relative, 8.0), indices(&[2, 3]));
    assert_eq!(kept(TokensThresholdUnit::Absolute, 8.0), indices(&[0, 1, 2, 3]));
    assert_eq!(kept(TokensThresholdUnit::Absolute, 0.5), indices(&[]));
}

#[test]
fn deep_alone_drops_vision_at_its_layer() {
    let mut engine = typical();
    let trace = run(&mut engine, &one_image(), config("deep"));
    assert_eq!((trace.fusion_layer, &trace.kept), (None, &None));
    assert_eq!((trace.exit_layer, trace.exit_from()), (Some(5), Some(6)));
    assert_eq!(rows_per_layer(&trace), [10, 10, 10, 10, 10, 10, 6, 6, 6, 6]);
    let ranges: Vec<_> = engine.calls.iter().map(|call| call.layers.clone()).collect();
    assert_eq!(ranges, [0..6, 6..10]);
    assert_eq!(probed_layers(&trace), [0; 0]);
}

#[test]
fn mid_deep_layer_is_not_used_beside_the_middle_stage() {
    let mut engine = Fake::new(|_, _| Contribution::Along(0.5));
    assert_eq!(
        run(&mut engine, &one_image(), config("middle,deep")).exit_layer,
        None
    );
}

#[test]
fn every_stage_combination_and_shallow_variant_keeps_the_rules() {
    let mut n_runs = 0;
    for stages in [
        "none",
        "shallow",
        "middle",
        "deep",
        "shallow,middle",
        "shallow,deep",
        "middle,deep",
        "shallow,middle,deep",
    ] {
        for layer0 in [Layer0::Merge, Layer0::Half, Layer0::None] {
            for shallow_mask in [ShallowMask::Sink, ShallowMask::Skip] {
                for visual_self_attention in [VisualSelfAttention::Keep, VisualSelfAttention::Remove] {
                    for evict_shallow_kv in [false, true] {
                        for (layout, causal_images) in
                            [(one_image(), true), (two_images(), true), (two_images(), false)]
                        {
                            for max_rows_per_call in [4, 5, usize::MAX] {
                                let config = VisiPrunerConfig {
                                    shallow_mid_layer: 3,
                                    layer0,
                                    shallow_mask,
                                    visual_self_attention,
                                    evict_shallow_kv,
                                    ..config(stages)
                                };
                                let policy = PolicyConfig::VisiPruner(config);
                                let mut engine = typical();
                                run_with(&mut engine, &layout, &policy, |params| {
                                    params.max_rows_per_call = max_rows_per_call;
                                    params.causal_images = causal_images;
                                });
                                n_runs += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(n_runs, 8 * 3 * 2 * 2 * 2 * 3 * 3);
}

/// The calls of the range that starts at a layer, as rows and attention.
fn calls_from(engine: &Fake, il: usize) -> Vec<(Range<u32>, CallAttention)> {
    let calls = engine.calls.iter().filter(|call| call.layers.start == il);
    calls
        .map(|call| {
            (
                call.rows[0].0..call.rows[call.rows.len() - 1].0 + 1,
                call.attention.clone(),
            )
        })
        .collect()
}

fn rows(rows: impl IntoIterator<Item = u32>) -> Vec<Row> {
    rows.into_iter().map(Row).collect()
}

#[test]
fn merge_runs_vision_first_and_then_the_text_after_it() {
    let mut engine = typical();
    run(&mut engine, &one_image(), config("shallow"));
    let expected = [
        (0..7, CallAttention::Zero { hidden: rows(3..7) }),
        (7..10, CallAttention::Merge { hidden: rows(3..7) }),
    ];
    assert_eq!(calls_from(&engine, 0), expected);
    let expected = [
        (0..7, CallAttention::Plain),
        (7..10, CallAttention::Zero { hidden: rows(3..7) }),
    ];
    assert_eq!(calls_from(&engine, 1), expected);
    assert_eq!(calls_from(&engine, 2), [(0..10, CallAttention::Plain)]);
}

#[test]
fn merge_goes_to_the_first_token_of_the_first_image() {
    let mut engine = typical();
    run(&mut engine, &two_images(), config("shallow"));
    let first = vec![2, 3, 4];
    let all: Vec<u32> = first.iter().copied().chain(7..10).collect();
    let expected = [
        (
            0..5,
            CallAttention::Zero {
                hidden: rows(first.clone()),
            },
        ),
        (5..7, CallAttention::Merge { hidden: rows(first) }),
        (
            7..10,
            CallAttention::Zero {
                hidden: rows(all.clone()),
            },
        ),
        (10..12, CallAttention::Merge { hidden: rows(all) }),
    ];
    assert_eq!(calls_from(&engine, 0), expected);
}

#[test]
fn half_is_the_first_half_of_all_vision_tokens_together() {
    let mut engine = typical();
    run(
        &mut engine,
        &two_images(),
        VisiPrunerConfig {
            layer0: Layer0::Half,
            ..config("shallow")
        },
    );
    assert_eq!(
        calls_from(&engine, 0)[3],
        (10..12, CallAttention::Zero { hidden: rows(2..5) })
    );
    let mut engine = typical();
    run(
        &mut engine,
        &one_image(),
        VisiPrunerConfig {
            layer0: Layer0::Half,
            ..config("shallow")
        },
    );
    assert_eq!(
        calls_from(&engine, 0)[1],
        (7..10, CallAttention::Zero { hidden: rows(3..5) })
    );
}

#[test]
fn layer0_none_is_left_alone() {
    let mut engine = typical();
    let config = VisiPrunerConfig {
        layer0: Layer0::None,
        visual_self_attention: VisualSelfAttention::Remove,
        ..config("shallow")
    };
    run(&mut engine, &one_image(), config);
    assert_eq!(calls_from(&engine, 0), [(0..10, CallAttention::Plain)]);
    // Text and vision treat vision alike in layer 1, so one call is enough.
    assert_eq!(
        calls_from(&engine, 1),
        [(0..10, CallAttention::Zero { hidden: rows(3..7) })]
    );
}

#[test]
fn masks_need_one_call() {
    let affected = |visual_self_attention| {
        let config = VisiPrunerConfig {
            shallow_mask: ShallowMask::Skip,
            visual_self_attention,
            ..config("shallow")
        };
        let mut engine = typical();
        run(&mut engine, &two_images(), config);
        match calls_from(&engine, 1).as_slice() {
            [(_, CallAttention::Mask { hidden, affected })] => {
                assert_eq!(*hidden, rows([2, 3, 4, 7, 8, 9]));
                affected
                    .iter()
                    .map(|&affected| u8::from(affected))
                    .collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        affected(VisualSelfAttention::Keep),
        [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    );
    assert_eq!(
        affected(VisualSelfAttention::Remove),
        [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    );
}

#[test]
fn shallow_cells_are_evicted_after_the_last_layer() {
    let mut engine = typical();
    let config = VisiPrunerConfig {
        evict_shallow_kv: true,
        ..config("middle,deep")
    };
    let trace = run(&mut engine, &two_images(), config);
    assert_eq!(engine.evictions, [(0..2, 2..5), (0..2, 7..10)]);
    assert_eq!(trace.evicted, Some(0..2));
    assert_eq!(trace.n_cells()[..3], [6, 6, 12]);
}

#[test]
fn eviction_alone_is_not_pruning() {
    let mut engine = typical();
    let trace = run(
        &mut engine,
        &one_image(),
        VisiPrunerConfig {
            evict_shallow_kv: true,
            ..config("none")
        },
    );
    assert_eq!(
        (trace.skipped, trace.evicted),
        (Some(Skipped::NoStages), Some(0..2))
    );
}

#[test]
fn images_that_see_both_ways_are_calls_of_their_own() {
    let mut engine = typical();
    run_with(&mut engine, &two_images(), &PolicyConfig::Off, |params| {
        params.causal_images = false
    });
    let calls: Vec<_> = engine
        .calls
        .iter()
        .map(|call| (call.rows[0].0, call.rows.len(), call.causal))
        .collect();
    assert_eq!(
        calls,
        [
            (0, 2, true),
            (2, 3, false),
            (5, 2, true),
            (7, 3, false),
            (10, 2, true)
        ]
    );
}

#[test]
fn an_image_that_sees_both_ways_must_fit_into_a_call() {
    let (layout, mut engine) = (two_images(), typical());
    let params = PrefillParams {
        layout: &layout,
        n_layer: N_LAYER,
        max_rows_per_call: 2,
        causal_images: false,
    };
    let mut policy = PolicyConfig::Off.build(N_LAYER, &layout).unwrap();
    let error = prefill(&mut engine, &params, policy.as_mut(), &mut go_on).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an image of 3 tokens does not fit into a batch of 2: raise the batch size to at least 3"
    );
    assert_eq!(engine.calls.len(), 0);
}

#[test]
fn long_prompts_are_split_and_the_last_row_comes_last() {
    let mut engine = typical();
    let policy = PolicyConfig::VisiPruner(config("middle,deep"));
    run_with(&mut engine, &one_image(), &policy, |params| {
        params.max_rows_per_call = 4
    });
    let first: Vec<_> = engine
        .calls
        .iter()
        .take(3)
        .map(|call| (call.rows.len(), call.probe_il))
        .collect();
    assert_eq!(first, [(4, None), (4, None), (2, Some(3))]);
}

#[test]
fn off_is_one_call_and_text_prompts_are_too() {
    let text = PromptLayout {
        n_rows: 9,
        vision: Vec::new(),
    };
    for (layout, policy, reason) in [
        (one_image(), PolicyConfig::Off, Skipped::Off),
        (
            text,
            PolicyConfig::VisiPruner(config("shallow,middle,deep")),
            Skipped::NoImage,
        ),
        (
            one_image(),
            PolicyConfig::VisiPruner(config("none")),
            Skipped::NoStages,
        ),
        (
            PromptLayout {
                n_rows: 7,
                vision: vec![3..7],
            },
            PolicyConfig::VisiPruner(config("middle")),
            Skipped::EndsInImage,
        ),
    ] {
        let mut engine = typical();
        let trace = run_with(&mut engine, &layout, &policy, |_| {});
        assert_eq!(engine.calls.len(), 1);
        assert_eq!(engine.calls[0].layers, 0..N_LAYER);
        assert_eq!(
            trace,
            PrefillTrace {
                n_calls: 1,
                policy_time: trace.policy_time,
                ..PrefillTrace::dense(&layout, N_LAYER, reason)
            }
        );
    }
}

fn fixed(schedule: &str, layout: &PromptLayout) -> (Fake, PrefillTrace) {
    let mut engine =
        Fake::new(|_, token| Contribution::Turning([0.1, 0.4, 0.2, 0.4, 0.3, 0.0][token.0 as usize]));
    let schedule: Schedule = schedule.parse().unwrap();
    let trace = run_with(&mut engine, layout, &PolicyConfig::Fixed(schedule), |_| {});
    (engine, trace)
}

#[test]
fn fixed_schedule_keeps_the_largest() {
    let (engine, trace) = fixed("4/2/7", &one_image());
    assert_eq!(
        (trace.fusion_layer, trace.exit_layer, trace.exit_from()),
        (Some(4), Some(6), Some(7))
    );
    assert_eq!(trace.kept, indices(&[1, 3]));
    assert_eq!(rows_per_layer(&trace), [10, 10, 10, 10, 10, 8, 8, 6, 6, 6]);
    assert_eq!(probed_layers(&trace), [4]);
    let ranges: Vec<_> = engine.calls.iter().map(|call| call.layers.clone()).collect();
    assert_eq!(ranges, [0..5, 5..7, 7..10]);
    // Among equals the earlier one.
    assert_eq!(fixed("4/1/7", &one_image()).1.kept, indices(&[1]));
    assert_eq!(fixed("4/4/7", &two_images()).1.kept, indices(&[1, 2, 3, 4]));
}

#[test]
fn fixed_schedules_at_their_limits() {
    let outcome = |schedule| {
        let (_, trace) = fixed(schedule, &one_image());
        (
            trace.kept.as_ref().map_or(0, Vec::len),
            trace.exit_layer,
            trace.skipped.clone(),
            *rows_per_layer(&trace).last().unwrap(),
        )
    };
    assert_eq!(outcome("0/1/10"), (1, None, None, 7));
    assert_eq!(outcome("4/0/7"), (0, Some(4), None, 6));
    assert_eq!(outcome("4/3/5"), (0, Some(4), None, 6));
    assert_eq!(outcome("4/99/7"), (4, Some(6), None, 6));
    assert_eq!(
        outcome("4/99/10"),
        (4, None, Some(Skipped::AllKept { il: 4 }), 10)
    );
    assert_eq!(outcome("9/2/10"), (2, None, Some(Skipped::TooLate { il: 9 }), 10));
    assert_eq!(
        outcome("9/0/10"),
        (0, Some(9), Some(Skipped::TooLate { il: 9 }), 10)
    );
}

#[test]
fn cancelling_stops_after_the_call_under_way() {
    for n_calls in 0..7 {
        let (layout, mut engine) = (one_image(), typical());
        let params = PrefillParams {
            layout: &layout,
            n_layer: N_LAYER,
            max_rows_per_call: 99,
            causal_images: true,
        };
        let mut policy = PolicyConfig::VisiPruner(config("middle,deep"))
            .build(N_LAYER, &layout)
            .unwrap();
        let mut n_left = n_calls;
        let mut stop = |_| {
            if n_left == 0 {
                return ControlFlow::Break(());
            }
            n_left -= 1;
            ControlFlow::Continue(())
        };
        let result = prefill(&mut engine, &params, policy.as_mut(), &mut stop);
        assert!(matches!(result, Err(PrefillError::Cancelled)));
        assert_eq!(engine.calls.len(), n_calls);
    }
}

#[test]
fn progress_reaches_its_total_which_only_shrinks() {
    let (layout, mut engine) = (one_image(), typical());
    let params = PrefillParams {
        layout: &layout,
        n_layer: N_LAYER,
        max_rows_per_call: 4,
        causal_images: true,
    };
    let mut policy = PolicyConfig::VisiPruner(config("middle,deep"))
        .build(N_LAYER, &layout)
        .unwrap();
    let mut seen = Vec::new();
    let mut record = |progress| {
        seen.push(progress);
        ControlFlow::Continue(())
    };
    prefill(&mut engine, &params, policy.as_mut(), &mut record).unwrap();
    assert_eq!(
        seen[0],
        Progress {
            n_done: 0,
            n_total: 100
        }
    );
    assert_eq!(
        *seen.last().unwrap(),
        Progress {
            n_done: 92,
            n_total: 92
        }
    );
    assert!(
        seen.windows(2)
            .all(|pair| pair[0].n_done < pair[1].n_done && pair[0].n_total >= pair[1].n_total)
    );
}

/// What a prefill says when something is wrong.
fn error_of(
    engine: &mut Fake,
    layout: &PromptLayout,
    policy: &mut dyn StagePolicy,
) -> PrefillError<FakeError> {
    let params = PrefillParams {
        layout,
        n_layer: N_LAYER,
        max_rows_per_call: 99,
        causal_images: true,
    };
    prefill(engine, &params, policy, &mut go_on).unwrap_err()
}

#[test]
fn engine_errors_end_the_prefill_and_name_the_layers() {
    let layout = one_image();
    for (fail_at, layers) in [(0, 0..4), (2, 5..6)] {
        let mut engine = typical();
        engine.fail_at_call = Some(fail_at);
        let mut policy = PolicyConfig::VisiPruner(config("middle"))
            .build(N_LAYER, &layout)
            .unwrap();
        match error_of(&mut engine, &layout, policy.as_mut()) {
            PrefillError::Engine {
                layers: failed,
                source: FakeError,
            } => assert_eq!(failed, layers),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn probes_must_be_finite() {
    let layout = one_image();
    let mut engine = Fake::new(|il, token| match (il, token.0) {
        (4, 2) => Contribution::Turning(f64::NAN),
        _ => Contribution::Along(0.1),
    });
    let mut policy = PolicyConfig::VisiPruner(config("middle"))
        .build(N_LAYER, &layout)
        .unwrap();
    let error = error_of(&mut engine, &layout, policy.as_mut());
    assert!(
        matches!(error, PrefillError::Probe { il: 4, row: 5 }),
        "{error:?}"
    );
}

#[test]
fn malformed_layouts_are_refused() {
    for (n_rows, vision) in [
        (0, vec![]),
        (5, vec![3..6]),
        (9, vec![4..6, 1..2]),
        (9, vec![1..4, 3..6]),
        (9, vec![2..2]),
    ] {
        let layout = PromptLayout { n_rows, vision };
        let mut engine = typical();
        let mut policy = crate::policy::off::Off::because(Skipped::Off);
        let error = error_of(&mut engine, &layout, &mut policy);
        assert!(matches!(error, PrefillError::Layout { .. }), "{error:?}");
    }
}

/// A policy that decides at layer 2 as told, with boundaries as told.
struct Odd {
    decision: Decision,
    boundaries: Vec<usize>,
}

impl StagePolicy for Odd {
    fn plan(&self, il: usize) -> crate::policy::LayerPlan {
        crate::policy::LayerPlan {
            decides: il == 2,
            ..Default::default()
        }
    }

    fn decide(&mut self, _il: usize, reading: Option<&ProbeReading>) -> Decision {
        assert_eq!(reading, None);
        self.decision.clone()
    }

    fn boundaries(&self, _n_layer: usize) -> Vec<usize> {
        self.boundaries.clone()
    }

    fn outcome(&self) -> crate::policy::Outcome {
        Default::default()
    }
}

#[test]
fn policies_are_held_to_their_contract() {
    let layout = one_image();
    for kept in [vec![4], vec![2, 1], vec![1, 1]] {
        let kept = kept.into_iter().map(VisionIndex).collect();
        let mut policy = Odd {
            decision: Decision::Keep(kept),
            boundaries: vec![3],
        };
        let error = error_of(&mut typical(), &layout, &mut policy);
        assert!(matches!(error, PrefillError::Decision { il: 2 }), "{error:?}");
    }
    let mut policy = Odd {
        decision: Decision::KeepAll,
        boundaries: vec![4],
    };
    let error = error_of(&mut typical(), &layout, &mut policy);
    assert!(matches!(error, PrefillError::Boundary { il: 3 }), "{error:?}");
}

#[test]
fn every_kind_of_attention_means_what_it_says() {
    let texts = [
        TextToVision::Keep,
        TextToVision::Zero,
        TextToVision::ZeroFirstHalf,
        TextToVision::MergeOntoFirst,
        TextToVision::Mask,
    ];
    let visions = [VisionToVision::Keep, VisionToVision::Zero, VisionToVision::Mask];
    let layouts = [
        one_image(),
        two_images(),
        PromptLayout {
            n_rows: 5,
            vision: vec![0..4],
        },
        PromptLayout {
            n_rows: 8,
            vision: vec![0..3, 3..7],
        },
    ];
    for (text_to_vision, vision_to_vision) in texts.into_iter().flat_map(|t| visions.map(|v| (t, v))) {
        for layout in &layouts {
            for (causal_images, max_rows_per_call) in [(true, 3), (true, 99), (false, 4), (false, 99)] {
                let params = PrefillParams {
                    layout,
                    n_layer: N_LAYER,
                    max_rows_per_call,
                    causal_images,
                };
                let mut engine = typical();
                engine.layout = layout.clone();
                let mut policy = Uniform(VisionAttention {
                    text_to_vision,
                    vision_to_vision,
                });
                let trace = prefill(&mut engine, &params, &mut policy, &mut go_on).unwrap();
                engine.check_trace(&trace, &params, &[]);
                literal::check_attention(&engine, &trace, &params);
            }
        }
    }
}

/// Treats vision alike in all layers.
struct Uniform(VisionAttention);

impl StagePolicy for Uniform {
    fn plan(&self, _il: usize) -> crate::policy::LayerPlan {
        crate::policy::LayerPlan {
            attention: self.0,
            ..Default::default()
        }
    }

    fn decide(&mut self, _il: usize, _reading: Option<&ProbeReading>) -> Decision {
        Decision::KeepAll
    }

    fn boundaries(&self, _n_layer: usize) -> Vec<usize> {
        Vec::new()
    }

    fn outcome(&self) -> crate::policy::Outcome {
        Default::default()
    }
}
