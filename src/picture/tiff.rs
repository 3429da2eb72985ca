//! Kinds of TIFF that the `image` crate leaves out: palettes, grey of few bits or in floating-point numbers, YCbCr.

use std::io::Cursor;

use ::tiff::TiffError;
use ::tiff::decoder::ifd::Value;
use ::tiff::decoder::{Decoder, DecodingResult, Limits};
use ::tiff::tags::{PhotometricInterpretation, PlanarConfiguration, SampleFormat, Tag};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage};

use super::MAX_DECODED_BYTES;

/// Share of red, green and blue in the Y of YCbCr: 3 fractions.
const YCBCR_COEFFICIENTS: Tag = Tag::Unknown(529);
/// What is black and what is white in Y, Cb and Cr: 6 fractions.
const REFERENCE_BLACK_WHITE: Tag = Tag::Unknown(532);
/// Those that TIFF has without the tag (ITU-R BT.601).
const BT_601: [f32; 3] = [0.299, 0.587, 0.114];

/// A picture of one of these kinds, not decoded yet.
pub struct Tiff<'a> {
    decoder: Decoder<Cursor<&'a [u8]>>,
    bytes: &'a [u8],
    kind: Kind,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// As in EXIF.
    pub orientation: Orientation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Numbers of colours, of so many bits.
    Palette(u8),
    /// 2 or 4 bits.
    FewGreys(u8),
    FloatGrey,
    YCbCr,
}

/// Why a picture could not be decoded.
#[derive(Debug)]
pub enum Failure {
    /// It is of a kind that is not read after all, in words.
    Kind(String),
    /// The file's fault.
    Tiff(TiffError),
}

impl From<TiffError> for Failure {
    fn from(error: TiffError) -> Self {
        Self::Tiff(error)
    }
}

impl<'a> Tiff<'a> {
    /// The picture that a file begins with, if it is of one of these kinds.
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut decoder = Decoder::new(Cursor::new(bytes)).ok()?;
        let kind = Kind::of(&mut decoder)?;
        let (width, height) = decoder.dimensions().ok()?;
        let orientation = decoder.find_tag_unsigned(Tag::Orientation).ok()?;
        Some(Self {
            decoder,
            bytes,
            kind,
            width,
            height,
            orientation: orientation
                .and_then(Orientation::from_exif)
                .unwrap_or(Orientation::NoTransforms),
        })
    }

    /// Memory that decoding takes, in bytes.
    pub fn n_bytes(&self) -> u64 {
        let per_pixel = match self.kind {
            Kind::Palette(_) | Kind::FewGreys(_) => 4,
            Kind::FloatGrey => 9,
            Kind::YCbCr => 6,
        };
        u64::from(self.width) * u64::from(self.height) * per_pixel
    }

    /// Its pixels, not turned upright.
    ///
    /// # Errors
    /// Files that are damaged, numbers that are not known to mean greys.
    pub fn decode(self) -> Result<DynamicImage, Failure> {
        let (width, height) = (self.width, self.height);
        match self.kind {
            Kind::Palette(n_bits) => self.palette(n_bits),
            Kind::FewGreys(n_bits) => {
                let numbers = unpacked(&in_bytes(self.decoder)?, width, n_bits);
                check(&numbers, width, height, 1)?;
                let white = (1 << n_bits) - 1;
                Ok(grey(width, height, |i| numbers[i] * (255 / white)))
            }
            Kind::FloatGrey => float_grey(self.decoder, width, height),
            Kind::YCbCr => ycbcr(self.decoder, width, height),
        }
    }

    /// A palette's numbers are laid out as greys would be, which the decoder reads; it refuses palettes.
    fn palette(mut self, n_bits: u8) -> Result<DynamicImage, Failure> {
        let colours = self.decoder.get_tag_u16_vec(Tag::ColorMap)?;
        let n_colours = 1_usize << n_bits;
        if colours.len() != 3 * n_colours {
            return Err(Failure::Kind(format!(
                "palette TIFF with {} values for {n_colours} colours",
                colours.len()
            )));
        }
        // Some writers fill bytes instead of 16 bits.
        let shift = if colours.iter().all(|&value| value < 256) {
            0
        } else {
            8
        };
        let colour = |number: u8| {
            let of_plane = |plane: usize| (colours[plane * n_colours + usize::from(number)] >> shift) as u8;
            Rgb([of_plane(0), of_plane(1), of_plane(2)])
        };
        let greys = with_grey_tag(self.bytes).ok_or_else(|| Failure::Kind("palette TIFF".to_owned()))?;
        let decoder = Decoder::new(Cursor::new(greys.as_slice()))?;
        let numbers = unpacked(&in_bytes(decoder)?, self.width, n_bits);
        check(&numbers, self.width, self.height, 1)?;
        let width = self.width as usize;
        let picture = RgbImage::from_fn(self.width, self.height, |x, y| {
            colour(numbers[y as usize * width + x as usize])
        });
        Ok(picture.into())
    }
}

