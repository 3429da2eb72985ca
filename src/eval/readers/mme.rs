//! MME (Fu et al., 2023, arXiv 2306.13394): two questions about each picture, one to be answered yes and one no. The
//! answers are in text files named like the pictures, `question<TAB>Yes`, in a folder per category: beside the
//! pictures, or in `questions_answers_YN` where the pictures are in `images`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::llava::{Line, SHORT_ANSWER};
use super::{EvalError, Place, Placed, QuestionFile, Scoring, beside, fields, llava};

/// The benchmark's folder.
pub const FOLDER: &str = "MME_Benchmark_release_version";
/// The instruction of MME's own files, which LLaVA replaces by its own.
const YES_OR_NO: &str = "Please answer yes or no.";

pub fn read(file: &QuestionFile, images: &Path) -> Result<Vec<Placed>, EvalError> {
    let folder = beside::find(file, FOLDER)?;
    let text = super::read_text(&file.questions)?;
    let mut n_of_image: HashMap<String, usize> = HashMap::new();
    let mut answers: HashMap<PathBuf, HashMap<String, String>> = HashMap::new();
    let mut questions = Vec::new();
    for line in llava::lines(&file.questions, &text)? {
        let path = answer_file(&folder, &line)?;
        if !answers.contains_key(&path) {
            answers.insert(path.clone(), read_answers(&path)?);
        }
        let asked = bare(&line.text);
        let Some(answer) = answers[&path].get(&asked) else {
            return Err(line.error(format!("text asks {asked:?}, which is not in {}", path.display())));
        };
        let (image, category) = (line.id.clone(), line.category.clone());
        let (place, mut question) = line.question(images, vec![answer.clone()], Scoring::Mme);
        let n = n_of_image.entry(image.clone()).or_default();
        *n += 1;
        question.id = format!("{image}#{n}");
        question.category = Some(category);
        question.group = Some(image);
        questions.push((place, question));
    }
    Ok(questions)
}

/// `artwork/images/0.jpg` has its answers in `artwork/questions_answers_YN/0.txt`, `color/0.jpg` in `color/0.txt`.
fn answer_file(folder: &Path, line: &Line) -> Result<PathBuf, EvalError> {
    let image = Path::new(&line.id);
    let stem = image
        .file_stem()
        .map(|stem| format!("{}.txt", stem.to_string_lossy()));
    let category = line
        .id
        .split('/')
        .next()
        .filter(|category| line.id.len() > category.len());
    let (Some(name), Some(category)) = (stem, category) else {
        return Err(line.error(format!(
            "question_id is {:?}, but must be CATEGORY/PICTURE",
            line.id
        )));
    };
    let apart = folder.join(category).join("questions_answers_YN").join(&name);
    Ok(if apart.is_file() {
        apart
    } else {
        folder.join(category).join(name)
    })
}

fn read_answers(path: &Path) -> Result<HashMap<String, String>, EvalError> {
    let text = super::read_text(path)?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let pair = line.trim().rsplit_once('\t');
            let (question, answer) = pair.ok_or_else(|| {
                fields::at(
                    path,
                    Place::Line(i + 1),
                    "no tab between question and answer".to_owned(),
                )
            })?;
            Ok((bare(question), answer.trim().to_owned()))
        })
        .collect()
}

/// The question without either instruction, with single blanks: MME's files have some double ones.
fn bare(question: &str) -> String {
    let plain = question.replace(SHORT_ANSWER, " ").replace(YES_OR_NO, " ");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}
