//! Single figures as files: heat maps as PNG, charts as SVG.

use std::fs;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use super::colours::{PICTURE_LIGHT, colour, opacity};
use super::data::{InspectedImage, InspectedLayer, Inspection};
use super::error::InspectError;

/// Width of a heat map in pixels, about: the picture's own if that is greater, and a multiple of the columns.
const WIDTH: u32 = 480;

/// A statistic that is drawn over the picture.
struct Statistic {
    name: &'static str,
    values: fn(&InspectedLayer) -> &[f64],
}

const STATISTICS: [Statistic; 2] = [
    Statistic {
        name: "attention",
        values: |layer| &layer.attention,
    },
    Statistic {
        name: "contribution",
        values: |layer| &layer.norm,
    },
];

impl Inspection {
    /// Writes into `folder`, which is made if it is not there: `cosine.svg`, `values.svg`, and for every layer
    /// `attention-layer-05.png` and `contribution-layer-05.png`, with `-image-1` before the ending when there are
    /// several pictures. The brightest colour is the greatest value of that layer. Returns the files.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`InspectError::Picture`] for a picture that cannot be decoded,
    /// [`InspectError::Io`] for a file that cannot be written.
    pub fn write_parts(&self, folder: &Path) -> Result<Vec<PathBuf>, InspectError> {
        self.check()?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| InspectError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(io(folder))?;
        let mut files = Vec::new();
        let charts = [
            ("cosine.svg", self.cosine_chart().to_svg()),
            ("values.svg", self.value_chart().to_svg()),
        ];
        for (name, svg) in charts {
            let path = folder.join(name);
            fs::write(&path, svg).map_err(io(&path))?;
            files.push(path);
        }
        for (i, picture) in self.images.iter().enumerate() {
            let ground = ground(picture)?;
            for (il, layer) in self.layers.iter().enumerate() {
                for statistic in &STATISTICS {
                    let path = folder.join(self.file_name(statistic.name, il, i));
                    let map = heat_map(&ground, picture, (statistic.values)(layer));
                    let source = |source| InspectError::Picture {
                        action: "write",
                        what: path.display().to_string(),
                        source,
                    };
                    map.save_with_format(&path, ImageFormat::Png).map_err(source)?;
                    files.push(path);
                }
            }
        }
        Ok(files)
    }

    fn file_name(&self, statistic: &str, il: usize, image: usize) -> String {
        let n_digits = (self.n_layer.max(2) - 1).to_string().len();
        let image = if self.images.len() > 1 {
            format!("-image-{image}")
        } else {
            String::new()
        };
        format!("{statistic}-layer-{il:0n_digits$}{image}.png")
    }
}

/// The picture in grey and darker, so large that cells are whole pixels.
fn ground(picture: &InspectedImage) -> Result<RgbImage, InspectError> {
    let decoded = image::load_from_memory_with_format(&picture.png, ImageFormat::Png);
    let decoded = decoded.map_err(|source| InspectError::Picture {
        action: "read",
        what: picture.name.clone(),
        source,
    })?;
    let pixels_per = |cells: usize, pixels: u32| pixels.div_ceil(cells as u32).max(1);
    let width = picture.width.max(WIDTH);
    let height = (u64::from(width) * u64::from(picture.height) / u64::from(picture.width)).max(1) as u32;
    let (n_cols, n_rows) = (picture.n_cols as u32, picture.n_rows as u32);
    let (width, height) = (
        n_cols * pixels_per(picture.n_cols, width),
        n_rows * pixels_per(picture.n_rows, height),
    );
    let grey = DynamicImage::ImageLuma8(decoded.to_luma8()).resize_exact(width, height, FilterType::Triangle);
    let mut ground = grey.to_rgb8();
    for channel in ground.iter_mut() {
        *channel = (f64::from(*channel) * PICTURE_LIGHT).round() as u8;
    }
    Ok(ground)
}

/// Every cell in the colour of its token's value over the picture.
fn heat_map(ground: &RgbImage, picture: &InspectedImage, values: &[f64]) -> RgbImage {
    let greatest = values.iter().copied().fold(0.0, f64::max);
    let (cell_width, cell_height) = (
        ground.width() / picture.n_cols as u32,
        ground.height() / picture.n_rows as u32,
    );
    let mut map = ground.clone();
    for (x, y, pixel) in map.enumerate_pixels_mut() {
        let cell = (y / cell_height) as usize * picture.n_cols + (x / cell_width) as usize;
        let value = values[picture.first_token + cell];
        let share = if greatest > 0.0 { value / greatest } else { 0.0 };
        let (over, opacity) = (colour(share), opacity(share));
        let mix = |i: usize| {
            let below = f64::from(pixel.0[i]);
            (below + opacity * (f64::from(over[i]) - below)).round() as u8
        };
        *pixel = Rgb([mix(0), mix(1), mix(2)]);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::tests::synthetic;

    #[test]
    fn one_map_per_layer_statistic_and_picture() {
        let folder = tempfile::tempdir().unwrap();
        let files = synthetic::two_images()
            .write_parts(&folder.path().join("parts"))
            .unwrap();
        assert_eq!(files.len(), 2 + 10 * 2 * 2);
        assert!(
            files
                .iter()
                .any(|file| file.ends_with("contribution-layer-9-image-1.png"))
        );
        let map = image::open(&files[2]).unwrap();
        assert_eq!((map.width(), map.height()), (480, 480));
    }

    /// The greatest value is the map's brightest colour, whatever is below; nothing is nearly the picture.
    #[test]
    fn values_become_colours() {
        let picture = InspectedImage {
            first_token: 1,
            n_cols: 2,
            n_rows: 1,
            ..InspectedImage::default()
        };
        let ground = RgbImage::from_pixel(4, 2, Rgb([100, 100, 100]));
        let map = heat_map(&ground, &picture, &[9.0, 0.0, 9.0]);
        assert_eq!(map.get_pixel(3, 1).0, [252, 255, 164]);
        assert_eq!(map.get_pixel(0, 0).0, [90, 90, 90]);
    }
}
