//! From a request to the rows of its prompt: template, tokens, pictures. No cache is needed for it, and no session: it may
//! run in another thread than the one that computes.

use std::ops::ControlFlow;
use std::time::Instant;

use super::encoded::{EncodedPrompt, PromptSize};
use super::family::Surroundings;
use super::template::Rendered;
use crate::engine::session::{Event, Request, hear};
use crate::engine::{CancelHandle, Error, Model, Projector};

/// Encodes a request's prompt. There is none if `on_event` or the request's [`cancel`](Request::cancel) stopped it.
///
/// # Errors
/// [`Error::Markers`], [`Error::EmptyPrompt`], [`Error::NoProjector`], [`Error::ForeignProjector`], [`Error::Template`],
/// [`Error::Tokenize`], [`Error::Encode`].
pub fn encode(
    model: &Model,
    projector: Option<&mut Projector>,
    request: &Request,
    mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Option<EncodedPrompt>, Error> {
    let began = Instant::now();
    let n_images = request.images.len();
    let rendered = model.rendered(request, Surroundings::of(projector.as_deref()))?;
    let n_pos = model.native().n_pos_per_embd();
    let of_pictures = projector.as_ref().filter(|_| n_images > 0);
    let of_pictures = of_pictures.and_then(|projector| projector.warning().map(str::to_owned));
    let warnings = rendered.warning.into_iter().chain(of_pictures).collect();
    let prompt = match projector {
        None if n_images > 0 => return Err(Error::NoProjector { n_images }),
        None => {
            let mut prompt = EncodedPrompt::new(n_pos, false);
            for (i, turn) in rendered.turns.into_iter().enumerate() {
                prompt.push_text(&model.tokenize_prompt(&turn.parts, i == 0)?);
                prompt.end_turn(
                    turn.answer
                        .as_ref()
                        .map(|answer| model.answer_tokens(answer))
                        .transpose()?
                        .as_deref(),
                );
            }
            Some(prompt)
        }
        Some(projector) if !projector.model().is_same(model) => {
            return Err(Error::ForeignProjector {
                projector: projector.path().to_owned(),
            });
        }
        Some(projector) => {
            let cancel: &CancelHandle = &request.cancel;
            projector.encode_prompt(rendered.turns, &request.images, |done, total| {
                hear(cancel, &mut on_event, Event::Encode { done, total })
            })?
        }
    };
    Ok(prompt.map(|prompt| EncodedPrompt {
        model: Some(model.downgrade()),
        encode_time: began.elapsed(),
        warnings,
        ..prompt
    }))
}

impl PromptSize {
    /// The size of a request's prompt. Nothing is encoded or computed.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn of(model: &Model, projector: Option<&Projector>, request: &Request) -> Result<Self, Error> {
        let images = &request.images;
        let rendered = model.rendered(request, Surroundings::of(projector))?;
        match projector {
            None if !images.is_empty() => Err(Error::NoProjector {
                n_images: images.len(),
            }),
            None => Ok(Self {
                n_text: text_tokens(model, &rendered)?,
                images: Vec::new(),
            }),
            Some(projector) => projector.prompt_size(&rendered.turns, images),
        }
    }
}

fn text_tokens(model: &Model, rendered: &Rendered) -> Result<usize, Error> {
    let mut n_tokens = 0;
    for (i, turn) in rendered.turns.iter().enumerate() {
        n_tokens += model.tokenize_prompt(&turn.parts, i == 0)?.len();
        if let Some(answer) = &turn.answer {
            n_tokens += model.answer_tokens(answer)?.len();
        }
    }
    Ok(n_tokens)
}
