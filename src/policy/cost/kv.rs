//! Bytes of the KV cache, from its cells.

use serde::{Deserialize, Serialize};

/// Bytes of keys and values that the prompt occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KvBytes {
    /// Without pruning: every layer holds every row.
    pub dense: u64,
    /// As it is after the prefill.
    pub actual: u64,
}

impl KvBytes {
    /// From the cells that each layer holds and the bytes of one cell of each layer.
    pub fn of(n_rows: usize, n_cells: &[usize], cell_bytes: &[usize]) -> Self {
        let total = |cells: &mut dyn Iterator<Item = usize>| {
            cells
                .zip(cell_bytes)
                .map(|(cells, &bytes)| (cells as u64).saturating_mul(bytes as u64))
                .fold(0, u64::saturating_add)
        };
        Self {
            dense: total(&mut n_cells.iter().map(|_| n_rows)),
            actual: total(&mut n_cells.iter().copied()),
        }
    }
}
