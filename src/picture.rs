//! Pictures from the content of files, as people have them: any common format, upright, opaque, of a size that can be used.
#![forbid(unsafe_code)]

mod tiff;

use std::io::Cursor;
use std::str::FromStr;

use ::tiff::TiffError;
use image::error::{DecodingError, ImageFormatHint};
use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgb, RgbImage, Rgba, imageops,
};

use self::tiff::{Failure, Tiff};
use crate::engine::{self, Image};

/// Widest and highest picture that is decoded, in pixels.
const MAX_SIDE: u32 = 65_536;
/// Most memory that a decoder may take for one picture, in bytes: 100 megapixels of RGBA with room to spare.
const MAX_DECODED_BYTES: u64 = 512 << 20;
/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;
/// A picture with a longer side is scaled down to it, in pixels. Vision encoders see a few hundred to a few thousand,
/// and work with square copies of the longer side.
const MAX_ENCODED_SIDE: u32 = 4096;

/// What shows through where a picture is transparent, as red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Background(pub [u8; 3]);

impl Background {
    /// What viewers and browsers show, and what pictures with transparent parts are mostly made for.
    pub const WHITE: Self = Self([255; 3]);
}

impl FromStr for Background {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = match text {
            "white" => return Ok(Self::WHITE),
            "black" => return Ok(Self([0; 3])),
            _ => text.strip_prefix('#').filter(|digits| digits.len() == 6),
        };
        let number = digits
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or("must be white, black or #rrggbb")?;
        let [_, rgb @ ..] = number.to_be_bytes();
        Ok(Self(rgb))
    }
}

impl std::fmt::Display for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([red, green, blue]) = self;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

/// Why a picture could not be read. Every message names the picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PictureError {
    #[error("cannot read the image {image}")]
    Read { image: String, source: std::io::Error },
    #[error("the image {image} is empty (0 bytes)")]
    Empty { image: String },
    #[error("{image} is not an image that can be read: use a PNG, JPEG, WebP, GIF, BMP or TIFF file")]
    UnknownFormat { image: String },
    #[error("the image {image} is {format}, which is not read: convert it to PNG or JPEG")]
    OtherFormat { image: String, format: &'static str },
    #[error("the image {image} is of a kind that is not read ({kind}): convert it to PNG or JPEG")]
    Unsupported { image: String, kind: String },
    #[error("the image {image} is damaged or cut short, save it anew")]
    Damaged { image: String, source: ImageError },
    #[error("the image {image} is cut short: the end of the JPEG file is missing, save it anew")]
    CutShort { image: String },
    #[error("the image {image} is {width} x {height} pixels: at most {MAX_SIDE} per side are read")]
    TooLarge { image: String, width: u32, height: u32 },
    #[error(
        "the image {image} is {width} x {height} pixels and takes more than {} MiB decoded, which is the limit: \
         scale it down first",
        MAX_DECODED_BYTES >> 20
    )]
    TooMuchMemory { image: String, width: u32, height: u32 },
    #[error("the image {image} is larger than {} MiB, which is the limit", MAX_FILE_BYTES >> 20)]
    FileTooLarge { image: String },
    #[error(transparent)]
    Pixels(#[from] engine::Error),
}

/// A picture as RGB, 8 bits per channel, upright (EXIF orientation applied), with no side longer than 4096 pixels. Where it
/// is transparent, the background shows through; of an animation the first frame is taken. `name` is for errors.
///
/// ```
/// # use visipruner::picture::{self, Background};
/// let refused = picture::decode(b"no picture", "notes.txt", Background::WHITE);
/// assert!(refused.unwrap_err().to_string().starts_with("notes.txt is not an image"));
/// ```
///
/// # Errors
/// Whatever [`PictureError`] lists. Sizes are checked before memory is taken, so that a small file that claims to be
/// a huge picture is refused.
pub fn decode(bytes: &[u8], name: &str, background: Background) -> Result<Image, PictureError> {
    check_length(bytes.len() as u64, name)?;
    let picture = fit(opaque(decoded(bytes, name)?, background));
    let (width, height) = picture.dimensions();
    Ok(Image::from_rgb8(width, height, picture.into_raw())?)
}

/// Whether a file of so many bytes is looked at.
///
/// # Errors
/// [`PictureError::Empty`], [`PictureError::FileTooLarge`]
pub fn check_length(n_bytes: u64, name: &str) -> Result<(), PictureError> {
    let image = name.to_owned();
    match n_bytes {
        0 => Err(PictureError::Empty { image }),
        n if n > MAX_FILE_BYTES => Err(PictureError::FileTooLarge { image }),
        _ => Ok(()),
    }
}

