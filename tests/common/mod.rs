//! Shared by the integration tests: small random models and a literal implementation of the method to compare
//! with.

// Each test crate compiles this module and uses its own part of it.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod cases;
#[cfg(feature = "native")]
pub mod devices;
pub mod dropping;
#[cfg(feature = "hub")]
pub mod hub;
pub mod policies;
pub mod process;
pub mod random_model;
pub mod reference;
pub mod rng;
