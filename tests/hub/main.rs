//! Models from a hub: what is fetched, resumed, checked, found again, refused.
#![cfg(feature = "hub")]

mod faults;
mod fetching;
mod python;
mod refusals;
#[allow(dead_code, reason = "the command line's tests use other parts of it")]
#[path = "../common/hub.rs"]
mod server;

use std::ops::ControlFlow::{self, Continue};
use std::path::{Path, PathBuf};

use server::Hub;
use tempfile::TempDir;
use visipruner::hub::{Error, Files, Options, Progress, Source};

const REPO: &str = "user/llava-GGUF";

/// A hub, and a cache that nothing is in.
struct Setup {
    hub: Hub,
    options: Options,
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        let hub = Hub::start();
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options {
            endpoint: hub.endpoint(),
            token: None,
            cache: folder.path().join("hub"),
            is_offline: false,
            with_projector: true,
            certificates: None,
        };
        Self { hub, options, folder }
    }

    fn fetch(&self, source: &str) -> Result<Files, Error> {
        self.fetch_with(source, |_| Continue(()))
    }

    fn fetch_with(
        &self,
        source: &str,
        on_progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Files, Error> {
        Source::parse(source)
            .expect("a source")
            .fetch(&self.options, on_progress)
    }

    #[track_caller]
    fn error(&self, source: &str) -> String {
        self.fetch(source).expect_err("fails").to_string()
    }

    fn offline(&self) -> Options {
        Options {
            is_offline: true,
            ..self.options.clone()
        }
    }

    /// A file or folder of the repository in the cache.
    fn cached(&self, path: &str) -> PathBuf {
        let name = format!("models--{}", REPO.replace('/', "--"));
        self.options.cache.join(name).join(path)
    }

    /// Names of the contents in the cache, those that are not whole yet among them.
    fn blobs(&self) -> Vec<String> {
        names(&self.cached("blobs"))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("is text")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// Bytes that are the same nowhere.
fn bytes(n: usize, seed: u32) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[1]
    };
    (0..n).map(|_| next()).collect()
}

#[track_caller]
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
