//! Finds llama.cpp's source.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::native::patch::Placement;
use crate::native::settings::{Settings, read_text};
use crate::native::stage::write_if_changed;

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

/// Beside this package, where cargo unpacks what it downloads and vendors, else where `cargo metadata` says.
fn in_registry(settings: &Settings) -> Result<PathBuf, String> {
    let version = pinned_version(settings)?;
    let package = match beside(settings, &version) {
        Some(package) => package,
        None => by_metadata(settings, &version)?,
    };
    Ok(package.join("llama.cpp"))
}

fn pinned_version(settings: &Settings) -> Result<String, String> {
    let path = settings.manifest_dir.join("vendor").join("upstream.toml");
    println!("cargo::rerun-if-changed={}", path.display());
    read_text(&path)?
        .lines()
        .find_map(|line| quoted(line, "version"))
        .ok_or_else(|| format!("{} names no version", path.display()))
}

/// The value of a line `key = "value"`.
fn quoted(line: &str, key: &str) -> Option<String> {
    let value = line.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim();
    Some(value.trim_matches('"').to_owned())
}

/// The folder of the pinned package in cargo's registry, or in a vendored one, if it is from there that we are built.
/// A vendored one holds what a program depends on, and not all that our own lock names.
fn beside(settings: &Settings, version: &str) -> Option<PathBuf> {
    let dir = &settings.manifest_dir;
    let marks = [".cargo-ok", ".cargo-checksum.json"];
    if !marks.iter().any(|mark| dir.join(mark).is_file()) {
        return None;
    }
    let siblings = [format!("{PACKAGE}-{version}"), PACKAGE.to_owned()];
    siblings
        .iter()
        .map(|name| dir.with_file_name(name))
        .find(|package| is_version(package, version))
}

fn is_version(package: &Path, version: &str) -> bool {
    let manifest = read_text(&package.join("Cargo.toml")).unwrap_or_default();
    manifest
        .lines()
        .find_map(|line| quoted(line, "version"))
        .as_deref()
        == Some(version)
}

/// Asks `cargo metadata` where a package that depends on nothing else finds the pinned one; goes to the network only if it has
/// to. It stands in `OUT_DIR`: cargo's settings there are mostly those of the program that is built, else those here may be.
fn by_metadata(settings: &Settings, version: &str) -> Result<PathBuf, String> {
    let dir = settings.out_dir.join("llama-cpp-source");
    let manifest = format!(
        "[package]\nname = \"llama-cpp-source\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
         [lib]\npath = \"lib.rs\"\n\
         [workspace]\n\
         [target.'cfg(any())'.dependencies]\n{PACKAGE} = \"={version}\"\n"
    );
    let lock = read_text(&settings.manifest_dir.join("Cargo.lock"))?;
    for (name, text) in [
        ("Cargo.toml", manifest),
        ("lib.rs", String::new()),
        ("Cargo.lock", lock),
    ] {
        write_if_changed(&dir.join(name), text.as_bytes())?;
    }
    let ask = |from: &Path, flags: &[&str]| cargo_metadata(settings, &dir.join("Cargo.toml"), from, flags);
    let metadata = ask(&dir, &["--offline"])
        .or_else(|_| ask(&settings.manifest_dir, &["--offline"]))
        .or_else(|_| ask(&dir, &[]))
        .map_err(|reason| {
            format!(
                "cannot find llama.cpp's source in package {PACKAGE}: {reason}; \
                 to build offline, set {} to a folder that holds it",
                Settings::llama_cpp_variable()
            )
        })?;
    package_dir(&metadata)
}

fn cargo_metadata(
    settings: &Settings,
    manifest: &Path,
    from: &Path,
    flags: &[&str],
) -> Result<serde_json::Value, String> {
    let output = Command::new(&settings.cargo)
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .args(flags)
        .current_dir(from)
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
