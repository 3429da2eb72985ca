//! The arguments of `visipruner synth`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use visipruner::synth::{Mix, SHAPES, Shape};

pub const EXAMPLES: &str = "\
The speed of a model does not depend on the values of its weights, so random ones do for measuring it. What does \
matter is which rows run through which layers, and random weights decide nothing sensible there: give the schedule \
yourself, with visipruner bench --schedule, or with --policy fixed. Answers are nonsense.

Examples:
  visipruner synth --list
  visipruner synth --shape llava-1.5-7b -o /tmp/models
  A quick look: 8 of the 32 layers.
      visipruner synth --shape llava-1.5-7b --layers 8 --type Q8_0";

/// `visipruner synth`
#[derive(Debug, Args)]
pub struct SynthArgs {
    /// The model whose shape to take
    #[arg(long, value_name = "NAME", value_parser = shape(), required_unless_present = "list")]
    pub shape: Option<&'static Shape>,

    /// Show the shapes with their sizes, and write nothing
    #[arg(long, conflicts_with_all = ["shape", "layers", "output", "force"])]
    pub list: bool,

    /// Write only the first N layers of the language model [default: all]
    #[arg(long, value_name = "N", value_parser = super::count, allow_negative_numbers = true)]
    pub layers: Option<usize>,

    /// Quantization of the language model; the projector is F16
    #[arg(long = "type", value_name = "TYPE", value_parser = mix(), default_value = "Q4_K_M", ignore_case = true)]
    pub mix: Mix,

    /// Seed of the random weights: the same seed writes the same files
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// The folder to write to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,

    /// Replace files that are there
    #[arg(long)]
    pub force: bool,

    /// No progress bar
    #[arg(short, long)]
    pub quiet: bool,
}

fn shape() -> impl TypedValueParser<Value = &'static Shape> {
    let names = SHAPES.iter().map(|shape| shape.name);
    PossibleValuesParser::new(names).try_map(|name| Shape::named(&name).ok_or("unknown shape"))
}

fn mix() -> impl TypedValueParser<Value = Mix> {
    PossibleValuesParser::new(Mix::ALL.map(Mix::name))
        .try_map(|name| Mix::named(&name).ok_or("unknown quantization"))
}
