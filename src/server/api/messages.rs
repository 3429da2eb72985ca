//! Messages of a conversation, as OpenAI's API has them.

use serde::Deserialize;

use super::ApiError;
use crate::engine::{Exchange, Part, Prompt};

/// A message. Fields that are not understood here (names, refusals, ...) are ignored.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Message {
    role: String,
    content: Option<Content>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of pieces with a type")]
enum Content {
    Text(String),
    Parts(Vec<Piece>),
}

/// A piece of a message.
#[derive(Debug, Clone, Deserialize)]
struct Piece {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    image_url: Option<ImageUrl>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected an object with a url")]
enum ImageUrl {
    Object { url: String },
    Bare(String),
}

/// A conversation with places for its pictures, and where these are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conversation {
    pub(crate) prompt: Prompt,
    pub(crate) image_urls: Vec<String>,
}

impl Conversation {
    /// Messages as turns: each the user's, with the answer that it got, the last one to be answered.
    ///
    /// # Errors
    /// 400 for roles and pieces that are not understood, and where the last message is not the user's.
    pub(crate) fn of(messages: &[Message]) -> Result<Self, ApiError> {
        let mut reader = Reader::default();
        for (i, message) in messages.iter().enumerate() {
            reader
                .take(message)
                .map_err(|reason| ApiError::field(format!("messages[{i}]"), reason))?;
        }
        let Some(user) = reader.user.take() else {
            return Err(ApiError::field(
                "messages",
                "the last one must be the user's: it is what is answered",
            ));
        };
        Ok(Self {
            prompt: Prompt::Chat {
                system: (!reader.system.is_empty()).then(|| reader.system.join("\n\n")),
                history: reader.history,
                user,
            },
            image_urls: reader.image_urls,
        })
    }
}

#[derive(Default)]
struct Reader {
    system: Vec<String>,
    history: Vec<Exchange>,
    /// What the user said since the last answer.
    user: Option<Vec<Part>>,
    image_urls: Vec<String>,
}

impl Reader {
    fn take(&mut self, message: &Message) -> Result<(), String> {
        match message.role.as_str() {
            "system" | "developer" => {
                let text = text_of(message)?;
                self.system.push(text);
                Ok(())
            }
            "user" => self.take_user(message),
            "assistant" => {
                let answer = text_of(message)?;
                // an assistant that speaks first answers nothing
                let user = self.user.take().unwrap_or_default();
                self.history.push(Exchange {
                    user,
                    answer,
                    tokens: None,
                });
                Ok(())
            }
            "tool" | "function" => Err("tools are not supported".to_owned()),
            other => Err(format!(
                "the role {other:?} is none of system, developer, user, assistant"
            )),
        }
    }

    fn take_user(&mut self, message: &Message) -> Result<(), String> {
        // several messages in a row are one
        let mut parts = match self.user.take() {
            Some(mut before) => {
                before.push(Part::Text("\n\n".to_owned()));
                before
            }
            None => Vec::new(),
        };
        match &message.content {
            None => return Err("a user's message needs a content".to_owned()),
            Some(Content::Text(text)) => parts.push(Part::Text(text.clone())),
            Some(Content::Parts(pieces)) => {
                for (i, piece) in pieces.iter().enumerate() {
                    let part = self.part(piece)?;
                    // two texts are two lines
                    if i > 0 && matches!((parts.last(), &part), (Some(Part::Text(_)), Part::Text(_))) {
                        parts.push(Part::Text("\n".to_owned()));
                    }
                    parts.push(part);
                }
            }
        }
        self.user = Some(parts);
        Ok(())
    }

    fn part(&mut self, piece: &Piece) -> Result<Part, String> {
        let missing = |field: &str| format!("a piece of type {:?} needs the field {field:?}", piece.kind);
        match piece.kind.as_str() {
            "text" | "input_text" => Ok(Part::Text(piece.text.clone().ok_or_else(|| missing("text"))?)),
            "image_url" | "input_image" => {
                let url = match piece.image_url.as_ref().ok_or_else(|| missing("image_url"))? {
                    ImageUrl::Object { url } | ImageUrl::Bare(url) => url,
                };
                self.image_urls.push(url.clone());
                Ok(Part::Image)
            }
            other => Err(format!("a piece of type {other:?} is none of text, image_url")),
        }
    }
}

fn text_of(message: &Message) -> Result<String, String> {
    match &message.content {
        None => Ok(String::new()),
        Some(Content::Text(text)) => Ok(text.clone()),
        Some(Content::Parts(pieces)) => {
            let text_of = |piece: &Piece| match piece.text.clone() {
                Some(text) => Ok(text),
                None => Err(format!(
                    "only the user's messages have pieces of type {:?}",
                    piece.kind
                )),
            };
            let texts: Vec<String> = pieces.iter().map(text_of).collect::<Result<_, _>>()?;
            Ok(texts.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn conversation(messages: Value) -> Result<Conversation, String> {
        let messages: Vec<Message> = serde_json::from_value(messages).expect("are messages");
        Conversation::of(&messages).map_err(|error| error.body()["error"]["message"].to_string())
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    #[test]
    fn turns_pictures_and_the_system() {
        let found = conversation(json!([
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": [{"type": "text", "text": "and kind"}]},
            {"role": "user", "content": [
                {"type": "text", "text": "a "},
                {"type": "image_url", "image_url": {"url": "data:1", "detail": "low"}},
                {"type": "text", "text": " b <image>"},
            ]},
            {"role": "assistant", "content": "yes", "refusal": null},
            {"role": "user", "content": "and this?"},
            {"role": "user", "content": [{"type": "image_url", "image_url": "data:2"}]},
        ]))
        .expect("is understood");
        let Prompt::Chat {
            system,
            history,
            user,
        } = found.prompt
        else {
            panic!("a chat");
        };
        assert_eq!(system.as_deref(), Some("be brief\n\nand kind"));
        assert_eq!(history[0].user, [text("a "), Part::Image, text(" b <image>")]);
        assert_eq!(history[0].answer, "yes");
        assert_eq!(user, [text("and this?"), text("\n\n"), Part::Image]);
        assert_eq!(found.image_urls, ["data:1", "data:2"]);
    }

    #[test]
    fn what_cannot_be_answered_is_said() {
        for (messages, reason) in [
            (json!([]), "the last one must be the user's"),
            (
                json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
                "the last one",
            ),
            (
                json!([{"role": "tool", "content": "a"}]),
                "messages[0]: tools are not supported",
            ),
            (json!([{"role": "king", "content": "a"}]), "king"),
            (json!([{"role": "user"}]), "needs a content"),
            (
                json!([{"role": "user", "content": [{"type": "input_audio"}]}]),
                "input_audio",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "image_url",
            ),
        ] {
            let error = conversation(messages).expect_err("is refused");
            assert!(error.contains(reason), "{error}");
        }
    }
}
