//! A short fingerprint of bytes: tells files and token sequences apart, protects nothing.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::EvalError;

/// FNV-1a with 64 bits (Fowler, Noll and Vo), the same on every machine and in every version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl fmt::Display for Fnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A fingerprint of a file's bytes: 16 hexadecimal digits. For question files and policies, not for gigabytes.
///
/// # Errors
/// [`EvalError::Io`]
pub fn file_hash(path: &Path) -> Result<String, EvalError> {
    let failed = |source| EvalError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Fnv::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hash.to_string()),
            n => hash.add(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published test vectors of the empty text, "a" and "foobar".
    #[test]
    fn published_vectors() {
        for (text, hash) in [
            ("", "cbf29ce484222325"),
            ("a", "af63dc4c8601ec8c"),
            ("foobar", "85944171f73967e8"),
        ] {
            let mut fnv = Fnv::default();
            fnv.add(text.as_bytes());
            assert_eq!(fnv.to_string(), hash);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(file_hash(file.path()).unwrap(), hash);
        }
        assert!(file_hash(Path::new("no/such/file")).is_err());
    }
}
