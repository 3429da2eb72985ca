//! Reads the header of a GGUF and checks it against the length of the file.
//!
//! Every length in the header is compared with what is left of the file before anything is read or allocated,
//! so that a truncated, corrupted or hostile file gets an error and nothing else. What llama.cpp would refuse
//! is refused here, with a reason (`gguf.cpp: gguf_init_from_reader` of llama-cpp-sys-2 0.1.161).

mod reader;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Read};

use super::error::Problem;
use super::{GgmlType, TensorInfo, Value, sniff};
use reader::{Inside, Reader, corrupted, read_failed};

/// The header of a GGUF, as parsed.
pub(super) struct Header {
    pub version: u32,
    pub alignment: u64,
    pub data_offset: u64,
    pub metadata: BTreeMap<String, Value>,
    pub tensors: Vec<TensorInfo>,
}

const DEFAULT_ALIGNMENT: u32 = 32;
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 20;
/// `ggml.h: GGML_MAX_NAME`, which counts the terminating zero.
const MAX_TENSOR_NAME_BYTES: usize = 63;
/// `ggml.h: GGML_MAX_DIMS`
const MAX_DIMS: u32 = 4;

/// Parses a header from the start of a file of `file_bytes` bytes.
pub(super) fn parse(input: impl BufRead, file_bytes: u64) -> Result<Header, Problem> {
    let mut reader = Reader {
        input,
        at: 0,
        file_bytes,
        inside: Inside::Start,
    };
    let version = reader.preamble()?;
    let n_tensors = reader.count("tensors", MAX_TENSORS)?;
    let n_keys = reader.count("metadata keys", MAX_KEYS)?;
    let metadata = reader.metadata(n_keys)?;
    let alignment = alignment(&metadata)?;
    let infos = reader.tensor_infos(n_tensors)?;
    let data_offset = reader.at.next_multiple_of(alignment);
    if n_tensors > 0 && data_offset > file_bytes {
        reader.inside = Inside::Padding;
        return Err(reader.truncated());
    }
    let tensors = place(infos, alignment, data_offset, file_bytes)?;
    Ok(Header {
        version,
        alignment,
        data_offset,
        metadata,
        tensors,
    })
}

/// A tensor as the header describes it, its place in the file not yet checked.
struct RawInfo {
    name: String,
    dims: Vec<u64>,
    ty: GgmlType,
    n_bytes: u64,
    offset: u64,
}

impl<R: BufRead> Reader<R> {
    /// Checks magic and version, returns the version.
    fn preamble(&mut self) -> Result<u32, Problem> {
        if self.file_bytes == 0 {
            return Err(Problem::Empty);
        }
        let mut magic = Vec::new();
        self.input
            .by_ref()
            .take(4)
            .read_to_end(&mut magic)
            .map_err(read_failed)?;
        self.at = magic.len() as u64;
        if magic != b"GGUF" {
            return Err(self.not_gguf(magic)?);
        }
        match self.u32()? {
            version @ (2 | 3) => Ok(version),
            version if version != 0 && version & 0xffff == 0 => Err(Problem::BigEndian),
            version if version < 2 => Err(Problem::Version {
                version,
                advice: "a newer",
            }),
            version => Err(Problem::Version {
                version,
                advice: "an older",
            }),
        }
    }

    fn not_gguf(&mut self, mut head: Vec<u8>) -> Result<Problem, Problem> {
        if b"GGUF".starts_with(&head) {
            return Ok(self.truncated());
        }
        let rest = self.input.fill_buf().map_err(read_failed)?;
        head.extend_from_slice(&rest[..rest.len().min(sniff::HEAD_BYTES)]);
        Ok(sniff::problem(&head))
    }

    /// A count of things, of which at most `limit` are believed.
    fn count(&mut self, things: &str, limit: u64) -> Result<u64, Problem> {
        match self.u64()? {
            n if n <= limit => Ok(n),
            n => Err(corrupted(format!(
                "the header counts {n} {things}, at most {limit} are plausible"
            ))),
        }
    }

