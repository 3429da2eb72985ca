//! From a request to the rows of its prompt.
//!
//! ```text
//!  Prompt (parts) ─► chat template ─► text and pictures in turn ─► tokens and embeddings (encoded)
//! ```

#[cfg_attr(not(feature = "native"), allow(dead_code))]
mod parts;

#[cfg(feature = "native")]
mod content;
#[cfg(feature = "native")]
mod dialect;
#[cfg(feature = "native")]
mod encoded;
#[cfg(feature = "native")]
mod encoder;
#[cfg(feature = "native")]
mod family;
#[cfg(all(test, feature = "native"))]
mod published;
#[cfg(feature = "native")]
pub(crate) mod template;

pub use parts::{Exchange, IMAGE_MARKERS, Part, Prompt};

#[cfg(feature = "native")]
pub(crate) use encoded::{EncodedBy, Shown};
#[cfg(feature = "native")]
pub use encoded::{EncodedPrompt, MediaKind, MediaSpan, PromptSize};
#[cfg(feature = "native")]
pub use encoder::encode;
#[cfg(feature = "native")]
pub(crate) use family::Surroundings;
