//! Language models: their weights, vocabulary and sizes.

mod shapes;
#[cfg_attr(not(feature = "native"), allow(dead_code))]
pub(crate) mod vocabulary;

#[cfg(feature = "native")]
mod quantize;
#[cfg(feature = "native")]
mod weights;

pub use shapes::{model_shape, vision_shape};

#[cfg(feature = "native")]
pub use quantize::{QuantizeOptions, Quantized, TypeShare, quantize};
#[cfg(feature = "native")]
pub use weights::{Model, supported_archs};
#[cfg(feature = "native")]
pub(crate) use weights::{WeakModel, load_native};
