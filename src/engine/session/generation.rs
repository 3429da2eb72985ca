//! Answers in the making, several of them in one cache.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::logprob::{Logprobs, TokenLogprob};
use super::policy::AnyPolicy;
use super::record;
use super::request::{Event, Outcome, Request, StopReason};
use super::text::{StopStrings, Utf8Stream};
use crate::engine::CancelHandle;
use crate::engine::cache::{self, Cache, Decoder, ReadSoFar, Turn};
use crate::engine::constraint::Constrained;
use crate::engine::error::{Error, computing};
use crate::engine::prompt::EncodedPrompt;
use crate::engine::{Model, Sampling};
use crate::ffi::{self, Status};
use crate::report::RunReport;

/// Hears what happens and may stop it.
pub(crate) type OnEvent<'a> = &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>;

/// Goes on with other answers before each call of the computation.
pub(crate) type Meanwhile<'a> = &'a mut dyn FnMut(&mut Decoder<'_>);

/// An answer in the making: what was chosen so far, and the sequence in the cache that it goes on.
///
/// Made by [`Cache::begin`], goes on with [`Cache::step`]. Dropping it forgets its rows; [`Cache::finish`] keeps them for
/// the requests that follow.
pub struct Generation {
    /// `None`: it was stopped before its prompt had been read.
    turn: Option<Turn>,
    sampler: ffi::Sampler,
    /// What may come next, if not everything may.
    constrained: Option<Constrained>,
    utf8: Utf8Stream,
    stops: StopStrings,
    /// The token that was chosen last and is not computed yet.
    pending: Option<i32>,
    /// Its position.
    pos: i32,
    /// Rows of prompt and answer that are computed.
    n_rows: usize,
    n_predict: usize,
    text: String,
    /// How much of the text was taken.
    n_taken: usize,
    tokens: Vec<i32>,
    /// So many of the most likely tokens are noted beside each; `None`: nothing is.
    n_logprobs: Option<usize>,
    logprobs: Vec<TokenLogprob>,
    stop: Option<StopReason>,
    error: Option<Error>,
    report: RunReport,
    /// As the cache had counted them when it began.
    fallbacks: ffi::Fallbacks,
    began: Instant,
    decode_time: Duration,
    cancel: CancelHandle,
}

impl Generation {
    /// One whose prompt is still to be read.
    fn new(cache: &Cache, request: &Request, report: RunReport) -> Result<Self, Error> {
        request.sampling.validate()?;
        Ok(Self {
            turn: None,
            sampler: sampler(cache.model(), request)?,
            constrained: request
                .constraint
                .as_ref()
                .map(|constraint| cache.model().vocabulary()?.begin(constraint))
                .transpose()?,
            utf8: Utf8Stream::default(),
            stops: StopStrings::new(&request.stop),
            pending: None,
            pos: 0,
            n_rows: 0,
            n_predict: request.n_predict,
            text: String::new(),
            n_taken: 0,
            tokens: Vec::new(),
            n_logprobs: request.n_logprobs,
            logprobs: Vec::new(),
            stop: None,
            error: None,
            report,
            fallbacks: ffi::Fallbacks::new(),
            began: Instant::now(),
            decode_time: Duration::ZERO,
            cancel: request.cancel.clone(),
        })
    }

    /// One that ended before it began.
    pub(super) fn stopped(cache: &Cache, request: &Request, report: RunReport) -> Result<Self, Error> {
        let mut generation = Self::new(cache, request, report)?;
        generation.end(StopReason::Cancelled);
        Ok(generation)
    }

    /// Why it has ended, if it has.
    pub fn stop(&self) -> Option<StopReason> {
        self.stop
    }

    /// What ended it, if it failed by itself: its constraint, or logits that are not numbers. Asked once.
    pub fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// What reading the prompt did. What concerns the answer is filled in when it is [finished](Cache::finish).
    pub fn report(&self) -> &RunReport {
        &self.report
    }

    /// How likely each of the tokens was, if the request asked for it.
    pub fn logprobs(&self) -> &[TokenLogprob] {
        &self.logprobs
    }

    /// The text that came since it was last asked, in whole characters; may be empty.
    pub fn take_text(&mut self) -> String {
        let fresh = self.text[self.n_taken..].to_owned();
        self.n_taken = self.text.len();
        fresh
    }

    /// Takes a token, or the end, for the one that comes next.
    fn push(&mut self, model: &Model, token: i32) {
        if model.is_end_of_generation(token) {
            return self.end(StopReason::EndOfGeneration);
        }
        self.tokens.push(token);
        self.pending = Some(token);
        let characters = self.utf8.push(&model.native().piece(token, false));
        let (text, found) = self.stops.push(&characters);
        self.text.push_str(&text);
        if found {
            self.stop = Some(StopReason::StopText);
        }
    }

    /// Ends the answer, with the text that was held back.
    pub(super) fn end(&mut self, reason: StopReason) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(reason);
        let rest = self.utf8.finish();
        let (text, found) = self.stops.push(&rest);
        self.text.push_str(&text);
        if !found {
            self.text.push_str(&self.stops.finish());
        }
    }

    /// The token to be computed next, unless the answer ends here.
    fn next_token(&mut self, n_ctx: usize) -> Option<i32> {
        if self.stop.is_some() {
            return None;
        }
        if self.cancel.is_cancelled() {
            self.end(StopReason::Cancelled);
        } else if self.tokens.len() >= self.n_predict {
            self.end(StopReason::Length);
        } else if self.n_rows >= n_ctx {
            self.end(StopReason::ContextFull);
        }
        self.pending.filter(|_| self.stop.is_none())
    }

    /// A token to be computed, in its place.
    fn token(&self, token: i32) -> Option<ffi::Token<'_>> {
        Some(ffi::Token {
            sequence: self.turn.as_ref()?.sequence(),
            token,
            pos: self.pos,
        })
    }

    fn warn(&mut self, warnings: impl IntoIterator<Item = String>, on_event: OnEvent<'_>) -> ControlFlow<()> {
        for warning in warnings {
            let flow = hear(&self.cancel, on_event, Event::Warning(&warning));
            self.report.warnings.push(warning);
            flow?;
        }
        ControlFlow::Continue(())
    }
}

