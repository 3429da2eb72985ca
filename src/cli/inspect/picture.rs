//! The picture under a heat map: as the vision encoder saw it.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use visipruner::engine::Image;
use visipruner::inspect::InspectedImage;

use crate::cli::mosaic::PADDING;

/// The longer side in the report, in pixels: heat maps are drawn smaller, and the file holds every picture.
const LONGER_SIDE: u32 = 672;

/// What a part of a prompt's vision tokens shows.
#[derive(Debug, PartialEq)]
pub enum Shown {
    /// Tokens cover all of it.
    Whole(Image),
    /// The same but for the last column, which shows nothing.
    BesideNewlines(Image),
    /// Tokens cover it and the padding that makes it as wide or high as their grid.
    Padded(Image),
}

/// What each of a picture's parts shows. `fitted` is the picture as the encoder got it, where that is known. `None` where the
/// parts are not known.
pub fn shown(image: &Image, fitted: Option<Vec<Image>>, n_parts: usize) -> Option<Vec<Shown>> {
    match fitted {
        Some(tiles) if tiles.len() == n_parts => Some(tiles.into_iter().map(Shown::Whole).collect()),
        // an overview, and a map of all the tiles without their padding
        Some(tiles) if n_parts == 2 => {
            let overview = tiles.into_iter().next().map(Shown::Whole);
            Some(
                overview
                    .into_iter()
                    .chain([Shown::BesideNewlines(image.clone())])
                    .collect(),
            )
        }
        None if n_parts == 1 => Some(vec![Shown::Padded(image.clone())]),
        _ => None,
    }
}

/// A picture scaled to its tokens' grid.
pub fn inspected(
    shown: &Shown,
    name: &str,
    first_token: usize,
    (n_cols, n_rows): (usize, usize),
) -> InspectedImage {
    let picture = on_grid(shown, n_cols as u32, n_rows as u32);
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
fn on_grid(shown: &Shown, n_cols: u32, n_rows: u32) -> RgbImage {
    let cell = (LONGER_SIDE / n_cols.max(n_rows)).max(1);
    let (width, height) = (n_cols * cell, n_rows * cell);
    let (image, inner_width, inner_height) = match shown {
        Shown::Whole(image) => (image, width, height),
        Shown::BesideNewlines(image) => (image, width - cell, height),
        Shown::Padded(image) => {
            let scale = f64::min(
                f64::from(width) / f64::from(image.width()),
                f64::from(height) / f64::from(image.height()),
            );
            let scaled = |side: u32, limit: u32| ((f64::from(side) * scale).round() as u32).clamp(1, limit);
            (
                image,
                scaled(image.width(), width),
                scaled(image.height(), height),
            )
        }
    };
    let pixels = RgbImage::from_raw(image.width(), image.height(), image.data().to_vec())
        .expect("an Image has as many pixels as it says");
    let inner = imageops::resize(&pixels, inner_width.max(1), inner_height, FilterType::Triangle);
    let mut picture = RgbImage::from_pixel(width, height, Rgb(PADDING));
    let (left, top) = match shown {
        Shown::Padded(_) => ((width - inner_width) / 2, (height - inner_height) / 2),
        Shown::Whole(_) | Shown::BesideNewlines(_) => (0, 0),
    };
    imageops::replace(&mut picture, &inner, left.into(), top.into());
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_picture_is_padded_above_and_below() {
        let red = Image::from_rgb8(40, 20, [200, 0, 0].repeat(800)).expect("an image");
        let picture = on_grid(&Shown::Padded(red), 8, 8);
        assert_eq!(picture.dimensions(), (672, 672));
        assert_eq!(picture.get_pixel(0, 167).0, PADDING);
        assert_eq!(picture.get_pixel(0, 168).0, [200, 0, 0]);
        assert_eq!(picture.get_pixel(671, 503).0, [200, 0, 0]);
        assert_eq!(picture.get_pixel(671, 504).0, PADDING);
    }

    #[test]
    fn a_grid_that_is_no_square_has_square_cells() {
        let blue = Image::from_rgb8(30, 10, [0, 0, 200].repeat(300)).expect("an image");
        let picture = inspected(&Shown::Whole(blue), "blue.png", 64, (12, 4));
        assert_eq!((picture.width, picture.height), (672, 224));
        assert_eq!((picture.first_token, picture.n_cols, picture.n_rows), (64, 12, 4));
        let read = image::load_from_memory(&picture.png)
            .expect("a PNG file")
            .to_rgb8();
        assert!(read.pixels().all(|pixel| pixel.0 == [0, 0, 200]));
    }

    #[test]
    fn parts_are_tiles_or_an_overview_and_a_map() {
        let grey = |width| Image::from_rgb8(width, 1, vec![9; 3 * width as usize]).expect("an image");
        let tiles = || Some(vec![grey(1), grey(2), grey(3)]);
        let whole = |width| Shown::Whole(grey(width));
        assert_eq!(
            shown(&grey(9), tiles(), 3),
            Some(vec![whole(1), whole(2), whole(3)])
        );
        let map = Shown::BesideNewlines(grey(9));
        assert_eq!(shown(&grey(9), tiles(), 2), Some(vec![whole(1), map]));
        assert_eq!(shown(&grey(9), None, 1), Some(vec![Shown::Padded(grey(9))]));
        assert_eq!(shown(&grey(9), None, 4), None);
    }

    #[test]
    fn newlines_show_nothing() {
        let red = Image::from_rgb8(20, 20, [200, 0, 0].repeat(400)).expect("an image");
        let picture = on_grid(&Shown::BesideNewlines(red), 3, 2);
        assert_eq!(picture.dimensions(), (672, 448));
        assert_eq!(picture.get_pixel(447, 447).0, [200, 0, 0]);
        assert_eq!(picture.get_pixel(448, 0).0, PADDING);
    }
}
