//! How a template is given what messages hold. transformers' processors give lists of typed pieces, text and pictures, and
//! the template writes the model's token for each picture. Many templates take a message as one text: then the places of
//! its pictures are marked in it.

use minijinja::context;
use minijinja::value::Value;

use super::dialect;
use super::parts::{Exchange, Part};
use super::template::{Conversation, Specials};

/// How a template is given the messages of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// What the template writes for a picture that is a piece of its own. Without, pictures are marked in texts.
    picture: Option<String>,
    /// The user's messages.
    users: Form,
    /// The system's and the assistant's.
    others: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Pieces,
}

impl Content {
    /// The ways to try, best first.
    pub(super) fn candidates(template: &str, specials: &Specials) -> Vec<Self> {
        let typed = picture_of(template, specials).map(|picture| Self {
            picture: Some(picture),
            users: Form::Pieces,
            others: Form::Pieces,
        });
        let texts = Self {
            picture: None,
            users: Form::Text,
            others: Form::Text,
        };
        let text_pieces = Self {
            users: Form::Pieces,
            others: Form::Pieces,
            ..texts.clone()
        };
        let with_others_as_text = |content: &Self| Self {
            others: Form::Text,
            ..content.clone()
        };
        let mut candidates: Vec<_> = typed
            .iter()
            .flat_map(|typed| [typed.clone(), with_others_as_text(typed)])
            .collect();
        candidates.extend([texts, with_others_as_text(&text_pieces), text_pieces]);
        candidates
    }

    /// The conversation as the template writes it, with a mark where a picture stands.
    ///
    /// # Errors
    /// The template's error in one line, or what it did with a message that must not happen to it.
    pub(super) fn render(
        &self,
        template: &str,
        specials: &Specials,
        conversation: &Conversation<'_>,
        mark: Mark<'_>,
    ) -> Result<String, String> {
        // What looks like the template's picture in the texts of the conversation is text.
        let stand_in = self.picture.as_ref().map(|picture| StandIn {
            picture,
            text: conversation.unused_marker("text", &[template, picture]),
        });
        let messages = self.messages(conversation, mark, stand_in.as_ref());
        let mut text = render(template, specials, &messages)?;
        if is_printed(&text, &messages) {
            return Err("it takes messages as text".to_owned());
        }
        if let Some(StandIn { picture, text: own }) = stand_in {
            text = text.replace(picture, mark.place).replace(&own, picture);
        }
        check(&text, conversation, mark.place)?;
        Ok(text)
    }

    fn messages(
        &self,
        conversation: &Conversation<'_>,
        mark: Mark<'_>,
        stand_in: Option<&StandIn<'_>>,
    ) -> Vec<Value> {
        let text_of = |text: &str| match stand_in {
            Some(stand_in) => text.replace(stand_in.picture, &stand_in.text),
            None => text.to_owned(),
        };
        let other = |role: &str, text: &str| {
            let text = text_of(text);
            match self.others {
                Form::Text => context! { role, content => text },
                Form::Pieces => context! { role, content => vec![text_piece(&text)] },
            }
        };
        let user = |parts: &[Part]| {
            let content = match (stand_in, self.users) {
                (Some(_), _) => pieces(parts, text_of),
                (None, Form::Pieces) => Value::from(vec![text_piece(&mark.text(parts))]),
                (None, Form::Text) => Value::from(mark.text(parts)),
            };
            context! { role => "user", content }
        };
        let mut messages: Vec<Value> = Vec::new();
        messages.extend(conversation.system.map(|system| other("system", system)));
        for turn in conversation.history {
            messages.push(user(&turn.user));
            messages.push(other("assistant", turn.answer.trim()));
        }
        messages.push(user(conversation.user));
        messages
    }
}

/// What stands for the template's picture in texts.
struct StandIn<'a> {
    picture: &'a str,
    text: String,
}

/// How a picture is marked in a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark<'a> {
    /// A text that occurs nowhere else.
    pub(super) place: &'a str,
    /// Whether pictures before the text of a message have lines of their own.
    pub(super) own_lines: bool,
}

