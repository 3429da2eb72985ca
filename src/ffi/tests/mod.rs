//! The staged engine against itself, for architectures that differ in what their layers do (`archs` has all others).

#![cfg_attr(
    not(test),
    allow(unused, reason = "a fuzz target drives the engine by `random` alone")
)]

mod archs;
#[path = "../../../tests/common/mod.rs"]
pub(crate) mod common;
mod cuts;
#[cfg(feature = "lab")]
mod inspect;
mod probe;
pub(crate) mod random;
mod refusals;
mod rows;
mod sequences;
mod ubatches;

use std::ffi::CString;
use std::ops::Deref;
use std::ops::Range as Layers;
use std::path::Path;
use std::sync::Arc;

use common::devices::{Device, test_device};
use common::random_model::{Arch, RandomLlm};
use common::rng::Rng;

use super::*;

const ARCHS: [Arch; 7] = {
    let [a, b, c, d, e, f] = Arch::ALL;
    [a, b, c, d, e, f, Arch::Qwen3Vl]
};

/// On other devices than the CPU those that ask for kernels of their own: interleaved RoPE, M-RoPE, a sliding window.
fn archs(device: Device) -> &'static [Arch] {
    match device {
        Device::Cpu => &ARCHS,
        _ => &[Arch::Llama, Arch::Qwen2Vl, Arch::Gemma3],
    }
}

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
    sequence: Sequence,
}

/// A model, and the device that holds its layers.
struct Loaded {
    device: Device,
    model: Arc<Model>,
}

impl Deref for Loaded {
    type Target = Arc<Model>;

    fn deref(&self) -> &Arc<Model> {
        &self.model
    }
}

fn load(arch: Arch) -> Loaded {
    load_on(Device::Cpu, arch)
}

fn load_on(device: Device, arch: Arch) -> Loaded {
    load_llm(device, &RandomLlm::new(arch, 11))
}

fn load_llm(device: Device, llm: &RandomLlm) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    llm.write(&path);
    load_file(device, &path)
}

fn load_file(device: Device, path: &Path) -> Loaded {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let gpus = device
        .name()
        .map(|name| super::Device::called(&name).expect("a device"));
    let params = ModelParams {
        n_gpu_layers: -1,
        devices: Some(gpus.into_iter().collect()),
        use_mmap: false,
        use_mlock: false,
        split_mode: SplitMode::Layer,
        main_gpu: 0,
        tensor_split: Vec::new(),
    };
    let model = Model::load(&path, &params, &mut |_| true).unwrap();
    Loaded {
        device,
        model: Arc::new(model),
    }
}

fn context_params(setup: Setup) -> ContextParams {
    ContextParams {
        n_ctx: 256,
        n_seq_max: 8,
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
    let mut context = Context::new(model, &context_params(setup), groups).unwrap();
    let sequence = context.new_sequence().unwrap();
    Engine {
        model: Arc::clone(model),
        context,
        sequence,
    }
}

struct RandomRows {
    token: Vec<i32>,
    embd: Vec<f32>,
    pos: Vec<i32>,
}

impl RandomRows {
    fn as_rows(&self) -> Rows<'_> {
        Rows {
            token: &self.token,
            embd: &self.embd,
            pos: &self.pos,
        }
    }
}

/// A prompt of random tokens around a random image, with the positions that the model's kind of RoPE gives it.
fn prompt(model: &Model) -> RandomRows {
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
    RandomRows { token, embd, pos }
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
        n_spare: 0,
        mode: AttentionMode::Plain,
        hidden: &[],
        affected: None,
        probe: None,
        can_rewind: false,
        both_ways_until: None,
    }
}

impl Engine {
    fn n_layer(&self) -> usize {
        self.model.n_layer()
    }

    fn begin(&mut self) {
        self.begin_with(&prompt(&self.model).as_rows()).unwrap();
    }

    /// A new sequence with these rows.
    fn begin_with(&mut self, rows: &Rows<'_>) -> Result<(), Error> {
        self.sequence = self.context.new_sequence()?;
        self.context.add(&self.sequence, rows)
    }

    fn run(&mut self, layers: Layers<usize>, rows: &[i32]) {
        self.context.run(&self.sequence, &range(layers, rows)).unwrap();
    }

    fn logits(&mut self) -> Vec<f32> {
        self.context.logits(None).unwrap().to_vec()
    }

    fn decode(&mut self, token: i32, pos: i32) {
        let sequence = &self.sequence;
        self.context.decode(&[Token { sequence, token, pos }], 0).unwrap();
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
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, difference| {
        assert!(difference.is_finite(), "no numbers"); // neither the same nor changed
        most.max(difference)
    })
}
