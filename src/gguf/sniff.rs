//! Says in words what a file is that is not a GGUF.

use super::Problem;

/// How many bytes from the start of a file are looked at.
pub(super) const HEAD_BYTES: usize = 64;

const CONVERT: &str = "convert the model with llama.cpp's convert_hf_to_gguf.py";
const DOWNLOAD: &str = "download the model's .gguf file itself";
const UNPACK: &str = "unpack it first";

/// First bytes of pictures, and what they are the first bytes of.
const PICTURES: &[(&[u8], &str)] = &[
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a WebP image or another RIFF file"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
];

/// First bytes, what they are the first bytes of, and what to do.
const MAGICS: &[(&[u8], &str, &str)] = &[
    (b"PK\x03\x04", "a ZIP archive or a PyTorch checkpoint", CONVERT),
    (b"\x80\x02", "a Python pickle", CONVERT),
    (b"lmgg", "a GGML file, the predecessor of GGUF", CONVERT),
    (b"fmgg", "a GGMF file, a predecessor of GGUF", CONVERT),
    (b"tjgg", "a GGJT file, a predecessor of GGUF", CONVERT),
    (b"algg", "a GGLA adapter, a predecessor of GGUF", CONVERT),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"%PDF", "a PDF document", DOWNLOAD),
    (b"\x7fELF", "a program", DOWNLOAD),
    (
        b"version https://git-lfs",
        "a Git LFS pointer to the model",
        "fetch it with `git lfs pull`",
    ),
    (b"<!DOCTYPE", "a web page", DOWNLOAD),
    (b"<!doctype", "a web page", DOWNLOAD),
    (b"<html", "a web page", DOWNLOAD),
];

/// What is wrong with a file that begins with `head`.
pub(super) fn problem(head: &[u8]) -> Problem {
    let picture = PICTURES.iter().find(|(magic, _)| head.starts_with(magic));
    if let Some(&(_, found)) = picture {
        return Problem::IsPicture { found };
    }
    let (found, advice) = what_is(head);
    Problem::NotGguf { found, advice }
}

/// What a file that begins with `head` is, and what to do about it.
fn what_is(head: &[u8]) -> (&'static str, &'static str) {
    for (magic, found, advice) in MAGICS {
        if head.starts_with(magic) {
            return (found, advice);
        }
    }
    if is_safetensors(head) {
        return ("a safetensors file", CONVERT);
    }
    if head.iter().all(|&byte| byte == 0) {
        return ("a file of zeros", "download it again");
    }
    if is_text(head) {
        return ("a text file", DOWNLOAD);
    }
    ("data of an unknown kind", DOWNLOAD)
}

/// A length below 2^32 in 8 bytes, then JSON.
fn is_safetensors(head: &[u8]) -> bool {
    head.len() > 8 && head[4..8] == [0; 4] && head[8] == b'{'
}

fn is_text(head: &[u8]) -> bool {
    // the head may end inside a character
    let valid = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(e) => e.error_len().is_none(),
    };
    valid
        && !head
            .iter()
            .any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace())
}
