//! What was said so far, with its pictures.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use visipruner::engine::{Exchange, Image, Part, Prompt};

use crate::cli::args::MarkerArg;
use crate::cli::error::Error;
use crate::cli::image::{self, Background, ImageSource};
use crate::cli::questions;

/// A picture of the conversation. Clones share its pixels.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Its file, absolute: a conversation may be gone on with from another folder.
    pub path: PathBuf,
    /// Its pixels.
    pub image: Rc<Image>,
}

impl Picture {
    /// Reads a picture.
    ///
    /// # Errors
    /// [`Error::Picture`]; [`Error::Usage`] for `-`, as standard input holds the messages.
    pub fn read(path: &Path, background: Background) -> Result<Self, Error> {
        if path.as_os_str() == "-" {
            return Err(Error::Usage(
                "a conversation takes its messages from standard input, and no picture: save it to a file"
                    .to_owned(),
            ));
        }
        let image = Rc::new(image::read(&ImageSource::File(path.to_owned()), background)?);
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, image })
    }

    /// The name of its file.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// A message that has been answered.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The pictures that came with it.
    pub pictures: Vec<Picture>,
    /// The message as it was written.
    pub text: String,
    /// What marks the places of its pictures in it.
    pub marker: MarkerArg,
    /// What was answered.
    pub answer: String,
    /// The tokens of the answer, where they are known.
    pub tokens: Option<Vec<i32>>,
}

/// A conversation, and the pictures that wait for its next message.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// What the model is told beforehand.
    pub system: Option<String>,
    /// What was asked and answered.
    pub turns: Vec<Turn>,
    /// Pictures that go with the next message.
    pub waiting: Vec<Picture>,
    /// What marks their places in it.
    pub marker: MarkerArg,
}

/// What was taken back.
#[derive(Debug, PartialEq, Eq)]
pub enum Undone {
    /// Pictures that waited for a message.
    Pictures(Vec<String>),
    /// The last message and its answer. Its pictures, if any, wait again.
    Exchange(Vec<String>),
    /// There was nothing.
    Nothing,
}

impl Conversation {
    /// All pictures in order, those that wait last.
    pub fn pictures(&self) -> impl DoubleEndedIterator<Item = &Picture> {
        self.turns
            .iter()
            .flat_map(|turn| &turn.pictures)
            .chain(&self.waiting)
    }

    /// The pixels of all pictures.
    pub fn images(&self) -> Vec<Image> {
        self.pictures()
            .map(|picture| Image::clone(&picture.image))
            .collect()
    }

    /// The conversation with one more message, to be answered.
    ///
    /// # Errors
    /// A message that marks the places of other pictures than wait for it.
    pub fn prompt(&self, message: &str) -> Result<Prompt, Error> {
        let exchange = |turn: &Turn| {
            Ok(Exchange {
                user: with_places(&turn.text, &turn.marker, turn.pictures.len())?,
                answer: turn.answer.clone(),
                tokens: turn.tokens.clone(),
            })
        };
        Ok(Prompt::Chat {
            system: self.system.clone(),
            history: self.turns.iter().map(exchange).collect::<Result<_, Error>>()?,
            user: with_places(message, &self.marker, self.waiting.len())?,
        })
    }

    /// Notes what a message was answered. The pictures that waited are its pictures.
    pub fn answered(&mut self, text: String, answer: String, tokens: Vec<i32>) {
        self.turns.push(Turn {
            pictures: std::mem::take(&mut self.waiting),
            text,
            marker: self.marker.clone(),
            answer,
            tokens: Some(tokens),
        });
    }

    /// Takes back what came last: pictures that wait, else the last exchange, as it was before the message was sent.
    pub fn undo(&mut self) -> Undone {
        if !self.waiting.is_empty() {
            return Undone::Pictures(names(&std::mem::take(&mut self.waiting)));
        }
        match self.turns.pop() {
            Some(turn) => {
                self.waiting = turn.pictures;
                Undone::Exchange(names(&self.waiting))
            }
            None => Undone::Nothing,
        }
    }

    /// Forgets everything but the system message.
    pub fn clear(&mut self) {
        self.turns.clear();
        self.waiting.clear();
    }
}

