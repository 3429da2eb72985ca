//! How each family's pictures are fitted to its encoder: as the image processor did with which the model was trained.
//!
//! ```text
//!  picture ─► tiles, at whose sizes mtmd has nothing left to fit ─► encoder ─► rows ─► LLaVA-1.6: one map of all tiles
//! ```
//!
//! Sizes and filters are those of Hugging Face transformers 4.57, and LLaVA's own padding; `tests/transformers` has what
//! they make of pictures. Families that are not listed here are fitted by mtmd.

mod anyres;
mod pixels;
mod sizes;

use anyres::{AnyRes, Map};
use fast_image_resize::FilterType;

pub(crate) use sizes::Size;

use super::image::Image;
use crate::engine::options::ProjectorOptions;
use crate::gguf::{Array, Gguf, GgufError, ProjectorShape, within};
use pixels::{crop, pad_to_square, stretch};
use sizes::{Limits, tile_grid, whole_patches, whole_patches_within};

/// Vision tokens of one picture at most where nobody says otherwise: llama.cpp's default for Qwen. The published processors
/// allow four times as many, which takes sixteen times the memory in the encoder's attention.
const MAX_TOKENS: u64 = 4096;

/// Published encoders take pictures of up to 2,000 pixels a side.
const MAX_SIDE: u32 = 4096;

/// Merged patches of published encoders have up to 56 pixels a side.
const MAX_PATCH: u32 = 1024;

/// InternVL's take up to 12 tiles, 40 for documents.
const MAX_TILES: u32 = 64;

/// All of a picture, as shares of it.
const WHOLE: [f32; 4] = [0.0, 0.0, 1.0, 1.0];

/// How pictures are fitted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fit {
    /// Gemma 3: stretched to a square.
    Square {
        /// Of the square, in pixels.
        side: u32,
    },
    /// Qwen2-VL and what follows it: stretched to whole patches of the language model, within limits.
    Patches {
        /// Side of a patch, merged ones counted as one.
        patch: u32,
        limits: Limits,
    },
    /// Pixtral: shrunk until the longest side fits, and stretched to whole patches.
    LongestSide {
        patch: u32,
        longest: u32,
        limits: Limits,
    },
    /// LLaVA-1.5, MobileVLM: padded to a square with the mean colour, and resized.
    Padded { side: u32, colour: [u8; 3] },
    /// LLaVA-1.6.
    AnyRes(AnyRes),
    /// InternVL: stretched to the grid of tiles that is most like it; behind more than one tile the whole picture.
    Grid {
        /// Of a tile, in pixels.
        side: u32,
        min_tiles: u32,
        max_tiles: u32,
    },
}

impl Fit {
    /// The one of a projector; `None` where mtmd fits the pictures.
    ///
    /// # Errors
    /// For metadata of the wrong type, or out of all proportion.
    pub(crate) fn of(
        gguf: &Gguf,
        shape: &ProjectorShape,
        options: &ProjectorOptions,
    ) -> Result<Option<Self>, GgufError> {
        let side = shape.image_size;
        within(gguf, "clip.vision.image_size", side, 1, MAX_SIDE)?;
        let merged = |key: &str, default: u32| {
            let merge = gguf.opt_u32(key)?.unwrap_or(default);
            within(gguf, key, merge, 1, (MAX_PATCH / shape.patch_size).max(1))?;
            Ok::<_, GgufError>(shape.patch_size * merge)
        };
        let limits = |patch: u32, min_pixels: u64| Limits::new(patch, min_pixels, options);
        Ok(Some(match shape.projector_type.as_str() {
            "gemma3" => Self::Square { side },
            "qwen2vl_merger" | "qwen2.5vl_merger" => {
                let patch = merged("clip.vision.spatial_merge_size", 2)?;
                let limits = limits(patch, 3136);
                Self::Patches { patch, limits }
            }
            "qwen3vl_merger" => {
                let patch = merged("clip.vision.spatial_merge_size", 2)?;
                let limits = limits(patch, 65_536);
                Self::Patches { patch, limits }
            }
            "pixtral" => {
                let patch = merged("clip.vision.spatial_merge_size", 1)?;
                Self::LongestSide {
                    patch,
                    longest: side,
                    limits: limits(patch, 0),
                }
            }
            "mlp" | "mlp_norm" | "ldp" | "ldpv2" => match AnyRes::of(gguf, shape)? {
                Some(anyres) => Self::AnyRes(anyres),
                None => Self::Padded {
                    side,
                    colour: mean_colour(gguf)?,
                },
            },
            "internvl" => {
                let min_tiles = gguf.opt_u32("clip.vision.preproc_min_tiles")?.unwrap_or(1);
                let max_tiles = gguf.opt_u32("clip.vision.preproc_max_tiles")?.unwrap_or(12);
                within(gguf, "clip.vision.preproc_max_tiles", max_tiles, 1, MAX_TILES)?;
                within(gguf, "clip.vision.preproc_min_tiles", min_tiles, 0, max_tiles)?;
                Self::Grid {
                    side,
                    min_tiles,
                    max_tiles,
                }
            }
            _ => return Ok(None),
        }))
    }

