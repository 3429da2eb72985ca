//! Which rows see which, counted.

use std::ops::Range;

use crate::policy::{PromptLayout, VisionIndex};

/// Pairs of a query and a key that it may see, in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pairs {
    pub text_to_text: u64,
    pub text_to_vision: u64,
    /// Those of `text_to_vision` whose key is in the first half of all vision tokens.
    pub text_to_first_half: u64,
    pub vision_to_text: u64,
    pub vision_to_vision: u64,
    /// Text queries that see any vision.
    pub n_text_seeing: u64,
}

impl Pairs {
    /// The pairs without those whose query is one of these rows.
    pub fn without(
        self,
        layout: &PromptLayout,
        causal_images: bool,
        present: &[VisionIndex],
        rows: &Range<usize>,
    ) -> Self {
        let up_to = |end: usize| {
            let layout = PromptLayout {
                n_rows: end.min(layout.n_rows),
                vision: layout.vision.clone(),
            };
            Self::of(&layout, causal_images, present)
        };
        let (begin, end) = (up_to(rows.start), up_to(rows.end));
        let rest = |all: u64, begin: u64, end: u64| all.saturating_sub(end.saturating_sub(begin));
        Self {
            text_to_text: rest(self.text_to_text, begin.text_to_text, end.text_to_text),
            text_to_vision: rest(self.text_to_vision, begin.text_to_vision, end.text_to_vision),
            text_to_first_half: rest(
                self.text_to_first_half,
                begin.text_to_first_half,
                end.text_to_first_half,
            ),
            vision_to_text: rest(self.vision_to_text, begin.vision_to_text, end.vision_to_text),
            vision_to_vision: rest(
                self.vision_to_vision,
                begin.vision_to_vision,
                end.vision_to_vision,
            ),
            n_text_seeing: rest(self.n_text_seeing, begin.n_text_seeing, end.n_text_seeing),
        }
    }

    /// Counts them by walking the rows in order; of the vision tokens only those `present` are there.
    pub fn of(layout: &PromptLayout, causal_images: bool, present: &[VisionIndex]) -> Self {
        let first_half = layout.n_vision() / 2;
        let mut pairs = Self::default();
        let (mut n_text, mut n_seen, mut n_seen_first_half, mut index) = (0, 0, 0, 0);
        let mut row = 0;
        let mut text_rows = |pairs: &mut Self, n: u64, seen: u64, seen_first_half: u64| {
            pairs.text_to_text += n * n_text + n * (n + 1) / 2;
            pairs.text_to_vision += n * seen;
            pairs.text_to_first_half += n * seen_first_half;
            pairs.n_text_seeing += if seen > 0 { n } else { 0 };
            n_text += n;
            n_text
        };
        // No prompt has more rows, see `PromptLayout::is_well_formed`.
        let n_rows = layout.n_rows.min(u32::MAX as usize);
        let in_prompt = |end: usize| end.min(n_rows);
        for span in &layout.vision {
            let span = in_prompt(span.start)..in_prompt(span.end);
            let n_text = text_rows(
                &mut pairs,
                span.start.saturating_sub(row) as u64,
                n_seen,
                n_seen_first_half,
            );
            let tokens = index..index + span.len();
            let in_image = || {
                present
                    .iter()
                    .map(|token| token.0 as usize)
                    .filter(|token| tokens.contains(token))
            };
            let n = in_image().count() as u64;
            pairs.vision_to_text += n * n_text;
            pairs.vision_to_vision += n * n_seen + if causal_images { n * (n + 1) / 2 } else { n * n };
            n_seen += n;
            n_seen_first_half += in_image().filter(|&token| token < first_half).count() as u64;
            index = tokens.end;
            row = span.end;
        }
        text_rows(
            &mut pairs,
            n_rows.saturating_sub(row) as u64,
            n_seen,
            n_seen_first_half,
        );
        pairs
    }
}
