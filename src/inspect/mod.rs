//! What happens to a picture inside a model, for one question: measured data in ([`Inspection`]), one HTML file out.
//!
//! ```text
//! (engine::Inspector)  ─> Inspection ─┬─ to_json                    what was measured
//!                                     ├─ to_html ─ one file         the figures, for people
//!                                     └─ write_parts ─ PNG, SVG     single figures
//! ```
//!
//! The figures are the paper's analysis tools (VisiPruner, EMNLP 2025, arXiv 2510.17205, sections 3.2 to 3.5).
//! Nothing here runs a model. `docs/inspect.md` says what each figure shows and how it is computed.
//!
//! # Why is the report drawn in the browser?
//! A heat map per layer, statistic and picture is 64 figures for a small model; as pictures they weigh megabytes, as
//! numbers a few hundred kilobytes, and only numbers can be asked what they are. So the file holds the picture once,
//! the same JSON that [`Inspection::to_json`] writes, and a script of its own; it loads nothing from anywhere.
#![forbid(unsafe_code)]

mod charts;
mod check;
mod colours;
mod data;
mod error;
mod format;
mod outliers;
mod page;
#[cfg(feature = "cli")]
mod parts;

pub use data::{
    InspectedImage, InspectedLayer, InspectedPolicy, Inspection, KeptBy, PolicyLayer, PromptPiece,
    Thresholds, Word,
};
pub use error::InspectError;
pub use outliers::{Fences, outliers};

#[cfg(test)]
mod tests;
