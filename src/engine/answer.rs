//! An answer in the making.

use std::time::{Duration, Instant};

use super::cancel::CancelHandle;
use super::encoded::EncodedPrompt;
use super::record;
use super::request::{Outcome, Request, StopReason};
use super::session::{Session, compute};
use super::text::{StopStrings, Utf8Stream};
use super::{Error, Sampling};
use crate::ffi::{self, Status};
use crate::policy::trace::PrefillTrace;
use crate::report::RunReport;

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
    text: String,
    tokens: Vec<i32>,
    stop: Option<StopReason>,
    report: RunReport,
    began: Instant,
    decode_time: Duration,
    _running: Running,
}

impl<'s> Answer<'s> {
    /// An answer whose prompt is still to be computed.
    pub(crate) fn new(session: &'s mut Session, request: &Request, report: RunReport) -> Result<Self, Error> {
        let running = Running(session.cancel_handle());
        request.sampling.validate()?;
        Ok(Self {
            sampler: sampler(session, request)?,
            session,
            utf8: Utf8Stream::default(),
            stops: StopStrings::new(&request.stop),
            pending: None,
            pos: 0,
            n_cells: 0,
            n_predict: request.n_predict,
            text: String::new(),
            tokens: Vec::new(),
            stop: None,
            report,
            began: Instant::now(),
            decode_time: Duration::ZERO,
            _running: running,
        })
    }

    /// The same, with time that was spent on it before.
    pub(crate) fn begun_earlier_by(mut self, time: Duration) -> Self {
        self.began = self.began.checked_sub(time).unwrap_or(self.began);
        self
    }

    pub(crate) fn session(&mut self) -> &mut Session {
        self.session
    }

    pub(crate) fn report(&mut self) -> &mut RunReport {
        &mut self.report
    }

    /// To be called when the prompt has been computed.
    pub(crate) fn starts_after(&mut self, prompt: &EncodedPrompt, trace: &PrefillTrace, request: &Request) {
        self.pos = prompt.next_pos;
        self.n_cells = prompt.layout.n_rows;
        let report = std::mem::take(&mut self.report);
        self.report = record::prefill(report, self.session, request, prompt, trace);
    }

    /// The next piece of text, `None` when the answer has ended.
    pub(crate) fn next_text(&mut self) -> Result<Option<String>, Error> {
        let began = Instant::now();
        let mut text = Ok(String::new());
        while self.stop.is_none() && matches!(&text, Ok(text) if text.is_empty()) {
            text = self.step();
        }
        self.decode_time += began.elapsed();
        let text = text.inspect_err(|_| self.stop = Some(StopReason::Cancelled))?;
        self.text.push_str(&text);
        Ok((!text.is_empty()).then_some(text))
    }

    /// Computes the pending token and chooses the next one. Returns the text that this makes visible.
    fn step(&mut self) -> Result<String, Error> {
        if self.session.cancel_handle().is_cancelled() {
            return Ok(self.end(StopReason::Cancelled));
        }
        if self.tokens.len() >= self.n_predict {
            return Ok(self.end(StopReason::Length));
        }
        if let Some(reason) = self.compute_pending()? {
            return Ok(self.end(reason));
        }
        let token = self
            .sampler
            .sample(self.session.context(), None)
            .map_err(compute("the next token"))?;
        if self.session.model().is_end_of_generation(token) {
            return Ok(self.end(StopReason::EndOfGeneration));
        }
        self.tokens.push(token);
        self.pending = Some(token);
        let characters = self.utf8.push(&self.session.model().native().piece(token, false));
        let (text, found) = self.stops.push(&characters);
        if found {
            self.stop = Some(StopReason::StopText);
        }
        Ok(text)
    }

    /// Computes the token that was chosen last. Returns why the answer ends if that is not possible.
    fn compute_pending(&mut self) -> Result<Option<StopReason>, Error> {
        let Some(token) = self.pending.take() else {
            return Ok(None);
        };
        if self.n_cells >= self.session.n_ctx() as usize {
            return Ok(Some(StopReason::ContextFull));
        }
        match self.session.decode(token, self.pos) {
            Ok(()) => {
                self.pos += 1;
                self.n_cells += 1;
                Ok(None)
            }
            Err(error) if error.status == Status::Aborted => Ok(Some(StopReason::Cancelled)),
            Err(error) if error.status == Status::NoSlot => Ok(Some(StopReason::ContextFull)),
            Err(error) => Err(compute("the answer")(error)),
        }
    }

    /// Ends the answer. Returns the text that was held back.
    pub(crate) fn end(&mut self, reason: StopReason) -> String {
        if self.stop.is_some() {
            return String::new();
        }
        self.stop = Some(reason);
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
        self.text.push_str(&rest);
        let mut report = self.report;
        record::answer(
            &mut report,
            self.session,
            &self.text,
            &self.tokens,
            self.began,
            self.decode_time,
        );
        let stop = self.stop.unwrap_or(StopReason::Cancelled);
        Outcome {
            text: self.text,
            tokens: self.tokens,
            stop,
            report,
        }
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_text().transpose()
    }
}

/// A request at work: when it is over, a cancellation has been answered.
pub(crate) struct Running(pub(crate) CancelHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.answered();
    }
}

fn sampler(session: &Session, request: &Request) -> Result<ffi::Sampler, Error> {
    let banned = if request.ignore_eos {
        session.model().end_of_generation_tokens()
    } else {
        Vec::new()
    };
    ffi::Sampler::new(
        &sampler_params(&request.sampling),
        &banned,
        session.model().native().n_vocab(),
    )
    .map_err(compute("the sampler"))
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
