//! Calls of several ubatches against calls of one, with every statistic.
//!
//! On the model that ships: where ubatches are short, the probe of a layer takes more memory than anything else in a
//! call, and the compute buffers grow in the middle of a prompt.

use super::*;

/// As many rows as the prompts of the shipped model have.
const N_LONG: usize = 76;
const FIRST_VISION: usize = 5;
const N_LONG_VISION: usize = 64;

/// One ubatch, then ubatches of equal and of unequal length.
const N_UBATCH: [u32; 5] = [128, 12, 16, 32, 64];

/// Kernels are chosen by the number of rows, and each adds in an order of its own.
const TOLERANCE: f32 = 0.02;

/// What one layer said.
type Statistics = Vec<(&'static str, Vec<f32>)>;

test_device!(a_probe_does_not_notice_ubatches);

fn a_probe_does_not_notice_ubatches(device: Device) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-llava-shapes-f16.gguf");
    let model = load_file(device, Path::new(path));
    for flash_attn in [FlashAttention::Off, FlashAttention::On] {
        let mut whole: Option<Vec<Statistics>> = None;
        for n_ubatch in N_UBATCH {
            let setup = Setup {
                flash_attn,
                kv_type: F16,
                n_ubatch,
            };
            let statistics = probe_every_layer(&model, setup);
            let whole = whole.get_or_insert_with(|| statistics.clone());
            let mut n_compared = 0;
            for (il, (layer, whole)) in statistics.iter().zip(whole.iter()).enumerate() {
                for (name, values) in layer {
                    let (_, expected) = whole.iter().find(|(other, _)| other == name).unwrap();
                    assert!(
                        values.iter().all(|value| value.is_finite()),
                        "{setup:?}, layer {il}, {name}"
                    );
                    let largest = expected.iter().copied().fold(0.0, |a: f32, b| a.max(b.abs()));
                    let difference = max_difference(values, expected) / largest;
                    assert!(
                        difference < TOLERANCE,
                        "{setup:?}, layer {il}, {name}: differs by {difference}"
                    );
                    n_compared += 1;
                }
            }
            assert!(n_compared >= 2 * model.n_layer(), "{setup:?}");
        }
    }
}

/// Runs a prompt layer by layer, three times: each statistic in every layer. Attention that is refused in calls of
/// several ubatches is left out.
fn probe_every_layer(model: &Arc<Model>, setup: Setup) -> Vec<Statistics> {
    let mut engine = engine(model, setup, &every_layer(model));
    let rows: Vec<i32> = (0..N_LONG as i32).collect();
    let last = [N_LONG as i32 - 1];
    let text: Vec<i32> = (FIRST_VISION + N_LONG_VISION..N_LONG)
        .map(|row| row as i32)
        .collect();
    let mut res = vec![Vec::new(); model.n_layer()];

    begin_long(&mut engine);
    for (il, res) in res.iter_mut().enumerate() {
        let probed = Range {
            probe: Some(Probe::Contribution { il }),
            ..range(il..il + 1, &rows)
        };
        engine.context.run(&engine.sequence, &probed).unwrap();
        let (norm2, dot, output_norm2) = engine
            .context
            .contributions(&engine.sequence, il, N_LONG)
            .unwrap();
        res.push(("norm2", norm2));
        res.push(("dot", dot));
        res.push(("output norm2", vec![output_norm2]));
    }
    res.last_mut().unwrap().push(("logits", engine.logits()));

    for (name, queries) in [("last attention", &last[..]), ("text attention", &text)] {
        begin_long(&mut engine);
        for (il, res) in res.iter_mut().enumerate() {
            let probed = Range {
                probe: Some(Probe::Attention { il, queries }),
                ..range(il..il + 1, &rows)
            };
            match engine.context.run(&engine.sequence, &probed) {
                Ok(()) => res.push((
                    name,
                    engine.context.attention(&engine.sequence, il, N_LONG).unwrap(),
                )),
                Err(error) => {
                    assert!(setup.n_ubatch < N_LONG as u32, "{error:?}");
                    assert!(error.message.contains("one ubatch"), "{error:?}");
                    engine.run(il..il + 1, &rows);
                }
            }
        }
    }
    res
}

fn begin_long(engine: &mut Engine) {
    let model = Arc::clone(&engine.model);
    let mut rng = Rng::new(5);
    let is_vision = |row: usize| (FIRST_VISION..FIRST_VISION + N_LONG_VISION).contains(&row);
    let token: Vec<i32> = (0..N_LONG)
        .map(|row| match row {
            0 => 1,
            _ if is_vision(row) => -1,
            _ => 3 + rng.below(model.n_vocab() - 3) as i32,
        })
        .collect();
    let embd: Vec<f32> = (0..N_LONG_VISION * model.n_embd_inp())
        .map(|_| 0.5 * rng.normal() as f32)
        .collect();
    let pos: Vec<i32> = (0..N_LONG as i32).collect();
    let rows = RandomRows { token, embd, pos };
    engine.begin_with(&rows.as_rows()).unwrap();
}
