//! Prompts as the language model gets them.

use std::path::PathBuf;
use std::time::Duration;

use super::Model;
use crate::ffi;
use crate::policy::PromptLayout;
use crate::policy::shape::VisionShape;

/// What a prompt's images were encoded by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EncodedBy {
    /// The projector's file.
    pub(crate) path: PathBuf,
    /// How long loading it took.
    pub(crate) load_time: Duration,
    pub(crate) shape: VisionShape,
    /// Vision tokens of one image, if it is the same number for every image.
    pub(crate) n_tokens_per_image: Option<usize>,
}

/// A prompt as the language model gets it: tokens, and images as embeddings. Made by [`Session::encode`], used by
/// [`Session::generate_encoded`], as often as one likes.
///
/// [`Session::encode`]: super::Session::encode
/// [`Session::generate_encoded`]: super::Session::generate_encoded
#[derive(Debug, Clone)]
pub struct EncodedPrompt {
    /// The model that it is for; none while it is put together.
    pub(crate) model: Option<Model>,
    /// `[n_rows]`, -1 for vision.
    pub(crate) token: Vec<i32>,
    /// `[vision rows][n_embd_inp]`
    pub(crate) embd: Vec<f32>,
    /// `[n_rows][n_pos_per_embd]`
    pub(crate) pos: Vec<i32>,
    /// Where the images are.
    pub(crate) layout: PromptLayout,
    /// The position of the first generated token.
    pub(crate) next_pos: i32,
    /// 1, or 4 with M-RoPE.
    pub(crate) n_pos_per_embd: usize,
    /// Whether the rows of an image see each other both ways.
    pub(crate) non_causal: bool,
    /// `None` without a projector.
    pub(crate) encoded_by: Option<EncodedBy>,
    /// How long templating, tokenizing and encoding took.
    pub(crate) encode_time: Duration,
    /// How long encoding had taken for what came from the projector's cache.
    pub(crate) saved_time: Duration,
    /// What the user should know about the prompt.
    pub(crate) warning: Option<String>,
}

impl EncodedPrompt {
    pub(crate) fn new(n_pos_per_embd: usize, non_causal: bool) -> Self {
        Self {
            model: None,
            token: Vec::new(),
            embd: Vec::new(),
            pos: Vec::new(),
            layout: PromptLayout {
                n_rows: 0,
                vision: Vec::new(),
            },
            next_pos: 0,
            n_pos_per_embd,
            non_causal,
            encoded_by: None,
            encode_time: Duration::ZERO,
            saved_time: Duration::ZERO,
            warning: None,
        }
    }

    /// Where the images are.
    pub fn layout(&self) -> &PromptLayout {
        &self.layout
    }

    /// The tokens, -1 for each vision token: `[n_rows]`.
    pub fn tokens(&self) -> &[i32] {
        &self.token
    }

    /// The vision tokens' embeddings: `[vision tokens][n_embd]`.
    pub fn embeddings(&self) -> &[f32] {
        &self.embd
    }

    /// Columns and rows of the grid that the tokens of an image form, line by line from the upper left. Images count
    /// from 0, and so do the tiles that some projectors cut an image into.
    ///
    /// With M-RoPE the tokens' positions say so; otherwise the tokens form a square, if they can.
    pub fn grid(&self, image: usize) -> Option<(usize, usize)> {
        let span = self.layout.vision.get(image)?.clone();
        let n_tokens = span.len();
        if self.n_pos_per_embd == 1 {
            let side = n_tokens.isqrt();
            return (side * side == n_tokens).then_some((side, side));
        }
        let x = |row: usize| self.pos[row * self.n_pos_per_embd + 2];
        let first = x(span.start);
        let n_cols = 1 + span.skip(1).take_while(|&row| x(row) != first).count();
        (n_tokens % n_cols == 0).then_some((n_cols, n_tokens / n_cols))
    }

    /// How long templating, tokenizing and encoding took.
    pub fn encode_time(&self) -> Duration {
        self.encode_time
    }

    /// How long encoding had taken, at its time, for the pictures that came from the projector's cache
    /// ([`ProjectorOptions::cache_bytes`](super::ProjectorOptions::cache_bytes)). With
    /// [`encode_time`](Self::encode_time) it is what encoding this prompt alone takes.
    pub fn saved_time(&self) -> Duration {
        self.saved_time
    }

    /// Adds text at the positions that follow.
    pub(crate) fn push_text(&mut self, tokens: &[i32]) {
        for &token in tokens {
            self.token.push(token);
            // With M-RoPE text has the same time, y and x, and 0 in the fourth section: llama-batch.cpp@0.1.161
            // expands it so.
            let sections = [self.next_pos, self.next_pos, self.next_pos, 0];
            self.pos.extend_from_slice(&sections[..self.n_pos_per_embd]);
            self.next_pos += 1;
        }
        self.layout.n_rows = self.token.len();
    }

    pub(crate) fn push_image(&mut self, image: &ffi::ImageChunk<'_>, embd: &[f32]) {
        let (begin, n_tokens) = (self.token.len(), image.n_tokens());
        self.token.resize(begin + n_tokens, -1);
        self.embd.extend_from_slice(embd);
        if self.n_pos_per_embd == 1 {
            self.pos.extend(self.next_pos..self.next_pos + n_tokens as i32);
        } else {
            self.pos
                .extend(image.mrope_positions(self.next_pos).as_flattened());
        }
        self.next_pos += image.n_pos();
        self.layout.vision.push(begin..begin + n_tokens);
        self.layout.n_rows = self.token.len();
    }

    /// Rows of the longest image.
    pub(crate) fn longest_image(&self) -> usize {
        self.layout
            .vision
            .iter()
            .map(ExactSizeIterator::len)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_squares_or_what_mrope_says() {
        let mut prompt = EncodedPrompt::new(1, false);
        prompt.layout.vision = vec![0..9, 9..17];
        assert_eq!(
            [0, 1, 2].map(|image| prompt.grid(image)),
            [Some((3, 3)), None, None]
        );

        let mut prompt = EncodedPrompt::new(4, false);
        prompt.push_text(&[5]);
        for (y, x) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            prompt.pos.extend([1, 1 + y, 1 + x, 0]);
        }
        prompt.layout.vision = std::iter::once(1..7).collect();
        assert_eq!(prompt.grid(0), Some((3, 2)));
    }

    #[test]
    fn text_positions_with_and_without_mrope() {
        let mut prompt = EncodedPrompt::new(1, false);
        prompt.push_text(&[5, 6]);
        assert_eq!((prompt.pos.as_slice(), prompt.next_pos), ([0, 1].as_slice(), 2));
        let mut prompt = EncodedPrompt::new(4, false);
        prompt.push_text(&[5, 6]);
        assert_eq!(prompt.pos, [0, 0, 0, 0, 1, 1, 1, 0]);
        assert_eq!(
            prompt.layout,
            PromptLayout {
                n_rows: 2,
                vision: Vec::new()
            }
        );
    }
}
