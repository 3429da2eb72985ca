//! Files that belong to a question file.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::{EvalError, QuestionFile};

/// The file or folder `name`: the one given, else one beside the question file, else one in a folder beside it.
///
/// # Errors
/// [`EvalError::NoAnnotations`]
pub fn find(file: &QuestionFile, name: &str) -> Result<PathBuf, EvalError> {
    if let Some(given) = &file.annotations {
        let inside = given.join(name);
        return Ok(if inside.exists() { inside } else { given.clone() });
    }
    let folder = match file.folder() {
        folder if folder == Path::new("") => Path::new("."),
        folder => folder,
    };
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut candidates: Vec<PathBuf> = below.map(|entry| entry.path().join(name)).collect();
    candidates.sort();
    candidates.insert(0, folder.join(name));
    let found = candidates.into_iter().find(|path| path.exists());
    found.ok_or_else(|| EvalError::NoAnnotations {
        questions: file.questions.clone(),
        name: name.to_owned(),
    })
}

/// Reads a whole JSON file; `expected` says in the error what it should be.
///
/// # Errors
/// [`EvalError::Io`], [`EvalError::Json`]
pub fn read_json<T: DeserializeOwned>(path: &Path, expected: &'static str) -> Result<T, EvalError> {
    serde_json::from_str(&super::read_text(path)?).map_err(|source| EvalError::Json {
        path: path.to_owned(),
        expected,
        source,
    })
}
