//! Reads and writes GGUF files, in pure Rust.
//!
//! [`Gguf::open`] reads a header and checks it against the length of the file before llama.cpp sees it:
//! whatever is wrong gets one line that says so. [`LlmShape`] and [`ProjectorShape`] are what the rest of the
//! crate needs to know of a language model and of an image projector. [`GgufWriter`] writes models with
//! random weights.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
#![forbid(unsafe_code)]

mod encode;
mod encoders;
mod error;
mod file_type;
mod ggml_type;
mod language;
mod llava;
mod read;
mod shape;
mod sniff;
mod tensors;
mod value;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub use encode::{bf16_bits_to_f32, decode, encode, f16_bits_to_f32, f32_to_bf16_bits, f32_to_f16_bits};
pub use error::{GgufError, Problem};
pub use file_type::{FileType, file_type_name};
pub use ggml_type::GgmlType;
#[cfg(feature = "native")]
pub(crate) use shape::within;
pub use shape::{LlmShape, ProjectorShape, Split, check_pair, later_parts, open_llm, open_projector};
pub use value::{Array, Value};
pub use write::{GgufWriter, PlannedTensor};

/// A tensor in a GGUF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its dimensions in ggml's order: `dims[0]` is the length of a row.
    pub dims: Vec<u64>,
    /// The type of its elements.
    pub ty: GgmlType,
    /// Where its data begins, in bytes from the start of the file.
    pub file_offset: u64,
    /// The length of its data in bytes.
    pub n_bytes: u64,
}

impl TensorInfo {
    /// The number of elements.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product()
    }

    fn is_vector(&self) -> bool {
        self.dims.iter().skip(1).all(|&n| n == 1)
    }
}

/// The header of a GGUF: its metadata and what tensors it holds.
///
/// A value of this type was checked in full: every tensor is of a known type and lies inside the file.
#[derive(Debug, Clone)]
pub struct Gguf {
    path: PathBuf,
    file_bytes: u64,
    version: u32,
    alignment: u64,
    data_offset: u64,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Gguf {
    /// Reads and checks the header of the file at `path`.
    ///
    /// # Errors
    /// A [`GgufError`] that says what is wrong with the file and what to do: see [`Problem`].
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        let path = path.as_ref();
        let failed = |problem| GgufError {
            path: path.to_owned(),
            problem,
        };
        // Asked before opening, which would wait for the other end of a pipe.
        let kind = fs::metadata(path).map_err(|e| failed(open_failed(e)))?;
        if !kind.is_file() {
            let kind = if kind.is_dir() {
                "a folder"
            } else {
                "a device or a pipe"
            };
            return Err(failed(Problem::NotFile { kind }));
        }
        let file = File::open(path).map_err(|e| failed(open_failed(e)))?;
        let file_bytes = file.metadata().map_err(|e| failed(open_failed(e)))?.len();
        Gguf::parse(path, BufReader::new(file), file_bytes)
    }

    /// Reads and checks the header of a GGUF of `file_bytes` bytes from its start. `path` is only for
    /// messages and for [`read_tensor`](Self::read_tensor).
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn parse(path: impl Into<PathBuf>, input: impl BufRead, file_bytes: u64) -> Result<Gguf, GgufError> {
        let path = path.into();
        let header = match read::parse(input, file_bytes) {
            Ok(header) => header,
            Err(problem) => return Err(GgufError { path, problem }),
        };
        let by_name = header
            .tensors
            .iter()
            .enumerate()
            .map(|(i, t)| (t.name.clone(), i))
            .collect();
        Ok(Gguf {
            path,
            file_bytes,
            version: header.version,
            alignment: header.alignment,
            data_offset: header.data_offset,
            metadata: header.metadata,
            tensors: header.tensors,
            by_name,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensor data in bytes, a power of two.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Where the data of the first tensor begins, in bytes from the start of the file.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// The metadata.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor named `name`, or `None`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The metadata value of `key`, or `None`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// An unsigned integer of any width.
    ///
    /// # Errors
    /// [`Problem::MissingKey`], [`Problem::WrongType`], or [`Problem::OutOfRange`] where it does not fit 32
    /// bits.
    pub fn u32(&self, key: &str) -> Result<u32, GgufError> {
        self.required(key, self.opt_u32(key)?)
    }

    /// As [`u32`](Self::u32), `None` where there is no such key.
    ///
    /// # Errors
    /// [`Problem::WrongType`] or [`Problem::OutOfRange`].
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "an unsigned integer", |value| {
            match value.as_integer()?.try_into() {
                Ok(n) => Some(Ok(n)),
                Err(_) => Some(Err("0 to 4294967295")),
            }
        })
    }

    /// A floating-point number of either width.
    ///
    /// # Errors
    /// [`Problem::MissingKey`] or [`Problem::WrongType`].
    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        self.required(key, self.opt_f32(key)?)
    }

