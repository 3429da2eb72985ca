//! Resampling, padding and cutting. Filters are those of the processors (Pillow's: antialiased, cubic with a = -0.5, first
//! along x, then along y, bytes in between); results differ from Pillow's by a rounding here and there.

use fast_image_resize::images::Image as Resized;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::Size;
use crate::engine::vision::image::Image;

/// Bytes per pixel.
const N_CHANNELS: usize = 3;

/// Resized without regard to the ratio of its sides.
pub(super) fn stretch(image: &Image, size: Size, filter: FilterType) -> Result<Image, String> {
    if size == Size::of(image) {
        return Ok(image.clone());
    }
    let narrow = resample_across(image, Canvas::of_width(image.width()), size.width, filter)?;
    resample(&narrow, size, filter)
}

/// On a square of the colour, in its middle, and the square resized. A square on the longest side may be a hundred times the
/// picture, so it is never made as a whole.
pub(super) fn pad_to_square(image: &Image, side: u32, colour: [u8; 3]) -> Result<Image, String> {
    let width = image.width().max(image.height());
    let narrow = resample_across(image, Canvas { width, colour }, side, FilterType::CatmullRom)?;
    let padded = Size {
        width: side,
        height: width,
    };
    resample(
        &paste(&narrow, padded, colour),
        Size::square(side),
        FilterType::CatmullRom,
    )
}

/// What rows of a picture are put on, in the middle.
struct Canvas {
    width: u32,
    colour: [u8; 3],
}

impl Canvas {
    /// Of a picture's own width.
    fn of_width(width: u32) -> Self {
        Self {
            width,
            colour: [0; 3],
        }
    }
}

/// Rows that are resized along x at a time.
const N_ROWS: u32 = 64;

/// Rows on a canvas, resized along x: `[height of the picture][width]`.
fn resample_across(image: &Image, canvas: Canvas, width: u32, filter: FilterType) -> Result<Image, String> {
    let mut data = Vec::new();
    for y in (0..image.height()).step_by(N_ROWS as usize) {
        let height = N_ROWS.min(image.height() - y);
        let of_image = Size {
            width: image.width(),
            height,
        };
        let of_canvas = Size {
            width: canvas.width,
            height,
        };
        let rows = paste(&crop(image, (0, y), of_image), of_canvas, canvas.colour);
        data.extend_from_slice(resample(&rows, Size { width, height }, filter)?.data());
    }
    Ok(Image::from_checked(width, image.height(), data))
}

/// In the middle of a canvas of one colour; where it cannot be in the middle, left of it and above.
pub(super) fn paste(image: &Image, canvas: Size, colour: [u8; 3]) -> Image {
    let n_pixels = canvas.area() as usize;
    let mut data = colour.repeat(n_pixels);
    let left = (canvas.width - image.width()) as usize / 2;
    let top = (canvas.height - image.height()) as usize / 2;
    let row_bytes = image.width() as usize * N_CHANNELS;
    for (y, row) in image.data().chunks_exact(row_bytes).enumerate() {
        let begin = ((top + y) * canvas.width as usize + left) * N_CHANNELS;
        data[begin..begin + row_bytes].copy_from_slice(row);
    }
    Image::from_checked(canvas.width, canvas.height, data)
}

/// A part of it, `(x, y)` from the upper left.
pub(super) fn crop(image: &Image, (x, y): (u32, u32), size: Size) -> Image {
    let row_bytes = image.width() as usize * N_CHANNELS;
    let columns = x as usize * N_CHANNELS..(x + size.width) as usize * N_CHANNELS;
    let rows = image.data().chunks_exact(row_bytes);
    let data = rows
        .skip(y as usize)
        .take(size.height as usize)
        .flat_map(|row| &row[columns.clone()])
        .copied()
        .collect();
    Image::from_checked(size.width, size.height, data)
}

/// Resized along one side or both. Pixels are taken times 256: with 16 bits the crate weighs them as exactly as Pillow does,
/// with 8 bits it does not.
fn resample(image: &Image, size: Size, filter: FilterType) -> Result<Image, String> {
    if size == Size::of(image) {
        return Ok(image.clone());
    }
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let mut from = Resized::new(image.width(), image.height(), PixelType::U16x3);
    let wide = image
        .data()
        .iter()
        .flat_map(|&value| (u16::from(value) << 8).to_ne_bytes());
    for (to, byte) in from.buffer_mut().iter_mut().zip(wide) {
        *to = byte;
    }
    let mut to = Resized::new(size.width, size.height, PixelType::U16x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    Resizer::new()
        .resize(&from, &mut to, &options)
        .map_err(|error| words(&error))?;
    let narrow = |pair: &[u8]| {
        let value = u32::from(u16::from_ne_bytes([pair[0], pair[1]]));
        ((value + 128) >> 8).min(255) as u8
    };
    let data = to.buffer().chunks_exact(2).map(narrow).collect();
    Ok(Image::from_checked(size.width, size.height, data))
}
