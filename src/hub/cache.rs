//! The cache of Python's `huggingface_hub`, as its own documentation lays it out:
//!
//! ```text
//! models--user--repo/
//!     blobs/<etag>                  contents; <etag>.incomplete while they come
//!     snapshots/<commit>/<path>     a link to the content of each file
//!     refs/main                     the commit of the main branch
//! .locks/models--user--repo/<etag>.lock
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::client::Listing;
use super::error::Error;
use crate::part_file::PartFile;

/// The files of one repository.
pub(super) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self {
            locks: cache.join(".locks").join(&name),
            folder: cache.join(name),
        }
    }

    /// Where a content is.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where a content is while it comes.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Where a file of a commit is, or is to be.
    pub fn path(&self, commit: &str, path: &str) -> PathBuf {
        let parts = path.split('/');
        parts.fold(self.folder.join("snapshots").join(commit), |folder, part| {
            folder.join(part)
        })
    }

    /// The file whose holder may write a content.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn open_lock(&self, etag: &str) -> Result<File, Error> {
        for folder in [&self.locks, &self.folder.join("blobs")] {
            create_folder(folder)?;
        }
        let path = self.locks.join(format!("{etag}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        file.map_err(failed("create", &path))
    }

    /// Gives a content the name of a file of a commit.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn link(&self, commit: &str, path: &str, etag: &str) -> Result<(), Error> {
        let link = self.path(commit, path);
        if let Some(folder) = link.parent() {
            create_folder(folder)?;
        }
        if link.is_symlink() && !link.is_file() {
            // it leads nowhere: the content is gone
            done_by_anyone(fs::remove_file(&link), io::ErrorKind::NotFound)
                .map_err(failed("replace", &link))?;
        }
        let up: PathBuf = path.split('/').map(|_| "..").chain([".."]).collect();
        let relative = up.join("blobs").join(etag);
        let blob = self.blob(etag);
        let there = io::ErrorKind::AlreadyExists;
        // the others where links need rights that users do not have
        let linked = done_by_anyone(symlink(&relative, &link), there)
            .or_else(|_| done_by_anyone(fs::hard_link(&blob, &link), there))
            .or_else(|_| copy(&blob, &link));
        linked.map_err(failed("write", &link))
    }

    /// Notes which commit the main branch is at.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn set_main(&self, commit: &str) -> Result<(), Error> {
        let path = self.main();
        if fs::read_to_string(&path).is_ok_and(|noted| noted == commit) {
            return Ok(());
        }
        create_folder(&self.folder.join("refs"))?;
        let part = PartFile::new(path.clone());
        let written = fs::write(part.part(), commit).and_then(|()| part.name());
        written.map(drop).map_err(failed("write", &path))
    }

    /// What is there of the main branch's last known commit.
    pub fn listing(&self) -> Option<Listing> {
        let commit = fs::read_to_string(self.main()).ok()?.trim().to_owned();
        let folder = self.folder.join("snapshots").join(&commit);
        let mut paths = Vec::new();
        add_files(&folder, "", &mut paths).ok()?;
        Some(Listing { commit, paths })
    }

    fn main(&self) -> PathBuf {
        self.folder.join("refs").join("main")
    }
}

/// Whether the lock is ours now.
///
/// # Errors
/// What the operating system says.
pub(super) fn try_lock(lock: &File) -> io::Result<bool> {
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        // file systems without locks: what two write at the same time is found out by its digest
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// [`Error::Io`] of an action.
pub(super) fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn create_folder(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(failed("create", folder))
}

/// Somebody else may have done the same just before.
fn done_by_anyone(done: io::Result<()>, by_others: io::ErrorKind) -> io::Result<()> {
    done.or_else(|error| {
        if error.kind() == by_others {
            Ok(())
        } else {
            Err(error)
        }
    })
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let part = PartFile::new(to.to_owned());
    fs::copy(from, part.part())?;
    part.name().map(drop)
}

/// Every file below a folder whose content is there, with `/` in its path.
fn add_files(folder: &Path, prefix: &str, paths: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = format!("{prefix}{name}");
        // links count as what they lead to
        if entry.path().is_dir() {
            add_files(&entry.path(), &format!("{path}/"), paths)?;
        } else if entry.path().is_file() {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