impl Kind {
    fn of(decoder: &mut Decoder<Cursor<&[u8]>>) -> Option<Self> {
        let mut numbers = |tag| decoder.find_tag_unsigned_vec::<u16>(tag).ok();
        let colours =
            PhotometricInterpretation::from_u16(*numbers(Tag::PhotometricInterpretation)??.first()?)?;
        let bits = numbers(Tag::BitsPerSample)?.unwrap_or_else(|| vec![1]);
        let formats = numbers(Tag::SampleFormat)?.unwrap_or_default();
        let n_samples = numbers(Tag::SamplesPerPixel)?.map_or(1, |n| n.first().copied().unwrap_or(1));
        let planes = numbers(Tag::PlanarConfiguration)?.and_then(|n| n.first().copied());
        let is_format = |format: SampleFormat| formats.iter().all(|&own| own == format.to_u16());
        let (is_uint, is_float) = (is_format(SampleFormat::Uint), is_format(SampleFormat::IEEEFP));
        let is_grey = matches!(
            colours,
            PhotometricInterpretation::BlackIsZero | PhotometricInterpretation::WhiteIsZero
        );
        let is_planar = planes == Some(PlanarConfiguration::Planar.to_u16());
        match (colours, n_samples, bits.as_slice()) {
            (PhotometricInterpretation::RGBPalette, 1, &[n @ (1 | 2 | 4 | 8)]) if is_uint => {
                Some(Self::Palette(n as u8))
            }
            (_, 1, &[n @ (2 | 4)]) if is_grey && is_uint => Some(Self::FewGreys(n as u8)),
            (_, 1, &[16 | 32 | 64]) if is_grey && is_float && !formats.is_empty() => Some(Self::FloatGrey),
            (PhotometricInterpretation::YCbCr, 3, &[8, 8, 8]) if is_uint && !is_planar => Some(Self::YCbCr),
            _ => None,
        }
    }
}

fn decoded(decoder: Decoder<Cursor<&[u8]>>) -> Result<DecodingResult, TiffError> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MAX_DECODED_BYTES as usize;
    limits.intermediate_buffer_size = MAX_DECODED_BYTES as usize;
    decoder.with_limits(limits).read_image()
}

/// Whether there is a value for every sample of every pixel.
fn check<T>(values: &[T], width: u32, height: u32, n_samples: usize) -> Result<(), Failure> {
    if values.len() < width as usize * height as usize * n_samples {
        return Err(Failure::Kind("TIFF with fewer pixels than it says".to_owned()));
    }
    Ok(())
}

/// The same, of unsigned numbers of up to 8 bits.
fn in_bytes(decoder: Decoder<Cursor<&[u8]>>) -> Result<Vec<u8>, Failure> {
    match decoded(decoder)? {
        DecodingResult::U8(bytes) => Ok(bytes),
        _ => Err(Failure::Kind("TIFF with numbers of more than 8 bits".to_owned())),
    }
}

/// Numbers of a few bits each, the highest first, in lines that end with whole bytes.
fn unpacked(bytes: &[u8], width: u32, n_bits: u8) -> Vec<u8> {
    if n_bits == 8 {
        return bytes.to_vec();
    }
    let per_byte = usize::from(8 / n_bits);
    let width = width as usize;
    let lines = bytes.chunks(width.div_ceil(per_byte));
    let number = |line: &[u8], x: usize| {
        let shift = 8 - usize::from(n_bits) * (x % per_byte + 1);
        line[x / per_byte] >> shift & ((1 << n_bits) - 1)
    };
    lines
        .flat_map(|line| (0..width).map(move |x| number(line, x)))
        .collect()
}

