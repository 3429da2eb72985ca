//! Picture files from disk or from standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use visipruner::engine::Image;
use visipruner::picture::{self, MAX_FILE_BYTES};
pub use visipruner::picture::{Background, PictureError};

use super::error::Error;

/// Where a picture comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// Standard input, `-` on the command line.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl From<&Path> for ImageSource {
    fn from(argument: &Path) -> Self {
        if argument.as_os_str() == "-" {
            Self::Stdin
        } else {
            Self::File(argument.to_owned())
        }
    }
}

impl std::fmt::Display for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// The places to read pictures from.
///
/// # Errors
/// [`Error::Usage`] if standard input is among them more than once: it holds one picture.
pub fn sources(arguments: &[PathBuf]) -> Result<Vec<ImageSource>, Error> {
    let sources: Vec<_> = arguments
        .iter()
        .map(|argument| ImageSource::from(argument.as_path()))
        .collect();
    let n_stdin = sources
        .iter()
        .filter(|source| **source == ImageSource::Stdin)
        .count();
    if n_stdin > 1 {
        return Err(Error::Usage(format!(
            "--image - was given {n_stdin} times, but standard input holds one picture: save the others to files"
        )));
    }
    Ok(sources)
}

/// Reads a picture ([`picture::decode`]).
///
/// # Errors
/// Whatever [`PictureError`] lists.
pub fn read(image: &ImageSource, background: Background) -> Result<Image, Error> {
    let bytes = match image {
        ImageSource::Stdin => read_limited(std::io::stdin().lock(), image)?,
        ImageSource::File(path) => read_limited(open(path)?, image)?,
    };
    from_bytes(&bytes, image, background)
}

/// As [`read`], of several pictures.
pub fn read_all(images: &[ImageSource], background: Background) -> Result<Vec<Image>, Error> {
    images.iter().map(|image| read(image, background)).collect()
}

/// As [`read`], of the content of a file.
pub fn from_bytes(bytes: &[u8], image: &ImageSource, background: Background) -> Result<Image, Error> {
    Ok(picture::decode(bytes, &image.to_string(), background)?)
}

fn open(path: &Path) -> Result<std::fs::File, PictureError> {
    let read_error = |source| PictureError::Read {
        image: path.display().to_string(),
        source,
    };
    let file = std::fs::File::open(path).map_err(read_error)?;
    if file.metadata().map_err(read_error)?.is_dir() {
        return Err(read_error(std::io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

fn read_limited(input: impl Read, image: &ImageSource) -> Result<Vec<u8>, PictureError> {
    let mut bytes = Vec::new();
    input
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| PictureError::Read {
            image: image.to_string(),
            source,
        })?;
    Ok(bytes)
}
