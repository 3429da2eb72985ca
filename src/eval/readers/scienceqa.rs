//! ScienceQA (Lu et al., 2022, arXiv 2209.09513), in LLaVA's form: a JSON list of conversations, the first turn being
//! context, question and options, the second the letter of the right one. Some questions have no picture; LLaVA
//! reports those that have one separately, which the categories do here.

use std::path::Path;

use serde_json::{Map, Value};

use super::fields::Fields;
use super::{EvalError, Place, Placed, Question, QuestionFile, Scoring, beside, llava};
use crate::eval::question::ImageSource;

const IMAGE_MARK: &str = "<image>";

pub fn read(file: &QuestionFile, images: &Path) -> Result<Vec<Placed>, EvalError> {
    let entries: Vec<Map<String, Value>> = beside::read_json(&file.questions, "LLaVA's ScienceQA questions")?;
    let entries = entries.into_iter().enumerate();
    entries
        .map(|(i, entry)| {
            let place = Place::Entry((i + 1).to_string());
            question(Fields::new(&file.questions, place, entry), images)
        })
        .collect()
}

fn question(entry: Fields, images: &Path) -> Result<Placed, EvalError> {
    let text = turn(&entry, 0)?.replace(IMAGE_MARK, "");
    let text = text.trim();
    let image = entry.optional_text("image")?;
    let category = if image.is_some() {
        "with picture"
    } else {
        "text only"
    };
    let question = Question {
        id: entry.text("id")?,
        images: image
            .map(|name| ImageSource::Path(images.join(name)))
            .into_iter()
            .collect(),
        prompt: format!("{text}\n{}", llava::LETTER),
        answers: vec![turn(&entry, 1)?.trim().to_owned()],
        options: options(text),
        category: Some(category.to_owned()),
        group: None,
        scoring: Scoring::Choice,
    };
    Ok((entry.place, question))
}

fn turn(entry: &Fields, n: usize) -> Result<String, EvalError> {
    let turns = entry.get("conversations").and_then(Value::as_array);
    let turn = turns
        .and_then(|turns| turns.get(n))
        .and_then(|turn| turn["value"].as_str());
    turn.map(str::to_owned)
        .ok_or_else(|| entry.missing(&format!("conversations[{n}].value")))
}

/// From the last line that begins with `A. ` on: a line that begins with the next letter begins the next option, any
/// other line belongs to the one before.
fn options(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.iter().rposition(|line| line.starts_with("A. "));
    let mut options: Vec<String> = Vec::new();
    for line in &lines[start.unwrap_or(lines.len())..] {
        let next = char::from(b'A' + options.len().min(25) as u8);
        match line.strip_prefix(next).and_then(|rest| rest.strip_prefix(". ")) {
            Some(option) => options.push(option.to_owned()),
            None => {
                if let Some(option) = options.last_mut() {
                    *option = format!("{option}\n{line}");
                }
            }
        }
    }
    options
}
