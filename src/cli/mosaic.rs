//! A picture as coloured half blocks, with the tokens that were kept bright and the others dimmed.

use visipruner::engine::Image;
use visipruner::report::RunReport;

/// What surrounds pictures that are not square, as the projector pads them.
pub const PADDING: [u8; 3] = [122, 116, 104];
/// How much of its colour a dropped token keeps.
const DIMMED: f32 = 0.25;
/// Character cells per token and line, and pixels per token and side.
const PER_TOKEN: usize = 2;

/// What was kept of a picture.
pub struct Kept {
    /// How many of its tokens went on.
    pub n_kept: usize,
    /// Of how many.
    pub n_vision: usize,
    /// The picture with its tokens, as [`lines`], and their width in columns; `None` if they form no square.
    pub picture: Option<(usize, Vec<String>)>,
}

impl Kept {
    /// What a run kept of its picture `i_image`; `None` where nothing was dropped.
    pub fn of(report: &RunReport, i_image: usize, image: &Image) -> Option<Self> {
        let chosen = report.chosen()?;
        let n_before: usize = report.image_spans.iter().take(i_image).map(|[_, n]| n).sum();
        let [_, n_vision] = *report.image_spans.get(i_image)?;
        let kept: Vec<u32> = chosen
            .iter()
            .filter_map(|&token| token.checked_sub(n_before as u32))
            .filter(|&token| (token as usize) < n_vision)
            .collect();
        let n_side = n_vision.isqrt();
        let picture =
            (n_side * n_side == n_vision).then(|| (2 * n_side, lines(image, n_side, &kept, has_colours())));
        Some(Self {
            n_kept: kept.len(),
            n_vision,
            picture,
        })
    }
}

/// Whether the terminal says that it has colours beyond the usual 16.
fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none()
        && std::env::var("COLORTERM").is_ok_and(|term| term == "truecolor" || term == "24bit")
}

/// The picture as `n_side` lines of `2 * n_side` character cells, two for each token: `kept` are the tokens, counted
/// line by line from the upper left, that are shown bright. Without `has_colours` only kept and dropped are told apart.
fn lines(image: &Image, n_side: usize, kept: &[u32], has_colours: bool) -> Vec<String> {
    let line = |row: usize| {
        let tokens = (0..n_side).map(|column| {
            let is_kept = kept.contains(&((row * n_side + column) as u32));
            if has_colours {
                coloured(image, n_side, (column, row), is_kept)
            } else {
                (if is_kept { "##" } else { ". " }).to_owned()
            }
        });
        tokens.collect::<String>()
    };
    (0..n_side).map(line).collect()
}

/// One token: two upper half blocks, each with the colour of the upper pixel in front of that of the lower one.
fn coloured(image: &Image, n_side: usize, (column, row): (usize, usize), is_kept: bool) -> String {
    let colour = |x: usize, y: usize| {
        let [r, g, b] = average(
            image,
            n_side * PER_TOKEN,
            (column * PER_TOKEN + x, row * PER_TOKEN + y),
        );
        let shade = |channel: u8| {
            if is_kept {
                channel
            } else {
                (f32::from(channel) * DIMMED) as u8
            }
        };
        format!("{};{};{}", shade(r), shade(g), shade(b))
    };
    let blocks = (0..PER_TOKEN).map(|x| format!("\x1b[38;2;{}m\x1b[48;2;{}m▀", colour(x, 0), colour(x, 1)));
    blocks.chain(["\x1b[0m".to_owned()]).collect()
}

/// The mean colour of cell `(x, y)` when the picture, padded to a square, is cut into `n_cells x n_cells`.
fn average(image: &Image, n_cells: usize, (x, y): (usize, usize)) -> [u8; 3] {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let side = width.max(height);
    let (left, top) = ((side - width) / 2, (side - height) / 2);
    // Cells of a picture smaller than the grid overlap.
    let range =
        |cell: usize| cell * side / n_cells..((cell + 1) * side / n_cells).max(cell * side / n_cells + 1);
    let mut sum = [0usize; 3];
    let mut n_pixels = 0;
    for (row, column) in range(y).flat_map(|row| range(x).map(move |column| (row, column))) {
        let inside = (left..left + width).contains(&column) && (top..top + height).contains(&row);
        let pixel = if inside {
            let at = ((row - top) * width + column - left) * 3;
            [image.data()[at], image.data()[at + 1], image.data()[at + 2]]
        } else {
            PADDING
        };
        for (sum, channel) in sum.iter_mut().zip(pixel) {
            *sum += usize::from(channel);
        }
        n_pixels += 1;
    }
    sum.map(|channel| (channel / n_pixels) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Left half red, right half blue.
    fn halves(width: u32, height: u32) -> Image {
        let pixels = (0..height)
            .flat_map(|_| (0..width).flat_map(|x| if x < width / 2 { [200, 0, 0] } else { [0, 0, 100] }));
        Image::from_rgb8(width, height, pixels.collect()).expect("an image")
    }

    #[test]
    fn kept_tokens_are_bright() {
        let lines = lines(&halves(8, 8), 2, &[0], true);
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with("\x1b[38;2;200;0;0m\x1b[48;2;200;0;0m▀"),
            "{:?}",
            lines[0]
        );
        assert!(lines[0].contains("48;2;0;0;25m") && lines[1].contains("48;2;50;0;0m"));
    }

    #[test]
    fn of_several_pictures_each_has_its_own_tokens() {
        let report = RunReport {
            image_spans: vec![[1, 4], [7, 4], [12, 3]],
            kept: Some(vec![0, 3, 5, 8, 9]),
            ..RunReport::default()
        };
        let kept = |i| {
            let kept = Kept::of(&report, i, &halves(8, 8)).expect("tokens were dropped");
            (kept.n_kept, kept.n_vision, kept.picture.is_some())
        };
        assert_eq!(
            [kept(0), kept(1), kept(2)],
            [(2, 4, true), (1, 4, true), (2, 3, false)]
        );
        assert!(Kept::of(&report, 3, &halves(8, 8)).is_none());
        assert!(Kept::of(&RunReport::default(), 0, &halves(8, 8)).is_none());
    }

    #[test]
    fn without_colours_kept_and_dropped_differ() {
        assert_eq!(lines(&halves(8, 8), 2, &[0, 3], false), ["##. ", ". ##"]);
    }

    #[test]
    fn pictures_are_padded_to_squares_and_may_be_tiny() {
        assert_eq!(average(&halves(8, 4), 4, (0, 0)), PADDING);
        assert_eq!(average(&halves(8, 4), 4, (0, 1)), [200, 0, 0]);
        let pixel = Image::from_rgb8(1, 1, vec![9, 8, 7]).expect("an image");
        assert_eq!(average(&pixel, 16, (15, 15)), [9, 8, 7]);
    }
}
