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
    prompt: &EncodedPrompt,
    on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ffi::Error> {
    let n_batch = context.n_batch() as usize;
    let mut n_vision_done = 0;
    for (span, is_image) in spans(&prompt.layout) {
        for begin in span.clone().step_by(n_batch) {
            if on_progress(begin).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let rows = begin..span.end.min(begin + n_batch);
            if is_image {
                decode_vision(context, prompt, rows.clone(), n_vision_done)?;
                n_vision_done += rows.len();
            } else {
                let pos = prompt.pos[rows.start * prompt.n_pos_per_embd];
                let logits_last = rows.end == prompt.layout.n_rows;
                context.decode_tokens(&prompt.token[rows], pos, logits_last)?;
            }
        }
    }
    Ok(on_progress(prompt.layout.n_rows))
}

/// Decodes rows of an image, the first of which is the `n_vision_done`-th vision row of the prompt.
fn decode_vision(
    context: &mut ffi::Context,
    prompt: &EncodedPrompt,
    rows: Range<usize>,
    n_vision_done: usize,
) -> Result<(), ffi::Error> {
    let n_embd_inp = context.model().n_embd_inp();
    let embd = &prompt.embd[n_vision_done * n_embd_inp..][..rows.len() * n_embd_inp];
    let n_pos = prompt.n_pos_per_embd;
    let section_major: Vec<i32> = (0..n_pos)
        .flat_map(|section| rows.clone().map(move |row| prompt.pos[row * n_pos + section]))
        .collect();
    let logits_last = rows.end == prompt.layout.n_rows;
    context.set_causal(!prompt.non_causal);
    let decoded = context.decode_embd(embd, &section_major, logits_last);
    context.set_causal(true);
    decoded
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
