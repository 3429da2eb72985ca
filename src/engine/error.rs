//! What can go wrong, in words.

use std::path::PathBuf;

use super::options::KvType;
use crate::gguf::GgufError;
use crate::policy::config::PolicyName;
use crate::policy::{PolicyError, Skipped};

/// What was attempted, with which value, and what to do. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that is missing, damaged, or not what it was given as.
    #[error(transparent)]
    File(#[from] GgufError),

    /// A policy that cannot run on this model.
    #[error(transparent)]
    Policy(#[from] PolicyError),

    /// llama.cpp refused a file that looked right.
    #[error("cannot load {}: {reason}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// llama.cpp's words.
        reason: String,
    },

    /// A build with loadable backends that finds none.
    #[error(
        "there is nothing to compute on: no backend was found; put libggml-cpu (and those of GPUs) beside the program"
    )]
    NoBackend,

    /// The caller stopped the loading.
    #[error("loading {} was stopped", path.display())]
    LoadStopped {
        /// The file.
        path: PathBuf,
    },

    /// A model that cannot be quantized.
    #[error("cannot quantize {} to {ty}: {reason}", path.display())]
    Quantize {
        /// The model's file.
        path: PathBuf,
        /// The quantization.
        ty: &'static str,
        /// What stands in the way, or llama.cpp's words.
        reason: String,
    },

    /// A model that is quantized already, where that was not allowed.
    #[error(
        "cannot quantize {} to {ty}: it is quantized already (tensor '{tensor}' is {tensor_ty}): give the F16 or F32 \
         model, or allow requantizing",
        path.display()
    )]
    QuantizedAlready {
        /// The model's file.
        path: PathBuf,
        /// The quantization asked for.
        ty: &'static str,
        /// The first tensor that is quantized.
        tensor: String,
        /// Its type.
        tensor_ty: &'static str,
    },

    /// The caller stopped the quantizing.
    #[error("quantizing {} was stopped, nothing is left behind", path.display())]
    QuantizeStopped {
        /// The model's file.
        path: PathBuf,
    },

    /// A file that is there and is not to be replaced.
    #[error("{} is there already: give another name, or let it be replaced", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },

    /// A file that the operating system does not let be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A model that does not generate text token by token.
    #[error("{} cannot answer: {reason}", path.display())]
    NoDecoder {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },

    /// A vocabulary that texts cannot be split by.
    #[error("{} has a damaged vocabulary ({reason}): download or convert it again", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A projector made for another language model.
    #[error(
        "{} makes vectors of width {projector_width}, but {} takes {model_width}: give the mmproj file of this model",
        projector.display(), model.display()
    )]
    ProjectorWidth {
        /// The projector's file.
        projector: PathBuf,
        /// Width of its output.
        projector_width: u64,
        /// The language model's file.
        model: PathBuf,
        /// Width of its input.
        model_width: u64,
    },

    /// A projector made for a language model with another vocabulary.
    #[error(
        "{} has a projector of type {projector_type}, which puts the token {token:?} beside pictures, but the vocabulary of \
         {} lacks it: give the mmproj file of this model",
        projector.display(), model.display()
    )]
    PictureToken {
        /// The projector's file.
        projector: PathBuf,
        /// `clip.projector_type`
        projector_type: String,
        /// The token that is missing.
        token: &'static str,
        /// The language model's file.
        model: PathBuf,
    },

    /// A projector that was loaded for another model than the session's.
    #[error("the projector {} was loaded for another model than the session's: load it for this one", projector.display())]
    ForeignProjector {
        /// The projector's file.
        projector: PathBuf,
    },

    /// A prompt that was encoded for another model than the session's.
    #[error(
        "the prompt was encoded for another model than the session's: encode it with a session of this one"
    )]
    ForeignPrompt,

    /// A prompt without anything to inspect.
    #[error("there is nothing to inspect: {reason}")]
    NothingToInspect {
        /// What the prompt lacks.
        reason: Skipped,
    },

    /// Pruning between layers was asked for on a model that cannot be run in layer ranges.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),

    /// A picture with an impossible size.
    #[error("the image is {width}x{height} pixels: each side must be 1 to {max}, scale it down first")]
    ImageSize {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// Longest side.
        max: u32,
    },

    /// Pixels that are not `width * height * 3` bytes.
    #[error("an image of {width}x{height} RGB pixels has {expected} bytes, not {n_bytes}")]
    ImageData {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes given.
        n_bytes: usize,
        /// Bytes expected.
        expected: usize,
    },

    /// Other numbers of image places and images.
    #[error(
        "the prompt has {n_markers} image marker(s) but {n_images} image(s) were given: \
         the numbers must agree"
    )]
    Markers {
        /// Places in the prompt.
        n_markers: usize,
        /// Images given.
        n_images: usize,
    },

    /// A device that there is not.
    #[error("there is no device {name:?} to compute on, {}", there_are(found))]
    NoDevice {
        /// What was asked for.
        name: String,
        /// The devices that there are, without the CPU.
        found: Vec<String>,
    },

    /// A server that cannot lend its devices.
    #[error("cannot use the RPC server {endpoint}: {reason}")]
    RpcServer {
        /// Host and port, as they were given.
        endpoint: String,
        /// What stands in the way, and what to do.
        reason: String,
    },

    /// A server of devices that cannot be started.
    #[error("cannot serve devices at {address}: {reason}")]
    RpcServe {
        /// Where it would have listened.
        address: String,
        /// What stands in the way.
        reason: String,
    },

    /// A schema or grammar that an answer cannot be held to.
    #[error("the answer cannot have this form: {reason}")]
    Constraint {
        /// Why not.
        reason: String,
    },

    /// Images without a projector.
    #[error("{n_images} image(s) were given but no projector: load the model's mmproj file")]
    NoProjector {
        /// Images given.
        n_images: usize,
    },

    /// A prompt without anything in it.
    #[error("the prompt is empty: give some text")]
    EmptyPrompt,

    /// An option out of its range.
    #[error("{name} is {value}: expected {expected}")]
    OptionRange {
        /// The option.
        name: &'static str,
        /// The value given.
        value: String,
        /// What it may be.
        expected: String,
    },

    /// Quantized values in the KV cache without flash attention.
    #[error("a KV cache with {type_v} values needs flash attention: turn it on (or auto), or use f16 values")]
    QuantizedValues {
        /// The type asked for.
        type_v: KvType,
    },

    /// A chat template, the model's own or another, that does not work.
    #[error("the chat template failed: {reason}")]
    Template {
        /// The template engine's words.
        reason: String,
    },

    /// A text that cannot be split into tokens.
    #[error("cannot tokenize the prompt: {reason}")]
    Tokenize {
        /// llama.cpp's words.
        reason: String,
    },

    /// A picture that cannot be encoded.
    #[error("cannot encode image {index} ({width}x{height} pixels): {reason}")]
    Encode {
        /// Which image of the request, from 0.
        index: usize,
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// llama.cpp's words.
        reason: String,
    },

    /// A session that cannot be set up.
    #[error("cannot set up a context of {n_ctx} tokens: {reason}")]
    Context {
        /// Tokens asked for.
        n_ctx: u32,
        /// llama.cpp's words.
        reason: String,
    },

    /// A prompt longer than the context.
    #[error(
        "the prompt needs {n_tokens} tokens ({n_vision} of them for images) and the context holds {n_ctx}: \
         set the context size to at least {suggested}"
    )]
    PromptTooLong {
        /// Tokens of the prompt, text and vision.
        n_tokens: usize,
        /// Vision tokens among them.
        n_vision: usize,
        /// Tokens the context holds.
        n_ctx: u32,
        /// A context size that fits the prompt and the answer.
        suggested: usize,
    },

    /// A policy that cuts the model where the cache cannot be cut.
    #[error(
        "the policy {policy} needs a cut before layer {il}, where the cache has none: make the session with this policy, \
         or with cuts at every layer"
    )]
    NoCut {
        /// The policy.
        policy: String,
        /// The first layer after the cut.
        il: usize,
    },

    /// The KV cache is full.
    #[error("there is no room for {what}: {reason}")]
    NoRoom {
        /// What was being computed.
        what: &'static str,
        /// How much room there is.
        reason: String,
    },

    /// Memory could not be allocated. What was there before is still there.
    #[error("there is not enough memory for {what}: {reason}")]
    OutOfMemory {
        /// What was being computed.
        what: &'static str,
        /// llama.cpp's words.
        reason: String,
    },

    /// Another machine held a part of the model, and is gone: the model, and whatever was made with it, computes no more. It can
    /// be loaded anew.
    #[error("cannot compute {what}: {reason}")]
    DeviceLost {
        /// What was being computed.
        what: &'static str,
        /// Which machine.
        reason: String,
    },

    /// A computation that failed.
    #[error("cannot compute {what}: {reason}")]
    Compute {
        /// What was being computed.
        what: &'static str,
        /// llama.cpp's words.
        reason: String,
    },
}

