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
