//! Where messages come from: a terminal with a line editor, or lines of standard input.

use std::io::{self, BufRead, IsTerminal};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Behavior, Cmd, CompletionType, Config, Context, Editor, Helper, KeyCode, KeyEvent, Modifiers,
};

use super::command::COMMANDS;
use crate::cli::error::Error;
use crate::cli::terminal::Terminal;

const PROMPT: &str = "> ";

/// The lines that the user gives. One that ends with a backslash goes on in the next one.
pub enum Lines {
    /// From a terminal.
    Editor(Box<Editor<Typing, MemHistory>>),
    /// From a file or a pipe.
    Stdin,
}

impl Lines {
    /// Standard input. What is typed is kept for the arrow keys until the program ends, and nowhere else.
    ///
    /// # Errors
    /// [`Error::Stdin`] for a terminal that cannot be used.
    pub fn open() -> Result<Self, Error> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Stdin);
        }
        // The prompt is no part of what is written to a file.
        let behavior = if io::stdout().is_terminal() {
            Behavior::Stdio
        } else {
            Behavior::PreferTerm
        };
        let config = Config::builder()
            .behavior(behavior)
            .completion_type(CompletionType::List)
            .auto_add_history(true)
            .build();
        let history = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history).map_err(unreadable)?;
        editor.set_helper(Some(Typing(FilenameCompleter::new())));
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        Ok(Self::Editor(Box::new(editor)))
    }

    /// Whether somebody types.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Editor(_))
    }

    /// The next line, `None` at the end.
    ///
    /// # Errors
    /// [`Error::Stdin`]
    pub fn next(&mut self, terminal: &mut Terminal) -> Result<Option<String>, Error> {
        let line = match self {
            Self::Editor(editor) => edited(editor, terminal)?,
            Self::Stdin => continued(&mut io::stdin().lock()).map_err(Error::Stdin)?,
        };
        Ok(line.map(|line| line.replace("\\\n", "\n")))
    }
}

/// Ctrl-C clears the line; who presses it on an empty one wants to leave, perhaps.
fn edited(editor: &mut Editor<Typing, MemHistory>, terminal: &mut Terminal) -> Result<Option<String>, Error> {
    let mut n_interrupts = 0;
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => return Ok(Some(line)),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(ReadlineError::Interrupted) => {
                n_interrupts += 1;
                if n_interrupts > 1 {
                    terminal.tell("(Ctrl-D or /exit ends the conversation)");
                }
            }
            Err(error) => return Err(unreadable(error)),
        }
    }
}

/// A line with those that it goes on in, `None` at the end.
fn continued(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let end = [&b"\r\n"[..], b"\n"].into_iter().find(|end| line.ends_with(end));
        line.truncate(line.len() - end.map_or(0, <[u8]>::len));
        text.extend_from_slice(&line);
        if line.last() != Some(&b'\\') {
            return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
        }
        text.push(b'\n');
    }
    Ok((!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned()))
}

fn unreadable(error: ReadlineError) -> Error {
    Error::Stdin(match error {
        ReadlineError::Io(error) => error,
        error => io::Error::other(error.to_string()),
    })
}

/// What helps while a line is typed: commands and files are completed.
pub struct Typing(FilenameCompleter);

impl Helper for Typing {}

impl Highlighter for Typing {}

impl Hinter for Typing {
    type Hint = String;
}

impl Validator for Typing {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if context.input().ends_with('\\') {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Completer for Typing {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        match line[..pos].split_once(' ') {
            Some(("/image" | "/save" | "/load", _)) => self.0.complete(line, pos, context),
            None if line.starts_with('/') => Ok((0, commands(&line[..pos]))),
            _ => Ok((0, Vec::new())),
        }
    }
}

/// The commands that begin so.
fn commands(begin: &str) -> Vec<Pair> {
    let matching = COMMANDS.iter().filter(|(name, _, _)| name.starts_with(begin));
    matching
        .map(|(name, takes, _)| Pair {
            display: (*name).to_owned(),
            replacement: format!("{name}{}", if takes.is_empty() { "" } else { " " }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_goes_on_in_the_next_line() {
        let mut input = &b"one\r\n\ntwo \\\nthree\\\n\nfour\\"[..];
        let mut lines = Vec::new();
        while let Some(line) = continued(&mut input).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["one", "", "two \\\nthree\\\n", "four\\\n"]);
    }

    #[test]
    fn commands_are_completed() {
        let names =
            |begin| -> Vec<String> { commands(begin).into_iter().map(|pair| pair.replacement).collect() };
        assert_eq!(names("/s"), ["/stats", "/save "]);
        assert_eq!(names("/x"), Vec::<String>::new());
    }
}
