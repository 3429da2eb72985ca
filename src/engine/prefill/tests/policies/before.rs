//! What is dropped before layer 0, and what comes after it.

use super::*;
use crate::policy::Needs;

#[test]
fn what_does_not_enter_layer_0_is_never_run() {
    for name in ["divprune", "random", "uniform"] {
        for causal_images in [true, false] {
            let mut engine = engine_at_rest();
            let question = Question::new(two_images());
            let fields = format!("policy = '{name}'\nbudget = 2");
            let trace = question.run_with(&mut engine, &fields, |params| {
                params.causal_images = causal_images
            });
            assert_eq!(rows_per_layer(&trace), [8; N_LAYER]);
            assert_eq!(trace.entered.as_ref(), Some(&trace.layers[9].vision));
            assert_eq!((&trace.kept, &trace.skipped), (&None, &None));
            assert_eq!(drops(&trace), [(None, vision_of(&trace, 9))]);
            assert!(engine.calls.iter().all(|call| call.layers == (0..N_LAYER)));
        }
    }
}

/// With the first image gone altogether, what was text between two images is text before one.
#[test]
fn an_image_may_be_dropped_whole() {
    let question = Question::new(PromptLayout {
        n_rows: 9,
        vision: vec![1..2, 3..8],
    });
    let mut engine = typical();
    let trace = question.run(
        &mut engine,
        "policy = 'uniform+visipruner'\nbudget = 2\nstages = ['shallow']\nshallow_mid_layer = 2",
    );
    assert_eq!(trace.entered, indices(&[1, 4]));
    let first: Vec<_> = engine
        .calls
        .iter()
        .take(2)
        .map(|call| (call.rows.clone(), call.attention.clone()))
        .collect();
    let rows = |rows: &[u32]| rows.iter().copied().map(Row).collect::<Vec<_>>();
    let hidden = rows(&[3, 6]);
    assert_eq!(
        first,
        [
            (
                rows(&[0, 2, 3, 6]),
                CallAttention::Zero {
                    hidden: hidden.clone()
                }
            ),
            (rows(&[8]), CallAttention::Merge { hidden })
        ]
    );
}

#[test]
fn embeddings_must_be_there_if_needed() {
    let layout = one_image();
    let vision = [1.0; 4 * N_EMBD];
    let short = [1.0; 3 * N_EMBD];
    let given = |vision, text| {
        Some(Embeddings {
            n_embd: N_EMBD,
            vision,
            text,
        })
    };
    for (fields, embeddings, needs) in [
        ("policy = 'divprune'\nbudget = 2", None, Needs::Vision),
        (
            "policy = 'divprune'\nbudget = 2",
            given(&short[..], None),
            Needs::Vision,
        ),
        (
            "policy = 'sparsevlm'\nrank_layers = [2]\nkeep = [1]",
            given(&vision[..], None),
            Needs::VisionAndText,
        ),
        (
            "policy = 'divprune+sparsevlm'\nbudget = 2\nrank_layers = [2]\nkeep = [1]",
            given(&vision[..], Some(&short[..])),
            Needs::VisionAndText,
        ),
    ] {
        let mut working = policy(fields).build(N_LAYER, &layout).unwrap();
        let params = PrefillParams {
            embeddings,
            ..at_once(&layout)
        };
        let error = prefill(&mut engine_at_rest(), &params, working.as_mut()).unwrap_err();
        assert!(
            matches!(error, PrefillError::Embeddings { needs: said } if said == needs),
            "{error:?}"
        );
    }
}

/// A policy that lets tokens enter that the prompt does not have.
#[test]
fn what_enters_must_be_there() {
    struct Inventing;
    impl StagePolicy for Inventing {
        fn start(&mut self, _present: &[VisionIndex], _embeddings: &Embeddings<'_>) -> Decision {
            Decision::Keep(vec![VisionIndex(4)])
        }
        fn outcome(&self) -> crate::policy::Outcome {
            Default::default()
        }
    }
    let layout = one_image();
    let params = at_once(&layout);
    let error = prefill(&mut engine_at_rest(), &params, &mut Inventing).unwrap_err();
    assert!(matches!(error, PrefillError::Start), "{error:?}");
}

#[test]
fn a_composed_policy_sees_what_entered_and_counts_over_all() {
    let mut engine = attending(|_, token| f64::from(token) / 8.0);
    let question = Question::new(two_images());
    // Half of the prompt's six tokens, not of the four that entered.
    let trace = question.run(&mut engine, "policy = 'uniform+fastv'\nbudget = 4\nkeep = '50%'");
    assert_eq!(trace.entered, indices(&[0, 2, 3, 5]));
    assert_eq!(
        drops(&trace),
        [(None, vec![0, 2, 3, 5]), (Some(1), vec![2, 3, 5])]
    );
    // The statistics of visipruner are untouched by the policy before it.
    let mut engine = typical();
    let fields = "policy = 'random+visipruner'\nbudget = '99%'\nshallow_mid_layer = 2";
    let trace = question.run(&mut engine, fields);
    assert_eq!((trace.entered, trace.fusion_layer), (None, Some(5)));
    assert_eq!(trace.kept, indices(&[1, 2]));
}

#[test]
fn a_policy_that_finds_nothing_after_one_that_dropped_is_still_pruning() {
    let mut engine = Fake::new(|_, _| Contribution::Along(0.5));
    let fields = "policy = 'random+visipruner'\nbudget = 3\nshallow_mid_layer = 2";
    let trace = Question::new(two_images()).run(&mut engine, fields);
    assert_eq!((trace.fusion_layer, &trace.skipped), (None, &None));
    assert_eq!(rows_per_layer(&trace), [9; N_LAYER]);
    let fields = "policy = 'random+visipruner'\nbudget = 9\nshallow_mid_layer = 2";
    let trace = Question::new(two_images()).run(&mut Fake::new(|_, _| Contribution::Along(0.5)), fields);
    assert!(matches!(trace.skipped, Some(Skipped::NoLayerFired { .. })));
}
