//! Lines with points: accuracy against cost, a statistic against layers.

mod names;

use super::frame::{self, BOTTOM, Frame, LEFT, LINE, MARGIN, Mark, Marks, RIGHT, WIDTH};
use super::labels::Area;
use super::scale::Axis;
use super::svg::{Anchor, Svg};
use super::theme::{self, text_width};

/// A chart of lines and points.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LineChart {
    /// What it shows, in a few words.
    pub title: String,
    /// With what it was measured: model, questions, machine. May be empty.
    pub subtitle: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines. Each is labelled with its name where there is room beside it.
    pub series: Vec<Series>,
    /// Levels to compare with: a baseline, thresholds.
    pub references: Vec<Reference>,
    /// Places on the horizontal axis with a name.
    pub marks: Vec<Mark>,
    /// What points `on_front` have in common, for the key: "Pareto front: ...".
    pub front: String,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points, in the order in which they are joined.
    pub points: Vec<Point>,
    /// Whether the points are drawn, and not only the line through them.
    pub markers: bool,
}

/// A point.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Point {
    /// Where it is.
    pub x: f64,
    /// Where it is.
    pub y: f64,
    /// The interval of `y`.
    pub interval: Option<[f64; 2]>,
    /// Written beside the point in small letters, if there is room: the value of what was varied.
    pub note: String,
    /// Shown under the pointer.
    pub tooltip: String,
    /// Nothing is cheaper and better. If any point of the chart is, those that are not are drawn hollow.
    pub on_front: bool,
}

/// A level across the chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// The level.
    pub y: f64,
    /// Its name, written at its right end.
    pub name: String,
}

const HEIGHT: f64 = 520.0;
/// How broad the front is drawn.
const BAND: &str = "stroke-width=\"9\"";

/// The chart with its axes in place.
struct Drawing<'a> {
    chart: &'a LineChart,
    frame: Frame,
    marks: Marks<'a>,
    has_front: bool,
    svg: Svg,
}

impl LineChart {
    /// The chart as an SVG document of 880 x 520 pixels.
    pub fn to_svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let has_front = points().any(|point| point.on_front);
        let right = WIDTH - RIGHT - self.end_label_width();
        let xs = points()
            .map(|point| point.x)
            .chain(self.marks.iter().map(|mark| mark.x));
        let x = self.x.place(xs, LEFT, right);
        let marks = Marks::place(&self.marks, &x);
        let plot = Area {
            left: LEFT,
            top: self.top(has_front) + marks.height(),
            right,
            bottom: HEIGHT - BOTTOM,
        };
        let ys = points().flat_map(|point| [point.y].into_iter().chain(point.interval.into_iter().flatten()));
        let ys = ys.chain(self.references.iter().map(|reference| reference.y));
        let mut drawing = Drawing {
            chart: self,
            frame: Frame {
                y: self.y.place(ys, plot.bottom, plot.top),
                x,
                plot,
            },
            marks,
            has_front,
            svg: Svg::new(WIDTH, HEIGHT, &self.title, &self.subtitle),
        };
        drawing.head();
        drawing.axes();
        drawing.front();
        drawing.lines();
        drawing.points();
        drawing.labels();
        drawing.svg.finish()
    }

    /// Whether there is something for the key.
    fn has_key(&self, has_front: bool) -> bool {
        has_front && !self.front.is_empty()
    }

    /// Where the plot begins, or the names of marks above it.
    fn top(&self, has_front: bool) -> f64 {
        let key = if self.has_key(has_front) { LINE } else { 0.0 };
        frame::below_head(&self.subtitle) + key + 22.0
    }

    /// Lines that go on to the right end are labelled beside it, where nothing else is.
    fn end_label_width(&self) -> f64 {
        let lines = self
            .series
            .iter()
            .filter(|series| !series.markers && series.points.len() > 1);
        let width = lines
            .map(|series| text_width(&series.name, theme::BODY))
            .fold(0.0, f64::max);
        // the axis itself leaves some space beyond its last value
        if width > 0.0 {
            (width - 24.0).clamp(0.0, WIDTH / 4.0)
        } else {
            0.0
        }
    }
}

impl Drawing<'_> {
    fn at(&self, point: &Point) -> (f64, f64) {
        self.frame.at(point.x, point.y)
    }

    fn head(&mut self) {
        let chart = self.chart;
        let mut y = frame::head(&mut self.svg, &chart.title, &chart.subtitle);
        if chart.has_key(self.has_front) {
            let swatch = [(24.0, y - 4.5), (46.0, y - 4.5)];
            self.svg.polyline(&swatch, "band", BAND);
            self.svg.text((58.0, y), "muted", Anchor::Start, &chart.front);
            y += LINE;
        }
        frame::axis_title(&mut self.svg, (MARGIN, y + 6.0), Anchor::Start, &chart.y);
    }

    fn axes(&mut self) {
        let (chart, plot) = (self.chart, self.frame.plot);
        self.frame.axes(&mut self.svg, &chart.x, &chart.y, 8);
        self.marks.draw(&mut self.svg, plot);
        for reference in &chart.references {
            let y = self.frame.y.at(reference.y);
            self.svg.polyline(
                &[(plot.left, y), (plot.right, y)],
                "axis",
                "stroke-width=\"1.2\" stroke-dasharray=\"6 5\"",
            );
        }
    }

    /// A broad band along the points that nothing beats, below everything else.
    fn front(&mut self) {
        let points = self.chart.series.iter().flat_map(|series| &series.points);
        let mut front: Vec<_> = points
            .filter(|point| point.on_front)
            .map(|point| self.at(point))
            .collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0));
        if front.len() > 1 {
            self.svg.polyline(&front, "band", BAND);
        }
    }

    fn lines(&mut self) {
        for (i, series) in self.chart.series.iter().enumerate() {
            let path: Vec<_> = series.points.iter().map(|point| self.at(point)).collect();
            if path.len() > 1 {
                let class = format!("l{}", i % theme::N_COLOURS);
                self.svg.polyline(&path, &class, "stroke-width=\"2\"");
            }
        }
    }

    fn points(&mut self) {
        for (i, series) in self.chart.series.iter().enumerate() {
            for point in &series.points {
                let at = self.at(point);
                self.svg.open_tooltip(&point.tooltip);
                if let Some([low, high]) = point.interval {
                    let class = format!("l{}", i % theme::N_COLOURS);
                    let ends = [(at.0, self.frame.y.at(low)), (at.0, self.frame.y.at(high))];
                    self.svg
                        .polyline(&ends, &class, "stroke-width=\"1.6\" stroke-opacity=\".55\"");
                }
                if series.markers {
                    self.svg.marker(at, i, self.has_front && !point.on_front);
                }
                self.svg.rect(
                    (at.0 - 9.0, at.1 - 9.0),
                    (18.0, 18.0),
                    "surface",
                    "fill-opacity=\"0\"",
                );
                self.svg.close_group();
            }
        }
    }
}

#[cfg(test)]
mod tests;
