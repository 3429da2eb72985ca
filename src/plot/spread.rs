//! How values are spread at each of a row of places, such as layers: boxes from quartile to quartile, and the values
//! that stand apart as single points.

use super::line::Mark;
use super::scale::{Axis, Placed};
use super::svg::{Anchor, Svg};
use super::theme;

/// A chart of boxes, one for each place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SpreadChart {
    /// What it shows, in a few words.
    pub title: String,
    /// With what it was measured. May be empty.
    pub subtitle: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The boxes, from left to right.
    pub spreads: Vec<Spread>,
    /// What the boxes are of, for the key.
    pub name: String,
    /// What the outliers are, for the key.
    pub outliers: String,
    /// What `Spread::compared` is, for the key.
    pub compared: String,
    /// Places on the horizontal axis with a name, written above the plot.
    pub marks: Vec<Mark>,
}

/// The values at one place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Spread {
    /// The place.
    pub x: f64,
    /// Lower quartile, median, upper quartile.
    pub quartiles: [f64; 3],
    /// The least and the greatest value that is no outlier.
    pub ends: [f64; 2],
    /// The values that stand apart.
    pub outliers: Vec<Outlier>,
    /// A value to compare with.
    pub compared: Option<f64>,
    /// Shown under the pointer.
    pub tooltip: String,
}

/// A value that stands apart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outlier {
    /// The value.
    pub y: f64,
    /// Shown under the pointer.
    pub tooltip: String,
}

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 58.0;
/// Series whose colours are taken, of boxes, outliers and compared values.
const BOXES: usize = 0;
const OUTLIERS: usize = 1;
const COMPARED: usize = 2;

/// The chart with its axes in place.
struct Drawing<'a> {
    chart: &'a SpreadChart,
    x: Placed,
    y: Placed,
    top: f64,
    /// Half the width of a box in pixels.
    half: f64,
    svg: Svg,
}

impl SpreadChart {
    /// The chart as an SVG document of 880 x 460 pixels.
    pub fn to_svg(&self) -> String {
        let top = if self.subtitle.is_empty() { 118.0 } else { 138.0 };
        let xs = self
            .spreads
            .iter()
            .flat_map(|spread| [spread.x - 0.5, spread.x + 0.5]);
        let x = self.x.place(xs, LEFT, WIDTH - RIGHT);
        let ys = self.spreads.iter().flat_map(|spread| {
            let outliers = spread.outliers.iter().map(|outlier| outlier.y);
            outliers.chain(spread.ends).chain(spread.compared)
        });
        let mut drawing = Drawing {
            chart: self,
            half: ((x.at(1.0) - x.at(0.0)) * 0.32).min(14.0),
            x,
            y: self.y.place(ys, HEIGHT - BOTTOM, top),
            top,
            svg: Svg::new(WIDTH, HEIGHT, &self.title, &self.subtitle),
        };
        drawing.head();
        drawing.axes();
        drawing.marks();
        for spread in &self.spreads {
            drawing.spread(spread);
        }
        drawing.svg.finish()
    }
}

