//! Questions about the same pictures: from flags, and from a file with one per line.

use std::path::Path;

use serde::Deserialize;
use visipruner::engine::{self, Prompt};

use super::args::{EscapeArgs, QuestionsArgs};
use super::error::Error;
use super::files;

/// A line of a JSON Lines file. What else stands there means nothing here.
#[derive(Deserialize)]
struct Line {
    prompt: String,
}

/// The questions, in order: at least one.
///
/// # Errors
/// [`Error::Questions`] for a file that cannot be read, is empty, or has a line of JSON without a question.
pub fn texts(args: &QuestionsArgs) -> Result<Vec<String>, Error> {
    let mut texts = args.escape.read_all(&args.prompts)?;
    for path in &args.files {
        texts.push(args.escape.read(&of_whole_file(path)?)?);
    }
    if let Some(path) = &args.questions {
        let failed = |reason: String| Error::Questions {
            flag: "--questions",
            path: path.clone(),
            reason,
        };
        let file = files::read_text(path).map_err(|error| failed(error.to_string()))?;
        texts.extend(of_file(path, &file).map_err(failed)?);
    }
    Ok(texts)
}

/// A question as a file holds it, without the line break at its end.
fn of_whole_file(path: &Path) -> Result<String, Error> {
    let text = files::read_text(path).map_err(|error| Error::Questions {
        flag: "--file",
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let end = ["\r\n", "\n"].into_iter().find(|end| text.ends_with(end));
    Ok(text[..text.len() - end.map_or(0, str::len)].to_owned())
}

impl EscapeArgs {
    /// What a text stands for, as llama.cpp reads it (`common.cpp: string_process_escapes`@0.1.161).
    ///
    /// # Errors
    /// [`Error::Usage`] for bytes that are no text.
    pub fn read(&self, text: &str) -> Result<String, Error> {
        if self.no_escape {
            return Ok(text.to_owned());
        }
        String::from_utf8(unescaped(text.as_bytes())).map_err(|_| {
            Error::Usage(format!(
                "the question {text:?} has \\x sequences that are no UTF-8: correct them, or use --no-escape"
            ))
        })
    }

    /// As [`read`](Self::read), of several.
    pub fn read_all(&self, texts: &[String]) -> Result<Vec<String>, Error> {
        texts.iter().map(|text| self.read(text)).collect()
    }
}

/// What is no known sequence stays as it is, backslash included.
fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let [first, rest @ ..] = text {
        let (byte, after) = match (first, rest) {
            (b'\\', [b'n', rest @ ..]) => (b'\n', rest),
            (b'\\', [b'r', rest @ ..]) => (b'\r', rest),
            (b'\\', [b't', rest @ ..]) => (b'\t', rest),
            (b'\\', [quoted @ (b'\'' | b'"' | b'\\'), rest @ ..]) => (*quoted, rest),
            (b'\\', [b'x', high, low, rest @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), rest)
            }
            _ => (*first, rest),
        };
        bytes.push(byte);
        text = after;
    }
    bytes
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).map_or(0, |value| value as u8)
}

/// Fails for a prompt that marks the places of other pictures than there are.
///
/// # Errors
/// [`engine::Error::Markers`]
pub fn check_places(prompt: &Prompt, n_images: usize) -> Result<(), Error> {
    let n_markers = prompt.n_markers();
    let is_placed = matches!(prompt, Prompt::Raw(_)) || n_markers > 0;
    if is_placed && n_markers != n_images {
        return Err(engine::Error::Markers { n_markers, n_images }.into());
    }
    Ok(())
}

/// As [`check_places`], of a question in a file: one wrong one is worth knowing of before hours are spent on the others.
///
/// # Errors
/// [`Error::Asked`]
pub fn check(id: &str, prompt: &Prompt, n_images: usize) -> Result<(), Error> {
    check_places(prompt, n_images).map_err(|error| Error::Asked {
        id: id.to_owned(),
        source: Box::new(error),
    })
}

fn of_file(path: &Path, file: &str) -> Result<Vec<String>, String> {
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "jsonl" || extension == "ndjson");
    let lines = file.lines().enumerate();
    let texts: Vec<String> = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            if is_json {
                let read: Result<Line, _> = serde_json::from_str(line);
                read.map(|line| line.prompt)
                    .map_err(|error| format!("line {}: {error}", i + 1))
            } else {
                Ok(line.trim().to_owned())
            }
        })
        .collect::<Result<_, String>>()?;
    if texts.is_empty() {
        return Err("there is no question in it".to_owned());
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_those_of_llama_cpp() {
        let read = |text: &str| {
            let args = EscapeArgs {
                escape: false,
                no_escape: false,
            };
            args.read(text).map_err(|error| error.to_string())
        };
        for (text, expected) in [
            (r"a\nb\tc\r", "a\nb\tc\r"),
            (r#"\'\"\\n"#, "'\"\\n"),
            (r"\x41\xe2\x9c\x93", "A\u{2713}"),
            (r"\q \x4 \xg1 \", r"\q \x4 \xg1 \"),
            ("\u{e4}\\n", "\u{e4}\n"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        assert!(read(r"\xff").unwrap_err().contains("--no-escape"));
        let as_it_is = EscapeArgs {
            escape: false,
            no_escape: true,
        };
        assert_eq!(as_it_is.read(r"a\nb").unwrap(), r"a\nb");
    }

    #[test]
    fn lines_and_json_lines() {
        let plain = of_file(Path::new("q.txt"), "What is it?\r\n\n  Why? \n").unwrap();
        assert_eq!(plain, ["What is it?", "Why?"]);
        let json = "{\"prompt\": \"Two\\nlines\", \"id\": 3}\n\n{\"prompt\": \"b\"}";
        assert_eq!(of_file(Path::new("q.jsonl"), json).unwrap(), ["Two\nlines", "b"]);
        let error = of_file(Path::new("q.jsonl"), "{\"prompt\": \"a\"}\n{\"text\": \"b\"}").unwrap_err();
        assert!(error.starts_with("line 2: missing field `prompt`"), "{error}");
        assert_eq!(
            of_file(Path::new("q.txt"), " \n").unwrap_err(),
            "there is no question in it"
        );
    }
}
