//! What is read from a layer: contributions, attention, hidden rows.

use super::*;

test_device!(
    contributions_sum_up_to_the_output,
    a_probe_knows_which_rows_a_layer_holds,
    the_attention_of_rows_is_a_distribution_each_and_adds_up,
    hidden_rows_are_there_between_ranges_only,
    token_embeddings_are_what_the_first_layer_sees,
);

fn contributions_sum_up_to_the_output(device: Device) {
    for &arch in archs(device) {
        let model = load_on(device, arch);
        for setup in SETUPS {
            contributions_add_up(&model, setup, &format!("{arch:?}"));
        }
    }
}

pub(super) fn contributions_add_up(model: &Loaded, setup: Setup, arch: &str) {
    let mut engine = engine(model, setup, &every_layer(model));
    let n_layer = engine.n_layer();
    let plain = engine.dense_with_cuts(&[]);
    engine.begin();
    for il in 0..n_layer {
        let all = all_rows();
        let probed = Range {
            probe: Some(Probe::Contribution { il }),
            ..range(il..il + 1, &all)
        };
        engine.context.run(&engine.sequence, &probed).unwrap();
        let (norm2, dot, output_norm2) = engine
            .context
            .contributions(&engine.sequence, il, N_ROWS)
            .unwrap();
        let sum: f64 = dot.iter().map(|&x| f64::from(x)).sum();
        let relative = (sum / f64::from(output_norm2) - 1.0).abs();
        let tolerance = f64::from(model.device.weights(2e-3));
        assert!(relative < tolerance, "{arch} {setup:?} layer {il}: {relative}");
        // |o.c| <= ||o|| ||c||
        for (dot, norm2) in dot.iter().zip(&norm2) {
            assert!(
                dot * dot <= 1.01 * norm2 * output_norm2 + 1e-9,
                "{arch} {setup:?} layer {il}"
            );
        }
    }
    let what = format!("{arch} {setup:?}: probing changed the result");
    model.device.assert_same(&engine.logits(), &plain, &what);
}

fn a_probe_knows_which_rows_a_layer_holds(device: Device) {
    let model = load_on(device, Arch::Llama);
    let mut engine = engine(&model, EXACT, &every_layer(&model));
    let rest: Vec<i32> = all_rows()
        .into_iter()
        .filter(|row| !(10..20).contains(row))
        .collect();
    engine.begin();
    engine.run(0..2, &all_rows());
    engine
        .context
        .run(
            &engine.sequence,
            &Range {
                probe: Some(Probe::Contribution { il: 2 }),
                ..range(2..4, &rest)
            },
        )
        .unwrap();
    let (norm2, dot, _) = engine.context.contributions(&engine.sequence, 2, N_ROWS).unwrap();
    for row in 0..N_ROWS {
        let is_held = rest.contains(&(row as i32));
        assert_eq!(norm2[row].is_finite(), is_held, "row {row}");
        assert_eq!(dot[row].is_finite(), is_held, "row {row}");
    }
    assert!(
        engine.context.contributions(&engine.sequence, 3, N_ROWS).is_err(),
        "layer 3 was not probed"
    );
}

