//! The arithmetic of sizes, in double precision as in the processors.

use std::ops::Mul;

use crate::engine::options::ProjectorOptions;
use crate::engine::vision::image::Image;

/// Pixels, or tiles, or patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Size {
    pub(crate) const fn square(side: u32) -> Self {
        Self {
            width: side,
            height: side,
        }
    }

    pub(crate) fn of(image: &Image) -> Self {
        Self {
            width: image.width(),
            height: image.height(),
        }
    }

    pub(crate) fn area(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Width by height.
    pub(super) fn ratio(self) -> f64 {
        f64::from(self.width) / f64::from(self.height)
    }

    fn map(self, side: impl Fn(f64) -> f64) -> Self {
        Self {
            width: side(self.width.into()) as u32,
            height: side(self.height.into()) as u32,
        }
    }
}

impl Mul<u32> for Size {
    type Output = Self;

    fn mul(self, factor: u32) -> Self {
        Self {
            width: self.width * factor,
            height: self.height * factor,
        }
    }
}

/// How many pixels a picture may have in the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(super) min_pixels: u64,
    pub(super) max_pixels: u64,
}

impl Limits {
    /// Those asked for; else the published minimum, and the maximum of this program.
    pub(super) fn new(patch: u32, min_pixels: u64, options: &ProjectorOptions) -> Self {
        let of_tokens = |n_tokens: u64| n_tokens * u64::from(patch) * u64::from(patch);
        let max_tokens = options.image_max_tokens.map_or(super::MAX_TOKENS, u64::from);
        let max_pixels = of_tokens(max_tokens);
        let min_tokens = options.image_min_tokens.map(|n| of_tokens(n.into()));
        Self {
            min_pixels: min_tokens.unwrap_or(min_pixels).min(max_pixels),
            max_pixels,
        }
    }

    /// `fitted`, or what keeps the picture's ratio where that is too large or too small.
    fn apply(self, picture: Size, fitted: Size, patch: f64) -> Size {
        let pixels = picture.area() as f64;
        if fitted.area() > self.max_pixels {
            let beta = (pixels / self.max_pixels as f64).sqrt();
            picture.map(|side| ((side / beta / patch).floor() * patch).max(patch))
        } else if fitted.area() < self.min_pixels {
            let beta = (self.min_pixels as f64 / pixels).sqrt();
            picture.map(|side| (side * beta / patch).ceil() * patch)
        } else {
            fitted
        }
    }
}

/// Sides that differ more are refused by Qwen's processor.
const MAX_RATIO: f64 = 200.0;

/// Qwen's "smart resize": whole patches near the picture's own size, half to even as Python rounds.
pub(super) fn whole_patches(picture: Size, patch: u32, limits: Limits) -> Result<Size, String> {
    if picture.ratio().max(1.0 / picture.ratio()) > MAX_RATIO {
        return Err(format!(
            "the model takes no picture of which one side is more than {MAX_RATIO} times the other"
        ));
    }
    let patch = f64::from(patch);
    let nearest = picture.map(|side| (side / patch).round_ties_even() * patch);
    let fitted = limits.apply(picture, nearest, patch);
    Ok(fitted.map(|side| side.max(patch)))
}

/// Pixtral's: no side longer than `longest`, and whole patches that hold all of the picture.
pub(super) fn whole_patches_within(picture: Size, patch: u32, longest: u32, limits: Limits) -> Size {
    let ratio = f64::from(picture.width.max(picture.height)) / f64::from(longest);
    let shrunk = picture.map(|side| if ratio > 1.0 { (side / ratio).floor() } else { side });
    let fitted = Size {
        width: shrunk.width.max(1).next_multiple_of(patch),
        height: shrunk.height.max(1).next_multiple_of(patch),
    };
    limits.apply(picture, fitted, patch.into())
}

/// InternVL's: columns and rows of tiles, of the ratio nearest to the picture's. Where two are as near, the larger one if
/// the picture fills half of it.
pub(super) fn tile_grid(picture: Size, side: u32, min_tiles: u32, max_tiles: u32) -> Size {
    let mut grids: Vec<Size> = (1..=max_tiles)
        .flat_map(|width| (1..=max_tiles / width).map(move |height| Size { width, height }))
        .filter(|grid| grid.area() >= min_tiles.into())
        .collect();
    grids.sort_by_key(|grid| grid.area());
    let mut best = Size::square(1);
    let mut least = f64::INFINITY;
    for grid in grids {
        let difference = (picture.ratio() - grid.ratio()).abs();
        let is_filled = || picture.area() as f64 > 0.5 * (grid * side).area() as f64;
        if difference < least || (difference == least && is_filled()) {
            (best, least) = (grid, difference);
        }
    }
    best
}
