//! What can go wrong with question files, stores and sweeps.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why an evaluation cannot be read, stored or planned. Every message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted: "read", "open", "write", "lock".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// One entry of a question file or of its annotations is not as it should be.
    #[error("{}, {place}: {problem}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The field, and what is wrong with it.
        problem: String,
    },

    /// A file that has to be JSON as a whole is not.
    #[error("{} is not the JSON that {expected} should be: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// What the parser said, with line and column.
        source: serde_json::Error,
    },

    /// A question file that no reader claims.
    #[error("{}: cannot tell the format of these questions ({reason}): say which it is", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What was looked at.
        reason: &'static str,
    },

    /// A question file without questions.
    #[error("{} has no questions", path.display())]
    NoQuestions {
        /// The file.
        path: PathBuf,
    },

    /// A file with the answers that belongs to a question file is not there.
    #[error(
        "the answers to {} are in {name}, which is neither beside it nor one folder below: put it there or give its path",
        questions.display()
    )]
    NoAnnotations {
        /// The question file.
        questions: PathBuf,
        /// The file or folder that was looked for.
        name: String,
    },

    /// A picture that a question asks about is not there.
    #[error("question {id} asks about {}, which is not there: give the pictures' folder", path.display())]
    NoImage {
        /// The question.
        id: String,
        /// The picture.
        path: PathBuf,
    },

    /// The file given as a store is something else.
    #[error("{} is not a store of answers: give another file, it would be overwritten", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
    },

    /// A store was begun with other settings.
    #[error(
        "{} was begun with other settings ({difference}): give another file, or the settings that it was begun with",
        path.display()
    )]
    OtherSettings {
        /// The store.
        path: PathBuf,
        /// Each setting that differs, with both values.
        difference: String,
    },

    /// Another process is writing to the store.
    #[error("{} is in use by another run: wait for it, or give another file", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },

    /// A line of a store that cannot be read although it is complete.
    #[error("{}, line {line} is damaged ({problem}): delete the line, and what it held is asked again", path.display())]
    DamagedStore {
        /// The store.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },

    /// A sweep that is not of the form FIELD=VALUE,VALUE.
    #[error(
        "the sweep {spec:?} {problem}: write FIELD=VALUE,VALUE,..., for example tokens_threshold=0.1,0.2,0.4"
    )]
    Sweep {
        /// What was given.
        spec: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Where an entry of a file stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line, from 1.
    Line(usize),
    /// An entry of a JSON list, from 1, or of a JSON object, by its key.
    Entry(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Entry(name) => write!(f, "entry {name}"),
        }
    }
}
