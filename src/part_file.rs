//! Files that are there in full or not at all.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that does not have its name yet. Dropped, it goes away.
#[derive(Debug)]
pub(crate) struct PartFile {
    part: PathBuf,
    path: PathBuf,
    has_name: bool,
}

impl PartFile {
    /// For a file that is to be called `path`. In the same folder, so that renaming moves no data; another process or
    /// thread writes another file.
    pub(crate) fn new(path: PathBuf) -> PartFile {
        static N_BEGUN: AtomicU32 = AtomicU32::new(0);
        let no = N_BEGUN.fetch_add(1, Ordering::Relaxed);
        let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
        name.push(format!(".{}-{no}.part", std::process::id()));
        PartFile {
            part: path.with_file_name(name),
            path,
            has_name: false,
        }
    }

    /// Where it is written.
    pub(crate) fn part(&self) -> &Path {
        &self.part
    }

    /// What it is to be called.
    #[cfg(feature = "lab")]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name. What had it before is replaced.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn name(mut self) -> io::Result<PathBuf> {
        fs::rename(&self.part, &self.path)?;
        self.has_name = true;
        Ok(std::mem::take(&mut self.path))
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.has_name {
            // whatever keeps it from going away has been reported as the reason for not writing it, or will be
            let _ = fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_in_full_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.gguf");
        fs::write(&path, "before").expect("writes");
        let names = || fs::read_dir(folder.path()).expect("a folder").count();

        let dropped = PartFile::new(path.clone());
        fs::write(dropped.part(), "half").expect("writes");
        assert_eq!(names(), 2);
        drop(dropped);
        assert_eq!(
            (names(), fs::read(&path).expect("reads")),
            (1, b"before".to_vec())
        );

        let whole = PartFile::new(path.clone());
        fs::write(whole.part(), "after").expect("writes");
        assert_eq!(whole.name().expect("has its name"), path);
        assert_eq!((names(), fs::read(&path).expect("reads")), (1, b"after".to_vec()));
    }
}
