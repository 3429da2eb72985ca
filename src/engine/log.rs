//! What llama.cpp says.

use std::sync::Arc;

use crate::ffi;

/// How serious a log line is, most serious first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something looks wrong.
    Warn,
    /// What is being done.
    Info,
    /// Everything else.
    Debug,
}

impl From<ffi::Level> for LogLevel {
    fn from(level: ffi::Level) -> Self {
        match level {
            ffi::Level::Error => Self::Error,
            ffi::Level::Warn => Self::Warn,
            ffi::Level::Info => Self::Info,
            ffi::Level::Debug => Self::Debug,
        }
    }
}

/// Shows llama.cpp's log up to `level` on standard error, or nothing with `None`, which is the state at the start.
///
/// Errors carry the lines that explain them either way.
pub fn set_log(level: Option<LogLevel>) {
    match level {
        Some(most) => set_log_handler(move |level, line| {
            if level <= most {
                eprintln!("{line}");
            }
        }),
        None => ffi::set_log(None),
    }
}

/// Hands every line of llama.cpp's log to `handler`, without its end. It is called from any thread.
pub fn set_log_handler(handler: impl Fn(LogLevel, &str) + Send + Sync + 'static) {
    ffi::set_log(Some(Arc::new(move |level: ffi::Level, line: &str| {
        handler(level.into(), line)
    })));
}
