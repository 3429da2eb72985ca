//! What the build depends on from outside. Every environment variable is named here, once.

use std::env;
use std::path::{Path, PathBuf};

/// A directory that holds llama.cpp's source (its top `CMakeLists.txt`), instead of the pinned package.
const LLAMA_CPP: &str = "VISIPRUNER_LLAMA_CPP";
/// Further `-DNAME=VALUE` arguments for cmake, separated by blanks and quoted as in a shell; they win over ours.
const CMAKE_ARGS: &str = "VISIPRUNER_CMAKE_ARGS";
/// `0`, `off` or `no`: don't compile for the instruction set of this very machine (for binaries that travel).
const GGML_NATIVE: &str = "VISIPRUNER_GGML_NATIVE";
/// Where the Vulkan SDK was unpacked: its own installer sets it, and cmake looks there first.
const VULKAN_SDK: &str = "VULKAN_SDK";
/// Where llama.cpp is staged and compiled, instead of `OUT_DIR`; may be shared by several cargo profiles.
const NATIVE_DIR: &str = "VISIPRUNER_NATIVE_DIR";

// set by docs.rs and by cargo
const DOCS_RS: &str = "DOCS_RS";
const CARGO: &str = "CARGO";
const MANIFEST_DIR: &str = "CARGO_MANIFEST_DIR";
const OUT_DIR: &str = "OUT_DIR";
const HOST: &str = "HOST";
const TARGET: &str = "TARGET";
const TARGET_OS: &str = "CARGO_CFG_TARGET_OS";
const TARGET_VENDOR: &str = "CARGO_CFG_TARGET_VENDOR";

const WATCHED: [&str; 6] = [
    LLAMA_CPP,
    CMAKE_ARGS,
    GGML_NATIVE,
    NATIVE_DIR,
    VULKAN_SDK,
    DOCS_RS,
];

/// The environment of this build, read once.
pub struct Settings {
    /// The `cargo` that runs this build.
    pub cargo: PathBuf,
    /// The root of this package.
    pub manifest_dir: PathBuf,
    /// Where cargo wants generated files.
    pub out_dir: PathBuf,
    /// Where llama.cpp is staged and compiled.
    pub native_dir: PathBuf,
    /// The target triple.
    pub target: String,
    /// Whether the target is the machine that compiles.
    pub is_host: bool,
    /// `linux`, `macos`, `windows`, ...
    pub target_os: String,
    /// Whether the target is one of Apple's.
    pub apple: bool,
    /// A llama.cpp of the user's own.
    pub llama_cpp: Option<PathBuf>,
    /// Further definitions for cmake, in the order given.
    pub cmake_defines: Vec<(String, String)>,
    /// Whether to compile for the instruction set of this machine.
    pub ggml_native: bool,
    /// The GGML backends asked for by features, or on by default, as in `GGML_<backend>`.
    pub backends: Vec<&'static str>,
    /// The folder of a Vulkan SDK.
    pub vulkan_sdk: Option<PathBuf>,
    /// Whether docs.rs is building.
    pub docs_rs: bool,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A variable that cargo should have set is missing, or one of the user's makes no sense.
    pub fn from_env() -> Result<Self, String> {
        let out_dir = PathBuf::from(required(OUT_DIR)?);
        let target_os = required(TARGET_OS)?;
        Ok(Self {
            cargo: PathBuf::from(required(CARGO)?),
            manifest_dir: PathBuf::from(required(MANIFEST_DIR)?),
            native_dir: env::var_os(NATIVE_DIR).map_or_else(|| out_dir.clone(), PathBuf::from),
            out_dir,
            is_host: required(HOST)? == required(TARGET)?,
            target: required(TARGET)?,
            apple: env::var(TARGET_VENDOR).is_ok_and(|vendor| vendor == "apple"),
            llama_cpp: env::var_os(LLAMA_CPP).map(PathBuf::from),
            cmake_defines: cmake_defines(&env::var(CMAKE_ARGS).unwrap_or_default())?,
            ggml_native: !env::var(GGML_NATIVE).is_ok_and(|value| is_off(&value)),
            backends: backends(&target_os),
            target_os,
            vulkan_sdk: env::var_os(VULKAN_SDK).map(PathBuf::from),
            docs_rs: env::var_os(DOCS_RS).is_some(),
        })
    }

    /// Tells cargo what to watch: our inputs, never a folder that the build writes.
    pub fn watch(&self) {
        for name in WATCHED {
            println!("cargo::rerun-if-env-changed={name}");
        }
        // (the patches are watched one by one: their folder holds a scratch tree)
        println!("cargo::rerun-if-changed={}", self.cpp().display());
    }

    /// The folder of patches.
    pub fn patches(&self) -> PathBuf {
        self.manifest_dir.join("patches")
    }

    /// The folder of our own C++.
    pub fn cpp(&self) -> PathBuf {
        self.manifest_dir.join("src").join("ffi").join("cpp")
    }

    /// An unpacked llama.cpp inside this package, as a published crate may carry it.
    pub fn vendored(&self) -> PathBuf {
        self.manifest_dir.join("vendor").join("llama.cpp")
    }

    /// The variable that points to a llama.cpp of the user's own, for messages.
    pub const fn llama_cpp_variable() -> &'static str {
        LLAMA_CPP
    }

    /// A definition of the user's for cmake.
    pub fn cmake_define(&self, name: &str) -> Option<&str> {
        let mut named = self
            .cmake_defines
            .iter()
            .rev()
            .filter(|(present, _)| present == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// A name for everything that changes what cmake compiles: builds with different names don't share objects.
    pub fn variant(&self) -> String {
        let mut name = self.target.clone();
        for backend in self.backends.iter().filter(|&&backend| backend != "RPC") {
            name.push('-');
            name.push_str(&backend.to_lowercase());
        }
        if !self.ggml_native {
            name.push_str("-portable");
        }
        if !self.cmake_defines.is_empty() {
            name.push_str(&format!("-{:08x}", fnv1a(&format!("{:?}", self.cmake_defines))));
        }
        name
    }
}

fn required(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: build.rs has to be run by cargo"))
}

fn is_off(value: &str) -> bool {
    matches!(value.to_lowercase().as_str(), "0" | "off" | "no" | "false")
}

fn backends(target_os: &str) -> Vec<&'static str> {
    let asked = [
        ("CUDA", cfg!(feature = "cuda")),
        ("METAL", cfg!(feature = "metal") || target_os == "macos"),
        // two files, in every build: cargo runs no build again because one of other features has changed what it made
        ("RPC", true),
        ("VULKAN", cfg!(feature = "vulkan")),
    ];
    asked
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| name)
        .collect()
}

/// The definitions that a variable holds.
///
/// # Errors
/// What is no definition, and quotation marks that are not closed.
pub fn cmake_defines(args: &str) -> Result<Vec<(String, String)>, String> {
    let unclosed = || format!("{CMAKE_ARGS}: a quotation mark is not closed in: {args}");
    shlex::split(args)
        .ok_or_else(unclosed)?
        .iter()
        .map(|arg| {
            let (name, value) = arg.strip_prefix("-D").and_then(|define| define.split_once('=')).ok_or_else(|| {
                format!("{CMAKE_ARGS}: cannot read '{arg}'; write -DNAME=VALUE, several of them separated by blanks")
            })?;
            Ok((name.split(':').next().unwrap_or(name).to_owned(), value.to_owned()))
        })
        .collect()
}

/// A short stable hash for folder names.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Reads a text file.
///
/// # Errors
/// Names the file.
pub fn read_text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}
