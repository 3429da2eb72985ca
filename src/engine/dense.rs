//! The prefill of stock llama.cpp.

use std::ops::{ControlFlow, Range};

use super::encoded::EncodedPrompt;
use crate::ffi;
use crate::policy::PromptLayout;

/// Computes a prompt as `mtmd_helper_eval_chunks` does (mtmd-helper.cpp@0.1.161): text and images in turn, each in
/// batches of `n_batch`, so that the logits are stock's bit for bit. `on_progress` hears how many rows are done before
/// each batch and after the last one, and may stop.
pub(crate) fn prefill(
    context: &mut ffi::Context,
    sequence: &ffi::Sequence,
    prompt: &EncodedPrompt,
    on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ffi::Error> {
    let (n_batch, n_layer) = (context.n_batch() as usize, context.model().n_layer());
    context.add(
        sequence,
        &ffi::Rows {
            token: &prompt.token,
            embd: &prompt.embd,
            pos: &prompt.pos,
        },
    )?;
    for (span, is_image) in spans(&prompt.layout) {
        for begin in span.clone().step_by(n_batch) {
            if on_progress(begin).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let rows: Vec<i32> = (begin..span.end.min(begin + n_batch))
                .map(|row| row as i32)
                .collect();
            let last = rows.last().copied();
            context.run(
                sequence,
                &ffi::Range {
                    il_begin: 0,
                    il_end: n_layer,
                    rows: &rows,
                    n_spare: 0,
                    mode: ffi::AttentionMode::Plain,
                    hidden: &[],
                    affected: None,
                    probe: None,
                    both_ways_until: last.filter(|_| is_image && prompt.non_causal),
                },
            )?;
        }
    }
    Ok(on_progress(prompt.layout.n_rows))
}

/// The stretches of a prompt that are all text or one image, in order, and which of the two they are.
fn spans(layout: &PromptLayout) -> Vec<(Range<usize>, bool)> {
    let mut spans = Vec::new();
    let mut begin = 0;
    for image in &layout.vision {
        if begin < image.start {
            spans.push((begin..image.start, false));
        }
        spans.push((image.clone(), true));
        begin = image.end;
    }
    if begin < layout.n_rows {
        spans.push((begin..layout.n_rows, false));
    }
    spans
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
        assert_eq!(spans(&layout), expected);
        assert_eq!(
            spans(&PromptLayout {
                n_rows: 3,
                vision: Vec::new()
            }),
            [(0..3, false)]
        );
    }
}
