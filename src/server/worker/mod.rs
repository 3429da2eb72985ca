//! One model at work: a thread that owns the cache, and whoever asks it.
//!
//! ```text
//!  handler ─► encode (a thread of its own, one picture at a time) ─► Job ─► queue ─► engine thread
//!     ▲                                                                                         │
//!     └────────────────────────────── Update: read so far, text, end ◄──────────────────────────┘
//! ```

mod answers;
mod at_work;
mod slots;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use tokio::sync::mpsc as channel;

use answers::Answers;
pub(crate) use slots::{Slot, Slots};

use super::Room;
use super::metrics::Metrics;
use crate::engine::{
    self, Cache, CancelHandle, EncodedPrompt, Event, MediaSpan, Model, Outcome, Projector, Prompt,
    PromptSize, Request, SessionOptions, TokenLogprob, encode, model_shape,
};
use crate::policy::shape::ModelShape;
use crate::report::RunReport;

/// What a request hears of itself.
#[derive(Debug)]
pub(crate) enum Update {
    /// How far the prompt is. The first one comes when nothing is wrong with it.
    Reading {
        /// Tokens that were there already.
        n_cached: usize,
        /// How much of the others has been read, from 0 to 1.
        done: f32,
    },
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
    /// Until it is its turn.
    waiting: Option<Waiting>,
    /// Held until the request has ended.
    _room: Room,
}

/// Counts a request among those that wait, as long as it is there.
struct Waiting(Arc<Metrics>);

impl Waiting {
    fn begin(metrics: &Arc<Metrics>) -> Self {
        metrics.waiting.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.dec();
    }
}

/// A model that answers requests, several at a time.
pub(crate) struct Worker {
    model: Model,
    projector: Option<Arc<Mutex<Projector>>>,
    /// `None` when the worker is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    next_number: AtomicU64,
    slots: Arc<Slots>,
    answers: Arc<Answers>,
    metrics: Arc<Metrics>,
    n_ctx: u32,
    /// If it is the same for every picture.
    n_tokens_per_image: Option<usize>,
}

/// Stops a request whose client has gone, at whatever it is.
pub(crate) struct StopOnDrop(pub(crate) CancelHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A request under way. Dropping it stops the request.
pub(crate) struct Ticket {
    updates: channel::UnboundedReceiver<Update>,
    _stop: StopOnDrop,
    /// The model stays as long as it is asked something.
    _worker: Arc<Worker>,
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

/// Why a request was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The engine has gone.
    Gone,
    /// What is wrong with it.
    Wrong(engine::Error),
}

impl Worker {
    /// Sets a model to work.
    ///
    /// # Errors
    /// As [`Cache::new`].
    pub(crate) fn start(
        model: Model,
        projector: Option<Projector>,
        options: &SessionOptions,
        metrics: Arc<Metrics>,
    ) -> Result<Self, engine::Error> {
        // pictures that are computed as a whole must not make the cache anew while others are answered
        let longest = projector.as_ref().filter(|projector| projector.uses_non_causal());
        let longest = longest.and_then(|projector| projector.shape().n_tokens_per_image);
        let options = &SessionOptions {
            n_ubatch: options.n_ubatch.max(longest.unwrap_or(0)),
            ..options.clone()
        };
        let cache = Cache::new(&model, options)?;
        let n_tokens_per_image = projector
            .as_ref()
            .and_then(|projector| projector.shape().n_tokens_per_image);
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
            has_lost_a_device: false,
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
            next_number: AtomicU64::new(0),
            slots,
            answers,
            metrics,
            n_ctx,
            n_tokens_per_image: n_tokens_per_image.map(|n| n as usize),
        })
    }

    /// Whether its engine is there; it goes with another machine that held a part of the model, else only with an error of the
    /// program.
    pub(crate) fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// The sizes that policies ask for.
    pub(crate) fn shape(&self) -> ModelShape {
        model_shape(self.model.shape(), self.n_tokens_per_image)
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

    /// Whether so many pictures can be in a prompt: looked at before they are decoded.
    ///
    /// # Errors
    /// [`Error::NoProjector`](engine::Error::NoProjector), [`Error::PromptTooLong`](engine::Error::PromptTooLong)
    pub(crate) fn check_pictures(&self, n_images: usize) -> Result<(), engine::Error> {
        if n_images > 0 && !self.sees_pictures() {
            return Err(engine::Error::NoProjector { n_images });
        }
        let n_tokens = n_images * self.n_tokens_per_image.unwrap_or(1);
        if n_tokens > self.n_ctx as usize {
            return Err(engine::Error::PromptTooLong {
                n_tokens,
                n_vision: n_tokens,
                n_ctx: self.n_ctx,
                suggested: n_tokens.next_multiple_of(256),
            });
        }
        Ok(())
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
    pub(crate) async fn ask(
        self: &Arc<Self>,
        request: Request,
        stop: StopOnDrop,
        room: Room,
    ) -> Result<Ticket, Refused> {
        let arrived = Instant::now();
        let (sender, updates) = channel::unbounded_channel();
        let mut ticket = Ticket {
            updates,
            _stop: stop,
            _worker: Arc::clone(self),
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
            waiting: Some(Waiting::begin(&self.metrics)),
            _room: room,
        };
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(ticket) } else { Err(Refused::Gone) }
    }

    async fn encode(&self, request: Request) -> Result<(Request, Option<EncodedPrompt>), Refused> {
        let (model, projector) = (self.model.clone(), self.projector.clone());
        let metrics = Arc::clone(&self.metrics);
        let encoding = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let hear = |_: Event<'_>| ControlFlow::Continue(());
            if request.constraint.is_some() {
                let _ = model.vocabulary(); // made here, where nobody waits; what is wrong with it is told later
            }
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
        self.look_at(move |model, projector| PromptSize::of(model, projector, &request))
            .await
    }

    /// A request's prompt as its chat template has it.
    ///
    /// # Errors
    /// As [`encode`].
    pub(crate) async fn prompt_text(&self, request: Request) -> Result<String, Refused> {
        self.look_at(move |model, projector| model.prompt_text(projector, &request))
            .await
    }

    async fn look_at<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Model, Option<&Projector>) -> Result<T, engine::Error> + Send + 'static,
    ) -> Result<T, Refused> {
        let (model, projector) = (self.model.clone(), self.projector.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let projector = projector
                .as_deref()
                .map(|projector| projector.lock().unwrap_or_else(PoisonError::into_inner));
            look(&model, projector.as_deref())
        });
        looking.await.map_err(|_| Refused::Gone)?.map_err(Refused::Wrong)
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
