//! What is to be known of an image projector.

use super::{
    MAX_LAYERS, arch_of_model, missing, n_params, not_negative, positive, refuse_later_part, within,
};
use crate::gguf::{Array, Gguf, GgufError, Problem};

/// Larger than any encoder's input, small enough that squares of it fit 32 bits.
const MAX_IMAGE_SIZE: u32 = 65_535;

/// The shape of an image projector (mmproj): a vision encoder and what maps its output to the language model.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectorShape {
    /// `general.name`, if it has one.
    pub name: Option<String>,
    /// `general.file_type`: the quantization of most tensors, see [`file_type_name`](crate::gguf::file_type_name).
    pub file_type: Option<u32>,
    /// `clip.projector_type`, such as `mlp` (LLaVA).
    pub projector_type: String,
    /// Side of the square that images are fitted to, in pixels.
    pub image_size: u32,
    /// Side of one patch, in pixels.
    pub patch_size: u32,
    /// Layers of the vision encoder, as stored.
    pub n_layer: u32,
    /// Width of the vision encoder.
    pub n_embd: u32,
    /// Heads of the vision encoder.
    pub n_head: u32,
    /// Width of its feed-forward networks.
    pub n_ff: u32,
    /// `clip.vision.projection_dim`. It is not always the width of what comes out, see
    /// [`n_embd_out`](Self::n_embd_out).
    pub projection_dim: u32,
    /// Whether a class embedding precedes the patches.
    pub has_class_embedding: bool,
    /// `clip.vision.feature_layer`: the layers whose output is projected, 0 = the encoder's input. Empty: the
    /// projector's default.
    pub feature_layers: Vec<i32>,
    /// Width of the vectors that the language model gets, where the projector's kind is known here.
    pub n_embd_out: Option<u64>,
    /// Vision tokens of one image, where every image costs the same: `None` for projectors of variable
    /// resolution (LLaVA-1.6's tiles, Qwen2-VL) and for kinds that are not known here.
    pub n_tokens_per_image: Option<u32>,
    /// Weights.
    pub n_params: u64,
    /// The length of the file in bytes.
    pub file_bytes: u64,
}

impl ProjectorShape {
    /// Reads the shape from the metadata.
    ///
    /// # Errors
    /// [`Problem::NotProjector`], [`Problem::NoVision`] and [`Problem::NotModel`] where the file is something
    /// else; [`Problem::MissingKey`], [`Problem::WrongType`] and [`Problem::OutOfRange`] where the metadata
    /// is incomplete.
    pub fn from_gguf(gguf: &Gguf) -> Result<ProjectorShape, GgufError> {
        refuse_later_part(gguf)?;
        let arch = arch_of_model(gguf)?;
        if arch != "clip" {
            return Err(gguf.error(Problem::NotProjector {
                arch: arch.to_owned(),
            }));
        }
        if gguf.opt_bool("clip.has_vision_encoder")? != Some(true) {
            return Err(gguf.error(Problem::NoVision));
        }
        let image_size = positive(gguf, "clip.vision.image_size", MAX_IMAGE_SIZE)?;
        let patch_size = positive(gguf, "clip.vision.patch_size", image_size)?;
        let projector_type = projector_type(gguf)?;
        not_negative(gguf, "clip.vision.attention.layer_norm_epsilon")?;
        Ok(ProjectorShape {
            name: gguf.opt_str("general.name")?.map(str::to_owned),
            file_type: gguf.opt_u32("general.file_type")?,
            image_size,
            patch_size,
            n_layer: positive(gguf, "clip.vision.block_count", MAX_LAYERS)?,
            n_embd: positive(gguf, "clip.vision.embedding_length", u32::MAX)?,
            n_head: positive(gguf, "clip.vision.attention.head_count", u32::MAX)?,
            n_ff: gguf.u32("clip.vision.feed_forward_length")?,
            projection_dim: gguf.u32("clip.vision.projection_dim")?,
            has_class_embedding: gguf.tensor("v.class_embd").is_some(),
            feature_layers: feature_layers(gguf)?,
            n_embd_out: n_embd_out(gguf, &projector_type),
            n_tokens_per_image: n_tokens_per_image(gguf, &projector_type, image_size / patch_size)?,
            projector_type,
            n_params: n_params(gguf),
            file_bytes: gguf.file_bytes(),
        })
    }

    /// Patches along one side of the image.
    pub fn patches_per_side(&self) -> u32 {
        self.image_size / self.patch_size
    }
}

fn projector_type(gguf: &Gguf) -> Result<String, GgufError> {
    let common = gguf.opt_str("clip.projector_type")?.filter(|ty| !ty.is_empty());
    let ty = match common {
        Some(ty) => Some(ty),
        None => gguf.opt_str("clip.vision.projector_type")?,
    };
    ty.map(str::to_owned)
        .ok_or_else(|| missing(gguf, "clip.projector_type".to_owned()))
}

fn feature_layers(gguf: &Gguf) -> Result<Vec<i32>, GgufError> {
    let key = "clip.vision.feature_layer";
    let Some(array) = gguf.opt_array(key)? else {
        return Ok(Vec::new());
    };
    let layers: Option<Vec<i32>> = array
        .as_integers()
        .and_then(|layers| layers.iter().map(|&il| il.try_into().ok()).collect());
    layers.ok_or_else(|| {
        gguf.error(Problem::WrongType {
            key: key.to_owned(),
            found: format!("an array of {}", array.type_name()),
            expected: "an array of layer numbers",
        })
    })
}

/// As `clip.cpp: clip_n_mmproj_embd` of llama-cpp-sys-2 0.1.161.
fn n_embd_out(gguf: &Gguf, projector_type: &str) -> Option<u64> {
    let dim = |tensor: &str, i: usize| gguf.tensor(tensor)?.dims.get(i).copied();
    match projector_type {
        // the Yi variant of LLaVA's projector has a norm behind each of its layers
        "mlp" => dim("mm.3.bias", 0).or_else(|| dim("mm.2.weight", 1)),
        "ldp" => dim("mm.model.mb_block.1.block.2.1.bias", 0),
        "ldpv2" => dim("mm.model.peg.0.bias", 0),
        "adapter" => dim("adapter.linear.dense_4h_to_h.weight", 1),
        "qwen2vl_merger" | "qwen2.5vl_merger" => dim("mm.2.bias", 0),
        "gemma3" => dim("mm.input_projection.weight", 0),
        _ => None,
    }
}

/// As `clip.cpp: clip_n_output_tokens` of llama-cpp-sys-2 0.1.161, for the kinds that take square images of
/// one size.
fn n_tokens_per_image(gguf: &Gguf, projector_type: &str, side: u32) -> Result<Option<u32>, GgufError> {
    let is_tiled = !gguf
        .opt_array("clip.vision.image_grid_pinpoints")?
        .is_none_or(Array::is_empty);
    if is_tiled {
        return Ok(None);
    }
    Ok(match projector_type {
        "mlp" => Some(side * side),
        "ldp" | "ldpv2" => Some(side * side / 4),
        // two more tokens mark the image's begin and end
        "adapter" => Some(side * side / 4 + 2),
        "gemma3" => {
            let key = "clip.vision.projector.scale_factor";
            let merge = gguf.opt_u32(key)?.unwrap_or(4);
            within(gguf, key, merge, 1, side)?;
            Some((side / merge) * (side / merge))
        }
        _ => None,
    })
}
