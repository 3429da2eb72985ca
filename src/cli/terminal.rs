//! What is said on standard error: progress bars, warnings, the summary.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::OutputArgs;
use super::error::in_one_line;

/// How far a bar counts: fractions are shown in percent.
const BAR_LENGTH: u64 = 1000;

/// Standard error. Bars are drawn only if it is a terminal; `--quiet` leaves nothing but errors and warnings.
pub struct Terminal {
    has_bars: bool,
    is_quiet: bool,
    bar: Option<(&'static str, ProgressBar)>,
}

impl Terminal {
    /// Standard error as the flags want it. Under `--verbose` bars would be torn by llama.cpp's log.
    pub fn new(output: &OutputArgs) -> Self {
        Self {
            has_bars: stderr().is_terminal() && !output.quiet && !output.verbose,
            is_quiet: output.quiet,
            bar: None,
        }
    }

    /// Shows that `what` is done up to `fraction`, from 0 to 1. Another `what` starts a new bar in the same line.
    pub fn progress(&mut self, what: &'static str, fraction: f32) {
        if !self.has_bars {
            return;
        }
        if self.bar.as_ref().is_none_or(|(label, _)| *label != what) {
            self.clear();
            self.bar = Some((what, new_bar(what, "{bar:32} {percent:>3} %")));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position((fraction.clamp(0.0, 1.0) * BAR_LENGTH as f32) as u64);
        }
    }

    /// Shows that `done` of `total` bytes are done.
    pub fn bytes(&mut self, what: &'static str, done: u64, total: u64) {
        if !self.has_bars {
            return;
        }
        if self.bar.as_ref().is_none_or(|(label, _)| *label != what) {
            self.clear();
            let columns = "{bar:32} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
            self.bar = Some((what, new_bar(what, columns)));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Shows that `done` of `total` equal steps are done, and how long the rest will take.
    pub fn steps(&mut self, what: &'static str, done: usize, total: usize) {
        if !self.has_bars {
            return;
        }
        if self.bar.as_ref().is_none_or(|(label, _)| *label != what) {
            self.clear();
            self.bar = Some((what, new_bar(what, "{bar:32} {pos} of {len}, {eta} left")));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    /// Shows that `what` is being done, by something that does not say how far it is.
    pub fn busy(&mut self, what: &'static str) {
        if !self.has_bars || self.bar.as_ref().is_some_and(|(label, _)| *label == what) {
            return;
        }
        self.clear();
        let bar = new_bar(what, "{spinner} {elapsed}");
        bar.enable_steady_tick(Duration::from_millis(100));
        self.bar = Some((what, bar));
    }

    /// Takes the bar away, so that text can be written.
    pub fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Something that the user should know, but that stops nothing.
    pub fn warn(&mut self, message: impl std::fmt::Display) {
        self.clear();
        eprintln!("warning: {message}");
    }

    /// Something that was asked for and could not be done, where the program goes on.
    pub fn error(&mut self, error: &dyn std::error::Error) {
        self.clear();
        eprintln!("error: {}", in_one_line(error));
    }

    /// The answer to something that was asked: also under `--quiet`.
    pub fn tell(&mut self, message: impl std::fmt::Display) {
        self.clear();
        eprintln!("{message}");
    }

    /// A line of a summary or a hint.
    pub fn say(&mut self, message: impl std::fmt::Display) {
        if !self.is_quiet {
            self.clear();
            eprintln!("{message}");
        }
    }
}

fn new_bar(what: &'static str, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{msg:20}} {template}"))
        .expect("the templates are constants")
        .progress_chars("█▉▊▋▌▍▎▏ ");
    let bar = ProgressBar::new(BAR_LENGTH).with_style(style);
    bar.set_message(what);
    bar
}