impl Cache {
    /// Reads a prompt, as far as it is not there already, and chooses the first token of its answer. `policy` is for
    /// requests that name none.
    ///
    /// # Errors
    /// What is wrong with prompt, policy or request; [`Error::NoRoom`], [`Error::OutOfMemory`], [`Error::Compute`].
    pub(crate) fn begin_with(
        &mut self,
        prompt: &EncodedPrompt,
        policy: &AnyPolicy,
        request: &Request,
        on_event: OnEvent<'_>,
        meanwhile: Meanwhile<'_>,
    ) -> Result<Generation, Error> {
        let policy = request.policy.as_ref().unwrap_or(policy);
        let report = record::start(self.model(), policy, prompt.encoded_by.as_ref());
        let mut generation = Generation::new(self, request, report)?;
        let began = generation.began.checked_sub(prompt.encode_time);
        generation.began = began.unwrap_or(generation.began);
        generation.report.times_ms.encode = record::ms(prompt.encode_time);
        generation.fallbacks = self.context()?.fallbacks();
        if self
            .read_into(&mut generation, prompt, policy, request, on_event, meanwhile)?
            .is_break()
        {
            generation.end(StopReason::Cancelled);
        }
        Ok(generation)
    }

    fn read_into(
        &mut self,
        generation: &mut Generation,
        prompt: &EncodedPrompt,
        policy: &AnyPolicy,
        request: &Request,
        on_event: OnEvent<'_>,
        meanwhile: Meanwhile<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        if generation.warn(prompt.warnings.clone(), on_event).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.fit(prompt, request.n_predict)?;
        if let AnyPolicy::Config(config) = policy {
            config.validate_for(self.model().n_layer())?;
        }
        let own = policy.as_policy();
        if let Some(own) = own {
            self.check_cuts(own)?;
        }
        let too_long = record::beyond_training(self.model(), prompt);
        if generation.warn(too_long, on_event).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let began = Instant::now();
        let mut n_reused = 0;
        let mut before_call = |so_far: ReadSoFar, decoder: &mut Decoder<'_>| {
            meanwhile(decoder);
            if so_far.n_reused != n_reused {
                n_reused = so_far.n_reused;
                hear(&request.cancel, on_event, Event::Reused(n_reused))?;
            }
            hear(&request.cancel, on_event, Event::Prefill(so_far.done))
        };
        let read = self.read(prompt, own, request.n_predict, &request.cancel, &mut before_call)?;
        generation.report.times_ms.prefill = record::ms(began.elapsed());
        let Some(read) = read else {
            return Ok(ControlFlow::Break(()));
        };
        generation.pos = prompt.next_pos;
        generation.n_rows = prompt.layout.n_rows;
        let report = std::mem::take(&mut generation.report);
        generation.report = record::prefill(report, self, request, prompt, &read);
        let warnings = record::warnings(policy, self.kv_types(), &read.trace);
        generation.turn = Some(read.turn);
        if hear(&request.cancel, on_event, Event::Prefill(1.0)).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if generation.warn(warnings, on_event).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if generation.n_predict > 0 {
            let began = Instant::now();
            self.decoder()?.choose(generation, None)?;
            generation.decode_time += began.elapsed();
        } else {
            generation.end(StopReason::Length);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Goes on with every answer that has not ended, by one token each, in one batch.
    ///
    /// # Errors
    /// As [`Decoder::step`].
    pub fn step(&mut self, generations: &mut [&mut Generation]) -> Result<(), Error> {
        self.decoder()?.step(generations)
    }

    /// What came out. The rows stay, for requests that begin with the same prompt and answer.
    pub fn finish(&mut self, mut generation: Generation) -> Outcome {
        generation.end(StopReason::Cancelled);
        record::answer(
            &mut generation.report,
            self,
            generation.turn.as_ref(),
            &generation.text,
            &generation.tokens,
            generation.began,
            generation.decode_time,
        );
        generation.report.compute.fallbacks = record::fallbacks(self, &generation.fallbacks);
        if let Some(turn) = generation.turn.take() {
            let n_computed = generation.tokens.len() - usize::from(generation.pending.is_some());
            self.keep(turn, &generation.tokens[..n_computed]);
        }
        generation.report.prefix_bytes = self.held_bytes();
        Outcome {
            text: generation.text,
            tokens: generation.tokens,
            logprobs: generation.logprobs,
            stop: generation.stop.unwrap_or(StopReason::Cancelled),
            report: generation.report,
        }
    }
}

impl Decoder<'_> {
    /// Chooses the next token from the logits of a row of the last computation.
    fn choose(&mut self, generation: &mut Generation, row: Option<usize>) -> Result<(), Error> {
        let logits = match generation.n_logprobs {
            Some(_) => self.context.logits(row).map(<[f32]>::to_vec),
            None => None,
        };
        if let (Some(constrained), Some(logits)) = (&mut generation.constrained, self.context.logits_mut(row))
        {
            constrained.mask(logits)?;
        }
        let token = generation
            .sampler
            .sample(self.context, row)
            .map_err(cache::failed("the next token"))?;
        generation.push(self.model, token);
        if let Some(constrained) = &mut generation.constrained
            && generation.stop.is_none()
            && constrained.take(token)?
        {
            generation.end(StopReason::EndOfGeneration);
        }
        if let (Some(logits), Some(n_top)) = (logits, generation.n_logprobs)
            && generation.logprobs.len() < generation.tokens.len()
        {
            generation
                .logprobs
                .push(Logprobs::of(&logits).chosen(token, n_top));
        }
        Ok(())
    }

