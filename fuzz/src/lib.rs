//! What every input must come to: each function takes whatever bytes there are, and panics where the library did not do
//! what it promises. `tests/fuzz_seeds.rs` compiles this file, too, and gives it the seeds.

pub mod gguf;
pub mod pictures;
pub mod policies;
pub mod questions;
pub mod split;

#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "native")]
pub mod templates;

mod folder;
#[cfg(all(fuzzing, feature = "native"))]
mod vptr;
