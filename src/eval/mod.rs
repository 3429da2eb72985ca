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
//!
//! ```no_run
//! use visipruner::eval::{QuestionFile, Record, Settings, Store, Summary, table};
//! # use visipruner::report::RunReport;
//! # fn answer(prompt: &str) -> (f64, RunReport) { (0.0, RunReport::default()) }
//!
//! let questions = QuestionFile { questions: "questions.jsonl".into(), ..QuestionFile::default() }.read()?;
//! let mut store = Store::open("answers.jsonl", &Settings::from([("n_predict".into(), 24.into())]))?;
//! store.add_policy("off", &serde_json::json!({"policy": "off"}))?;
//! for question in &questions {
//!     if !store.has(&question.id, "off") {
//!         let (ttft_ms, report) = answer(&question.prompt);
//!         store.add(Record::new(&question.id, "off", ttft_ms, &report))?;
//!     }
//! }
//! let summary = Summary::new(&questions, &store.contents().records, &["off"], "off");
//! for table in table::tables(&summary) {
//!     println!("{}", table.to_terminal());
//! }
//! # Ok::<(), visipruner::eval::EvalError>(())
//! ```
#![forbid(unsafe_code)]

pub mod curve;
pub mod equal_cost;
mod error;
mod hash;
mod question;
mod readers;
mod record;
mod scoring;
mod stats;
mod store;
mod summary;
pub mod sweep;
pub mod table;

pub use error::{EvalError, Place};
pub use hash::file_hash;
pub use question::{ImageSource, Question, check_images, select};
pub use readers::{Format, QuestionFile};
pub use record::{Record, Spent};
pub use scoring::mme::{PairScore, Totals};
pub use scoring::yes_no::Confusion;
pub use scoring::{Grade, Scoring, normalise};
pub use stats::Estimate;
pub(crate) use stats::proportion;
pub use store::{Contents, Settings, Store};
pub use summary::{Cost, Difference, Group, PolicySummary, Summary, YesNo};
