//! Bad arguments and aborted calls come back as errors, and leave an engine that works.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn bad_arguments_are_errors_and_change_nothing() {
    let model = load(Arch::Llama);
    let groups: Vec<KvGroup> = [0, 2, 5]
        .map(|il_begin| KvGroup { il_begin, n_cells: 0 })
        .to_vec();
    let mut engine = engine(&model, EXACT, &groups);
    let n_layer = engine.n_layer();
    let all = all_rows();
    let whole = engine.dense_with_cuts(&[2, 5]);
    engine.begin();
    engine.run(0..2, &all);
    let plain = |layers| range(layers, &all);
    let masked = Range {
        mode: AttentionMode::Mask,
        ..plain(2..5)
    };
    let attention = |rows, queries| Range {
        probe: Some(Probe::Attention { il: 2, queries }),
        ..range(2..5, rows)
    };
    let refused = [
        ("not a union of groups", plain(2..4)),
        ("no layers", plain(2..2)),
        (
            "descending layers",
            Range {
                il_end: 2,
                ..plain(5..6)
            },
        ),
        ("past the last layer", plain(2..n_layer + 1)),
        ("not due yet", plain(5..n_layer)),
        ("done already", plain(0..2)),
        ("no rows", range(2..5, &[])),
        ("unknown row", range(2..5, &[0, N_ROWS as i32])),
        ("negative row", range(2..5, &[-1])),
        ("rows out of order", range(2..5, &[4, 3])),
        ("a row twice", range(2..5, &[3, 3])),
        ("no hidden keys", masked),
        (
            "unknown hidden key",
            Range {
                hidden: &[N_ROWS as i32],
                ..masked
            },
        ),
        (
            "probe outside of the range",
            Range {
                probe: Some(Probe::Contribution { il: 5 }),
                ..plain(2..5)
            },
        ),
        (
            "probe without the last row",
            Range {
                probe: Some(Probe::Contribution { il: 2 }),
                ..range(2..5, &[0, 1])
            },
        ),
        ("attention without queries", attention(&all, &[])),
        ("attention of a row that is not run", attention(&all[..9], &[9])),
        ("attention of rows out of order", attention(&all, &[8, 7])),
        (
            "probe of changed weights",
            Range {
                probe: Some(Probe::Contribution { il: 2 }),
                mode: AttentionMode::Zero,
                hidden: &[7],
                ..plain(2..5)
            },
        ),
    ];
    for (what, range) in refused {
        let error = engine.context.run(&engine.sequence, &range).expect_err(what);
        assert_eq!(error.status, Status::BadArgument, "{what}: {error}");
        assert!(!error.message.is_empty(), "{what}");
    }
    engine.run(2..5, &all);
    engine.run(5..n_layer, &all);
    assert_eq!(engine.logits(), whole, "a refused call left something behind");
}

#[test]
fn bad_prompts_and_groups_are_errors() {
    let model = load(Arch::Llama);
    let mut engine = engine(&model, EXACT, &every_layer(&model));
    let mut begin = |token: &[i32]| {
        let pos: Vec<i32> = (0..token.len() as i32).collect();
        engine.begin_with(&Rows {
            token,
            embd: &[],
            pos: &pos,
        })
    };
    assert!(begin(&[]).is_err(), "an empty prompt");
    assert!(begin(&[5; 257]).is_err(), "a prompt longer than the context");
    assert!(
        begin(&[model.n_vocab() as i32]).is_err(),
        "a token past the vocabulary"
    );
    assert!(begin(&[5; 256]).is_ok());

    let mut stock = super::engine(&model, EXACT, &[]);
    stock.begin();
    let refused = stock.context.run(&stock.sequence, &range(0..2, &all_rows()));
    assert!(refused.is_err(), "a range in a context without KV groups");

    for il_begins in [&[1][..], &[0, 3, 3], &[0, 4, 2], &[0, model.n_layer()]] {
        let groups: Vec<KvGroup> = il_begins
            .iter()
            .map(|&il_begin| KvGroup { il_begin, n_cells: 0 })
            .collect();
        assert!(
            Context::new(&model, &context_params(EXACT), &groups).is_err(),
            "{il_begins:?}"
        );
    }
}

#[test]
fn an_aborted_run_leaves_an_engine_that_works() {
    let model = load(Arch::Llama);
    let mut engine = engine(&model, EXACT, &every_layer(&model));
    let n_layer = engine.n_layer();
    let whole = engine.dense_with_cuts(&[]);
    engine.begin();
    engine.run(0..3, &all_rows());
    let stop = AtomicBool::new(true);
    let all = all_rows();
    let error = engine
        .context
        .watching(&stop, |context| {
            context.run(&engine.sequence, &range(3..n_layer, &all))
        })
        .unwrap_err();
    assert_eq!(error.status, Status::Aborted, "{error}");
    assert_eq!(
        engine.context.kv_usage(3).unwrap().n_cells,
        0,
        "nothing of the call is left"
    );
    stop.store(false, Ordering::Relaxed);
    engine.run(3..n_layer, &all_rows());
    assert_eq!(engine.logits(), whole, "the call can be repeated");
}
