//! Writes GGUF files (version 3).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{Array, GgmlType, GgufError, Problem, Value, encode};

/// Rows are asked for in pieces of about this many bytes, which stay in a core's cache.
const CHUNK_BYTES: u64 = 1 << 18;

/// Writes a GGUF: metadata, then tensors, whose elements are asked for one tensor at a time.
///
/// ```
/// use visipruner::gguf::{Gguf, GgmlType, GgufWriter};
///
/// let mut writer = GgufWriter::new();
/// writer.set("general.architecture", "llama");
/// writer.tensor("output_norm.weight", &[4], GgmlType::F32);
/// let mut bytes = Vec::new();
/// writer.write(&mut bytes, |tensor| vec![1.0; tensor.n_elements()])?;
/// let gguf = Gguf::parse("memory", bytes.as_slice(), bytes.len() as u64)?;
/// assert_eq!(gguf.str("general.architecture")?, "llama");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<PlannedTensor>,
    alignment: usize,
}

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions in ggml's order: `dims[0]` is the length of a row.
    pub dims: Vec<usize>,
    /// The type it is stored as.
    pub ty: GgmlType,
}

impl PlannedTensor {
    /// The number of elements.
    pub fn n_elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// The length of its data in bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] where its rows are not whole blocks of its type.
    pub fn n_bytes(&self) -> io::Result<u64> {
        self.bytes_of(self.n_elements())
    }

    /// The length of one of its rows in bytes.
    ///
    /// # Errors
    /// As [`n_bytes`](Self::n_bytes).
    pub fn row_bytes(&self) -> io::Result<u64> {
        self.bytes_of(self.row_len())
    }

    fn row_len(&self) -> usize {
        self.dims.first().copied().unwrap_or(1)
    }

    fn bytes_of(&self, n_elements: usize) -> io::Result<u64> {
        self.ty
            .tensor_bytes(self.row_len() as u64, n_elements as u64)
            .ok_or_else(|| self.unsuitable())
    }

    fn unsuitable(&self) -> io::Error {
        let PlannedTensor { name, dims, ty } = self;
        let message = format!(
            "tensor '{name}' of shape {dims:?} cannot be stored as {}",
            ty.name()
        );
        io::Error::new(io::ErrorKind::InvalidInput, message)
    }
}

impl Default for GgufWriter {
    fn default() -> Self {
        GgufWriter::new()
    }
}

