//! From a picture's pixels to embeddings.

mod image;

#[cfg(feature = "native")]
mod fit;
#[cfg(feature = "native")]
mod marks;
#[cfg(feature = "native")]
mod picture_cache;
#[cfg(feature = "native")]
mod projector;

pub use image::Image;

#[cfg(feature = "native")]
pub use projector::Projector;
