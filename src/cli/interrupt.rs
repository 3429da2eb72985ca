//! Ctrl-C: the first one ends the work cleanly, the second one ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(feature = "native")]
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "native")]
use visipruner::engine::CancelHandle;

/// What a shell reports for a program that was ended by Ctrl-C.
const EXIT_CODE: i32 = 130;

/// Whether Ctrl-C was pressed, and what it stops.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_pressed: AtomicBool,
    /// Whether the next press ends the program.
    is_last: AtomicBool,
    #[cfg(feature = "native")]
    requests: Mutex<CancelHandle>,
}

impl Interrupt {
    /// Starts to listen. Where signals cannot be caught, Ctrl-C ends the program as it always did.
    pub fn listen() -> Self {
        let interrupt = Self::default();
        let pressed = interrupt.clone();
        let _ = ctrlc::set_handler(move || pressed.press());
        interrupt
    }

    /// Whether Ctrl-C was pressed.
    pub fn is_pressed(&self) -> bool {
        self.0.is_pressed.load(Ordering::Relaxed)
    }

    /// What requests are given so that Ctrl-C stops them.
    #[cfg(feature = "native")]
    pub fn handle(&self) -> CancelHandle {
        self.requests().clone()
    }

    /// Forgets earlier presses: the next one stops the requests that get the handle that comes back, and no others.
    #[cfg(feature = "native")]
    pub fn renew(&self) -> CancelHandle {
        let fresh = CancelHandle::default();
        *self.requests() = fresh.clone();
        self.0.is_pressed.store(false, Ordering::Relaxed);
        self.0.is_last.store(false, Ordering::Relaxed);
        fresh
    }

    /// From here on there is nothing to stop: the next press ends the program.
    pub fn rest(&self) {
        self.0.is_last.store(true, Ordering::Relaxed);
    }

    fn press(&self) {
        self.0.is_pressed.store(true, Ordering::Relaxed);
        if self.0.is_last.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE);
        }
        #[cfg(feature = "native")]
        self.requests().cancel();
    }

    /// A handle is whole whatever happened to a thread that held it.
    #[cfg(feature = "native")]
    fn requests(&self) -> MutexGuard<'_, CancelHandle> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, feature = "native"))]
mod tests {
    use super::*;

    #[test]
    fn a_press_stops_requests_whenever_they_began() {
        let interrupt = Interrupt::default();
        let running = interrupt.handle();
        assert!(!interrupt.is_pressed() && !running.is_cancelled());
        interrupt.press();
        assert!(interrupt.is_pressed() && running.is_cancelled());
        assert!(interrupt.handle().is_cancelled());
    }

    #[test]
    fn each_request_of_several_can_be_stopped_by_itself() {
        let interrupt = Interrupt::default();
        let first = interrupt.renew();
        interrupt.press();
        let second = interrupt.renew();
        assert!(first.is_cancelled() && !second.is_cancelled() && !interrupt.is_pressed());
        interrupt.press();
        assert!(second.is_cancelled() && interrupt.is_pressed());
    }
}
