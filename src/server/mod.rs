//! Answers over HTTP, as OpenAI's API has them: pruned, remembered, several requests at a time.
//!
//! ```text
//! request ─► api ─► media: pictures ─► models: the one asked for, loaded ─► worker: a slot ─► api ─► answer, whole or streamed
//! ```
//!
//! [`Server::router`] is an axum router, for a program that has other addresses, too:
//!
//! ```no_run
//! # use visipruner::server::{ModelSpec, Server, ServerOptions};
//! # async fn run(spec: ModelSpec) {
//! let server = Server::new(vec![spec], ServerOptions::default());
//! let app = axum::Router::new().nest("/vision", server.router());
//! # }
//! ```
#![forbid(unsafe_code)]

mod api;
mod media;
mod metrics;
mod models;
mod options;
mod page;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use options::{ModelSpec, ServerOptions};

use api::ApiError;
use metrics::Metrics;
use models::{Entry, Loading, Models};
use worker::Worker;

use crate::engine::{CancelHandle, Image};

/// Models, and what is allowed with them. Clones share them.
#[derive(Clone)]
pub struct Server(Arc<App>);

/// What all requests share.
pub(crate) struct App {
    models: Models,
    options: ServerOptions,
    metrics: Arc<Metrics>,
    room: Arc<Semaphore>,
    /// Memory for bodies on their way, in KiB.
    receiving: Arc<Semaphore>,
    /// Pictures take memory while they are decoded: a few at a time do.
    decoding: Arc<Semaphore>,
}

/// Room for a request among those that are read, wait or are answered.
pub(crate) type Room = OwnedSemaphorePermit;

/// Bodies of the largest size that are on their way at a time.
const N_RECEIVING: usize = 8;

/// Pictures that are decoded at a time.
const N_DECODING: usize = 2;

impl Server {
    /// A server of some models. None of them is loaded yet.
    pub fn new(models: Vec<ModelSpec>, options: ServerOptions) -> Self {
        let metrics = Arc::new(Metrics::new());
        let n_answered: usize = models.iter().map(|spec| spec.session.n_sequences as usize).sum();
        let room = Arc::new(Semaphore::new(n_answered + options.max_waiting));
        let receiving = in_kib(options.max_body_bytes) as usize * N_RECEIVING;
        let models = Models::new(models, options.max_loaded, Arc::clone(&metrics));
        Self(Arc::new(App {
            models,
            options,
            metrics,
            room,
            receiving: Arc::new(Semaphore::new(receiving)),
            decoding: Arc::new(Semaphore::new(N_DECODING)),
        }))
    }

    /// All its addresses. Answers are computed in threads of their own; it needs a tokio runtime.
    pub fn router(&self) -> axum::Router {
        api::router(&self.0)
    }

    /// Loads the first model. Until it is there, `/health` says 503.
    ///
    /// # Errors
    /// Why it cannot be loaded, in words.
    pub async fn load_first(&self) -> Result<(), String> {
        let Some(first) = self.0.models.all().first() else {
            return Ok(());
        };
        self.0
            .models
            .ready(first)
            .await
            .map(drop)
            .map_err(|error| error.message().to_owned())
    }
}

impl App {
    /// Room for one more request.
    fn room(&self) -> Result<Room, ApiError> {
        Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            self.metrics.refused.inc();
            ApiError::full()
        })
    }

    /// Memory for a body of so many bytes, as soon as there is some.
    async fn memory_for(&self, n_bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let memory = Arc::clone(&self.receiving)
            .acquire_many_owned(in_kib(n_bytes))
            .await;
        memory.map_err(|error| ApiError::engine(&error.to_string()))
    }

    /// The pictures of a request, decoded.
    async fn pictures(
        self: &Arc<Self>,
        urls: Vec<String>,
        cancel: &CancelHandle,
    ) -> Result<Vec<Image>, ApiError> {
        if urls.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |error: String| ApiError::engine(&error);
        let turn = Arc::clone(&self.decoding).acquire_owned().await;
        let turn = turn.map_err(|error| failed(error.to_string()))?;
        let (app, cancel) = (Arc::clone(self), cancel.clone());
        let decoding = tokio::task::spawn_blocking(move || {
            let _turn = turn; // it takes as long as this, even if nobody waits any more
            media::pictures(&urls, &app.options, &cancel)
        });
        decoding.await.map_err(|error| failed(error.to_string()))?
    }

    /// A model to be asked. A server with one model does not make requests wait until it is loaded.
    async fn ready(&self, entry: &Arc<Entry>) -> Result<Arc<Worker>, ApiError> {
        let is_only = self.models.only().is_some();
        if is_only && matches!(entry.loading(), Loading::Progress(_)) {
            return Err(ApiError::loading());
        }
        self.models.ready(entry).await
    }

    fn first_model(&self) -> String {
        self.models
            .all()
            .first()
            .map(|entry| entry.spec.id.clone())
            .unwrap_or_default()
    }
}

fn in_kib(n_bytes: usize) -> u32 {
    u32::try_from(n_bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 4) // of what no body has
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids = self.0.models.all().iter().map(|entry| &entry.spec.id);
        f.debug_list().entries(ids).finish()
    }
}