fn the_attention_of_rows_is_a_distribution_each_and_adds_up(device: Device) {
    let queries = [3, (N_BEFORE + 7) as i32, (N_ROWS - 2) as i32, (N_ROWS - 1) as i32];
    for &arch in archs(device) {
        let model = load_on(device, arch);
        for setup in [EXACT, SETUPS[2]] {
            let mut engine = engine(&model, setup, &every_layer(&model));
            let n_layer = engine.n_layer();
            let plain = engine.dense_with_cuts(&[]);
            for il in 0..n_layer {
                let mut attention_of = |queries: &[i32]| {
                    engine.begin();
                    if il > 0 {
                        engine.run(0..il, &all_rows());
                    }
                    let all = all_rows();
                    let probe = Some(Probe::Attention { il, queries });
                    let probed = Range {
                        probe,
                        ..range(il..n_layer, &all)
                    };
                    engine.context.run(&engine.sequence, &probed).unwrap();
                    let what = format!("{arch:?} {setup:?}: probing changed the result");
                    device.assert_same(&engine.logits(), &plain, &what);
                    engine.context.attention(&engine.sequence, il, N_ROWS).unwrap()
                };
                let mut sum = vec![0.0; N_ROWS];
                for query in queries {
                    let weight = attention_of(&[query]);
                    let total: f32 = weight.iter().sum();
                    assert!(
                        (total - 1.0).abs() < device.weights(2e-3),
                        "{arch:?} {setup:?} layer {il} row {query}: {total}"
                    );
                    assert!(weight.iter().all(|&weight| weight >= 0.0));
                    assert!(
                        weight[query as usize + 1..].iter().all(|&weight| weight == 0.0),
                        "{arch:?} {setup:?} layer {il}: row {query} sees later rows"
                    );
                    sum.iter_mut()
                        .zip(weight)
                        .for_each(|(sum, weight)| *sum += weight);
                }
                let difference = max_difference(&attention_of(&queries), &sum);
                let tolerance = device.weights(1e-5);
                assert!(
                    difference < tolerance,
                    "{arch:?} {setup:?} layer {il}: {difference}"
                );
            }
        }
    }
}

#[test]
fn a_probe_is_read_as_what_was_asked_for() {
    let model = load(Arch::Llama);
    let mut engine = engine(&model, EXACT, &every_layer(&model));
    let all = all_rows();
    let last = [N_ROWS as i32 - 1];
    let probes = [
        Probe::Contribution { il: 0 },
        Probe::Attention {
            il: 1,
            queries: &last,
        },
    ];
    engine.begin();
    for (il, probe) in probes.into_iter().enumerate() {
        let probed = Range {
            probe: Some(probe),
            ..range(il..il + 1, &all)
        };
        engine.context.run(&engine.sequence, &probed).unwrap();
    }
    assert!(engine.context.contributions(&engine.sequence, 0, N_ROWS).is_ok());
    assert!(engine.context.attention(&engine.sequence, 0, N_ROWS).is_err());
    assert!(engine.context.contributions(&engine.sequence, 1, N_ROWS).is_err());
    assert!(engine.context.attention(&engine.sequence, 1, N_ROWS).is_ok());
}

fn hidden_rows_are_there_between_ranges_only(device: Device) {
    let model = load_on(device, Arch::Llama);
    let mut engine = engine(&model, EXACT, &every_layer(&model));
    let n_layer = engine.n_layer();
    let rows = [2, 11, N_ROWS as i32 - 1];
    engine.begin();
    assert!(
        engine.context.hidden(&engine.sequence, &rows).is_err(),
        "nothing has run"
    );
    engine.run(0..2, &all_rows());
    let after_two = engine.context.hidden(&engine.sequence, &rows).unwrap();
    assert_eq!(after_two.len(), rows.len() * model.n_embd());
    engine.run(2..n_layer, &all_rows());
    assert!(
        engine.context.hidden(&engine.sequence, &rows).is_err(),
        "all has run"
    );

    engine.begin();
    engine.run(0..1, &all_rows());
    assert_ne!(engine.context.hidden(&engine.sequence, &rows).unwrap(), after_two);
    engine.run(1..2, &all_rows());
    let again = engine.context.hidden(&engine.sequence, &rows).unwrap();
    device.assert_same(&again, &after_two, "layer by layer");
}

fn token_embeddings_are_what_the_first_layer_sees(device: Device) {
    let model = load_on(device, Arch::Llama);
    let token = [1, 17, 42, 5];
    let embd = model.token_embd(&token).unwrap();
    let logits = |token: &[i32], embd: &[f32]| {
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let pos = [0, 1, 2, 3];
        engine
            .begin_with(&Rows {
                token,
                embd,
                pos: &pos,
            })
            .unwrap();
        engine.run(0..model.n_layer(), &pos);
        engine.logits()
    };
    device.assert_same(&logits(&token, &[]), &logits(&[-1; 4], &embd), "as embeddings");
    assert!(model.token_embd(&[model.n_vocab() as i32]).is_err());
    assert!(model.token_embd(&[-1]).is_err());
}
