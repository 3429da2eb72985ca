//! The command line: subcommands, and groups of flags that they share.

mod bench;
pub mod calibrate;
mod chat;
pub mod eval;
mod inspect;
mod policy;
mod quantize;
#[cfg(feature = "server")]
mod serve;
pub mod spec;
mod synth;

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use visipruner::engine::{FlashAttention, IMAGE_MARKERS, KvType, Part, Prompt, SplitMode, VisionEncoder};

use super::image::Background;
pub use bench::BenchArgs;
pub use calibrate::CalibrateArgs;
pub use chat::ChatArgs;
pub use eval::EvalArgs;
pub use inspect::InspectArgs;
pub use policy::{PolicyArgs, flag_name};
pub use quantize::QuantizeArgs;
#[cfg(feature = "server")]
pub use serve::{EachArgs, PresetArgs, ServeArgs, ServedArgs};
pub use synth::SynthArgs;

const ABOUT: &str = "\
Ask questions about pictures, with a quantized vision-language model that runs on this machine

A picture becomes hundreds of tokens that a language model drags through all of its layers. visipruner watches which \
of them contribute to the answer while the prompt is processed, keeps those, and drops all of them once the model has \
read what it needs. The answer stays (nearly) the same, with a fraction of the work and of the memory.";

const EXAMPLES: &str = "\
Examples:
  Try it: a small model that comes with the program answers questions about a picture.
      visipruner demo
  Ask a model of your own, or one of Hugging Face.
      visipruner run -m llava.gguf --mmproj mmproj.gguf --image cat.jpg -p \"What is on the sofa?\"
      visipruner run -hf ggml-org/Qwen2.5-VL-3B-Instruct-GGUF --image cat.jpg -p \"What is on the sofa?\"
  See whether a model can be pruned, and what a picture costs.
      visipruner info -m llava.gguf --mmproj mmproj.gguf";

const RUN_EXAMPLES: &str = "\
Examples (MODEL stands for -m llava.gguf --mmproj mmproj.gguf):
  visipruner run MODEL --image cat.jpg -p \"What is on the sofa?\"
  visipruner run MODEL --image a.png --image b.png -p \"What has changed?\"
  curl -s https://example.org/cat.jpg | visipruner run MODEL --image - -p \"Describe it.\"
  Without pruning, for comparison:
      visipruner run MODEL --image cat.jpg -p \"What is on the sofa?\" --policy off
  32 tokens after layer 15, none from layer 24 on:
      visipruner run MODEL ... --policy fixed --fusion-layer 15 --keep 32 --exit-from 24
  Half of the tokens after the second layer, by the attention they get (FastV):
      visipruner run MODEL ... --policy fastv --rank-layers 1 --keep 50%
  What was kept in which layer, and what was saved:
      visipruner run MODEL ... --report report.json";

const BENCH_EXAMPLES: &str = "\
Examples (MODEL stands for -m llava.gguf --mmproj mmproj.gguf):
  The model's own policy, and the schedule that the paper found on average, against the model as it is:
      visipruner bench MODEL
  Two schedules: 10 tokens kept after layer 18 (or 13), none from layer 28 (or 24) on:
      visipruner bench MODEL --schedule 18/10/28 --schedule 13/10/24
  What the probes cost where nothing is dropped:
      visipruner bench MODEL --policy visipruner --stages middle --layer-threshold -1
  More pictures:
      visipruner bench MODEL --n-images 1,2,5
Speed does not depend on what the weights are, so a model written by visipruner synth will do. It does depend on how many
tokens are dropped, and where: that is what --schedule fixes.";

