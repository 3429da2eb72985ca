//! Policies compared over a set of questions, in pure Rust: what is asked, what an answer is worth, what was answered
//! so far, and what it comes to.
//!
//! ```text
//! question file ─ readers ─> Question ─┐
//!                                      ├─ (a model answers) ─> Record ─> Store, a line per answer
//! policies, sweeps ────────────────────┘                                   │
//!                                   tables, curves <─ Summary <─ scoring ──┘
//! ```
//!
//! Nothing here runs a model: the command does, and asks the [`Store`] what is still to be asked. Scores are not
//! stored but computed from the answers' text whenever a [`Summary`] is made.
//! `docs/eval.md` describes formats and rules.
#![forbid(unsafe_code)]

mod error;
mod question;
mod readers;
mod rng;
mod scoring;

pub use error::{EvalError, Place};
pub use question::{ImageSource, Question, check_images, select};
pub use readers::{Format, QuestionFile};
pub use scoring::{Grade, Scoring, normalise};
