//! The prefill of stock llama.cpp.

use std::ops::{ControlFlow, Range};

use crate::engine::prompt::EncodedPrompt;
use crate::ffi;
use crate::policy::PromptLayout;

/// Runs rows of a prompt as `mtmd_helper_eval_chunks` does (mtmd-helper.cpp@0.1.161): text and images in turn, each in
/// batches of `n_batch`, so that the logits are stock's bit for bit. `before_call` hears how many rows of the prompt are
/// done before each batch, and may stop.
pub(crate) fn run(
    context: &mut ffi::Context,
    sequence: &ffi::Sequence,
    prompt: &EncodedPrompt,
    rows: Range<usize>,
    n_spare: usize,
    before_call: &mut dyn FnMut(usize, &mut ffi::Context) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ffi::Error> {
    let (n_batch, n_layer) = (context.n_batch() as usize, context.model().n_layer());
    for (span, is_image) in spans(&prompt.layout, &rows) {
        for begin in span.clone().step_by(n_batch) {
            if before_call(begin, context).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let end = span.end.min(begin + n_batch);
            let in_call: Vec<i32> = (begin..end).map(|row| row as i32).collect();
            let both_ways = is_image && prompt.non_causal;
            let range = ffi::Range {
                il_begin: 0,
                il_end: n_layer,
                rows: &in_call,
                n_spare: n_spare + rows.end - end,
                mode: ffi::AttentionMode::Plain,
                hidden: &[],
                affected: None,
                probe: None,
                both_ways_until: both_ways.then(|| end as i32 - 1),
            };
            context.run(sequence, &range)?;
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The stretches of some rows that are all text or one image, in order, and which of the two they are.
fn spans(layout: &PromptLayout, rows: &Range<usize>) -> Vec<(Range<usize>, bool)> {
    let mut spans = Vec::new();
    let mut begin = 0;
    for image in &layout.vision {
        spans.push((begin..image.start, false));
        spans.push((image.clone(), true));
        begin = image.end;
    }
    spans.push((begin..layout.n_rows, false));
    let within = |(span, is_image): (Range<usize>, bool)| {
        (span.start.max(rows.start)..span.end.min(rows.end), is_image)
    };
    spans
        .into_iter()
        .map(within)
        .filter(|(span, _)| !span.is_empty())
        .collect()
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
        let expected = [
            (0..2, true),
            (2..4, true),
            (4..6, false),
            (6..8, true),
            (8..10, false),
        ];
        assert_eq!(spans(&layout, &(0..10)), expected);
        assert_eq!(spans(&layout, &(3..5)), [(3..4, true), (4..5, false)]);
        assert_eq!(
            spans(
                &PromptLayout {
                    n_rows: 3,
                    vision: Vec::new()
                },
                &(0..3)
            ),
            [(0..3, false)]
        );
    }
}
