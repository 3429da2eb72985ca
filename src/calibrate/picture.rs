//! The layer profile as a picture: bars of text, and a chart.

use super::profile::{Profile, ProfilePoint};
use super::result::Calibration;
use crate::plot::{Axis, LineChart, Mark, Point, Reference, Scale, Series};

/// Characters of the longest bar.
const BAR: usize = 24;
/// Divergences below this have no bar: they are what rounding makes.
const SMALLEST: f64 = 1e-6;
/// Eighths of a character.
const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// The profile in lines, each layer with the effect of hiding vision below it, and from it on. Bars are as long as the
/// logarithm of the divergence.
pub(super) fn lines(profile: &Profile) -> Vec<String> {
    let points = profile.hidden_below.iter().chain(&profile.hidden_from);
    let largest = points.map(|point| point.score.mean_kl).fold(SMALLEST, f64::max);
    let cell = |points: &[ProfilePoint], il: usize| match points.iter().find(|point| point.il == il) {
        Some(ProfilePoint { score, .. }) => (
            number(score.mean_kl),
            bar(score.mean_kl, largest),
            percent(score.n_changed, score.n),
        ),
        None => <(String, String, String)>::default(),
    };
    let mut lines = vec![
        format!(
            "What hiding vision does to the next token, mean KL in nats over {} prompts, and changed answers:",
            profile.n_prompts
        ),
        format!("layer  hidden below the layer{:<27}hidden from the layer on", ""),
    ];
    for il in 1..=profile.n_layer {
        let (below, from) = (cell(&profile.hidden_below, il), cell(&profile.hidden_from, il));
        if below.0.is_empty() && from.0.is_empty() {
            continue;
        }
        let line = format!(
            "{il:>5}  {:>8} {:<BAR$} {:>5}     {:>8} {:<BAR$} {:>5}",
            below.0, below.1, below.2, from.0, from.1, from.2
        );
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// A bar for `kl`, where `largest` has the longest one.
fn bar(kl: f64, largest: f64) -> String {
    let share = if largest > SMALLEST {
        ((kl.max(SMALLEST) / SMALLEST).ln() / (largest / SMALLEST).ln()).clamp(0.0, 1.0)
    } else {
        0.0
    };
    let n_eighths = (share * (BAR * 8) as f64).round() as usize;
    let whole = "█".repeat(n_eighths / 8);
    match n_eighths % 8 {
        0 => whole,
        n => format!("{whole}{}", EIGHTHS[n - 1]),
    }
}

fn percent(n: usize, of: usize) -> String {
    format!("{:.0} %", 100.0 * n as f64 / of.max(1) as f64)
}

/// Two digits, as short as they can be.
pub(super) fn number(x: f64) -> String {
    match x {
        x if x < SMALLEST => String::from("0"),
        x if x < 0.000_95 => format!("{x:.1e}"),
        x if x < 0.0095 => format!("{x:.4}"),
        x if x < 0.095 => format!("{x:.3}"),
        x => format!("{x:.2}"),
    }
}

impl Calibration {
    /// The layer profile as a picture of text, a line of it each.
    pub fn profile_lines(&self) -> Vec<String> {
        lines(&self.profile)
    }

    /// The layer profile as an SVG document; `model` is a name for the reader.
    pub fn profile_svg(&self, model: &str) -> String {
        let profile = &self.profile;
        let chart = LineChart {
            title: format!("Where {model} reads the picture"),
            subtitle: format!(
                "{} prompts; vision hidden from text in some layers",
                profile.n_prompts
            ),
            x: Axis {
                title: String::from("layer"),
                whole: true,
                ..Axis::default()
            },
            y: Axis {
                title: String::from("KL to the model without pruning, next token, nats"),
                scale: Scale::Log,
                ..Axis::default()
            },
            series: vec![
                series("hidden below", &profile.hidden_below),
                series("hidden from here on", &profile.hidden_from),
            ],
            references: self
                .target
                .max_kl
                .into_iter()
                .map(|y| Reference {
                    y,
                    name: String::from("allowed"),
                })
                .collect(),
            marks: self.marks(),
            front: String::new(),
        };
        chart.to_svg()
    }

    /// Where the policy that was found looks for fusion, and where vision ends.
    fn marks(&self) -> Vec<Mark> {
        let Some(found) = &self.found else {
            return Vec::new();
        };
        let mark = |il: usize, name: &str| Mark {
            x: il as f64,
            name: name.to_owned(),
        };
        if let Some(il) = found.policy.mid_deep_layer {
            return vec![mark(il, "vision gone from here on")];
        }
        let [first, last] = found.decisions.fusion_layers.unwrap_or_default();
        let mut marks = vec![mark(first, "fusion")];
        if last > first {
            marks.push(mark(last, "latest fusion"));
        }
        marks
    }
}

fn series(name: &str, points: &[ProfilePoint]) -> Series {
    let point = |point: &ProfilePoint| Point {
        x: point.il as f64,
        y: point.score.mean_kl.max(SMALLEST),
        tooltip: format!(
            "{name} layer {}: {} nats, {} of {} answers changed",
            point.il,
            number(point.score.mean_kl),
            point.score.n_changed,
            point.score.n
        ),
        ..Point::default()
    };
    Series {
        name: name.to_owned(),
        points: points.iter().map(point).collect(),
        markers: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::Score;

    fn point(il: usize, mean_kl: f64, n_changed: usize) -> ProfilePoint {
        let score = Score {
            n: 10,
            mean_kl,
            n_changed,
            ..Score::default()
        };
        ProfilePoint { il, score }
    }

    #[test]
    fn bars_grow_with_the_logarithm() {
        let profile = Profile {
            n_layer: 4,
            n_prompts: 10,
            hidden_below: vec![point(1, 0.0, 0), point(2, 1e-3, 1), point(4, 1.0, 9)],
            hidden_from: vec![point(1, 0.1, 5), point(2, 1e-6, 0)],
            reads_from: 1,
            reads_until: 2,
        };
        insta::assert_snapshot!(lines(&profile).join("\n"));
    }

    #[test]
    fn numbers_have_two_digits() {
        let numbers = [0.0, 1.23e-5, 0.001_26, 0.0123, 0.456, 3.21].map(number);
        assert_eq!(numbers, ["0", "1.2e-5", "0.0013", "0.012", "0.46", "3.21"]);
    }
}
