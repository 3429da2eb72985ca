//! A question about pictures, and the answers that count as right.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::EvalError;
use super::scoring::Scoring;
use crate::rng::Rng;

/// A question, ready to be asked: the prompt is what the user says, without a chat template and without a marker for
/// the pictures, which come before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// What names it in the store; no two questions of a file have the same.
    pub id: String,
    /// The pictures, in the order in which they are shown. May be empty: ScienceQA has questions without one.
    pub images: Vec<ImageSource>,
    /// The text, with the benchmark's instruction ("Answer the question using a single word or phrase.") where it has
    /// one.
    pub prompt: String,
    /// What counts as right; see [`Scoring`] for what each rule makes of it. Empty only where questions
    /// without answers were [asked for](super::QuestionFile::without_answers).
    pub answers: Vec<String>,
    /// The options of a multiple-choice question, `options[0]` being A. Empty for other questions.
    pub options: Vec<String>,
    /// The part of the benchmark that it belongs to.
    pub category: Option<String>,
    /// Questions of one group are right together or not at all: the two questions that MME asks about a picture.
    pub group: Option<String>,
    /// How an answer is judged.
    pub scoring: Scoring,
}

/// Where a picture is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// In a file.
    Path(PathBuf),
    /// In memory, encoded as the file would be (JPEG, PNG): MMBench keeps its pictures inside the question file.
    Bytes(Arc<[u8]>),
}

/// The first `limit` questions in an order that depends on nothing but `seed` and their number; in the order of the
/// file without a seed.
pub fn select(mut questions: Vec<Question>, shuffle: Option<u64>, limit: Option<usize>) -> Vec<Question> {
    if let Some(seed) = shuffle {
        Rng::new(seed).shuffle(&mut questions);
    }
    questions.truncate(limit.unwrap_or(usize::MAX));
    questions
}

/// Looks for every picture before hours are spent on the first questions.
///
/// # Errors
/// [`EvalError::NoImage`] for the first one that is not there.
pub fn check_images(questions: &[Question]) -> Result<(), EvalError> {
    for question in questions {
        for image in &question.images {
            if let ImageSource::Path(path) = image
                && !path.is_file()
            {
                return Err(EvalError::NoImage {
                    id: question.id.clone(),
                    path: path.clone(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A question without pictures.
    pub fn question(id: &str, scoring: Scoring, answers: &[&str]) -> Question {
        Question {
            id: id.to_owned(),
            images: Vec::new(),
            prompt: format!("What about {id}?"),
            answers: answers.iter().map(|&answer| answer.to_owned()).collect(),
            options: Vec::new(),
            category: None,
            group: None,
            scoring,
        }
    }

    fn ids(questions: &[Question]) -> Vec<&str> {
        questions.iter().map(|question| question.id.as_str()).collect()
    }

    #[test]
    fn a_selection_depends_on_its_seed_alone() {
        let all: Vec<Question> = (0..50)
            .map(|i| question(&i.to_string(), Scoring::Exact, &["yes"]))
            .collect();
        let some = select(all.clone(), Some(7), Some(10));
        assert_eq!(some, select(all.clone(), Some(7), None)[..10]);
        assert_ne!(ids(&some), ids(&select(all.clone(), Some(8), Some(10))));
        assert_eq!(ids(&select(all.clone(), None, Some(3))), ["0", "1", "2"]);
        let mut sorted = select(all.clone(), Some(7), None);
        sorted.sort_by_key(|question| question.id.parse::<u32>().unwrap());
        assert_eq!(sorted, all);
    }

    #[test]
    fn a_missing_picture_is_named_with_its_question() {
        let mut asked = question("q1", Scoring::Exact, &["yes"]);
        asked.images = vec![ImageSource::Bytes([1, 2].into())];
        assert!(check_images(std::slice::from_ref(&asked)).is_ok());
        asked.images.push(ImageSource::Path("no/such/cat.png".into()));
        let message = check_images(&[asked]).unwrap_err().to_string();
        assert!(message.contains("q1") && message.contains("cat.png"), "{message}");
    }
}
