//! What is known before the prompt runs: no policy, schedules, the cells that are forgotten in the end.

use super::*;

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
                n_in_vain: 0,
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
