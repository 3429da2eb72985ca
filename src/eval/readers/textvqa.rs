//! TextVQA (Singh et al., 2019, arXiv 1904.08920). Ten people's answers to each question are in
//! `TextVQA_0.5.1_val.json`. LLaVA's `question_id` is the picture's, so that questions are found by picture and
//! question text, and are named by TextVQA's own number.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::{EvalError, Placed, QuestionFile, Scoring, beside, llava};

/// What begins the line that gives the model the text that an OCR system found.
pub const OCR_LINE: &str = "Reference OCR token:";
const ANNOTATIONS: &str = "TextVQA_0.5.1_val.json";

#[derive(Deserialize)]
struct Annotations {
    data: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    question_id: u64,
    image_id: String,
    question: String,
    answers: Vec<String>,
}

pub fn read(file: &QuestionFile, images: &Path) -> Result<Vec<Placed>, EvalError> {
    let path = beside::find(file, ANNOTATIONS)?;
    let annotations: Annotations = beside::read_json(&path, "TextVQA's annotations")?;
    let by_question: HashMap<(&str, String), &Annotation> = annotations
        .data
        .iter()
        .map(|annotation| {
            (
                (annotation.image_id.as_str(), annotation.question.to_lowercase()),
                annotation,
            )
        })
        .collect();
    let text = super::read_text(&file.questions)?;
    let lines = llava::lines(&file.questions, &text)?.into_iter();
    lines
        .map(|line| {
            let asked = question_line(&line.text);
            let key = (line.id.as_str(), asked.to_lowercase());
            let Some(annotation) = by_question.get(&key).copied() else {
                let problem = format!(
                    "text asks {asked:?} of picture {}, which is not in {}",
                    line.id,
                    path.display()
                );
                return Err(line.error(problem));
            };
            let (place, mut question) = line.question(images, annotation.answers.clone(), Scoring::Vqa);
            question.id = annotation.question_id.to_string();
            Ok((place, question))
        })
        .collect()
}

/// The question stands on the first line, after the line with OCR tokens if that comes first.
fn question_line(text: &str) -> &str {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or("");
    if first.starts_with(OCR_LINE) {
        lines.next().unwrap_or("")
    } else {
        first
    }
}
