//! Question files: ours, and those of the published benchmarks as LLaVA's evaluation lays them out
//! (<https://github.com/haotian-liu/LLaVA/blob/main/docs/Evaluation.md>). One reader per file.

mod beside;
mod fields;
mod gqa;
mod jsonl;
mod llava;
mod mmbench;
mod mme;
mod pictures;
mod pope;
mod scienceqa;
mod textvqa;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::{EvalError, Place};
use super::question::Question;
use super::scoring::Scoring;

/// The form of a question file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Ours: a JSON object per line.
    Jsonl,
    /// Ours too: a JSON list of pictures with questions, as `models/demo/questions.json`.
    Pictures,
    /// `llava_pope_test.jsonl`, with the answers in `coco_pope_{random,popular,adversarial}.json`.
    Pope,
    /// `llava_gqa_testdev_balanced.jsonl`, with the answers in `testdev_balanced_questions.json`.
    Gqa,
    /// `llava_textvqa_val_v051_ocr.jsonl`, with the answers in `TextVQA_0.5.1_val.json`.
    TextVqa,
    /// `llava_mme.jsonl`, with the answers in text files in the folders of `MME_Benchmark_release_version`.
    Mme,
    /// `llava_test_CQM-A.json`, answers included.
    ScienceQa,
    /// `mmbench_dev_20230712.tsv`, answers and pictures included.
    MmBench,
}

impl Format {
    const ALL: [(&'static str, Self); 8] = [
        ("jsonl", Self::Jsonl),
        ("pictures", Self::Pictures),
        ("pope", Self::Pope),
        ("gqa", Self::Gqa),
        ("textvqa", Self::TextVqa),
        ("mme", Self::Mme),
        ("scienceqa", Self::ScienceQa),
        ("mmbench", Self::MmBench),
    ];

    /// Its name, as [`Format::from_str`] reads it.
    pub fn name(self) -> &'static str {
        let entry = Self::ALL.iter().find(|(_, format)| *format == self);
        entry.map_or("", |(name, _)| name)
    }

    /// Where the pictures are if nobody says so, relative to the question file's folder.
    fn image_folder(self) -> &'static str {
        match self {
            Self::Jsonl | Self::Pictures | Self::MmBench => "",
            Self::Pope => "val2014",
            Self::Gqa => "images",
            Self::TextVqa => "train_images",
            Self::Mme => mme::FOLDER,
            Self::ScienceQa => "images/test",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|&(_, format)| format).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("the format {name:?} is not one of: {}", known.join(", "))
        })
    }
}

/// What to read, and where the rest of it is. All but `questions` have defaults.
#[derive(Debug, Clone, Default)]
pub struct QuestionFile {
    /// The file with the questions.
    pub questions: PathBuf,
    /// Its format; found out from the file if `None`.
    pub format: Option<Format>,
    /// The folder that pictures' names are relative to. `None`: where LLaVA's evaluation expects them, if there is
    /// such a folder beside the file, else the file's own folder.
    pub image_dir: Option<PathBuf>,
    /// The file or folder with the answers, for formats that keep them apart. `None`: looked for by its published name
    /// beside the question file and one folder below.
    pub annotations: Option<PathBuf>,
    /// Nothing is judged: in our own formats questions without answers are read, too. Default: no.
    pub without_answers: bool,
    /// How answers are judged where the questions do not say: only our own formats leave that open. Default: exact.
    pub scoring: Scoring,
}

impl QuestionFile {
    /// Reads the questions, in the order of the file.
    ///
    /// # Errors
    /// [`EvalError::Entry`] with file, line and field for whatever is missing or not as it should be;
    /// [`EvalError::UnknownFormat`], [`EvalError::NoAnnotations`], [`EvalError::NoQuestions`], and [`EvalError::Io`].
    pub fn read(&self) -> Result<Vec<Question>, EvalError> {
        let format = match self.format {
            Some(format) => format,
            None => self.detect()?,
        };
        let questions = match format {
            Format::Jsonl => jsonl::read(self, &self.images(format)),
            Format::Pictures => pictures::read(self, &self.images(format)),
            Format::Pope => pope::read(self, &self.images(format)),
            Format::Gqa => gqa::read(self, &self.images(format)),
            Format::TextVqa => textvqa::read(self, &self.images(format)),
            Format::Mme => mme::read(self, &self.images(format)),
            Format::ScienceQa => scienceqa::read(self, &self.images(format)),
            Format::MmBench => mmbench::read(&self.questions),
        }?;
        self.checked(questions)
    }