    /// Goes on with every answer that has not ended, by one token each, in one batch.
    ///
    /// # Errors
    /// [`Error::Compute`], [`Error::OutOfMemory`]; the answers are then as they were. One that fails by itself has ended
    /// ([`Generation::take_error`]).
    pub fn step(&mut self, generations: &mut [&mut Generation]) -> Result<(), Error> {
        let began = Instant::now();
        let n_ctx = self.n_ctx;
        let mut going: Vec<(&mut Generation, i32)> = generations
            .iter_mut()
            .filter_map(|generation| {
                generation
                    .next_token(n_ctx)
                    .map(|token| (&mut **generation, token))
            })
            .collect();
        if going.is_empty() {
            return Ok(());
        }
        // only who is alone can stop a call: the others' tokens are in it, too
        let cancel = match &going[..] {
            [(generation, _)] => generation.cancel.clone(),
            _ => CancelHandle::default(),
        };
        let tokens: Vec<ffi::Token<'_>> = going
            .iter()
            .filter_map(|(generation, token)| generation.token(*token))
            .collect();
        match self.decode(&tokens, &cancel) {
            Ok(()) => {}
            Err(error) if error.status == Status::Aborted => {
                going
                    .iter_mut()
                    .for_each(|(generation, _)| generation.end(StopReason::Cancelled));
                return Ok(());
            }
            Err(error) if error.status == Status::NoSlot => return self.step_with_little_room(going),
            Err(error) => return Err(computing("the answer", error)),
        }
        for (i, (generation, _)) in going.into_iter().enumerate() {
            generation.pending = None;
            generation.pos += 1;
            generation.n_rows += 1;
            if let Err(error) = self.choose(generation, Some(i)) {
                generation.end(StopReason::Cancelled);
                generation.error = Some(error);
            }
            generation.decode_time += began.elapsed();
        }
        Ok(())
    }

