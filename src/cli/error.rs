//! What keeps a command from being done.

use std::path::PathBuf;

use visipruner::engine;
use visipruner::eval::EvalError;
use visipruner::gguf::{GgufError, Problem};
use visipruner::hub;
use visipruner::inspect::InspectError;
use visipruner::policy::PolicyError;
use visipruner::synth;

use super::args::flag_name;
use super::image::PictureError;

/// Why a command was not done. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No subcommand.
    #[error("nothing to do: try 'visipruner demo', or 'visipruner --help'")]
    NoCommand,

    /// Flags that cannot be understood.
    #[error("{0}")]
    Usage(String),

    /// An address that cannot be listened at.
    #[cfg(feature = "server")]
    #[error("cannot listen at {address}: give another --host or --port")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },

    /// A model that a server cannot load.
    #[cfg(feature = "server")]
    #[error("{reason}")]
    Load {
        /// Why not.
        reason: String,
    },

    /// A file of keys that cannot be read.
    #[cfg(feature = "server")]
    #[error("cannot read the keys in {}", path.display())]
    ReadKeys {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },

    /// A folder that cannot be read.
    #[cfg(feature = "server")]
    #[error("cannot read the folder {}", folder.display())]
    ReadFolder {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: std::io::Error,
    },

    /// A folder without models.
    #[cfg(feature = "server")]
    #[error("there is no model in {}: give a folder with GGUF files", folder.display())]
    NoModels {
        /// The folder.
        folder: PathBuf,
    },

    /// A file of presets that cannot be used.
    #[cfg(feature = "server")]
    #[error("cannot read the models in {}: {reason}", path.display())]
    ReadPresets {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },

    /// A model of a file of presets that cannot be served.
    #[cfg(feature = "server")]
    #[error("cannot serve [{model}] of {}", path.display())]
    Preset {
        /// The file.
        path: PathBuf,
        /// The model.
        model: String,
        /// Why not.
        source: Box<Error>,
    },

    /// A picture that cannot be read.
    #[error(transparent)]
    Picture(#[from] PictureError),

    /// A policy that cannot be used.
    #[error(transparent)]
    Policy(PolicyError),

    /// What the library refuses, without knowing what the flag is called that sets it right.
    #[error("{error} ({flag})")]
    WithFlag {
        /// What the library says. It says all of it: there are no causes.
        error: Box<Error>,
        /// The flag.
        flag: String,
    },

    /// A file that is no model.
    #[error(transparent)]
    Gguf(GgufError),

    /// A model that could not be fetched.
    #[error(transparent)]
    Hub(hub::Error),

    /// The engine could not do its work.
    #[error(transparent)]
    Engine(engine::Error),

    /// Stock llama.cpp could not be measured.
    #[error("{} could not be measured: {reason}", program.display())]
    Stock {
        /// The program.
        program: PathBuf,
        /// What went wrong.
        reason: String,
    },

    /// Ctrl-C, before there was anything to show.
    #[error("interrupted before the first round was measured")]
    Interrupted,

    /// Questions, answers or sweeps that cannot be used.
    #[error(transparent)]
    Eval(EvalError),

    /// A question that the engine could not answer.
    #[error("question {id} could not be answered by {model}")]
    Question {
        /// The question.
        id: String,
        /// The model.
        model: String,
        /// Why not.
        source: Box<Error>,
    },

    /// A question that cannot be asked.
    #[error("question {id} cannot be asked")]
    Asked {
        /// The question.
        id: String,
        /// Why not.
        source: Box<Error>,
    },

    /// Ctrl-C, before there was an answer.
    #[error("interrupted before the first answer")]
    NothingAnswered,

    /// Ctrl-C, before a policy was found.
    #[error("interrupted: no policy was found yet, and nothing was written")]
    CalibrationInterrupted,

    /// Questions that a policy cannot be found with.
    #[error("{n_questions} questions cannot be calibrated with: {reason}")]
    CannotCalibrate {
        /// How many there were.
        n_questions: usize,
        /// What is wrong with them.
        reason: &'static str,
    },

    /// No policy within the target.
    #[error("no policy was found with {target}{closest}; nothing was written")]
    TargetNotMet {
        /// What was asked for.
        target: String,
        /// What came closest, after a colon.
        closest: String,
    },

    /// A policy file that is there already.
    #[error("{} is there already: choose another name, or replace it with --force", path.display())]
    PolicyFileExists {
        /// The file.
        path: PathBuf,
    },

    /// A model with random weights that cannot be made.
    #[error(transparent)]
    Synth(synth::Error),

    /// Pictures, and nothing that turns them into tokens.
    #[error(
        "pictures need the model's projector: give it with --mmproj{}",
        in_brackets(found)
    )]
    NoProjector {
        /// Files that look like one.
        found: Vec<PathBuf>,
    },

    /// Pictures, and a repository that has nothing that turns them into tokens.
    #[error("pictures need the model's projector, and {repo} has none: give one with --mmproj")]
    NoProjectorInRepository {
        /// The repository.
        repo: String,
    },

    /// A chat template that is no Jinja and names no file.
    #[error("--chat-template is neither Jinja nor a file that can be read ({})", path.display())]
    ReadTemplate {
        /// What was given.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },

    /// A file of questions that cannot be used.
    #[error("{flag} {}: {reason}", path.display())]
    Questions {
        /// What it was given as.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A build without the feature `native`.
    #[cfg(not(feature = "native"))]
    #[error("this build has no engine: build it with the feature 'native', which is on by default")]
    NoEngine,

    /// Nowhere to keep what is kept from one run to the next.
    #[cfg(feature = "rpc")]
    #[error("there is no home folder for the cache: give --cache a folder")]
    NoCacheFolder,

    /// A file that cannot be written.
    #[error("cannot write {what} {}", path.display())]
    Write {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },

    /// What was measured cannot be shown or written.
    #[error(transparent)]
    Inspect(#[from] InspectError),

    /// Ctrl-C, before a report was complete.
    #[error("interrupted: no report was written")]
    NothingWritten,

    /// A file that is no saved conversation, or that cannot be read.
    #[error("cannot read the conversation {}: {reason}", path.display())]
    ReadConversation {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// Standard input that cannot be read.
    #[error("cannot read from standard input")]
    Stdin(#[source] std::io::Error),

    /// Standard output that cannot be written.
    #[error("cannot write to standard output")]
    Stdout(#[source] std::io::Error),
}

impl From<PolicyError> for Error {
    fn from(error: PolicyError) -> Self {
        let flag = match error {
            PolicyError::NoSuchLayer { field, .. } => Some(flag_name(field)),
            _ => None,
        };
        Self::Policy(error).with_flag(flag)
    }
}

impl From<GgufError> for Error {
    fn from(error: GgufError) -> Self {
        let flag = match error.problem {
            Problem::IsProjector => Some("--mmproj"),
            Problem::IsPicture { .. } => Some("--image"),
            _ => None,
        };
        Self::Gguf(error).with_flag(flag)
    }
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        let flag = match error {
            engine::Error::File(error) => return error.into(),
            engine::Error::Policy(error) => return error.into(),
            engine::Error::FileExists { .. } => Some("--force"),
            engine::Error::PromptTooLong { .. } => Some("-c"),
            engine::Error::Template { .. } => Some("--chat-template"),
            engine::Error::NoDevice { .. } => Some("--device"),
            engine::Error::RpcServer { .. } => Some("--rpc"),
            engine::Error::QuantizedAlready { .. } => Some("--allow-requantize"),
            engine::Error::Markers { n_markers: 1.., .. } => {
                Some("--image-marker none takes markers as text")
            }
            _ => None,
        };
        Self::Engine(error).with_flag(flag)
    }
}

impl From<hub::Error> for Error {
    fn from(error: hub::Error) -> Self {
        let flag = match error {
            hub::Error::NotCached { .. } => Some("--offline"),
            _ => error.wants_token().then_some("--hf-token"),
        };
        Self::Hub(error).with_flag(flag)
    }
}

impl From<EvalError> for Error {
    fn from(error: EvalError) -> Self {
        let flag = match error {
            EvalError::NoImage { .. } => Some("--image-dir"),
            EvalError::UnknownFormat { .. } => Some("--format"),
            _ => None,
        };
        Self::Eval(error).with_flag(flag)
    }
}

impl From<synth::Error> for Error {
    fn from(error: synth::Error) -> Self {
        let flag = matches!(error, synth::Error::Exists { .. }).then_some("--force");
        Self::Synth(error).with_flag(flag)
    }
}

impl Error {
    /// With the flag that sets it right, if there is one.
    fn with_flag(self, flag: Option<impl Into<String>>) -> Self {
        match flag {
            Some(flag) => Self::WithFlag {
                error: Box::new(self),
                flag: flag.into(),
            },
            None => self,
        }
    }

    /// Whether the context is too small for a prompt.
    pub fn is_too_long(&self) -> bool {
        match self {
            Self::WithFlag { error, .. } => error.is_too_long(),
            Self::Engine(error) => matches!(error, engine::Error::PromptTooLong { .. }),
            _ => false,
        }
    }

    /// Whether it is what becomes of work that was stopped, and says nothing else.
    pub fn is_stop(&self) -> bool {
        match self {
            Self::Engine(engine::Error::LoadStopped { .. })
            | Self::Hub(hub::Error::Stopped { .. })
            | Self::Interrupted
            | Self::NothingAnswered
            | Self::NothingWritten
            | Self::CalibrationInterrupted => true,
            Self::Question { source, .. } => source.is_stop(),
            #[cfg(feature = "server")]
            Self::Preset { source, .. } => source.is_stop(),
            _ => false,
        }
    }

    /// clap's error, with where to look.
    pub fn usage(error: &clap::Error) -> Self {
        Self::Usage(format!("{} (see --help)", Self::usage_line(error)))
    }

    /// clap's error without its colours, its usage line and its line breaks.
    pub fn usage_line(error: &clap::Error) -> String {
        let text = error.render().to_string();
        let paragraphs = text
            .split("\n\n")
            .take_while(|paragraph| !paragraph.trim_start().starts_with("Usage:"))
            .filter(|paragraph| !paragraph.starts_with("For more information"))
            .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
        let line = paragraphs.collect::<Vec<_>>().join("; ");
        line.trim_start_matches("error: ").to_owned()
    }
}

/// ` (beside the model: a.gguf, b.gguf)`, or nothing.
fn in_brackets(found: &[PathBuf]) -> String {
    let names: Vec<_> = found.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" (beside the model: {})", names.join(", "))
    }
}

/// An error and its causes in one line, without causes that the message already ends with.
pub fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !line.ends_with(&message) {
            line = format!("{line}: {message}");
        }
        cause = error.source();
    }
    line.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_beside_ctrl_c_is_no_stop() {
        let stopped = || engine::Error::LoadStopped {
            path: "m.gguf".into(),
        };
        let broken = engine::Error::Compute {
            what: "the prompt",
            reason: "out of memory".to_owned(),
        };
        let question = |source: engine::Error| Error::Question {
            id: "7".to_owned(),
            model: "m.gguf".to_owned(),
            source: Box::new(source.into()),
        };
        assert!(Error::from(stopped()).is_stop() && question(stopped()).is_stop());
        assert!(Error::NothingAnswered.is_stop());
        assert!(!question(broken).is_stop());
        assert!(!Error::Usage("x".to_owned()).is_stop());
    }

    #[test]
    fn what_a_flag_sets_right_names_the_flag() {
        let too_long = || engine::Error::PromptTooLong {
            n_tokens: 600,
            n_vision: 576,
            n_ctx: 512,
            suggested: 768,
        };
        let said = in_one_line(&Error::from(too_long()));
        assert!(
            said.ends_with("set the context size to at least 768 (-c)"),
            "{said}"
        );
        let question = Error::Question {
            id: "7".to_owned(),
            model: "m.gguf".to_owned(),
            source: Box::new(too_long().into()),
        };
        assert!(in_one_line(&question).ends_with(&said));

        let projector = || GgufError {
            path: "mmproj.gguf".into(),
            problem: Problem::IsProjector,
        };
        let loaded = engine::Error::from(projector());
        for error in [Error::from(projector()), Error::from(loaded)] {
            let said = in_one_line(&error);
            assert!(said.ends_with("give it as the projector (--mmproj)"), "{said}");
        }
        let other = engine::Error::EmptyPrompt;
        assert_eq!(
            in_one_line(&Error::from(other)),
            "the prompt is empty: give some text"
        );
    }

    #[test]
    fn causes_are_appended_once() {
        let error = Error::Write {
            what: "the report",
            path: "r.json".into(),
            source: std::io::Error::other("disk\nfull"),
        };
        assert_eq!(in_one_line(&error), "cannot write the report r.json: disk full");
        let repeating = PolicyError::Read {
            path: "p.toml".into(),
            source: std::io::Error::other("gone"),
        };
        assert_eq!(
            in_one_line(&Error::from(repeating)),
            "cannot read the policy file p.toml: gone"
        );
    }
}
