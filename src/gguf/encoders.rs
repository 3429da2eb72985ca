//! What the graphs of vision encoders other than LLaVA's rely on, and nothing else finds out in time.
//!
//! Where shapes contradict each other, ggml refuses to build the graph, and that becomes an error (`src/ffi/cpp/vp-abort.h`).
//! A tensor that is not there is read from all the same (`clip.cpp`, `models/*.cpp` of llama-cpp-sys-2 0.1.161), and a type that
//! an operation does not take is found out by the threads that compute. These are looked for here.

use super::tensors::Tensors;
use super::{GgmlType, Gguf, GgufError, ProjectorShape, TensorInfo};

const FLOATS: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];

/// What a kind of projector needs.
struct Needs {
    kind: &'static str,
    /// Tensors of the whole encoder.
    tensors: &'static [&'static str],
    /// Tensors of each layer, behind `v.blk.<il>.`.
    of_each_layer: &'static [&'static str],
    /// Query, key and value may be one matrix.
    may_be_fused: bool,
}

const SEPARATE: [&str; 3] = ["attn_q.weight", "attn_k.weight", "attn_v.weight"];
const FUSED: &str = "attn_qkv.weight";

const WITH_BIASES: &[&str] = &[
    "attn_q.weight",
    "attn_q.bias",
    "attn_k.weight",
    "attn_k.bias",
    "attn_v.weight",
    "attn_v.bias",
];

const SECOND_FRAME: &str = "v.patch_embd.weight.1";

const KINDS: [Needs; 7] = [
    of_vit(
        "gemma3",
        &["mm.input_projection.weight", "mm.soft_emb_norm.weight"],
    ),
    of_vit("idefics3", &["mm.model.fc.weight"]),
    of_vit("pixtral", &["v.token_embd.img_break"]),
    of_vit("internvl", &["v.class_embd", "v.position_embd.weight"]),
    of_qwen("qwen2vl_merger", &[SECOND_FRAME], WITH_BIASES),
    of_qwen("qwen2.5vl_merger", &[SECOND_FRAME], WITH_BIASES),
    of_qwen(
        "qwen3vl_merger",
        &[SECOND_FRAME, "v.patch_embd.bias", "v.position_embd.weight"],
        &[FUSED, "attn_qkv.bias"],
    ),
];

const fn of_vit(kind: &'static str, tensors: &'static [&'static str]) -> Needs {
    Needs {
        kind,
        tensors,
        of_each_layer: &[],
        may_be_fused: true,
    }
}

const fn of_qwen(
    kind: &'static str,
    tensors: &'static [&'static str],
    of_each_layer: &'static [&'static str],
) -> Needs {
    Needs {
        kind,
        tensors,
        of_each_layer,
        may_be_fused: false,
    }
}

/// Checks what a graph uses; projectors of kinds that are not known here pass.
///
/// # Errors
/// [`Problem::MissingTensor`](super::Problem::MissingTensor), [`Problem::TensorShape`](super::Problem::TensorShape),
/// [`Problem::TensorType`](super::Problem::TensorType).
pub(super) fn check(gguf: &Gguf, shape: &ProjectorShape) -> Result<(), GgufError> {
    let Some(needs) = KINDS.iter().find(|needs| needs.kind == shape.projector_type) else {
        return Ok(());
    };
    let tensors = Tensors { gguf };
    let patches = tensors.need("v.patch_embd.weight")?;
    for name in needs.tensors {
        tensors.need(name)?;
    }
    let (n_embd, patch_size) = (u64::from(shape.n_embd), u64::from(shape.patch_size));
    for frame in [Some(patches), gguf.tensor(SECOND_FRAME)].into_iter().flatten() {
        tensors.has_shape(frame, &[patch_size, patch_size, 3, n_embd])?;
        tensors.has_type(frame, &[GgmlType::F32, GgmlType::F16])?;
    }
    for il in 0..shape.n_layer {
        check_layer(&tensors, needs, il)?;
    }
    if gguf.tensor("mm.patch_merger.weight").is_some() {
        tensors.need("mm.input_norm.weight")?;
    }
    gguf.tensors().iter().try_for_each(|tensor| {
        check_type(&tensors, tensor)?;
        check_bias(&tensors, tensor)
    })
}

fn check_layer(tensors: &Tensors, needs: &Needs, il: u32) -> Result<(), GgufError> {
    let name = |suffix: &str| format!("v.blk.{il}.{suffix}");
    let is_fused = tensors.gguf.tensor(&name(FUSED)).is_some();
    let attention = if needs.may_be_fused && !is_fused {
        &SEPARATE[..]
    } else {
        &[]
    };
    for suffix in attention.iter().chain(needs.of_each_layer) {
        tensors.need(&name(suffix))?;
    }
    check_slice(tensors, il)
}

/// Qwen3-VL: what is added to the rows after a later layer is as wide as they are.
fn check_slice(tensors: &Tensors, il: u32) -> Result<(), GgufError> {
    let is_there = |suffix: &str| {
        tensors
            .gguf
            .tensor(&format!("v.deepstack.{il}.{suffix}"))
            .is_some()
    };
    if !is_there("fc1.weight") {
        return Ok(());
    }
    let last = tensors.need(&format!("v.deepstack.{il}.fc2.weight"))?;
    let width = tensors.need("mm.2.weight")?.dims.get(1).copied().unwrap_or(1);
    tensors.has_shape(last, &[last.dims[0], width])
}

/// ggml would repeat a shorter one; what is as wide as it is not as wide as the matrix then.
fn check_bias(tensors: &Tensors, bias: &TensorInfo) -> Result<(), GgufError> {
    let weight = bias
        .name
        .strip_suffix(".bias")
        .and_then(|name| tensors.gguf.tensor(&format!("{name}.weight")));
    match weight.and_then(|weight| weight.dims.last()) {
        Some(&width) => tensors.has_shape(bias, &[width]),
        None => Ok(()),
    }
}

/// What is added or multiplied element by element is F32; what is turned over is no block of quantized numbers.
fn check_type(tensors: &Tensors, tensor: &TensorInfo) -> Result<(), GgufError> {
    let is_added = tensor.is_vector() || tensor.name == "v.position_embd.weight";
    if is_added {
        tensors.has_type(tensor, &[GgmlType::F32])
    } else if tensor.name == "mm.input_projection.weight" {
        tensors.has_type(tensor, &FLOATS)
    } else {
        Ok(())
    }
}
