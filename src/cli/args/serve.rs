//! The flags of `visipruner serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

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
      visipruner serve --models-dir models";

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
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which models.
#[derive(Debug, Args)]
#[command(next_help_heading = "Models")]
pub struct ServedArgs {
    #[command(flatten)]
    pub files: ModelArgs,

    /// What requests call the model [default: the file's name, or that of the repository]
    #[arg(short, long, value_name = "NAME", conflicts_with = "models_dir")]
    pub alias: Option<String>,

    /// Serve every model in this folder: NAME.gguf, with mmproj-NAME.gguf or NAME-mmproj.gguf if it sees pictures, or a folder
    /// NAME that holds both
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "mmproj", "hf_repo"])]
    pub models_dir: Option<PathBuf>,

    /// Models that are loaded at a time; the one not asked for longest goes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub models_max: u32,

    /// Write prompts with this template instead of the model's own: Jinja text, or a file that holds it
    #[arg(long, value_name = "JINJA|FILE")]
    pub chat_template: Option<String>,
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

    /// Requests that are answered at a time
    #[arg(long,  value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,

    /// Requests that may wait; further ones are told to come back
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_waiting: usize,

    /// MiB that may be held for pictures and conversations that come again; -1 for no limit
    #[arg(long, value_name = "MIB", default_value_t = 8192, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub cache_ram: i64,

    /// Seconds that the head or the body of a request may take, and that a connection may rest
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