fn grey(width: u32, height: u32, value: impl Fn(usize) -> u8) -> DynamicImage {
    GrayImage::from_fn(width, height, |x, y| {
        Luma([value(y as usize * width as usize + x as usize)])
    })
    .into()
}

/// Nothing in a file says what is white: 1 in most that programs for pictures write, 255 in those that were bytes.
fn float_grey(decoder: Decoder<Cursor<&[u8]>>, width: u32, height: u32) -> Result<DynamicImage, Failure> {
    let values: Vec<f32> = match decoded(decoder)? {
        DecodingResult::F16(values) => values.into_iter().map(f32::from).collect(),
        DecodingResult::F32(values) => values,
        DecodingResult::F64(values) => values.into_iter().map(|value| value as f32).collect(),
        _ => return Err(Failure::Kind("grey TIFF".to_owned())),
    };
    check(&values, width, height, 1)?;
    let lowest = values.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let factor = match highest {
        _ if lowest < 0.0 || values.iter().any(|value| value.is_nan()) => None,
        ..=1.0 => Some(255.0),
        ..=255.0 => Some(1.0),
        _ => None,
    };
    let factor = factor.ok_or_else(|| {
        Failure::Kind(format!(
            "grey TIFF with floating-point numbers from {lowest} to {highest}, neither 0 to 1 nor 0 to 255"
        ))
    })?;
    Ok(grey(width, height, |i| (values[i] * factor).round() as u8))
}

fn ycbcr(mut decoder: Decoder<Cursor<&[u8]>>, width: u32, height: u32) -> Result<DynamicImage, Failure> {
    let coefficients = fractions(&mut decoder, YCBCR_COEFFICIENTS)?;
    let [red, green, blue] = <[f32; 3]>::try_from(coefficients.unwrap_or(BT_601.to_vec()))
        .ok()
        .filter(|[_, green, _]| *green > 0.0)
        .ok_or_else(|| Failure::Kind("YCbCr TIFF with coefficients that are none".to_owned()))?;
    let full = [0.0, 255.0, 128.0, 255.0, 128.0, 255.0];
    if fractions(&mut decoder, REFERENCE_BLACK_WHITE)?.is_some_and(|own| own != full) {
        return Err(Failure::Kind(
            "YCbCr TIFF with a black and a white of its own".to_owned(),
        ));
    }
    let samples = in_bytes(decoder)?;
    check(&samples, width, height, 3)?;
    let picture = RgbImage::from_fn(width, height, |x, y| {
        let at = 3 * (y as usize * width as usize + x as usize);
        let [luma, cb, cr] = [samples[at], samples[at + 1], samples[at + 2]].map(f32::from);
        let r = luma + (2.0 - 2.0 * red) * (cr - 128.0);
        let b = luma + (2.0 - 2.0 * blue) * (cb - 128.0);
        let g = (luma - red * r - blue * b) / green;
        Rgb([r, g, b].map(|value| value.round() as u8)) // saturates
    });
    Ok(picture.into())
}

fn fractions(decoder: &mut Decoder<Cursor<&[u8]>>, tag: Tag) -> Result<Option<Vec<f32>>, TiffError> {
    let Some(value) = decoder.find_tag(tag)? else {
        return Ok(None);
    };
    let values = match value {
        Value::List(values) => values,
        value => vec![value],
    };
    let fraction = |value| match value {
        Value::Rational(above, below) => above as f32 / below as f32,
        value => value.into_f32().unwrap_or(f32::NAN),
    };
    Ok(Some(values.into_iter().map(fraction).collect()))
}

/// Whether a file is a BigTIFF, the variant with offsets of 8 bytes.
pub fn is_big(bytes: &[u8]) -> bool {
    bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+")
}

