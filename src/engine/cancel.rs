//! Stopping a request from elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops the request that it was given to, from any thread: during encoding, the prompt or the answer, which then ends
/// cleanly with what was generated so far. A request that is begun after that ends at once.
#[derive(Debug, Clone, Default)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    /// Stops the request.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the request is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag that the computation looks at.
    #[cfg(feature = "native")]
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }
}
