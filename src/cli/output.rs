//! What goes to standard output.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::Serialize;
use tempfile::NamedTempFile;

use super::error::Error;

/// Prints lines.
///
/// # Errors
/// [`Error::Stdout`], unless nobody reads any more.
pub fn print_lines(lines: &[String]) -> Result<(), Error> {
    print(&(lines.join("\n") + "\n")).map(drop)
}

/// Prints one JSON object, indented.
///
/// # Errors
/// [`Error::Stdout`], unless nobody reads any more.
pub fn print_json(value: &impl Serialize) -> Result<(), Error> {
    print(&(to_json(value) + "\n")).map(drop)
}

/// Writes one JSON object, indented, to a file; `what` says in the error what it is.
///
/// # Errors
/// [`Error::Write`]
pub fn write_json(what: &'static str, path: &Path, value: &impl Serialize) -> Result<(), Error> {
    write(what, path, &(to_json(value) + "\n"))
}

/// Prints one JSON object in one line.
///
/// # Errors
/// [`Error::Stdout`], unless nobody reads any more.
pub fn print_json_line(value: &impl Serialize) -> Result<(), Error> {
    print(&(to_json_line(value) + "\n")).map(drop)
}

/// Writes JSON objects to a file, one per line; `what` says in the error what they are.
///
/// # Errors
/// [`Error::Write`]
pub fn write_json_lines(what: &'static str, path: &Path, values: &[impl Serialize]) -> Result<(), Error> {
    let lines: String = values.iter().map(|value| to_json_line(value) + "\n").collect();
    write(what, path, &lines)
}

/// Writes text to a file; `what` says in the error what it is. A file that was there stays as it was if that fails.
///
/// # Errors
/// [`Error::Write`]
pub fn write(what: &'static str, path: &Path, text: &str) -> Result<(), Error> {
    let written = match whole_or_not_at_all(path) {
        Some(file) => file.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.persist(path)?;
            Ok(())
        }),
        None => fs::write(path, text),
    };
    written.map_err(|source| cannot_write(what, path, source))
}

/// A new file beside `path` that can take its place; `None` where it must not (a device, a pipe, a link), or where the
/// folder takes no other files.
fn whole_or_not_at_all(path: &Path) -> Option<io::Result<NamedTempFile>> {
    let before = fs::symlink_metadata(path).ok();
    if before.as_ref().is_some_and(|before| !before.is_file()) {
        return None;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut new = tempfile::Builder::new();
    if let Some(before) = &before {
        new.permissions(before.permissions());
    } else {
        #[cfg(unix)]
        new.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
    }
    match new.tempfile_in(folder.unwrap_or(Path::new("."))) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
        file => Some(file),
    }
}

/// Fails for a file that cannot be written, which is worth knowing before minutes of work.
///
/// # Errors
/// [`Error::Write`]
pub fn check_writable(what: &'static str, path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Err(cannot_write(what, path, ErrorKind::IsADirectory.into()));
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            let reason = format!("there is no folder {}", folder.display());
            Err(cannot_write(what, path, io::Error::other(reason)))
        }
        _ => Ok(()),
    }
}

fn cannot_write(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Write {
        what,
        path: path.to_owned(),
        source,
    }
}

fn to_json_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("reports have text keys and plain values")
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("reports have text keys and plain values")
}

/// Prints text at once. Returns whether somebody still reads: `visipruner run ... | head` closes the pipe, which is no
/// error but ends the answer.
///
/// # Errors
/// [`Error::Stdout`] for anything else.
pub fn print(text: &str) -> Result<bool, Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::Stdout(error)),
    }
}
