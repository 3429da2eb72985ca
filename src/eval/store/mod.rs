//! The answers so far, in a file that survives being interrupted.
//!
//! JSON Lines. The first line says what the answers depend on; each policy is introduced by a line with its fields
//! before its first answer; every answer is a line of its own, written in one piece as soon as it is there. A process
//! that is killed loses at most the line that it was writing, which is noticed when the file is opened again. Lines
//! are not forced to the disk one by one, so a power failure may take more of them; their questions are asked again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::EvalError;
use super::record::Record;

/// What all answers of a store depend on, by name: the model's file and size, the hash of the question file, the
/// tokens of an answer at most, and so on. Not the policies, which the store keeps one by one, and not how many
/// questions are asked in which order, which changes no answer.
pub type Settings = BTreeMap<String, Value>;

/// The number of this form of the file.
const VERSION: u32 = 1;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    VisiprunerEval { version: u32, settings: Settings },
    Policy { label: String, fields: Value },
    Answer(Record),
}

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contents {
    /// What the answers depend on.
    pub settings: Settings,
    /// Label and fields of each policy, in the order in which they came.
    pub policies: Vec<(String, Value)>,
    /// The answers, in the order in which they were given.
    pub records: Vec<Record>,
}

impl Contents {
    /// Reads a store without changing it; an unfinished last line is left out.
    ///
    /// # Errors
    /// [`EvalError::Io`], [`EvalError::NotAStore`], [`EvalError::DamagedStore`].
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let text = std::fs::read(path).map_err(failed("read", path))?;
        parse(path, &text)?.map_or_else(|| Err(not_a_store(path)), |(contents, _)| Ok(contents))
    }
}

/// An open store. No other process can open it at the same time.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: File,
    contents: Contents,
    answered: HashSet<(String, String)>,
}

impl Store {
    /// Opens the store at `path` to go on with it, or begins one.
    ///
    /// # Errors
    /// [`EvalError::OtherSettings`] if it was begun with other settings, [`EvalError::NotAStore`] if the file is
    /// something else, [`EvalError::InUse`], [`EvalError::DamagedStore`], and [`EvalError::Io`].
    pub fn open(path: impl Into<PathBuf>, settings: &Settings) -> Result<Self, EvalError> {
        let path = path.into();
        let settings: Settings = settings
            .iter()
            .map(|(name, value)| (name.clone(), as_read(value)))
            .collect();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        lock(&file, &path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed("read", &path))?;
        let header = to_line(&Line::VisiprunerEval {
            version: VERSION,
            settings: settings.clone(),
        });
        let (contents, end) = match parse(&path, &text)? {
            Some(found) => found,
            // Killed while it wrote its first line, or new. Nothing else may be overwritten.
            None if header.as_bytes().starts_with(&text) => (Contents::default(), End::At(0)),
            None => return Err(not_a_store(&path)),
        };
        let mut store = Self {
            path,
            file,
            answered: HashSet::new(),
            contents,
        };
        store.cut(&end)?;
        if end == End::At(0) {
            store.write(&header)?;
            store.contents.settings = settings.clone();
        }
        store.check(&settings)?;
        let keys = store
            .contents
            .records
            .iter()
            .map(|record| (record.id.clone(), record.policy.clone()));
        store.answered = keys.collect();
        Ok(store)
    }

    /// Introduces a policy by its label and its fields, which must be those that it had before.
    ///
    /// # Errors
    /// [`EvalError::OtherSettings`] if the label stood for other fields, [`EvalError::Io`].
    pub fn add_policy(&mut self, label: &str, fields: &Value) -> Result<(), EvalError> {
        let fields = &as_read(fields);
        match self.contents.policies.iter().find(|(known, _)| known == label) {
            Some((_, before)) if before == fields => Ok(()),
            Some((_, before)) => Err(EvalError::OtherSettings {
                path: self.path.clone(),
                difference: format!("policy {label}: {before} then, {fields} now"),
            }),
            None => {
                self.write(&to_line(&Line::Policy {
                    label: label.to_owned(),
                    fields: fields.clone(),
                }))?;
                self.contents.policies.push((label.to_owned(), fields.clone()));
                Ok(())
            }
        }
    }

    /// Whether the question `id` was answered under the label `policy`.
    pub fn has(&self, id: &str, policy: &str) -> bool {
        self.answered.contains(&(id.to_owned(), policy.to_owned()))
    }

    /// Writes an answer. One that is there already stays as it is.
    ///
    /// # Errors
    /// [`EvalError::Io`]; the answer is then not in the store.
    pub fn add(&mut self, record: Record) -> Result<(), EvalError> {
        if self.has(&record.id, &record.policy) {
            return Ok(());
        }
        self.write(&to_line(&Line::Answer(record.clone())))?;
        self.answered.insert((record.id.clone(), record.policy.clone()));
        self.contents.records.push(record);
        Ok(())
    }

