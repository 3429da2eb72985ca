//! What an inspection reads beside the probes.

use std::sync::atomic::AtomicBool;

use super::*;

test_device!(
    the_logit_lens_is_the_models_own_ending,
    lenses_and_values_leave_the_prompt_as_it_was,
    value_norms_are_those_of_the_rows_that_a_layer_holds,
);

/// A last layer that adds nothing passes on what the logit lens looked at before it, so both end in the same logits.
fn the_logit_lens_is_the_models_own_ending(device: Device) {
    for &arch in archs(device) {
        let model = load_llm(
            device,
            &RandomLlm {
                has_idle_last_layer: true,
                logit_softcap: Some(3.0),
                ..RandomLlm::new(arch, 12)
            },
        );
        let lens = lens_is_ending(&model, device.logits(1e-5), &format!("{arch:?}"));
        assert!(lens.iter().any(|logit| logit.abs() > 0.5), "{arch:?}");
    }
}

/// The logit lens before the last layer of a model whose last layer adds nothing.
pub(super) fn lens_is_ending(model: &Loaded, tolerance: f32, arch: &str) -> Vec<f32> {
    let mut engine = engine(model, EXACT, &every_layer(model));
    let n_layer = engine.n_layer();
    engine.begin();
    engine.run(0..n_layer - 1, &all_rows());
    let lens = engine.context.lens_hidden(&engine.sequence).unwrap();
    engine.run(n_layer - 1..n_layer, &all_rows());
    let difference = max_difference(&lens, &engine.logits());
    assert!(difference < tolerance, "{arch}: {difference}");
    lens
}

fn lenses_and_values_leave_the_prompt_as_it_was(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let plain = engine.dense_with_cuts(&[]);
        engine.begin();
        for il in 0..engine.n_layer() {
            let all = all_rows();
            let probed = Range {
                probe: Some(Probe::Contribution { il }),
                ..range(il..il + 1, &all)
            };
            engine.context.run(&engine.sequence, &probed).unwrap();
            engine.context.lens_attention(&engine.sequence, il).unwrap();
            if il + 1 < engine.n_layer() {
                engine.context.lens_hidden(&engine.sequence).unwrap();
            }
            let l1 = engine.context.value_norms(&engine.sequence, il, N_ROWS).unwrap();
            assert!(l1.iter().all(|l1| *l1 > 0.0), "{arch:?} layer {il}");
            let logits = engine.context.logits(None).map(<[f32]>::to_vec);
            if il + 1 == engine.n_layer() {
                device.assert_same(&logits.unwrap(), &plain, &format!("{arch:?}"));
            } else {
                assert_ne!(logits, Some(plain.clone()), "{arch:?} layer {il}");
            }
        }
    }
}

/// The cache stores values by token with flash attention and by dimension without; rows that were dropped have none.
fn value_norms_are_those_of_the_rows_that_a_layer_holds(device: Device) {
    let model = load_on(device, Arch::Llama);
    let rest: Vec<i32> = all_rows()
        .into_iter()
        .filter(|row| !(10..20).contains(row))
        .collect();
    let norms = |setup: Setup| {
        let mut engine = engine(&model, setup, &every_layer(&model));
        engine.begin();
        engine.run(0..2, &all_rows());
        engine.run(2..3, &rest);
        [1, 2].map(|il| engine.context.value_norms(&engine.sequence, il, N_ROWS).unwrap())
    };
    let [by_dimension, by_token] = [FlashAttention::Off, FlashAttention::On].map(|flash_attn| {
        norms(Setup {
            flash_attn,
            kv_type: F16,
            n_ubatch: 512,
        })
    });
    for (il, (a, b)) in by_dimension.iter().zip(&by_token).enumerate() {
        for (row, (a, b)) in a.iter().zip(b).enumerate() {
            let is_dropped = il == 1 && (10..20).contains(&row);
            assert_eq!((a.is_nan(), b.is_nan()), (is_dropped, is_dropped), "row {row}");
            assert!(is_dropped || (a - b).abs() < 2e-2 * b, "row {row}: {a} {b}");
        }
    }
}

/// Ctrl-C in the middle of a lens is no failure, and the prompt can go on.
#[test]
fn a_stop_in_a_lens_is_told_from_a_failure() {
    let model = load(Arch::Llama);
    let mut engine = engine(&model, EXACT, &every_layer(&model));
    engine.begin();
    engine.run(0..1, &all_rows());
    let lens = engine.context.lens_hidden(&engine.sequence).unwrap();
    let sequence = &engine.sequence;
    for stopped in [
        engine
            .context
            .watching(&AtomicBool::new(true), |context| context.lens_hidden(sequence)),
        engine.context.watching(&AtomicBool::new(true), |context| {
            context.value_norms(sequence, 0, N_ROWS)
        }),
    ] {
        assert_eq!(stopped.unwrap_err().status, Status::Aborted);
    }
    assert_eq!(engine.context.lens_hidden(&engine.sequence).unwrap(), lens);
}

#[test]
fn what_is_not_there_is_refused() {
    let model = load(Arch::Llama);
    let mut staged = engine(&model, EXACT, &every_layer(&model));
    staged.begin();
    let refused = |result: Result<Vec<f32>, Error>, part: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(
        staged.context.lens_hidden(&staged.sequence),
        "not between two ranges",
    );
    refused(
        staged.context.lens_attention(&staged.sequence, 0),
        "layer 0 was not probed",
    );
    refused(
        staged.context.lens_attention(&staged.sequence, 8),
        "layer 8 of a model with 8 layers",
    );
    refused(
        staged.context.value_norms(&staged.sequence, 3, N_ROWS),
        "layer 3 holds no tokens",
    );
    refused(
        staged.context.value_norms(&staged.sequence, 9, N_ROWS),
        "layer 9 of a model with 8 layers",
    );

    let mut stock = engine(&model, EXACT, &[]);
    refused(stock.context.lens_hidden(&stock.sequence), "without KV groups");
    refused(
        stock.context.value_norms(&stock.sequence, 0, N_ROWS),
        "without KV groups",
    );

    let mut rotated = engine(&model, SETUPS[3], &every_layer(&model));
    rotated.begin();
    rotated.run(0..1, &all_rows());
    refused(
        rotated.context.value_norms(&rotated.sequence, 0, N_ROWS),
        "F16 cache",
    );
}
