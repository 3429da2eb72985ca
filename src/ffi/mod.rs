//! The door to llama.cpp: the only place with `unsafe`.
//!
//! - Every C call that can fail goes through [`status::call`], which turns what it returned into a `Result` that
//!   carries the library's own words.
//! - Ownership is in the types: [`Model`] is shared (`Arc`) and immutable, [`Context`] and [`Projector`] keep their
//!   model alive, and whatever changes in C++ takes `&mut self`.
//! - No panic crosses C: the callbacks catch it, tell C to stop, and it goes on once C has returned.
//!
//! Versions: the comments below cite llama.cpp as packaged in `llama-cpp-sys-2` 0.1.161.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod backend;
mod callback;
mod context;
mod log;
mod model;
mod projector;
mod quantize;
mod sampler;
mod status;

/// The generated declarations of `llama.h`, `mtmd.h` and `visipruner.h`.
#[allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    unsafe_op_in_unsafe_fn
)]
mod sys {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub(crate) use backend::{Device, DeviceKind, start_complaints};
#[cfg(feature = "rpc")]
pub(crate) use backend::{RPC_VERSION, add_rpc_server, start_rpc_server};
pub(crate) use context::{
    AttentionMode, Context, ContextParams, Fallbacks, FlashAttention, KvGroup, KvUsage, Probe, Range, Rows,
    Sequence, Token,
};
pub(crate) use log::{Level, set_log};
pub(crate) use model::{Model, ModelParams, SplitMode, c_path, supported_archs};
pub(crate) use projector::{Bitmap, Chunk, Chunks, ImageChunk, Part, Projector, ProjectorParams};
pub(crate) use quantize::{QuantizeParams, quantize};
pub(crate) use sampler::{Sampler, SamplerParams};
pub(crate) use status::{Error, Status};

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
