//! Layers that are run ahead of decisions change which calls there are, and nothing else.

use super::*;
use std::time::Duration;

/// What came out, but for how it was come by.
fn result(trace: PrefillTrace) -> PrefillTrace {
    PrefillTrace {
        n_calls: 0,
        n_in_vain: 0,
        policy_time: Duration::ZERO,
        ..trace
    }
}

/// Engines whose layers say different things, by seed.
fn random_engine(seed: u64) -> Fake {
    Fake::new(move |il, token| {
        let mixed = (seed << 16 | (il as u64) << 8 | u64::from(token.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let size = (mixed >> 40) as f64 / f64::from(1 << 24);
        if mixed >> 33 & 1 == 0 {
            Contribution::Turning(size * 0.3)
        } else {
            Contribution::Along(size * 0.3)
        }
    })
}

#[test]
fn the_result_is_that_of_one_layer_at_a_time() {
    let layout = two_images();
    let mut n_rewinds = 0;
    let mut n_saved = 0;
    for seed in 0..40 {
        for (stages, shared) in [
            ("middle", 0),
            ("middle,deep", 0),
            ("shallow,middle,deep", 0),
            ("middle,deep", 9),
        ] {
            let policy = PolicyConfig::VisiPruner(config(stages));
            let run = |stride: usize, max_rows: usize| {
                let mut engine = random_engine(seed);
                let trace = run_with(&mut engine, &layout, &policy, |params| {
                    params.probe_stride = stride;
                    params.max_rows_per_call = max_rows;
                    params.shared.n_rows = shared;
                });
                (trace, engine)
            };
            for max_rows in [usize::MAX, 3] {
                let (one_by_one, engine) = run(1, max_rows);
                assert_eq!((one_by_one.n_in_vain, engine.rewinds.len()), (0, 0));
                for stride in [2, 3, 5, N_LAYER] {
                    let (ahead, other) = run(stride, max_rows);
                    n_rewinds += other.rewinds.len();
                    n_saved += engine.calls.len().saturating_sub(other.calls.len());
                    assert_eq!(ahead.n_in_vain > 0, !other.rewinds.is_empty());
                    assert_eq!(other.branches, engine.branches, "{stages}, stride {stride}");
                    assert_eq!(
                        result(ahead),
                        result(one_by_one.clone()),
                        "{stages}, stride {stride}, seed {seed}"
                    );
                }
            }
        }
    }
    assert!(
        n_rewinds > 0 && n_saved > 0,
        "{n_rewinds} rewinds, {n_saved} calls saved"
    );
}

#[test]
fn layers_of_one_plan_run_together() {
    let ranges = |stride: usize| {
        let mut engine = typical();
        run_with(
            &mut engine,
            &one_image(),
            &PolicyConfig::VisiPruner(config("middle,deep")),
            |params| params.probe_stride = stride,
        );
        let ranges: Vec<_> = engine.calls.iter().map(|call| call.layers.clone()).collect();
        (ranges, engine.rewinds)
    };
    // the fake shortens the calls that it goes back in
    assert_eq!(ranges(2), (vec![0..4, 4..6, 6..8, 8..10], vec![]));
    assert_eq!(ranges(4), (vec![0..4, 4..6, 6..10], vec![6]));
}