impl Drawing<'_> {
    fn head(&mut self) {
        let chart = self.chart;
        self.svg.text((20.0, 34.0), "title", Anchor::Start, &chart.title);
        let mut y = 56.0;
        if !chart.subtitle.is_empty() {
            self.svg.text((20.0, y), "muted", Anchor::Start, &chart.subtitle);
            y += 20.0;
        }
        self.key(y + 2.0);
        self.svg.text(
            (20.0, y + 28.0),
            "muted strong small",
            Anchor::Start,
            &chart.y.title,
        );
    }

    /// What is what, in one line.
    fn key(&mut self, y: f64) {
        let chart = self.chart;
        let middle = y - 4.5;
        let mut x = 20.0;
        if !chart.name.is_empty() {
            self.svg.rect(
                (x, middle - 6.0),
                (12.0, 12.0),
                &format!("f{BOXES}"),
                "fill-opacity=\".35\"",
            );
            self.svg
                .line((x, middle), (x + 12.0, middle), &format!("l{BOXES}"), 2.5);
            x = self.key_text(x + 19.0, y, &chart.name);
        }
        if chart.spreads.iter().any(|spread| !spread.outliers.is_empty()) {
            self.svg.marker((x + 5.0, middle), OUTLIERS, true);
            x = self.key_text(x + 16.0, y, &chart.outliers);
        }
        if chart.spreads.iter().any(|spread| spread.compared.is_some()) {
            self.svg
                .line((x, middle), (x + 14.0, middle), &format!("l{COMPARED}"), 3.0);
            self.key_text(x + 21.0, y, &chart.compared);
        }
    }

    /// Writes an entry of the key; returns where the next one begins.
    fn key_text(&mut self, x: f64, y: f64, text: &str) -> f64 {
        self.svg.text((x, y), "muted", Anchor::Start, text);
        x + theme::text_width(text, theme::BODY) + 14.0
    }

    fn axes(&mut self) {
        let (chart, right, bottom) = (self.chart, WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in chart.y.ticks(&self.y, 6) {
            let y = self.y.at(tick.value);
            self.svg.line((LEFT, y), (right, y), "grid", 1.0);
            self.svg
                .text((LEFT - 8.0, y + 4.0), "muted small", Anchor::End, &tick.text);
        }
        self.svg.line((LEFT, bottom), (right, bottom), "axis", 1.0);
        for tick in chart.x.ticks(&self.x, 10) {
            let x = self.x.at(tick.value);
            self.svg.line((x, bottom), (x, bottom + 5.0), "axis", 1.0);
            self.svg
                .text((x, bottom + 20.0), "muted small", Anchor::Middle, &tick.text);
        }
        self.svg.text(
            (right, bottom + 42.0),
            "muted strong small",
            Anchor::End,
            &chart.x.title,
        );
    }

    fn marks(&mut self) {
        let chart = self.chart;
        for mark in &chart.marks {
            let x = self.x.at(mark.x);
            let dotted = "stroke-width=\"1.2\" stroke-dasharray=\"2 4\"";
            self.svg
                .polyline(&[(x, self.top - 2.0), (x, HEIGHT - BOTTOM)], "axis", dotted);
            self.svg.text(
                (x, self.top - 7.0),
                "muted small halo",
                Anchor::Middle,
                &mark.name,
            );
        }
    }

    fn spread(&mut self, spread: &Spread) {
        let x = self.x.at(spread.x);
        let [low, median, high] = spread.quartiles.map(|value| self.y.at(value));
        let [least, greatest] = spread.ends.map(|value| self.y.at(value));
        let (fill, line) = (format!("f{BOXES}"), format!("l{BOXES}"));
        let (left, right) = (x - self.half, x + self.half);
        self.svg.open_tooltip(&spread.tooltip);
        self.svg.line((x, least), (x, greatest), &line, 1.2);
        self.svg.rect(
            (left, high),
            (2.0 * self.half, (low - high).max(0.5)),
            "surface",
            "",
        );
        self.svg.rect(
            (left, high),
            (2.0 * self.half, (low - high).max(0.5)),
            &fill,
            "rx=\"1.5\" fill-opacity=\".35\"",
        );
        self.svg.line((left, median), (right, median), &line, 2.5);
        if let Some(compared) = spread.compared {
            let y = self.y.at(compared);
            self.svg.line((left, y), (right, y), &format!("l{COMPARED}"), 3.0);
        }
        self.svg.close_group();
        for outlier in &spread.outliers {
            self.svg.open_tooltip(&outlier.tooltip);
            self.svg.marker((x, self.y.at(outlier.y)), OUTLIERS, true);
            self.svg.close_group();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> SpreadChart {
        let spread = |x: f64| Spread {
            x,
            quartiles: [10.0 + x, 20.0 + x, 40.0 + x],
            ends: [5.0, 60.0],
            outliers: vec![Outlier {
                y: 100.0,
                tooltip: format!("token {x}"),
            }],
            compared: Some(30.0),
            tooltip: format!("place {x}"),
        };
        SpreadChart {
            title: "Values <i>".to_owned(),
            name: "vision tokens".to_owned(),
            outliers: "stand apart".to_owned(),
            compared: "text".to_owned(),
            spreads: (0..4).map(|x| spread(f64::from(x))).collect(),
            ..SpreadChart::default()
        }
    }

    #[test]
    fn every_place_has_its_box_and_every_outlier_its_tooltip() {
        let svg = chart().to_svg();
        for x in 0..4 {
            assert!(svg.contains(&format!("<title>place {x}</title>")));
            assert!(svg.contains(&format!("<title>token {x}</title>")));
        }
        for text in [
            "Values &lt;i&gt;",
            ">vision tokens</text>",
            ">stand apart</text>",
            ">text</text>",
        ] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn the_key_names_what_is_there_and_nothing_else() {
        let mut chart = chart();
        for spread in &mut chart.spreads {
            spread.outliers.clear();
            spread.compared = None;
        }
        let svg = chart.to_svg();
        assert!(!svg.contains(">stand apart</text>") && !svg.contains(">text</text>"));
        assert!(SpreadChart::default().to_svg().ends_with("</svg>\n"));
    }

    /// A box is as high as its quartiles are apart: equal heights here, as all are moved by the same.
    #[test]
    fn boxes_reach_from_quartile_to_quartile() {
        let svg = chart().to_svg();
        let heights: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("rx=\"1.5\""))
            .map(|line| {
                line.split("height=\"")
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        assert_eq!(heights.len(), 4);
        assert!(
            heights[0] > 10.0 && heights.iter().all(|height| (height - heights[0]).abs() < 0.15),
            "{heights:?}"
        );
    }
}
