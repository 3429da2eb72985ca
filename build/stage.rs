//! Copies llama.cpp's source to where it is built, patched on the way. Only files whose content changed are
//! written, so that the build system recompiles what depends on them and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::native::patch;
use crate::native::settings::{Settings, read_text};
use crate::native::source::Source;

/// What of llama.cpp's tree the build needs.
const NEEDED: [&str; 8] = [
    "CMakeLists.txt",
    "LICENSE",
    "cmake",
    "ggml",
    "include",
    "src",
    "tools/mtmd",
    "vendor",
];

/// The folder in which llama.cpp is staged and compiled, held by this process alone.
pub struct NativeDir {
    /// The patched source.
    pub source: PathBuf,
    /// The build of this variant (features, target, options).
    pub variant: PathBuf,
    /// The folder that holds both.
    pub root: PathBuf,
    // other cargo profiles may use the same folder at the same time
    _lock: File,
}

/// Makes the folder and waits until no other build uses it.
///
/// # Errors
/// The folder cannot be made or locked.
pub fn open(settings: &Settings) -> Result<NativeDir, String> {
    let root = &settings.native_dir;
    let failed = |what: &str, e: std::io::Error| format!("cannot {what} {}: {e}", root.display());
    fs::create_dir_all(root).map_err(|e| failed("make", e))?;
    let root = &root.canonicalize().map_err(|e| failed("resolve", e))?;
    let lock = File::create(root.join("lock")).map_err(|e| failed("write to", e))?;
    lock.lock().map_err(|e| failed("lock", e))?;
    Ok(NativeDir {
        source: root.join("llama.cpp"),
        variant: root.join(settings.variant()),
        root: root.clone(),
        _lock: lock,
    })
}

/// Brings the staged tree up to date with the source and the patches that `patches/series` names.
///
/// # Errors
/// A patch does not apply (names it), or a file cannot be read or written.
pub fn source(source: &Source, patches: &Path, native: &NativeDir) -> Result<(), String> {
    let patched = patched_files(source, patches)?;

    let mut relative_paths = BTreeSet::new();
    for needed in NEEDED {
        list_files(&source.dir, Path::new(needed), &mut relative_paths)?;
    }
    relative_paths.extend(patched.keys().map(PathBuf::from));

    for path in &relative_paths {
        let content = match path.to_str().and_then(|name| patched.get(name)) {
            Some(text) => text.clone().into_bytes(),
            None => read_bytes(&source.dir.join(path))?,
        };
        write_if_changed(&native.source.join(path), &content)?;
    }
    remove_others(&native.source, &relative_paths)
}

/// The files that patches change, as they are after the last patch.
fn patched_files(source: &Source, patches: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut changed = BTreeMap::new();
    for name in series(&read_watched(&patches.join("series"))?) {
        let diff = read_watched(&patches.join(name))?;
        patch::apply(&diff, source.placement, &mut changed, |path| {
            let path = source.dir.join(path);
            if path.is_file() {
                read_text(&path).map(Some)
            } else {
                Ok(None)
            }
        })
        .map_err(|reason| {
            format!(
                "patches/{name} does not apply to {}: {reason}",
                source.dir.display()
            )
        })?;
    }
    Ok(changed)
}

fn read_watched(path: &Path) -> Result<String, String> {
    println!("cargo::rerun-if-changed={}", path.display());
    read_text(path)
}

fn series(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn list_files(root: &Path, path: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), String> {
    let full = root.join(path);
    if full.is_file() {
        files.insert(path.to_path_buf());
        return Ok(());
    }
    let failed = |e: std::io::Error| format!("cannot list {}: {e}", full.display());
    for entry in fs::read_dir(&full).map_err(failed)? {
        list_files(root, &path.join(entry.map_err(failed)?.file_name()), files)?;
    }
    Ok(())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Leaves a file with this content alone, for its modification time is what the build system goes by.
///
/// # Errors
/// The file cannot be written.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| format!("cannot make {}: {e}", parent.display()))?;
    }
    fs::write(path, content).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// Removes files that the source no longer has: some of llama.cpp's source lists are globs.
fn remove_others(staged: &Path, keep: &BTreeSet<PathBuf>) -> Result<(), String> {
    let mut present = BTreeSet::new();
    list_files(staged, Path::new(""), &mut present)?;
    for path in present.difference(keep) {
        let path = staged.join(path);
        fs::remove_file(&path).map_err(|e| format!("cannot remove {}: {e}", path.display()))?;
    }
    Ok(())
}
