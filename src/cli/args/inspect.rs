//! The flags of `visipruner inspect`.

use std::path::PathBuf;

use clap::Args;

use super::eval::parse_spec;
use super::spec::PolicySpec;
use super::{
    ComputeArgs, ModelArgs, OutputArgs, PolicyArgs, PromptArgs, QuestionArg, QuestionsArgs, ReportArgs,
    RunArgs, SamplingArgs,
};

pub const EXAMPLES: &str = "\
Examples (MODEL stands for -m llava.gguf --mmproj mmproj.gguf):
  One picture and one question:
      visipruner inspect MODEL --image cat.jpg -p \"What is on the sofa?\" -o report.html
  Beside what the model's own policy kept, what others keep:
      visipruner inspect MODEL --image cat.jpg -p \"What is on the sofa?\" -o report.html \\
          --compare fastv:rank_layers=1,keep=10 --compare divprune:budget=10
  The figures one by one, as PNG and SVG files, and the numbers:
      visipruner inspect MODEL --image cat.jpg -p \"What is on the sofa?\" -o report.html --parts figures --json numbers.json
docs/inspect.md says what each figure shows and how it is computed.";

/// `visipruner inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub question: QuestionArg,
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub results: InspectResultArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,

    /// Show what this policy keeps, too: NAME or NAME:FIELD=VALUE,FIELD=VALUE, with fields as in a policy file. Can be
    /// repeated
    #[arg(
        long = "compare",
        value_name = "POLICY",
        value_parser = parse_spec,
        help_heading = "Pruning (layers count from 0)"
    )]
    pub compared: Vec<PolicySpec>,

    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is written down.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub struct InspectResultArgs {
    /// The report: one HTML file that loads nothing from elsewhere
    #[arg(short, long, value_name = "HTML")]
    pub output: PathBuf,

    /// Write what was measured to a file, as one JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write single figures into this folder: heat maps and kept tokens as PNG files, charts as SVG files
    #[arg(long, value_name = "DIR")]
    pub parts: Option<PathBuf>,

    /// Words that are shown per layer, the likeliest ones
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50), allow_negative_numbers = true)]
    pub words: u16,

    /// Tokens of an answer at most
    #[arg(short, long, visible_alias = "predict", value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub n_predict: u32,
}

impl InspectArgs {
    /// The same prompt, model and policy, as one would ask them.
    pub fn as_run(&self) -> RunArgs {
        RunArgs {
            model: self.model.clone(),
            questions: QuestionsArgs {
                prompts: self.question.prompt.iter().cloned().collect(),
                files: self.question.file.iter().cloned().collect(),
                questions: None,
                escape: self.question.escape.clone(),
            },
            prompt: self.prompt.clone(),
            sampling: SamplingArgs::greedy(i32::try_from(self.results.n_predict).unwrap_or(i32::MAX)),
            policy: self.policy.clone(),
            compute: self.compute.clone(),
            report: ReportArgs {
                report_probes: true,
                ..ReportArgs::default()
            },
            output: self.output.clone(),
        }
    }
}
