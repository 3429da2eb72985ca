//! GQA (Hudson and Manning, 2019, arXiv 1902.09506). The answers are in GQA's own `testdev_balanced_questions.json`, an
//! object from question id to what is known of the question; the category is its structural type (`verify`, `query`,
//! `choose`, `logical`, `compare`).

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::{EvalError, Placed, QuestionFile, Scoring, beside, llava};

#[derive(Deserialize)]
struct Annotation {
    answer: String,
    types: Option<Types>,
}

#[derive(Deserialize)]
struct Types {
    structural: Option<String>,
}

pub fn read(file: &QuestionFile, images: &Path) -> Result<Vec<Placed>, EvalError> {
    let path = beside::find(file, &annotation_name(&file.questions))?;
    let annotations: HashMap<String, Annotation> = beside::read_json(&path, "GQA's questions")?;
    let text = super::read_text(&file.questions)?;
    let lines = llava::lines(&file.questions, &text)?.into_iter();
    lines
        .map(|line| {
            let Some(annotation) = annotations.get(&line.id) else {
                return Err(line.error(format!("question_id {} is not in {}", line.id, path.display())));
            };
            let (place, mut question) = line.question(images, vec![annotation.answer.clone()], Scoring::Gqa);
            question.category = annotation
                .types
                .as_ref()
                .and_then(|types| types.structural.clone());
            Ok((place, question))
        })
        .collect()
}

/// `llava_gqa_SPLIT.jsonl` belongs to `SPLIT_questions.json`.
fn annotation_name(questions: &Path) -> String {
    let stem = questions
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    let split = stem.as_deref().and_then(|stem| stem.strip_prefix("llava_gqa_"));
    format!("{}_questions.json", split.unwrap_or("testdev_balanced"))
}
