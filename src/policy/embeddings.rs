//! The prompt as it enters the language model: what policies that decide before layer 0 look at.

use super::{PromptLayout, VisionIndex};

/// Which embeddings a policy needs before layer 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Needs {
    /// None.
    #[default]
    Nothing,
    /// Those of the vision tokens.
    Vision,
    /// Those of the vision tokens and of the text.
    VisionAndText,
}

/// The rows that enter layer 0.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Embeddings<'a> {
    /// Width of a row.
    pub n_embd: usize,
    /// `[n_vision][n_embd]`: all vision tokens of the prompt, as the projector made them.
    pub vision: &'a [f32],
    /// `[n_text][n_embd]`: all text rows of the prompt in its order, as the token embedding has them. There if a policy
    /// needs them.
    pub text: Option<&'a [f32]>,
}

impl<'a> Embeddings<'a> {
    /// The row of a vision token: `[n_embd]`; `None` if it is not there.
    pub fn vision_row(&self, token: VisionIndex) -> Option<&'a [f32]> {
        let begin = (token.0 as usize).checked_mul(self.n_embd)?;
        self.vision.get(begin..begin.checked_add(self.n_embd)?)
    }

    /// Whether they are there as needed, and as many as the prompt has rows.
    pub fn satisfy(&self, needs: Needs, layout: &PromptLayout) -> bool {
        let n_vision = layout.n_vision();
        let is_whole = |values: &[f32], n_rows: usize| {
            self.n_embd > 0 && n_rows.checked_mul(self.n_embd) == Some(values.len())
        };
        let has_vision = is_whole(self.vision, n_vision);
        let has_text = || {
            self.text
                .is_some_and(|text| is_whole(text, layout.n_rows.saturating_sub(n_vision)))
        };
        match needs {
            Needs::Nothing => true,
            Needs::Vision => has_vision,
            Needs::VisionAndText => has_vision && has_text(),
        }
    }
}
