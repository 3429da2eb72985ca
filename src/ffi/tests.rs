//! The staged engine against itself, for every architecture that it accepts: cuts change nothing, dropped rows equal
//! masked rows, the probe's sums are the attention output, and bad arguments come back as errors.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::ffi::CString;
use std::ops::Range as Layers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::random_model::{Arch, RandomLlm};
use common::rng::Rng;

use super::*;

const ARCHS: [Arch; 5] = [Arch::Llama, Arch::Qwen2, Arch::Qwen3, Arch::Qwen2Vl, Arch::Gemma3];

/// Numbers of `ggml_type`.
const F32: u32 = 0;
const F16: u32 = 1;
const Q8_0: u32 = 8;

/// Text before the image, vision (a square grid), text after it.
const N_BEFORE: usize = 5;
const GRID: usize = 6;
const N_VISION: usize = GRID * GRID;
const N_AFTER: usize = 9;
const N_ROWS: usize = N_BEFORE + N_VISION + N_AFTER;

/// What a test varies: how attention is computed, what the cache holds, how many rows a graph takes.
#[derive(Debug, Clone, Copy)]
struct Setup {
    flash_attn: FlashAttention,
    kv_type: u32,
    n_ubatch: u32,
}

const SETUPS: [Setup; 4] = [
    Setup {
        flash_attn: FlashAttention::Off,
        kv_type: F32,
        n_ubatch: 512,
    },
    Setup {
        flash_attn: FlashAttention::Off,
        kv_type: F16,
        n_ubatch: 16,
    },
    Setup {
        flash_attn: FlashAttention::On,
        kv_type: F16,
        n_ubatch: 512,
    },
    Setup {
        flash_attn: FlashAttention::On,
        kv_type: Q8_0,
        n_ubatch: 16,
    },
];

/// Without rounding in the cache or in flash attention, what differs is the order of additions.
const EXACT: Setup = SETUPS[0];

struct Engine {
    model: Arc<Model>,
    context: Context,
    cancel: Arc<AtomicBool>,
}

fn load(arch: Arch) -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    RandomLlm::new(arch, 11).write(&path);
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let params = ModelParams {
        n_gpu_layers: 0,
        use_mmap: false,
        use_mlock: false,
        main_gpu: None,
    };
    Arc::new(Model::load(&path, &params, &mut |_| true).unwrap())
}

fn context_params(setup: Setup) -> ContextParams {
    ContextParams {
        n_ctx: 256,
        n_batch: 256,
        n_ubatch: setup.n_ubatch,
        n_threads: 1, // tests run side by side
        n_threads_batch: 1,
        flash_attn: setup.flash_attn,
        type_k: setup.kv_type,
        type_v: setup.kv_type,
        offload_kqv: true,
    }
}

/// A KV group per layer.
fn every_layer(model: &Model) -> Vec<KvGroup> {
    (0..model.n_layer())
        .map(|il_begin| KvGroup { il_begin, n_cells: 0 })
        .collect()
}

fn engine(model: &Arc<Model>, setup: Setup, groups: &[KvGroup]) -> Engine {
    let cancel = Arc::new(AtomicBool::new(false));
    let context = Context::new(model, &context_params(setup), groups, Arc::clone(&cancel)).unwrap();
    Engine {
        model: Arc::clone(model),
        context,
        cancel,
    }
}

struct Rows {
    token: Vec<i32>,
    embd: Vec<f32>,
    pos: Vec<i32>,
}

/// A prompt of random tokens around a random image, with the positions that the model's kind of RoPE gives it.
fn prompt(model: &Model) -> Rows {
    let mut rng = Rng::new(3);
    let is_vision = |row: usize| (N_BEFORE..N_BEFORE + N_VISION).contains(&row);
    let token = (0..N_ROWS)
        .map(|row| match row {
            0 => 1,
            _ if is_vision(row) => -1,
            _ => 3 + rng.below(model.n_vocab() - 3) as i32,
        })
        .collect();
    let embd = (0..N_VISION * model.n_embd_inp())
        .map(|_| 0.5 * rng.normal() as f32)
        .collect();
    let pos = (0..N_ROWS)
        .flat_map(|row| positions(row, is_vision(row), model.n_pos_per_embd()))
        .collect();
    Rows { token, embd, pos }
}

