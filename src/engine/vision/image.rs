//! Pictures as pixels.

use crate::engine::Error;

/// An RGB picture, 8 bits per channel.
///
/// ```
/// # use visipruner::engine::Image;
/// let grey = Image::from_rgb8(64, 48, vec![128; 64 * 48 * 3])?;
/// assert_eq!((grey.width(), grey.height()), (64, 48));
/// # Ok::<(), visipruner::engine::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    /// `[height][width][3]`
    data: Vec<u8>,
}

impl Image {
    /// Longest side of a picture, in pixels. Upstream multiplies sides as 32-bit integers and stops the process above
    /// 46,000 (`clip.h: clip_image_size::area`@0.1.161); this leaves room for rounding up to whole patches.
    pub const MAX_SIDE: u32 = 32_768;

    /// A picture from its pixels: rows from top to bottom, pixels from left to right, red, green, blue.
    ///
    /// # Errors
    /// [`Error::ImageSize`] if a side is 0 or longer than [`Image::MAX_SIDE`], [`Error::ImageData`] if there are not
    /// `width * height * 3` bytes.
    pub fn from_rgb8(width: u32, height: u32, data: Vec<u8>) -> Result<Self, Error> {
        check_size(width, height)?;
        let expected = width as usize * height as usize * 3;
        if data.len() != expected {
            return Err(Error::ImageData {
                width,
                height,
                n_bytes: data.len(),
                expected,
            });
        }
        Ok(Self { width, height, data })
    }

    /// A picture whose length follows from its sides.
    #[cfg_attr(not(feature = "native"), allow(dead_code))]
    pub(super) fn from_checked(width: u32, height: u32, data: Vec<u8>) -> Self {
        debug_assert_eq!(data.len(), width as usize * height as usize * 3);
        Self { width, height, data }
    }

    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels, `[height][width][3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}x{})", self.width, self.height)
    }
}

/// Whether a picture may have these sides.
pub(crate) fn check_size(width: u32, height: u32) -> Result<(), Error> {
    let sides = 1..=Image::MAX_SIDE;
    if sides.contains(&width) && sides.contains(&height) {
        return Ok(());
    }
    Err(Error::ImageSize {
        width,
        height,
        max: Image::MAX_SIDE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_lengths_are_checked() {
        assert!(Image::from_rgb8(1, 1, vec![0; 3]).is_ok());
        assert!(matches!(
            Image::from_rgb8(0, 1, vec![]),
            Err(Error::ImageSize { .. })
        ));
        assert!(matches!(
            Image::from_rgb8(1, Image::MAX_SIDE + 1, vec![]),
            Err(Error::ImageSize { .. })
        ));
        assert!(matches!(
            Image::from_rgb8(2, 2, vec![0; 11]),
            Err(Error::ImageData { expected: 12, .. })
        ));
    }
}
