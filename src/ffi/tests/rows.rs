//! Rows that are dropped, evicted or masked; keys that are merged or zeroed; groups too small for what they are given.

use super::*;

test_device!(
    dropped_rows_equal_masked_rows,
    merging_one_key_onto_itself_changes_nothing_and_zeroing_it_does,
    evicted_cells_are_gone_from_their_layers_only,
    a_small_group_grows_to_what_it_is_given,
);

fn dropped_rows_equal_masked_rows(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        // flash attention rounds the values to F16 and blocks the keys differently
        for (setup, tolerance) in [(EXACT, 1e-4), (SETUPS[2], 2e-2)] {
            let tolerance = device.logits(tolerance);
            dropped_equal_masked(&model, (setup, 3), (tolerance, 0.1), &format!("{arch:?}"));
        }
    }
}

/// Rows dropped before layer `il`, and what that changes at least.
pub(super) fn dropped_equal_masked(
    model: &Loaded,
    (setup, il): (Setup, usize),
    (tolerance, change): (f32, f32),
    arch: &str,
) {
    let (kept, dropped): (Vec<i32>, Vec<i32>) = vision_rows().into_iter().partition(|row| row % 9 == 0);
    let rest: Vec<i32> = all_rows()
        .into_iter()
        .filter(|row| !dropped.contains(row))
        .collect();
    assert!(!kept.is_empty());
    let mut engine = engine(model, setup, &every_layer(model));
    let n_layer = engine.n_layer();
    let dense = engine.dense_with_cuts(&[]);

    engine.begin();
    engine.run(0..il, &all_rows());
    engine.run(il..n_layer, &rest);
    let when_dropped = engine.logits();
    assert_eq!(engine.context.kv_usage(il - 1).unwrap().n_cells as usize, N_ROWS);
    assert_eq!(engine.context.kv_usage(il).unwrap().n_cells as usize, rest.len());

    engine.begin();
    engine.run(0..il, &all_rows());
    let masked = Range {
        mode: AttentionMode::Mask,
        hidden: &dropped,
        ..range(il..n_layer, &rest)
    };
    let all = all_rows();
    engine
        .context
        .run(&engine.sequence, &Range { rows: &all, ..masked })
        .unwrap();
    let when_masked = engine.logits();

    let difference = max_difference(&when_dropped, &when_masked);
    assert!(difference < tolerance, "{arch} {setup:?}: {difference}");
    let changed = max_difference(&when_dropped, &dense);
    assert!(
        changed > change,
        "{arch}: dropping rows changed next to nothing: {changed}"
    );
}

fn merging_one_key_onto_itself_changes_nothing_and_zeroing_it_does(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        for setup in SETUPS {
            // a quantized cache is read as F32 where values are changed, and as it is where they are not
            let tolerance = device.logits(if setup.kv_type == Q8_0 { 1e-1 } else { 2e-2 });
            merged_keys_stay_and_zeroed_go(&model, setup, tolerance, &format!("{arch:?}"));
        }
    }
}

pub(super) fn merged_keys_stay_and_zeroed_go(model: &Loaded, setup: Setup, tolerance: f32, arch: &str) {
    let key = [N_BEFORE as i32 + 4];
    let mut engine = engine(model, setup, &every_layer(model));
    let n_layer = engine.n_layer();
    let plain = engine.dense_with_cuts(&[2]);
    let mut run_with = |mode| {
        let all = all_rows();
        let changed = Range {
            mode,
            hidden: &key,
            ..range(0..2, &all)
        };
        engine.begin();
        engine.context.run(&engine.sequence, &changed).unwrap();
        engine.run(2..n_layer, &all);
        engine.logits()
    };
    let merged = max_difference(&run_with(AttentionMode::Merge), &plain);
    assert!(merged < tolerance, "{arch} {setup:?}: {merged}");
    let zeroed = max_difference(&run_with(AttentionMode::Zero), &plain);
    assert!(zeroed > merged, "{arch} {setup:?}: zeroing a key changed nothing");
}

fn evicted_cells_are_gone_from_their_layers_only(device: Device) {
    for arch in [Arch::Llama, Arch::Qwen2Vl, Arch::Gemma3] {
        let model = load_on(device, arch);
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let n_layer = engine.n_layer();
        engine.dense_with_cuts(&[]);
        let n_positions = if model.n_pos_per_embd() == 1 {
            N_VISION
        } else {
            GRID
        } as i32;
        engine
            .context
            .evict(&engine.sequence, 0..3, &vision_rows())
            .unwrap();
        for il in 0..n_layer {
            let n_cells = if il < 3 { N_ROWS - N_VISION } else { N_ROWS };
            assert_eq!(
                engine.context.kv_usage(il).unwrap().n_cells as usize,
                n_cells,
                "{arch:?} layer {il}"
            );
        }
        let next = N_BEFORE as i32 + n_positions + N_AFTER as i32;
        engine.decode(7, next);
        assert!(engine.logits().iter().all(|logit| logit.is_finite()));
    }
}

fn a_small_group_grows_to_what_it_is_given(device: Device) {
    let model = load_on(device, Arch::Llama);
    let mut groups = every_layer(&model);
    for group in &mut groups[4..] {
        group.n_cells = 256;
    }
    let mut params = context_params(EXACT);
    (params.n_ctx, params.n_batch) = (1024, 1024);
    let mut context = Context::new(&model, &params, &groups).unwrap();
    let token = vec![5; 300];
    let pos: Vec<i32> = (0..300).collect();
    let sequence = context.new_sequence().unwrap();
    context
        .add(
            &sequence,
            &Rows {
                token: &token,
                embd: &[],
                pos: &pos,
            },
        )
        .unwrap();
    context.run(&sequence, &range(0..4, &pos)).unwrap();
    assert_eq!(context.kv_usage(4).unwrap().n_cells, 0);
    let before = context.kv_usage(4).unwrap().allocated_bytes;
    context.run(&sequence, &range(4..model.n_layer(), &pos)).unwrap();
    let after = context.kv_usage(4).unwrap();
    assert_eq!((after.n_cells, after.allocated_bytes), (300, 2 * before));
    let grown = context.logits(None).unwrap().to_vec();

    let mut whole = Context::new(&model, &params, &every_layer(&model)).unwrap();
    let sequence = whole.new_sequence().unwrap();
    let rows = Rows {
        token: &token,
        embd: &[],
        pos: &pos,
    };
    whole.add(&sequence, &rows).unwrap();
    whole.run(&sequence, &range(0..4, &pos)).unwrap();
    whole.run(&sequence, &range(4..model.n_layer(), &pos)).unwrap();
    device.assert_same(whole.logits(None).unwrap(), &grown, "grown");
}
