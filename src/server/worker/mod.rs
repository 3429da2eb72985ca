//! One model at work: a thread that owns the cache, and whoever asks it.
//!
//! ```text
//!  handler ─► room? ─► encode (a thread of its own, one picture at a time) ─► Job ─► queue ─► engine thread
//!     ▲                                                                                         │
//!     └────────────────────────────── Update: read so far, text, end ◄──────────────────────────┘
//! ```

mod answers;
mod at_work;
mod slots;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc as channel};

use answers::Answers;
pub(crate) use slots::{Slot, Slots};

use super::metrics::Metrics;
use crate::engine::{
    self, Cache, CancelHandle, EncodedPrompt, Event, MediaSpan, Model, Outcome, Projector, Prompt,
    PromptSize, Request, SessionOptions, TokenLogprob, encode,
};
use crate::report::RunReport;

/// What a request hears of itself.
#[derive(Debug)]
pub(crate) enum Update {
    /// So much of the prompt has been read, from 0 to 1. The first one comes when nothing is wrong with the prompt.
    Reading(f32),
    /// The prompt has been read.
    Read(Box<RunReport>),
    /// The next piece of the answer, and the tokens that it was made from.
    Text {
        text: String,
        logprobs: Vec<TokenLogprob>,
    },
    /// The end.
    Done(Box<Outcome>),
    /// What went wrong.
    Failed(engine::Error),
}

/// A request that waits for the engine or is at work there.
struct Job {
    prompt: EncodedPrompt,
    request: Request,
    updates: channel::UnboundedSender<Update>,
    number: u64,
    arrived: Instant,
    /// Held until the request has ended.
    _room: OwnedSemaphorePermit,
}

/// A model that answers requests, several at a time.
pub(crate) struct Worker {
    model: Model,
    projector: Option<Arc<Mutex<Projector>>>,
    /// `None` when the worker is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    room: Arc<Semaphore>,
    next_number: AtomicU64,
    slots: Arc<Slots>,
    answers: Arc<Answers>,
    metrics: Arc<Metrics>,
    n_ctx: u32,
}

/// A request under way. Dropping it stops the request.
pub(crate) struct Ticket {
    updates: channel::UnboundedReceiver<Update>,
    cancel: CancelHandle,
    /// What the pictures of its prompt became.
    pub(crate) media: Vec<MediaSpan>,
    pub(crate) n_prompt: usize,
}

impl Ticket {
    /// What comes next; `None` if the engine has gone.
    pub(crate) async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Why a request was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// As many wait as may.
    Full,
    /// The engine has gone.
    Gone,
    /// What is wrong with it.
    Wrong(engine::Error),
}

impl Worker {
    /// Sets a model to work. `max_waiting` requests may wait beside those that are answered at a time.
    ///
    /// # Errors
    /// As [`Cache::new`].
    pub(crate) fn start(
        model: Model,
        projector: Option<Projector>,
        options: &SessionOptions,
        max_waiting: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, engine::Error> {
        let cache = Cache::new(&model, options)?;
        let n_ctx = cache.n_ctx();
        let slots = Arc::new(Slots::new(options.n_sequences as usize));
        let answers = Arc::new(Answers::default());
        let (jobs, inbox) = mpsc::channel();
        let at_work = at_work::AtWork {
            cache,
            inbox,
            slots: Arc::clone(&slots),
            answers: Arc::clone(&answers),
            metrics: Arc::clone(&metrics),
        };
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || at_work.run())
            .map_err(|error| engine::Error::Compute {
                what: "a thread",
                reason: error.to_string(),
            })?;
        Ok(Self {
            model,
            projector: projector.map(|projector| Arc::new(Mutex::new(projector))),
            jobs: Some(jobs),
            thread: Some(thread),
            room: Arc::new(Semaphore::new(options.n_sequences as usize + max_waiting)),
            next_number: AtomicU64::new(0),
            slots,
            answers,
            metrics,
            n_ctx,
        })
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn sees_pictures(&self) -> bool {
        self.projector.is_some()
    }

    /// Tokens that all requests together may have.
    pub(crate) fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.slots.all()
    }

    /// The tokens of earlier answers, where they were given here: a conversation that is sent back is then found.
    pub(crate) fn recall(&self, prompt: &mut Prompt) {
        if let Prompt::Chat { history, .. } = prompt {
            for turn in history {
                turn.tokens = self.answers.tokens(&turn.answer);
            }
        }
    }

    /// Takes a request: its pictures are encoded, then it waits for the engine.
    ///
    /// # Errors
    /// [`Refused`]
    pub(crate) async fn ask(&self, request: Request) -> Result<Ticket, Refused> {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            self.metrics.refused.inc();
            return Err(Refused::Full);
        };
        let arrived = Instant::now();
        let (sender, updates) = channel::unbounded_channel();
        let mut ticket = Ticket {
            updates,
            cancel: request.cancel.clone(),
            media: Vec::new(),
            n_prompt: 0,
        };
        let (request, prompt) = self.encode(request).await?;
        let Some(prompt) = prompt else {
            return Err(Refused::Gone); // stopped, so nobody hears it
        };
        ticket.media = prompt.media().to_vec();
        ticket.n_prompt = prompt.layout().n_rows;
        let job = Job {
            prompt,
            request,
            updates: sender,
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            arrived,
            _room: room,
        };
        self.metrics.waiting.inc();
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(ticket) } else { Err(Refused::Gone) }
    }

    async fn encode(&self, request: Request) -> Result<(Request, Option<EncodedPrompt>), Refused> {
        let (model, projector) = (self.model.clone(), self.projector.clone());
        let metrics = Arc::clone(&self.metrics);
        let encoding = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let hear = |_: Event<'_>| ControlFlow::Continue(());
            let encoded = if request.images.is_empty() {
                encode(&model, None, &request, hear)
            } else {
                let mut projector = projector
                    .as_deref()
                    .map(|projector| projector.lock().unwrap_or_else(PoisonError::into_inner));
                encode(&model, projector.as_deref_mut(), &request, hear)
            };
            metrics.pictures.inc_by(request.images.len() as u64);
            metrics.encode_seconds.inc_by(began.elapsed().as_secs_f64());
            (request, encoded)
        });
        let (request, encoded) = encoding.await.map_err(|_| Refused::Gone)?;
        Ok((request, encoded.map_err(Refused::Wrong)?))
    }

    /// What a request's prompt would cost, without computing it.
    ///
    /// # Errors
    /// As [`encode`].
    pub(crate) async fn count(&self, request: Request) -> Result<PromptSize, Refused> {
        let (model, projector) = (self.model.clone(), self.projector.clone());
        let counting = tokio::task::spawn_blocking(move || {
            let projector = projector
                .as_deref()
                .map(|projector| projector.lock().unwrap_or_else(PoisonError::into_inner));
            PromptSize::of(&model, projector.as_deref(), &request)
        });
        counting.await.map_err(|_| Refused::Gone)?.map_err(Refused::Wrong)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it ends with its last request
        }
    }
}
