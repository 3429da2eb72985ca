//! The tokens of answers that were given: a client sends them back as text, and other tokens may stand for the same text.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::engine::{Model, Outcome};

/// Answers that are remembered: those of a few busy conversations.
const MAX_ANSWERS: usize = 1024;

/// The answers given last, by their text without blanks around it: templates and clients strip them.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<VecDeque<(String, Vec<i32>)>>);

impl Answers {
    /// Remembers an answer, unless its text is not all that its tokens say (a stop text was cut off).
    pub(super) fn note(&self, model: &Model, outcome: &Outcome) {
        if model.detokenize(&outcome.tokens, false) != outcome.text || outcome.tokens.is_empty() {
            return;
        }
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = outcome.text.trim();
        answers.retain(|(known, _)| known != text);
        answers.push_front((text.to_owned(), outcome.tokens.clone()));
        answers.truncate(MAX_ANSWERS);
    }

    /// The tokens of an answer with this text.
    pub(super) fn tokens(&self, text: &str) -> Option<Vec<i32>> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = answers.iter().find(|(known, _)| known == text.trim());
        found.map(|(_, tokens)| tokens.clone())
    }
}
