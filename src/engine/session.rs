//! Sessions: a KV cache and the computation of answers.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::cancel::CancelHandle;
use super::image::Image;
use super::options::{Sampling, SessionOptions};
use super::projector::{EncodedPrompt, Projector};
use super::prompt::{Part, Prompt};
use super::text::{StopStrings, Utf8Stream};
use super::{Error, Model};
use crate::ffi::{self, Status};
use crate::policy::PolicyConfig;

/// The longest context that a session has unless told otherwise: a model trained for 128 Ki tokens would take
/// gigabytes for its KV cache.
const DEFAULT_MAX_CTX: u32 = 8192;

/// What is asked of a session.
///
/// ```
/// use visipruner::engine::{Prompt, Request};
///
/// let request = Request { n_predict: 32, ..Request::new(Prompt::chat("What is a vision token?")) };
/// ```
#[derive(Debug, Clone)]
pub struct Request {
    /// The question.
    pub prompt: Prompt,
    /// The images of its places, in order.
    pub images: Vec<Image>,
    /// At most so many tokens are generated. Default: 512.
    pub n_predict: usize,
    /// How tokens are chosen. Default: the most likely one.
    pub sampling: Sampling,
    /// Texts that end the answer. Default: none.
    pub stop: Vec<String>,
    /// A chat template in Jinja instead of the model's own. Default: none.
    pub chat_template: Option<String>,
    /// Keep the logits of the last prompt token, [`Outcome::logits`]. Default: no.
    pub keep_logits: bool,
}

impl Request {
    /// A request with the defaults and no images.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            images: Vec::new(),
            n_predict: 512,
            sampling: Sampling::default(),
            stop: Vec::new(),
            chat_template: None,
            keep_logits: false,
        }
    }
}