fn positions(row: usize, is_vision: bool, n_pos_per_embd: usize) -> Vec<i32> {
    if n_pos_per_embd == 1 {
        return vec![row as i32];
    }
    let before = N_BEFORE as i32;
    if is_vision {
        let patch = row - N_BEFORE;
        return vec![
            before,
            before + (patch / GRID) as i32,
            before + (patch % GRID) as i32,
            0,
        ];
    }
    // the image takes as many positions as its longer side
    let pos = if row < N_BEFORE {
        row
    } else {
        row - N_VISION + GRID
    } as i32;
    vec![pos, pos, pos, 0]
}

fn vision_rows() -> Vec<i32> {
    (N_BEFORE as i32..(N_BEFORE + N_VISION) as i32).collect()
}

fn all_rows() -> Vec<i32> {
    (0..N_ROWS as i32).collect()
}

fn range<'a>(layers: Layers<usize>, rows: &'a [i32]) -> Range<'a> {
    Range {
        il_begin: layers.start,
        il_end: layers.end,
        rows,
        mode: AttentionMode::Plain,
        hidden: &[],
        affected: None,
        probe_il: None,
        causal: true,
    }
}

impl Engine {
    fn n_layer(&self) -> usize {
        self.model.n_layer()
    }

    fn begin(&mut self) {
        let Rows { token, embd, pos } = prompt(&self.model);
        self.context.clear();
        self.context
            .prompt_begin(&Prompt {
                token: &token,
                embd: &embd,
                pos: &pos,
            })
            .unwrap();
    }

    fn run(&mut self, layers: Layers<usize>, rows: &[i32]) {
        self.context.prompt_run(&range(layers, rows)).unwrap();
    }

    fn logits(&mut self) -> Vec<f32> {
        self.context.logits().unwrap().to_vec()
    }

