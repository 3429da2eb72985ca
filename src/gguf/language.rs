//! Language models: what llama.cpp would find out too late, when all it can do is to end the process.

use super::tensors::Tensors;
use super::{Array, GgmlType, Gguf, GgufError, LlmShape, Problem, Value};

/// Architectures whose files llama.cpp divides by the number of experts in use, before it looks whether there are any
/// (models/qwen35moe.cpp, models/qwen4exp.cpp@0.1.161).
const DIVIDED_BY_EXPERTS: [&str; 2] = ["qwen35moe", "qwen4exp"];

/// Architectures that turn every head by a picture's positions (llama-model.cpp: llama_model_rope_type@0.1.161). Others do
/// where they have sections.
const WITH_SECTIONS: [&str; 9] = [
    "qwen2vl",
    "paddleocr",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen35",
    "qwen35moe",
    "clef",
    "qwen4exp",
    "qwen3tts",
];

/// Checks a model, and the parts behind the first if it is split.
///
/// # Errors
/// [`Problem::MissingKey`], [`Problem::OutOfRange`], [`Problem::TensorType`].
pub(super) fn check(parts: &[&Gguf], shape: &LlmShape) -> Result<(), GgufError> {
    if DIVIDED_BY_EXPERTS.contains(&shape.arch.as_str()) {
        check_experts(parts[0], &shape.arch)?;
    }
    check_sections(parts[0], shape)?;
    parts.iter().try_for_each(|part| check_vectors(part))
}

fn check_experts(gguf: &Gguf, arch: &str) -> Result<(), GgufError> {
    let key = |suffix: &str| format!("{arch}.{suffix}");
    let is_there = |key: &str| match gguf.get(key) {
        Some(Value::Array(array)) => array
            .as_integers()
            .is_some_and(|numbers| numbers.iter().all(|&n| n > 0)),
        Some(_) => gguf.u32(key).is_ok_and(|n| n > 0),
        None => false,
    };
    if is_there(&key("expert_feed_forward_length")) || is_there(&key("expert_used_count")) {
        return Ok(());
    }
    Err(gguf.error(Problem::MissingKey {
        key: key("expert_used_count"),
    }))
}

/// The parts of a head that are turned by a picture's positions are no longer than the head.
fn check_sections(gguf: &Gguf, shape: &LlmShape) -> Result<(), GgufError> {
    let key = format!("{}.rope.dimension_sections", shape.arch);
    let Some(sections) = gguf.opt_array(&key)?.and_then(Array::as_integers) else {
        return Ok(());
    };
    let sum = sections.iter().fold(0i128, |sum, &n| sum.saturating_add(n));
    let least = i128::from(WITH_SECTIONS.contains(&shape.arch.as_str()));
    let most = i128::from(shape.head_dim_k);
    let of_pictures = sections
        .iter()
        .take(3)
        .fold(0i128, |sum, &n| sum.saturating_add(n));
    if sections.iter().all(|&n| n >= 0) && of_pictures >= least && sum <= most {
        return Ok(());
    }
    Err(gguf.error(Problem::OutOfRange {
        key,
        found: format!("{sections:?}"),
        expected: format!("numbers from 0 that add up to {least} to {most}"),
    }))
}

/// What is added or multiplied element by element is F32.
fn check_vectors(gguf: &Gguf) -> Result<(), GgufError> {
    let tensors = Tensors { gguf };
    gguf.tensors()
        .iter()
        .filter(|tensor| tensor.is_vector() || tensor.name.ends_with("_norm.weight"))
        .try_for_each(|tensor| tensors.has_type(tensor, &[GgmlType::F32]))
}
