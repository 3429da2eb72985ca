//! Where tensors are computed.

use std::ffi::CString;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
#[cfg(feature = "rpc")]
use std::{ffi::CStr, ptr};

use super::status::text;
#[cfg(feature = "rpc")]
use super::status::{Error, VpStatus, call};
use super::{log, sys};

/// ggml's registry knows no threads: it is read while models, contexts and projectors are made, and grows when a server is
/// added.
static REGISTRY: RwLock<()> = RwLock::new(());

/// To be held while something reads ggml's registry.
pub(super) fn reading_registry() -> RwLockReadGuard<'static, ()> {
    REGISTRY.read().unwrap_or_else(PoisonError::into_inner)
}

/// What the backends complained about when they were initialised: `failed to initialize CUDA: ...`.
pub(crate) fn start_complaints() -> &'static str {
    log::install()
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    Cpu,
    Gpu,
    Accelerator,
    /// Of another machine, whatever it is there.
    Remote,
}

/// A device of ggml's registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device(sys::ggml_backend_dev_t);

impl Device {
    /// All that there are.
    pub(crate) fn all() -> Vec<Self> {
        log::install();
        let _reading = reading_registry();
        // SAFETY: indices are below the count, and nothing is added meanwhile.
        unsafe {
            (0..sys::ggml_backend_dev_count())
                .map(|i| Self(sys::ggml_backend_dev_get(i)))
                .collect()
        }
    }

    /// The one of this name that is not the CPU.
    pub(crate) fn called(name: &str) -> Option<Self> {
        log::install();
        let name = CString::new(name).ok()?;
        let _reading = reading_registry();
        // SAFETY: the name is NUL-terminated; a device that is found is one of the registry's.
        let device = unsafe { sys::ggml_backend_dev_by_name(name.as_ptr()) };
        (!device.is_null())
            .then_some(Self(device))
            .filter(|device| device.kind() != DeviceKind::Cpu)
    }

    pub(crate) fn name(self) -> String {
        // SAFETY: the device is one of the registry's, which live as long as the process; names are NUL-terminated.
        unsafe { text(sys::ggml_backend_dev_name(self.0)) }.unwrap_or_default()
    }

    pub(crate) fn description(self) -> String {
        // SAFETY: as in `name`.
        let description = unsafe { text(sys::ggml_backend_dev_description(self.0)) }.unwrap_or_default();
        description.trim().to_owned()
    }

    pub(crate) fn kind(self) -> DeviceKind {
        // SAFETY: the device is one of the registry's, and so is the backend that it belongs to.
        let (kind, backend) = unsafe {
            let reg = sys::ggml_backend_dev_backend_reg(self.0);
            (
                sys::ggml_backend_dev_type(self.0),
                text(sys::ggml_backend_reg_name(reg)),
            )
        };
        match kind {
            _ if backend.as_deref() == Some("RPC") => DeviceKind::Remote,
            sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
            sys::GGML_BACKEND_DEVICE_TYPE_ACCEL => DeviceKind::Accelerator,
            _ => DeviceKind::Gpu,
        }
    }

    /// Bytes that are free, and all; 0 where it does not tell. A device of another machine is asked.
    pub(crate) fn memory(self) -> (u64, u64) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the device is one of the registry's; both pointers are valid for the call.
        unsafe { sys::ggml_backend_dev_memory(self.0, &raw mut free, &raw mut total) };
        (free as u64, total as u64)
    }

    /// Makes it ready to be used. ggml's Vulkan opens a device when it is first used, and another thread that uses it meanwhile
    /// finds it half open: so devices are opened one after the other, before anything is loaded onto them.
    pub(super) fn open(self) {
        static OPENING: Mutex<()> = Mutex::new(());
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the device is one of the registry's; its buffer type lives as long.
        unsafe { sys::ggml_backend_dev_buffer_type(self.0) };
    }

    pub(super) fn as_ptr(self) -> sys::ggml_backend_dev_t {
        self.0
    }
}

/// The version of the protocol that devices of other machines are spoken to in: major and minor.
#[cfg(feature = "rpc")]
pub(crate) const RPC_VERSION: (u8, u8) = (
    sys::RPC_PROTO_MAJOR_VERSION as u8,
    sys::RPC_PROTO_MINOR_VERSION as u8,
);

/// Adds the devices of a server to the registry, if they are not there yet. It must be one, and answer: ggml waits for it
/// without end.
#[cfg(feature = "rpc")]
pub(crate) fn add_rpc_server(endpoint: &CStr) -> Result<(), Error> {
    log::install();
    let _writing = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    call("vp_rpc_add_server", || {
        // SAFETY: the endpoint is NUL-terminated; nobody else uses the registry meanwhile.
        VpStatus(unsafe { sys::vp_rpc_add_server(endpoint.as_ptr()) })
    })
}

/// Lends devices to other machines, to one at a time; ends only where it cannot.
#[cfg(feature = "rpc")]
pub(crate) fn start_rpc_server(
    endpoint: &CStr,
    cache_dir: Option<&CStr>,
    n_threads: usize,
    devices: &[Device],
) -> Error {
    log::install();
    let mut devices: Vec<_> = devices.iter().map(|device| device.as_ptr()).collect();
    let served = call("vp_rpc_start_server", || {
        // SAFETY: both texts are NUL-terminated; devices are the registry's, and their number is the list's.
        VpStatus(unsafe {
            sys::vp_rpc_start_server(
                endpoint.as_ptr(),
                cache_dir.map_or(ptr::null(), CStr::as_ptr),
                n_threads,
                devices.len(),
                devices.as_mut_ptr(),
            )
        })
    });
    match served {
        Err(error) => error,
        Ok(()) => Error {
            call: "vp_rpc_start_server",
            status: super::Status::Failed,
            message: String::new(),
        },
    }
}