impl GgufWriter {
    /// A file without metadata and tensors, with tensor data at multiples of 32 bytes.
    pub fn new() -> GgufWriter {
        GgufWriter {
            metadata: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }

    /// Sets a metadata value. The last value of a key counts.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        match self.metadata.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key, value)),
        }
        self
    }

    /// Aligns tensor data to multiples of `alignment` bytes, a power of two.
    pub fn align(&mut self, alignment: u32) -> &mut Self {
        self.alignment = alignment as usize;
        self.set("general.alignment", alignment)
    }

    /// Adds a tensor. `dims[0]` is the length of a row.
    pub fn tensor(&mut self, name: impl Into<String>, dims: &[usize], ty: GgmlType) -> &mut Self {
        self.tensors.push(PlannedTensor {
            name: name.into(),
            dims: dims.to_vec(),
            ty,
        });
        self
    }

    /// The tensors added so far.
    pub fn tensors(&self) -> &[PlannedTensor] {
        &self.tensors
    }

    /// Writes the file at `path`. `elements` returns the elements of a tensor, rows one behind the other.
    ///
    /// # Errors
    /// [`Problem::Io`] where the file cannot be written, or `elements` returned too few or too many, or a
    /// tensor's type is not F32, F16, BF16 or Q8_0, or its rows are not whole blocks of it.
    pub fn write_file(
        &self,
        path: impl AsRef<Path>,
        elements: impl FnMut(&PlannedTensor) -> Vec<f32>,
    ) -> Result<(), GgufError> {
        let write = || {
            let mut out = BufWriter::new(File::create(&path)?);
            self.write(&mut out, elements)?;
            out.flush()
        };
        write().map_err(|source| GgufError {
            path: path.as_ref().to_owned(),
            problem: Problem::Io {
                action: "write",
                source,
            },
        })
    }

    /// Writes the file to `out`, as [`write_file`](Self::write_file).
    ///
    /// # Errors
    /// What `out` returns, or [`io::ErrorKind::InvalidInput`] as described at
    /// [`write_file`](Self::write_file).
    pub fn write(
        &self,
        out: impl Write,
        mut elements: impl FnMut(&PlannedTensor) -> Vec<f32>,
    ) -> io::Result<()> {
        self.write_each(out, |tensor, out| {
            let values = elements(tensor);
            let bytes = encode(tensor.ty, &values)
                .filter(|_| values.len() == tensor.n_elements())
                .ok_or_else(|| tensor.unsuitable())?;
            out.write_all(&bytes)
        })
    }

    /// Writes the file to `out` from tensors in their stored form, of any type, without ever holding a tensor: for each
    /// one `source` returns what fills its bytes, a few whole rows at a time, first to last.
    ///
    /// ```
    /// use visipruner::gguf::{Gguf, GgmlType, GgufWriter};
    ///
    /// let mut writer = GgufWriter::new();
    /// writer.tensor("output.weight", &[256, 8], GgmlType::Q4_K);
    /// let mut bytes = Vec::new();
    /// writer.write_blocks(&mut bytes, |_| Ok(|rows: &mut [u8]| rows.fill(0)))?;
    /// let gguf = Gguf::parse("memory", bytes.as_slice(), bytes.len() as u64)?;
    /// assert_eq!(gguf.tensors()[0].n_bytes, 8 * 144);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What `out` or `source` returns, or [`io::ErrorKind::InvalidInput`] where rows are not whole blocks of their
    /// tensor's type.
    pub fn write_blocks<F: FnMut(&mut [u8])>(
        &self,
        out: impl Write,
        mut source: impl FnMut(&PlannedTensor) -> io::Result<F>,
    ) -> io::Result<()> {
        let mut buffer = Vec::new();
        self.write_each(out, |tensor, out| {
            let mut fill = source(tensor)?;
            let mut n_left = tensor.n_bytes()?;
            let row_bytes = tensor.row_bytes()?.max(1);
            let chunk_bytes = (CHUNK_BYTES / row_bytes).max(1) * row_bytes;
            while n_left > 0 {
                let n_bytes = chunk_bytes.min(n_left);
                buffer.resize(n_bytes as usize, 0);
                fill(&mut buffer);
                out.write_all(&buffer)?;
                n_left -= n_bytes;
            }
            Ok(())
        })
    }

    /// The length of the file in bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] where rows are not whole blocks of their tensor's type.
    pub fn file_bytes(&self) -> io::Result<u64> {
        let header = self.padded(self.header()?.len() as u64);
        self.tensors
            .iter()
            .try_fold(header, |n, tensor| Ok(n + self.padded(tensor.n_bytes()?)))
    }

    /// Writes header, tensors and the padding behind each. `write` writes one tensor's data.
    fn write_each<W: Write>(
        &self,
        mut out: W,
        mut write: impl FnMut(&PlannedTensor, &mut W) -> io::Result<()>,
    ) -> io::Result<()> {
        let header = self.header()?;
        out.write_all(&header)?;
        out.write_all(&self.padding(header.len() as u64))?;
        for tensor in &self.tensors {
            write(tensor, &mut out)?;
            out.write_all(&self.padding(tensor.n_bytes()?))?;
        }
        Ok(())
    }

    fn padded(&self, n_bytes: u64) -> u64 {
        n_bytes.next_multiple_of(self.alignment as u64)
    }

    fn padding(&self, n_bytes: u64) -> Vec<u8> {
        vec![0; (self.padded(n_bytes) - n_bytes) as usize]
    }

    fn header(&self) -> io::Result<Vec<u8>> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut header, key);
            header.extend(value.type_id().to_le_bytes());
            put_value(&mut header, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_string(&mut header, &tensor.name);
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            header.extend(tensor.dims.iter().flat_map(|&dim| (dim as u64).to_le_bytes()));
            header.extend(tensor.ty.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += self.padded(tensor.n_bytes()?);
        }
        Ok(header)
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Array(v) => put_array(out, v),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.type_id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(e) => out.extend(e),
        Array::I8(e) => out.extend(e.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(e) => out.extend(e.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(e) => out.extend(e.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(e) => out.extend(e.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(e) => out.extend(e.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(e) => out.extend(e.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(e) => out.extend(e.iter().map(|&v| u8::from(v))),
        Array::String(e) => e.iter().for_each(|v| put_string(out, v)),
        Array::U64(e) => out.extend(e.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(e) => out.extend(e.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(e) => out.extend(e.iter().flat_map(|v| v.to_le_bytes())),
    }
}