#[cfg(feature = "rpc")]
const RPC_EXAMPLES: &str = "\
Example: a model on two machines and this one.
  On each of the two, in a network that nobody else can reach:
      visipruner rpc-server --host 0.0.0.0 --cache
  Here:
      visipruner devices --rpc 192.168.1.2:50052,192.168.1.3:50052
      visipruner run --rpc 192.168.1.2:50052,192.168.1.3:50052 -m llava.gguf --mmproj mmproj.gguf ...";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "visipruner",
    version,
    about = ABOUT.split_once('\n').map(|(short, _)| short),
    long_about = ABOUT,
    after_help = EXAMPLES,
    max_term_width = 110,
    infer_long_args = false
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer a prompt about pictures
    #[command(after_help = RUN_EXAMPLES, args_override_self = true)]
    Run(Box<RunArgs>),
    /// Talk about pictures: several questions, one after the other
    #[command(after_help = chat::EXAMPLES, args_override_self = true)]
    Chat(Box<ChatArgs>),
    /// Answer over HTTP, as OpenAI's API has it, several requests at a time; with a page to ask from
    #[cfg(feature = "server")]
    #[command(
        after_help = serve::EXAMPLES,
        args_override_self = true,
        mut_arg("model", |model| model.required_unless_present_any(["hf_repo", "models_dir", "models_preset"]))
    )]
    Serve(Box<ServeArgs>),
    /// Ask the small model that comes with the program, without and with pruning, side by side
    #[command(args_override_self = true)]
    Demo(Box<DemoArgs>),
    /// Show what a model is, whether it can be pruned, and what a picture costs
    Info(InfoArgs),
    /// List what can be computed on
    Devices(DevicesArgs),
    /// Lend the devices of this machine to others, whose models are split over them
    #[cfg(feature = "rpc")]
    #[command(after_help = RPC_EXAMPLES, args_override_self = true)]
    RpcServer(RpcServerArgs),
    /// Measure what pruning buys on this machine, side by side with the model as it is
    #[command(after_help = BENCH_EXAMPLES, args_override_self = true)]
    Bench(Box<BenchArgs>),
    /// Ask a set of questions under several policies: accuracy, agreement and cost of each
    #[command(after_help = eval::EXAMPLES, args_override_self = true)]
    Eval(Box<EvalArgs>),
    /// Write a report that shows what each layer does with a picture, and what policies keep of it
    #[command(after_help = inspect::EXAMPLES, args_override_self = true)]
    Inspect(Box<InspectArgs>),
    /// Find a policy for a model: where it reads pictures, and thresholds in its own units
    #[command(after_help = calibrate::EXAMPLES, args_override_self = true)]
    Calibrate(Box<CalibrateArgs>),
    /// Write a quantized copy of a model, with llama.cpp's own quantizer
    #[command(after_help = quantize::EXAMPLES, args_override_self = true)]
    Quantize(QuantizeArgs),
    /// Write a model of true shape with random weights, to measure speed without a download
    #[command(after_help = synth::EXAMPLES, args_override_self = true)]
    Synth(SynthArgs),
    /// Write completions for a shell, or man pages, as packages of this program do
    #[command(subcommand, hide = true)]
    Generate(GenerateArgs),
}

/// `visipruner generate`
#[derive(Debug, Subcommand)]
pub enum GenerateArgs {
    /// Print the script that completes what is typed in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages, one for each subcommand
    Man {
        /// Where they go: a folder that is there
        folder: PathBuf,
    },
}

