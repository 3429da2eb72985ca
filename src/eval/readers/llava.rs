//! The question files that LLaVA's evaluation made of POPE, GQA, TextVQA and MME: one JSON object per line with
//! `question_id`, `image`, `text` and `category`. The answers are elsewhere.

use std::path::Path;

use super::fields::{self, Fields};
use super::{EvalError, Place, Question, Scoring};
use crate::eval::question::ImageSource;

/// The instruction that LLaVA puts after a question, on a line of its own.
pub const SHORT_ANSWER: &str = "Answer the question using a single word or phrase.";
/// The instruction after a multiple-choice question.
pub const LETTER: &str = "Answer with the option's letter from the given choices directly.";

/// One line.
pub struct Line<'a> {
    fields: Fields<'a>,
    pub id: String,
    pub image: String,
    pub text: String,
    pub category: String,
}

/// # Errors
/// [`EvalError::Entry`] for a line without one of the keys.
pub fn lines<'a>(path: &'a Path, text: &str) -> Result<Vec<Line<'a>>, EvalError> {
    let entries = fields::lines(path, text)?.into_iter();
    entries
        .map(|fields| {
            Ok(Line {
                id: fields.text("question_id")?,
                image: fields.text("image")?,
                text: fields.text("text")?,
                category: fields.optional_text("category")?.unwrap_or_default(),
                fields,
            })
        })
        .collect()
}

impl Line<'_> {
    /// The error of this line.
    pub fn error(&self, problem: String) -> EvalError {
        self.fields.error(problem)
    }

    /// The question, named by its `question_id` and without a category.
    pub fn question(self, images: &Path, answers: Vec<String>, scoring: Scoring) -> (Place, Question) {
        let question = Question {
            id: self.id,
            images: vec![ImageSource::Path(images.join(self.image))],
            prompt: self.text,
            answers,
            options: Vec::new(),
            category: None,
            group: None,
            scoring,
        };
        (self.fields.place, question)
    }
}
