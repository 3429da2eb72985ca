//! Values and strings, each compared with what is left of the file before it is read.

use std::fmt;
use std::io::{self, BufRead, Read};

use crate::gguf::error::Problem;
use crate::gguf::value::ARRAY_ID;
use crate::gguf::{Array, Value};

/// Longest string that is believed. Chat templates, the longest strings there are, have some ten thousand
/// bytes.
const MAX_STRING_BYTES: u64 = 1 << 26;
/// Longest array that is believed. Token lists, the longest arrays there are, have some hundred thousand
/// elements.
const MAX_ARRAY_LEN: u64 = 1 << 24;

/// What is being read, for the message if the file ends there.
pub enum Inside {
    Start,
    Key { index: u64, n_keys: u64 },
    Value { key: String },
    Tensor { index: u64, n_tensors: u64 },
    Padding,
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inside::Start => write!(f, "the first 24 bytes"),
            Inside::Key { index, n_keys } => write!(f, "metadata key {} of {n_keys}", index + 1),
            Inside::Value { key } => write!(f, "metadata '{key}'"),
            Inside::Tensor { index, n_tensors } => {
                write!(f, "the description of tensor {} of {n_tensors}", index + 1)
            }
            Inside::Padding => write!(f, "the padding before the tensors"),
        }
    }
}

/// A file, its header being read.
pub struct Reader<R> {
    pub input: R,
    /// Bytes read.
    pub at: u64,
    pub file_bytes: u64,
    pub inside: Inside,
}

impl<R: BufRead> Reader<R> {
    pub fn value(&mut self, type_id: u32) -> Result<Value, Problem> {
        Ok(match type_id {
            0 => Value::U8(u8::from_le_bytes(self.bytes()?)),
            1 => Value::I8(i8::from_le_bytes(self.bytes()?)),
            2 => Value::U16(u16::from_le_bytes(self.bytes()?)),
            3 => Value::I16(i16::from_le_bytes(self.bytes()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.bytes()?)),
            6 => Value::F32(f32::from_le_bytes(self.bytes()?)),
            7 => Value::Bool(u8::from_le_bytes(self.bytes()?) != 0),
            8 => Value::String(self.text()?),
            ARRAY_ID => Value::Array(self.array()?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.bytes()?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes()?)),
            other => {
                return Err(corrupted(format!(
                    "{} has type {other}, 0 to 12 exist",
                    self.inside
                )));
            }
        })
    }

    fn array(&mut self) -> Result<Array, Problem> {
        let type_id = self.u32()?;
        let len = self.u64()?;
        if len > MAX_ARRAY_LEN {
            return Err(corrupted(format!(
                "{} has {len} elements, at most {MAX_ARRAY_LEN} are plausible",
                self.inside
            )));
        }
        Ok(match type_id {
            0 => Array::U8(self.elements(len, |r| Ok(u8::from_le_bytes(r.bytes()?)))?),
            1 => Array::I8(self.elements(len, |r| Ok(i8::from_le_bytes(r.bytes()?)))?),
            2 => Array::U16(self.elements(len, |r| Ok(u16::from_le_bytes(r.bytes()?)))?),
            3 => Array::I16(self.elements(len, |r| Ok(i16::from_le_bytes(r.bytes()?)))?),
            4 => Array::U32(self.elements(len, Self::u32)?),
            5 => Array::I32(self.elements(len, |r| Ok(i32::from_le_bytes(r.bytes()?)))?),
            6 => Array::F32(self.elements(len, |r| Ok(f32::from_le_bytes(r.bytes()?)))?),
            7 => Array::Bool(self.elements(len, |r| Ok(u8::from_le_bytes(r.bytes()?) != 0))?),
            8 => Array::String(self.elements(len, Self::text)?),
            10 => Array::U64(self.elements(len, Self::u64)?),
            11 => Array::I64(self.elements(len, |r| Ok(i64::from_le_bytes(r.bytes()?)))?),
            12 => Array::F64(self.elements(len, |r| Ok(f64::from_le_bytes(r.bytes()?)))?),
            other => {
                return Err(corrupted(format!(
                    "{} is an array of type {other}, arrays of scalars and strings exist",
                    self.inside
                )));
            }
        })
    }

    /// `len` elements. Nothing is reserved for them: a file that is too short ends the loop before the memory
    /// grows.
    pub fn elements<T>(
        &mut self,
        len: u64,
        mut element: impl FnMut(&mut Self) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Problem> {
        (0..len).map(|_| element(self)).collect()
    }

    pub fn u32(&mut self) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub fn u64(&mut self) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// A string that names something, hence must be text.
    pub fn name(&mut self) -> Result<String, Problem> {
        String::from_utf8(self.string_bytes()?)
            .map_err(|_| corrupted(format!("the name in {} is not text", self.inside)))
    }

    /// A string whose bytes are up to the model: tokens need not be UTF-8.
    fn text(&mut self) -> Result<String, Problem> {
        let bytes = self.string_bytes()?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn string_bytes(&mut self) -> Result<Vec<u8>, Problem> {
        let len = self.u64()?;
        if len > MAX_STRING_BYTES {
            return Err(corrupted(format!(
                "{} has a string of {len} bytes, at most {MAX_STRING_BYTES} are plausible",
                self.inside
            )));
        }
        self.require(len)?;
        let mut bytes = Vec::new();
        self.input
            .by_ref()
            .take(len)
            .read_to_end(&mut bytes)
            .map_err(read_failed)?;
        if (bytes.len() as u64) < len {
            return Err(self.truncated());
        }
        self.at += len;
        Ok(bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        self.require(N as u64)?;
        let mut bytes = [0; N];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => {}
            // the file became shorter since its length was asked for
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(self.truncated()),
            Err(e) => return Err(read_failed(e)),
        }
        self.at += N as u64;
        Ok(bytes)
    }

    fn require(&self, n: u64) -> Result<(), Problem> {
        if n > self.file_bytes - self.at {
            Err(self.truncated())
        } else {
            Ok(())
        }
    }

    pub fn truncated(&self) -> Problem {
        Problem::HeaderTruncated {
            file_bytes: self.file_bytes,
            inside: self.inside.to_string(),
        }
    }
}

pub fn read_failed(source: io::Error) -> Problem {
    Problem::Io {
        action: "read",
        source,
    }
}

pub fn corrupted(what: String) -> Problem {
    Problem::Corrupted { what }
}
