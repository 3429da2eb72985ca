//! From what the engine reads, by prompt row, to what a policy sees, by vision token.

use super::{LayerRanges, Prefill, PrefillError};
use crate::policy::{AttentionReading, ProbeReading, Reading, Row, Statistic};

impl<E: LayerRanges> Prefill<'_, E> {
    /// The statistic of a layer that was run with this probe.
    pub(super) fn read(
        &mut self,
        il: usize,
        statistic: Statistic,
    ) -> Result<Reading, PrefillError<E::Error>> {
        match statistic {
            Statistic::Contribution => self.read_contribution(il).map(Reading::Contribution),
            Statistic::LastAttention | Statistic::TextAttention => {
                let n_queries = self.queries(statistic).len();
                self.read_attention(il, n_queries).map(Reading::Attention)
            }
        }
    }

    /// The rows whose attention a statistic reads, over all calls of a range.
    pub(super) fn queries(&self, statistic: Statistic) -> Vec<Row> {
        match statistic {
            Statistic::Contribution | Statistic::LastAttention => {
                vec![Row(self.params.layout.n_rows as u32 - 1)]
            }
            Statistic::TextAttention => self.policy.raters().to_vec(),
        }
    }

    fn read_contribution(&mut self, il: usize) -> Result<ProbeReading, PrefillError<E::Error>> {
        let by_row = self.engine.probe(il).map_err(|source| PrefillError::Engine {
            layers: il..il + 1,
            source,
        })?;
        if !by_row.output_norm2.is_finite() {
            return Err(PrefillError::Probe {
                il,
                row: self.params.layout.n_rows - 1,
            });
        }
        Ok(ProbeReading {
            tokens: self.alive.vision().to_vec(),
            norm2: self.of_vision(il, &by_row.norm2)?,
            dot: self.of_vision(il, &by_row.dot)?,
            output_norm2: f64::from(by_row.output_norm2),
        })
    }

    /// The engine sums over queries; the mean is taken here.
    fn read_attention(
        &mut self,
        il: usize,
        n_queries: usize,
    ) -> Result<AttentionReading, PrefillError<E::Error>> {
        let by_row = self.engine.attention(il).map_err(|source| PrefillError::Engine {
            layers: il..il + 1,
            source,
        })?;
        let mut weight = self.of_vision(il, &by_row)?;
        for weight in &mut weight {
            *weight /= n_queries as f64;
        }
        Ok(AttentionReading {
            tokens: self.alive.vision().to_vec(),
            weight,
        })
    }

    /// The values of the vision rows present, in their order.
    fn of_vision(&self, il: usize, by_row: &[f32]) -> Result<Vec<f64>, PrefillError<E::Error>> {
        let value = |row: Row| {
            let row = row.0 as usize;
            let value = by_row.get(row).copied().filter(|value| value.is_finite());
            value.map(f64::from).ok_or(PrefillError::Probe { il, row })
        };
        let rows = self.alive.vision().iter().map(|&token| self.alive.row_of(token));
        rows.map(value).collect()
    }
}
