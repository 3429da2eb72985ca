//! A file that is about to be written: metadata, tensors, and how the weights of each are distributed.

use std::collections::HashMap;
use std::io::{self, Write};

use super::blocks::{Blocks, Weights};
use crate::gguf::{GgmlType, GgufWriter, PlannedTensor};
use crate::rng::Rng;

/// A model with random weights, not yet written.
#[derive(Debug, Clone)]
pub struct Plan {
    seed: u64,
    writer: GgufWriter,
    weights: HashMap<String, Weights>,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Plan {
        Plan {
            seed,
            writer: GgufWriter::new(),
            weights: HashMap::new(),
        }
    }

    /// The file's metadata.
    pub(super) fn metadata(&mut self) -> &mut GgufWriter {
        &mut self.writer
    }

    pub(super) fn tensor(&mut self, name: impl Into<String>, dims: &[usize], ty: GgmlType, weights: Weights) {
        let name = name.into();
        self.writer.tensor(&name, dims, ty);
        self.weights.insert(name, weights);
    }

    /// A vector of F32.
    pub(super) fn vector(&mut self, name: impl Into<String>, n: usize, mean: f32, std: f32) {
        let weights = Weights {
            mean,
            ..Weights::centred(std)
        };
        self.tensor(name, &[n], GgmlType::F32, weights);
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[PlannedTensor] {
        self.writer.tensors()
    }

    /// Weights.
    pub fn n_params(&self) -> u64 {
        self.tensors()
            .iter()
            .map(|tensor| tensor.n_elements() as u64)
            .sum()
    }

    /// The length of the file in bytes.
    ///
    /// # Errors
    /// As [`GgufWriter::file_bytes`]; never for the shapes of this module.
    pub fn file_bytes(&self) -> io::Result<u64> {
        self.writer.file_bytes()
    }

    /// Writes the file to `out`, a few rows at a time. The same plan always gives the same bytes.
    ///
    /// # Errors
    /// What `out` returns.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        self.writer.write_blocks(out, |tensor| {
            let mut blocks = self.blocks(tensor)?;
            Ok(move |rows: &mut [u8]| blocks.fill(rows))
        })
    }

    fn blocks(&self, tensor: &PlannedTensor) -> io::Result<Blocks> {
        let row_bytes = tensor.row_bytes()?;
        let rng = Rng::named(self.seed, &tensor.name);
        let blocks = self
            .weights
            .get(&tensor.name)
            .and_then(|&weights| Blocks::new(tensor.ty, weights, row_bytes, rng));
        blocks.ok_or_else(|| {
            let (name, ty) = (&tensor.name, tensor.ty.name());
            let message = format!("there are no random weights of type {ty} for tensor '{name}'");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })
    }
}
