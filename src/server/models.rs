//! The models of a server: loaded when they are asked for, the one not asked for longest gone first.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::api::ApiError;
use super::metrics::Metrics;
use super::options::ModelSpec;
use super::worker::Worker;
use crate::engine::{Cuts, Error, Model, Projector};
use crate::policy::config::PolicyChoice;

/// All models.
pub(crate) struct Models {
    entries: Vec<Arc<Entry>>,
    max_loaded: usize,
    clock: AtomicU64,
    metrics: Arc<Metrics>,
    /// Held while a model is loaded: one at a time, so that no more are loaded than may be.
    loading: tokio::sync::Mutex<()>,
}

/// A model, loaded or not.
pub(crate) struct Entry {
    pub(crate) spec: ModelSpec,
    worker: Mutex<Option<Arc<Worker>>>,
    /// How much is loaded, from 0 to 1, as bits of an f32.
    progress: AtomicU32,
    failed: Mutex<Option<String>>,
    last_used: AtomicU64,
}

/// How far a model is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Loading {
    NotYet,
    Progress(f32),
    Ready,
    Failed(String),
}

/// A model that was asked for, and the policy that its name came with.
pub(crate) struct Asked {
    pub(crate) entry: Arc<Entry>,
    pub(crate) policy: Option<PolicyChoice>,
}

impl Models {
    pub(crate) fn new(specs: Vec<ModelSpec>, max_loaded: usize, metrics: Arc<Metrics>) -> Self {
        let entry = |spec| {
            Arc::new(Entry {
                spec,
                worker: Mutex::new(None),
                progress: AtomicU32::new(0),
                failed: Mutex::new(None),
                last_used: AtomicU64::new(0),
            })
        };
        Self {
            entries: specs.into_iter().map(entry).collect(),
            max_loaded: max_loaded.max(1),
            clock: AtomicU64::new(0),
            metrics,
            loading: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn all(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// The model of a server that has one.
    pub(crate) fn only(&self) -> Option<&Arc<Entry>> {
        match &self.entries[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The model that a request names, with or without a policy behind a colon. A server with one model answers to any name,
    /// as clients come with names of their own.
    ///
    /// # Errors
    /// 404 for a model that is none of several.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Asked, ApiError> {
        let by_id = |id: &str| self.entries.iter().find(|entry| entry.spec.id == id).cloned();
        let name = name.unwrap_or_default();
        if let Some(entry) = by_id(name) {
            return Ok(Asked { entry, policy: None });
        }
        let split = name
            .rsplit_once(':')
            .and_then(|(id, policy)| Some((id, policy.parse().ok()?)));
        let (id, policy) = match split {
            Some((id, policy)) => (id, Some(policy)),
            None => (name, None),
        };
        let entry = by_id(id).or_else(|| self.only().cloned());
        let entry = entry.or_else(|| name.is_empty().then(|| Some(self.in_use()?.0)).flatten());
        match entry {
            Some(entry) => Ok(Asked { entry, policy }),
            None => Err(ApiError::no_model(name)),
        }
    }

    /// The loaded model that was used last.
    pub(crate) fn in_use(&self) -> Option<(Arc<Entry>, Arc<Worker>)> {
        let loaded = self
            .entries
            .iter()
            .filter_map(|entry| Some((Arc::clone(entry), entry.worker()?)));
        loaded.max_by_key(|(entry, _)| entry.last_used.load(Ordering::Relaxed))
    }

    /// A model that is ready to answer; it is loaded if it is not.
    ///
    /// # Errors
    /// 500 if it cannot be loaded.
    pub(crate) async fn ready(&self, entry: &Arc<Entry>) -> Result<Arc<Worker>, ApiError> {
        entry
            .last_used
            .store(self.clock.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        if let Some(worker) = entry.worker() {
            return Ok(worker);
        }
        let _one_at_a_time = self.loading.lock().await;
        if let Some(worker) = entry.worker() {
            return Ok(worker);
        }
        self.make_room().await;
        let metrics = Arc::clone(&self.metrics);
        let loading = Arc::clone(entry);
        let loaded = tokio::task::spawn_blocking(move || loading.load(metrics)).await;
        let failed = |reason: String| {
            *entry.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
            ApiError::engine(&reason)
        };
        let worker = Arc::new(
            loaded
                .map_err(|error| failed(error.to_string()))?
                .map_err(|error| failed(error.to_string()))?,
        );
        entry.progress.store(0, Ordering::Relaxed); // for the next time
        *entry.lock() = Some(Arc::clone(&worker));
        *entry.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(worker)
    }

    /// Lets go of models until one more may be loaded, first of those whose engine has gone. Requests at work on them keep them
    /// until they have ended.
    async fn make_room(&self) {
        let mut loaded: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.worker().is_some())
            .collect();
        loaded.sort_by_key(|entry| entry.last_used.load(Ordering::Relaxed));
        let n_too_many = (loaded.len() + 1).saturating_sub(self.max_loaded);
        let lost = self.entries.iter().filter(|entry| entry.has_lost_its_engine());
        let gone: Vec<_> = lost
            .chain(loaded.into_iter().take(n_too_many))
            .map(|entry| entry.lock().take())
            .collect();
        // freeing gigabytes takes its time, and is to be done before the next ones are taken
        let _ = tokio::task::spawn_blocking(move || drop(gone)).await;
    }
}

impl Entry {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Worker>>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model at work, if it is loaded. One whose engine has gone is loaded anew.
    pub(crate) fn worker(&self) -> Option<Arc<Worker>> {
        self.lock().clone().filter(|worker| worker.is_alive())
    }

    /// Whether it was loaded, and its engine has gone since.
    pub(crate) fn has_lost_its_engine(&self) -> bool {
        self.lock().as_ref().is_some_and(|worker| !worker.is_alive())
    }

    pub(crate) fn loading(&self) -> Loading {
        if self.worker().is_some() {
            return Loading::Ready;
        }
        if let Some(reason) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Loading::Failed(reason);
        }
        match f32::from_bits(self.progress.load(Ordering::Relaxed)) {
            0.0 => Loading::NotYet,
            progress => Loading::Progress(progress),
        }
    }

    fn load(&self, metrics: Arc<Metrics>) -> Result<Worker, Error> {
        let hear = |progress: f32| {
            self.progress
                .store(progress.max(f32::MIN_POSITIVE).to_bits(), Ordering::Relaxed);
            ControlFlow::Continue(())
        };
        let spec = &self.spec;
        let model = Model::load(&spec.model, &spec.model_options, hear)?;
        let projector = spec
            .projector
            .as_ref()
            .map(|path| Projector::load(path, &model, &spec.projector_options, hear))
            .transpose()?;
        let mut session = spec.session.clone();
        if session.cuts == Cuts::OfPolicy && model.supports_pruning().is_ok() {
            session.cuts = Cuts::EveryLayer; // requests name policies
        }
        Worker::start(model, projector, &session, metrics)
    }
}
