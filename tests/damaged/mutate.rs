//! What may be wrong in a GGUF: numbers, words and shapes that don't go together, and bytes.

use std::path::Path;

use visipruner::gguf::{Array, GgmlType, Gguf, GgufWriter, Value};

use crate::common::rng::Rng;

pub struct Original {
    gguf: Gguf,
    bytes: Vec<u8>,
    what: What,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Projector,
    Model,
}

type Tensor = (String, Vec<usize>, GgmlType);

/// Most elements that a changed tensor has.
const MAX_ELEMENTS: usize = 1 << 20;

/// What texts become: kinds of projectors, architectures, tokenizers, of which the original is at most one.
const WORDS: [&str; 24] = [
    "mlp",
    "ldp",
    "ldpv2",
    "resampler",
    "gemma3",
    "idefics3",
    "pixtral",
    "qwen2vl_merger",
    "internvl",
    "llama",
    "qwen2",
    "qwen3moe",
    "qwen35moe",
    "gemma2",
    "deepseek2",
    "mamba",
    "bert",
    "t5",
    "gpt2",
    "rwkv",
    "no_vocab",
    "default",
    "no such",
    "",
];

const TYPES: [GgmlType; 4] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0];

impl Original {
    pub fn read(what: What, path: &Path) -> Self {
        Self {
            gguf: Gguf::open(path).expect("a GGUF"),
            bytes: std::fs::read(path).expect("reads"),
            what,
        }
    }

    /// Whether a key says what is computed.
    fn matters(&self, key: &str) -> bool {
        match self.what {
            What::Projector => key.starts_with("clip."),
            What::Model => key == "general.architecture" || !key.starts_with("general."),
        }
    }

    /// Writes damaged file `n`.
    pub fn write_damaged(&self, n: u64, path: &Path) {
        let mut rng = Rng::named(n, "damaged");
        if rng.below(4) == 0 {
            std::fs::write(path, self.with_other_bytes(&mut rng)).expect("writes");
        } else {
            self.write_changed(&mut rng, path);
        }
    }

    /// A few bytes of the header are others, or the file ends early.
    fn with_other_bytes(&self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(self.gguf.data_offset() as usize);
            bytes[at] = match rng.below(3) {
                0 => bytes[at] ^ (1 << rng.below(8)),
                1 => bytes[at].wrapping_add(1),
                _ => rng.below(256) as u8,
            };
        }
        if rng.below(10) == 0 {
            bytes.truncate(rng.below(bytes.len()));
        }
        bytes
    }

    fn write_changed(&self, rng: &mut Rng, path: &Path) {
        let mut entries: Vec<(String, Value)> = self
            .gguf
            .metadata()
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let mut tensors: Vec<Tensor> = self
            .gguf
            .tensors()
            .iter()
            .map(|info| {
                (
                    info.name.clone(),
                    info.dims.iter().map(|&n| n as usize).collect(),
                    info.ty,
                )
            })
            .collect();
        for _ in 0..1 + rng.below(2) {
            if rng.below(5) < 2 {
                self.change_entry(&mut entries, rng);
            } else {
                change_tensor(&mut tensors, rng);
            }
        }
        let mut writer = GgufWriter::new();
        for (key, value) in entries {
            writer.set(&key, value);
        }
        for (name, dims, ty) in &tensors {
            writer.tensor(name, dims, *ty);
        }
        let written = writer.write_file(path, |tensor| vec![0.01; tensor.n_elements()]);
        written.expect("writes");
    }

    fn change_entry(&self, entries: &mut Vec<(String, Value)>, rng: &mut Rng) {
        let ours: Vec<usize> = (0..entries.len())
            .filter(|&i| self.matters(&entries[i].0))
            .collect();
        let i = ours[rng.below(ours.len())];
        if rng.below(5) == 0 {
            entries.remove(i);
            return;
        }
        let value = &mut entries[i].1;
        *value = match &*value {
            Value::U32(n) => Value::U32(other_number(u64::from(*n), rng) as u32),
            Value::I32(n) => Value::I32(other_number(*n as u64, rng) as i32),
            Value::F32(x) => Value::F32([0.0, -1.0, f32::NAN, f32::INFINITY, x * 1e-30, 1e30][rng.below(6)]),
            Value::Bool(b) => Value::Bool(!b),
            Value::String(_) => Value::String(WORDS[rng.below(WORDS.len())].to_owned()),
            Value::Array(array) => other_array(array, rng),
            other => other.clone(),
        };
    }
}

fn other_number(n: u64, rng: &mut Rng) -> u64 {
    match rng.below(12) {
        0 => 0,
        1 => 1,
        2 => n + 1,
        3 => n.wrapping_sub(1),
        4 => n * 2,
        5 => n / 2,
        6 => n * 3,
        7 => u64::from(u32::MAX),
        8 => i32::MAX as u64,
        9 => 100,
        10 => 1000,
        _ => rng.below(64) as u64,
    }
}

fn other_array(array: &Array, rng: &mut Rng) -> Value {
    if let Some(numbers) = array.as_integers() {
        let mut numbers: Vec<i32> = numbers.iter().map(|&n| n as i32).collect();
        match (rng.below(3), numbers.is_empty()) {
            (0, false) => _ = numbers.pop(),
            (1, false) => {
                let i = rng.below(numbers.len());
                numbers[i] = other_number(numbers[i] as u64, rng) as i32;
            }
            _ => numbers.push(rng.below(100) as i32),
        }
        return numbers.into();
    }
    match array {
        Array::String(texts) => {
            let mut texts = texts.clone();
            match rng.below(3) {
                0 => _ = texts.pop(),
                1 => texts.push(WORDS[rng.below(WORDS.len())].to_owned()),
                _ => texts.truncate(rng.below(texts.len() + 1)),
            }
            texts.into()
        }
        _ => vec![0.5f32; rng.below(5)].into(),
    }
}

fn change_tensor(tensors: &mut Vec<Tensor>, rng: &mut Rng) {
    let i = rng.below(tensors.len());
    match rng.below(8) {
        0 => _ = tensors.remove(i),
        1 => tensors[i].2 = TYPES[rng.below(TYPES.len())],
        2 => {
            // another one has its name
            let j = rng.below(tensors.len());
            let names = [i, j].map(|k| tensors[k].0.clone());
            tensors[i].0.clone_from(&names[1]);
            tensors[j].0.clone_from(&names[0]);
        }
        _ => change_shape(&mut tensors[i].1, rng),
    }
    // rows of blocks are whole
    for (_, dims, ty) in tensors {
        if *ty == GgmlType::Q8_0 && !dims[0].is_multiple_of(32) {
            *ty = GgmlType::F32;
        }
    }
}

fn change_shape(dims: &mut Vec<usize>, rng: &mut Rng) {
    let before = dims.clone();
    let d = rng.below(dims.len());
    match rng.below(8) {
        0 => dims[d] += 1,
        1 => dims[d] = dims[d].saturating_sub(1).max(1),
        2 => dims[d] *= 2,
        3 => dims[d] = (dims[d] / 2).max(1),
        4 => dims[d] = 1,
        5 => dims.reverse(),
        6 => _ = dims.pop(),
        _ => dims.push(1 + rng.below(3)),
    }
    if dims.is_empty() || dims.len() > 4 || dims.iter().product::<usize>() > MAX_ELEMENTS {
        *dims = before;
    }
}