    /// The format, from what the file looks like.
    ///
    /// # Errors
    /// [`EvalError::UnknownFormat`] if it looks like none or could be several; [`EvalError::Io`].
    pub fn detect(&self) -> Result<Format, EvalError> {
        let path = &self.questions;
        if path.extension().is_some_and(|extension| extension == "tsv") {
            return Ok(Format::MmBench);
        }
        let text = read_text(path)?;
        if text.trim_start().starts_with('[') {
            let is_scienceqa = text.contains("\"conversations\"");
            return Ok(if is_scienceqa {
                Format::ScienceQa
            } else {
                Format::Pictures
            });
        }
        let first = text.lines().find(|line| !line.trim().is_empty());
        let first = first.ok_or_else(|| EvalError::NoQuestions { path: path.clone() })?;
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
        detect_line(first, &name.unwrap_or_default()).map_err(|reason| EvalError::UnknownFormat {
            path: path.clone(),
            reason,
        })
    }

    fn images(&self, format: Format) -> PathBuf {
        if let Some(folder) = &self.image_dir {
            return folder.clone();
        }
        let folder = self.folder();
        let usual = folder.join(format.image_folder());
        if usual.is_dir() { usual } else { folder.to_owned() }
    }

    fn folder(&self) -> &Path {
        self.questions.parent().unwrap_or(Path::new(""))
    }

    /// Ids are unique, and every question can be judged, if it is to be.
    fn checked(&self, questions: Vec<Placed>) -> Result<Vec<Question>, EvalError> {
        let mut ids = HashSet::new();
        for (place, question) in &questions {
            let repeated = || {
                format!(
                    "id {:?} was there before: give each question its own",
                    question.id
                )
            };
            let cannot_be_judged = question.problem().filter(|_| !self.without_answers);
            let problem = cannot_be_judged.or_else(|| (!ids.insert(&question.id)).then(repeated));
            if let Some(problem) = problem {
                return Err(EvalError::Entry {
                    path: self.questions.clone(),
                    place: place.clone(),
                    problem,
                });
            }
        }
        if questions.is_empty() {
            return Err(EvalError::NoQuestions {
                path: self.questions.clone(),
            });
        }
        Ok(questions.into_iter().map(|(_, question)| question).collect())
    }
}

/// A question and where it stands in its file.
type Placed = (Place, Question);

fn detect_line(line: &str, file_name: &str) -> Result<Format, &'static str> {
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|_| "its first line is not a JSON object")?;
    let text = |key: &str| value[key].as_str().unwrap_or("");
    if value.get("question").is_some() {
        return Ok(Format::Jsonl);
    }
    if value.get("question_id").is_none() || value.get("text").is_none() {
        return Err("its first line has neither \"question\" nor \"question_id\" and \"text\"");
    }
    match () {
        () if pope::CATEGORIES.contains(&text("category")) => Ok(Format::Pope),
        () if text("question_id").contains('/') => Ok(Format::Mme),
        () if text("text").contains(textvqa::OCR_LINE) || file_name.contains("textvqa") => {
            Ok(Format::TextVqa)
        }
        () if file_name.contains("gqa") => Ok(Format::Gqa),
        () => Err("LLaVA's questions, but neither POPE, GQA, TextVQA nor MME by their look"),
    }
}

/// A file of text, without the mark that Windows' editors and Excel begin it with.
fn read_text(path: &Path) -> Result<String, EvalError> {
    let text = std::fs::read_to_string(path).map_err(|source| EvalError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
