//! What is fetched: a repository, and which of its models.

use std::fmt;

use super::error::Error;

/// Longest name of a repository.
const MAX_LEN: usize = 256;

/// A model in a repository of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    repo: String,
    wanted: Wanted,
}

/// Which of the models of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    /// The usual one.
    Usual,
    /// The one with this quantization in its name.
    Quantization(String),
    /// The file of this path.
    File(String),
}

impl Source {
    /// Reads `user/repo` or `user/repo:QUANT`, where QUANT is a quantization as it is written in the names of files (`Q8_0`), in
    /// upper or lower case.
    ///
    /// # Errors
    /// [`Error::Source`]
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Source {
            given: text.to_owned(),
            reason,
        };
        let (repo, wanted) = match text.split_once(':') {
            None => (text, Wanted::Usual),
            Some((repo, tag)) if is_name(tag) => (repo, Wanted::Quantization(tag.to_owned())),
            Some(_) => return Err(wrong("what follows the colon is no quantization")),
        };
        let Some((user, name)) = repo.split_once('/') else {
            return Err(wrong("there is no / in it"));
        };
        if !is_name(user) || !is_name(name) || repo.len() > MAX_LEN {
            return Err(wrong("names have letters, digits, and - _ . between them"));
        }
        Ok(Self {
            repo: repo.to_owned(),
            wanted,
        })
    }

    /// The file of this path in the repository, whatever quantization was asked for. Of a split model it is the first part.
    #[must_use]
    pub fn with_file(self, path: impl Into<String>) -> Self {
        Self {
            wanted: Wanted::File(path.into()),
            ..self
        }
    }

    /// `user/repo`
    pub fn repo(&self) -> &str {
        &self.repo
    }

    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wanted {
            Wanted::Usual => write!(f, "{}", self.repo),
            Wanted::Quantization(tag) => write!(f, "{}:{tag}", self.repo),
            Wanted::File(path) => write!(f, "{}/{path}", self.repo),
        }
    }
}

/// Letters, digits and `_`, with single `-` and `.` between them: nothing that leads out of a folder or changes an address.
fn is_name(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    text.split(['-', '.']).all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_with_and_without_a_quantization() {
        let source = Source::parse("ggml-org/Qwen2.5-VL-7B-Instruct-GGUF").expect("a source");
        assert_eq!(source.repo(), "ggml-org/Qwen2.5-VL-7B-Instruct-GGUF");
        assert_eq!(source.wanted(), &Wanted::Usual);
        let source = Source::parse("user_1/llava:UD-Q4_K_XL").expect("a source");
        assert_eq!(
            (source.repo(), source.to_string()),
            ("user_1/llava", "user_1/llava:UD-Q4_K_XL".to_owned())
        );
        let source = source.with_file("q8/llava.gguf");
        assert_eq!(source.to_string(), "user_1/llava/q8/llava.gguf");
    }

    #[test]
    fn what_is_no_repository_is_refused() {
        for text in [
            "",
            "llava",
            "user/",
            "/llava",
            "user/llava/q4",
            "user/llava:",
            "user/llava:Q4_K_M:x",
            "user/llava:Q4/K",
            "../llava",
            "user/..",
            "user/a--1",
            "user/-a",
            "us er/llava",
            "user/llava?x",
            "https://huggingface.co/user/llava",
            "user/llävä",
        ] {
            let error = Source::parse(text).expect_err(text).to_string();
            assert!(error.contains("write user/repo"), "{error}");
        }
        let long = format!("user/{}", "a".repeat(MAX_LEN));
        assert!(Source::parse(&long).is_err());
    }
}
