//! The staged prefill's engine: a context that runs ranges of layers.

use std::ops::{ControlFlow, Range};

use super::{BeforeCall, Decoder, with_room};
use crate::engine::prefill::{CallAttention, CallProbe, LayerRanges, Progress, RangeCall, RowProbe};
use crate::ffi::{self, AttentionMode, Probe};
use crate::policy::{Row, Statistic};

/// Looks into the context when a layer's contributions have been read, before the next layer runs.
pub(crate) type OnProbe<'a> =
    &'a mut dyn FnMut(&mut ffi::Context, &ffi::Sequence, usize) -> Result<(), ffi::Error>;

/// The rows of a turn in a context that was created with KV groups.
pub(crate) struct StagedTurn<'a> {
    decoder: Decoder<'a>,
    sequence: &'a ffi::Sequence,
    n_rows: usize,
    /// Rows that will be needed after the prompt.
    n_spare: usize,
    before_call: BeforeCall<'a>,
    attention: AttentionSums,
    on_probe: OnProbe<'a>,
}

/// What [`LayerRanges::attention`] returns, collected over the calls of one range.
#[derive(Default)]
struct AttentionSums {
    layers: Range<usize>,
    /// `[n_rows]`, by prompt row: NaN where no row has run.
    weight: Vec<f32>,
}

impl AttentionSums {
    /// Notes a call. The calls of another range start over.
    fn note(&mut self, call: &RangeCall, n_rows: usize) {
        if self.layers != call.layers {
            self.layers = call.layers.clone();
            self.weight = vec![f32::NAN; n_rows];
        }
        for row in &call.rows {
            self.weight[row.0 as usize] = 0.0;
        }
    }

    /// Adds what one call read: NaN for the rows of later calls, which its queries do not see.
    fn add(&mut self, weight: &[f32]) {
        for (sum, weight) in self.weight.iter_mut().zip(weight) {
            if !weight.is_nan() {
                *sum = if sum.is_nan() { *weight } else { *sum + weight };
            }
        }
    }
}

impl<'a> StagedTurn<'a> {
    /// A sequence to which the rows were added.
    pub(crate) fn new(
        decoder: Decoder<'a>,
        sequence: &'a ffi::Sequence,
        n_rows: usize,
        n_spare: usize,
        before_call: BeforeCall<'a>,
        on_probe: OnProbe<'a>,
    ) -> Self {
        Self {
            decoder,
            sequence,
            n_rows,
            n_spare,
            before_call,
            attention: AttentionSums::default(),
            on_probe,
        }
    }
}

impl LayerRanges for StagedTurn<'_> {
    type Error = ffi::Error;

    fn run(&mut self, call: &RangeCall) -> Result<(), ffi::Error> {
        let (mode, hidden, affected) = match &call.attention {
            CallAttention::Plain => (AttentionMode::Plain, Vec::new(), None),
            CallAttention::Zero { hidden } => (AttentionMode::Zero, indices(hidden), None),
            CallAttention::Merge { hidden } => (AttentionMode::Merge, indices(hidden), None),
            CallAttention::Mask { hidden, affected } => {
                let affected: Vec<u8> = affected.iter().map(|&is| u8::from(is)).collect();
                (AttentionMode::Mask, indices(hidden), Some(affected))
            }
        };
        let queries = call.probe.as_ref().map(|probe| indices(&probe.queries));
        self.attention.note(call, self.n_rows);
        let range = ffi::Range {
            il_begin: call.layers.start,
            il_end: call.layers.end,
            rows: &indices(&call.rows),
            n_spare: self.n_spare + call.n_more,
            mode,
            hidden: &hidden,
            affected: affected.as_deref(),
            probe: call.probe.as_ref().zip(queries.as_deref()).map(native_probe),
            can_rewind: call.can_rewind,
            both_ways_until: call.both_ways_until.map(|row| row.0 as i32),
        };
        let sequence = self.sequence;
        with_room(self.decoder.context, self.decoder.store, |context| {
            context.run(sequence, &range)
        })?;
        match &call.probe {
            Some(probe) if probe.statistic != Statistic::Contribution => {
                let weight =
                    self.decoder
                        .context
                        .attention(self.sequence, probe.layers.start, self.n_rows)?;
                self.attention.add(&weight);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn probe(&mut self, il: usize) -> Result<RowProbe, ffi::Error> {
        let n_rows = self.n_rows;
        let (norm2, dot, output_norm2) = self.decoder.context.contributions(self.sequence, il, n_rows)?;
        (self.on_probe)(self.decoder.context, self.sequence, il)?;
        Ok(RowProbe {
            norm2,
            dot,
            output_norm2,
        })
    }

    fn attention(&mut self, _il: usize) -> Result<Vec<f32>, ffi::Error> {
        Ok(self.attention.weight.clone())
    }

    fn rewind(&mut self, il: usize) -> Result<(), ffi::Error> {
        self.decoder.context.rewind(self.sequence, il)
    }

    fn branch(&mut self, il: usize, left: &[Row], kept: &[Row]) -> Result<Vec<Row>, ffi::Error> {
        let n_rows = self.n_rows;
        self.decoder.context.leave(self.sequence, il, &indices(left))?;
        self.decoder.context.copy(self.sequence, il, &indices(kept))?;
        let due = self.decoder.context.due(self.sequence, n_rows)?;
        Ok(kept
            .iter()
            .copied()
            .filter(|row| due[row.0 as usize] < il)
            .collect())
    }

    fn evict(&mut self, layers: Range<usize>, rows: Range<usize>) -> Result<(), ffi::Error> {
        let rows: Vec<i32> = rows.map(|row| row as i32).collect();
        self.decoder.context.evict(self.sequence, layers, &rows)
    }

    fn before_call(&mut self, progress: Progress) -> ControlFlow<()> {
        let done = progress.n_done as f32 / progress.n_total.max(1) as f32;
        (self.before_call)(done, &mut self.decoder)
    }
}

fn native_probe<'a>((probe, queries): (&CallProbe, &'a [i32])) -> Probe<'a> {
    let il = probe.layers.start;
    match probe.statistic {
        Statistic::Contribution if probe.layers.len() > 1 => Probe::Contributions {
            il,
            n: probe.layers.len(),
        },
        Statistic::Contribution => Probe::Contribution { il },
        Statistic::LastAttention | Statistic::TextAttention => Probe::Attention { il, queries },
    }
}

fn indices(rows: &[Row]) -> Vec<i32> {
    rows.iter().map(|row| row.0 as i32).collect()
}
