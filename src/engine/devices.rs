//! What computes.

use std::fmt;

use super::Error;
use crate::ffi;

/// Something that computes: the CPU, a GPU, or a device of another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// ggml's name, by which options name it: `CUDA0`.
    pub name: String,
    /// What it is: `AMD EPYC 7763`; of a device of another machine host and port of its server.
    pub description: String,
    /// Of which kind.
    pub kind: DeviceKind,
    /// Bytes of memory that are free; 0 where it does not tell.
    pub free_bytes: u64,
    /// Bytes of memory; 0 where it does not tell.
    pub total_bytes: u64,
}

/// The kinds of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A graphics processor, with memory of its own or without.
    Gpu,
    /// Something that helps the CPU, in its memory: BLAS, AMX.
    Accelerator,
    /// A device of another machine, whatever it is there.
    Remote,
}

impl DeviceKind {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Accelerator => "accelerator",
            Self::Remote => "remote",
        }
    }
}

impl fmt::Display for Device {
    /// `CPU (AMD EPYC 7763)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.description)
    }
}

impl From<ffi::DeviceKind> for DeviceKind {
    fn from(kind: ffi::DeviceKind) -> Self {
        match kind {
            ffi::DeviceKind::Cpu => Self::Cpu,
            ffi::DeviceKind::Gpu => Self::Gpu,
            ffi::DeviceKind::Accelerator => Self::Accelerator,
            ffi::DeviceKind::Remote => Self::Remote,
        }
    }
}

impl From<ffi::Device> for Device {
    fn from(device: ffi::Device) -> Self {
        let (free_bytes, total_bytes) = device.memory();
        Self {
            name: device.name(),
            description: device.description(),
            kind: device.kind().into(),
            free_bytes,
            total_bytes,
        }
    }
}

/// The devices that llama.cpp can compute on.
pub fn devices() -> Vec<Device> {
    ffi::Device::all().into_iter().map(Device::from).collect()
}

/// The backends for GPUs that this build was asked for.
const GPU_BACKENDS: [(&str, bool); 3] = [
    ("CUDA", cfg!(feature = "cuda")),
    ("Metal", cfg!(any(feature = "metal", target_os = "macos"))),
    ("Vulkan", cfg!(feature = "vulkan")),
];

/// What to say where this build has a backend for GPUs, and there is none, here or of another machine: models are then
/// computed on the CPU. `None` where there is one, and for builds for the CPU alone.
pub fn missing_gpu() -> Option<String> {
    let built_for: Vec<&str> = GPU_BACKENDS
        .iter()
        .filter_map(|&(name, is_built)| is_built.then_some(name))
        .collect();
    let is_found =
        |device: &ffi::Device| matches!(device.kind(), ffi::DeviceKind::Gpu | ffi::DeviceKind::Remote);
    (!built_for.is_empty() && !ffi::Device::all().iter().any(is_found))
        .then(|| without_gpu(&built_for.join(" or "), ffi::start_complaints()))
}

/// `no CUDA device was found (CUDA driver version is insufficient ...): the CPU computes everything`
fn without_gpu(built_for: &str, complaints: &str) -> String {
    let reason = match complaints {
        "" => String::new(),
        complaints => format!(" ({complaints})"),
    };
    format!("no {built_for} device was found{reason}: the CPU computes everything")
}

/// The device of this name that is not the CPU.
///
/// # Errors
/// [`Error::NoDevice`]
pub(crate) fn device(name: &str) -> Result<ffi::Device, Error> {
    ffi::Device::called(name).ok_or_else(|| Error::NoDevice {
        name: name.to_owned(),
        found: (ffi::Device::all().into_iter())
            .filter(|device| device.kind() != ffi::DeviceKind::Cpu)
            .map(ffi::Device::name)
            .collect(),
    })
}