    /// As [`f32`](Self::f32), `None` where there is no such key.
    ///
    /// # Errors
    /// [`Problem::WrongType`].
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a floating-point number", |value| {
            Some(Ok(value.as_float()? as f32))
        })
    }

    /// A truth value, `None` where there is no such key.
    ///
    /// # Errors
    /// [`Problem::WrongType`].
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a truth value", |value| match value {
            Value::Bool(b) => Some(Ok(*b)),
            _ => None,
        })
    }

    /// A string.
    ///
    /// # Errors
    /// [`Problem::MissingKey`] or [`Problem::WrongType`].
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        self.required(key, self.opt_str(key)?)
    }

    /// As [`str`](Self::str), `None` where there is no such key.
    ///
    /// # Errors
    /// [`Problem::WrongType`].
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(s) => Some(Ok(s.as_str())),
            _ => None,
        })
    }

    /// An array, `None` where there is no such key.
    ///
    /// # Errors
    /// [`Problem::WrongType`].
    pub fn opt_array(&self, key: &str) -> Result<Option<&Array>, GgufError> {
        self.typed(key, "an array", |value| match value {
            Value::Array(a) => Some(Ok(a)),
            _ => None,
        })
    }

    /// The data of the tensor named `name`, as it is stored.
    ///
    /// # Errors
    /// [`Problem::MissingTensor`], or [`Problem::Io`] where the file cannot be read (any more).
    pub fn read_tensor(&self, name: &str) -> Result<Vec<u8>, GgufError> {
        let info = self.required_tensor(name)?;
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(info.file_offset))?;
            let mut bytes = Vec::new();
            file.take(info.n_bytes).read_to_end(&mut bytes)?;
            if (bytes.len() as u64) < info.n_bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(bytes)
        };
        read().map_err(|source| {
            self.error(Problem::Io {
                action: "read",
                source,
            })
        })
    }

    /// The elements of the tensor named `name`, rows one behind the other.
    ///
    /// # Errors
    /// As [`read_tensor`](Self::read_tensor), and [`Problem::Undecodable`] for types other than F32, F16,
    /// BF16 and Q8_0.
    pub fn read_tensor_f32(&self, name: &str) -> Result<Vec<f32>, GgufError> {
        let ty = self.required_tensor(name)?.ty;
        decode(ty, &self.read_tensor(name)?).ok_or_else(|| {
            self.error(Problem::Undecodable {
                tensor: name.to_owned(),
                found: ty.name(),
            })
        })
    }

    /// An error about this file.
    pub(crate) fn error(&self, problem: Problem) -> GgufError {
        GgufError {
            path: self.path.clone(),
            problem,
        }
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| self.error(Problem::MissingKey { key: key.to_owned() }))
    }

    fn required_tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.tensor(name).ok_or_else(|| {
            self.error(Problem::MissingTensor {
                tensor: name.to_owned(),
            })
        })
    }

    /// The value of `key` as `convert` reads it: `None` is another type, `Err` a value outside the range it
    /// names.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<Result<T, &'static str>>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(Ok(converted)) => Ok(Some(converted)),
            Some(Err(range)) => Err(self.error(Problem::OutOfRange {
                key: key.to_owned(),
                found: format!("{value:?}"),
                expected: range.to_owned(),
            })),
            None => Err(self.error(Problem::WrongType {
                key: key.to_owned(),
                found: format!("of type {}", value.type_name()),
                expected,
            })),
        }
    }
}

fn open_failed(source: io::Error) -> Problem {
    match source.kind() {
        io::ErrorKind::NotFound => Problem::NotFound,
        _ => Problem::Io {
            action: "open",
            source,
        },
    }
}

#[cfg(test)]
mod tests;