/// A copy of a file whose first picture says that its numbers are greys.
fn with_grey_tag(bytes: &[u8]) -> Option<Vec<u8>> {
    let is_little = bytes.starts_with(b"II");
    let number = |at: usize, n_bytes: usize| -> Option<usize> {
        let mut digits = bytes.get(at..at.checked_add(n_bytes)?)?.to_vec();
        if is_little {
            digits.reverse();
        }
        let value = digits.iter().try_fold(0_usize, |value, &digit| {
            value.checked_mul(256)?.checked_add(digit.into())
        })?;
        Some(value)
    };
    // TIFF has offsets of 4 bytes, BigTIFF of 8.
    let (n_offset, n_count, n_entry) = match number(2, 2)? {
        42 => (4, 2, 12),
        43 => (8, 8, 20),
        _ => return None,
    };
    let directory = number(n_offset, n_offset)?;
    let first = directory.checked_add(n_count)?;
    let entries = (0..number(directory, n_count)?).map(|i| first.checked_add(i.checked_mul(n_entry)?));
    let tag = usize::from(Tag::PhotometricInterpretation.to_u16());
    for entry in entries.map_while(|entry| entry) {
        if number(entry, 2)? == tag {
            let at = entry + 4 + n_offset; // behind tag, type and count
            let value = PhotometricInterpretation::BlackIsZero.to_u16();
            let value = if is_little {
                value.to_le_bytes()
            } else {
                value.to_be_bytes()
            };
            let mut copy = bytes.to_vec();
            copy.get_mut(at..at + 2)?.copy_from_slice(&value);
            return Some(copy);
        }
    }
    None
}

