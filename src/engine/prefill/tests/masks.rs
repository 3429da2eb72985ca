//! How ways of attending to vision become calls.

use super::*;

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
fn images_that_see_both_ways_are_calls_of_their_own() {
    let mut engine = typical();
    run_with(&mut engine, &two_images(), &PolicyConfig::Off, |params| {
        params.causal_images = false
    });
    let calls: Vec<_> = engine
        .calls
        .iter()
        .map(|call| {
            (
                call.rows[0].0,
                call.rows.len(),
                call.both_ways_until.map(|row| row.0),
            )
        })
        .collect();
    assert_eq!(
        calls,
        [
            (0, 2, None),
            (2, 3, Some(4)),
            (5, 2, None),
            (7, 3, Some(9)),
            (10, 2, None)
        ]
    );
}

#[test]
fn an_image_that_sees_both_ways_must_fit_into_a_call() {
    let (layout, mut engine) = (two_images(), typical());
    let params = PrefillParams {
        max_rows_per_call: 2,
        causal_images: false,
        ..at_once(&layout)
    };
    let mut policy = PolicyConfig::Off.build(N_LAYER, &layout).unwrap();
    let error = prefill(&mut engine, &params, policy.as_mut()).unwrap_err();
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
        .map(|call| {
            (
                call.rows.len(),
                call.probe.as_ref().map(|probe| probe.layers.start),
            )
        })
        .collect();
    assert_eq!(first, [(4, None), (4, None), (2, Some(3))]);
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
                    max_rows_per_call,
                    causal_images,
                    ..at_once(layout)
                };
                let mut engine = typical();
                engine.layout = layout.clone();
                let mut policy = Uniform(VisionAttention {
                    text_to_vision,
                    vision_to_vision,
                });
                let trace = prefill(&mut engine, &params, &mut policy).unwrap();
                engine.check_trace(&trace, &params);
                literal::check_attention(&engine, &trace, &params);
            }
        }
    }
}

/// Treats vision alike in all layers.
struct Uniform(VisionAttention);

impl StagePolicy for Uniform {
    fn plan(&self, _il: usize) -> LayerPlan {
        LayerPlan {
            attention: self.0,
            ..Default::default()
        }
    }

    fn outcome(&self) -> crate::policy::Outcome {
        Default::default()
    }
}
