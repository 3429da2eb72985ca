//! The fields of one JSON object, with errors that say where it stands.

use std::path::Path;

use serde_json::{Map, Value};

use super::{EvalError, Place};

/// A JSON object in a file.
pub struct Fields<'a> {
    path: &'a Path,
    pub place: Place,
    values: Map<String, Value>,
}

/// The objects of a file with one per line. Empty lines are skipped.
///
/// # Errors
/// [`EvalError::Entry`] for a line that is no JSON object.
pub fn lines<'a>(path: &'a Path, text: &str) -> Result<Vec<Fields<'a>>, EvalError> {
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let place = Place::Line(i + 1);
            match serde_json::from_str(line) {
                Ok(Value::Object(values)) => Ok(Fields { path, place, values }),
                Ok(_) => Err(at(
                    path,
                    place,
                    "not a JSON object: write {\"image\": ...}".to_owned(),
                )),
                Err(error) => Err(at(path, place, format!("not JSON ({error})"))),
            }
        })
        .collect()
}

/// An entry's error.
pub fn at(path: &Path, place: Place, problem: String) -> EvalError {
    EvalError::Entry {
        path: path.to_owned(),
        place,
        problem,
    }
}

impl<'a> Fields<'a> {
    pub fn new(path: &'a Path, place: Place, values: Map<String, Value>) -> Self {
        Self { path, place, values }
    }

    /// The error of this entry.
    pub fn error(&self, problem: String) -> EvalError {
        at(self.path, self.place.clone(), problem)
    }

    /// The value of a key; `null` counts as not given.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// A text or a number, as text. `None` if it is not given.
    ///
    /// # Errors
    /// [`EvalError::Entry`] if it is something else.
    pub fn optional_text(&self, key: &str) -> Result<Option<String>, EvalError> {
        self.get(key).map(|value| self.as_text(key, value)).transpose()
    }

    /// A text or a number, as text.
    ///
    /// # Errors
    /// [`EvalError::Entry`] if it is not there or something else.
    pub fn text(&self, key: &str) -> Result<String, EvalError> {
        self.optional_text(key)?.ok_or_else(|| self.missing(key))
    }

    /// A text, or a list of texts; empty if it is not given.
    ///
    /// # Errors
    /// [`EvalError::Entry`] if it is something else.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, EvalError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(|value| self.as_text(key, value)).collect(),
            Some(value) => Ok(vec![self.as_text(key, value)?]),
        }
    }

    pub fn missing(&self, key: &str) -> EvalError {
        self.error(format!("{key} is missing"))
    }

    fn as_text(&self, key: &str, value: &Value) -> Result<String, EvalError> {
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            other => Err(self.error(format!("{key} is {other}, but must be text"))),
        }
    }
}
