//! Pictures with several questions each, as `models/demo/questions.json` has them: a JSON list of
//! `{"image": ..., "questions": [{"question": ..., "answers": [...]}]}`. Questions may have the other fields of our
//! JSON Lines too.

use std::path::Path;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::{EvalError, Place, Placed, QuestionFile, beside, jsonl};

pub fn read(file: &QuestionFile, images: &Path) -> Result<Vec<Placed>, EvalError> {
    let pictures: Vec<Map<String, Value>> =
        beside::read_json(&file.questions, "a list of pictures with questions")?;
    let mut questions = Vec::new();
    for (i, picture) in pictures.into_iter().enumerate() {
        let picture = Fields::new(&file.questions, Place::Entry((i + 1).to_string()), picture);
        let image = picture.text("image")?;
        let Some(Value::Array(asked)) = picture.get("questions") else {
            return Err(picture.missing("questions"));
        };
        for (j, question) in asked.iter().enumerate() {
            let place = Place::Entry(format!("{}.{}", i + 1, j + 1));
            let mut fields = question.as_object().cloned().unwrap_or_default();
            fields.insert("image".to_owned(), image.clone().into());
            let entry = Fields::new(&file.questions, place, fields);
            questions.push(jsonl::question(entry, images, file)?);
        }
    }
    Ok(questions)
}
