//! Lines with points: accuracy against cost, a statistic against layers.

mod names;

use super::labels::Area;
use super::scale::{Axis, Placed};
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

/// A place on the horizontal axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// The place.
    pub x: f64,
    /// Its name, written at its top.
    pub name: String,
}

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 58.0;
/// Height of a row of marks' names.
const MARK_ROW: f64 = 15.0;

/// The chart with its axes in place.
struct Drawing<'a> {
    chart: &'a LineChart,
    x: Placed,
    y: Placed,
    plot: Area,
    has_front: bool,
    /// The row above the plot in which each mark's name stands, from 0 at the bottom.
    mark_rows: Vec<usize>,
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
        let mark_rows = self.mark_rows(&x);
        let plot = Area {
            left: LEFT,
            top: self.top(has_front, &mark_rows),
            right,
            bottom: HEIGHT - BOTTOM,
        };
        let ys = points().flat_map(|point| [point.y].into_iter().chain(point.interval.into_iter().flatten()));
        let ys = ys.chain(self.references.iter().map(|reference| reference.y));
        let mut drawing = Drawing {
            chart: self,
            x,
            y: self.y.place(ys, plot.bottom, plot.top),
            plot,
            has_front,
            mark_rows,
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

    fn top(&self, has_front: bool, mark_rows: &[usize]) -> f64 {
        let n_lines =
            usize::from(!self.subtitle.is_empty()) + usize::from(has_front && !self.front.is_empty());
        let n_rows = mark_rows.iter().max().map_or(0, |row| row + 1);
        78.0 + 20.0 * n_lines as f64 + MARK_ROW * n_rows as f64
    }

    /// Names of marks stand above them, in as many rows as keep them apart.
    fn mark_rows(&self, x: &Placed) -> Vec<usize> {
        let mut placed: Vec<(usize, f64, f64)> = Vec::new();
        for mark in &self.marks {
            let half = text_width(&mark.name, theme::SMALL) / 2.0 + 4.0;
            let (left, right) = (x.at(mark.x) - half, x.at(mark.x) + half);
            let is_free = |row: &usize| {
                !placed
                    .iter()
                    .any(|(other, l, r)| other == row && left < *r && right > *l)
            };
            let row = (0..).find(is_free).unwrap_or(0);
            placed.push((row, left, right));
        }
        placed.into_iter().map(|(row, _, _)| row).collect()
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
        (self.x.at(point.x), self.y.at(point.y))
    }

    fn head(&mut self) {
        let chart = self.chart;
        self.svg.text((20.0, 34.0), "title", Anchor::Start, &chart.title);
        let mut y = 56.0;
        if !chart.subtitle.is_empty() {
            self.svg.text((20.0, y), "muted", Anchor::Start, &chart.subtitle);
            y += 20.0;
        }
        if self.has_front && !chart.front.is_empty() {
            self.svg
                .polyline(&[(24.0, y - 4.5), (46.0, y - 4.5)], "band", "stroke-width=\"9\"");
            self.svg.text((58.0, y), "muted", Anchor::Start, &chart.front);
            y += 20.0;
        }
        self.svg.text(
            (20.0, y + 6.0),
            "muted strong small",
            Anchor::Start,
            &chart.y.title,
        );
    }

    fn axes(&mut self) {
        let (chart, plot) = (self.chart, self.plot);
        for tick in chart.y.ticks(&self.y, 6) {
            let y = self.y.at(tick.value);
            self.svg.line((plot.left, y), (plot.right, y), "grid", 1.0);
            self.svg
                .text((plot.left - 8.0, y + 4.0), "muted small", Anchor::End, &tick.text);
        }
        self.svg
            .line((plot.left, plot.bottom), (plot.right, plot.bottom), "axis", 1.0);
        for tick in chart.x.ticks(&self.x, 8) {
            let x = self.x.at(tick.value);
            self.svg
                .line((x, plot.bottom), (x, plot.bottom + 5.0), "axis", 1.0);
            self.svg
                .text((x, plot.bottom + 20.0), "muted small", Anchor::Middle, &tick.text);
        }
        self.svg.text(
            (plot.right, plot.bottom + 42.0),
            "muted strong small",
            Anchor::End,
            &chart.x.title,
        );
        self.marks();
        for reference in &chart.references {
            let y = self.y.at(reference.y);
            self.svg.polyline(
                &[(plot.left, y), (plot.right, y)],
                "axis",
                "stroke-width=\"1.2\" stroke-dasharray=\"6 5\"",
            );
        }
    }

    /// Lines up to their names, which are written over the lines of marks beside them.
    fn marks(&mut self) {
        let (chart, plot) = (self.chart, self.plot);
        let places: Vec<_> = chart
            .marks
            .iter()
            .zip(&self.mark_rows)
            .map(|(mark, &row)| (self.x.at(mark.x), plot.top - 6.0 - MARK_ROW * row as f64))
            .collect();
        for &(x, y) in &places {
            let dotted = "stroke-width=\"1.2\" stroke-dasharray=\"2 4\"";
            self.svg
                .polyline(&[(x, y + 4.0), (x, plot.bottom)], "axis", dotted);
        }
        for (mark, &at) in chart.marks.iter().zip(&places) {
            self.svg.text(at, "muted small halo", Anchor::Middle, &mark.name);
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
            self.svg.polyline(&front, "band", "stroke-width=\"9\"");
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
                    let ends = [(at.0, self.y.at(low)), (at.0, self.y.at(high))];
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