fn decoded(bytes: &[u8], name: &str) -> Result<DynamicImage, PictureError> {
    let damaged = |source| match source {
        ImageError::Unsupported(error) => PictureError::Unsupported {
            image: name.to_owned(),
            kind: tiff::kind_in_words(bytes).unwrap_or_else(|| error.to_string()),
        },
        source => PictureError::Damaged {
            image: name.to_owned(),
            source,
        },
    };
    let format = format_of(bytes, name)?;
    if let Some(picture) = (format == ImageFormat::Tiff).then(|| Tiff::of(bytes)).flatten() {
        return decoded_tiff(picture, name);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let size = decoder.dimensions();
    check_size(name, size, decoder.total_bytes())?;
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| match error {
        ImageError::Limits(_) => too_much_memory(name, size),
        error => damaged(error),
    })?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn format_of(bytes: &[u8], name: &str) -> Result<ImageFormat, PictureError> {
    let format = image::guess_format(bytes)
        .ok()
        .or_else(|| tiff::is_big(bytes).then_some(ImageFormat::Tiff))
        .filter(ImageFormat::reading_enabled);
    let image = name.to_owned();
    match (format, other_format(bytes)) {
        (Some(ImageFormat::Jpeg), _) if !jpeg_is_complete(bytes) => Err(PictureError::CutShort { image }),
        (Some(format), _) => Ok(format),
        (None, Some(format)) => Err(PictureError::OtherFormat { image, format }),
        (None, None) => Err(PictureError::UnknownFormat { image }),
    }
}

fn decoded_tiff(picture: Tiff<'_>, name: &str) -> Result<DynamicImage, PictureError> {
    let (size, orientation) = ((picture.width, picture.height), picture.orientation);
    check_size(name, size, picture.n_bytes())?;
    let image = name.to_owned();
    let mut picture = picture.decode().map_err(|failure| match failure {
        Failure::Kind(kind) => PictureError::Unsupported { image, kind },
        Failure::Tiff(TiffError::UnsupportedError(error)) => PictureError::Unsupported {
            image,
            kind: format!("TIFF: {error}"),
        },
        Failure::Tiff(TiffError::LimitsExceeded) => too_much_memory(name, size),
        Failure::Tiff(error) => PictureError::Damaged {
            image,
            source: ImageError::Decoding(DecodingError::new(
                ImageFormatHint::Exact(ImageFormat::Tiff),
                error,
            )),
        },
    })?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn check_size(name: &str, size: (u32, u32), n_bytes: u64) -> Result<(), PictureError> {
    let (width, height) = size;
    if width > MAX_SIDE || height > MAX_SIDE {
        let image = name.to_owned();
        return Err(PictureError::TooLarge { image, width, height });
    }
    if n_bytes > MAX_DECODED_BYTES {
        return Err(too_much_memory(name, size));
    }
    Ok(())
}

fn too_much_memory(name: &str, (width, height): (u32, u32)) -> PictureError {
    let image = name.to_owned();
    PictureError::TooMuchMemory { image, width, height }
}

/// Formats of cameras and browsers that no decoder in pure Rust reads well.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    // The first box of an ISO media file names its brand.
    let brand = (bytes.get(4..8)? == b"ftyp").then(|| bytes.get(8..12)).flatten();
    match brand {
        Some(b"avif" | b"avis") => Some("an AVIF file"),
        Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1") => {
            Some("a HEIC file")
        }
        _ if bytes.starts_with(b"\xff\x0a") || bytes[4..].starts_with(b"JXL \r\n") => Some("a JPEG XL file"),
        _ => None,
    }
}

fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    limits
}

/// Whether a JPEG file runs up to its end marker. The decoder fills the missing part of a picture that was cut short
/// with grey, and the model would then describe grey.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2; // after the start-of-image marker
    loop {
        // The next marker: 0xFF and a code. In picture data 0xFF is followed by 0 or by a restart code.
        let Some(skipped) = bytes
            .get(at..)
            .and_then(|rest| rest.windows(2).position(|w| w[0] == 0xFF && is_marker(w[1])))
        else {
            return false;
        };
        at += skipped;
        if bytes[at + 1] == 0xD9 {
            return true;
        }
        let Some(length) = bytes.get(at + 2..at + 4) else {
            return false;
        };
        at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
}