    /// There is no room for a token of each: the last one ends, and the others try again.
    fn step_with_little_room(&mut self, mut going: Vec<(&mut Generation, i32)>) -> Result<(), Error> {
        if let Some((last, _)) = going.pop() {
            last.end(StopReason::ContextFull);
        }
        let mut rest: Vec<&mut Generation> = going.into_iter().map(|(generation, _)| generation).collect();
        if rest.is_empty() {
            Ok(())
        } else {
            self.step(&mut rest)
        }
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("text", &self.text)
            .field("stop", &self.stop)
            .finish()
    }
}

/// Passes an event on, unless the request is to stop anyway.
pub(crate) fn hear(cancel: &CancelHandle, on_event: OnEvent<'_>, event: Event<'_>) -> ControlFlow<()> {
    if cancel.is_cancelled() {
        ControlFlow::Break(())
    } else {
        on_event(event)
    }
}

fn sampler(model: &Model, request: &Request) -> Result<ffi::Sampler, Error> {
    let sampling = &request.sampling;
    let mut biases = sampling.logit_bias.clone();
    if let Some((token, _)) = biases.iter().find(|(token, _)| !model.has_token(*token)) {
        return Err(Error::OptionRange {
            name: "logit_bias",
            value: format!("token {token}"),
            expected: format!("0 to {}", model.native().n_vocab() - 1),
        });
    }
    if request.ignore_eos {
        let ends = model.end_of_generation_tokens();
        biases.extend(ends.into_iter().map(|token| (token, f32::NEG_INFINITY)));
    }
    ffi::Sampler::new(&sampler_params(sampling), &biases, model.native().n_vocab())
        .map_err(cache::failed("the sampler"))
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
        penalty_last_n: sampling.repeat_last_n as i32,
        penalty_repeat: sampling.repeat_penalty,
        penalty_freq: sampling.frequency_penalty,
        penalty_present: sampling.presence_penalty,
    }
}
