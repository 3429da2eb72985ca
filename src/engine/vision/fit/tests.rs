//! Against what transformers makes of pictures: `tests/transformers/fixtures`.

use serde_json::Value;

use super::*;

const SIZES: &str = include_str!("../../../../tests/transformers/fixtures/sizes.json");

/// No picture is too large for these: the figures of published checkpoints.
fn limits(patch: u64, min_pixels: u64, max_pixels: u64) -> Limits {
    assert_eq!(max_pixels % (patch * patch), 0);
    Limits {
        min_pixels,
        max_pixels,
    }
}

fn size(pair: &Value) -> Size {
    let side = |i: usize| pair[i].as_u64().expect("a number") as u32;
    Size {
        width: side(0),
        height: side(1),
    }
}

/// What a family makes of each size: calls `check` with the picture's and transformers' answer.
fn for_each_size(family: &str, check: impl Fn(Size, &Value)) {
    let sizes: Value = serde_json::from_str(SIZES).expect("JSON");
    let rows = sizes[family].as_array().expect("a family");
    assert_eq!(rows.len(), 48);
    for row in rows {
        check(size(&row["picture"]), row);
    }
}

fn width_and_height(row: &Value) -> Size {
    size(&serde_json::json!([row["width"], row["height"]]))
}

#[test]
fn qwen_takes_whole_patches() {
    for (family, patch, limits) in [
        ("qwen2vl", 28, limits(28, 3136, 12_845_056)),
        ("qwen3vl", 32, limits(32, 65_536, 16_777_216)),
    ] {
        let fit = Fit::Patches { patch, limits };
        for_each_size(family, |picture, row| {
            assert_eq!(
                fit.tile_size(picture),
                Ok((1, width_and_height(row))),
                "{family} {picture:?}"
            );
        });
    }
}

#[test]
fn qwen_refuses_stripes() {
    let fit = Fit::Patches {
        patch: 28,
        limits: limits(28, 3136, 12_845_056),
    };
    let stripe = Size {
        width: 201,
        height: 1,
    };
    assert!(
        fit.tile_size(stripe)
            .is_err_and(|reason| reason.contains("200 times"))
    );
}

#[test]
fn a_maximum_of_tokens_is_kept() {
    let options = ProjectorOptions {
        image_max_tokens: Some(16),
        ..ProjectorOptions::default()
    };
    let limits = Limits::new(28, 3136, &options);
    let picture = Size {
        width: 4000,
        height: 3000,
    };
    let (_, fitted) = Fit::Patches { patch: 28, limits }
        .tile_size(picture)
        .expect("it fits");
    assert_eq!(
        fitted,
        Size {
            width: 4 * 28,
            height: 3 * 28
        }
    );
}

#[test]
fn pixtral_rounds_up() {
    let fit = Fit::LongestSide {
        patch: 16,
        longest: 1024,
        limits: limits(16, 0, 1024 * 1024),
    };
    for_each_size("pixtral", |picture, row| {
        assert_eq!(
            fit.tile_size(picture),
            Ok((1, width_and_height(row))),
            "{picture:?}"
        );
    });
}

#[test]
fn internvl_takes_the_grid_most_alike() {
    let fit = Fit::Grid {
        side: 448,
        min_tiles: 1,
        max_tiles: 12,
    };
    for_each_size("internvl", |picture, row| {
        let number = |key: &str| row[key].as_u64().expect("a number") as usize;
        let n_tiles = number("columns") * number("rows") + usize::from(row["thumbnail"] == true);
        assert_eq!(
            fit.tile_size(picture),
            Ok((n_tiles, Size::square(448))),
            "{picture:?}"
        );
        let grid = tile_grid(picture, 448, 1, 12);
        assert_eq!(
            (grid.width as usize, grid.height as usize),
            (number("columns"), number("rows"))
        );
    });
}

#[test]
fn llava_next_takes_the_largest_canvas_without_padding() {
    let canvas = |width, height| Size { width, height };
    let anyres = AnyRes {
        side: 336,
        canvases: vec![
            canvas(672, 336),
            canvas(336, 672),
            canvas(672, 672),
            canvas(336, 1008),
            canvas(1008, 336),
        ],
        newline: Some(vec![0.0]),
    };
    for_each_size("llava16", |picture, row| {
        let canvas = size(&row["canvas"]);
        let grid = anyres.grid(picture);
        assert_eq!(grid * 336, canvas, "{picture:?}");
        assert_eq!(canvas.largest_of(picture), size(&row["resized"]), "{picture:?}");
        let map = anyres.map(picture, 24 * 24).expect("there is a newline");
        let patches = size(&row["patches"]);
        assert_eq!(
            map.grid(),
            (patches.width as usize + 1, patches.height as usize),
            "{picture:?}"
        );
        assert_eq!(row["n_rows"], 576 + map.n_rows(), "{picture:?}");
    });
}

/// Two tiles of 2 x 2 beside each other, of which a row at the top and one at the bottom would be padding in a taller one.
#[test]
fn the_rows_of_tiles_become_one_map() {
    let anyres = AnyRes {
        side: 28,
        canvases: vec![Size {
            width: 56,
            height: 28,
        }],
        newline: Some(vec![-1.0]),
    };
    let picture = Size {
        width: 56,
        height: 28,
    };
    let map = anyres.map(picture, 4).expect("there is a newline");
    let merged = map.merge(&[&[0.0, 1.0, 4.0, 5.0], &[2.0, 3.0, 6.0, 7.0]]);
    assert_eq!(merged, [0.0, 1.0, 2.0, 3.0, -1.0, 4.0, 5.0, 6.0, 7.0, -1.0]);
}

