//! How values are spread at each of a row of places, such as layers: boxes from quartile to quartile, and the values
//! that stand apart as single points.

use super::frame::{self, BOTTOM, Frame, LEFT, MARGIN, Mark, Marks, RIGHT, WIDTH};
use super::labels::Area;
use super::scale::Axis;
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

const HEIGHT: f64 = 460.0;
/// Series whose colours are taken, of boxes, outliers and compared values.
const BOXES: usize = 0;
const OUTLIERS: usize = 1;
const COMPARED: usize = 2;

/// The chart with its axes in place.
struct Drawing<'a> {
    chart: &'a SpreadChart,
    frame: Frame,
    marks: Marks<'a>,
    /// Half the width of a box in pixels.
    half: f64,
    svg: Svg,
}

impl SpreadChart {
    /// The chart as an SVG document of 880 x 460 pixels.
    pub fn to_svg(&self) -> String {
        let xs = self
            .spreads
            .iter()
            .flat_map(|spread| [spread.x - 0.5, spread.x + 0.5]);
        let x = self.x.place(xs, LEFT, WIDTH - RIGHT);
        let marks = Marks::place(&self.marks, &x);
        let plot = Area {
            left: LEFT,
            top: frame::below_head(&self.subtitle) + 47.0 + marks.height(),
            right: WIDTH - RIGHT,
            bottom: HEIGHT - BOTTOM,
        };
        let ys = self.spreads.iter().flat_map(|spread| {
            let outliers = spread.outliers.iter().map(|outlier| outlier.y);
            outliers.chain(spread.ends).chain(spread.compared)
        });
        let mut drawing = Drawing {
            chart: self,
            half: ((x.at(1.0) - x.at(0.0)) * 0.32).min(14.0),
            frame: Frame {
                y: self.y.place(ys, plot.bottom, plot.top),
                x,
                plot,
            },
            marks,
            svg: Svg::new(WIDTH, HEIGHT, &self.title, &self.subtitle),
        };
        drawing.head();
        drawing.frame.axes(&mut drawing.svg, &self.x, &self.y, 10);
        drawing.marks.draw(&mut drawing.svg, plot);
        for spread in &self.spreads {
            drawing.spread(spread);
        }
        drawing.svg.finish()
    }
}

impl Drawing<'_> {
    fn head(&mut self) {
        let chart = self.chart;
        let y = frame::head(&mut self.svg, &chart.title, &chart.subtitle);
        self.key(y + 2.0);
        frame::axis_title(&mut self.svg, (MARGIN, y + 28.0), Anchor::Start, &chart.y);
    }

    /// What is what, in one line.
    fn key(&mut self, y: f64) {
        let chart = self.chart;
        let middle = y - 4.5;
        let mut x = MARGIN;
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

    fn spread(&mut self, spread: &Spread) {
        let x = self.frame.x.at(spread.x);
        let [low, median, high] = spread.quartiles.map(|value| self.frame.y.at(value));
        let [least, greatest] = spread.ends.map(|value| self.frame.y.at(value));
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
            let y = self.frame.y.at(compared);
            self.svg.line((left, y), (right, y), &format!("l{COMPARED}"), 3.0);
        }
        self.svg.close_group();
        for outlier in &spread.outliers {
            self.svg.open_tooltip(&outlier.tooltip);
            self.svg.marker((x, self.frame.y.at(outlier.y)), OUTLIERS, true);
            self.svg.close_group();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::tests::{elements, numbers};

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
    }

    /// A box is as high as its quartiles are apart: equal heights here, as all are moved by the same.
    #[test]
    fn boxes_reach_from_quartile_to_quartile() {
        let svg = chart().to_svg();
        let heights: Vec<f64> = elements(&svg, "rx=\"1.5\"")
            .flat_map(|element| numbers(element, "height"))
            .collect();
        assert_eq!(heights.len(), 4);
        assert!(
            heights[0] > 10.0 && heights.iter().all(|height| (height - heights[0]).abs() < 0.15),
            "{heights:?}"
        );
    }
}
