//! The flags of `visipruner calibrate`.

use std::path::PathBuf;

use clap::Args;
use visipruner::eval::Format;

use super::eval::{parse_format, percent};
use super::{ComputeArgs, EscapeArgs, MarkerArg, ModelArgs, OutputArgs, positive};

pub const EXAMPLES: &str = "\
Examples (MODEL stands for -m llava.gguf --mmproj mmproj.gguf):
  With 48 questions drawn from a set, for at most 1 % changed answers:
      visipruner calibrate MODEL --questions questions.jsonl --shuffle 1 --limit 48 --max-changed 1% -o llava.policy.toml
  With pictures and questions of your own; every question is asked about every picture:
      visipruner calibrate MODEL --image a.jpg --image b.jpg -p \"What is this?\" -p \"Where is it?\" -o llava.policy.toml
  Near in the distribution of the next token, with the picture of the layers as a file:
      visipruner calibrate MODEL --questions questions.jsonl --max-kl 0.01 --plot layers.svg -o llava.policy.toml
A file called MODEL.policy.toml beside the model MODEL.gguf is used by all commands from then on.";

/// `visipruner calibrate`
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub prompts: CalibratePromptArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub results: CalibrateResultArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is asked.
#[derive(Debug, Args)]
#[command(next_help_heading = "Questions")]
pub struct CalibratePromptArgs {
    /// The questions: JSON Lines, which need no answers here, or a file of a benchmark (docs/eval.md)
    /// [default: a few that come with the program]
    #[arg(long, value_name = "FILE")]
    pub questions: Option<PathBuf>,

    /// Their format: jsonl, pictures, pope, gqa, textvqa, mme, scienceqa or mmbench [default: found out]
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, requires = "questions")]
    pub format: Option<Format>,

    /// The folder of the pictures [default: the usual one beside the questions]
    #[arg(long, value_name = "DIR", requires = "questions")]
    pub image_dir: Option<PathBuf>,

    /// The file or folder with the answers, for formats that keep them apart [default: beside the questions]
    #[arg(long, value_name = "PATH", requires = "questions")]
    pub annotations: Option<PathBuf>,

    /// Use the first N questions only
    #[arg(long, value_name = "N", value_parser = positive, requires = "questions", allow_negative_numbers = true)]
    pub limit: Option<usize>,

    /// Take them in an order drawn with this seed; with --limit a random sample
    #[arg(
        long,
        value_name = "SEED",
        requires = "questions",
        allow_negative_numbers = true
    )]
    pub shuffle: Option<u64>,

    /// Instead of --questions: a picture; - reads it from standard input. Can be repeated, or be several: a.png,b.png
    #[arg(
        long = "image",
        value_name = "FILE",
        requires = "texts",
        conflicts_with = "questions"
    )]
    pub images: Vec<PathBuf>,

    /// A question that is asked about each --image. Can be repeated
    #[arg(
        id = "texts",
        short = 'p',
        long = "prompt",
        value_name = "QUESTION",
        allow_hyphen_values = true,
        requires = "images"
    )]
    pub texts: Vec<String>,

    /// Tokens of an answer that are compared, at most
    #[arg(short, long, value_name = "N", default_value_t = 16, value_parser = positive, allow_negative_numbers = true)]
    pub n_predict: usize,

    /// Read a picture anew for every run; the policy is the same, up to what rounding decides
    #[arg(long)]
    pub no_prefix_cache: bool,

    #[command(flatten)]
    pub escape: EscapeArgs,
    #[command(flatten)]
    pub marker: MarkerArg,
}

/// What is allowed, and how long the search may take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target and effort")]
pub struct TargetArgs {
    /// Share of answers that may be other ones than without pruning [default: 1%; none if only --max-kl is given]
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    pub max_changed: Option<f64>,

    /// Divergence of the next token's distribution from that without pruning, in nats: the mean over the questions may be
    /// this, and one question in 20 may be beyond five times as much [default: 0.002; none if only --max-changed is given]
    #[arg(long, value_name = "NATS", value_parser = divergence, allow_negative_numbers = true)]
    pub max_kl: Option<f64>,

    /// Answers that the search for thresholds may take [default: 40 times the number of questions]
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub max_runs: Option<usize>,

    /// Questions that the layer profile is measured on, at most
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive, allow_negative_numbers = true)]
    pub profile_questions: usize,

    /// Measure the layer profile at every N-th layer, and between them only where it matters [default: so that there are
    /// at most 16]
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub stride: Option<usize>,
}

/// What is written down.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct CalibrateResultArgs {
    /// The policy file to write; what was measured stands in its comments
    #[arg(short = 'o', long = "out", value_name = "TOML")]
    pub out: PathBuf,

    /// Replace the policy file if it is there
    #[arg(long)]
    pub force: bool,

    /// Write everything that was measured and tried to a file, as one JSON object
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Draw the layer profile into a file
    #[arg(long, value_name = "SVG")]
    pub plot: Option<PathBuf>,
}

fn divergence(value: &str) -> Result<f64, &'static str> {
    let number: Option<f64> = value.parse().ok();
    number
        .filter(|nats| (0.0..=1000.0).contains(nats))
        .ok_or("must be from 0 to 1000 nats")
}
