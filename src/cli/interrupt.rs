//! Ctrl-C and the signals that ask a program to end: the first one ends the work cleanly, the second one the program. Either
//! way it ends as one that the signal killed, so that a shell's loop ends, too.

#[cfg(not(unix))]
mod system {
    //! Where there are no signals: Ctrl-C alone.

    /// Ctrl-C.
    pub const SIGINT: i32 = 2;

    /// What a program returns that Ctrl-C has ended.
    const EXIT_CODE: i32 = 130;

    /// Calls `press` for each Ctrl-C.
    pub fn listen(press: impl Fn(i32) + Send + 'static) {
        let _ = ctrlc::set_handler(move || press(SIGINT));
    }

    /// Ends the program.
    pub fn end(_: i32) {
        std::process::exit(EXIT_CODE);
    }
}

#[cfg(unix)]
mod system {
    //! Signals.

    pub use signal_hook::consts::SIGINT;
    use signal_hook::consts::{SIGHUP, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    /// Calls `press` for each signal that asks for the end.
    pub fn listen(press: impl Fn(i32) + Send + 'static) {
        let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
        if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup)) {
            std::thread::spawn(move || signals.forever().for_each(press));
        }
    }

    /// Ends the program as the signal does where nobody listens.
    pub fn end(signal: i32) {
        let _ = emulate_default_handler(signal);
    }

    /// Whether whoever started the program wants it to go on, as `nohup` does. Only Linux says so without system calls of one's
    /// own.
    fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    }
}

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
#[cfg(feature = "native")]
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "native")]
use visipruner::engine::CancelHandle;

#[cfg(feature = "native")]
use system::SIGINT;

/// The one that listens.
static LISTENING: OnceLock<Interrupt> = OnceLock::new();

/// Whether the program was asked to end, and what that stops.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The signal that came, 0 for none.
    signal: AtomicI32,
    /// Whether the next one ends the program.
    is_last: AtomicBool,
    #[cfg(feature = "native")]
    requests: Mutex<CancelHandle>,
}

/// Ends the program by the signal that its work was stopped by, if one was.
pub fn end_as_signalled() {
    if let Some(interrupt) = LISTENING.get().filter(|interrupt| interrupt.is_pressed()) {
        system::end(interrupt.signal());
    }
}

impl Interrupt {
    /// Starts to listen. Where signals cannot be caught, they end the program as they always did.
    pub fn listen() -> Self {
        LISTENING.get_or_init(Self::start).clone()
    }

    fn start() -> Self {
        let interrupt = Self::default();
        let pressed = interrupt.clone();
        system::listen(move |signal| pressed.press(signal));
        interrupt
    }

    /// Whether the work is to stop.
    pub fn is_pressed(&self) -> bool {
        self.signal() != 0
    }

    /// Whether the program is to end, and not what it is doing just now: nobody presses Ctrl-C for that.
    #[cfg(feature = "native")]
    pub fn is_end(&self) -> bool {
        ![0, SIGINT].contains(&self.signal())
    }

    /// What requests are given so that they are stopped.
    #[cfg(feature = "native")]
    pub fn handle(&self) -> CancelHandle {
        self.requests().clone()
    }

    /// Forgets that Ctrl-C was pressed: the next one stops the requests that get the handle that comes back, and no others.
    #[cfg(feature = "native")]
    pub fn renew(&self) -> CancelHandle {
        let fresh = CancelHandle::default();
        *self.requests() = fresh.clone();
        self.forget_ctrl_c();
        if self.is_pressed() {
            fresh.cancel();
        } else {
            self.0.is_last.store(false, Ordering::SeqCst);
        }
        fresh
    }

    /// Ctrl-C has stopped what it was to stop, and there is nothing else: the next signal ends the program.
    #[cfg(feature = "native")]
    pub fn rest(&self) {
        self.0.is_last.store(true, Ordering::SeqCst);
        self.forget_ctrl_c();
    }

    #[cfg(feature = "native")]
    fn forget_ctrl_c(&self) {
        let signal = &self.0.signal;
        let _ = signal.compare_exchange(SIGINT, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn signal(&self) -> i32 {
        self.0.signal.load(Ordering::SeqCst)
    }

    fn press(&self, signal: i32) {
        self.0.signal.store(signal, Ordering::SeqCst);
        if self.0.is_last.swap(true, Ordering::SeqCst) {
            system::end(signal);
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
        interrupt.press(SIGINT);
        assert!(interrupt.is_pressed() && running.is_cancelled());
        assert!(interrupt.handle().is_cancelled());
    }

    #[test]
    fn each_request_of_several_can_be_stopped_by_itself() {
        let interrupt = Interrupt::default();
        let first = interrupt.renew();
        interrupt.press(SIGINT);
        let second = interrupt.renew();
        assert!(first.is_cancelled() && !second.is_cancelled() && !interrupt.is_pressed());
        interrupt.press(SIGINT);
        assert!(second.is_cancelled() && interrupt.is_pressed());
    }

    #[cfg(unix)]
    #[test]
    fn what_asks_for_the_end_is_not_forgotten() {
        let interrupt = Interrupt::default();
        interrupt.press(SIGINT);
        assert!(!interrupt.is_end());
        interrupt.renew();
        interrupt.press(signal_hook::consts::SIGTERM);
        assert!(interrupt.is_end() && interrupt.renew().is_cancelled() && interrupt.is_end());
    }
}