/// The names of pictures.
pub fn names(pictures: &[Picture]) -> Vec<String> {
    pictures.iter().map(Picture::name).collect()
}

/// A message with a place for each of its pictures: where a marker says so, without markers before the text.
///
/// # Errors
/// [`engine::Error::Markers`] for markers of another number of pictures.
pub fn with_places(text: &str, marker: &MarkerArg, n_pictures: usize) -> Result<Vec<Part>, Error> {
    let user = marker.split(text);
    let n_markers = user.iter().filter(|part| **part == Part::Image).count();
    questions::check_places(&Prompt::chat_parts(user.clone()), n_pictures)?;
    let first = if n_markers == 0 { n_pictures } else { 0 };
    Ok((0..first).map(|_| Part::Image).chain(user).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(name: &str) -> Picture {
        Picture {
            path: name.into(),
            image: Rc::new(Image::from_rgb8(1, 1, vec![1, 2, 3]).expect("an image")),
        }
    }

    fn talked() -> Conversation {
        let mut conversation = Conversation {
            system: Some("Be brief.".to_owned()),
            waiting: vec![picture("a.png")],
            ..Conversation::default()
        };
        conversation.answered("what?".to_owned(), " a cat".to_owned(), vec![1, 2]);
        conversation.answered("where?".to_owned(), " there".to_owned(), vec![3]);
        conversation
    }

    #[test]
    fn pictures_stay_with_their_messages() {
        let mut conversation = talked();
        conversation.waiting.push(picture("b.png"));
        let Prompt::Chat { history, user, .. } = conversation.prompt("and <image>?").unwrap() else {
            panic!("is no chat");
        };
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(history[0].user, [Part::Image, text("what?")]);
        assert_eq!(history[0].tokens, Some(vec![1, 2]));
        assert_eq!(history[1].user, [text("where?")]);
        assert_eq!(user, [text("and "), Part::Image, text("?")]);
        assert_eq!(conversation.images().len(), 2);
    }

    #[test]
    fn markers_must_be_those_of_the_pictures_that_wait() {
        let error = talked().prompt("and <image>?").unwrap_err().to_string();
        assert!(
            error.contains("1 image marker") && error.contains("0 image"),
            "{error}"
        );
    }

    #[test]
    fn a_message_keeps_what_marked_its_pictures() {
        let marker = |text: &str| MarkerArg {
            image_marker: Some(text.to_owned()),
        };
        let mut conversation = Conversation {
            marker: marker("none"),
            ..talked()
        };
        conversation.answered("what is <image>?".to_owned(), "a tag".to_owned(), vec![4]);
        conversation.marker = marker("[p]");
        conversation.waiting.push(picture("b.png"));
        let Ok(Prompt::Chat { history, user, .. }) = conversation.prompt("and [p]?") else {
            panic!("is no chat");
        };
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(history[2].user, [text("what is <image>?")]);
        assert_eq!(user, [text("and "), Part::Image, text("?")]);
    }

    #[test]
    fn undo_goes_back_step_by_step() {
        let mut conversation = talked();
        conversation.waiting.push(picture("/x/b.png"));
        assert_eq!(conversation.undo(), Undone::Pictures(vec!["b.png".to_owned()]));
        assert_eq!(conversation.undo(), Undone::Exchange(vec![]));
        assert_eq!(conversation.undo(), Undone::Exchange(vec!["a.png".to_owned()]));
        assert_eq!((conversation.turns.len(), conversation.waiting.len()), (0, 1));
        assert_eq!(conversation.undo(), Undone::Pictures(vec!["a.png".to_owned()]));
        assert_eq!(conversation.undo(), Undone::Nothing);
        assert!(conversation.system.is_some());
    }

    #[test]
    fn nothing_but_the_system_message_is_left_after_clear() {
        let mut conversation = talked();
        conversation.waiting.push(picture("b.png"));
        conversation.clear();
        assert_eq!(conversation.pictures().count(), 0);
        assert_eq!(
            conversation.prompt("what?").unwrap(),
            Prompt::Chat {
                system: Some("Be brief.".to_owned()),
                history: vec![],
                user: vec![Part::Text("what?".to_owned())]
            }
        );
    }
}