#[cfg(feature = "cli")]
mod pictures {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::gguf::open_projector;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transformers/fixtures")
    }

    fn read(path: &Path) -> Image {
        let picture = image::open(path).expect("a picture").into_rgb8();
        Image::from_rgb8(picture.width(), picture.height(), picture.into_raw()).expect("pixels")
    }

    /// The pixels of every family's every picture, as Pillow resamples them.
    #[test]
    fn pixels_are_pillows_up_to_rounding() {
        let families = [
            "gemma3",
            "internvl",
            "llava15",
            "llava16",
            "mobilevlm1",
            "mobilevlm2",
            "pixtral",
            "qwen25vl",
            "qwen2vl",
            "qwen3vl",
        ];
        let mut n_pictures = 0;
        for family in families {
            let folder = fixtures().join(family);
            let (gguf, shape) = open_projector(folder.join("mmproj.gguf")).expect("a projector");
            let fit = Fit::of(&gguf, &shape, &ProjectorOptions::default())
                .expect("metadata")
                .expect("pictures are fitted here");
            let meta = std::fs::read_to_string(folder.join("meta.json")).expect("a file");
            let meta: Value = serde_json::from_str(&meta).expect("JSON");
            for (name, facts) in meta["pictures"].as_object().expect("pictures") {
                let expected = read(&folder.join(format!("{name}.pixels.png")));
                let image = read(&fixtures().join(format!("{name}.png")));
                let tiles = fit.tiles(&image).expect("it fits");
                assert_eq!(facts["tiles"], tiles.len(), "{family} {name}");
                let (n_tiles, size) = fit.tile_size(Size::of(&image)).expect("it fits");
                assert_eq!(
                    (n_tiles, size),
                    (tiles.len(), Size::of(&tiles[0])),
                    "{family} {name}"
                );
                let pixels: Vec<u8> = tiles.iter().flat_map(|tile| tile.data()).copied().collect();
                assert_close(&pixels, expected.data(), &format!("{family} {name}"));
                n_pictures += 1;
            }
        }
        assert_eq!(n_pictures, 39);
    }

    /// Numbers that no published file has, and that would take memory without end.
    #[test]
    fn numbers_out_of_all_proportion_are_refused() {
        let (gguf, shape) = open_projector(fixtures().join("internvl/mmproj.gguf")).expect("a projector");
        let of = |gguf: &Gguf, shape: &ProjectorShape| Fit::of(gguf, shape, &ProjectorOptions::default());
        let mut huge = shape.clone();
        huge.image_size = 65_535;
        let refused = of(&gguf, &huge).expect_err("no encoder is as large");
        assert!(
            refused.to_string().contains("clip.vision.image_size"),
            "{refused}"
        );

        let (gguf, mut shape) = open_projector(fixtures().join("qwen2vl/mmproj.gguf")).expect("a projector");
        assert!(of(&gguf, &shape).is_ok());
        shape.patch_size = 560;
        let refused = of(&gguf, &shape).expect_err("no patch is as large");
        assert!(refused.to_string().contains("spatial_merge_size"), "{refused}");

        let (gguf, mut shape) = open_projector(fixtures().join("llava16/mmproj.gguf")).expect("a projector");
        assert!(of(&gguf, &shape).is_ok());
        shape.n_embd_out = Some(63);
        let refused = of(&gguf, &shape).expect_err("the newline is wider");
        assert!(refused.to_string().contains("image_newline"), "{refused}");
        shape.image_size = 57;
        let refused = of(&gguf, &shape).expect_err("no canvas is whole tiles");
        assert!(refused.to_string().contains("image_grid_pinpoints"), "{refused}");
    }

    /// Seldom off, and hardly: what rounds otherwise after the first pass may count double after the second.
    fn assert_close(ours: &[u8], pillows: &[u8], what: &str) {
        assert_eq!(ours.len(), pillows.len(), "{what}");
        let off = ours.iter().zip(pillows).map(|(a, b)| a.abs_diff(*b));
        let most = off.clone().max().unwrap_or(0);
        let n_off = off.filter(|&off| off > 0).count();
        assert!(most <= 2, "{what}: off by {most}");
        assert!(
            n_off * 100 <= ours.len(),
            "{what}: {n_off} of {} are off",
            ours.len()
        );
    }
}

#[test]
fn tiles_cover_the_picture() {
    let picture = Size {
        width: 200,
        height: 100,
    };
    let padded = Fit::Padded {
        side: 336,
        colour: [0; 3],
    };
    assert_eq!(padded.covers(picture, 0), [0.0, -0.5, 1.0, 2.0]);
    let grid = Fit::Grid {
        side: 448,
        min_tiles: 1,
        max_tiles: 2,
    };
    assert_eq!(grid.covers(picture, 0), [0.0, 0.0, 0.5, 1.0]);
    assert_eq!(grid.covers(picture, 1), [0.5, 0.0, 0.5, 1.0]);
    assert_eq!(grid.covers(picture, 2), WHOLE);
    assert_eq!(Fit::Square { side: 896 }.covers(picture, 0), WHOLE);
}
