//! What stands around what a chart shows: its head, its axes, and places with a name.

use super::labels::Area;
use super::scale::{Axis, Placed};
use super::svg::{Anchor, Svg};
use super::theme::{self, text_width};

/// A place on the horizontal axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// The place.
    pub x: f64,
    /// Its name, written at its top.
    pub name: String,
}

/// Width of every chart.
pub const WIDTH: f64 = 880.0;
/// Where texts begin that belong to the whole chart.
pub const MARGIN: f64 = 20.0;
/// Space left and right of a plot, and below it: for the texts at the axes.
pub const LEFT: f64 = 64.0;
pub const RIGHT: f64 = 24.0;
pub const BOTTOM: f64 = 58.0;
/// Height of a line of text.
pub const LINE: f64 = 20.0;
/// Height of a row of marks' names.
const MARK_ROW: f64 = 15.0;
/// What lines that only point at something look like.
const DOTTED: &str = "stroke-width=\"1.2\" stroke-dasharray=\"2 4\"";

/// The base line of the first line below the head.
pub fn below_head(subtitle: &str) -> f64 {
    56.0 + if subtitle.is_empty() { 0.0 } else { LINE }
}

/// Title and subtitle. Returns the base line of the first line below them.
pub fn head(svg: &mut Svg, title: &str, subtitle: &str) -> f64 {
    svg.text((MARGIN, 34.0), "title", Anchor::Start, title);
    let next = below_head(subtitle);
    if !subtitle.is_empty() {
        svg.text((MARGIN, next - LINE), "muted", Anchor::Start, subtitle);
    }
    next
}

/// What an axis measures.
pub fn axis_title(svg: &mut Svg, at: (f64, f64), anchor: Anchor, axis: &Axis) {
    svg.text(at, "muted strong small", anchor, &axis.title);
}

/// About `n_ticks` values below a plot, whose base line is at `y`, and the title of their axis, which ends at `right`.
/// `line` draws what stands at a tick, from its value and its pixel.
pub fn values_below(
    svg: &mut Svg,
    (axis, placed): (&Axis, &Placed),
    n_ticks: usize,
    (right, y): (f64, f64),
    line: impl Fn(&mut Svg, f64, f64),
) {
    for tick in axis.ticks(placed, n_ticks) {
        let x = placed.at(tick.value);
        line(svg, tick.value, x);
        svg.text((x, y), "muted small", Anchor::Middle, &tick.text);
    }
    axis_title(svg, (right, y + 22.0), Anchor::End, axis);
}

/// Two axes in place, and what is between them.
pub struct Frame {
    pub x: Placed,
    pub y: Placed,
    pub plot: Area,
}

impl Frame {
    /// The pixel of a point.
    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (self.x.at(x), self.y.at(y))
    }

    /// Lines across the plot at values of the vertical axis, and the horizontal axis with about `n_ticks` values.
    pub fn axes(&self, svg: &mut Svg, x: &Axis, y: &Axis, n_ticks: usize) {
        let Area {
            left, right, bottom, ..
        } = self.plot;
        for tick in y.ticks(&self.y, 6) {
            let y = self.y.at(tick.value);
            svg.line((left, y), (right, y), "grid", 1.0);
            svg.text((left - 8.0, y + 4.0), "muted small", Anchor::End, &tick.text);
        }
        svg.line((left, bottom), (right, bottom), "axis", 1.0);
        values_below(svg, (x, &self.x), n_ticks, (right, bottom + 20.0), |svg, _, x| {
            svg.line((x, bottom), (x, bottom + 5.0), "axis", 1.0);
        });
    }
}

/// Marks in place: their names stand above the plot, in as many rows as keep them apart.
pub struct Marks<'a>(Vec<PlacedMark<'a>>);

struct PlacedMark<'a> {
    name: &'a str,
    x: f64,
    half_width: f64,
    /// From 0 at the bottom.
    row: usize,
}

impl<'a> Marks<'a> {
    pub fn place(marks: &'a [Mark], axis: &Placed) -> Self {
        let mut placed: Vec<PlacedMark> = Vec::with_capacity(marks.len());
        for mark in marks {
            let x = axis.at(mark.x);
            let half_width = text_width(&mark.name, theme::SMALL) / 2.0 + 4.0;
            let is_free = |row: &usize| {
                placed
                    .iter()
                    .all(|other| other.row != *row || (other.x - x).abs() >= other.half_width + half_width)
            };
            let row = (0..).find(is_free).unwrap_or(0);
            placed.push(PlacedMark {
                name: &mark.name,
                x,
                half_width,
                row,
            });
        }
        Self(placed)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Height of the rows of names.
    pub fn height(&self) -> f64 {
        let n_rows = self.0.iter().map(|mark| mark.row + 1).max().unwrap_or(0);
        MARK_ROW * n_rows as f64
    }

    /// Lines up to their names, which are written over the lines of marks beside them.
    pub fn draw(&self, svg: &mut Svg, plot: Area) {
        let base_line = |mark: &PlacedMark| plot.top - 6.0 - MARK_ROW * mark.row as f64;
        for mark in &self.0 {
            let ends = [(mark.x, base_line(mark) + 4.0), (mark.x, plot.bottom)];
            svg.polyline(&ends, "axis", DOTTED);
        }
        for mark in &self.0 {
            let at = (mark.x, base_line(mark));
            svg.text(at, "muted small halo", Anchor::Middle, mark.name);
        }
    }
}
