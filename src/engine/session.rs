//! Sessions: a KV cache and the computation of answers.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::answer::Answer;
use super::cancel::CancelHandle;
use super::dense;
use super::encoded::EncodedPrompt;
use super::image::Image;
use super::kv_plan::{KvPlan, Need};
use super::options::SessionOptions;
use super::prefill::{self, PrefillError, PrefillParams, Progress};
use super::projector::Projector;
use super::prompt::Part;
use super::record;
use super::request::{Event, Outcome, Request, StopReason};
use super::staged::{OnProbe, StagedPrompt};
use super::{Error, Model};
use crate::ffi::{self, Status};
use crate::policy::trace::PrefillTrace;
use crate::policy::{self, Embeddings, Needs, Policy, PolicyConfig, PromptLayout, Skipped, StagePolicy};

/// The longest context that a session has unless told otherwise: a model trained for 128 Ki tokens would take
/// gigabytes for its KV cache.
const DEFAULT_MAX_CTX: u32 = 8192;

/// Tokens of an answer that a suggested context size leaves room for.
const SUGGESTED_ANSWER: usize = 512;

/// What a user is told whose prompt keeps more vision tokens than its policy had said.
const BOUND_BROKEN: &str = "more vision tokens were kept than the KV cache had been allocated for, so the prompt was \
    computed twice, and the cache is as large as without pruning from now on: raise latest_fusion_layer or kept_budget \
    of the policy";

/// Hears what happens and may stop it.
pub(crate) type OnEvent<'a> = &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>;

/// Answers one request at a time.
///
/// ## Why does `generate` take `&mut self`?
/// It changes the KV cache and the buffers of the computation. Sessions share their model: for answers side by side
/// make several. A session keeps nothing from one request to the next.
pub struct Session {
    /// `None` if it could not be made anew; the next request tries again.
    context: Option<ffi::Context>,
    /// The request's rows.
    sequence: Option<ffi::Sequence>,
    model: Model,
    options: SessionOptions,
    params: ffi::ContextParams,
    /// `None`: stock llama.cpp.
    policy: Option<Arc<dyn Policy>>,
    kv: KvPlan,
    cancel: CancelHandle,
}

impl Session {
    /// Sets up a session.
    ///
    /// # Errors
    /// [`Error::OptionRange`], [`Error::QuantizedValues`], [`Error::Policy`]; [`Error::Unsupported`] if pruning was
    /// asked for and the model cannot be pruned; [`Error::Context`] where llama.cpp refuses.
    pub fn new(model: &Model, options: SessionOptions) -> Result<Self, Error> {
        options.policy.validate_for(model.n_layer())?;
        let policy = (options.policy != PolicyConfig::Off)
            .then(|| Arc::new(options.policy.clone()) as Arc<dyn Policy>);
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
        let options = SessionOptions {
            policy: PolicyConfig::Off,
            ..options
        };
        Self::set_up(model, options, Some(Arc::new(policy)))
    }

