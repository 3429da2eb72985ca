//! The prefill of stock llama.cpp, on its own memory: each range is the whole model.

use std::ops::{ControlFlow, Range};

use super::{BeforeCall, Decoder, with_room};
use crate::engine::prefill::{CallAttention, LayerRanges, Progress, RangeCall, RowProbe};
use crate::engine::prompt::EncodedPrompt;
use crate::ffi::{self, Status};
use crate::policy::{PromptLayout, Row};

/// Runs rows of a prompt as `mtmd_helper_eval_chunks` does (mtmd-helper.cpp@0.1.161): text and images in turn, each in
/// batches of `n_batch`, so that the logits are stock's bit for bit. `before_call` hears which row is next before each
/// batch, and may stop.
pub(crate) fn run(
    decoder: &mut Decoder<'_>,
    sequence: &ffi::Sequence,
    prompt: &EncodedPrompt,
    rows: &[i32],
    n_spare: usize,
    before_call: &mut dyn FnMut(i32, &mut Decoder<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ffi::Error> {
    let (n_batch, n_layer) = (decoder.context.n_batch() as usize, decoder.model.n_layer());
    let mut n_more = rows.len();
    for (span, is_image) in spans(&prompt.layout, rows) {
        for in_call in span.chunks(n_batch) {
            if before_call(in_call[0], decoder).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            n_more -= in_call.len();
            let both_ways = is_image && prompt.non_causal;
            let range = ffi::Range {
                il_begin: 0,
                il_end: n_layer,
                rows: in_call,
                n_spare: n_spare + n_more,
                mode: ffi::AttentionMode::Plain,
                hidden: &[],
                affected: None,
                probe: None,
                can_rewind: false,
                both_ways_until: in_call.last().copied().filter(|_| both_ways),
            };
            with_room(decoder.context, decoder.store, |context| {
                context.run(sequence, &range)
            })?;
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The stretches of some rows, ascending, that are all text or one image, and which of the two they are.
fn spans<'a>(layout: &PromptLayout, rows: &'a [i32]) -> Vec<(&'a [i32], bool)> {
    let image_of = |row: i32| {
        let holds = |image: &Range<usize>| image.contains(&(row as usize));
        layout.vision.iter().position(holds)
    };
    let stretches = rows.chunk_by(|&a, &b| image_of(a) == image_of(b));
    stretches
        .map(|stretch| (stretch, image_of(stretch[0]).is_some()))
        .collect()
}

/// A turn whose policy acts before layer 0: the rows that it lets in run through the whole model. Those of the pictures are
/// rows of the sequence that is shared, the others of a branch, which is made when the pictures are done.
pub(crate) struct WholeModelTurn<'a> {
    pub(crate) decoder: Decoder<'a>,
    pub(crate) prompt: &'a EncodedPrompt,
    pub(crate) shared: &'a ffi::Sequence,
    /// Rows of the shared sequence.
    pub(crate) n_shared: usize,
    /// One past the last row of the turn.
    pub(crate) end: usize,
    /// Rows that will be needed after the turn.
    pub(crate) n_spare: usize,
    pub(crate) branch: Option<ffi::Sequence>,
    pub(crate) before_call: BeforeCall<'a>,
}

impl WholeModelTurn<'_> {
    /// Runs rows of the shared sequence, or of the branch.
    fn run_rows(&mut self, rows: &[i32], is_shared: bool, n_spare: usize) -> Result<(), ffi::Error> {
        if rows.is_empty() {
            return Ok(());
        }
        if !is_shared && self.branch.is_none() {
            let shared = self.shared;
            let Decoder { context, store, .. } = &mut self.decoder;
            let branch = with_room(context, store, |context| context.branch(shared))?;
            context.add(&branch, &self.prompt.rows(self.n_shared..self.end))?;
            self.branch = Some(branch);
        }
        let sequence = match &self.branch {
            Some(branch) if !is_shared => branch,
            _ => self.shared,
        };
        let mut go_on = |_, _: &mut Decoder<'_>| ControlFlow::Continue(());
        run(
            &mut self.decoder,
            sequence,
            self.prompt,
            rows,
            n_spare,
            &mut go_on,
        )
        .map(|_| ())
    }
}

impl LayerRanges for WholeModelTurn<'_> {
    type Error = ffi::Error;

    fn run(&mut self, call: &RangeCall) -> Result<(), ffi::Error> {
        if call.attention != CallAttention::Plain || call.probe.is_some() {
            return Err(layers_are_as_they_are("run"));
        }
        let rows: Vec<i32> = call.rows.iter().map(|row| row.0 as i32).collect();
        let (shared, own) = rows.split_at(rows.partition_point(|&row| (row as usize) < self.n_shared));
        let n_spare = self.n_spare + call.n_more;
        self.run_rows(shared, true, n_spare + own.len())?;
        self.run_rows(own, false, n_spare)
    }

    fn probe(&mut self, _il: usize) -> Result<RowProbe, ffi::Error> {
        Err(layers_are_as_they_are("probe"))
    }

    fn attention(&mut self, _il: usize) -> Result<Vec<f32>, ffi::Error> {
        Err(layers_are_as_they_are("attention"))
    }

    fn rewind(&mut self, _il: usize) -> Result<(), ffi::Error> {
        Err(layers_are_as_they_are("rewind"))
    }

    fn branch(&mut self, _il: usize, _left: &[Row], _kept: &[Row]) -> Result<Vec<Row>, ffi::Error> {
        Err(layers_are_as_they_are("branch"))
    }

    fn evict(&mut self, _layers: Range<usize>, _rows: Range<usize>) -> Result<(), ffi::Error> {
        Err(layers_are_as_they_are("evict"))
    }

    fn before_call(&mut self, progress: Progress) -> ControlFlow<()> {
        let done = progress.n_done as f32 / progress.n_total.max(1) as f32;
        (self.before_call)(done, &mut self.decoder)
    }
}

/// For a policy that does more than it had said.
fn layers_are_as_they_are(call: &'static str) -> ffi::Error {
    ffi::Error {
        call,
        status: Status::Unsupported,
        message:
            "the policy changes or reads a layer, and the cache was made for policies that act before layer 0"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_images_alternate() {
        let layout = PromptLayout {
            n_rows: 10,
            vision: vec![0..2, 2..4, 6..8],
        };
        let expected: [(&[i32], bool); 5] = [
            (&[0, 1], true),
            (&[2, 3], true),
            (&[4, 5], false),
            (&[6, 7], true),
            (&[8, 9], false),
        ];
        let all: Vec<i32> = (0..10).collect();
        assert_eq!(spans(&layout, &all), expected);
        let expected: [(&[i32], bool); 3] = [(&[1], true), (&[3], true), (&[4, 9], false)];
        assert_eq!(spans(&layout, &[1, 3, 4, 9]), expected);
        let text = PromptLayout {
            n_rows: 3,
            vision: Vec::new(),
        };
        assert_eq!(spans(&text, &[0, 1, 2]), [([0, 1, 2].as_slice(), false)]);
        assert_eq!(spans(&text, &[]), []);
    }
}
