//! Files that are there in full or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::{Error, Plan};
use crate::part_file::PartFile;

/// A complete file that does not have its name yet. Dropped, it goes away.
pub(super) struct Part(PartFile);

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
        let written = PartFile::new(path);
        let write_failed = |source| Error::write(written.path(), source);
        let file = File::create(written.part()).map_err(write_failed)?;
        let mut out = Counting {
            out: BufWriter::new(file),
            n_bytes: 0,
            is_stopped: false,
            progress,
        };
        let result = plan.write(&mut out).and_then(|()| out.out.flush());
        match result {
            Ok(()) => Ok(Part(written)),
            Err(_) if out.is_stopped => Err(Error::Stopped),
            Err(source) => Err(write_failed(source)),
        }
    }

    /// Gives the file its name. What had it before is replaced.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn name(self) -> Result<PathBuf, Error> {
        let path = self.0.path().to_owned();
        self.0.name().map_err(|source| Error::write(&path, source))
    }
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