    /// All rows through all layers, cut before the given layers.
    fn dense_with_cuts(&mut self, cuts: &[usize]) -> Vec<f32> {
        self.begin();
        let mut il = 0;
        for end in cuts.iter().copied().chain([self.n_layer()]) {
            self.run(il..end, &all_rows());
            il = end;
        }
        self.logits()
    }
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

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
        let token: Vec<i32> = (0..20).map(|i| 3 + 7 * i).collect();
        for setup in SETUPS {
            let mut stock = engine(&model, setup, &[]);
            stock.context.decode_tokens(&token, 0, true).unwrap();

            let mut staged = engine(&model, setup, &every_layer(&model));
            let n_pos = model.n_pos_per_embd();
            let pos: Vec<i32> = (0..20)
                .flat_map(|i| if n_pos == 1 { vec![i] } else { vec![i, i, i, 0] })
                .collect();
            staged
                .context
                .prompt_begin(&Prompt {
                    token: &token,
                    embd: &[],
                    pos: &pos,
                })
                .unwrap();
            let rows: Vec<i32> = (0..20).collect();
            staged.run(0..model.n_layer(), &rows);
            assert_eq!(staged.logits(), stock.logits(), "{arch:?} {setup:?}, prefill");

            for step in 0..4 {
                for engine in [&mut stock, &mut staged] {
                    engine
                        .context
                        .decode_tokens(&[5 + step], 20 + step, true)
                        .unwrap();
                }
                assert_eq!(
                    staged.logits(),
                    stock.logits(),
                    "{arch:?} {setup:?}, decode {step}"
                );
            }
        }
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

#[test]
fn dropped_rows_equal_masked_rows() {
    let (kept, dropped): (Vec<i32>, Vec<i32>) = vision_rows().into_iter().partition(|row| row % 9 == 0);
    let rest: Vec<i32> = all_rows()
        .into_iter()
        .filter(|row| !dropped.contains(row))
        .collect();
    assert!(!kept.is_empty());
    for arch in ARCHS {
        let model = load(arch);
        // flash attention rounds the values to F16 and blocks the keys differently
        for (setup, tolerance) in [(EXACT, 1e-4), (SETUPS[2], 2e-2)] {
            let mut engine = engine(&model, setup, &every_layer(&model));
            let n_layer = engine.n_layer();
            let dense = engine.dense_with_cuts(&[]);

            engine.begin();
            engine.run(0..3, &all_rows());
            engine.run(3..n_layer, &rest);
            let when_dropped = engine.logits();
            assert_eq!(engine.context.kv_usage(2).unwrap().n_cells as usize, N_ROWS);
            assert_eq!(engine.context.kv_usage(3).unwrap().n_cells as usize, rest.len());

            engine.begin();
            engine.run(0..3, &all_rows());
            let masked = Range {
                mode: AttentionMode::Mask,
                hidden: &dropped,
                ..range(3..n_layer, &rest)
            };
            let all = all_rows();
            engine
                .context
                .prompt_run(&Range { rows: &all, ..masked })
                .unwrap();
            let when_masked = engine.logits();

            let difference = max_difference(&when_dropped, &when_masked);
            assert!(difference < tolerance, "{arch:?} {setup:?}: {difference}");
            assert!(
                max_difference(&when_dropped, &dense) > 0.1,
                "{arch:?}: dropping rows changed nothing"
            );
        }
    }
}

#[test]
fn merging_one_key_onto_itself_changes_nothing_and_zeroing_it_does() {
    let key = [N_BEFORE as i32 + 4];
    for arch in ARCHS {
        let model = load(arch);
        for setup in SETUPS {
            let mut engine = engine(&model, setup, &every_layer(&model));
            let n_layer = engine.n_layer();
            let plain = engine.dense_with_cuts(&[2]);
            let mut run_with = |mode| {
                let all = all_rows();
                engine.begin();
                engine
                    .context
                    .prompt_run(&Range {
                        mode,
                        hidden: &key,
                        ..range(0..2, &all)
                    })
                    .unwrap();
                engine.run(2..n_layer, &all);
                engine.logits()
            };
            let merged = max_difference(&run_with(AttentionMode::Merge), &plain);
            // a quantized cache is read as F32 where values are changed, and as it is where they are not
            let tolerance = if setup.kv_type == Q8_0 { 1e-1 } else { 2e-2 };
            assert!(merged < tolerance, "{arch:?} {setup:?}: {merged}");
            let zeroed = max_difference(&run_with(AttentionMode::Zero), &plain);
            assert!(
                zeroed > merged,
                "{arch:?} {setup:?}: zeroing a key changed nothing"
            );
        }
    }
}

#[test]
fn contributions_sum_up_to_the_output() {
    for arch in ARCHS {
        let model = load(arch);
        for setup in SETUPS {
            let mut engine = engine(&model, setup, &every_layer(&model));
            let n_layer = engine.n_layer();
            let plain = engine.dense_with_cuts(&[]);
            engine.begin();
            for il in 0..n_layer {
                let all = all_rows();
                engine
                    .context
                    .prompt_run(&Range {
                        probe_il: Some(il),
                        ..range(il..il + 1, &all)
                    })
                    .unwrap();
                let (norm2, dot, output_norm2) = engine.context.prompt_probe(il).unwrap();
                let sum: f64 = dot.iter().map(|&x| f64::from(x)).sum();
                let relative = (sum / f64::from(output_norm2) - 1.0).abs();
                assert!(relative < 2e-3, "{arch:?} {setup:?} layer {il}: {relative}");
                // |o.c| <= ||o|| ||c||
                for (dot, norm2) in dot.iter().zip(&norm2) {
                    assert!(
                        dot * dot <= 1.01 * norm2 * output_norm2 + 1e-9,
                        "{arch:?} {setup:?} layer {il}"
                    );
                }
            }
            assert_eq!(
                engine.logits(),
                plain,
                "{arch:?} {setup:?}: probing changed the result"
            );
        }
    }
}

#[test]
fn a_probe_knows_which_rows_a_layer_holds() {
    let model = load(Arch::Llama);
    let mut engine = engine(&model, EXACT, &every_layer(&model));
    let rest: Vec<i32> = all_rows()
        .into_iter()
        .filter(|row| !(10..20).contains(row))
        .collect();
    engine.begin();
    engine.run(0..2, &all_rows());
    engine
        .context
        .prompt_run(&Range {
            probe_il: Some(2),
            ..range(2..4, &rest)
        })
        .unwrap();
    let (norm2, dot, _) = engine.context.prompt_probe(2).unwrap();
    for row in 0..N_ROWS {
        let is_held = rest.contains(&(row as i32));
        assert_eq!(norm2[row].is_finite(), is_held, "row {row}");
        assert_eq!(dot[row].is_finite(), is_held, "row {row}");
    }
    assert!(engine.context.prompt_probe(3).is_err(), "layer 3 was not probed");
}

#[test]
fn evicted_cells_are_gone_from_their_layers_only() {
    for arch in [Arch::Llama, Arch::Qwen2Vl, Arch::Gemma3] {
        let model = load(arch);
        let mut engine = engine(&model, EXACT, &every_layer(&model));
        let n_layer = engine.n_layer();
        engine.dense_with_cuts(&[]);
        let n_positions = if model.n_pos_per_embd() == 1 {
            N_VISION
        } else {
            GRID
        } as i32;
        let first = N_BEFORE as i32;
        engine.context.kv_evict(0..3, first, first + n_positions).unwrap();
        for il in 0..n_layer {
            let n_cells = if il < 3 { N_ROWS - N_VISION } else { N_ROWS };
            assert_eq!(
                engine.context.kv_usage(il).unwrap().n_cells as usize,
                n_cells,
                "{arch:?} layer {il}"
            );
        }
        let next = N_BEFORE as i32 + n_positions + N_AFTER as i32;
        engine.context.decode_tokens(&[7], next, true).unwrap();
        assert!(engine.logits().iter().all(|logit| logit.is_finite()));
    }
}

#[test]
fn a_small_group_refuses_more_rows_than_it_holds_and_takes_fewer() {
    let model = load(Arch::Llama);
    let mut groups = every_layer(&model);
    for group in &mut groups[4..] {
        group.n_cells = 256;
    }
    let mut params = context_params(EXACT);
    (params.n_ctx, params.n_batch) = (1024, 1024);
    let mut context = Context::new(&model, &params, &groups, Arc::default()).unwrap();
    let token = vec![5; 300];
    let pos: Vec<i32> = (0..300).collect();
    let rows = &pos;
    context
        .prompt_begin(&Prompt {
            token: &token,
            embd: &[],
            pos: &pos,
        })
        .unwrap();
    context.prompt_run(&range(0..4, rows)).unwrap();
    let refused = context.prompt_run(&range(4..model.n_layer(), rows)).unwrap_err();
    assert_eq!(refused.status, Status::NoSlot, "{refused}");
    context
        .prompt_run(&range(4..model.n_layer(), &rows[100..]))
        .unwrap();
    assert!(context.logits().unwrap().iter().all(|logit| logit.is_finite()));
}

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
                probe_il: Some(5),
                ..plain(2..5)
            },
        ),
        (
            "probe without the last row",
            Range {
                probe_il: Some(2),
                ..range(2..5, &[0, 1])
            },
        ),
        (
            "probe of changed weights",
            Range {
                probe_il: Some(2),
                mode: AttentionMode::Zero,
                hidden: &[7],
                ..plain(2..5)
            },
        ),
    ];
    for (what, range) in refused {
        let error = engine.context.prompt_run(&range).expect_err(what);
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
    let begin = |context: &mut Context, token: &[i32]| {
        let pos: Vec<i32> = (0..token.len() as i32).collect();
        context.prompt_begin(&Prompt {
            token,
            embd: &[],
            pos: &pos,
        })
    };
    assert!(begin(&mut engine.context, &[]).is_err(), "an empty prompt");
    assert!(
        begin(&mut engine.context, &[5; 257]).is_err(),
        "a prompt longer than the context"
    );
    assert!(
        begin(&mut engine.context, &[model.n_vocab() as i32]).is_err(),
        "a token past the vocabulary"
    );
    engine.dense_with_cuts(&[]);
    assert!(
        begin(&mut engine.context, &[5]).is_err(),
        "a second prompt in the same sequence"
    );

    let mut stock = super::tests::engine(&model, EXACT, &[]);
    assert!(
        begin(&mut stock.context, &[5]).is_err(),
        "a context without KV groups"
    );

    for il_begins in [&[1][..], &[0, 3, 3], &[0, 4, 2], &[0, model.n_layer()]] {
        let groups: Vec<KvGroup> = il_begins
            .iter()
            .map(|&il_begin| KvGroup { il_begin, n_cells: 0 })
            .collect();
        assert!(
            Context::new(&model, &context_params(EXACT), &groups, Arc::default()).is_err(),
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
    engine.cancel.store(true, Ordering::Relaxed);
    let error = engine
        .context
        .prompt_run(&range(3..n_layer, &all_rows()))
        .unwrap_err();
    assert_eq!(error.status, Status::Aborted, "{error}");
    engine.cancel.store(false, Ordering::Relaxed);
    assert!(
        engine
            .context
            .prompt_run(&range(3..n_layer, &all_rows()))
            .is_err(),
        "the prompt has to begin again"
    );
    assert_eq!(engine.dense_with_cuts(&[]), whole);
}
