//! LLaVA-1.6's "anyres": an overview, and the picture once more on a canvas of tiles, whose rows form one map.

use std::ops::Range;

use fast_image_resize::FilterType;

use super::pixels::{paste, stretch};
use super::{Size, cut};
use crate::engine::vision::image::Image;
use crate::gguf::{Array, Gguf, GgufError, Problem, ProjectorShape, TensorInfo};

/// The names under which converters store the row that ends each row of the map.
const NEWLINE: [&str; 2] = ["model.image_newline", "v.image_newline"];

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AnyRes {
    /// Of a tile, in pixels.
    pub(super) side: u32,
    /// The canvases to choose from, in pixels.
    pub(super) canvases: Vec<Size>,
    /// The row that ends each row of the map, `[n_embd]`. Without one the tiles' rows just follow each other.
    pub(super) newline: Option<Vec<f32>>,
}

impl AnyRes {
    /// That of a projector which has canvases.
    ///
    /// # Errors
    /// For metadata of the wrong type, and sides that are no whole tiles.
    pub(super) fn of(gguf: &Gguf, shape: &ProjectorShape) -> Result<Option<Self>, GgufError> {
        let canvases = canvases(gguf, shape.image_size)?;
        if canvases.is_empty() {
            return Ok(None);
        }
        let is_merged = gguf.opt_str("clip.vision.mm_patch_merge_type")? == Some("spatial_unpad");
        let newline = NEWLINE.iter().find_map(|name| gguf.tensor(name));
        Ok(Some(Self {
            side: shape.image_size,
            canvases,
            newline: newline
                .filter(|_| is_merged)
                .map(|tensor| read_newline(gguf, shape, tensor))
                .transpose()?,
        }))
    }

    /// The one on which the picture is largest; of those the one with the least space left over.
    fn canvas(&self, picture: Size) -> Size {
        let mut best = self.canvases[0];
        let (mut largest, mut least_wasted) = (0, u64::MAX);
        for &canvas in &self.canvases {
            let scale = canvas.scale_of(picture);
            let side = |side: u32| (f64::from(side) * scale) as u64;
            let effective = (side(picture.width) * side(picture.height)).min(picture.area());
            let wasted = canvas.area() - effective;
            if effective > largest || (effective == largest && wasted < least_wasted) {
                (best, largest, least_wasted) = (canvas, effective, wasted);
            }
        }
        best
    }

    /// Columns and rows of tiles.
    pub(super) fn grid(&self, picture: Size) -> Size {
        let canvas = self.canvas(picture);
        Size {
            width: canvas.width / self.side,
            height: canvas.height / self.side,
        }
    }

    pub(super) fn tiles(&self, image: &Image) -> Result<Vec<Image>, String> {
        let canvas = self.canvas(Size::of(image));
        let resized = stretch(image, canvas.largest_of(Size::of(image)), FilterType::CatmullRom)?;
        let overview = stretch(image, Size::square(self.side), FilterType::CatmullRom)?;
        let mut tiles = vec![overview];
        tiles.extend(cut(&paste(&resized, canvas, [0; 3]), self.side));
        Ok(tiles)
    }

    /// The map of a picture; `None` where there is no row to end its rows with.
    pub(super) fn map(&self, picture: Size, rows_per_tile: usize) -> Option<Map<'_>> {
        let newline = self.newline.as_deref()?;
        let (grid, patches) = (self.grid(picture), rows_per_tile.isqrt());
        let whole = Size {
            width: grid.width * patches as u32,
            height: grid.height * patches as u32,
        };
        let (columns, rows) = without_padding(picture, whole);
        Some(Map {
            newline,
            n_tile_columns: grid.width as usize,
            patches,
            columns,
            rows,
        })
    }
}

impl Size {
    /// By how much a picture is scaled to fit.
    fn scale_of(self, picture: Self) -> f64 {
        let width = f64::from(self.width) / f64::from(picture.width);
        width.min(f64::from(self.height) / f64::from(picture.height))
    }

    /// The largest size of the picture's ratio that fits.
    pub(super) fn largest_of(self, picture: Self) -> Self {
        let width = f64::from(self.width) / f64::from(picture.width);
        let height = f64::from(self.height) / f64::from(picture.height);
        let scaled = |side: u32, scale: f64| (f64::from(side) * scale).ceil() as u32;
        if width < height {
            Self {
                width: self.width,
                height: scaled(picture.height, width).min(self.height),
            }
        } else {
            Self {
                width: scaled(picture.width, height).min(self.width),
                height: self.height,
            }
        }
    }
}

