//! MMBench (Liu et al., 2023, arXiv 2307.06281): a table with tabs between its columns, the pictures in it as base64.
//! Only what can be scored without its server: the dev split, one round per question. MMBench's own figure asks each
//! question once for each rotation of its options ("CircularEval") and is lower.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::fields::at;
use super::{EvalError, Place, Placed, Question, Scoring, llava};
use crate::eval::question::ImageSource;

const OPTIONS: [&str; 4] = ["A", "B", "C", "D"];

/// One row: where it is, and its cells by column.
struct Row<'a> {
    path: &'a Path,
    place: Place,
    cells: HashMap<&'a str, String>,
}

pub fn read(path: &Path) -> Result<Vec<Placed>, EvalError> {
    let text = super::read_text(path)?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(b'\t')
        .from_reader(text.as_bytes());
    let broken = |error: csv::Error| {
        let line = error.position().map_or(1, |position| position.line() as usize);
        at(
            path,
            Place::Line(line),
            format!("not a table with tabs ({error})"),
        )
    };
    let columns = reader.headers().map_err(broken)?.clone();
    let mut pictures = HashMap::new();
    let mut questions = Vec::new();
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let row = Row {
            path,
            place: Place::Line(line),
            cells: columns.iter().zip(record.iter().map(str::to_owned)).collect(),
        };
        questions.push(question(row, &mut pictures)?);
    }
    Ok(questions)
}

fn question(row: Row, pictures: &mut HashMap<String, Arc<[u8]>>) -> Result<Placed, EvalError> {
    let id = row.text("index")?;
    let options: Vec<String> = OPTIONS.iter().map_while(|option| row.given(option)).collect();
    let hint = row
        .given("hint")
        .filter(|hint| !hint.eq_ignore_ascii_case("none"));
    let hint = hint.map(|hint| hint + "\n");
    let listed: String = OPTIONS
        .iter()
        .zip(&options)
        .map(|(letter, option)| format!("\n{letter}. {option}"))
        .collect();
    let prompt = format!(
        "{}{}{listed}\n{}",
        hint.unwrap_or_default(),
        row.text("question")?,
        llava::LETTER
    );
    let picture = picture(&row, &id, pictures)?;
    let question = Question {
        images: vec![ImageSource::Bytes(picture)],
        prompt,
        answers: vec![row.text("answer")?],
        options,
        category: row.given("category"),
        group: None,
        scoring: Scoring::Choice,
        id,
    };
    Ok((row.place, question))
}

/// Later releases write the index of an earlier row in place of a picture that they have shown before.
fn picture(row: &Row, id: &str, pictures: &mut HashMap<String, Arc<[u8]>>) -> Result<Arc<[u8]>, EvalError> {
    let encoded = row.text("image")?;
    let bytes = match pictures.get(&encoded) {
        Some(shown) => shown.clone(),
        None => STANDARD
            .decode(encoded.trim())
            .map_err(|error| row.error(format!("image is not base64 ({error})")))?
            .into(),
    };
    pictures.insert(id.to_owned(), bytes.clone());
    Ok(bytes)
}

impl Row<'_> {
    /// A cell, unless it is empty or `nan`, which the table's tools write for an empty one.
    fn given(&self, column: &str) -> Option<String> {
        let cell = self.cells.get(column)?.trim();
        (!cell.is_empty() && !cell.eq_ignore_ascii_case("nan")).then(|| cell.to_owned())
    }

    fn text(&self, column: &str) -> Result<String, EvalError> {
        self.given(column)
            .ok_or_else(|| self.error(format!("{column} is missing")))
    }

    fn error(&self, problem: String) -> EvalError {
        at(self.path, self.place.clone(), problem)
    }
}
