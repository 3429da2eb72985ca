//! The staged prefill's engine: a context that runs ranges of layers.

use std::ops::Range;

use super::encoded::EncodedPrompt;
use super::prefill::{CallAttention, LayerRanges, RangeCall, RowProbe};
use crate::ffi::{self, AttentionMode, Probe};
use crate::policy::Row;

/// A prompt in a context that was created with KV groups.
pub(crate) struct StagedPrompt<'a> {
    context: &'a mut ffi::Context,
    prompt: &'a EncodedPrompt,
}

impl<'a> StagedPrompt<'a> {
    /// Hands the prompt to the context.
    pub(crate) fn begin(
        context: &'a mut ffi::Context,
        prompt: &'a EncodedPrompt,
    ) -> Result<Self, ffi::Error> {
        context.prompt_begin(&ffi::Prompt {
            token: &prompt.token,
            embd: &prompt.embd,
            pos: &prompt.pos,
        })?;
        Ok(Self { context, prompt })
    }
}

impl LayerRanges for StagedPrompt<'_> {
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
        self.context.prompt_run(&ffi::Range {
            il_begin: call.layers.start,
            il_end: call.layers.end,
            rows: &indices(&call.rows),
            mode,
            hidden: &hidden,
            affected: affected.as_deref(),
            probe: call.probe_il.map(|il| Probe::Contribution { il }),
            causal: call.causal,
        })
    }

    fn probe(&mut self, il: usize) -> Result<RowProbe, ffi::Error> {
        let (norm2, dot, output_norm2) = self.context.prompt_probe(il)?;
        Ok(RowProbe {
            norm2,
            dot,
            output_norm2,
        })
    }

    fn evict(&mut self, layers: Range<usize>, rows: Range<usize>) -> Result<(), ffi::Error> {
        // Rows of an image may share a position (M-RoPE's time); text before and after lies outside their span.
        let positions = || {
            rows.clone()
                .map(|row| self.prompt.pos[row * self.prompt.n_pos_per_embd])
        };
        let (Some(first), Some(last)) = (positions().min(), positions().max()) else {
            return Ok(());
        };
        self.context.kv_evict(layers, first, last + 1)
    }
}

fn indices(rows: &[Row]) -> Vec<i32> {
    rows.iter().map(|row| row.0 as i32).collect()
}
