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
mod worker;

use std::sync::Arc;

pub use options::{ModelSpec, ServerOptions};

use api::ApiError;
use metrics::Metrics;
use models::{Entry, Loading, Models};
use worker::Worker;

/// Models, and what is allowed with them. Clones share them.
#[derive(Clone)]
pub struct Server(Arc<App>);

/// What all requests share.
pub(crate) struct App {
    models: Models,
    options: ServerOptions,
    metrics: Arc<Metrics>,
}

impl Server {
    /// A server of some models. None of them is loaded yet.
    pub fn new(models: Vec<ModelSpec>, options: ServerOptions) -> Self {
        let metrics = Arc::new(Metrics::new());
        let models = Models::new(
            models,
            options.max_loaded,
            options.max_waiting,
            Arc::clone(&metrics),
        );
        Self(Arc::new(App {
            models,
            options,
            metrics,
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

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids = self.0.models.all().iter().map(|entry| &entry.spec.id);
        f.debug_list().entries(ids).finish()
    }
}
