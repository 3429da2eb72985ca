//! Where tensors are computed.

use std::ffi::CString;

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

/// A device of the registry that is not the CPU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gpu(sys::ggml_backend_dev_t);

impl Gpu {
    /// The one of this name.
    pub(crate) fn called(name: &str) -> Option<Self> {
        log::install();
        let name = CString::new(name).ok()?;
        // SAFETY: the name is NUL-terminated; a device that is found is one of the registry's.
        let device = unsafe { sys::ggml_backend_dev_by_name(name.as_ptr()) };
        (!device.is_null())
            .then_some(Self(device))
            .filter(|device| !device.is_cpu())
    }

    /// The names of all.
    pub(crate) fn names() -> Vec<String> {
        log::install();
        // SAFETY: indices are below the count.
        let all = unsafe { (0..sys::ggml_backend_dev_count()).map(|i| Self(sys::ggml_backend_dev_get(i))) };
        all.filter(|device| !device.is_cpu()).map(Self::name).collect()
    }

    pub(super) fn as_ptr(self) -> sys::ggml_backend_dev_t {
        self.0
    }

    fn name(self) -> String {
        // SAFETY: the device is one of the registry's, which live as long as the process; names are NUL-terminated.
        unsafe { text(sys::ggml_backend_dev_name(self.0)) }.unwrap_or_default()
    }

    fn is_cpu(self) -> bool {
        // SAFETY: the device is one of the registry's.
        let kind = unsafe { sys::ggml_backend_dev_type(self.0) };
        kind == sys::GGML_BACKEND_DEVICE_TYPE_CPU
    }
}
