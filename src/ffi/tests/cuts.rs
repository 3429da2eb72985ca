//! Any cut of the layers equals one graph, and one graph equals a stock decode, bit for bit.

use super::*;

test_device!(
    any_cut_equals_one_graph_bit_for_bit,
    a_staged_run_without_cuts_equals_a_stock_decode_bit_for_bit,
    a_range_in_several_calls_equals_one_call,
);

fn any_cut_equals_one_graph_bit_for_bit(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        for setup in SETUPS {
            let mut engine = engine(&model, setup, &every_layer(&model));
            let n_layer = engine.n_layer();
            let whole = engine.dense_with_cuts(&[]);
            for cut in 1..n_layer {
                device.assert_same(
                    &engine.dense_with_cuts(&[cut]),
                    &whole,
                    &format!("{arch:?} {setup:?}, cut before layer {cut}"),
                );
            }
            let everywhere: Vec<usize> = (1..n_layer).collect();
            device.assert_same(
                &engine.dense_with_cuts(&everywhere),
                &whole,
                &format!("{arch:?} {setup:?}, cut everywhere"),
            );
        }
    }
}

fn a_staged_run_without_cuts_equals_a_stock_decode_bit_for_bit(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        for setup in SETUPS {
            staged_equals_stock(&model, setup, &format!("{arch:?}"));
        }
    }
}

pub(super) fn staged_equals_stock(model: &Loaded, setup: Setup, arch: &str) {
    const N: i32 = 17;
    let mut stock = engine(model, setup, &[]);
    let mut staged = engine(model, setup, &every_layer(model));
    let n_pos = model.n_pos_per_embd();
    let token: Vec<i32> = (0..N).map(|i| 3 + 7 * i).collect();
    let pos: Vec<i32> = (0..N)
        .flat_map(|i| if n_pos == 1 { vec![i] } else { vec![i, i, i, 0] })
        .collect();
    let rows: Vec<i32> = (0..N).collect();
    for engine in [&mut stock, &mut staged] {
        engine
            .begin_with(&Rows {
                token: &token,
                embd: &[],
                pos: &pos,
            })
            .unwrap();
        engine.run(0..model.n_layer(), &rows);
    }
    let compare = |staged: &mut Engine, stock: &mut Engine, what: &str| {
        let what = format!("{arch} {setup:?}, {what}");
        model.device.assert_same(&staged.logits(), &stock.logits(), &what);
    };
    compare(&mut staged, &mut stock, "prefill");

    for step in 0..4 {
        for engine in [&mut stock, &mut staged] {
            engine.decode(5 + step, N + step);
        }
        compare(&mut staged, &mut stock, &format!("decode {step}"));
    }
}

fn a_range_in_several_calls_equals_one_call(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let whole = engine.dense_with_cuts(&[]);
        engine.begin();
        for layers in [0..3, 3..engine.n_layer()] {
            for rows in [0..N_BEFORE as i32, N_BEFORE as i32..30, 30..N_ROWS as i32] {
                engine.run(layers.clone(), &rows.collect::<Vec<_>>());
            }
        }
        let difference = max_difference(&engine.logits(), &whole);
        assert!(difference < device.logits(1e-4), "{arch:?}: {difference}");
    }
}