    /// How many tiles a picture becomes, and the size of each.
    ///
    /// # Errors
    /// In words, for a picture that the model does not take.
    pub(crate) fn tile_size(&self, picture: Size) -> Result<(usize, Size), String> {
        Ok(match self {
            Self::Square { side } | Self::Padded { side, .. } => (1, Size::square(*side)),
            Self::Patches { patch, limits } => (1, whole_patches(picture, *patch, *limits)?),
            Self::LongestSide {
                patch,
                longest,
                limits,
            } => (1, whole_patches_within(picture, *patch, *longest, *limits)),
            Self::AnyRes(anyres) => (
                1 + anyres.grid(picture).area() as usize,
                Size::square(anyres.side),
            ),
            Self::Grid {
                side,
                min_tiles,
                max_tiles,
            } => {
                let n_tiles = tile_grid(picture, *side, *min_tiles, *max_tiles).area() as usize;
                (n_tiles + usize::from(n_tiles > 1), Size::square(*side))
            }
        })
    }

    /// The picture as the encoder gets it: one tile or several, in the order of their rows in the prompt.
    ///
    /// # Errors
    /// As [`tile_size`](Self::tile_size).
    pub(crate) fn tiles(&self, image: &Image) -> Result<Vec<Image>, String> {
        let picture = Size::of(image);
        Ok(match self {
            Self::Square { side } => vec![stretch(image, Size::square(*side), FilterType::Bilinear)?],
            Self::Patches { .. } | Self::LongestSide { .. } => {
                vec![stretch(
                    image,
                    self.tile_size(picture)?.1,
                    FilterType::CatmullRom,
                )?]
            }
            Self::Padded { side, colour } => vec![pad_to_square(image, *side, *colour)?],
            Self::AnyRes(anyres) => anyres.tiles(image)?,
            Self::Grid {
                side,
                min_tiles,
                max_tiles,
            } => {
                let grid = tile_grid(picture, *side, *min_tiles, *max_tiles);
                let mut tiles = cut(&stretch(image, grid * *side, FilterType::CatmullRom)?, *side);
                if tiles.len() > 1 {
                    tiles.push(stretch(image, Size::square(*side), FilterType::CatmullRom)?);
                }
                tiles
            }
        })
    }

    /// What a tile shows of a picture: left, top, width and height as shares of the picture's; beyond 0 to 1 where it was
    /// padded. Of LLaVA-1.6 the overview.
    pub(crate) fn covers(&self, picture: Size, tile: usize) -> [f32; 4] {
        let Size { width, height } = picture;
        match self {
            Self::Padded { .. } => {
                let of_side = |side: u32| width.max(height) as f32 / side as f32;
                let centred = |share: f32| (1.0 - share) / 2.0;
                let (wide, high) = (of_side(width), of_side(height));
                [centred(wide), centred(high), wide, high]
            }
            Self::Grid {
                side,
                min_tiles,
                max_tiles,
            } => {
                let grid = tile_grid(picture, *side, *min_tiles, *max_tiles);
                if tile >= grid.area() as usize {
                    return WHOLE; // behind its tiles
                }
                let (wide, high) = (1.0 / grid.width as f32, 1.0 / grid.height as f32);
                let (x, y) = (tile as u32 % grid.width, tile as u32 / grid.width);
                [x as f32 * wide, y as f32 * high, wide, high]
            }
            Self::Square { .. } | Self::Patches { .. } | Self::LongestSide { .. } | Self::AnyRes(_) => WHOLE,
        }
    }

    /// For LLaVA-1.6: the map that the rows of a picture's tiles form behind its overview.
    pub(crate) fn map(&self, picture: Size, rows_per_tile: usize) -> Option<Map<'_>> {
        match self {
            Self::AnyRes(anyres) => anyres.map(picture, rows_per_tile),
            _ => None,
        }
    }
}

/// Squares, from left to right, rows of them from top to bottom.
fn cut(image: &Image, side: u32) -> Vec<Image> {
    let (columns, rows) = (image.width() / side, image.height() / side);
    let places = (0..rows).flat_map(|y| (0..columns).map(move |x| (x * side, y * side)));
    places
        .map(|place| crop(image, place, Size::square(side)))
        .collect()
}

/// The colour that is 0 for the encoder, as LLaVA's code rounds it.
fn mean_colour(gguf: &Gguf) -> Result<[u8; 3], GgufError> {
    let mean = match gguf.opt_array("clip.vision.image_mean")? {
        Some(Array::F32(mean)) => mean.as_slice(),
        _ => &[],
    };
    Ok([0, 1, 2].map(|channel| (f64::from(mean.get(channel).copied().unwrap_or(0.5)) * 255.0) as u8))
}

#[cfg(test)]
mod tests;
