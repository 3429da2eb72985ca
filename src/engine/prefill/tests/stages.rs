//! What each stage decides, from what the layers say.

use super::*;

#[test]
fn fusion_and_exit() {
    let mut engine = typical();
    let trace = run(&mut engine, &one_image(), config("middle,deep"));
    assert_eq!((trace.fusion_layer, trace.prune_from()), (Some(5), Some(6)));
    assert_eq!(trace.kept, indices(&[1, 2]));
    assert_eq!(trace.kept_rows, Some(vec![Row(4), Row(5)]));
    assert_eq!(drops(&trace), [(Some(5), vec![1, 2])]);
    assert_eq!(trace.drops[0].kept_rows, [Row(4), Row(5)]);
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
            .all(|call| call.attention == CallAttention::Plain && call.both_ways_until.is_none())
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
