//! Our own format: one JSON object per line, `{"image": ..., "question": ..., "answers": [...]}`. `models/train` writes
//! its held-out questions so.

use std::path::Path;

use super::fields::{self, Fields};
use super::{EvalError, Placed, Question, QuestionFile};
use crate::eval::question::ImageSource;

pub fn read(file: &QuestionFile, images: &Path) -> Result<Vec<Placed>, EvalError> {
    let text = super::read_text(&file.questions)?;
    let entries = fields::lines(&file.questions, &text)?;
    entries
        .into_iter()
        .map(|entry| question(entry, images, file))
        .collect()
}

/// A question without an id is named by its place.
pub fn question(entry: Fields, images: &Path, file: &QuestionFile) -> Result<Placed, EvalError> {
    let mut answers = entry.texts("answers")?;
    answers.extend(entry.texts("answer")?);
    if answers.is_empty() && !file.without_answers {
        return Err(entry.missing("answers"));
    }
    let scoring = match entry.optional_text("scoring")? {
        Some(name) => name
            .parse()
            .map_err(|problem| entry.error(format!("scoring {problem}")))?,
        None => file.scoring,
    };
    let paths = entry
        .texts("image")?
        .into_iter()
        .map(|name| ImageSource::Path(images.join(name)));
    let question = Question {
        id: entry
            .optional_text("id")?
            .unwrap_or_else(|| entry.place.to_string()),
        images: paths.collect(),
        prompt: entry.text("question")?,
        answers,
        options: entry.texts("options")?,
        category: entry.optional_text("category")?,
        group: entry.optional_text("group")?,
        scoring,
    };
    Ok((entry.place, question))
}
