//! Pictures of requests: from data URLs, and where the server allows it from files and from the net.

mod fetch;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::api::ApiError;
use super::options::ServerOptions;
use crate::engine::{CancelHandle, Image};
use crate::picture::{self, MAX_FILE_BYTES, PictureError};

/// What the pictures of a request may take decoded, in bytes.
const MAX_DECODED_BYTES: usize = 1 << 30;

/// With or without padding at the end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where a picture comes from.
#[derive(Debug, PartialEq, Eq)]
enum Source<'a> {
    Data(&'a str),
    File(&'a str),
    Net(&'a str),
}

impl<'a> Source<'a> {
    fn of(url: &'a str) -> Result<Self, String> {
        let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("data") => Ok(Self::Data(&url["data:".len()..])),
            Some("file") => Ok(Self::File(url["file:".len()..].trim_start_matches("//"))),
            Some("http" | "https") => Ok(Self::Net(url)),
            _ => Err("a picture comes as a data URL (data:image/png;base64,...)".to_owned()),
        }
    }
}

/// The pictures of some addresses, decoded. Blocks.
///
/// # Errors
/// 400 for an address that is none or is not allowed, 413 and 415 for what is too large or no picture.
pub(crate) fn pictures(
    urls: &[String],
    options: &ServerOptions,
    cancel: &CancelHandle,
) -> Result<Vec<Image>, ApiError> {
    let mut pictures = Vec::with_capacity(urls.len());
    let mut n_bytes = 0;
    for (i, url) in urls.iter().enumerate() {
        if cancel.is_cancelled() {
            return Ok(pictures); // nobody waits for it
        }
        let picture = one(&format!("picture {}", i + 1), url, options)?;
        n_bytes += picture.data().len();
        if n_bytes > MAX_DECODED_BYTES {
            return Err(ApiError::too_large(MAX_DECODED_BYTES));
        }
        pictures.push(picture);
    }
    Ok(pictures)
}

fn one(name: &str, url: &str, options: &ServerOptions) -> Result<Image, ApiError> {
    let refuse = |reason: String| ApiError::field("image_url", format!("{name}: {reason}"));
    let bytes = match Source::of(url).map_err(refuse)? {
        Source::Data(data) => from_data(data).map_err(refuse)?,
        Source::File(path) => match &options.media_folder {
            Some(folder) => from_file(folder, path, name)?,
            None => return Err(refuse("this server reads no files".to_owned())),
        },
        Source::Net(url) if options.fetches_media => fetch::fetch(url).map_err(refuse)?,
        Source::Net(_) => {
            return Err(refuse(
                "this server fetches nothing from the net: send the picture itself, as a data URL".to_owned(),
            ));
        }
    };
    picture::decode(&bytes, name, options.background).map_err(|error| ApiError::no_picture(&error))
}

/// What follows `data:`.
fn from_data(data: &str) -> Result<Vec<u8>, String> {
    let (kind, content) = data.split_once(',').ok_or("the data URL has no comma")?;
    if !kind
        .split(';')
        .any(|word| word.trim().eq_ignore_ascii_case("base64"))
    {
        return Err("the data URL is not base64".to_owned());
    }
    let content: Vec<u8> = content
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    BASE64
        .decode(content)
        .map_err(|error| format!("the data URL is not base64: {error}"))
}

/// A file in a folder or below it, links followed.
fn from_file(folder: &Path, path: &str, name: &str) -> Result<Vec<u8>, ApiError> {
    let unreadable = |source| {
        ApiError::no_picture(&PictureError::Read {
            image: name.to_owned(),
            source,
        })
    };
    let folder = folder.canonicalize().map_err(unreadable)?;
    let file: PathBuf = folder
        .join(path.trim_start_matches('/'))
        .canonicalize()
        .map_err(unreadable)?;
    if !file.starts_with(&folder) {
        return Err(unreadable(std::io::ErrorKind::PermissionDenied.into()));
    }
    let file_type = file.metadata().map_err(unreadable)?;
    if !file_type.is_file() {
        return Err(unreadable(std::io::ErrorKind::InvalidInput.into()));
    }
    if file_type.len() > MAX_FILE_BYTES {
        return Err(ApiError::no_picture(&PictureError::FileTooLarge {
            image: name.to_owned(),
        }));
    }
    std::fs::read(file).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_urls_with_and_without_padding() {
        for url in [
            "image/png;base64,aGk=",
            "image/png;base64,aGk",
            ";base64,aG\nk=",
            "image/png;charset=x;BASE64,aGk=",
        ] {
            assert_eq!(from_data(url).as_deref(), Ok(&b"hi"[..]), "{url}");
        }
        for url in ["", "image/png", "image/png,aGk=", "image/png;base64,a*k="] {
            assert!(from_data(url).is_err(), "{url}");
        }
    }

    #[test]
    fn only_files_below_the_folder_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("in");
        std::fs::create_dir(&inside).expect("a folder");
        std::fs::write(inside.join("a.png"), b"inside").expect("writes");
        std::fs::write(folder.path().join("secret"), b"outside").expect("writes");
        let read = |path: &str| from_file(&inside, path, "picture 1");
        assert_eq!(read("a.png").expect("is there"), b"inside");
        assert_eq!(read("/a.png").expect("is there"), b"inside");
        for path in ["../secret", "/../secret", "b.png", "", "."] {
            assert!(read(path).is_err(), "{path:?}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(folder.path().join("secret"), inside.join("link")).expect("links");
            assert!(read("link").is_err());
        }
    }

    #[test]
    fn addresses_of_every_kind() {
        assert_eq!(Source::of("DATA:x"), Ok(Source::Data("x")));
        assert_eq!(Source::of("file:///a/b"), Ok(Source::File("/a/b")));
        assert_eq!(Source::of("https://a"), Ok(Source::Net("https://a")));
        assert!(Source::of("ftp://a").is_err() && Source::of("aGk=").is_err());
    }
}
