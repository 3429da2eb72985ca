//! Where llama.cpp, ggml and mtmd log to: silent unless asked, the last complaints kept for error messages.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::sys;

/// How serious a log line is, most serious first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Something failed.
    Error,
    /// Something looks wrong.
    Warn,
    /// What is being done.
    Info,
    /// Everything else.
    Debug,
}

type Handler = Arc<dyn Fn(Level, &str) + Send + Sync>;

/// The handler that hears every line, if any.
static HANDLER: RwLock<Option<Handler>> = RwLock::new(None);

/// Complaints kept per thread. Upstream's failures take two or three lines; more would drown the first.
const N_COMPLAINTS: usize = 4;

thread_local! {
    static LINES: RefCell<Lines> = const { RefCell::new(Lines::new()) };
}

/// Sets who hears the log, `None` for nobody. Lines come without their end.
pub(crate) fn set_log(handler: Option<Handler>) {
    *HANDLER.write().unwrap_or_else(PoisonError::into_inner) = handler;
    install();
}

/// Redirects every log of the library to this module and initialises its backends. Later calls do nothing.
///
/// Returns what the backends complained about when they were initialised.
pub(super) fn install() -> &'static str {
    static COMPLAINTS: OnceLock<String> = OnceLock::new();
    COMPLAINTS.get_or_init(|| {
        // SAFETY: the callbacks are functions that live forever and take no user data. The loggers are plain globals
        // (llama-impl.cpp:55, mtmd.cpp mtmd_log_set), so they must be set before any other thread is inside the
        // library: every constructor of this module's handles calls install() first, and OnceLock makes them wait.
        unsafe {
            sys::llama_log_set(Some(on_log), std::ptr::null_mut());
            sys::mtmd_log_set(Some(on_log), std::ptr::null_mut());
            sys::vp_set_abort_handler(Some(on_abort));
            sys::llama_backend_init();
            sys::ggml_backend_load_all();
        }
        complaints()
    })
}

/// Forgets this thread's complaints.
pub(super) fn forget_complaints() {
    LINES.with_borrow_mut(|lines| lines.complaints.clear());
}

/// This thread's warnings and errors since [`forget_complaints`], oldest first, in one line. Errors alone if there
/// are any.
pub(super) fn complaints() -> String {
    LINES.with_borrow(Lines::complaints)
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _user_data: *mut c_void) {
    // A panic of the handler must not reach C, and there is nobody to report it to but the panic hook, which has
    // already printed it.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if text.is_null() {
            return;
        }
        // SAFETY: ggml's, llama's and mtmd's loggers pass a NUL-terminated buffer that lives until the callback
        // returns (llama-impl.cpp:61, ggml.c ggml_log_internal_v, clip-impl.h clip_log_internal_v).
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        for (level, line) in LINES.with_borrow_mut(|lines| lines.push(level_of(level), &text)) {
            let handler = HANDLER.read().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(handler) = handler {
                handler(level, &line);
            }
        }
    }));
}

/// Says what happened before ggml ends the process: an assertion that failed while a graph was computed.
unsafe extern "C" fn on_abort(message: *const c_char) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: ggml_abort (ggml.c:253) passes its NUL-terminated stack buffer, through vp-abort.cpp.
        let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
        eprintln!(
            "error: llama.cpp stopped the process ({message}). This is a defect of visipruner: please report it."
        );
    }));
}

/// `None` continues the line before.
fn level_of(level: sys::ggml_log_level) -> Option<Level> {
    match level {
        sys::GGML_LOG_LEVEL_ERROR => Some(Level::Error),
        sys::GGML_LOG_LEVEL_WARN => Some(Level::Warn),
        sys::GGML_LOG_LEVEL_INFO => Some(Level::Info),
        sys::GGML_LOG_LEVEL_CONT => None,
        _ => Some(Level::Debug),
    }
}

/// Lines put together from what one thread logs, and its last complaints.
struct Lines {
    /// The line that has not ended yet.
    open: Option<(Level, String)>,
    complaints: VecDeque<(Level, String)>,
}

impl Lines {
    const fn new() -> Self {
        Self {
            open: None,
            complaints: VecDeque::new(),
        }
    }

    /// Takes a piece of log (`level` `None`: goes on with the open line) and returns the lines that ended with it.
    fn push(&mut self, level: Option<Level>, text: &str) -> Vec<(Level, String)> {
        let mut ended = Vec::new();
        if let (Some(_), Some(open)) = (level, self.open.take_if(|_| level.is_some())) {
            ended.push(open);
        }
        let (level, mut line) = self
            .open
            .take()
            .unwrap_or((level.unwrap_or(Level::Info), String::new()));
        for piece in text.split_inclusive('\n') {
            line.push_str(piece.trim_end_matches(['\n', '\r']));
            if piece.ends_with('\n') {
                ended.push((level, std::mem::take(&mut line)));
            }
        }
        if !line.is_empty() {
            self.open = Some((level, line));
        }
        for (level, line) in &ended {
            self.remember(*level, line);
        }
        ended
    }

    fn remember(&mut self, level: Level, line: &str) {
        if level > Level::Warn || line.trim().is_empty() {
            return;
        }
        if self.complaints.len() == N_COMPLAINTS {
            self.complaints.pop_front();
        }
        self.complaints.push_back((level, line.trim().to_owned()));
    }

    fn complaints(&self) -> String {
        let worst = self.complaints.iter().map(|(level, _)| *level).min();
        let lines = self.complaints.iter().filter(|(level, _)| Some(*level) == worst);
        lines
            .map(|(_, line)| line.as_str())
            .collect::<Vec<_>>()
            .join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines() {
        let mut lines = Lines::new();
        assert_eq!(lines.push(Some(Level::Info), "load"), []);
        assert_eq!(lines.push(None, "ing ."), []);
        assert_eq!(
            lines.push(None, ".\nnext"),
            [(Level::Info, "loading ..".to_owned())]
        );
        let ended = lines.push(Some(Level::Error), "no such file\n");
        assert_eq!(
            ended,
            [
                (Level::Info, "next".to_owned()),
                (Level::Error, "no such file".to_owned())
            ]
        );
    }

    #[test]
    fn errors_hide_warnings_and_the_oldest_go() {
        let mut lines = Lines::new();
        lines.push(Some(Level::Warn), "hm\n");
        assert_eq!(lines.complaints(), "hm");
        lines.push(Some(Level::Error), "one\n");
        lines.push(Some(Level::Error), "two\n");
        lines.push(Some(Level::Debug), "noise\n");
        assert_eq!(lines.complaints(), "one; two");
        for _ in 0..N_COMPLAINTS {
            lines.push(Some(Level::Error), "three\n");
        }
        assert_eq!(lines.complaints(), "three; three; three; three");
    }
}
