//! The flags of `visipruner serve`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser};

use super::{ComputeArgs, ModelArgs, OutputArgs, PolicyArgs, SamplingArgs};

pub const EXAMPLES: &str = "\
Examples:
  Serve a model on this machine: a page at http://127.0.0.1:8080/, OpenAI's API at http://127.0.0.1:8080/v1
      visipruner serve -m llava.gguf --mmproj mmproj.gguf
  One of Hugging Face, downloaded once:
      visipruner serve -hf ggml-org/SmolVLM-500M-Instruct-GGUF
  Ask it:
      curl http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'
  For other machines, with a key:
      visipruner serve -m llava.gguf --mmproj mmproj.gguf --host 0.0.0.0 --api-key \"$(openssl rand -hex 16)\"
  Every model of a folder, loaded when it is asked for:
      visipruner serve --models-dir models
  Several models, each with its own files and flags (docs/serve.md):
      visipruner serve --models-preset models.toml";

/// `visipruner serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub model: ServedArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub each: EachArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What holds for each model, and what a preset may say of its own.
#[derive(Debug, Clone, Args)]
pub struct EachArgs {
    /// Write prompts with this template instead of the model's own: Jinja text, or a file that holds it
    #[arg(long, value_name = "JINJA|FILE", help_heading = "Models")]
    pub chat_template: Option<String>,

    /// Requests that are answered at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64), help_heading = "Server")]
    pub parallel: u32,

    /// MiB that may be held for pictures and conversations that come again; -1 for no limit
    #[arg(long, value_name = "MIB", default_value_t = 8192, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..), help_heading = "Server")]
    pub cache_ram: i64,

    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// A model of a file of presets.
#[derive(Debug, Clone, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub struct PresetArgs {
    #[command(flatten)]
    pub files: ModelArgs,
    #[command(flatten)]
    pub each: EachArgs,
}

impl PresetArgs {
    /// Sets what flags say, of the form `--name=value`, and leaves the rest as it is.
    ///
    /// # Errors
    /// Flags that there are not, and values that they do not take.
    pub fn set(&mut self, flags: impl IntoIterator<Item = OsString>) -> Result<(), clap::Error> {
        let command = Self::command_for_update().mut_args(without_default);
        self.update_from_arg_matches(&command.try_get_matches_from(flags)?)
    }
}

/// A flag that says nothing unless it is given; a switch then has a value, too.
fn without_default(arg: Arg) -> Arg {
    let arg = arg.default_value(Resettable::Reset);
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        arg.action(ArgAction::Set).value_parser(clap::value_parser!(bool))
    } else {
        arg
    }
}

/// Which models.
#[derive(Debug, Args)]
#[command(next_help_heading = "Models")]
pub struct ServedArgs {
    #[command(flatten)]
    pub files: ModelArgs,

    /// What requests call the model [default: the file's name, or that of the repository]
    #[arg(short, long, value_name = "NAME", conflicts_with_all = ["models_dir", "models_preset"])]
    pub alias: Option<String>,

    /// Serve every model in this folder: NAME.gguf, with mmproj-NAME.gguf or NAME-mmproj.gguf if it sees pictures, or a folder
    /// NAME that holds both
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "mmproj", "hf_repo"])]
    pub models_dir: Option<PathBuf>,

    /// Serve the models of this file: a section each, with its files and flags. A model of --models-dir can have one, too
    #[arg(long, value_name = "TOML", conflicts_with_all = ["model", "mmproj", "hf_repo"])]
    pub models_preset: Option<PathBuf>,

    /// Models that are loaded at a time; the one not asked for longest goes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub models_max: u32,
}

/// How requests are taken.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// Listen at this address; 0.0.0.0 for all of this machine
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Listen at this port; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// A key that requests must bring. Can be repeated
    #[arg(long, value_name = "KEY", env = "VISIPRUNER_API_KEY", hide_env_values = true)]
    pub api_key: Vec<String>,

    /// Read keys from a file, one per line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Requests that may wait; further ones are told to come back
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_waiting: usize,

    /// Seconds that the head or the body of a request may take, that a connection may rest, and that a client may read nothing of
    /// an answer that waits for it
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,

    /// Fetch pictures from http and https addresses, if they are public ones
    #[arg(long)]
    pub allow_media_url: bool,

    /// Read pictures from files below this folder (file://NAME)
    #[arg(long, value_name = "DIR")]
    pub media_path: Option<PathBuf>,

    /// Let pages of this origin ask (https://example.org), or of any (*). Can be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Vec<String>,
}
