//! Progress, cancelling, and what engine and policy are held to.

use super::*;

#[test]
fn cancelling_stops_before_the_next_call() {
    for n_calls in 0..7 {
        let (layout, mut engine) = (one_image(), typical());
        let params = at_once(&layout);
        let mut policy = PolicyConfig::VisiPruner(config("middle,deep"))
            .build(N_LAYER, &layout)
            .unwrap();
        engine.stop_at_call = Some(n_calls);
        let result = prefill(&mut engine, &params, policy.as_mut());
        assert!(matches!(result, Err(PrefillError::Cancelled)));
        assert_eq!(engine.calls.len(), n_calls);
    }
}

#[test]
fn progress_approaches_its_total_which_only_shrinks() {
    let (layout, mut engine) = (one_image(), typical());
    let params = PrefillParams {
        max_rows_per_call: 4,
        ..at_once(&layout)
    };
    let mut policy = PolicyConfig::VisiPruner(config("middle,deep"))
        .build(N_LAYER, &layout)
        .unwrap();
    prefill(&mut engine, &params, policy.as_mut()).unwrap();
    let seen = &engine.progress;
    assert_eq!(seen.len(), engine.calls.len());
    assert_eq!(
        seen[0],
        Progress {
            n_done: 0,
            n_total: 100
        }
    );
    let (last, last_call) = (seen.last().unwrap(), engine.calls.last().unwrap());
    assert_eq!(last.n_total, 92);
    assert_eq!(
        last.n_done + last_call.rows.len() * last_call.layers.len(),
        last.n_total
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
    let params = at_once(layout);
    prefill(engine, &params, policy).unwrap_err()
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
fn the_probed_output_must_be_finite() {
    let layout = one_image();
    let mut engine = Fake::new(|_, _| Contribution::Turning(0.0)).with_output_norm(f64::INFINITY);
    let mut policy = PolicyConfig::VisiPruner(config("middle"))
        .build(N_LAYER, &layout)
        .unwrap();
    let error = error_of(&mut engine, &layout, policy.as_mut());
    assert!(
        matches!(error, PrefillError::Probe { il: 3, row: 9 }),
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

/// A policy that does at layer 2 as told.
struct Odd {
    probe: Option<Statistic>,
    decides: bool,
    decision: Decision,
}

impl StagePolicy for Odd {
    fn plan(&self, il: usize) -> LayerPlan {
        LayerPlan {
            probe: self.probe.filter(|_| il == 2),
            decides: self.decides && il == 2,
            ..Default::default()
        }
    }

    fn decide(&mut self, _il: usize, reading: Option<&Reading>) -> Decision {
        assert_eq!(reading, None);
        self.decision.clone()
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
            probe: None,
            decides: true,
            decision: Decision::Keep(kept),
        };
        let error = error_of(&mut typical(), &layout, &mut policy);
        assert!(matches!(error, PrefillError::Decision { il: 2 }), "{error:?}");
    }
    let mut policy = Odd {
        probe: None,
        decides: true,
        decision: Decision::KeepAll,
    };
    let params = PrefillParams {
        cuts: &[2, 4],
        ..at_once(&layout)
    };
    let error = prefill(&mut typical(), &params, &mut policy).unwrap_err();
    assert!(matches!(error, PrefillError::NoCut { il: 3 }), "{error:?}");
}

/// A policy that forgets the vision of some layers.
struct Forgetting(Range<usize>);

impl StagePolicy for Forgetting {
    fn evict_after_prefill(&self) -> Option<Range<usize>> {
        Some(self.0.clone())
    }

    fn outcome(&self) -> crate::policy::Outcome {
        Default::default()
    }
}

#[test]
fn only_layers_that_are_there_are_evicted() {
    let layout = one_image();
    for (asked, evicted) in [
        (0..0, None),
        (Range { start: 4, end: 2 }, None),
        (10..12, None),
        (8..99, Some(8..10)),
        (0..3, Some(0..3)),
    ] {
        let mut engine = typical();
        let params = at_once(&layout);
        let trace = prefill(&mut engine, &params, &mut Forgetting(asked)).unwrap();
        assert_eq!(trace.evicted, evicted);
        let layers: Option<Range<usize>> = engine.evictions.first().map(|(layers, _)| layers.clone());
        assert_eq!(layers, evicted);
    }
}

#[test]
fn an_error_about_no_layers_can_be_read() {
    let error = PrefillError::Engine {
        layers: 0..0,
        source: FakeError,
    };
    assert!(error.to_string().starts_with("layers 0 to 0"));
}

#[test]
fn a_layer_may_be_probed_without_a_decision() {
    let layout = one_image();
    let params = PrefillParams {
        cuts: &[3],
        ..at_once(&layout)
    };
    let mut policy = Odd {
        probe: Some(Statistic::Contribution),
        decides: false,
        decision: Decision::Keep(Vec::new()),
    };
    let mut engine = typical();
    let trace = prefill(&mut engine, &params, &mut policy).unwrap();
    engine.check_trace(&trace, &params);
    assert_eq!(
        (probed_layers(&trace), rows_per_layer(&trace)),
        (vec![2], vec![10; N_LAYER])
    );
}
