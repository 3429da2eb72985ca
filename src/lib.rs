//! Runs quantized vision-language models on llama.cpp with three-stage pruning of vision tokens.
//!
//! | module | what | cargo feature |
//! | --- | --- | --- |
//! | [`engine`] | models, projectors, sessions; without `native` the prefill loop, prompts, options | `native` |
//! | [`policy`] | which vision tokens go on, and why | |
//! | [`report`] | what was decided and saved in a run, as JSON | |
//! | [`gguf`] | GGUF files, read and written | |
//! | `hub` | models from Hugging Face, downloaded once | `hub` |
//! | `picture` | pictures from files of any common format | `pictures` |
//! | `server` | answers over HTTP, as OpenAI's API has them | `server` |
//! | `eval` | policies compared over question sets, from what [`report`] says of each run | `lab` |
//! | `calibrate` | finds a policy for a model | `lab` |
//! | `inspect` | what was measured inside a model for one question, as one HTML file (single figures: `cli`) | `lab` |
//! | `plot` | charts as SVG | `lab` |
//! | `synth` | models of true shape with random weights | `lab` |
//!
//! `engine::Inspector`, which measures what `inspect` shows, needs `native` and `lab`. `native`, `server` and `cli`, which
//! includes `hub`, `lab` and `pictures`, are on by default. To run models from a program of one's own, `native` is all it takes:
//!
//! ```toml
//! visipruner = { version = "0.2", default-features = false, features = ["native"] }
//! ```
//!
//! Knowledge runs one way: `cli -> server -> engine -> {policy, ffi}`. [`policy`] is where the paper is and knows neither
//! engine nor FFI; `ffi` is the only place with `unsafe`; what goes between them is plain data.
#![warn(missing_docs)]

pub mod engine;
pub mod gguf;
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(feature = "pictures")]
pub mod picture;
pub mod policy;
pub mod report;

#[cfg(feature = "lab")]
pub mod calibrate;
#[cfg(feature = "lab")]
pub mod eval;
#[cfg(feature = "lab")]
pub mod inspect;
#[cfg(feature = "lab")]
pub mod plot;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "lab")]
pub mod synth;

#[cfg(any(feature = "hub", feature = "lab", feature = "native"))]
mod part_file;

#[cfg(feature = "native")]
mod ffi;
#[cfg_attr(not(feature = "lab"), allow(dead_code))]
mod rng;

// the integration tests' support code names this crate as users do
#[cfg(any(test, fuzzing))]
extern crate self as visipruner;

/// What the fuzz targets in `fuzz/` cannot reach from outside.
#[cfg(all(fuzzing, feature = "native"))]
#[doc(hidden)]
pub mod fuzzing {
    /// Makes the calls to the engine that some bytes stand for.
    pub fn calls(data: &[u8]) {
        crate::ffi::tests::random::drive(data);
    }
}
