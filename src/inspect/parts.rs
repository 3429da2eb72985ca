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

/// How much of its light a dropped token keeps.
const DROPPED_LIGHT: f64 = 0.25;
/// Width of the line around kept tokens, in pixels.
const OUTLINE: u32 = 2;

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
    /// Writes into `folder`, which is made if it is not there: `cosine.svg`, `values.svg`, for every layer
    /// `attention-layer-05.png` and `contribution-layer-05.png`, and for every policy what it kept, such as
    /// `kept-fastv-keep-64.png`; with `-image-1` before the ending when there are several pictures. The brightest colour
    /// of a map is the greatest value of its layer. Returns the files.
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
            let image = if self.images.len() > 1 {
                format!("-image-{i}")
            } else {
                String::new()
            };
            let mut save = |name: String, pixels: &RgbImage| {
                let path = folder.join(format!("{name}{image}.png"));
                save(pixels, &path)?;
                files.push(path);
                Ok::<(), InspectError>(())
            };
            let coloured = in_cells(picture)?;
            let ground = ground(&coloured);
            for (il, layer) in self.layers.iter().enumerate() {
                for statistic in &STATISTICS {
                    let map = heat_map(&ground, picture, (statistic.values)(layer));
                    save(self.map_name(statistic.name, il), &map)?;
                }
            }
            for (policy, kept) in self.kept_sets() {
                save(
                    format!("kept-{}", in_file_name(policy)),
                    &kept_map(&coloured, picture, kept),
                )?;
            }
        }
        Ok(files)
    }

    fn map_name(&self, statistic: &str, il: usize) -> String {
        let n_digits = (self.n_layer.max(2) - 1).to_string().len();
        format!("{statistic}-layer-{il:0n_digits$}")
    }

    /// The policies that kept less than everything, and what.
    fn kept_sets(&self) -> impl Iterator<Item = (&str, &[u32])> {
        let policy = self
            .policy
            .iter()
            .filter_map(|policy| Some((policy.label.as_str(), policy.kept.as_deref()?)));
        let others = self
            .others
            .iter()
            .map(|other| (other.policy.as_str(), other.kept.as_slice()));
        policy.chain(others)
    }
}

fn save(pixels: &RgbImage, path: &Path) -> Result<(), InspectError> {
    pixels
        .save_with_format(path, ImageFormat::Png)
        .map_err(|source| InspectError::Picture {
            action: "write",
            what: path.display().to_string(),
            source,
        })
}

/// `fastv rank_layers=1 keep=25%` as `fastv-rank_layers-1-keep-25`.
fn in_file_name(policy: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let words = policy.split(|c| !is_plain(c)).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// The picture, so large that cells are whole pixels.
fn in_cells(picture: &InspectedImage) -> Result<RgbImage, InspectError> {
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
    Ok(decoded
        .resize_exact(width, height, FilterType::Triangle)
        .to_rgb8())
}

/// The picture in grey and darker.
fn ground(coloured: &RgbImage) -> RgbImage {
    let mut ground = DynamicImage::ImageRgb8(coloured.clone()).grayscale().to_rgb8();
    darken(ground.iter_mut(), PICTURE_LIGHT);
    ground
}

fn darken<'a>(channels: impl Iterator<Item = &'a mut u8>, light: f64) {
    for channel in channels {
        *channel = (f64::from(*channel) * light).round() as u8;
    }
}

/// The kept tokens as they are, with an outline, and the others dark.
fn kept_map(coloured: &RgbImage, picture: &InspectedImage, kept: &[u32]) -> RgbImage {
    let (cell_width, cell_height) = cell_size(coloured, picture);
    let (n_cols, n_rows) = (picture.n_cols as i64, picture.n_rows as i64);
    let is_kept = |col: i64, row: i64| {
        let is_inside = (0..n_cols).contains(&col) && (0..n_rows).contains(&row);
        let token = picture.first_token as i64 + row * n_cols + col;
        is_inside && kept.iter().any(|&kept| i64::from(kept) == token)
    };
    let mut map = coloured.clone();
    for (x, y, pixel) in map.enumerate_pixels_mut() {
        let (col, row) = (i64::from(x / cell_width), i64::from(y / cell_height));
        if !is_kept(col, row) {
            darken(pixel.0.iter_mut(), DROPPED_LIGHT);
            continue;
        }
        let (left, top) = (x % cell_width, y % cell_height);
        let is_edge = (left < OUTLINE && !is_kept(col - 1, row))
            || (left + OUTLINE >= cell_width && !is_kept(col + 1, row))
            || (top < OUTLINE && !is_kept(col, row - 1))
            || (top + OUTLINE >= cell_height && !is_kept(col, row + 1));
        if is_edge {
            *pixel = Rgb([255; 3]);
        }
    }
    map
}

fn cell_size(pixels: &RgbImage, picture: &InspectedImage) -> (u32, u32) {
    (
        pixels.width() / picture.n_cols as u32,
        pixels.height() / picture.n_rows as u32,
    )
}

/// Every cell in the colour of its token's value over the picture.
fn heat_map(ground: &RgbImage, picture: &InspectedImage, values: &[f64]) -> RgbImage {
    let greatest = values.iter().copied().fold(0.0, f64::max);
    let (cell_width, cell_height) = cell_size(ground, picture);
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
        let inspection = synthetic::two_images();
        let n_policies = 1 + inspection.others.len();
        let files = inspection.write_parts(&folder.path().join("parts")).unwrap();
        assert_eq!(files.len(), 2 + 10 * 2 * 2 + n_policies * 2);
        assert!(
            files
                .iter()
                .any(|file| file.ends_with("contribution-layer-9-image-1.png"))
        );
        let map = image::open(&files[2]).unwrap();
        assert_eq!((map.width(), map.height()), (480, 480));
    }

    #[test]
    fn kept_tokens_are_bright_and_outlined_where_others_begin() {
        let picture = InspectedImage {
            n_cols: 3,
            n_rows: 1,
            ..InspectedImage::default()
        };
        let white = RgbImage::from_pixel(30, 10, Rgb([200, 100, 40]));
        let map = kept_map(&white, &picture, &[0, 1]);
        assert_eq!(map.get_pixel(5, 5).0, [200, 100, 40]);
        assert_eq!(
            map.get_pixel(9, 5).0,
            [200, 100, 40],
            "no line between kept tokens"
        );
        for (x, y) in [(0, 5), (19, 5), (5, 0), (15, 9)] {
            assert_eq!(map.get_pixel(x, y).0, [255; 3], "{x}, {y}");
        }
        assert_eq!(map.get_pixel(20, 5).0, [50, 25, 10]);
    }

    #[test]
    fn policies_in_file_names() {
        assert_eq!(
            in_file_name("fastv rank_layers=1 keep=12.5%"),
            "fastv-rank_layers-1-keep-12.5"
        );
        assert_eq!(in_file_name("divprune+visipruner"), "divprune-visipruner");
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
