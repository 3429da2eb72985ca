//! The flags of `visipruner eval`.

use std::path::PathBuf;

use clap::Args;
use visipruner::eval::sweep::Sweep;
use visipruner::eval::{EvalError, Format, Scoring};

use super::spec::PolicySpec;
use super::{ComputeArgs, HubArgs, MarkerArg, OutputArgs, positive};

pub const EXAMPLES: &str = "\
Examples (MODEL stands for -m llava.gguf --mmproj mmproj.gguf, SET for --questions llava_pope_test.jsonl):
  The model as it is against its own policy, on 200 questions drawn at random; the answers go into a file that an
  interrupted run goes on with:
      visipruner eval MODEL SET --shuffle 1 --limit 200 --out answers.jsonl
  Three policies, with a table for a document:
      visipruner eval MODEL SET --policy visipruner --policy fastv:rank_layers=1,keep=25% \\
          --policy divprune:budget=64 --markdown table.md
  Accuracy against cost, for several budgets:
      visipruner eval MODEL SET --policy random --policy divprune --sweep budget=16,32,64,128 --plot curve.svg
  All at the visual attention that the model's own policy computes:
      visipruner eval MODEL SET --policy visipruner --policy fastv --policy uniform --equal-cost visipruner
  Quantizations of one model:
      visipruner eval -m llava-f16.gguf -m llava-q4_k_m.gguf --mmproj mmproj.gguf SET";

/// `visipruner eval`
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The language model. Can be repeated, for quantizations of one model
    #[arg(
        short,
        long = "model",
        value_name = "GGUF",
        required_unless_present = "hf_repos",
        help_heading = "Model"
    )]
    pub models: Vec<PathBuf>,

    /// The image projector that belongs to it, which turns pictures into tokens
    #[arg(long, value_name = "GGUF", help_heading = "Model")]
    pub mmproj: Option<PathBuf>,

    /// A model of Hugging Face; downloaded once. QUANT is a quantization in the names of its files [default: Q4_K_M, else Q8_0,
    /// else the first]. Can be repeated; the projector for all of them is that of the first
    #[arg(long = "hf-repo", value_name = "USER/REPO[:QUANT]", help_heading = "Model")]
    pub hf_repos: Vec<String>,

    #[command(flatten)]
    pub hub: HubArgs,

    #[command(flatten)]
    pub questions: QuestionArgs,
    #[command(flatten)]
    pub policies: PoliciesArgs,
    #[command(flatten)]
    pub results: ResultArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is asked.
#[derive(Debug, Args)]
#[command(next_help_heading = "Questions")]
pub struct QuestionArgs {
    /// The questions: JSON Lines, or a file of POPE, GQA, TextVQA, MME, ScienceQA or MMBench (docs/eval.md)
    #[arg(long, value_name = "FILE")]
    pub questions: PathBuf,

    /// Their format: jsonl, pictures, pope, gqa, textvqa, mme, scienceqa or mmbench [default: found out]
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub format: Option<Format>,

    /// The folder of the pictures [default: the usual one beside the questions]
    #[arg(long, value_name = "DIR")]
    pub image_dir: Option<PathBuf>,

    /// The file or folder with the answers, for formats that keep them apart [default: beside the questions]
    #[arg(long, value_name = "PATH")]
    pub annotations: Option<PathBuf>,

    /// How answers are judged where the questions do not say: exact, relaxed, gqa, vqa, yes_no, mme or choice
    #[arg(long, value_name = "RULE", value_parser = parse_scoring, default_value = "exact")]
    pub scoring: Scoring,

    /// Ask the first N questions only
    #[arg(long, value_name = "N", value_parser = positive, allow_negative_numbers = true)]
    pub limit: Option<usize>,

    /// Ask in an order drawn with this seed; with --limit a random sample
    #[arg(long, value_name = "SEED", allow_negative_numbers = true)]
    pub shuffle: Option<u64>,

    /// Tokens of an answer at most
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = positive, allow_negative_numbers = true)]
    pub n_predict: usize,

    /// Read a picture anew for each question about it; answers are the same, times are those of a first question
    #[arg(long)]
    pub no_prefix_cache: bool,

    #[command(flatten)]
    pub marker: MarkerArg,
}

/// Which policies answer.
#[derive(Debug, Args)]
#[command(next_help_heading = "Policies")]
pub struct PoliciesArgs {
    /// A policy, with the fields that are not to have their defaults: NAME or NAME:FIELD=VALUE,FIELD=VALUE. Can be
    /// repeated. Names as for visipruner run --policy, fields as in a policy file [default: the model's own]
    #[arg(long = "policy", value_name = "POLICY", value_parser = parse_spec)]
    pub policies: Vec<PolicySpec>,

    /// A policy from a TOML file, called by the file's name. Can be repeated
    #[arg(long = "policy-file", value_name = "TOML")]
    pub policy_files: Vec<PathBuf>,

    /// Each policy that has this field once for each value. Can be repeated: every combination
    #[arg(long = "sweep", value_name = "FIELD=V,V,...", value_parser = parse_sweep)]
    pub sweeps: Vec<Sweep>,

    /// Give every policy with a budget (budget, keep, exit_from) the one at which it computes as much attention from and
    /// to vision tokens as this policy
    #[arg(long, value_name = "POLICY", conflicts_with = "at_cost")]
    pub equal_cost: Option<String>,

    /// The same for a share of the attention that the model computes without pruning, in percent
    #[arg(long, value_name = "PERCENT", value_parser = percent, allow_negative_numbers = true)]
    pub at_cost: Option<f64>,

    /// Questions on which that cost is measured, the first ones
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive, allow_negative_numbers = true)]
    pub cost_questions: usize,

    /// Do not ask the model without pruning, which the others are compared with; the first policy takes its place
    #[arg(long)]
    pub no_off: bool,
}

/// What is written down.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct ResultArgs {
    /// Keep the answers in this file, and go on with those that it has
    #[arg(long, value_name = "JSONL")]
    pub out: Option<PathBuf>,

    /// Write the tables to a file, as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,

    /// Write all figures to a file, a row for each policy and category
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Write all figures to a file, as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Draw accuracy against visual attention into a file
    #[arg(long, value_name = "SVG")]
    pub plot: Option<PathBuf>,
}

pub(super) fn parse_format(name: &str) -> Result<Format, String> {
    name.parse()
}

fn parse_scoring(name: &str) -> Result<Scoring, String> {
    name.parse()
}

/// A policy with its fields.
pub fn parse_spec(text: &str) -> Result<PolicySpec, String> {
    text.parse()
}

fn parse_sweep(text: &str) -> Result<Sweep, EvalError> {
    text.parse()
}

/// As a fraction.
pub(super) fn percent(value: &str) -> Result<f64, &'static str> {
    let number: Option<f64> = value.trim_end_matches('%').trim().parse().ok();
    let number = number.filter(|percent| (0.0..=100.0).contains(percent));
    number
        .map(|percent| percent / 100.0)
        .ok_or("must be a share from 0 to 100 %")
}
