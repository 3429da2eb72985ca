//! What the model is asked: text with places for images.

use crate::engine::Error;

/// What usually marks the place of an image in a text: `<image>` in LLaVA's files, `<__media__>` in llama.cpp's. They mean
/// nothing but where they are looked for, with [`Part::split`].
pub const IMAGE_MARKERS: [&str; 2] = ["<image>", "<__media__>"];

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// Text, taken as it is: markers in it mean nothing.
    Text(String),
    /// The place of the next image of the request.
    Image,
}

impl Part {
    /// A text with places for images where one of the markers stands.
    ///
    /// ```
    /// use visipruner::engine::{IMAGE_MARKERS, Part};
    ///
    /// let parts = Part::split("<image>What is this?", &IMAGE_MARKERS);
    /// assert_eq!(parts, [Part::Image, Part::Text("What is this?".to_owned())]);
    /// ```
    pub fn split(text: &str, markers: &[&str]) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let places = markers.iter().filter(|marker| !marker.is_empty());
            let next = places
                .filter_map(|marker| Some((rest.find(marker)?, marker.len())))
                .min();
            let Some((at, len)) = next else {
                parts.push(Self::Text(rest.to_owned()));
                return join_texts(parts);
            };
            parts.push(Self::Text(rest[..at].to_owned()));
            parts.push(Self::Image);
            rest = &rest[at + len..];
        }
    }
}

/// What the model is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt {
    /// Used as it is. Special tokens in it are recognised, BOS is added as the model's metadata says.
    Raw(Vec<Part>),
    /// A question, put into the model's chat template.
    Chat {
        /// The system message, if any.
        system: Option<String>,
        /// What was asked and answered before. The request's images are those of all turns, in order.
        history: Vec<Exchange>,
        /// The user's message. Images without a place in it come before it; a template may put all images of a message
        /// first, as LLaVA's does.
        user: Vec<Part>,
    },
}

/// A turn of a conversation that has been answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What was asked, with a place for each image.
    pub user: Vec<Part>,
    /// What was answered.
    pub answer: String,
    /// The tokens of the answer, where they are known: its text may have others.
    pub tokens: Option<Vec<i32>>,
}

impl Prompt {
    /// A text without images that is used as it is. With images:
    ///
    /// ```
    /// # use visipruner::engine::{IMAGE_MARKERS, Part, Prompt};
    /// let prompt = Prompt::Raw(Part::split("USER: <image>\nWhat is this? ASSISTANT:", &IMAGE_MARKERS));
    /// assert_eq!(prompt.n_markers(), 1);
    /// ```
    pub fn raw(text: &str) -> Self {
        Self::Raw(Part::split(text, &[]))
    }

    /// A question for the model's chat template, whatever its text holds. The images come first.
    pub fn chat(text: &str) -> Self {
        Self::chat_parts(Part::split(text, &[]))
    }

    /// A question for the model's chat template, with places for the images, or none: then they come first.
    pub fn chat_parts(user: Vec<Part>) -> Self {
        Self::Chat {
            system: None,
            history: Vec::new(),
            user,
        }
    }

    /// Places for images in the prompt, in all its turns.
    pub fn n_markers(&self) -> usize {
        self.n_markers_before() + count_places(self.user_parts())
    }

    /// Places for images in earlier turns.
    fn n_markers_before(&self) -> usize {
        match self {
            Self::Raw(_) => 0,
            Self::Chat { history, .. } => history.iter().map(|turn| count_places(&turn.user)).sum(),
        }
    }

    fn user_parts(&self) -> &[Part] {
        match self {
            Self::Raw(parts) | Self::Chat { user: parts, .. } => parts,
        }
    }

    /// The user's parts with a place for each of `n_images`.
    ///
    /// # Errors
    /// [`Error::Markers`] if there are places for another number of images, [`Error::EmptyPrompt`] if there is nothing.
    pub(crate) fn with_places(&self, n_images: usize) -> Result<Vec<Part>, Error> {
        let mut parts = self.user_parts().to_vec();
        let (n_markers, n_before) = (self.n_markers(), self.n_markers_before());
        if n_markers == n_before && n_before <= n_images && matches!(self, Self::Chat { .. }) {
            parts.splice(0..0, (n_before..n_images).map(|_| Part::Image));
        } else if n_markers != n_images {
            return Err(Error::Markers { n_markers, n_images });
        }
        let is_empty = |part: &Part| matches!(part, Part::Text(text) if text.is_empty());
        if parts.iter().all(is_empty) {
            return Err(Error::EmptyPrompt);
        }
        Ok(join_texts(parts))
    }
}

fn count_places(parts: &[Part]) -> usize {
    parts.iter().filter(|part| **part == Part::Image).count()
}

/// Neighbouring texts as one, empty ones left out: a tokenizer sees a text as a whole.
pub(crate) fn join_texts(parts: Vec<Part>) -> Vec<Part> {
    let mut joined: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match (joined.last_mut(), part) {
            (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
            (_, Part::Text(text)) if text.is_empty() => {}
            (_, part) => joined.push(part),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    #[test]
    fn markers_of_both_kinds_are_places() {
        let split = |text: &str| Part::split(text, &IMAGE_MARKERS);
        let parts = split("a<image>b<__media__><image>");
        assert_eq!(
            parts,
            [text("a"), Part::Image, text("b"), Part::Image, Part::Image]
        );
        assert_eq!(split("no <imag> here"), [text("no <imag> here")]);
        assert_eq!(split(""), []);
    }

    #[test]
    fn markers_are_what_the_caller_says() {
        assert_eq!(
            Part::split("a<image>[p]", &["[p]"]),
            [text("a<image>"), Part::Image]
        );
        assert_eq!(Part::split("<image>", &[]), [text("<image>")]);
        assert_eq!(Part::split("ab", &["", "b"]), [text("a"), Part::Image]);
        assert_eq!(
            Prompt::raw("<image>").n_markers() + Prompt::chat("<__media__>").n_markers(),
            0
        );
    }

    #[test]
    fn marker_text_in_a_part_is_text() {
        let prompt = Prompt::Raw(vec![Part::Image, text("what does <image> mean?")]);
        assert_eq!(prompt.n_markers(), 1);
        assert_eq!(
            prompt.with_places(1).unwrap(),
            [Part::Image, text("what does <image> mean?")]
        );
    }

    #[test]
    fn a_chat_without_markers_begins_with_its_images() {
        let parts = Prompt::chat("which?").with_places(2).unwrap();
        assert_eq!(parts, [Part::Image, Part::Image, text("which?")]);
    }

    #[test]
    fn counts_must_agree() {
        let error = Prompt::chat_parts(vec![Part::Image, text(" and "), Part::Image])
            .with_places(1)
            .unwrap_err();
        assert!(matches!(
            error,
            Error::Markers {
                n_markers: 2,
                n_images: 1
            }
        ));
        let error = Prompt::raw("nothing").with_places(1).unwrap_err();
        assert!(matches!(
            error,
            Error::Markers {
                n_markers: 0,
                n_images: 1
            }
        ));
    }

    #[test]
    fn nothing_is_no_prompt() {
        assert!(matches!(Prompt::raw("").with_places(0), Err(Error::EmptyPrompt)));
        assert!(matches!(Prompt::chat("").with_places(0), Err(Error::EmptyPrompt)));
        assert!(Prompt::chat("").with_places(1).is_ok());
    }
}
