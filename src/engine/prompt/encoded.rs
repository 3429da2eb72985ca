//! Prompts as the language model gets them.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::model::{Model, WeakModel};
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

/// A prompt as the language model gets it: tokens, and images as embeddings. Made by [`encode`](crate::engine::encode), used by
/// [`Session::generate_encoded`](crate::engine::Session::generate_encoded) and [`Cache::begin`](crate::engine::Cache::begin), as often as one likes.
#[derive(Debug, Clone)]
pub struct EncodedPrompt {
    /// The model that it is for; none while it is put together. It may be gone: the prompt does not keep its weights.
    pub(crate) model: Option<WeakModel>,
    /// `[n_rows]`, -1 for vision.
    pub(crate) token: Vec<i32>,
    /// `[vision rows][n_embd_inp]`
    pub(crate) embd: Vec<f32>,
    /// `[n_rows][n_pos_per_embd]`
    pub(crate) pos: Vec<i32>,
    /// Where the images are.
    pub(crate) layout: PromptLayout,
    /// What each image span of the layout shows.
    pub(crate) media: Vec<MediaSpan>,
    /// What is judged by itself, in order: at least one turn.
    pub(crate) turns: Vec<TurnSpan>,
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
    pub(crate) warnings: Vec<String>,
}

/// What a stretch of vision rows shows.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MediaSpan {
    /// The rows.
    pub rows: Range<usize>,
    /// Which of the request's pictures, from 0.
    pub item: usize,
    /// Which tile of the picture, from 0: large ones may be cut into several.
    pub tile: usize,
    /// What it is.
    pub kind: MediaKind,
    /// Columns and rows of the grid that the tokens form, line by line from the upper left; `None` if they form none.
    /// In the map of a LLaVA-1.6 picture (tile 1) the last column is that of newlines, which show nothing.
    pub grid: Option<(usize, usize)>,
    /// What the grid covers of the picture: left, top, width and height as shares of the picture's, beyond 0 to 1 where it was
    /// padded. `None` where llama.cpp fitted it.
    pub covers: Option<[f32; 4]>,
    /// Of pixels and encoder.
    pub(crate) hash: u64,
}

/// What a media item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MediaKind {
    /// A picture.
    Image,
}

/// What a prompt takes of a context, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSize {
    /// Text, with what the template adds and what stands around pictures.
    pub n_text: usize,
    /// Each picture.
    pub images: Vec<usize>,
}

impl PromptSize {
    /// All tokens.
    pub fn n_tokens(&self) -> usize {
        self.n_text + self.images.iter().sum::<usize>()
    }
}

/// A turn of a prompt: what is asked, judged by its last row, and the answer that it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TurnSpan {
    pub(crate) begin: usize,
    /// One past its last vision row; `begin` without any.
    pub(crate) vision_end: usize,
    /// One past its last row.
    pub(crate) end: usize,
    /// One past its answer's last row; `end` for the turn that is to be answered.
    pub(crate) answer_end: usize,
}