/// What happens while a session answers.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Something the user should know.
    Warning(&'a str),
    /// So many of the prompt's images (or tiles of images) are encoded. Comes with `done` 0 first.
    Encode {
        /// Encoded so far.
        done: usize,
        /// In the prompt.
        total: usize,
    },
    /// This part of the prompt has been computed, from 0 to 1.
    Prefill(f32),
    /// The next piece of the answer: one or more whole characters.
    Text(&'a str),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The model said so.
    EndOfGeneration,
    /// One of the request's stop texts came.
    StopText,
    /// `n_predict` tokens were generated.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller stopped it.
    Cancelled,
}

/// An answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The text.
    pub text: String,
    /// The generated tokens, without the one that ended the answer.
    pub tokens: Vec<i32>,
    /// Why it ended.
    pub stop: StopReason,
    /// Logits `[n_vocab]` of the last prompt token, if the request kept them.
    pub logits: Option<Vec<f32>>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Answers one request at a time.
///
/// ## Why does `generate` take `&mut self`?
/// It changes the KV cache and the buffers of the computation. Sessions share their model: for answers side by side
/// make several. A session keeps nothing from one request to the next.
pub struct Session {
    context: ffi::Context,
    model: Model,
    options: SessionOptions,
    params: ffi::ContextParams,
    groups: Vec<ffi::KvGroup>,
    cancel: CancelHandle,
}

impl Session {
    /// Sets up a session.
    ///
    /// # Errors
    /// [`Error::OptionRange`], [`Error::QuantizedValues`], [`Error::Policy`]; [`Error::Unsupported`] if pruning was
    /// asked for and the model cannot be pruned; [`Error::Context`] where llama.cpp refuses.
    pub fn new(model: &Model, options: SessionOptions) -> Result<Self, Error> {
        options.validate()?;
        options.policy.validate_for(model.n_layer())?;
        let groups = match &options.policy {
            PolicyConfig::Off => Vec::new(),
            policy => {
                model.supports_pruning()?;
                kv_groups(&policy.boundaries(model.n_layer()))
            }
        };
        let n_threads = n_threads(options.n_threads);
        let params = ffi::ContextParams {
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
        let context = new_context(model, &params, &groups, &cancel)?;
        Ok(Self {
            context,
            model: model.clone(),
            options,
            params,
            groups,
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
        self.context.n_ctx()
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
        let mut answer = self.begin(projector, request, &mut on_event)?;
        while let Some(text) = answer.next_text()? {
            if on_event(Event::Text(&text)).is_break() {
                answer.end(StopReason::Cancelled);
            }
        }
        Ok(answer.into_outcome())
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

    fn begin(
        &mut self,
        projector: Option<&mut Projector>,
        request: &Request,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer<'_>, Error> {
        let running = Running(self.cancel.clone());
        request.sampling.validate()?;
        let sampler = ffi::Sampler::new(&sampler_params(&request.sampling))
            .map_err(compute("the sampler"))?;
        let rendered = self.model.rendered(
            &request.prompt,
            request.images.len(),
            request.chat_template.as_deref(),
        )?;
        let warnings: Vec<String> = rendered.warning.into_iter().collect();
        let mut stopped = warnings
            .iter()
            .any(|warning| on_event(Event::Warning(warning)).is_break());
        let mut answer = Answer {
            sampler,
            utf8: Utf8Stream::default(),
            stops: StopStrings::new(&request.stop),
            pending: None,
            pos: 0,
            n_cells: 0,
            n_predict: request.n_predict,
            outcome: Outcome {
                text: String::new(),
                tokens: Vec::new(),
                stop: StopReason::Length,
                logits: None,
                warnings,
            },
            ended: false,
            _running: running,
            session: self,
        };
        if !stopped {
            stopped = answer
                .prefill(projector, request, &rendered.parts, on_event)?
                .is_break();
        }
        if stopped {
            answer.end(StopReason::Cancelled);
        }
        Ok(answer)
    }

    /// Tokenizes and encodes the prompt. Without a prompt the caller stopped it.
    fn encode(
        &mut self,
        projector: Option<&mut Projector>,
        parts: &[Part],
        images: &[Image],
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
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
        let cancel = self.cancel.clone();
        projector.encode_prompt(parts, images, |done, total| {
            if cancel.is_cancelled() {
                return ControlFlow::Break(());
            }
            on_event(Event::Encode { done, total })
        })
    }

    /// Makes sure that the prompt can be computed: empty memory, room, and batches that hold what must be together.
    fn fit(&mut self, prompt: &EncodedPrompt, n_predict: usize) -> Result<(), Error> {
        let n_tokens = prompt.layout.n_rows;
        if n_tokens == 0 {
            return Err(Error::EmptyPrompt);
        }
        if n_tokens > self.n_ctx() as usize {
            let suggested = (n_tokens + n_predict).next_multiple_of(256);
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
        if together > self.context.n_ubatch() {
            self.params.n_ubatch = together;
            self.params.n_batch = self.params.n_batch.max(together);
            self.context = new_context(&self.model, &self.params, &self.groups, &self.cancel)?;
        } else {
            self.context.clear();
        }
        Ok(())
    }

    /// Computes the prompt as `mtmd_helper_eval_chunks` does (mtmd-helper.cpp@0.1.161): text and images in turn, each
    /// in batches of `n_batch`, so that the logits are stock's bit for bit.
    fn prefill_dense(
        &mut self,
        prompt: &EncodedPrompt,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let n_batch = self.context.n_batch() as usize;
        let mut n_embd_done = 0;
        for (rows, is_image) in spans(&prompt.layout) {
            for begin in rows.clone().step_by(n_batch) {
                let batch = begin..rows.end.min(begin + n_batch);
                if on_event(Event::Prefill(begin as f32 / prompt.layout.n_rows as f32)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                let computed = if is_image {
                    let computed = self.decode_image_rows(prompt, batch.clone(), n_embd_done);
                    n_embd_done += batch.len();
                    computed
                } else {
                    let pos = prompt.pos[batch.start * prompt.n_pos_per_embd];
                    let logits_last = batch.end == prompt.layout.n_rows;
                    self.context
                        .decode_tokens(&prompt.token[batch], pos, logits_last)
                };
                match computed {
                    Ok(()) => {}
                    Err(error) if error.status == Status::Aborted => {
                        return Ok(ControlFlow::Break(()));
                    }
                    Err(error) => return Err(compute("the prompt")(error)),
                }
            }
        }
        Ok(on_event(Event::Prefill(1.0)))
    }

    /// Decodes rows of an image, whose embeddings begin with the `n_embd_done`-th vision row of the prompt.
    fn decode_image_rows(
        &mut self,
        prompt: &EncodedPrompt,
        rows: std::ops::Range<usize>,
        n_embd_done: usize,
    ) -> Result<(), ffi::Error> {
        let n_embd_inp = self.model.native().n_embd_inp();
        let embd = &prompt.embd[n_embd_done * n_embd_inp..(n_embd_done + rows.len()) * n_embd_inp];
        let n_pos = prompt.n_pos_per_embd;
        let section_major: Vec<i32> = (0..n_pos)
            .flat_map(|section| {
                rows.clone()
                    .map(move |row| prompt.pos[row * n_pos + section])
            })
            .collect();
        self.context.set_causal(!prompt.non_causal);
        let computed = self.context.decode_embd(embd, &section_major);
        self.context.set_causal(true);
        computed
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
pub struct Answer<'s> {
    session: &'s mut Session,
    sampler: ffi::Sampler,
    utf8: Utf8Stream,
    stops: StopStrings,
    /// The token that was chosen last and is not computed yet.
    pending: Option<i32>,
    /// Its position.
    pos: i32,
    /// Cells in use in the fullest layer.
    n_cells: usize,
    n_predict: usize,
    outcome: Outcome,
    ended: bool,
    _running: Running,
}

impl Answer<'_> {
    /// Encodes and computes the prompt.
    fn prefill(
        &mut self,
        projector: Option<&mut Projector>,
        request: &Request,
        parts: &[Part],
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let Some(prompt) = self
            .session
            .encode(projector, parts, &request.images, on_event)?
        else {
            return Ok(ControlFlow::Break(()));
        };
        self.session.fit(&prompt, request.n_predict)?;
        let flow = self.session.prefill_dense(&prompt, on_event)?;
        self.pos = prompt.next_pos;
        self.n_cells = prompt.layout.n_rows;
        if flow.is_continue() && request.keep_logits {
            self.outcome.logits = self.session.context.logits().map(<[f32]>::to_vec);
        }
        Ok(flow)
    }

    /// The next piece of text, `None` when the answer has ended.
    fn next_text(&mut self) -> Result<Option<String>, Error> {
        while !self.ended {
            let text = self.step()?;
            if !text.is_empty() {
                self.outcome.text.push_str(&text);
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Computes the pending token and chooses the next one. Returns the text that this makes visible.
    fn step(&mut self) -> Result<String, Error> {
        if self.session.cancel.is_cancelled() {
            return Ok(self.end(StopReason::Cancelled));
        }
        if self.outcome.tokens.len() >= self.n_predict {
            return Ok(self.end(StopReason::Length));
        }
        if let Some(token) = self.pending.take() {
            if self.n_cells >= self.session.n_ctx() as usize {
                return Ok(self.end(StopReason::ContextFull));
            }
            match self.session.context.decode_tokens(&[token], self.pos, true) {
                Ok(()) => {}
                Err(error) if error.status == Status::Aborted => {
                    return Ok(self.end(StopReason::Cancelled));
                }
                Err(error) if error.status == Status::NoSlot => {
                    return Ok(self.end(StopReason::ContextFull));
                }
                Err(error) => return Err(compute("the answer")(error)),
            }
            self.pos += 1;
            self.n_cells += 1;
        }
        let token = self
            .sampler
            .sample(&mut self.session.context)
            .map_err(compute("the next token"))?;
        if self.session.model.is_end_of_generation(token) {
            return Ok(self.end(StopReason::EndOfGeneration));
        }
        self.outcome.tokens.push(token);
        self.pending = Some(token);
        let characters = self
            .utf8
            .push(&self.session.model.native().piece(token, false));
        let (text, found) = self.stops.push(&characters);
        if found {
            self.ended = true;
            self.outcome.stop = StopReason::StopText;
        }
        Ok(text)
    }

    /// Ends the answer. Returns the text that was held back.
    fn end(&mut self, reason: StopReason) -> String {
        if std::mem::replace(&mut self.ended, true) {
            return String::new();
        }
        self.outcome.stop = reason;
        let rest = self.utf8.finish();
        let (mut text, found) = self.stops.push(&rest);
        if !found {
            text.push_str(&self.stops.finish());
        }
        text
    }

    /// The answer as far as it was iterated over.
    pub fn into_outcome(mut self) -> Outcome {
        let rest = self.end(StopReason::Cancelled);
        self.outcome.text.push_str(&rest);
        self.outcome
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_text();
        if next.is_err() {
            self.ended = true;
        }
        next.transpose()
    }
}

/// A request at work: when it is over, a cancellation has been answered.
struct Running(CancelHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The stretches of a prompt that are all text or one image, in order.
fn spans(layout: &crate::policy::PromptLayout) -> Vec<(std::ops::Range<usize>, bool)> {
    let mut spans = Vec::new();
    let mut begin = 0;
    for image in &layout.vision {
        if begin < image.start {
            spans.push((begin..image.start, false));
        }
        spans.push((image.clone(), true));
        begin = image.end;
    }
    if begin < layout.n_rows {
        spans.push((begin..layout.n_rows, false));
    }
    spans
}

/// One KV cache for the layers up to each boundary.
fn kv_groups(boundaries: &[usize]) -> Vec<ffi::KvGroup> {
    let begins = std::iter::once(0).chain(boundaries.iter().copied());
    begins
        .map(|il_begin| ffi::KvGroup {
            il_begin,
            n_cells: 0,
        })
        .collect()
}

fn new_context(
    model: &Model,
    params: &ffi::ContextParams,
    groups: &[ffi::KvGroup],
    cancel: &CancelHandle,
) -> Result<ffi::Context, Error> {
    let context = ffi::Context::new(model.native(), params, groups, Arc::clone(&cancel.flag()));
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

fn sampler_params(sampling: &Sampling) -> ffi::SamplerParams {
    // llama.h: LLAMA_DEFAULT_SEED asks for a random seed.
    const RANDOM: u32 = u32::MAX;
    ffi::SamplerParams {
        temp: sampling.temp,
        top_k: sampling.top_k as i32,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        seed: sampling.seed.unwrap_or(RANDOM),
    }
}

fn compute(what: &'static str) -> impl Fn(ffi::Error) -> Error {
    move |error| Error::Compute {
        what,
        reason: error.to_string(),
    }
}
