//! What the engine is at, for those who watch.

use std::sync::{Mutex, PoisonError};

/// A place at which a request can be answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The request's number; `None`: nothing is answered here.
    pub(crate) request: Option<u64>,
    /// Tokens of its prompt.
    pub(crate) n_prompt: usize,
    /// Tokens of its answer so far.
    pub(crate) n_decoded: usize,
}

/// All places of a worker.
#[derive(Debug)]
pub(crate) struct Slots(Mutex<Vec<Slot>>);

impl Slots {
    pub(crate) fn new(n_slots: usize) -> Self {
        Self(Mutex::new(vec![Slot::default(); n_slots]))
    }

    pub(crate) fn all(&self) -> Vec<Slot> {
        self.lock().clone()
    }

    /// Puts a request into a free place.
    pub(super) fn take(&self, request: u64, n_prompt: usize) {
        if let Some(slot) = self.lock().iter_mut().find(|slot| slot.request.is_none()) {
            *slot = Slot {
                request: Some(request),
                n_prompt,
                n_decoded: 0,
            };
        }
    }

    pub(super) fn decoded(&self, request: u64, n_decoded: usize) {
        if let Some(slot) = self.lock().iter_mut().find(|slot| slot.request == Some(request)) {
            slot.n_decoded = n_decoded;
        }
    }

    pub(super) fn leave(&self, request: u64) {
        if let Some(slot) = self.lock().iter_mut().find(|slot| slot.request == Some(request)) {
            *slot = Slot::default();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
