//! The thread that owns the cache. Requests are read one after the other, answers go on all together: also between two calls
//! of reading a prompt, so that nobody waits for another's picture.

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::answers::Answers;
use super::slots::Slots;
use super::{Job, Update};
use crate::engine::{Cache, Decoder, Error, Event, Generation};
use crate::server::metrics::Metrics;

pub(super) struct AtWork {
    pub(super) cache: Cache,
    pub(super) inbox: mpsc::Receiver<Job>,
    pub(super) slots: Arc<Slots>,
    pub(super) answers: Arc<Answers>,
    pub(super) metrics: Arc<Metrics>,
    /// Whether a part of the model is gone with another machine: it has to be loaded anew.
    pub(super) has_lost_a_device: bool,
}

/// An answer in the making, and who hears it.
pub(super) struct Answering {
    job: Job,
    generation: Generation,
    /// Log-probabilities that were sent.
    n_sent: usize,
    /// What kept it from going on.
    failed: Option<Error>,
    began: Instant,
}

impl AtWork {
    /// Answers requests until nobody can send any more, or nothing can be computed.
    pub(super) fn run(mut self) {
        let n_slots = self.slots.all().len();
        let mut answering: Vec<Answering> = Vec::new();
        while !self.has_lost_a_device {
            let job = if answering.is_empty() {
                match self.inbox.recv() {
                    Ok(job) => Some(job),
                    Err(mpsc::RecvError) => return,
                }
            } else if answering.len() < n_slots {
                self.inbox.try_recv().ok()
            } else {
                None
            };
            if let Some(job) = job {
                self.begin(job, &mut answering);
            }
            self.step(&mut answering);
        }
    }

    /// A token more for every answer; those that have ended are let go.
    pub(super) fn step(&mut self, answering: &mut Vec<Answering>) {
        match self.cache.decoder() {
            Ok(mut decoder) => go_on(&mut decoder, answering),
            Err(error) => fail_all(answering, &error),
        }
        self.end(answering);
    }

    /// Reads a prompt, while the other answers go on.
    pub(super) fn begin(&mut self, mut job: Job, others: &mut Vec<Answering>) {
        let metrics = Arc::clone(&self.metrics);
        job.waiting = None;
        metrics.wait_seconds.inc_by(job.arrived.elapsed().as_secs_f64());
        self.slots.take(job.number, job.prompt.layout().n_rows);
        let began = Instant::now();
        let mut n_cached = 0;
        let hear = |event: Event<'_>| match event {
            Event::Reused(n_reused) => {
                n_cached = n_reused;
                ControlFlow::Continue(())
            }
            Event::Prefill(done) => send(&job, Update::Reading { n_cached, done }),
            _ => ControlFlow::Continue(()),
        };
        let mut pace = Pace::begin();
        let meanwhile = |decoder: &mut Decoder<'_>| pace.keep(|| go_on(decoder, others));
        let begun = self
            .cache
            .begin_beside(&job.prompt, &job.request, hear, meanwhile);
        match begun {
            Ok(generation) => {
                let _ = send(&job, Update::Read(Box::new(generation.report().clone())));
                let mut answering = Answering {
                    job,
                    generation,
                    n_sent: 0,
                    failed: None,
                    began,
                };
                answering.send_news(); // the first token is there
                others.push(answering);
            }
            Err(error) => {
                metrics.failed.inc();
                self.has_lost_a_device |= matches!(error, Error::DeviceLost { .. });
                self.slots.leave(job.number);
                let _ = send(&job, Update::Failed(error));
            }
        }
    }

    /// Lets go of answers that have ended.
    fn end(&mut self, answering: &mut Vec<Answering>) {
        let mut i = 0;
        while i < answering.len() {
            self.slots
                .decoded(answering[i].job.number, answering[i].generation.tokens().len());
            if answering[i].generation.stop().is_none() && answering[i].failed.is_none() {
                i += 1;
                continue;
            }
            let ended = answering.swap_remove(i);
            self.slots.leave(ended.job.number);
            let last = match ended.failed {
                None => {
                    let outcome = self.cache.finish(ended.generation);
                    self.answers.note(self.cache.model(), &outcome);
                    self.metrics.note(&outcome, ended.began.elapsed());
                    Update::Done(Box::new(outcome))
                }
                Some(error) => {
                    self.metrics.failed.inc();
                    self.has_lost_a_device |= matches!(error, Error::DeviceLost { .. });
                    Update::Failed(error)
                }
            };
            let _ = send(&ended.job, last);
        }
    }
}

/// How often answers go on while a prompt is read: its calls may be short, and a token of few answers costs nearly what one of
/// many does.
struct Pace {
    took: Duration,
    ended: Instant,
}

impl Pace {
    /// At least so many times as long as a token took is read before the next one.
    const READING: u32 = 3;

    fn begin() -> Self {
        Self {
            took: Duration::ZERO,
            ended: Instant::now(),
        }
    }

    fn keep(&mut self, go_on: impl FnOnce()) {
        if self.ended.elapsed() < self.took * Self::READING {
            return;
        }
        let began = Instant::now();
        go_on();
        self.took = began.elapsed();
        self.ended = Instant::now();
    }
}

/// One token more for each answer that has not ended, and what came of it to those who wait for it.
fn go_on(decoder: &mut Decoder<'_>, answering: &mut [Answering]) {
    let going = answering
        .iter_mut()
        .filter(|answering| answering.failed.is_none());
    let mut going: Vec<&mut Generation> = going.map(|answering| &mut answering.generation).collect();
    if let Err(error) = decoder.step(&mut going) {
        return fail_all(answering, &error);
    }
    for answering in answering {
        answering.send_news();
        answering.failed = answering.generation.take_error();
    }
}

/// What failed is a call for all of them: none can go on.
fn fail_all(answering: &mut [Answering], error: &Error) {
    for answering in answering {
        let what = "the answer";
        answering.failed = Some(match error {
            Error::DeviceLost { reason, .. } => Error::DeviceLost {
                what,
                reason: reason.clone(),
            },
            _ => Error::Compute {
                what,
                reason: error.to_string(),
            },
        });
    }
}

impl Answering {
    fn send_news(&mut self) {
        let text = self.generation.take_text();
        let logprobs = self.generation.logprobs()[self.n_sent..].to_vec();
        if text.is_empty() && logprobs.is_empty() {
            return;
        }
        self.n_sent += logprobs.len();
        if send(&self.job, Update::Text { text, logprobs }).is_break() {
            self.job.request.cancel.cancel();
        }
    }
}

/// Whether somebody still hears it.
fn send(job: &Job, update: Update) -> ControlFlow<()> {
    match job.updates.send(update) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}