/// It stands among the rows that the language model gets, and is as wide as they are.
fn read_newline(gguf: &Gguf, shape: &ProjectorShape, tensor: &TensorInfo) -> Result<Vec<f32>, GgufError> {
    let width = shape.n_embd_out.unwrap_or_default();
    if tensor.dims != [width] {
        return Err(gguf.error(Problem::TensorShape {
            tensor: tensor.name.clone(),
            found: format!("{:?}", tensor.dims),
            expected: format!("[{width}]"),
        }));
    }
    gguf.read_tensor_f32(&tensor.name)
}

fn canvases(gguf: &Gguf, side: u32) -> Result<Vec<Size>, GgufError> {
    let key = "clip.vision.image_grid_pinpoints";
    let numbers = gguf.opt_array(key)?.map(Array::as_integers);
    let Some(numbers) = numbers else {
        return Ok(Vec::new());
    };
    let numbers: Vec<u32> = numbers
        .unwrap_or_default()
        .iter()
        .filter_map(|&n| u32::try_from(n).ok())
        .filter(|n| (1..=MAX_CANVAS).contains(n) && n.is_multiple_of(side))
        .collect();
    let n_stored = gguf.opt_array(key)?.map_or(0, Array::len);
    if numbers.len() != n_stored || !numbers.len().is_multiple_of(2) {
        return Err(gguf.error(Problem::OutOfRange {
            key: key.to_owned(),
            found: "other numbers".to_owned(),
            expected: format!("pairs of multiples of the image size, {side}, up to {MAX_CANVAS}"),
        }));
    }
    // heights come first, as transformers reads them
    let pairs = numbers.chunks_exact(2);
    Ok(pairs
        .map(|pair| Size {
            width: pair[1],
            height: pair[0],
        })
        .collect())
}

/// Sides of published canvases end at 2,304 (LLaVA-OneVision).
const MAX_CANVAS: u32 = 16_384;

/// Columns and rows of a map that show the picture and not what it was padded with.
fn without_padding(picture: Size, map: Size) -> (Range<usize>, Range<usize>) {
    let (width, height) = (map.width as usize, map.height as usize);
    if picture.ratio() > map.ratio() {
        let used = scaled(picture.height, map.width, picture.width);
        let padding = height.saturating_sub(used) / 2;
        (0..width, padding..height - padding)
    } else {
        let used = scaled(picture.width, map.height, picture.height);
        let padding = width.saturating_sub(used) / 2;
        (padding..width - padding, 0..height)
    }
}

/// `side * to / from`, rounded to seven decimals before what is behind the point is cut off, as transformers does.
fn scaled(side: u32, to: u32, from: u32) -> usize {
    let exact = f64::from(side) * (f64::from(to) / f64::from(from));
    ((exact * 1e7).round_ties_even() / 1e7) as usize
}

/// The rows of all tiles in the order of the picture, without those of its padding, each row ended by a newline.
#[derive(Debug, PartialEq)]
pub(crate) struct Map<'a> {
    newline: &'a [f32],
    n_tile_columns: usize,
    /// Rows of a tile's side.
    patches: usize,
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Map<'_> {
    /// Columns, with the one of newlines, and rows.
    pub(crate) fn grid(&self) -> (usize, usize) {
        (self.columns.len() + 1, self.rows.len())
    }

    pub(crate) fn n_rows(&self) -> usize {
        let (columns, rows) = self.grid();
        columns * rows
    }

    /// Puts the tiles' rows together: `[patches * patches][n_embd]` of each tile in, `[rows][columns + 1][n_embd]` out.
    pub(crate) fn merge(&self, tiles: &[&[f32]]) -> Vec<f32> {
        let n_embd = self.newline.len();
        let (columns, rows) = self.grid();
        let mut map = Vec::with_capacity(columns * rows * n_embd);
        for y in self.rows.clone() {
            for x in self.columns.clone() {
                let tile = tiles[y / self.patches * self.n_tile_columns + x / self.patches];
                let i = y % self.patches * self.patches + x % self.patches;
                map.extend_from_slice(&tile[i * n_embd..(i + 1) * n_embd]);
            }
            map.extend_from_slice(self.newline);
        }
        map
    }
}
