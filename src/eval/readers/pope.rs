//! POPE (Li et al., 2023, arXiv 2305.10355): is there such an object in the picture?
//!
//! `llava_pope_test.jsonl` has the questions of all three categories, numbered through; the answers are in
//! `coco_pope_{category}.json` (JSON Lines despite its name), numbered from 1 in each. LLaVA's evaluation puts them
//! together by their order within the category, and so does this reader, which also checks that both have the same
//! number of questions and speak of the same picture.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::fields::{self, Fields};
use super::{EvalError, Placed, QuestionFile, Scoring, beside, llava};

/// The ways in which the objects that are not there were chosen.
pub const CATEGORIES: [&str; 3] = ["random", "popular", "adversarial"];

/// What one category's file says, in its order.
struct Labels {
    path: PathBuf,
    /// Picture and answer.
    entries: Vec<(String, String)>,
}

pub fn read(file: &QuestionFile, images: &Path) -> Result<Vec<Placed>, EvalError> {
    let text = super::read_text(&file.questions)?;
    let lines = llava::lines(&file.questions, &text)?;
    let mut labels: HashMap<String, Labels> = HashMap::new();
    let mut n_read: HashMap<String, usize> = HashMap::new();
    let mut questions = Vec::new();
    for line in lines {
        let category = line.category.clone();
        if !labels.contains_key(&category) {
            labels.insert(category.clone(), read_labels(file, &category)?);
        }
        let (of_category, n) = (&labels[&category], n_read.entry(category.clone()).or_default());
        let label = of_category.entries.get(*n);
        let Some((_, label)) = label.filter(|(image, _)| *image == line.image) else {
            return Err(line.error(mismatch(of_category, *n, &line.image)));
        };
        *n += 1;
        let (place, mut question) = line.question(images, vec![label.clone()], Scoring::YesNo);
        question.category = Some(category);
        questions.push((place, question));
    }
    for (category, labels) in &labels {
        let (n_questions, n_labels) = (n_read[category], labels.entries.len());
        if n_questions != n_labels {
            let place = super::Place::Line(n_questions + 1);
            let problem = format!(
                "the file has {n_labels} answers, {} has {n_questions} questions of {category}: take both from one release",
                file.questions.display()
            );
            return Err(fields::at(&labels.path, place, problem));
        }
    }
    Ok(questions)
}

fn read_labels(file: &QuestionFile, category: &str) -> Result<Labels, EvalError> {
    let path = beside::find(file, &format!("coco_pope_{category}.json"))?;
    let text = super::read_text(&path)?;
    let entry = |fields: Fields| Ok((fields.text("image")?, fields.text("label")?));
    let entries = fields::lines(&path, &text)?
        .into_iter()
        .map(entry)
        .collect::<Result<_, _>>()?;
    Ok(Labels { path, entries })
}

fn mismatch(labels: &Labels, n: usize, image: &str) -> String {
    let found = match labels.entries.get(n) {
        Some((other, _)) => format!("is about {other}"),
        None => "is not there".to_owned(),
    };
    format!(
        "image is {image}, but answer {} of {} {found}: take both from one release",
        n + 1,
        labels.path.display()
    )
}