    fn metadata(&mut self, n_keys: u64) -> Result<BTreeMap<String, Value>, Problem> {
        let mut metadata = BTreeMap::new();
        for index in 0..n_keys {
            self.inside = Inside::Key { index, n_keys };
            let key = self.name()?;
            if key.is_empty() {
                return Err(corrupted(format!(
                    "metadata key {} of {n_keys} is empty",
                    index + 1
                )));
            }
            self.inside = Inside::Value { key: key.clone() };
            let type_id = self.u32()?;
            let value = self.value(type_id)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(corrupted(format!("metadata '{key}' occurs twice")));
            }
        }
        Ok(metadata)
    }

    fn tensor_infos(&mut self, n_tensors: u64) -> Result<Vec<RawInfo>, Problem> {
        let mut seen = HashMap::new();
        let mut infos = Vec::new();
        for index in 0..n_tensors {
            self.inside = Inside::Tensor { index, n_tensors };
            let info = self.tensor_info()?;
            if let Some(first) = seen.insert(info.name.clone(), index) {
                return Err(corrupted(format!(
                    "tensors {} and {} are both named '{}'",
                    first + 1,
                    index + 1,
                    info.name
                )));
            }
            infos.push(info);
        }
        Ok(infos)
    }

    fn tensor_info(&mut self) -> Result<RawInfo, Problem> {
        let name = self.name()?;
        if name.len() > MAX_TENSOR_NAME_BYTES {
            return Err(corrupted(format!(
                "tensor '{name}' has a name of {} bytes, at most {MAX_TENSOR_NAME_BYTES} are allowed",
                name.len()
            )));
        }
        let n_dims = self.u32()?;
        if n_dims > MAX_DIMS {
            return Err(corrupted(format!(
                "tensor '{name}' has {n_dims} dimensions, at most {MAX_DIMS} are allowed"
            )));
        }
        let dims = self.elements(n_dims.into(), Self::u64)?;
        let type_id = self.u32()?;
        let offset = self.u64()?;
        let Some(ty) = GgmlType::from_id(type_id) else {
            return Err(Problem::UnknownTensorType {
                tensor: name,
                id: type_id,
            });
        };
        let n_bytes = tensor_bytes(&name, &dims, ty)?;
        Ok(RawInfo {
            name,
            dims,
            ty,
            n_bytes,
            offset,
        })
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, Problem> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT.into()),
        Some(Value::U32(n)) if n.is_power_of_two() => Ok((*n).into()),
        Some(Value::U32(n)) => Err(corrupted(format!("the alignment is {n}, not a power of two"))),
        Some(other) => Err(corrupted(format!(
            "the alignment is of type {}, not uint32",
            other.type_name()
        ))),
    }
}

fn tensor_bytes(name: &str, dims: &[u64], ty: GgmlType) -> Result<u64, Problem> {
    let n_elements = dims
        .iter()
        .try_fold(1u64, |n, &dim| n.checked_mul(dim))
        .filter(|_| dims.iter().all(|&dim| i64::try_from(dim).is_ok()))
        .ok_or_else(|| {
            corrupted(format!(
                "tensor '{name}' has the shape {dims:?}, which is too large to exist"
            ))
        })?;
    let row_len = dims.first().copied().unwrap_or(1);
    ty.tensor_bytes(row_len, n_elements).ok_or_else(|| {
        corrupted(format!(
            "tensor '{name}' has the shape {dims:?}, which {} (blocks of {} elements) cannot store",
            ty.name(),
            ty.block_len()
        ))
    })
}

/// Checks that the tensors lie one behind the other, as llama.cpp demands, and inside the file.
fn place(
    infos: Vec<RawInfo>,
    alignment: u64,
    data_offset: u64,
    file_bytes: u64,
) -> Result<Vec<TensorInfo>, Problem> {
    let mut expected = 0u64;
    let mut tensors = Vec::with_capacity(infos.len());
    for info in infos {
        if info.offset != expected {
            return Err(corrupted(format!(
                "tensor '{}' has offset {}, expected {expected}",
                info.name, info.offset
            )));
        }
        let too_large = || corrupted(format!("tensor '{}' ends beyond 2^64 bytes", info.name));
        let end = data_offset
            .checked_add(info.offset)
            .and_then(|begin| begin.checked_add(info.n_bytes))
            .ok_or_else(too_large)?;
        if end > file_bytes {
            return Err(Problem::TensorTruncated {
                tensor: info.name,
                end,
                file_bytes,
            });
        }
        // cannot overflow: `end` is inside the file and the alignment below 2^32
        expected += info.n_bytes.next_multiple_of(alignment);
        tensors.push(TensorInfo {
            name: info.name,
            dims: info.dims,
            ty: info.ty,
            file_offset: data_offset + info.offset,
            n_bytes: info.n_bytes,
        });
    }
    Ok(tensors)
}
