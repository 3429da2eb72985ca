//! The devices that exactness is tested on: a test is written once, and runs on each kind that the program is built for.

use std::io::Write;

use visipruner::engine;

/// Names kinds of devices, separated by commas, that must be there: without one its tests fail, and pass otherwise.
const NEEDED: &str = "VISIPRUNER_TEST_DEVICES";

/// How far logits are apart that the CPU computes to the same bit, at most, on any other device. Its kernels are chosen by
/// the number of rows and add in an order of their own, and where it has half precision they round to it.
pub const LOGITS: f32 = 0.05;

/// The same of attention weights: half precision rounds each of them by up to a 2,000th.
pub const WEIGHTS: f32 = 5e-3;

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda,
    Metal,
    Vulkan,
}

impl Device {
    /// Runs the body of a test, if this machine has such a device; else says so beside the output of the tests.
    pub fn run(self, name: &str, body: impl FnOnce(Self)) {
        if self == Self::Cpu || self.name().is_some() {
            return body(self);
        }
        let why = match self {
            Self::Vulkan => "no device (a software one shows with GGML_VK_VISIBLE_DEVICES=0 only)",
            _ => "no device",
        };
        let needed = std::env::var(NEEDED).unwrap_or_default();
        let is_needed = needed
            .split(',')
            .any(|kind| kind.eq_ignore_ascii_case(&format!("{self:?}")));
        assert!(!is_needed, "{self:?}: {why}, and {NEEDED} asks for one");
        // past the harness, which keeps back what passing tests print
        let _ = writeln!(std::io::stderr(), "NOT TESTED on {self:?}: {name}: {why}");
    }

    /// ggml's name of the first device of this kind; `None` for the CPU, which always computes what no other does.
    pub fn name(self) -> Option<String> {
        let prefixes: &[&str] = match self {
            Self::Cpu => return None,
            Self::Cuda => &["CUDA"],
            Self::Metal => &["Metal", "MTL"],
            Self::Vulkan => &["Vulkan"],
        };
        let mut names = engine::devices().into_iter().map(|device| device.name);
        names.find(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
    }

    /// The devices that hold a model's layers, as `ModelOptions::devices` has them.
    pub fn names(self) -> Vec<String> {
        self.name().into_iter().collect()
    }

    /// What is the same to the bit on the CPU, as logits or hidden rows. Returns how far apart it is.
    pub fn assert_same(self, found: &[f32], expected: &[f32], what: &str) -> f32 {
        assert_eq!(found.len(), expected.len(), "{what}");
        if self == Self::Cpu {
            assert_eq!(found, expected, "{what}");
        }
        let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        // a NaN is no difference below anything
        let is_same = differences.clone().all(|difference| difference < LOGITS);
        let largest = differences.fold(0.0, f32::max);
        assert!(is_same, "{self:?}, {what}: {largest}");
        largest
    }

    /// How far attention weights, which sum up to 1, and their sums may be apart that differ on the CPU by what is given at most.
    pub fn weights(self, on_cpu: f32) -> f32 {
        if self == Self::Cpu {
            on_cpu
        } else {
            on_cpu.max(WEIGHTS)
        }
    }

    /// How far logits may be apart that differ on the CPU by what is given at most.
    pub fn logits(self, on_cpu: f32) -> f32 {
        if self == Self::Cpu {
            on_cpu
        } else {
            on_cpu.max(LOGITS)
        }
    }
}

/// Makes of each body, `fn(Device)`, a test for each kind of device: `test_device!(cut_equals_whole)` gives
/// `cut_equals_whole::on_cpu` and, built with Vulkan, `cut_equals_whole::on_vulkan`.
macro_rules! test_device {
    ($($body:ident),+ $(,)?) => {$(
        mod $body {
            use super::Device;

            #[test]
            fn on_cpu() {
                Device::Cpu.run(stringify!($body), super::$body);
            }

            #[cfg(feature = "cuda")]
            #[test]
            fn on_cuda() {
                Device::Cuda.run(stringify!($body), super::$body);
            }

            #[cfg(any(feature = "metal", target_os = "macos"))]
            #[test]
            fn on_metal() {
                Device::Metal.run(stringify!($body), super::$body);
            }

            #[cfg(feature = "vulkan")]
            #[test]
            fn on_vulkan() {
                Device::Vulkan.run(stringify!($body), super::$body);
            }
        }
    )+};
}
pub(crate) use test_device;