/// `visipruner run`
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub questions: QuestionsArgs,
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `visipruner demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Ask about this picture instead of the one that comes with the program; - reads it from standard input
    #[arg(long, value_name = "FILE", help_heading = "Picture and questions")]
    pub image: Option<PathBuf>,

    /// Ask this instead of the questions that come with the program; can be repeated
    #[arg(
        short = 'p',
        long = "prompt",
        value_name = "QUESTION",
        allow_hyphen_values = true,
        help_heading = "Picture and questions"
    )]
    pub questions: Vec<String>,

    #[command(flatten)]
    pub escape: EscapeArgs,
    #[command(flatten)]
    pub marker: MarkerArg,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `visipruner info`
#[derive(Debug, Args)]
pub struct InfoArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Say how many tokens this picture costs; - reads it from standard input. Can be repeated, or be several: a.png,b.png
    #[arg(long = "image", value_name = "FILE", help_heading = "Pictures")]
    pub images: Vec<PathBuf>,

    #[command(flatten)]
    pub image_tokens: ImageTokensArgs,

    /// Print one JSON object instead of lines
    #[arg(long, help_heading = "Report")]
    pub json: bool,
}

/// Which files.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// The language model
    #[arg(
        short,
        long,
        value_name = "GGUF",
        required_unless_present = "hf_repo",
        conflicts_with = "hf_repo"
    )]
    pub model: Option<PathBuf>,

    /// The image projector that belongs to it, which turns pictures into tokens
    #[arg(long, value_name = "GGUF")]
    pub mmproj: Option<PathBuf>,

    /// Instead of -m: a model of Hugging Face, with its projector; downloaded once. QUANT is a quantization in the names of its
    /// files [default: Q4_K_M, else Q8_0, else the first]
    #[arg(long, value_name = "USER/REPO[:QUANT]")]
    pub hf_repo: Option<String>,

    /// This file of the repository instead, of a split model the first part
    #[arg(long, value_name = "PATH", requires = "hf_repo", conflicts_with = "model")]
    pub hf_file: Option<String>,

    #[command(flatten)]
    pub hub: HubArgs,
}

/// How models are downloaded.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct HubArgs {
    /// The token for private and gated repositories [default: HF_TOKEN, or the one that hf auth login has left]
    #[arg(long, value_name = "TOKEN")]
    pub hf_token: Option<String>,

    /// Download nothing: take what was downloaded before
    #[arg(long)]
    pub offline: bool,

    /// Do without the projector of the repository
    #[arg(long, alias = "no-mmproj-auto", conflicts_with = "mmproj")]
    pub no_mmproj: bool,
}

/// Where pictures go in a text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct MarkerArg {
    /// Text that marks where a picture goes, instead of <image> and <__media__>; with none, these are text as any other, and
    /// pictures go first
    #[arg(
        long,
        value_name = "TEXT|none",
        allow_hyphen_values = true,
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub image_marker: Option<String>,
}

impl MarkerArg {
    /// A text with the places of its pictures.
    pub fn split(&self, text: &str) -> Vec<Part> {
        match self.image_marker.as_deref() {
            None => Part::split(text, &IMAGE_MARKERS),
            Some("none") => Part::split(text, &[]),
            Some(marker) => Part::split(text, &[marker]),
        }
    }

    /// A question for the model's chat template.
    pub fn chat(&self, text: &str) -> Prompt {
        Prompt::chat_parts(self.split(text))
    }
}

/// What is asked.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// A picture (PNG, JPEG, WebP, GIF, BMP or TIFF); - reads it from standard input. Can be repeated, or be several: a.png,b.png
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,

    /// What the model is told before the question
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "raw")]
    pub system_prompt: Option<String>,

    /// Write the prompt with this template instead of the model's own: Jinja text, or a file that holds it
    #[arg(long, value_name = "JINJA|FILE", conflicts_with = "raw")]
    pub chat_template: Option<String>,

    /// Use the prompt as it is, without a chat template; <image> or <__media__> must mark the pictures
    #[arg(long)]
    pub raw: bool,

    #[command(flatten)]
    pub marker: MarkerArg,
}

/// One question.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompt")]
pub struct QuestionArg {
    /// The question. <image> marks where a picture goes; without any, pictures go first
    #[arg(
        short,
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    pub prompt: Option<String>,

    /// Read the question from a file, line breaks included
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    #[command(flatten)]
    pub escape: EscapeArgs,
}

/// Whether questions are written as in C.
#[derive(Debug, Clone, Args)]
pub struct EscapeArgs {
    /// Read \n, \r, \t, \', \", \\ and \xHH in -p and -f as what they stand for, which is the default
    #[arg(short, long, overrides_with = "no_escape")]
    pub escape: bool,

    /// Take -p and -f as they are
    #[arg(long)]
    pub no_escape: bool,
}

/// Questions about the same pictures.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompt")]
pub struct QuestionsArgs {
    /// The question. <image> marks where a picture goes; without any, pictures go first. Can be repeated: each is answered
    /// by itself, and the pictures are read once
    #[arg(
        short,
        long = "prompt",
        value_name = "TEXT",
        allow_hyphen_values = true,
        required_unless_present_any = ["files", "questions"]
    )]
    pub prompts: Vec<String>,

    /// Read a further question from a file, line breaks included. Can be repeated
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Read further questions from a file: one per line, or JSON Lines with the key prompt
    #[arg(long, value_name = "FILE")]
    pub questions: Option<PathBuf>,

    #[command(flatten)]
    pub escape: EscapeArgs,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Answer")]
pub struct SamplingArgs {
    /// Tokens to generate at most; -1 for as many as the context holds
    #[arg(
        short,
        long,
        visible_alias = "predict",
        value_name = "N",
        default_value_t = 512,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-1..)
    )]
    pub n_predict: i32,

    /// Randomness; 0 always takes the most likely token
    #[arg(long, alias = "temperature", value_name = "T", default_value_t = 0.0, value_parser = temperature, allow_negative_numbers = true)]
    pub temp: f32,

    /// Choose among the N most likely tokens only; 0 chooses among all
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)), allow_negative_numbers = true)]
    pub top_k: u32,

    /// Choose among the most likely tokens that together have probability P
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = probability, allow_negative_numbers = true)]
    pub top_p: f32,

    /// Leave out tokens less likely than P times the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = probability, allow_negative_numbers = true)]
    pub min_p: f32,

    /// Divide the logits of tokens that the answer has already by X
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repeat_penalty: f32,

    /// Take X off the logits of a token for each time that the answer has it
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,

    /// Take X off the logits of tokens that the answer has already
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,

    /// Penalties look back on so many tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    pub repeat_last_n: u32,

    /// Seed of the random numbers; -1 takes a new one each time
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = -1,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX))
    )]
    pub seed: i64,
}

impl SamplingArgs {
    /// Always the most likely token.
    pub fn greedy(n_predict: i32) -> Self {
        Self {
            n_predict,
            temp: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            seed: -1,
        }
    }
}

/// How much of the machine is used.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub struct ComputeArgs {
    /// Context size in tokens, prompt and answer together; 0 takes the model's own [default: the model's, at
    /// most 4096; in bench and eval what the longest prompt takes]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub ctx_size: Option<u32>,

    /// CPU threads [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512), allow_negative_numbers = true)]
    pub threads: Option<u16>,

    /// Layers that run on the GPU; -1 or all for all of them [default: all]
    #[arg(
        long,
        visible_alias = "gpu-layers",
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = gpu_layers
    )]
    pub n_gpu_layers: Option<GpuLayers>,

    #[command(flatten)]
    pub devices: DeviceArgs,

    /// Keep the KV cache in the CPU's memory
    #[arg(long)]
    pub no_kv_offload: bool,

    /// Read the model into memory instead of mapping its file
    #[arg(long)]
    pub no_mmap: bool,

    /// Keep the model in memory: nothing of it is swapped out
    #[arg(long)]
    pub mlock: bool,

    /// Flash attention
    #[arg(
        long,
        value_name = "WHEN",
        value_parser = flash_attn(),
        default_value = "auto",
        num_args = 0..=1,
        default_missing_value = "on"
    )]
    pub flash_attn: FlashAttention,

    /// Number format of the keys in the KV cache
    #[arg(long, value_name = "TYPE", value_parser = kv_type(), default_value = "f16")]
    pub cache_type_k: KvType,

    /// Number format of the values in the KV cache
    #[arg(long, value_name = "TYPE", value_parser = kv_type(), default_value = "f16")]
    pub cache_type_v: KvType,

    /// Tokens handed to the engine at once, at most
    #[arg(short, long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub batch_size: u32,

    /// Tokens computed at once, at most
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub ubatch_size: u32,

    /// Layers run together at most where each is probed and may drop tokens; the result is the same [default: 1 on the CPU, 4 on
    /// other devices, which wait at each probe]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512), allow_negative_numbers = true)]
    pub probe_stride: Option<u32>,

    #[command(flatten)]
    pub pictures: PictureArgs,
}

/// What the layers are computed on.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Engine")]
pub struct DeviceArgs {
    /// Devices that hold these layers, separated by commas; none for the CPU alone [default: all GPUs, and those of --rpc]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub device: Vec<String>,

    /// How layers are split over several devices: not at all, by layers, or by layers and rows of weights
    #[arg(long, value_name = "MODE", value_parser = split_mode(), default_value = "layer")]
    pub split_mode: SplitMode,

    /// The share of each device, such as 3,1 [default: by free memory]
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    pub tensor_split: Vec<f32>,

    /// Of the devices, from 0, the one that holds the model with --split-mode none
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub main_gpu: u32,

    #[cfg(feature = "rpc")]
    #[command(flatten)]
    pub rpc: RpcArgs,
}

/// Devices of other machines.
#[cfg(feature = "rpc")]
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Engine")]
pub struct RpcArgs {
    /// Split the layers over the devices of other machines, too, on which visipruner rpc-server runs
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub rpc: Vec<String>,
}

/// `visipruner devices`
#[derive(Debug, Args)]
pub struct DevicesArgs {
    #[cfg(feature = "rpc")]
    #[command(flatten)]
    pub rpc: RpcArgs,

    /// Print JSON instead of lines
    #[arg(long, help_heading = "Report")]
    pub json: bool,
}

/// `visipruner rpc-server`
#[cfg(feature = "rpc")]
#[derive(Debug, Args)]
pub struct RpcServerArgs {
    /// The IPv4 address to listen on. There is no password: whoever can reach it can use these devices, and end the server
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        help_heading = "Server"
    )]
    pub host: std::net::Ipv4Addr,

    /// The port; 0 for any that is free
    #[arg(long, value_name = "PORT", default_value_t = 50052, help_heading = "Server")]
    pub port: u16,

    /// Devices that are lent, separated by commas [default: all GPUs, or without any the CPU]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = "Server")]
    pub device: Vec<String>,

    /// CPU threads [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512), allow_negative_numbers = true, help_heading = "Server")]
    pub threads: Option<u16>,

    /// Keep large weights in a folder, so that a model that comes again is not sent again [default folder: visipruner/rpc
    /// in the user's cache]
    #[arg(short = 'c', long, value_name = "FOLDER", num_args = 0..=1, help_heading = "Server")]
    pub cache: Option<Option<PathBuf>>,
}

/// How pictures are read and encoded.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Pictures")]
pub struct PictureArgs {
    /// What shows through where a picture is transparent: white, black or #rrggbb
    #[arg(long, value_name = "COLOR", value_parser = Background::from_str, default_value = "white")]
    pub background: Background,

    /// How pictures are encoded: as the model was trained (reference), or as stock llama.cpp does it (upstream)
    #[arg(long, value_name = "WHICH", value_parser = vision_encoder(), default_value = "reference")]
    pub vision_encoder: VisionEncoder,

    #[command(flatten)]
    pub tokens: ImageTokensArgs,
}

/// How many tokens a picture may take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Pictures")]
pub struct ImageTokensArgs {
    /// Tokens of a picture at least, where its size decides [default: as the projector says]
    #[arg(long, value_name = "N", value_parser = image_tokens(), allow_negative_numbers = true)]
    pub image_min_tokens: Option<u32>,

    /// Tokens of a picture at most, where its size decides [default: as the projector says]
    #[arg(long, value_name = "N", value_parser = image_tokens(), allow_negative_numbers = true)]
    pub image_max_tokens: Option<u32>,
}

/// What is written down.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Report")]
pub struct ReportArgs {
    /// Write what was kept, computed and saved to a file, as one JSON object (docs/report.md); of several answers one
    /// object per line
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Print that JSON object to standard output, instead of the text
    #[arg(long)]
    pub json: bool,

    /// Put the contribution or attention of each vision token in each probed layer into the report
    #[arg(long)]
    pub report_probes: bool,

    /// Put the logits of the prompt's last token into the report
    #[arg(long)]
    pub report_logits: bool,
}

/// What is said beside the answer.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Messages")]
pub struct OutputArgs {
    /// Show llama.cpp's log
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,

    /// No progress bars and no summary
    #[arg(short, long)]
    pub quiet: bool,
}

/// `--n-gpu-layers`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuLayers {
    /// All of them.
    All,
    /// The last so many.
    Count(u32),
}

fn split_mode() -> impl TypedValueParser<Value = SplitMode> {
    PossibleValuesParser::new(["none", "layer", "row"]).try_map(|word| word.parse::<SplitMode>())
}

fn image_tokens() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=65_536)
}

fn flash_attn() -> impl TypedValueParser<Value = FlashAttention> {
    PossibleValuesParser::new(["on", "off", "auto"]).try_map(|word| word.parse::<FlashAttention>())
}

fn kv_type() -> impl TypedValueParser<Value = KvType> {
    PossibleValuesParser::new(KvType::ALL.iter().map(|ty| ty.name())).try_map(|word| word.parse::<KvType>())
}

fn vision_encoder() -> impl TypedValueParser<Value = VisionEncoder> {
    PossibleValuesParser::new(["reference", "upstream"]).map(|word| match word.as_str() {
        "upstream" => VisionEncoder::Upstream,
        _ => VisionEncoder::Reference,
    })
}

fn gpu_layers(value: &str) -> Result<GpuLayers, String> {
    match value {
        "-1" | "all" | "auto" => Ok(GpuLayers::All),
        _ => value
            .parse()
            .map(GpuLayers::Count)
            .map_err(|_| "not a number of layers: give 0 or more, or all".to_owned()),
    }
}

/// A whole number from 0 on, with a message in words.
fn count(value: &str) -> Result<usize, &'static str> {
    value.parse().map_err(|_| "must be a whole number, 0 or more")
}

/// A whole number from 1 on, with a message in words.
fn positive(value: &str) -> Result<usize, &'static str> {
    match value.parse() {
        Ok(0) | Err(_) => Err("must be a whole number, 1 or more"),
        Ok(n) => Ok(n),
    }
}

fn probability(value: &str) -> Result<f32, &'static str> {
    number_in(value, 0.0, 1.0).ok_or("must be from 0 to 1")
}

fn temperature(value: &str) -> Result<f32, &'static str> {
    number_in(value, 0.0, 100.0).ok_or("must be from 0 to 100")
}

fn number_in(value: &str, min: f32, max: f32) -> Option<f32> {
    value.parse().ok().filter(|x| (min..=max).contains(x))
}