impl Mark<'_> {
    /// A user's message as one text.
    pub(super) fn text(self, parts: &[Part]) -> String {
        let n_first = parts.iter().take_while(|part| **part == Part::Image).count();
        let own_lines = self.own_lines && !parts[n_first..].contains(&Part::Image);
        let mut text = String::new();
        for part in parts {
            match part {
                Part::Text(own) if own_lines && n_first > 0 => {
                    text.push_str(own.strip_prefix('\n').unwrap_or(own));
                }
                Part::Text(own) => text.push_str(own),
                Part::Image => {
                    text.push_str(self.place);
                    text.push_str(if own_lines { "\n" } else { "" });
                }
            }
        }
        text
    }
}

/// Whether a rendered conversation holds every message.
fn check(text: &str, conversation: &Conversation<'_>, place: &str) -> Result<(), String> {
    let parts = || conversation.users().flatten();
    let texts_are_there = parts().all(|part| match part {
        Part::Text(own) => text.contains(own.trim()),
        Part::Image => true,
    });
    let n_images = parts().filter(|part| **part == Part::Image).count();
    if !texts_are_there || text.matches(place).count() != n_images {
        return Err("it leaves out the message".to_owned());
    }
    if conversation
        .system
        .is_some_and(|system| !text.contains(system.trim()))
    {
        return Err("it leaves out the system message".to_owned());
    }
    Ok(())
}

/// Whether every answer is in a rendered conversation. Templates of models that reason may leave out earlier reasoning.
pub(super) fn holds_answers(text: &str, history: &[Exchange]) -> bool {
    history.iter().all(|turn| text.contains(turn.answer.trim()))
}

/// A user's message as typed pieces.
fn pieces(parts: &[Part], text_of: impl Fn(&str) -> String) -> Value {
    let pieces = parts.iter().map(|part| match part {
        Part::Text(text) => text_piece(&text_of(text)),
        Part::Image => context! { type => "image" },
    });
    Value::from(pieces.collect::<Vec<_>>())
}

fn text_piece(text: &str) -> Value {
    context! { type => "text", text }
}

/// Whether a template wrote a piece as it is, or as JSON, instead of what it holds.
fn is_printed(text: &str, messages: &[Value]) -> bool {
    let contents = messages
        .iter()
        .filter_map(|message| message.get_attr("content").ok());
    let pieces = contents.filter(|content| content.as_str().is_none());
    let mut pieces = pieces.filter_map(|content| content.try_iter().ok()).flatten();
    pieces.any(|piece| {
        let json = dialect::json(&piece);
        text.contains(&piece.to_string()) || json.is_some_and(|json| text.contains(&json))
    })
}

/// What tokens of pictures begin and end with: `<image>`, `[IMG]`.
const OPENING: [char; 2] = ['<', '['];
const CLOSING: [char; 2] = ['>', ']'];
const BRACKETS: [char; 4] = ['<', '[', '>', ']'];

/// What a template writes for a picture among typed pieces, if it does: what one more picture adds to a message that has
/// one, without the blanks and words around the token.
fn picture_of(template: &str, specials: &Specials) -> Option<String> {
    let written = |n_pictures: usize| {
        let mut pieces = vec![text_piece("before")];
        pieces.resize(1 + n_pictures, context! { type => "image" });
        pieces.push(text_piece("after"));
        let messages = [context! { role => "user", content => pieces }];
        let text = render(template, specials, &messages).ok()?;
        let is_content = text.contains("before") && text.contains("after") && !is_printed(&text, &messages);
        is_content.then_some(text)
    };
    let (one, two) = (written(1)?, written(2)?);
    let added = added(&one, &two);
    let whole = added.iter().filter(|added| holds_whole_tokens(added));
    let mut tokens = whole.chain(&added).map(|added| token_of(added));
    let picture = tokens.find(|token| {
        let counts = [&one, &two].map(|text| text.matches(token).count());
        !token.is_empty() && counts == [1, 2]
    });
    picture.map(str::to_owned)
}

