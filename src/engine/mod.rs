//! Runs vision-language models: load, encode, prefill in stages, generate.
//!
//! ```text
//!  Image ──► Projector ──► embeddings ┐
//!                                     ├──► the prompt's rows ──► prefill of what is new ──► KV cache ──► tokens ──► text
//!  Prompt ─► chat template ─► tokens ─┘                             ▲              │            │
//!                                                               Decision ◄─ policy ◄┘ probe      └─► prefixes
//! ```
//!
#![cfg_attr(
    feature = "native",
    doc = "- [`Model`]: weights and vocabulary; clones share them.
- [`Projector`]: turns pictures into embeddings; belongs to a model.
- [`quantize`]: a smaller copy of a model's file.
- [`Session`]: one caller's conversation: answers one [`Request`] at a time, to a callback ([`Session::generate`]) or as an
  iterator ([`Session::stream`]), and computes only what it has not read before.
- [`Cache`]: the KV cache beneath it, for several answers at a time: [`encode`] a prompt anywhere, [`begin`](Cache::begin) an
  answer, [`step`](Cache::step) all of them together.
- [`CancelHandle`]: stops a request from elsewhere."
)]
#![cfg_attr(
    all(feature = "native", feature = "lab"),
    doc = "- [`Inspector`]: measures what [`crate::inspect`] shows."
)]
#![cfg_attr(
    not(feature = "native"),
    doc = "Without the feature `native`, as here, there are no models, projectors and sessions; what is left is the loop of the
staged prefill ([`prefill`]), prompts and options."
)]
//!
//! With the policy off a session is stock llama.cpp: its own memory, its own batches, its logits bit for bit. With any
//! other policy the whole prompt is taken first, images encoded, and then run layer range by layer range; between two
//! ranges the policy decides which vision rows go on.
//!
//! Bad input is refused in words before llama.cpp, which would end the process, sees it: files are read by
//! [`gguf`](crate::gguf) first, sizes and counts are checked, and logits are looked at before a token is drawn.
#![forbid(unsafe_code)]

mod cancel;
mod error;
pub(crate) mod model;
mod options;
pub mod prefill;
mod prompt;
mod vision;

#[cfg(feature = "native")]
mod cache;
#[cfg(feature = "native")]
mod constraint;
#[cfg(feature = "native")]
mod devices;
#[cfg(all(feature = "native", feature = "lab"))]
mod inspect;
#[cfg(feature = "native")]
mod log;
#[cfg(feature = "rpc")]
mod rpc;
#[cfg(feature = "native")]
mod session;

pub use cancel::CancelHandle;
pub use error::{Error, Unsupported};
pub use model::{model_shape, vision_shape};
pub use options::{
    Cuts, FlashAttention, KvType, ModelOptions, ProjectorOptions, Sampling, SessionOptions, SplitMode,
    VisionEncoder,
};
pub use prompt::{Exchange, IMAGE_MARKERS, Part, Prompt};
pub use vision::Image;

#[cfg(feature = "native")]
pub use cache::{Cache, Decoder};
#[cfg(feature = "native")]
pub use constraint::Constraint;
#[cfg(feature = "native")]
pub use devices::{Device, DeviceKind, devices, missing_gpu};
#[cfg(all(feature = "native", feature = "lab"))]
pub use inspect::Inspector;
#[cfg(feature = "native")]
pub use log::{LogLevel, set_log, set_log_handler};
#[cfg(feature = "native")]
pub use model::{Model, QuantizeOptions, Quantized, TypeShare, quantize, supported_archs};
#[cfg(feature = "native")]
pub use prompt::{EncodedPrompt, MediaKind, MediaSpan, PromptSize, encode};
#[cfg(feature = "rpc")]
pub use rpc::{RpcServerOptions, add_rpc_server, serve_rpc};
#[cfg(feature = "native")]
pub use session::{
    Answer, AnyPolicy, Event, Generation, Outcome, Request, Session, StopReason, TokenLogprob,
};
#[cfg(feature = "native")]
pub use vision::Projector;

/// Threads to compute with: as many as asked for, else as many as there are.
#[cfg(feature = "native")]
pub(crate) fn n_threads(asked: Option<u32>) -> i32 {
    let all = || std::thread::available_parallelism().map_or(1, |n| n.get().min(512) as u32);
    asked.unwrap_or_else(all) as i32
}