/// What kind of TIFF a file is, in words; `None` if it is none.
pub fn kind_in_words(bytes: &[u8]) -> Option<String> {
    let mut decoder = Decoder::new(Cursor::new(bytes)).ok()?;
    let mut tag = |tag| decoder.find_tag_unsigned_vec::<u16>(tag).ok()?;
    let colours = tag(Tag::PhotometricInterpretation)?;
    let colours = match PhotometricInterpretation::from_u16(*colours.first()?)? {
        PhotometricInterpretation::WhiteIsZero | PhotometricInterpretation::BlackIsZero => "grey",
        PhotometricInterpretation::RGB => "RGB",
        PhotometricInterpretation::RGBPalette => "palette",
        PhotometricInterpretation::TransparencyMask => "mask",
        PhotometricInterpretation::CMYK => "CMYK",
        PhotometricInterpretation::YCbCr => "YCbCr",
        _ => "Lab",
    };
    let n_bits = tag(Tag::BitsPerSample)
        .and_then(|bits| bits.first().copied())
        .unwrap_or(1);
    let format = tag(Tag::SampleFormat).and_then(|format| SampleFormat::from_u16(*format.first()?));
    let numbers = match format {
        Some(SampleFormat::IEEEFP) => "floating-point numbers",
        Some(SampleFormat::Int) => "signed numbers",
        _ => "numbers",
    };
    Some(format!("{colours} TIFF with {numbers} of {n_bits} bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Background, decode};
    use std::path::Path;

    fn read(bytes: &[u8]) -> Result<RgbImage, String> {
        let picture = decode(bytes, "a picture", Background::WHITE);
        let picture = picture.map_err(|error| error.to_string())?;
        Ok(RgbImage::from_raw(picture.width(), picture.height(), picture.data().to_vec()).expect("pixels"))
    }

    #[test]
    fn files_of_other_writers_are_read_as_libtiff_reads_them() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiff");
        let mut n_read = 0;
        for file in std::fs::read_dir(folder).expect("a folder") {
            let file = file.expect("an entry").path();
            if file.extension().is_none_or(|extension| extension != "tif") {
                continue;
            }
            let name = file.display();
            let bytes = std::fs::read(&file).expect("a file");
            assert!(Tiff::of(&bytes).is_some(), "{name}");
            let ours = read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            let expected = image::open(file.with_extension("png"))
                .expect("a picture")
                .into_rgb8();
            assert_eq!(ours.dimensions(), expected.dimensions(), "{name}");
            let most = ours
                .iter()
                .zip(expected.iter())
                .map(|(a, b)| a.abs_diff(*b))
                .max();
            // YCbCr is rounded, and JPEG decoders round on the way.
            let allowed = match file.file_stem().and_then(|name| name.to_str()) {
                Some("ycbcr") => 1,
                Some("ycbcr-jpeg") => 2,
                _ => 0,
            };
            assert!(most <= Some(allowed), "{name}: off by {most:?}");
            for n in [bytes.len() / 4, bytes.len() / 2] {
                let message = read(&bytes[..n]).expect_err("is cut short");
                assert!(message.contains("cut short"), "{name}: {message}");
            }
            n_read += 1;
        }
        assert_eq!(n_read, 12);
    }

    /// A TIFF of two pixels, uncompressed.
    fn two_pixels(photometric: u16, n_samples: u16, n_bits: u16, sample_format: u16) -> Vec<u8> {
        let n_bytes = (2 * u32::from(n_samples) * u32::from(n_bits)).div_ceil(8);
        let mut entries: Vec<(u16, u16, u32, u32)> = vec![
            (256, 3, 1, 2),
            (257, 3, 1, 1),
            (258, 3, 1, n_bits.into()),
            (259, 3, 1, 1),
            (262, 3, 1, photometric.into()),
            (273, 4, 1, 8),
            (277, 3, 1, n_samples.into()),
            (278, 3, 1, 1),
            (279, 4, 1, n_bytes),
            (339, 3, 1, sample_format.into()),
        ];
        if n_samples == 3 {
            // Three values of two bytes do not fit into an entry: they stand behind the pixels.
            entries[2] = (258, 3, 3, 8 + n_bytes);
            entries[9] = (339, 3, 3, 14 + n_bytes);
        }
        let mut file = b"II*\0".to_vec();
        file.extend((20 + n_bytes).to_le_bytes());
        file.extend(vec![7; n_bytes as usize]);
        for value in [[n_bits; 3], [sample_format; 3]].as_flattened() {
            file.extend(value.to_le_bytes());
        }
        file.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, count, value) in entries {
            file.extend(tag.to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend(count.to_le_bytes());
            file.extend(value.to_le_bytes());
        }
        file.extend([0; 4]);
        file
    }

    #[test]
    fn few_bits_are_greys_or_numbers_of_colours() {
        // 7 is 0000 0111: two pixels of 4 bits, or the first two of 2 bits.
        let row = |bytes: &[u8]| read(bytes).map(|picture| picture.into_raw());
        let greys = |values: [u8; 2]| Ok(values.map(|value| [value; 3]).as_flattened().to_vec());
        assert_eq!(row(&two_pixels(1, 1, 4, 1)), greys([0, 7 * 17]));
        assert_eq!(row(&two_pixels(0, 1, 4, 1)), greys([255, 8 * 17]));
        assert_eq!(row(&two_pixels(1, 1, 2, 1)), greys([0, 0]));
        assert_eq!(unpacked(&[0b0001_1011], 4, 2), [0, 1, 2, 3]);
        assert_eq!(
            unpacked(&[0b1011_0000, 0b1000_0000], 9, 1),
            [1, 0, 1, 1, 0, 0, 0, 0, 1]
        );
    }

    #[test]
    fn kinds_that_are_not_read_are_not_called_damaged() {
        assert!(read(&two_pixels(1, 1, 8, 1)).is_ok());
        for (bytes, kind) in [
            (two_pixels(6, 3, 8, 1), "chroma subsampling"),
            (two_pixels(8, 3, 8, 1), "Lab TIFF with numbers of 8 bits"),
            (two_pixels(9, 3, 8, 1), "Lab TIFF with numbers of 8 bits"),
            (two_pixels(1, 1, 32, 1), "grey TIFF with numbers of 32 bits"),
            (
                two_pixels(1, 1, 16, 2),
                "grey TIFF with signed numbers of 16 bits",
            ),
            (two_pixels(3, 1, 16, 1), "palette TIFF with numbers of 16 bits"),
        ] {
            let message = read(&bytes).expect_err("is not read");
            assert!(
                message.contains(kind) && message.contains("convert it"),
                "{message}"
            );
        }
    }

    #[test]
    fn floating_point_numbers_that_nobody_can_know_are_refused_by_their_range() {
        let of = |values: [f32; 2]| {
            let mut file = two_pixels(1, 1, 32, 3);
            file[8..16].copy_from_slice(values.map(f32::to_le_bytes).as_flattened());
            read(&file).map(|picture| picture.into_raw())
        };
        assert_eq!(of([0.0, 1.0]), Ok(vec![0, 0, 0, 255, 255, 255]));
        assert_eq!(of([3.0, 255.0]), Ok(vec![3, 3, 3, 255, 255, 255]));
        for values in [[-0.1, 1.0], [0.0, 256.0], [f32::NAN, 1.0], [0.0, f32::INFINITY]] {
            let message = of(values).expect_err("means nothing");
            assert!(message.contains("neither 0 to 1 nor 0 to 255"), "{message}");
        }
    }
}