impl TurnSpan {
    /// Whether a picture is one of this turn's.
    pub(crate) fn holds(&self, media: &MediaSpan) -> bool {
        (self.begin..self.vision_end).contains(&media.rows.start)
    }
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
            media: Vec::new(),
            turns: Vec::new(),
            next_pos: 0,
            n_pos_per_embd,
            non_causal,
            encoded_by: None,
            encode_time: Duration::ZERO,
            saved_time: Duration::ZERO,
            warnings: Vec::new(),
        }
    }

    /// Where the images are.
    pub fn layout(&self) -> &PromptLayout {
        &self.layout
    }

    /// What each image span shows.
    pub fn media(&self) -> &[MediaSpan] {
        &self.media
    }

    /// The tokens, -1 for each vision token: `[n_rows]`.
    pub fn tokens(&self) -> &[i32] {
        &self.token
    }

    /// The vision tokens' embeddings: `[vision tokens][n_embd]`.
    pub fn embeddings(&self) -> &[f32] {
        &self.embd
    }

    /// How long templating, tokenizing and encoding took.
    pub fn encode_time(&self) -> Duration {
        self.encode_time
    }

    /// How long encoding had taken, at its time, for the pictures that came from the projector's cache
    /// ([`ProjectorOptions::cache_bytes`](crate::engine::ProjectorOptions::cache_bytes)). With
    /// [`encode_time`](Self::encode_time) it is what encoding this prompt alone takes.
    pub fn saved_time(&self) -> Duration {
        self.saved_time
    }

    /// Adds text at the positions that follow.
    pub(crate) fn push_text(&mut self, tokens: &[i32]) {
        for &token in tokens {
            self.token.push(token);
            self.push_pos();
        }
        self.layout.n_rows = self.token.len();
    }

    /// Adds a picture or a tile of one.
    pub(crate) fn push_image(&mut self, image: &ffi::ImageChunk<'_>, embd: &[f32], shown: Shown) {
        let n_tokens = image.n_tokens();
        if self.n_pos_per_embd == 1 {
            let grid = square(n_tokens);
            self.pos.extend(self.next_pos..self.next_pos + n_tokens as i32);
            self.push_vision(embd, n_tokens, grid, shown);
        } else {
            let positions = image.mrope_positions(self.next_pos);
            self.pos.extend(positions.as_flattened());
            self.push_vision(embd, n_tokens, grid_of(&positions), shown);
        }
        self.next_pos += image.n_pos();
    }

    /// Adds the map that tiles of a picture form: `[rows][columns][n_embd_inp]`, at the positions that follow.
    pub(crate) fn push_map(&mut self, embd: &[f32], grid: (usize, usize), shown: Shown) {
        let n_tokens = grid.0 * grid.1;
        for _ in 0..n_tokens {
            self.push_pos();
        }
        self.push_vision(embd, n_tokens, Some(grid), shown);
    }

    fn push_vision(&mut self, embd: &[f32], n_tokens: usize, grid: Option<(usize, usize)>, shown: Shown) {
        let begin = self.token.len();
        self.media.push(MediaSpan {
            rows: begin..begin + n_tokens,
            item: shown.item,
            tile: shown.tile,
            covers: shown.covers,
            kind: MediaKind::Image,
            grid,
            hash: shown.hash,
        });
        self.token.resize(begin + n_tokens, -1);
        self.embd.extend_from_slice(embd);
        self.layout.vision.push(begin..begin + n_tokens);
        self.layout.n_rows = self.token.len();
    }

    /// A position of its own. With M-RoPE it has the same time, y and x, and 0 in the fourth section, as llama-batch.cpp@0.1.161
    /// expands those of text.
    fn push_pos(&mut self) {
        let sections = [self.next_pos, self.next_pos, self.next_pos, 0];
        self.pos.extend_from_slice(&sections[..self.n_pos_per_embd]);
        self.next_pos += 1;
    }

    /// What was added since the last turn's answer is a turn, with its answer if it has one.
    pub(crate) fn end_turn(&mut self, answer: Option<&[i32]>) {
        let begin = self.turns.last().map_or(0, |turn| turn.answer_end);
        let end = self.layout.n_rows;
        let last_vision = self.layout.vision.iter().rfind(|span| span.start >= begin);
        let vision_end = last_vision.map_or(begin, |span| span.end);
        self.push_text(answer.unwrap_or_default());
        self.turns.push(TurnSpan {
            begin,
            vision_end,
            end,
            answer_end: self.layout.n_rows,
        });
    }

    /// Whether it was encoded for a model.
    pub(crate) fn is_of(&self, model: &Model) -> bool {
        self.model.as_ref().is_some_and(|own| own.is(model))
    }

    /// Where the images of the first rows are.
    pub(crate) fn layout_until(&self, n_rows: usize) -> PromptLayout {
        let vision = self.layout.vision.iter().filter(|span| span.end <= n_rows);
        PromptLayout {
            n_rows,
            vision: vision.cloned().collect(),
        }
    }

    /// Some rows, as the engine takes them.
    pub(crate) fn rows(&self, rows: Range<usize>) -> ffi::Rows<'_> {
        let n_vision = |rows: Range<usize>| self.token[rows].iter().filter(|&&token| token == -1).count();
        let n_embd = self.embd.len() / n_vision(0..self.token.len()).max(1);
        let (first, n) = (n_vision(0..rows.start), n_vision(rows.clone()));
        ffi::Rows {
            token: &self.token[rows.clone()],
            embd: &self.embd[first * n_embd..(first + n) * n_embd],
            pos: &self.pos[rows.start * self.n_pos_per_embd..rows.end * self.n_pos_per_embd],
        }
    }

    /// The embeddings of the images of a layout, which is the beginning of this prompt's.
    pub(crate) fn embeddings_of(&self, layout: &PromptLayout) -> &[f32] {
        self.rows(0..layout.n_rows).embd
    }

    /// The text rows of a turn between its pictures, or between earlier ones and its own.
    pub(crate) fn text_between_pictures(&self, turn: &TurnSpan) -> Vec<i32> {
        let first = self.layout.vision.first().map_or(usize::MAX, |span| span.start);
        (turn.begin.max(first.saturating_add(1))..turn.vision_end)
            .filter(|&row| self.token[row] != -1)
            .map(|row| row as i32)
            .collect()
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

/// Without positions to tell, tokens form a square, if they can.
fn square(n_tokens: usize) -> Option<(usize, usize)> {
    let side = n_tokens.isqrt();
    (side * side == n_tokens).then_some((side, side))
}

/// With M-RoPE the positions (time, y, x, other) tell: a line ends where x is as at its beginning.
fn grid_of(positions: &[[i32; 4]]) -> Option<(usize, usize)> {
    let (first, rest) = positions.split_first()?;
    let n_columns = 1 + rest.iter().take_while(|position| position[2] != first[2]).count();
    let n_tokens = positions.len();
    n_tokens
        .is_multiple_of(n_columns)
        .then_some((n_columns, n_tokens / n_columns))
}

/// What a chunk of vision tokens shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) item: usize,
    pub(crate) tile: usize,
    pub(crate) covers: Option<[f32; 4]>,
    pub(crate) hash: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_squares_or_what_mrope_says() {
        assert_eq!([9, 8].map(square), [Some((3, 3)), None]);
        let lines = [
            [1, 0, 0, 0],
            [1, 0, 1, 0],
            [1, 0, 2, 0],
            [1, 1, 0, 0],
            [1, 1, 1, 0],
            [1, 1, 2, 0],
        ];
        assert_eq!(grid_of(&lines), Some((3, 2)));
        assert_eq!((grid_of(&lines[..5]), grid_of(&[])), (None, None));
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
