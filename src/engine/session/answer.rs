//! An answer as an iterator.

use super::Session;
use super::generation::Generation;
use super::request::{Outcome, StopReason};
use crate::engine::Error;

/// An answer in the making: an iterator over its text, in pieces of whole characters.
///
/// ```no_run
/// # use visipruner::engine::{Error, Prompt, Request, Session};
/// # fn run(session: &mut Session) -> Result<(), Error> {
/// let mut answer = session.stream(None, &Request::new(Prompt::chat("Why is the sky blue?")))?;
/// for text in &mut answer {
///     print!("{}", text?);
/// }
/// println!("\n{} tokens", answer.into_outcome().tokens.len());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Answer<'s> {
    session: &'s mut Session,
    generation: Generation,
}

impl<'s> Answer<'s> {
    pub(super) fn new(session: &'s mut Session, generation: Generation) -> Self {
        Self { session, generation }
    }

    /// The next piece of text, `None` when the answer has ended.
    pub(super) fn next_text(&mut self) -> Result<Option<String>, Error> {
        loop {
            let text = self.generation.take_text();
            if !text.is_empty() {
                return Ok(Some(text));
            }
            if self.generation.stop().is_some() {
                return Ok(None);
            }
            let stepped = self.session.cache.step(&mut [&mut self.generation]);
            stepped.inspect_err(|_| self.generation.end(StopReason::Cancelled))?;
            if let Some(error) = self.generation.take_error() {
                return Err(error);
            }
        }
    }

    pub(super) fn end(&mut self) {
        self.generation.end(StopReason::Cancelled);
    }

    /// The answer as far as it was iterated over. The next request that begins with it goes on from there.
    pub fn into_outcome(self) -> Outcome {
        self.session.cache.finish(self.generation)
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_text().transpose()
    }
}