/// Whether the byte after 0xFF starts a JPEG segment or ends the picture.
fn is_marker(code: u8) -> bool {
    !matches!(code, 0x00 | 0x01 | 0xD0..=0xD8 | 0xFF)
}

/// RGB, with the background where nothing or not all of it is covered.
fn opaque(picture: DynamicImage, background: Background) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        over(*picture.get_pixel(x, y), background)
    })
}

/// A pixel over a background, as viewers and PIL's `alpha_composite` have it: the stored values are mixed, not the light.
fn over(Rgba([red, green, blue, alpha]): Rgba<u8>, Background(below): Background) -> Rgb<u8> {
    let alpha = u32::from(alpha);
    let mixed = |above: u8, below: u8| {
        let sum = u32::from(above) * alpha + u32::from(below) * (255 - alpha);
        ((sum + 127) / 255) as u8 // a mean of bytes
    };
    Rgb([
        mixed(red, below[0]),
        mixed(green, below[1]),
        mixed(blue, below[2]),
    ])
}

/// Scaled down where a side is longer than a vision encoder has use for.
fn fit(picture: RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let longest = width.max(height);
    if longest <= MAX_ENCODED_SIDE {
        return picture;
    }
    let scaled = |side: u32| {
        let side = u64::from(side) * u64::from(MAX_ENCODED_SIDE) / u64::from(longest);
        side.max(1) as u32 // at most MAX_ENCODED_SIDE
    };
    imageops::resize(
        &picture,
        scaled(width),
        scaled(height),
        imageops::FilterType::Triangle,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbaImage;

    fn encode(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).expect("encodes");
        bytes.into_inner()
    }

    /// Red in the upper left quarter, blue elsewhere.
    fn corner(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let red = x < width / 2 && y < height / 2;
            Rgb(if red { [255, 0, 0] } else { [0, 0, 255] })
        })
    }

    fn decode_rgb(bytes: &[u8]) -> Result<RgbImage, String> {
        decoded(bytes, "a picture")
            .map(|picture| fit(opaque(picture, Background::WHITE)))
            .map_err(|error| error.to_string())
    }

    /// Noise that nothing covers, half of it, and all of it.
    fn noise() -> RgbaImage {
        RgbaImage::from_fn(12, 9, |x, y| {
            let noise = |factor: u32| ((x * 37 + y * 101) * factor % 256) as u8;
            Rgba([noise(1), noise(3), noise(7), [0, 128, 255][x as usize / 4]])
        })
    }

    #[test]
    fn the_background_shows_through_in_every_format_with_transparency() {
        let noise = noise();
        for format in [
            ImageFormat::Png,
            ImageFormat::WebP,
            ImageFormat::Tiff,
            ImageFormat::Bmp,
        ] {
            let mut bytes = Cursor::new(Vec::new());
            noise.write_to(&mut bytes, format).expect("encodes");
            for below in [Background::WHITE, Background([0; 3]), Background([9, 99, 199])] {
                let decoded = decoded(bytes.get_ref(), "a picture").expect("decodes");
                let seen = opaque(decoded, below);
                for (x, y, Rgba([red, _, _, alpha])) in noise.enumerate_pixels().map(|(x, y, p)| (x, y, *p)) {
                    let expected = match alpha {
                        0 => below.0[0],
                        255 => red,
                        _ => ((f64::from(red) * 128.0 + f64::from(below.0[0]) * 127.0) / 255.0).round() as u8,
                    };
                    assert_eq!(seen.get_pixel(x, y)[0], expected, "{format:?} {below} {x} {y}");
                }
            }
        }
    }

    #[test]
    fn other_kinds_of_transparency() {
        let white = |picture: DynamicImage| opaque(picture, Background::WHITE).get_pixel(0, 0).0;
        let noise = || image::ImageBuffer::from_pixel(1, 1, image::LumaA([77u8, 0]));
        assert_eq!(white(noise().into()), [255; 3]);
        let deep = image::ImageBuffer::from_pixel(1, 1, Rgba([1000u16, 2, 3, 0]));
        assert_eq!(white(deep.into()), [255; 3]);
        // Half of the places of a GIF show nothing.
        let mut gif = Cursor::new(Vec::new());
        let holes = RgbaImage::from_fn(2, 1, |x, _| Rgba([0, 0, 255, 255 * x as u8]));
        holes.write_to(&mut gif, ImageFormat::Gif).expect("encodes");
        let seen = decode_rgb(gif.get_ref()).expect("decodes");
        assert_eq!(seen.into_raw(), [255, 255, 255, 0, 0, 255]);
    }

    #[test]
    fn backgrounds_are_names_or_six_digits() {
        for (text, rgb) in [
            ("white", [255; 3]),
            ("black", [0; 3]),
            ("#0aFf80", [10, 255, 128]),
        ] {
            assert_eq!(text.parse(), Ok(Background(rgb)));
        }
        for text in ["", "red", "#fff", "#12345g", "#+12345", "0aff80", "#äöü"] {
            assert!(text.parse::<Background>().is_err(), "{text}");
        }
    }

    #[test]
    fn lossless_formats_come_back_as_they_were() {
        let picture = corner(20, 12);
        for format in [
            ImageFormat::Png,
            ImageFormat::Bmp,
            ImageFormat::Tiff,
            ImageFormat::WebP,
            ImageFormat::Gif,
        ] {
            assert_eq!(
                decode_rgb(&encode(&picture, format)).as_ref(),
                Ok(&picture),
                "{format:?}"
            );
        }
    }

    #[test]
    fn jpeg_decodes_and_is_turned_upright() {
        let jpeg = encode(&corner(32, 16), ImageFormat::Jpeg);
        let plain = decode_rgb(&jpeg).expect("decodes");
        assert_eq!(plain.dimensions(), (32, 16));
        // An EXIF segment that says "turn by 90 degrees clockwise" (orientation 6) goes after the first marker.
        let mut tagged = jpeg[..2].to_vec();
        tagged.extend(b"\xFF\xE1\x00\x22Exif\0\0II*\0\x08\0\0\0");
        tagged.extend(b"\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0");
        tagged.extend(&jpeg[2..]);
        let upright = decode_rgb(&tagged).expect("decodes");
        assert_eq!(upright, imageops::rotate90(&plain));
    }

    #[test]
    fn whatever_is_cut_short_is_refused() {
        for format in [
            ImageFormat::Png,
            ImageFormat::Jpeg,
            ImageFormat::Bmp,
            ImageFormat::Tiff,
            ImageFormat::WebP,
            ImageFormat::Gif,
        ] {
            let bytes = encode(&corner(64, 64), format);
            for n in [bytes.len() / 4, bytes.len() / 2] {
                let message = decode_rgb(&bytes[..n]).err().unwrap_or_default();
                assert!(message.contains("cut short"), "{format:?} {n}: {message}");
            }
        }
    }

    #[test]
    fn what_is_no_picture_is_refused_with_the_formats_that_are() {
        let message = decode_rgb(b"GGUF\x03\0\0\0 and more").expect_err("is no picture");
        assert!(message.contains("not an image") && message.contains("PNG, JPEG"));
    }

    #[test]
    fn formats_that_are_not_read_are_named() {
        for (bytes, format) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0"[..], "a HEIC file"),
            (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF file"),
            (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file"),
            (b"\xff\x0a\x7f\0\0\0\0\0", "a JPEG XL file"),
        ] {
            let message = decode_rgb(bytes).expect_err("is not read");
            assert!(
                message.contains(format) && message.contains("convert it to PNG"),
                "{message}"
            );
        }
    }

    #[test]
    fn one_pixel_is_a_picture() {
        let picture = RgbImage::from_pixel(1, 1, Rgb([1, 2, 3]));
        assert_eq!(decode_rgb(&encode(&picture, ImageFormat::Png)), Ok(picture));
    }

    #[test]
    fn a_very_wide_picture_is_scaled_down() {
        let bytes = encode(&corner(20_000, 3), ImageFormat::Png);
        assert_eq!(decode_rgb(&bytes).map(|p| p.dimensions()), Ok((4096, 1)));
    }

    #[test]
    fn a_small_file_that_claims_a_huge_picture_is_refused_before_memory_is_taken() {
        let mut png = encode(&corner(4, 4), ImageFormat::Png);
        for (sides, expected) in [([60_000, 60_000], "512 MiB"), ([70_000, 1], "65536 per side")] {
            set_png_size(&mut png, sides);
            let message = decode_rgb(&png).expect_err("is too large");
            assert!(message.contains(expected), "{message}");
        }
    }

    /// Overwrites the size in a PNG's header, and its checksum.
    fn set_png_size(png: &mut [u8], [width, height]: [u32; 2]) {
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = !png[12..29].iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
            })
        });
        png[29..33].copy_from_slice(&crc.to_be_bytes());
    }
}