/// What stands in `two` and not in `one`, which are alike before and after it. What is there twice in a row begins anywhere
/// within (`<image>` as well as `image><`): the latest begin first.
fn added<'t>(one: &str, two: &'t str) -> Vec<&'t str> {
    let Some(n_added) = two.len().checked_sub(one.len()) else {
        return Vec::new();
    };
    let pairs = one.bytes().zip(two.bytes());
    let latest = pairs.take_while(|(a, b)| a == b).count();
    let begins = (0..=latest).rev().filter(|&begin| {
        let end = begin + n_added;
        two.is_char_boundary(begin)
            && two.is_char_boundary(end)
            && one.as_bytes()[begin..] == two.as_bytes()[end..]
    });
    begins.map(|begin| &two[begin..begin + n_added]).collect()
}

/// Whether no token is cut: the first bracket opens one, and the last one closes one.
fn holds_whole_tokens(written: &str) -> bool {
    let first = written.find(BRACKETS).map(|at| &written[at..]);
    let last = written.rfind(BRACKETS).map(|at| &written[at..]);
    first.is_some_and(|first| first.starts_with(OPENING))
        && last.is_some_and(|last| last.starts_with(CLOSING))
}

/// Without blanks around it, and without words: `<|vision_start|><|image_pad|><|vision_end|>` of `Picture 1: ` and that.
fn token_of(written: &str) -> &str {
    let written = written.trim();
    match (written.find(OPENING), written.rfind(CLOSING)) {
        (Some(begin), Some(end)) if begin < end && written.contains(char::is_whitespace) => {
            &written[begin..=end]
        }
        _ => written,
    }
}

fn render(template: &str, specials: &Specials, messages: &[Value]) -> Result<String, String> {
    let variables = context! {
        messages,
        add_generation_prompt => true,
        bos_token => specials.bos.as_str(),
        eos_token => specials.eos.as_str(),
        tools => (),
        documents => (),
    };
    dialect::render(template, variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(of_message: &str) -> Option<String> {
        let template = format!("{{% for message in messages %}}[{of_message}]{{% endfor %}}");
        picture_of(&template, &Specials::default())
    }

    #[test]
    fn what_a_template_writes_for_a_picture_is_found() {
        let pieces = |image: &str, more: &str| {
            format!(
                "{{% for piece in message.content %}}{{% if piece.type == 'image' %}}{image}{{% else %}}{{{{ piece.text \
                 }}}}{{% endif %}}{more}{{% endfor %}}"
            )
        };
        for (image, more, found) in [
            ("<image>", "", "<image>"),
            ("<image>\n", "", "<image>"),
            ("<image>", "\n", "<image>"),
            ("[IMG]", "", "[IMG]"),
            ("Picture: <|a|><|b|>", "", "<|a|><|b|>"),
            ("]<]image[>[", "", "]<]image[>["),
            ("the picture", "", "the picture"),
        ] {
            assert_eq!(
                picture(&pieces(image, more)).as_deref(),
                Some(found),
                "{image:?} {more:?}"
            );
        }
        // at the end, before what begins alike
        let last = "{{ message.content[0].text }}{{ message.content[-1].text }}{% for piece in message.content if \
                    piece.type == 'image' %}<|image|>{% endfor %}<|im_end|>";
        assert_eq!(picture(last).as_deref(), Some("<|image|>"));
    }

    #[test]
    fn templates_that_take_texts_write_no_picture() {
        for message in [
            "{{ message.content }}",
            "{{ message.content | tojson }}",
            "{% for piece in message.content %}{{ piece }}{% endfor %}",
            "{% for piece in message.content %}{{ piece.text }}{% endfor %}",
            "{{ '' + message.content }}",
            "{{ message.content[0].text }}<image>",
            "{{ raise_exception('texts only') }}",
        ] {
            assert_eq!(picture(message), None, "{message}");
        }
    }
}
