//! The arguments of `visipruner quantize`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use visipruner::gguf::FileType;

use super::OutputArgs;

pub const EXAMPLES: &str = "\
The projector (mmproj) is not quantized: one goes with all quantizations of its model, and so does a policy file beside \
the model. Where a matrix has rows that are no whole blocks of the type, llama.cpp takes another one for it: what came \
out is printed.

Examples:
  visipruner quantize -m llava-f16.gguf --type Q4_K_M
  What quantization and pruning cost together, as a table:
      visipruner eval -m llava-f16.gguf -m llava-Q4_K_M.gguf --mmproj mmproj.gguf --questions questions.jsonl";

/// `visipruner quantize`
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// The language model, in F16, BF16 or F32
    #[arg(short, long, value_name = "GGUF")]
    pub model: PathBuf,

    /// The quantization
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type(), ignore_case = true)]
    pub ty: FileType,

    /// The file to write [default: the model's name with the type's, beside the model]
    #[arg(short = 'o', long = "out", value_name = "GGUF")]
    pub out: Option<PathBuf>,

    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,

    /// Take a model that is quantized already; what it has lost stays lost
    #[arg(long)]
    pub allow_requantize: bool,

    /// CPU threads [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512), allow_negative_numbers = true)]
    pub threads: Option<u16>,

    #[command(flatten)]
    pub output: OutputArgs,
}

fn file_type() -> impl TypedValueParser<Value = FileType> {
    PossibleValuesParser::new(FileType::ALL.iter().map(|ty| ty.name()))
        .try_map(|name| FileType::named(&name).ok_or("unknown quantization"))
}
