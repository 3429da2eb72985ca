//! Any cut of the layers equals one graph, and one graph equals a stock decode, bit for bit.

use super::*;

#[test]
fn any_cut_equals_one_graph_bit_for_bit() {
    for arch in ARCHS {
        let model = load(arch);
        for setup in SETUPS {
            let mut engine = engine(&model, setup, &every_layer(&model));
            let n_layer = engine.n_layer();
            let whole = engine.dense_with_cuts(&[]);
            for cut in 1..n_layer {
                assert_eq!(
                    engine.dense_with_cuts(&[cut]),
                    whole,
                    "{arch:?} {setup:?}, cut before layer {cut}"
                );
            }
            let everywhere: Vec<usize> = (1..n_layer).collect();
            assert_eq!(
                engine.dense_with_cuts(&everywhere),
                whole,
                "{arch:?} {setup:?}, cut everywhere"
            );
        }
    }
}

#[test]
fn a_staged_run_without_cuts_equals_a_stock_decode_bit_for_bit() {
    for arch in ARCHS {
        let model = load(arch);
        for setup in SETUPS {
            staged_equals_stock(&model, setup, &format!("{arch:?}"));
        }
    }
}

pub(super) fn staged_equals_stock(model: &Arc<Model>, setup: Setup, arch: &str) {
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
    assert_eq!(staged.logits(), stock.logits(), "{arch} {setup:?}, prefill");

    for step in 0..4 {
        for engine in [&mut stock, &mut staged] {
            engine.decode(5 + step, N + step);
        }
        assert_eq!(staged.logits(), stock.logits(), "{arch} {setup:?}, decode {step}");
    }
}

#[test]
fn a_range_in_several_calls_equals_one_call() {
    for arch in ARCHS {
        let model = load(arch);
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let whole = engine.dense_with_cuts(&[]);
        engine.begin();
        for layers in [0..3, 3..engine.n_layer()] {
            for rows in [0..N_BEFORE as i32, N_BEFORE as i32..30, 30..N_ROWS as i32] {
                engine.run(layers.clone(), &rows.collect::<Vec<_>>());
            }
        }
        let difference = max_difference(&engine.logits(), &whole);
        assert!(difference < 1e-4, "{arch:?}: {difference}");
    }
}
