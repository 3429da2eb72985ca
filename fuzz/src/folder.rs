//! Files for what reads paths.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Longest file, in bytes: as far as tensors may reach. It is sparse.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A folder of its own, in memory where there is such a place.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
    .expect("a folder")
}

/// A file that begins with `head`.
pub fn long_file(folder: &TempDir, name: &str, head: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    let mut file = File::create(&path).expect("a file");
    file.write_all(head).expect("writes");
    file.set_len(MAX_FILE_BYTES).expect("grows");
    path
}

pub fn file(folder: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).expect("writes");
    path
}

/// Where the model that ships is.
#[cfg(feature = "native")]
pub fn models() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [package.join("models"), package.join("../models")];
    folders
        .into_iter()
        .find(|folder| folder.is_dir())
        .expect("the folder of models")
}