/// The devices that there are, in words.
fn there_are(devices: &[String]) -> String {
    if devices.is_empty() {
        String::from("only the CPU, which needs no name")
    } else {
        format!("only: {}", devices.join(", "))
    }
}

/// What a failed computation is to a caller.
#[cfg(feature = "native")]
pub(crate) fn computing(what: &'static str, error: crate::ffi::Error) -> Error {
    use crate::ffi::Status;
    match error.status {
        Status::NoSlot => Error::NoRoom {
            what,
            reason: error.message,
        },
        Status::AllocFailed => Error::OutOfMemory {
            what,
            reason: error.message,
        },
        Status::DeviceLost => Error::DeviceLost {
            what,
            reason: error.message,
        },
        _ => Error::Compute {
            what,
            reason: error.to_string(),
        },
    }
}

/// Why a model cannot be pruned between its layers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "pruning between layers is not possible with architecture '{arch}' ({reason}): take a policy that acts before them ({}), \
     or none",
    before_model()
)]
pub struct Unsupported {
    /// The model's architecture.
    pub arch: String,
    /// What stands in the way.
    pub reason: String,
    /// The architectures that can be pruned between layers.
    pub supported: Vec<String>,
}

/// The policies that run on every model.
fn before_model() -> String {
    let policies = PolicyName::ALL.iter().filter(|policy| policy.acts_before_model());
    let names: Vec<String> = policies.map(ToString::to_string).collect();
    names.join(", ")
}
