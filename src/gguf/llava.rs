//! Whether the tensors of a LLaVA-type projector fit each other and its metadata.
//!
//! mtmd takes the shapes of tensors for granted (`clip.cpp`, `models/llava.cpp` of llama-cpp-sys-2 0.1.161): where they
//! contradict each other, or one that it needs is missing, ggml aborts the process, or reads where nothing is. So all
//! that the graph of `clip_graph_llava` relies on is checked here, before llama.cpp sees the file.

use super::tensors::Tensors;
use super::{GgmlType, Gguf, GgufError, Problem, ProjectorShape};

/// Checks every tensor that the graph uses; projectors of other kinds pass.
///
/// # Errors
/// [`Problem::MissingTensor`], [`Problem::TensorShape`], [`Problem::TensorType`], or [`Problem::OutOfRange`] for numbers
/// in the metadata that don't go together.
pub(super) fn check(gguf: &Gguf, shape: &ProjectorShape) -> Result<(), GgufError> {
    let projector = match shape.projector_type.as_str() {
        "mlp" if gguf.tensor("mm.3.weight").is_some() => check_mlp_norm,
        "mlp" => check_mlp,
        "ldp" => check_ldp,
        "ldpv2" => check_ldpv2,
        _ => return Ok(()),
    };
    let tensors = Tensors { gguf };
    check_numbers(gguf, shape)?;
    check_input(&tensors, shape)?;
    for il in 0..shape.n_layer {
        check_layer(&tensors, shape, il)?;
    }
    projector(&tensors, shape)
}

/// Sides of the grids for which MobileVLM's projectors are written.
const LDP_PATCHES_PER_SIDE: u32 = 24;

fn check_numbers(gguf: &Gguf, shape: &ProjectorShape) -> Result<(), GgufError> {
    let out_of_range = |key: &str, found: u32, expected: String| {
        let (key, found) = (key.to_owned(), found.to_string());
        Err(gguf.error(Problem::OutOfRange { key, found, expected }))
    };
    if !shape.n_embd.is_multiple_of(shape.n_head) {
        let expected = format!("a divisor of the encoder's width, {}", shape.n_embd);
        return out_of_range("clip.vision.attention.head_count", shape.n_head, expected);
    }
    if let Some(n) = gguf
        .opt_u32("clip.vision.attention.head_dim")?
        .filter(|&n| n != 0)
    {
        let expected = shape.n_embd / shape.n_head;
        if n != expected {
            return out_of_range("clip.vision.attention.head_dim", n, expected.to_string());
        }
    }
    let is_ldp = shape.projector_type != "mlp";
    if is_ldp && shape.patches_per_side() != LDP_PATCHES_PER_SIDE {
        let expected = format!(
            "{LDP_PATCHES_PER_SIDE} times the patch size, {}",
            shape.patch_size
        );
        return out_of_range("clip.vision.image_size", shape.image_size, expected);
    }
    Ok(())
}

fn check_input(tensors: &Tensors, shape: &ProjectorShape) -> Result<(), GgufError> {
    let (n_embd, patch_size) = (u64::from(shape.n_embd), u64::from(shape.patch_size));
    let patches = tensors.need("v.patch_embd.weight")?;
    tensors.has_shape(patches, &[patch_size, patch_size, 3, n_embd])?;
    tensors.has_type(patches, &[GgmlType::F32, GgmlType::F16])?;
    tensors.vector_if_any("v.patch_embd.bias", n_embd)?;
    tensors.vector_if_any("v.class_embd", n_embd)?;

    let positions = tensors.need("v.position_embd.weight")?;
    let n_pos = u64::from(shape.patches_per_side()).pow(2) + u64::from(shape.has_class_embedding);
    if positions.dims.first() != Some(&n_embd) || positions.n_elements() < n_embd * n_pos {
        return Err(tensors.wrong_shape(positions, &[n_embd, n_pos]));
    }
    for norm in ["v.pre_ln", "v.post_ln"] {
        tensors.norm_if_any(norm, n_embd)?;
    }
    Ok(())
}

