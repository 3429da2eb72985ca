//! What is typed at the prompt: messages, and commands.

use std::path::PathBuf;

use crate::cli::args::spec::PolicySpec;

/// The commands, what they take, and what they do.
pub const COMMANDS: [(&str, &str, &str); 10] = [
    (
        "/image",
        "FILE",
        "show a picture with the next message; several are allowed",
    ),
    (
        "/policy",
        "[NAME FIELD=VALUE ...]",
        "prune by another policy from here on, or say which one is in force",
    ),
    ("/kept", "", "show the last picture with what was kept of it"),
    ("/stats", "", "say what the last answer cost"),
    (
        "/undo",
        "",
        "take back the last message with its answer, or pictures that wait",
    ),
    ("/clear", "", "begin anew"),
    ("/save", "FILE", "write the conversation to a file"),
    ("/load", "FILE", "go on with a conversation that was saved"),
    ("/help", "", "say which commands there are"),
    ("/exit", "", "end (so does Ctrl-D)"),
];

/// What is typed.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Nothing.
    Empty,
    /// Something for the model.
    Message(String),
    /// Something for the program.
    Command(Command),
}

/// Something for the program.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Command {
    /// Without a file: which pictures wait.
    Image(Option<PathBuf>),
    /// Without a policy: which one is in force.
    Policy(Option<PolicySpec>),
    Kept,
    Stats,
    Undo,
    Clear,
    Save(PathBuf),
    Load(PathBuf),
    Help,
    Exit,
}

impl Input {
    /// Reads what was typed. A message that begins with a slash has a blank before it.
    ///
    /// # Errors
    /// A command that there is not, or that is given something else than it takes.
    pub fn read(line: &str) -> Result<Self, String> {
        let text = line.trim();
        if text.is_empty() {
            return Ok(Self::Empty);
        }
        if !line.starts_with('/') {
            return Ok(Self::Message(text.to_owned()));
        }
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let alone = |command: Command| match rest {
            "" => Ok(command),
            _ => Err(format!("{name} takes nothing, but was given {rest:?}")),
        };
        let file = || match rest {
            "" => Err(format!("{name} needs a file: {name} FILE")),
            _ => Ok(path(rest)),
        };
        let command = match name {
            "/image" => Command::Image((!rest.is_empty()).then(|| path(rest))),
            "/policy" => Command::Policy((!rest.is_empty()).then(|| policy(rest)).transpose()?),
            "/kept" => alone(Command::Kept)?,
            "/stats" => alone(Command::Stats)?,
            "/undo" => alone(Command::Undo)?,
            "/clear" => alone(Command::Clear)?,
            "/save" => Command::Save(file()?),
            "/load" => Command::Load(file()?),
            "/help" => alone(Command::Help)?,
            "/exit" | "/quit" => alone(Command::Exit)?,
            _ => {
                let names = COMMANDS.map(|(name, _, _)| name).join(", ");
                return Err(format!(
                    "there is no command {name}, only {names}; a message that begins with a slash needs a blank before it"
                ));
            }
        };
        Ok(Self::Command(command))
    }
}

/// `/help`
pub fn help() -> String {
    let line =
        |(name, takes, does): (&str, &str, &str)| format!("  {:<31} {does}", format!("{name} {takes}"));
    let commands = COMMANDS.map(line).join("\n");
    format!(
        "{commands}\nA line that ends with \\ goes on in the next one. Ctrl-C stops an answer. <image> marks where in a message \
         its picture goes."
    )
}

/// A policy by name, then fields as they are in policy files: `fastv rank_layers=1 keep=25%`.
fn policy(text: &str) -> Result<PolicySpec, String> {
    let (name, fields) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let fields: Vec<_> = fields.split_whitespace().collect();
    if fields.is_empty() {
        name.parse()
    } else if let Some(field) = fields.iter().find(|field| !field.contains('=')) {
        Err(format!("{field:?} is not of the form FIELD=VALUE"))
    } else {
        format!("{name}:{}", fields.join(",")).parse()
    }
}

/// A file's name as shells, file managers and completion write it: quoted, or with a backslash before blanks, or as it is.
/// `~/` is the home folder.
fn path(text: &str) -> PathBuf {
    let quoted = ['"', '\'']
        .iter()
        .find_map(|&quote| text.strip_prefix(quote)?.strip_suffix(quote));
    let name = match quoted {
        Some(name) => name.to_owned(),
        None if cfg!(windows) => text.to_owned(),
        None => without_backslashes(text),
    };
    match (name.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) if quoted.is_none() => home.join(rest),
        _ => name.into(),
    }
}

fn without_backslashes(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => name.extend(chars.next()),
            c => name.push(c),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Command {
        match Input::read(line) {
            Ok(Input::Command(command)) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_command_is_understood() {
        for (name, takes, _) in COMMANDS {
            let argument = if takes == "FILE" { "x" } else { "" };
            command(&format!("{name} {argument}"));
        }
        assert!(COMMANDS.iter().all(|(name, _, _)| help().contains(name)));
    }

    #[test]
    fn messages_are_what_does_not_begin_with_a_slash() {
        for (line, text) in [
            ("what is this? ", "what is this?"),
            (" /etc holds what?", "/etc holds what?"),
            ("a\nb", "a\nb"),
        ] {
            assert_eq!(Input::read(line), Ok(Input::Message(text.to_owned())));
        }
        assert_eq!(Input::read("  "), Ok(Input::Empty));
    }

    #[test]
    fn files_may_be_quoted() {
        for (line, file) in [
            ("/image a b.png", "a b.png"),
            ("/image 'a b.png' ", "a b.png"),
            ("/image \"it's.png\"", "it's.png"),
            #[cfg(not(windows))]
            ("/image a\\ b\\'.png", "a b'.png"),
        ] {
            assert_eq!(command(line), Command::Image(Some(file.into())));
        }
        assert_eq!(command("/image"), Command::Image(None));
    }

    #[test]
    fn policies_have_fields() {
        let same = "fastv:rank_layers=1,4,keep=25%,3".parse().unwrap();
        assert_eq!(
            command("/policy fastv rank-layers=1,4  keep=25%,3"),
            Command::Policy(Some(same))
        );
        assert_eq!(command("/policy"), Command::Policy(None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, part) in [
            ("/imgae x", "/image, /policy"),
            ("/undo 2", "takes nothing"),
            ("/save", "/save FILE"),
            ("/policy best", "best"),
            ("/policy fastv 25%", "FIELD=VALUE"),
            ("/policy fastv kept=3", "not a field"),
            ("/policy vtw exit_from=x", "exit_from cannot be"),
        ] {
            let error = Input::read(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
