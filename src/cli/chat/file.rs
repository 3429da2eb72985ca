//! Conversations as JSON files.
//!
//! ```json
//! {
//!   "version": 1,
//!   "system": "Be brief.",
//!   "exchanges": [
//!     {"pictures": ["/home/me/cat.jpg"], "text": "What is this?", "answer": " A cat.", "tokens": [319, 6635, 29889]}
//!   ]
//! }
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use visipruner::engine::Model;

use super::conversation::{Conversation, Picture, Turn, with_places};
use crate::cli::args::MarkerArg;
use crate::cli::error::Error;
use crate::cli::files;
use crate::cli::image::Background;
use crate::cli::output;

/// The version of the format.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    system: Option<String>,
    exchanges: Vec<SavedTurn>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedTurn {
    #[serde(default)]
    pictures: Vec<PathBuf>,
    text: String,
    /// What marks pictures in the text, where it is not the usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_marker: Option<String>,
    answer: String,
    /// Of the model that answered.
    #[serde(default)]
    tokens: Option<Vec<i32>>,
}

/// Writes a conversation. Pictures are written as the paths of their files.
///
/// # Errors
/// [`Error::Write`]; [`Error::Usage`] for a picture whose path is no text.
pub fn save(path: &Path, conversation: &Conversation) -> Result<(), Error> {
    let picture_path = |picture: &Picture| match picture.path.to_str() {
        Some(_) => Ok(picture.path.clone()),
        None => Err(Error::Usage(format!(
            "the picture {} has a name that JSON cannot hold: rename it",
            picture.path.display()
        ))),
    };
    let exchange = |turn: &Turn| {
        Ok(SavedTurn {
            pictures: turn
                .pictures
                .iter()
                .map(picture_path)
                .collect::<Result<_, Error>>()?,
            text: turn.text.clone(),
            image_marker: turn.marker.image_marker.clone(),
            answer: turn.answer.clone(),
            tokens: turn.tokens.clone(),
        })
    };
    let file = File {
        version: VERSION,
        system: conversation.system.clone(),
        exchanges: conversation
            .turns
            .iter()
            .map(exchange)
            .collect::<Result<_, Error>>()?,
    };
    output::check_writable("the conversation", path)?;
    output::write_json("the conversation", path, &file)
}

/// Reads a conversation with its pictures.
///
/// # Errors
/// [`Error::ReadConversation`] for files that are no conversations, [`Error::Picture`] for pictures that are gone.
pub fn load(path: &Path, background: Background) -> Result<Conversation, Error> {
    let cannot_read = |reason: String| Error::ReadConversation {
        path: path.to_owned(),
        reason,
    };
    let text = files::read_text(path).map_err(|error| cannot_read(error.to_string()))?;
    let file: File = serde_json::from_str(&text).map_err(|error| cannot_read(error.to_string()))?;
    if file.version != VERSION {
        return Err(cannot_read(format!(
            "it is of version {}, this program reads version {VERSION}",
            file.version
        )));
    }
    let turn = |saved: SavedTurn| {
        let marker = MarkerArg {
            image_marker: saved.image_marker,
        };
        with_places(&saved.text, &marker, saved.pictures.len())
            .map_err(|error| cannot_read(error.to_string()))?;
        Ok(Turn {
            pictures: saved
                .pictures
                .iter()
                .map(|path| Picture::read(path, background))
                .collect::<Result<_, Error>>()?,
            text: saved.text,
            marker,
            answer: saved.answer,
            tokens: saved.tokens,
        })
    };
    Ok(Conversation {
        system: file.system,
        turns: file
            .exchanges
            .into_iter()
            .map(turn)
            .collect::<Result<_, Error>>()?,
        ..Conversation::default()
    })
}

/// Leaves out the tokens of answers that another model gave: to this one they are other words, or none.
pub fn forget_foreign_tokens(conversation: &mut Conversation, model: &Model) {
    let n_vocab = model.n_vocab();
    let is_token = |&token: &i32| usize::try_from(token).is_ok_and(|token| token < n_vocab);
    for turn in &mut conversation.turns {
        turn.tokens = turn
            .tokens
            .take()
            .filter(|tokens| tokens.iter().all(is_token) && model.detokenize(tokens, false) == turn.answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(text: &str) -> Result<Conversation, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.json");
        std::fs::write(&path, text).expect("writes");
        load(&path, Background::WHITE).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_saved_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.json");
        let mut conversation = Conversation {
            marker: MarkerArg {
                image_marker: Some("none".to_owned()),
            },
            system: Some("Be \"brief\".".to_owned()),
            ..Conversation::default()
        };
        conversation.answered("what is <image>?\nwhere?".to_owned(), " é".to_owned(), vec![5, 6]);
        save(&path, &conversation).unwrap();
        let loaded = load(&path, Background::WHITE).unwrap();
        assert_eq!(loaded.system, conversation.system);
        assert_eq!(loaded.prompt("x").unwrap(), conversation.prompt("x").unwrap());
    }

    #[test]
    fn what_is_no_conversation_says_why() {
        for (text, part) in [
            ("", "EOF"),
            ("[]", "expected struct File"),
            (r#"{"version": 2, "exchanges": []}"#, "version 2"),
            (r#"{"version": 1, "exchanges": [], "sytem": "x"}"#, "sytem"),
            (r#"{"version": 1, "exchanges": [{"text": "x"}]}"#, "answer"),
            (
                r#"{"version": 1, "exchanges": [{"text": "<image>", "answer": "x"}]}"#,
                "1 image marker",
            ),
            (
                r#"{"version": 1, "exchanges": [{"text": "x", "answer": "x", "pictures": ["/no/such.png"]}]}"#,
                "/no/such.png",
            ),
        ] {
            let error = of_text(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    /// Every byte of a saved conversation another one, and every beginning of it.
    #[test]
    fn damaged_conversations_are_read_or_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.json");
        let mut conversation = Conversation {
            system: Some("Be brief.".to_owned()),
            ..Conversation::default()
        };
        conversation.answered("what?".to_owned(), "é".to_owned(), vec![5, 6]);
        save(&path, &conversation).unwrap();
        let good = std::fs::read(&path).expect("reads");
        let try_to_read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("writes");
            load(&path, Background::WHITE).map_err(|error| error.to_string())
        };
        let mut n_refused = 0;
        for at in 0..good.len() {
            for byte in [0, b'"', b'{', b'9', b'\\', 0xff, good[at] ^ 1] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                if let Err(error) = try_to_read(&bytes) {
                    assert!(error.contains("c.json"), "{error}");
                    n_refused += 1;
                }
            }
            if at < good.trim_ascii_end().len() {
                try_to_read(&good[..at])
                    .map(drop)
                    .expect_err("half a conversation");
            }
        }
        assert!(n_refused > good.len(), "{n_refused}");
    }
}
