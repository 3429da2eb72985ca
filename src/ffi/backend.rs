//! Where tensors are computed.

use super::status::text;
use super::{log, sys};

/// The devices that ggml knows: `CPU (AMD EPYC ...)`.
pub(crate) fn devices() -> Vec<String> {
    log::install();
    // SAFETY: indices are below the count; names and descriptions are NUL-terminated and live as long as the registry.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|i| {
                let device = sys::ggml_backend_dev_get(i);
                let name = text(sys::ggml_backend_dev_name(device)).unwrap_or_default();
                let description = text(sys::ggml_backend_dev_description(device)).unwrap_or_default();
                format!("{name} ({})", description.trim())
            })
            .collect()
    }
}
