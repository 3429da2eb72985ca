//! Runs quantized vision-language models on llama.cpp with three-stage pruning of vision tokens.
//!
//! Knowledge runs one way: `cli -> engine -> {policy, ffi}`. [`policy`] is where the paper is and knows neither
//! engine nor FFI; `ffi` is the only place with `unsafe`; what goes between them is plain data. [`eval`] compares
//! policies over question sets, from what [`report`] says of each run; [`inspect`] shows what was measured inside a
//! model, for one question; [`calibrate`] finds a policy for a model; [`plot`] draws charts and knows nothing else.
#![warn(missing_docs)]

pub mod calibrate;
pub mod engine;
pub mod eval;
pub mod gguf;
pub mod inspect;
pub mod plot;
pub mod policy;
pub mod report;
pub mod synth;

mod part_file;

#[cfg(feature = "native")]
mod ffi;
mod rng;

// the integration tests' support code names this crate as users do
#[cfg(test)]
extern crate self as visipruner;
