//! The picture under a heat map: as the vision encoder saw it.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use visipruner::engine::Image;
use visipruner::inspect::InspectedImage;

use crate::cli::mosaic::PADDING;

/// The longer side in the report, in pixels: heat maps are drawn smaller, and the file holds every picture.
const LONGER_SIDE: u32 = 672;

/// A picture scaled to fit into its tokens' grid and padded to fill it, as projectors do.
pub fn inspected(
    image: &Image,
    name: &str,
    first_token: usize,
    (n_cols, n_rows): (usize, usize),
) -> InspectedImage {
    let picture = letterboxed(image, n_cols as u32, n_rows as u32);
    let mut png = Cursor::new(Vec::new());
    picture
        .write_to(&mut png, ImageFormat::Png)
        .expect("pixels in memory become a PNG file in memory");
    InspectedImage {
        name: name.to_owned(),
        png: png.into_inner(),
        width: picture.width(),
        height: picture.height(),
        first_token,
        n_cols,
        n_rows,
    }
}

/// Cells are whole pixels, and square: vision tokens are patches of the same width and height.
fn letterboxed(image: &Image, n_cols: u32, n_rows: u32) -> RgbImage {
    let cell = (LONGER_SIDE / n_cols.max(n_rows)).max(1);
    let (width, height) = (n_cols * cell, n_rows * cell);
    let pixels = RgbImage::from_raw(image.width(), image.height(), image.data().to_vec())
        .expect("an Image has as many pixels as it says");
    let scale = f64::min(
        f64::from(width) / f64::from(image.width()),
        f64::from(height) / f64::from(image.height()),
    );
    let scaled = |side: u32, limit: u32| ((f64::from(side) * scale).round() as u32).clamp(1, limit);
    let (inner_width, inner_height) = (scaled(image.width(), width), scaled(image.height(), height));
    let inner = imageops::resize(&pixels, inner_width, inner_height, FilterType::Triangle);
    let mut picture = RgbImage::from_pixel(width, height, Rgb(PADDING));
    let (left, top) = ((width - inner_width) / 2, (height - inner_height) / 2);
    imageops::replace(&mut picture, &inner, left.into(), top.into());
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_picture_is_padded_above_and_below() {
        let red = Image::from_rgb8(40, 20, [200, 0, 0].repeat(800)).expect("an image");
        let picture = letterboxed(&red, 8, 8);
        assert_eq!(picture.dimensions(), (672, 672));
        assert_eq!(picture.get_pixel(0, 167).0, PADDING);
        assert_eq!(picture.get_pixel(0, 168).0, [200, 0, 0]);
        assert_eq!(picture.get_pixel(671, 503).0, [200, 0, 0]);
        assert_eq!(picture.get_pixel(671, 504).0, PADDING);
    }

    #[test]
    fn a_grid_that_is_no_square_has_square_cells() {
        let blue = Image::from_rgb8(30, 10, [0, 0, 200].repeat(300)).expect("an image");
        let picture = inspected(&blue, "blue.png", 64, (12, 4));
        assert_eq!((picture.width, picture.height), (672, 224));
        assert_eq!((picture.first_token, picture.n_cols, picture.n_rows), (64, 12, 4));
        let read = image::load_from_memory(&picture.png)
            .expect("a PNG file")
            .to_rgb8();
        assert!(read.pixels().all(|pixel| pixel.0 == [0, 0, 200]));
    }
}
