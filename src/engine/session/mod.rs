//! Sessions: one caller's questions, one after the other.

mod answer;
mod generation;
mod logprob;
mod policy;
pub(crate) mod record;
mod request;
pub(crate) mod text;

use std::ops::ControlFlow;

pub use answer::Answer;
pub use generation::Generation;
pub(crate) use generation::{OnEvent, hear};
pub use logprob::TokenLogprob;
pub use policy::AnyPolicy;
pub use request::{Event, Outcome, Request, StopReason};

use super::cache::Cache;
use super::options::SessionOptions;
use super::prompt::{EncodedPrompt, encode};
use super::{Error, Model, Projector};
use crate::policy::Policy;

/// Answers one request at a time, and remembers: a request that begins as an earlier one did, with the same picture or
/// with the conversation so far, is computed from there on.
///
/// ## Why does `generate` take `&mut self`?
/// It changes the KV cache and the buffers of the computation. Sessions share their model. For answers side by side take
/// one [`Cache`] instead.
pub struct Session {
    cache: Cache,
    options: SessionOptions,
    policy: AnyPolicy,
}

impl Session {
    /// Sets up a session.
    ///
    /// # Errors
    /// [`Error::OptionRange`], [`Error::QuantizedValues`], [`Error::Policy`]; [`Error::Unsupported`] if pruning was
    /// asked for and the model cannot be pruned; [`Error::Context`] where llama.cpp refuses.
    pub fn new(model: &Model, options: SessionOptions) -> Result<Self, Error> {
        options.policy.validate_for(model.n_layer())?;
        let policy = AnyPolicy::Config(options.policy.clone());
        Self::set_up(model, options, policy)
    }

    /// Sets up a session that prunes with a policy of the program's own. `options.policy` is not looked at.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_policy(
        model: &Model,
        options: SessionOptions,
        policy: impl Policy + 'static,
    ) -> Result<Self, Error> {
        Self::set_up(model, options, AnyPolicy::own(policy))
    }

    fn set_up(model: &Model, options: SessionOptions, policy: AnyPolicy) -> Result<Self, Error> {
        Ok(Self {
            cache: Cache::with_policy(model, &options, policy.clone())?,
            options,
            policy,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.cache.model()
    }

    /// How the session was set up.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Tokens of prompt and answer together.
    pub fn n_ctx(&self) -> u32 {
        self.cache.n_ctx()
    }

    /// Forgets what earlier requests have left: the next one is computed from its beginning.
    pub fn forget(&mut self) {
        self.cache.forget();
    }

    /// Answers a request. `on_event` hears what happens and may stop it: the answer then ends cleanly with what was
    /// generated so far.
    ///
    /// # Errors
    /// Whatever is wrong with the request: [`Error::OptionRange`], [`Error::Markers`], [`Error::EmptyPrompt`],
    /// [`Error::NoProjector`], [`Error::ForeignProjector`], [`Error::Template`], [`Error::Tokenize`],
    /// [`Error::Encode`], [`Error::PromptTooLong`], [`Error::Policy`], [`Error::NoCut`]; [`Error::NoRoom`],
    /// [`Error::OutOfMemory`]; [`Error::Compute`] where the computation fails.
    pub fn generate(
        &mut self,
        projector: Option<&mut Projector>,
        request: &Request,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome, Error> {
        self.begin(projector, request, &mut on_event)?.run(&mut on_event)
    }

    /// Answers a request piece by piece: the prompt is computed at once, the answer while it is iterated over.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn stream(
        &mut self,
        projector: Option<&mut Projector>,
        request: &Request,
    ) -> Result<Answer<'_>, Error> {
        self.begin(projector, request, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Session::generate`], for a prompt that is encoded already ([`encode`]): `prompt`, `images` and `chat_template`
    /// of the request are not looked at.
    ///
    /// # Errors
    /// As [`Session::generate`]; [`Error::ForeignPrompt`] for a prompt that was encoded for another model.
    pub fn generate_encoded(
        &mut self,
        prompt: &EncodedPrompt,
        request: &Request,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome, Error> {
        self.begin_encoded(prompt, request, &mut on_event)?
            .run(&mut on_event)
    }

    /// Encodes and computes the prompt. If it is stopped there, the answer has ended.
    fn begin(
        &mut self,
        projector: Option<&mut Projector>,
        request: &Request,
        on_event: OnEvent<'_>,
    ) -> Result<Answer<'_>, Error> {
        let encoder = projector.as_deref().map(Projector::facts);
        match encode(self.model(), projector, request, &mut *on_event)? {
            Some(prompt) => self.begin_encoded(&prompt, request, on_event),
            None => {
                let policy = request.policy.as_ref().unwrap_or(&self.policy);
                let report = record::start(self.model(), policy, encoder.as_ref());
                let generation = Generation::stopped(&self.cache, request, report)?;
                Ok(Answer::new(self, generation))
            }
        }
    }

    fn begin_encoded(
        &mut self,
        prompt: &EncodedPrompt,
        request: &Request,
        on_event: OnEvent<'_>,
    ) -> Result<Answer<'_>, Error> {
        if !self.options.remember {
            self.forget();
        }
        let generation = self
            .cache
            .begin_with(prompt, &self.policy, request, on_event, &mut |_| {})?;
        Ok(Answer::new(self, generation))
    }
}

impl Answer<'_> {
    /// Generates to the end, `on_event` hears the text.
    fn run(mut self, on_event: OnEvent<'_>) -> Result<Outcome, Error> {
        while let Some(text) = self.next_text()? {
            if on_event(Event::Text(&text)).is_break() {
                self.end();
                break;
            }
        }
        Ok(self.into_outcome())
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("model", self.model())
            .field("options", &self.options)
            .finish()
    }
}
