//! Files that are there in full or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::{Error, Plan};

/// A complete file that does not have its name yet. Dropped, it goes away.
pub(super) struct Part {
    part: PathBuf,
    path: PathBuf,
    has_name: bool,
}

impl Part {
    /// Writes a file beside `path`. `progress` hears how many bytes were written, and may stop.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::Io`].
    pub(super) fn write(
        path: PathBuf,
        plan: &Plan,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Part, Error> {
        let part = part_path(&path);
        let write_failed = |source| Error::write(&path, source);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&part)
            .map_err(write_failed)?;
        // from here on the file goes away with this value
        let written = Part {
            part,
            path: path.clone(),
            has_name: false,
        };
        let mut out = Counting {
            out: BufWriter::new(file),
            n_bytes: 0,
            is_stopped: false,
            progress,
        };
        let result = plan.write(&mut out).and_then(|()| out.out.flush());
        match result {
            Ok(()) => Ok(written),
            Err(_) if out.is_stopped => Err(Error::Stopped),
            Err(source) => Err(write_failed(source)),
        }
    }

    /// Gives the file its name. What had it before is replaced.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn name(mut self) -> Result<PathBuf, Error> {
        fs::rename(&self.part, &self.path).map_err(|source| Error::write(&self.path, source))?;
        self.has_name = true;
        Ok(std::mem::take(&mut self.path))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.has_name {
            // whatever keeps it from going away has been reported as the reason for not writing it, or will be
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// In the same folder, so that renaming moves no data; another process writes another file.
fn part_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

/// Counts what goes through it, and lets the listener stop it.
struct Counting<'a> {
    out: BufWriter<File>,
    n_bytes: u64,
    is_stopped: bool,
    progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.n_bytes += n as u64;
        if (self.progress)(self.n_bytes).is_break() {
            self.is_stopped = true;
            return Err(io::Error::other("stopped"));
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
