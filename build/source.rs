//! Finds llama.cpp's source.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::native::patch::Placement;
use crate::native::settings::Settings;

/// The package that carries llama.cpp's source, at the version pinned in Cargo.toml (see `vendor/README.md`).
const PACKAGE: &str = "llama-cpp-sys-2";

/// A folder with llama.cpp's source in it.
pub struct Source {
    /// The folder with the top `CMakeLists.txt`.
    pub dir: PathBuf,
    /// How strictly our patches must fit: to the line for the pinned source, by unique context for any other.
    pub placement: Placement,
}

/// The user's own llama.cpp, else the one unpacked in `vendor/`, else the pinned package in cargo's registry.
///
/// # Errors
/// No source was found, or what was named is none.
pub fn locate(settings: &Settings) -> Result<Source, String> {
    if let Some(dir) = &settings.llama_cpp {
        return watched(checked(
            dir.clone(),
            Placement::UniqueContext,
            Settings::llama_cpp_variable(),
        )?);
    }
    let vendored = settings.vendored();
    if vendored.join("CMakeLists.txt").is_file() {
        return watched(checked(vendored, Placement::Exact, "vendor/")?);
    }
    // registry sources never change: nothing to watch
    checked(in_registry(settings)?, Placement::Exact, PACKAGE)
}

fn checked(dir: PathBuf, placement: Placement, origin: &str) -> Result<Source, String> {
    for needed in [
        "CMakeLists.txt",
        "src/CMakeLists.txt",
        "tools/mtmd/CMakeLists.txt",
    ] {
        if !dir.join(needed).is_file() {
            return Err(format!(
                "{origin}: {} is not llama.cpp's source: it has no {needed}",
                dir.display()
            ));
        }
    }
    Ok(Source { dir, placement })
}

fn watched(source: Source) -> Result<Source, String> {
    println!("cargo::rerun-if-changed={}", source.dir.display());
    Ok(source)
}

/// Asks `cargo metadata` where the pinned package was unpacked; goes to the network only if it has to.
fn in_registry(settings: &Settings) -> Result<PathBuf, String> {
    let metadata = cargo_metadata(settings, &["--locked", "--offline"])
        .or_else(|_| cargo_metadata(settings, &["--locked"]))
        .or_else(|_| cargo_metadata(settings, &[]))
        .map_err(|reason| {
            format!(
                "cannot find llama.cpp's source in package {PACKAGE}: {reason}; \
                 to build offline, set {} to a folder that holds it",
                Settings::llama_cpp_variable()
            )
        })?;
    package_dir(&metadata).map(|dir| dir.join("llama.cpp"))
}

fn cargo_metadata(settings: &Settings, flags: &[&str]) -> Result<serde_json::Value, String> {
    let output = Command::new(&settings.cargo)
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(settings.manifest_dir.join("Cargo.toml"))
        .args(flags)
        .output()
        .map_err(|e| format!("cannot run {}: {e}", settings.cargo.display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(stderr
            .lines()
            .next()
            .unwrap_or("cargo metadata failed")
            .to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata wrote no JSON: {e}"))
}

/// The package is looked up among all packages: being compiled for no target, it is absent from the resolved graph.
fn package_dir(metadata: &serde_json::Value) -> Result<PathBuf, String> {
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == PACKAGE)
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or_else(|| format!("cargo metadata does not list package {PACKAGE}; Cargo.toml must pin it"))?;
    Path::new(manifest)
        .parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("package {PACKAGE} has no folder: {manifest}"))
}
