//! Ctrl-C: the first one ends the work cleanly, the second one ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use visipruner::engine::CancelHandle;

/// What a shell reports for a program that was ended by Ctrl-C.
const EXIT_CODE: i32 = 130;

/// Whether Ctrl-C was pressed, and what it stops.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_pressed: AtomicBool,
    requests: CancelHandle,
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
    pub fn handle(&self) -> CancelHandle {
        self.0.requests.clone()
    }

    fn press(&self) {
        if self.0.is_pressed.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE);
        }
        self.0.requests.cancel();
    }
}

#[cfg(test)]
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
}
