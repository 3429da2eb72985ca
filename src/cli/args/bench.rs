//! The flags of `visipruner bench`.

use std::path::PathBuf;

use clap::Args;
use visipruner::policy::PolicyError;
use visipruner::policy::fixed::Schedule;

use super::{ComputeArgs, ModelArgs, OutputArgs, PolicyArgs, positive};

/// What a KV cache has room for beside the sequences that these branch off.
const MAX_TOGETHER: i64 = 64;

/// `visipruner bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// A picture (PNG, JPEG, WebP, GIF, BMP or TIFF) instead of the one that comes with the program. Can be repeated,
    /// or be several: a.png,b.png
    #[arg(long = "image", value_name = "FILE", help_heading = "Measurement")]
    pub images: Vec<PathBuf>,

    /// Pictures in the prompt; several numbers, separated by commas, are measured one after the other
    #[arg(
        long,
        alias = "images",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1",
        value_parser = positive,
        allow_negative_numbers = true,
        help_heading = "Measurement"
    )]
    pub n_images: Vec<usize>,

    /// Tokens of text in the prompt
    #[arg(long, value_name = "N", default_value_t = 48, value_parser = positive, allow_negative_numbers = true, help_heading = "Measurement")]
    pub n_text: usize,

    /// Tokens to generate after the prompt
    #[arg(short = 'n', long, value_name = "N", default_value_t = 16, value_parser = positive, allow_negative_numbers = true, help_heading = "Measurement")]
    pub n_gen: usize,

    /// Questions about the pictures, of as much text each: those after the first come upon a KV cache that has the pictures
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive, allow_negative_numbers = true, help_heading = "Measurement")]
    pub questions: usize,

    /// Answers that are generated together, at most 64; more than 1 is compared with one alone
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_TOGETHER), allow_negative_numbers = true, help_heading = "Measurement")]
    pub sequences: u32,

    /// F/K/E: K vision tokens go on after layer F, none from layer E on. F/K/E/k: besides, layers below k forget vision
    /// once the prompt has run. Can be repeated
    #[arg(long = "schedule", value_name = "F/K/E[/k]", value_parser = schedule, help_heading = "Measurement")]
    pub schedules: Vec<Schedule>,

    /// Rounds; each runs every variant once
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive, allow_negative_numbers = true, help_heading = "Measurement")]
    pub repetitions: usize,

    /// Measure stock llama.cpp, too: the program stock-eval that make stock builds
    #[arg(long, value_name = "PROGRAM", help_heading = "Measurement")]
    pub stock: Option<PathBuf>,

    /// Print one JSON object instead of the table
    #[arg(long, help_heading = "Results")]
    pub json: bool,

    /// Write that JSON object to a file
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub report: Option<PathBuf>,

    /// Draw the results into a file
    #[arg(long, value_name = "SVG", help_heading = "Results")]
    pub plot: Option<PathBuf>,

    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

fn schedule(value: &str) -> Result<Schedule, PolicyError> {
    value.parse()
}
