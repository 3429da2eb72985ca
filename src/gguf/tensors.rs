//! Whether tensors are there, and have the shapes and types that a graph takes for granted.

use super::{GgmlType, Gguf, GgufError, Problem, TensorInfo};

/// The tensors of a file, and what a graph asks of them.
pub(super) struct Tensors<'a> {
    pub(super) gguf: &'a Gguf,
}

impl Tensors<'_> {
    pub(super) fn need(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        let missing = || {
            self.gguf.error(Problem::MissingTensor {
                tensor: name.to_owned(),
            })
        };
        self.gguf.tensor(name).ok_or_else(missing)
    }

    pub(super) fn wrong_shape(&self, tensor: &TensorInfo, expected: &[u64]) -> GgufError {
        self.gguf.error(Problem::TensorShape {
            tensor: tensor.name.clone(),
            found: dims(&tensor.dims),
            expected: dims(expected),
        })
    }

    /// Trailing dimensions of 1 don't count.
    pub(super) fn has_shape(&self, tensor: &TensorInfo, expected: &[u64]) -> Result<(), GgufError> {
        let n = tensor.dims.len().max(expected.len());
        let same = (0..n).all(|i| tensor.dims.get(i).unwrap_or(&1) == expected.get(i).unwrap_or(&1));
        if same {
            Ok(())
        } else {
            Err(self.wrong_shape(tensor, expected))
        }
    }

    pub(super) fn has_type(&self, tensor: &TensorInfo, expected: &[GgmlType]) -> Result<(), GgufError> {
        if expected.contains(&tensor.ty) {
            return Ok(());
        }
        let names: Vec<_> = expected.iter().map(|ty| ty.name()).collect();
        Err(self.gguf.error(Problem::TensorType {
            tensor: tensor.name.clone(),
            found: tensor.ty.name(),
            expected: names.join(" or "),
        }))
    }

    pub(super) fn has_width(&self, name: &str, width: u64, expected: u64) -> Result<(), GgufError> {
        if width == expected {
            return Ok(());
        }
        let tensor = self.need(name)?;
        Err(self.wrong_shape(tensor, &[tensor.dims[0], expected]))
    }

    /// What is added or multiplied element by element has to be F32.
    pub(super) fn vector(&self, name: &str, len: u64) -> Result<(), GgufError> {
        let tensor = self.need(name)?;
        self.has_shape(tensor, &[len])?;
        self.has_type(tensor, &[GgmlType::F32])
    }

    pub(super) fn vector_if_any(&self, name: &str, len: u64) -> Result<(), GgufError> {
        if self.gguf.tensor(name).is_some() {
            self.vector(name, len)
        } else {
            Ok(())
        }
    }

    pub(super) fn norm(&self, name: &str, len: u64) -> Result<(), GgufError> {
        self.vector(&format!("{name}.weight"), len)?;
        self.vector(&format!("{name}.bias"), len)
    }

    pub(super) fn norm_if_any(&self, name: &str, len: u64) -> Result<(), GgufError> {
        self.vector_if_any(&format!("{name}.weight"), len)?;
        self.vector_if_any(&format!("{name}.bias"), len)
    }

    /// A matrix from `n_in` to `n_out` (to any, if `None`) with or without a bias; returns what it maps to.
    pub(super) fn linear(&self, name: &str, n_in: u64, n_out: Option<u64>) -> Result<u64, GgufError> {
        let weight = self.need(&format!("{name}.weight"))?;
        let n_out = n_out.unwrap_or_else(|| weight.dims.get(1).copied().unwrap_or(1));
        self.has_shape(weight, &[n_in, n_out])?;
        self.vector_if_any(&format!("{name}.bias"), n_out)?;
        Ok(n_out)
    }

    pub(super) fn biased_linear(&self, name: &str, n_in: u64) -> Result<u64, GgufError> {
        self.need(&format!("{name}.bias"))?;
        self.linear(name, n_in, None)
    }

    /// A convolution of 3x3 over each channel by itself. The converter leaves out the dimension of 1.
    pub(super) fn depthwise(&self, name: &str, n_channels: u64) -> Result<(), GgufError> {
        let tensor = self.need(name)?;
        if self.has_shape(tensor, &[3, 3, n_channels]).is_err() {
            self.has_shape(tensor, &[3, 3, 1, n_channels])?;
        }
        self.has_type(tensor, &[GgmlType::F32, GgmlType::F16])
    }
}

fn dims(dims: &[u64]) -> String {
    let dims: Vec<_> = dims.iter().map(u64::to_string).collect();
    dims.join(" x ")
}
