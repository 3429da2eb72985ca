//! Ctrl-C: the first one ends the work cleanly, the second one ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use visipruner::engine::CancelHandle;

/// What a shell reports for a program that was ended by Ctrl-C.
const EXIT_CODE: i32 = 130;

/// Whether Ctrl-C was pressed, and what it stops.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_pressed: AtomicBool,
    stops: Mutex<Option<CancelHandle>>,
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

    /// From now on Ctrl-C stops these requests. One that came earlier stops the next of them.
    pub fn stops(&self, requests: CancelHandle) {
        let mut stops = self.0.stops.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_pressed() {
            requests.cancel();
        }
        *stops = Some(requests);
    }

    fn press(&self) {
        if self.0.is_pressed.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE);
        }
        let stops = self.0.stops.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = stops.as_ref() {
            requests.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_press_stops_the_running_request() {
        let interrupt = Interrupt::default();
        let requests = CancelHandle::default();
        interrupt.stops(requests.clone());
        assert!(!interrupt.is_pressed() && !requests.is_cancelled());
        interrupt.press();
        assert!(interrupt.is_pressed() && requests.is_cancelled());
    }

    #[test]
    fn a_press_before_the_request_stops_it_too() {
        let interrupt = Interrupt::default();
        interrupt.press();
        let requests = CancelHandle::default();
        interrupt.stops(requests.clone());
        assert!(requests.is_cancelled());
    }
}
