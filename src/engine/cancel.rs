//! Stopping a request from elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops the request that a session is working on, from any thread.
///
/// The request ends cleanly with what was generated so far. When no request is running, the next one is stopped at its
/// start; afterwards the session can be used again.
#[derive(Debug, Clone, Default)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    /// Stops the request.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for and not yet answered.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// To be called when the request has ended.
    #[cfg(feature = "native")]
    pub(crate) fn answered(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// The flag that the computation looks at.
    #[cfg(feature = "native")]
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}
