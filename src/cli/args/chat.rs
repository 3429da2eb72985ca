//! The flags of `visipruner chat`.

use std::path::PathBuf;

use clap::Args;

use super::{ComputeArgs, MarkerArg, ModelArgs, OutputArgs, PolicyArgs, SamplingArgs};

pub const EXAMPLES: &str = "\
Examples (MODEL stands for -m llava.gguf --mmproj mmproj.gguf):
  visipruner chat MODEL --image cat.jpg
  Go on with a conversation that was saved with /save:
      visipruner chat MODEL --load cat.json
  Without a terminal each line is a message or a command:
      printf '/image cat.jpg\\nWhat is on the sofa?\\nAnd under it?\\n' | visipruner chat MODEL
In the conversation /help says which commands there are.";

/// `visipruner chat`
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub conversation: ConversationArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How a conversation begins.
#[derive(Debug, Args)]
#[command(next_help_heading = "Conversation")]
pub struct ConversationArgs {
    /// A picture (PNG, JPEG, WebP, GIF, BMP or TIFF) that goes with the first message. Can be repeated, or be several: a.png,b.png
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,

    /// What the model is told before the conversation
    #[arg(
        long,
        visible_alias = "system",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    pub system_prompt: Option<String>,

    /// Go on with a conversation that was saved with /save
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,

    /// Write the conversation with this template instead of the model's own: Jinja text, or a file that holds it
    #[arg(long, value_name = "JINJA|FILE")]
    pub chat_template: Option<String>,

    #[command(flatten)]
    pub marker: MarkerArg,
}