    fn set_up(
        model: &Model,
        options: SessionOptions,
        policy: Option<Arc<dyn Policy>>,
    ) -> Result<Self, Error> {
        options.validate()?;
        let kv = match &policy {
            None => KvPlan::stock(),
            Some(policy) => {
                model.supports_pruning()?;
                let n_layer = model.n_layer();
                let on_some_prompt = policy.build(n_layer, &some_prompt())?;
                KvPlan::new(&policy.cuts(n_layer), on_some_prompt.as_ref())
            }
        };
        let n_threads = n_threads(options.n_threads);
        let params = ffi::ContextParams {
            n_seq_max: 1,
            n_ctx: options.n_ctx.unwrap_or_else(|| default_n_ctx(model)),
            n_batch: options.n_batch.max(options.n_ubatch),
            n_ubatch: options.n_ubatch,
            n_threads,
            n_threads_batch: n_threads,
            flash_attn: options.flash_attn.into(),
            type_k: options.type_k.ggml_type(),
            type_v: options.type_v.ggml_type(),
            offload_kqv: options.offload_kqv,
        };
        let cancel = CancelHandle::default();
        let context = new_context(model, &params, kv.groups())?;
        Ok(Self {
            context: Some(context),
            sequence: None,
            model: model.clone(),
            options,
            params,
            policy,
            kv,
            cancel,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How the session was set up.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Tokens of prompt and answer together.
    pub fn n_ctx(&self) -> u32 {
        self.params.n_ctx // llama.cpp rounds up; what was asked for is what holds
    }

    /// Stops the running request, from any thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Answers a request. `on_event` hears what happens and may stop it: the answer then ends cleanly with what was
    /// generated so far.
    ///
    /// # Errors
    /// Whatever is wrong with the request: [`Error::OptionRange`], [`Error::Markers`], [`Error::EmptyPrompt`],
    /// [`Error::NoProjector`], [`Error::ForeignProjector`], [`Error::Template`], [`Error::Tokenize`],
    /// [`Error::Encode`], [`Error::PromptTooLong`]; [`Error::Compute`] where the computation fails.
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

    /// Encodes a request's prompt once, for several calls of [`Session::generate_encoded`]. There is none if `on_event`
    /// or a cancellation stopped it.
    ///
    /// # Errors
    /// As [`Session::generate`], as far as they concern the prompt.
    pub fn encode(
        &self,
        projector: Option<&mut Projector>,
        request: &Request,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<EncodedPrompt>, Error> {
        self.encode_request(projector, request, &mut on_event)
    }

    /// As [`Session::generate`], for a prompt that is encoded already: `prompt`, `images` and `chat_template` of the
    /// request are not looked at.
    ///
    /// # Errors
    /// As [`Session::generate`]; [`Error::ForeignPrompt`] for a prompt that was encoded for another model.
    pub fn generate_encoded(
        &mut self,
        prompt: &EncodedPrompt,
        request: &Request,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome, Error> {
        self.check_prompt(prompt)?;
        let report = record::start(self, prompt.encoded_by.as_ref());
        let mut answer = Answer::new(self, request, report)?.begun_earlier_by(prompt.encode_time);
        answer.compute_prompt(prompt, request, &mut on_event)?;
        answer.run(&mut on_event)
    }

    /// # Errors
    /// [`Error::ForeignPrompt`] for a prompt that was encoded for another model.
    pub(crate) fn check_prompt(&self, prompt: &EncodedPrompt) -> Result<(), Error> {
        let model = prompt.model.as_ref();
        if model.is_some_and(|model| model.is_same(&self.model)) {
            Ok(())
        } else {
            Err(Error::ForeignPrompt)
        }
    }

    /// Encodes and computes the prompt. If it is stopped there, the answer has ended.
    fn begin(
        &mut self,
        projector: Option<&mut Projector>,
        request: &Request,
        on_event: OnEvent<'_>,
    ) -> Result<Answer<'_>, Error> {
        let encoder = projector.as_deref().map(Projector::facts);
        let report = record::start(self, encoder.as_ref());
        let mut answer = Answer::new(self, request, report)?;
        match answer.session().encode_request(projector, request, on_event)? {
            Some(prompt) => answer.compute_prompt(&prompt, request, on_event)?,
            None => {
                answer.end(StopReason::Cancelled);
            }
        }
        Ok(answer)
    }

    /// The name of the program's own policy, if it brought one.
    pub(crate) fn custom_policy(&self) -> Option<String> {
        let is_own = self.options.policy == PolicyConfig::Off;
        self.policy
            .as_ref()
            .filter(|_| is_own)
            .map(|policy| policy.name())
    }

    /// The context of a request, which [`fit`](Self::fit) has seen to.
    pub(crate) fn context(&mut self) -> &mut ffi::Context {
        self.context.as_mut().expect("fit makes one, or is an error")
    }

    pub(crate) fn context_and_sequence(&mut self) -> (&mut ffi::Context, &ffi::Sequence) {
        let context = self.context.as_mut().expect("fit makes one, or is an error");
        (
            context,
            self.sequence.as_ref().expect("fit makes one, or is an error"),
        )
    }

    /// Runs the token that the answer goes on with.
    pub(crate) fn decode(&mut self, token: i32, pos: i32) -> Result<(), ffi::Error> {
        let flag = self.cancel.flag();
        let (context, sequence) = self.context_and_sequence();
        context.watching(&flag, |context| {
            context.decode(&[ffi::Token { sequence, token, pos }], 0)
        })
    }

    fn encode_request(
        &self,
        projector: Option<&mut Projector>,
        request: &Request,
        on_event: OnEvent<'_>,
    ) -> Result<Option<EncodedPrompt>, Error> {
        let began = Instant::now();
        let n_images = request.images.len();
        let rendered = self
            .model
            .rendered(&request.prompt, n_images, request.chat_template.as_deref())?;
        let prompt = self.encode_parts(projector, &rendered.parts, &request.images, on_event)?;
        Ok(prompt.map(|prompt| EncodedPrompt {
            model: Some(self.model.clone()),
            encode_time: began.elapsed(),
            warning: rendered.warning,
            ..prompt
        }))
    }

    /// Tokenizes and encodes the prompt. There is none if the caller stopped it.
    fn encode_parts(
        &self,
        projector: Option<&mut Projector>,
        parts: &[Part],
        images: &[Image],
        on_event: OnEvent<'_>,
    ) -> Result<Option<EncodedPrompt>, Error> {
        let Some(projector) = projector else {
            if !images.is_empty() {
                return Err(Error::NoProjector {
                    n_images: images.len(),
                });
            }
            let mut prompt = EncodedPrompt::new(self.model.native().n_pos_per_embd(), false);
            prompt.push_text(&self.model.tokenize_prompt(parts)?);
            return Ok(Some(prompt));
        };
        if !projector.model().is_same(&self.model) {
            return Err(Error::ForeignProjector {
                projector: projector.path().to_owned(),
            });
        }
        projector.encode_prompt(parts, images, |done, total| {
            self.hear(on_event, Event::Encode { done, total })
        })
    }

    /// Makes sure that the prompt can be computed: an empty memory, room, and batches that hold what must be together.
    pub(crate) fn fit(&mut self, prompt: &EncodedPrompt, n_predict: usize) -> Result<(), Error> {
        let n_tokens = prompt.layout.n_rows;
        if n_tokens == 0 {
            return Err(Error::EmptyPrompt);
        }
        if n_tokens > self.n_ctx() as usize {
            let suggested = (n_tokens + n_predict.min(SUGGESTED_ANSWER)).next_multiple_of(256);
            let (n_vision, n_ctx) = (prompt.layout.n_vision(), self.n_ctx());
            return Err(Error::PromptTooLong {
                n_tokens,
                n_vision,
                n_ctx,
                suggested,
            });
        }
        let together = if prompt.non_causal {
            prompt.longest_image() as u32
        } else {
            0
        };
        let is_too_small = self
            .context
            .as_ref()
            .is_none_or(|context| together > context.n_ubatch());
        if is_too_small {
            self.params.n_ubatch = self.params.n_ubatch.max(together);
            self.params.n_batch = self.params.n_batch.max(together);
        }
        let need = Need {
            layout: &prompt.layout,
            n_predict,
            n_ctx: self.n_ctx() as usize,
        };
        let has_grown = match self.policy_for(prompt)? {
            Some(policy) => self.kv.fit(policy.as_ref(), need),
            None => false,
        };
        self.sequence = None;
        if self.context.is_none() || is_too_small || has_grown {
            self.renew_context()?;
        }
        self.sequence = Some(self.context().new_sequence().map_err(compute("the prompt"))?);
        Ok(())
    }

    /// The old context goes before the new one comes: there need not be memory for both.
    fn renew_context(&mut self) -> Result<(), Error> {
        self.context = None;
        let context = new_context(&self.model, &self.params, self.kv.groups())?;
        self.context = Some(context);
        Ok(())
    }

    /// The session's policy at work on a prompt; `None` for stock llama.cpp.
    fn policy_for(&self, prompt: &EncodedPrompt) -> Result<Option<Box<dyn StagePolicy>>, Error> {
        let begin =
            |policy: &Arc<dyn Policy>| policy::begin(policy.as_ref(), self.model.n_layer(), &prompt.layout);
        Ok(self.policy.as_ref().map(begin).transpose()?)
    }

    /// Computes the prompt. There is no trace if it was stopped.
    pub(crate) fn prefill(
        &mut self,
        prompt: &EncodedPrompt,
        on_event: OnEvent<'_>,
    ) -> Result<Option<PrefillTrace>, Error> {
        let Some(mut policy) = self.policy_for(prompt)? else {
            return self.prefill_dense(prompt, on_event);
        };
        let mut look = |_: &mut ffi::Context, _: &ffi::Sequence, _| Ok(());
        let mut result = self.prefill_staged(prompt, policy.as_mut(), on_event, &mut look);
        if lacked_room(&result) && self.kv.give_all() {
            // The policy kept more than it had promised.
            self.sequence = None;
            self.renew_context()?;
            self.sequence = Some(self.context().new_sequence().map_err(compute("the prompt"))?);
            if let Some(mut policy) = self.policy_for(prompt)? {
                result = self.prefill_staged(prompt, policy.as_mut(), on_event, &mut look);
            }
        }
        unless_stopped(result)
    }

    fn prefill_dense(
        &mut self,
        prompt: &EncodedPrompt,
        on_event: OnEvent<'_>,
    ) -> Result<Option<PrefillTrace>, Error> {
        let (cancel, n_rows) = (self.cancel.clone(), prompt.layout.n_rows);
        let mut on_progress = |n_done| hear(&cancel, on_event, Event::Prefill(n_done as f32 / n_rows as f32));
        let (context, sequence) = self.context_and_sequence();
        let computed = context.watching(&cancel.flag(), |context| {
            dense::prefill(context, sequence, prompt, &mut on_progress)
        });
        match computed {
            Ok(ControlFlow::Continue(())) => Ok(Some(PrefillTrace::dense(
                &prompt.layout,
                self.model.n_layer(),
                Skipped::Off,
            ))),
            Ok(ControlFlow::Break(())) => Ok(None),
            Err(error) if error.status == Status::Aborted => Ok(None),
            Err(error) => Err(compute("the prompt")(error)),
        }
    }

    /// Runs a prompt that [`fit`](Self::fit) has made room for through all layers as a policy says.
    pub(crate) fn prefill_staged(
        &mut self,
        prompt: &EncodedPrompt,
        policy: &mut dyn StagePolicy,
        on_event: OnEvent<'_>,
        on_probe: OnProbe<'_>,
    ) -> Result<PrefillTrace, PrefillError<ffi::Error>> {
        let n_layer = self.model.n_layer();
        let failed = |source| PrefillError::Engine {
            layers: 0..n_layer,
            source,
        };
        let text = match policy.needs_embeddings() {
            Needs::Nothing | Needs::Vision => None,
            Needs::VisionAndText => Some(self.text_embeddings(prompt).map_err(failed)?),
        };
        let cuts = self
            .policy
            .as_ref()
            .map_or_else(Vec::new, |policy| policy.cuts(n_layer));
        let (n_batch, n_ubatch) = (self.context().n_batch(), self.context().n_ubatch());
        let params = PrefillParams {
            layout: &prompt.layout,
            n_layer,
            cuts: &cuts,
            max_rows_per_call: n_batch as usize,
            max_rows_per_attention_probe: n_ubatch as usize,
            causal_images: !prompt.non_causal,
            embeddings: Some(Embeddings {
                n_embd: self.model.native().n_embd_inp(),
                vision: &prompt.embd,
                text: text.as_deref(),
            }),
        };
        let cancel = self.cancel.clone();
        let mut on_progress = |progress: Progress| {
            let done = progress.n_done as f32 / progress.n_total.max(1) as f32;
            hear(&cancel, on_event, Event::Prefill(done))
        };
        let flag = self.cancel.flag();
        let (context, sequence) = self.context_and_sequence();
        context.watching(&flag, |context| {
            let mut engine = StagedPrompt::begin(context, sequence, prompt, on_probe).map_err(failed)?;
            prefill::prefill(&mut engine, &params, policy, &mut on_progress)
        })
    }

    /// The text rows of a prompt as the token embedding has them: `[text rows][n_embd]`.
    fn text_embeddings(&self, prompt: &EncodedPrompt) -> Result<Vec<f32>, ffi::Error> {
        let is_text = |token: &i32| *token != -1;
        let tokens: Vec<i32> = prompt.token.iter().copied().filter(is_text).collect();
        self.model.native().token_embd(&tokens)
    }

    /// Passes an event on, unless the request is to stop anyway.
    fn hear(&self, on_event: OnEvent<'_>, event: Event<'_>) -> ControlFlow<()> {
        hear(&self.cancel, on_event, event)
    }
}

impl Answer<'_> {
    /// Everything up to the first token. If it is stopped, the answer has ended.
    fn compute_prompt(
        &mut self,
        prompt: &EncodedPrompt,
        request: &Request,
        on_event: OnEvent<'_>,
    ) -> Result<(), Error> {
        self.report().times_ms.encode = record::ms(prompt.encode_time);
        match self.prefill(prompt, request, on_event)? {
            Some(trace) => self.starts_after(prompt, &trace, request),
            None => {
                self.end(StopReason::Cancelled);
            }
        }
        Ok(())
    }

    fn prefill(
        &mut self,
        prompt: &EncodedPrompt,
        request: &Request,
        on_event: OnEvent<'_>,
    ) -> Result<Option<PrefillTrace>, Error> {
        if self.warn(prompt.warning.clone(), on_event).is_break() {
            return Ok(None);
        }
        self.session().fit(prompt, request.n_predict)?;
        let too_long = record::beyond_training(self.session(), prompt);
        if self.warn(too_long, on_event).is_break() {
            return Ok(None);
        }
        let began = Instant::now();
        let was_bounded = self.session().kv.is_bounded();
        let trace = self.session().prefill(prompt, on_event)?;
        self.report().times_ms.prefill = record::ms(began.elapsed());
        let Some(trace) = trace else { return Ok(None) };

        let broke_bound = was_bounded && !self.session().kv.is_bounded();
        let mut warnings = record::warnings(&self.session().options, &trace);
        warnings.extend(broke_bound.then(|| BOUND_BROKEN.to_owned()));
        Ok(self.warn(warnings, on_event).is_continue().then_some(trace))
    }

    /// Generates to the end, `on_event` hears the text.
    fn run(mut self, on_event: OnEvent<'_>) -> Result<Outcome, Error> {
        while let Some(text) = self.next_text()? {
            if on_event(Event::Text(&text)).is_break() {
                self.end(StopReason::Cancelled);
            }
        }
        Ok(self.into_outcome())
    }

    fn warn(&mut self, warnings: impl IntoIterator<Item = String>, on_event: OnEvent<'_>) -> ControlFlow<()> {
        for warning in warnings {
            let flow = self.session().hear(on_event, Event::Warning(&warning));
            self.report().warnings.push(warning);
            flow?;
        }
        ControlFlow::Continue(())
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("model", &self.model)
            .field("options", &self.options)
            .finish()
    }
}

fn hear(cancel: &CancelHandle, on_event: OnEvent<'_>, event: Event<'_>) -> ControlFlow<()> {
    if cancel.is_cancelled() {
        ControlFlow::Break(())
    } else {
        on_event(event)
    }
}

/// The smallest prompt that a policy has something to do on.
fn some_prompt() -> PromptLayout {
    PromptLayout {
        n_rows: 2,
        vision: std::iter::once(0..1).collect(),
    }
}

/// Whether a prefill ended because a KV cache had no room.
fn lacked_room<T>(result: &Result<T, PrefillError<ffi::Error>>) -> bool {
    matches!(result, Err(PrefillError::Engine { source, .. }) if source.status == Status::NoSlot)
}

/// What a staged prefill came to; `None` if it was stopped.
pub(crate) fn unless_stopped(
    result: Result<PrefillTrace, PrefillError<ffi::Error>>,
) -> Result<Option<PrefillTrace>, Error> {
    match result {
        Ok(trace) => Ok(Some(trace)),
        Err(PrefillError::Cancelled) => Ok(None),
        Err(PrefillError::Engine { source, .. }) if source.status == Status::Aborted => Ok(None),
        Err(PrefillError::Engine { layers, source }) => Err(Error::Compute {
            what: "the prompt",
            reason: format!("layers {} to {}: {source}", layers.start, layers.end - 1),
        }),
        Err(error) => Err(Error::Compute {
            what: "the prompt",
            reason: error.to_string(),
        }),
    }
}

fn new_context(
    model: &Model,
    params: &ffi::ContextParams,
    groups: &[ffi::KvGroup],
) -> Result<ffi::Context, Error> {
    let context = ffi::Context::new(model.native(), params, groups);
    context.map_err(|error| Error::Context {
        n_ctx: params.n_ctx,
        reason: error.message,
    })
}

fn default_n_ctx(model: &Model) -> u32 {
    model.native().n_ctx_train().clamp(1, DEFAULT_MAX_CTX)
}

pub(crate) fn n_threads(asked: Option<u32>) -> i32 {
    let all = || std::thread::available_parallelism().map_or(1, |n| n.get().min(512) as u32);
    asked.unwrap_or_else(all) as i32
}

pub(crate) fn compute(what: &'static str) -> impl Fn(ffi::Error) -> Error {
    move |error| Error::Compute {
        what,
        reason: error.to_string(),
    }
}
