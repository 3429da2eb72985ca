//! Charts as SVG: points on lines, with intervals and a Pareto front ([`LineChart`]), groups of horizontal bars
//! ([`BarChart`]), and how values are spread at each of a row of places, with their outliers ([`SpreadChart`]).
//!
//! # Why own SVG?
//! A chart here is seen in documents, in a browser's light and dark mode, and in a talk. It needs lines that are
//! labelled where they are instead of in a legend, labels that avoid each other, tooltips, and colours that follow the
//! reader's scheme. `plotters`, the crate that is used most, draws through a common interface of bitmap and vector
//! backends: no style sheet, no `<title>`, no placement of labels, and its text is measured with a font engine. What
//! would be left to it are ticks and coordinates, which are the small part.
//!
//! Colours are picked to differ in lightness as well as in hue, so that they stay apart for colour-blind readers and
//! in print; series also differ in the shape of their markers. Text is laid out by the widths of a wide typeface, as
//! the reader's is not known.
#![forbid(unsafe_code)]

mod bars;
mod frame;
mod labels;
mod line;
mod scale;
mod spread;
mod svg;
mod theme;

pub use bars::{Bar, BarChart, BarGroup};
pub use frame::Mark;
pub use line::{LineChart, Point, Reference, Series};
pub use scale::{Axis, Scale};
pub use spread::{Outlier, Spread, SpreadChart};

#[cfg(test)]
mod tests;