fn check_layer(tensors: &Tensors, shape: &ProjectorShape, il: u32) -> Result<(), GgufError> {
    let n_embd = u64::from(shape.n_embd);
    let name = |suffix: &str| format!("v.blk.{il}.{suffix}");
    for norm in ["ln1", "ln2"] {
        tensors.norm_if_any(&name(norm), n_embd)?;
    }
    for projection in ["attn_q", "attn_k", "attn_v", "attn_out"] {
        tensors.linear(&name(projection), n_embd, Some(n_embd))?;
    }
    // older files have the names of the two swapped; the shapes tell, as in clip.cpp
    let is_swapped = tensors.need(&name("ffn_down.weight"))?.dims.first() == Some(&n_embd);
    let (up, down) = if is_swapped {
        ("ffn_down", "ffn_up")
    } else {
        ("ffn_up", "ffn_down")
    };
    let n_ff = tensors.linear(&name(up), n_embd, None)?;
    if tensors.gguf.tensor(&name("ffn_gate.weight")).is_some() {
        tensors.linear(&name("ffn_gate"), n_embd, Some(n_ff))?;
    }
    tensors.linear(&name(down), n_ff, Some(n_embd))?;
    Ok(())
}

/// The width of what goes into the projector: that of the encoder, once for each layer that is looked at.
fn n_features(shape: &ProjectorShape) -> u64 {
    let mut layers: Vec<i32> = shape
        .feature_layers
        .iter()
        .copied()
        .filter(|&il| il >= 0)
        .collect();
    layers.sort_unstable();
    layers.dedup();
    u64::from(shape.n_embd) * layers.len().max(1) as u64
}

fn check_mlp(tensors: &Tensors, shape: &ProjectorShape) -> Result<(), GgufError> {
    let n_hidden = tensors.biased_linear("mm.0", n_features(shape))?;
    // the graph does without the second matrix, but clip_n_mmproj_embd() does not
    tensors.biased_linear("mm.2", n_hidden)?;
    Ok(())
}

fn check_mlp_norm(tensors: &Tensors, shape: &ProjectorShape) -> Result<(), GgufError> {
    let n_hidden = tensors.biased_linear("mm.0", n_features(shape))?;
    tensors.norm("mm.1", n_hidden)?;
    let n_out = tensors.biased_linear("mm.3", n_hidden)?;
    tensors.norm("mm.4", n_out)
}

fn check_ldp(tensors: &Tensors, shape: &ProjectorShape) -> Result<(), GgufError> {
    let n_hidden = tensors.biased_linear("mm.model.mlp.1", n_features(shape))?;
    let n_out = tensors.biased_linear("mm.model.mlp.3", n_hidden)?;
    for block in ["mm.model.mb_block.1.block", "mm.model.mb_block.2.block"] {
        let name = |suffix: &str| format!("{block}.{suffix}");
        tensors.depthwise(&name("0.0.weight"), n_out)?;
        tensors.norm(&name("0.1"), n_out)?;
        let n_squeezed = tensors.biased_linear(&name("1.fc1"), n_out)?;
        tensors.has_width(
            &name("1.fc2.weight"),
            tensors.biased_linear(&name("1.fc2"), n_squeezed)?,
            n_out,
        )?;
        tensors.linear(&name("2.0"), n_out, Some(n_out))?;
        tensors.norm(&name("2.1"), n_out)?;
    }
    Ok(())
}

fn check_ldpv2(tensors: &Tensors, shape: &ProjectorShape) -> Result<(), GgufError> {
    let n_hidden = tensors.biased_linear("mm.model.mlp.0", n_features(shape))?;
    let n_out = tensors.biased_linear("mm.model.mlp.2", n_hidden)?;
    tensors.depthwise("mm.model.peg.0.weight", n_out)?;
    tensors.vector("mm.model.peg.0.bias", n_out)
}