    /// What it holds.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Leaves the file at the end of its last whole line.
    fn cut(&mut self, end: &End) -> Result<(), EvalError> {
        match *end {
            End::At(n_bytes) => {
                self.file
                    .set_len(n_bytes as u64)
                    .map_err(failed("write", &self.path))?;
                self.file
                    .seek(SeekFrom::End(0))
                    .map_err(failed("write", &self.path))?;
                Ok(())
            }
            End::LacksNewline => {
                self.file
                    .seek(SeekFrom::End(0))
                    .map_err(failed("write", &self.path))?;
                self.write("\n")
            }
        }
    }

    /// Writes text at the end. If that fails (a full disk), the beginning of it that was written is taken back.
    fn write(&mut self, text: &str) -> Result<(), EvalError> {
        let before = self.file.stream_position().map_err(failed("write", &self.path))?;
        self.file.write_all(text.as_bytes()).map_err(|source| {
            let _ = self.file.set_len(before);
            let _ = self.file.seek(SeekFrom::Start(before));
            failed("write", &self.path)(source)
        })
    }

    fn check(&self, settings: &Settings) -> Result<(), EvalError> {
        let before = &self.contents.settings;
        let names: BTreeSet<&String> = before.keys().chain(settings.keys()).collect();
        let shown = |value: Option<&Value>| value.map_or("not set".to_owned(), Value::to_string);
        let differences: Vec<String> = names
            .into_iter()
            .filter(|name| before.get(*name) != settings.get(*name))
            .map(|name| {
                format!(
                    "{name}: {} then, {} now",
                    shown(before.get(name)),
                    shown(settings.get(name))
                )
            })
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        Err(EvalError::OtherSettings {
            path: self.path.clone(),
            difference: differences.join("; "),
        })
    }
}

/// Where a file's whole lines end.
#[derive(Debug, PartialEq)]
enum End {
    /// After so many bytes; what follows is the beginning of a line.
    At(usize),
    /// At its end, but the last line's line break was not written any more.
    LacksNewline,
}

/// The contents, and where they end. `None` if not even the first line is whole.
fn parse(path: &Path, text: &[u8]) -> Result<Option<(Contents, End)>, EvalError> {
    let n_whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |i| i + 1);
    let (whole, rest) = text.split_at(n_whole);
    let mut lines = Vec::new();
    for (i, line) in whole.split_inclusive(|&byte| byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(line) => lines.push(line),
            Err(_) if i == 0 => return Err(not_a_store(path)),
            Err(error) => return Err(damaged(path, i, error.to_string())),
        }
    }
    let mut end = End::At(n_whole);
    if let Ok(line) = serde_json::from_slice(rest) {
        lines.push(line);
        end = End::LacksNewline;
    }
    Ok(contents(path, lines)?.map(|contents| (contents, end)))
}

/// `None` without a single line.
fn contents(path: &Path, lines: Vec<Line>) -> Result<Option<Contents>, EvalError> {
    let mut lines = lines.into_iter().enumerate();
    let mut contents = match lines.next() {
        None => return Ok(None),
        Some((
            _,
            Line::VisiprunerEval {
                version: VERSION,
                settings,
            },
        )) => Contents {
            settings,
            ..Contents::default()
        },
        Some((i, Line::VisiprunerEval { version, .. })) => {
            return Err(damaged(
                path,
                i,
                format!("version {version} of the form, this program reads {VERSION}"),
            ));
        }
        Some(_) => return Err(not_a_store(path)),
    };
    for (i, line) in lines {
        match line {
            Line::VisiprunerEval { .. } => return Err(damaged(path, i, "a second beginning".to_owned())),
            Line::Policy { label, fields } => contents.policies.push((label, fields)),
            Line::Answer(record) => contents.records.push(record),
        }
    }
    Ok(Some(contents))
}

/// A lock that is held for no longer than this is waited for: a process that this one starts inherits it until it has
/// loaded its own program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// File systems without locks (some on networks) do without.
fn lock(file: &File, path: &Path) -> Result<(), EvalError> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_PATIENCE / 50);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(EvalError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) if source.kind() == ErrorKind::Unsupported => return Ok(()),
            Err(TryLockError::Error(source)) => return Err(failed("lock", path)(source)),
        }
    }
}

/// A value as it comes back from the file: numbers that were read may differ in the last bit from what was written.
fn as_read(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).expect("JSON that was just written")
}

fn to_line(line: &Line) -> String {
    serde_json::to_string(line).expect("lines have text keys and plain values") + "\n"
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EvalError {
    let path = path.to_owned();
    move |source| EvalError::Io { action, path, source }
}

fn not_a_store(path: &Path) -> EvalError {
    EvalError::NotAStore {
        path: path.to_owned(),
    }
}

fn damaged(path: &Path, i: usize, problem: String) -> EvalError {
    EvalError::DamagedStore {
        path: path.to_owned(),
        line: i + 1,
        problem,
    }
}

#[cfg(test)]
mod tests;
