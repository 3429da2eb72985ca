//! Questions about the same pictures: from flags, and from a file with one per line.

use std::path::Path;

use serde::Deserialize;
use visipruner::engine::{self, Prompt};

use super::args::QuestionsArgs;
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
    let mut texts = args.prompts.clone();
    if let Some(path) = &args.questions {
        let failed = |reason: String| Error::Questions {
            path: path.clone(),
            reason,
        };
        let file = files::read_text(path).map_err(|error| failed(error.to_string()))?;
        texts.extend(of_file(path, &file).map_err(failed)?);
    }
    Ok(texts)
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
