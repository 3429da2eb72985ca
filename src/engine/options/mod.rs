//! How models, projectors and sessions are set up, and how tokens are chosen. Names are llama.cpp's.

use std::fmt;
use std::str::FromStr;

use super::Error;
use crate::policy::PolicyConfig;

/// How a language model is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelOptions {
    /// Layers kept on the GPU, negative for all. Default: all. Without a GPU backend it has no effect.
    pub n_gpu_layers: i32,
    /// The devices that hold these layers, by ggml's names (`CUDA0`; `engine::devices` tells them); none of them: the CPU
    /// alone. Default: all GPUs that there are.
    pub devices: Option<Vec<String>>,
    /// How the layers are split over several devices. Default: by layers.
    pub split_mode: SplitMode,
    /// Which of the devices, from 0, holds a model that is not split. Default: the first.
    pub main_gpu: u32,
    /// The share of each device, in any unit: `[3.0, 1.0]`. Default: none, by their free memory.
    pub tensor_split: Vec<f32>,
    /// Map the file instead of reading it. Default: yes.
    pub use_mmap: bool,
    /// Keep the weights in memory. Default: no.
    pub use_mlock: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            n_gpu_layers: -1,
            devices: None,
            split_mode: SplitMode::Layer,
            main_gpu: 0,
            tensor_split: Vec::new(),
            use_mmap: true,
            use_mlock: false,
        }
    }
}

impl ModelOptions {
    /// Checks every value, except that the devices are there.
    ///
    /// # Errors
    /// [`Error::OptionRange`]
    pub fn validate(&self) -> Result<(), Error> {
        let is_share = |share: &f32| share.is_finite() && *share >= 0.0;
        let is_one_too_many = |devices: &Vec<String>| self.tensor_split.len() > devices.len();
        let expected = if !self.tensor_split.iter().all(is_share) {
            "numbers from 0 on"
        } else if self.tensor_split.len() > MAX_DEVICES || self.devices.as_ref().is_some_and(is_one_too_many)
        {
            "a share for each device, and no more"
        } else {
            return Ok(());
        };
        let shares: Vec<String> = self.tensor_split.iter().map(f32::to_string).collect();
        Err(Error::OptionRange {
            name: "tensor_split",
            value: shares.join(","),
            expected: expected.to_owned(),
        })
    }
}

/// How layers are split over several devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SplitMode {
    /// One device holds them all.
    None,
    /// Each device holds some layers, whole, and their part of the KV cache.
    #[default]
    Layer,
    /// As by layers, and rows of large weights over all devices, where their backend can (CUDA).
    Row,
}

impl fmt::Display for SplitMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Layer => "layer",
            Self::Row => "row",
        })
    }
}

impl FromStr for SplitMode {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "none" => Ok(Self::None),
            "layer" => Ok(Self::Layer),
            "row" => Ok(Self::Row),
            _ => Err(Error::OptionRange {
                name: "split_mode",
                value: s.to_owned(),
                expected: "none, layer, row".to_owned(),
            }),
        }
    }
}

/// Which way pictures go into and through a vision encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum VisionEncoder {
    /// The way the model was trained: sizes, padding and tiles of its family's image processor, LLaVA's and InternVL's class
    /// token first, every stored layer of LLaVA run. docs/models.md has the families.
    #[default]
    Reference,
    /// As stock llama.cpp does it, for comparison.
    Upstream,
}

impl fmt::Display for VisionEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "reference",
            Self::Upstream => "upstream",
        })
    }
}

/// How a projector is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectorOptions {
    /// Encode pictures on the GPU. Default: yes, where there is one.
    pub use_gpu: bool,
    /// The GPU that it is, by ggml's name. Default: the first that there is.
    pub device: Option<String>,
    /// Threads of the encoder. Default: as many as the machine has.
    pub n_threads: Option<u32>,
    /// The way into and through the vision encoder. Default: reference.
    pub encoder: VisionEncoder,
    /// When the encoder uses flash attention. Default: auto.
    pub flash_attn: FlashAttention,
    /// For models of dynamic resolution: at least so many tokens per image. Default: as the file says.
    pub image_min_tokens: Option<u32>,
    /// For models of dynamic resolution: at most so many tokens per image. Default: as the file says.
    pub image_max_tokens: Option<u32>,
    /// Keep the pictures that were encoded last, pixels and embeddings, in at most so many bytes: one that comes again is
    /// not encoded again, and its embeddings are the same bit by bit. Default: 0, none is kept.
    pub cache_bytes: usize,
}

impl Default for ProjectorOptions {
    fn default() -> Self {
        Self {
            use_gpu: true,
            device: None,
            n_threads: None,
            encoder: VisionEncoder::Reference,
            flash_attn: FlashAttention::Auto,
            image_min_tokens: None,
            image_max_tokens: None,
            cache_bytes: 0,
        }
    }
}

impl ProjectorOptions {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::OptionRange`]
    pub fn validate(&self) -> Result<(), Error> {
        in_range("n_threads", self.n_threads.unwrap_or(1), 1..=MAX_THREADS)?;
        let min = self.image_min_tokens.unwrap_or(1);
        in_range("image_min_tokens", min, 1..=MAX_IMAGE_TOKENS)?;
        in_range(
            "image_max_tokens",
            self.image_max_tokens.unwrap_or(MAX_IMAGE_TOKENS),
            min..=MAX_IMAGE_TOKENS,
        )
    }
}

/// When flash attention is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FlashAttention {
    /// Where the backend has it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl FromStr for FlashAttention {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(Error::OptionRange {
                name: "flash_attn",
                value: s.to_owned(),
                expected: "auto, on, off".to_owned(),
            }),
        }
    }
}

impl fmt::Display for FlashAttention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// The type of the numbers in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum KvType {
    F32,
    #[default]
    F16,
    Bf16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
    Iq4Nl,
}

impl KvType {
    /// All of them, most precise first.
    pub const ALL: &'static [Self] = &[
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_0,
        Self::Iq4Nl,
    ];

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q5_0 => "q5_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
            Self::Iq4Nl => "iq4_nl",
        }
    }

    /// Whether several numbers share a scale.
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Its number in `enum ggml_type` (ggml.h@0.1.161).
    #[cfg(feature = "native")]
    pub(crate) fn ggml_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 30,
            Self::Q8_0 => 8,
            Self::Q5_1 => 7,
            Self::Q5_0 => 6,
            Self::Q4_1 => 3,
            Self::Q4_0 => 2,
            Self::Iq4Nl => 20,
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvType {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().copied().find(|ty| ty.name() == s);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|ty| ty.name()).collect();
            Error::OptionRange {
                name: "KV cache type",
                value: s.to_owned(),
                expected: names.join(", "),
            }
        })
    }
}

/// How a session is set up.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionOptions {
    /// Tokens of prompt and answer together. Default: what the model was trained for, at most 8192.
    pub n_ctx: Option<u32>,
    /// Tokens handed to llama.cpp at once. Default: 2048.
    pub n_batch: u32,
    /// Tokens computed at once. Default: 512. Raised for a model whose image tokens must be computed together.
    pub n_ubatch: u32,
    /// Threads. Default: as many as the machine has.
    pub n_threads: Option<u32>,
    /// When flash attention is used. Default: auto.
    pub flash_attn: FlashAttention,
    /// The type of keys. Default: f16.
    pub type_k: KvType,
    /// The type of values. Default: f16. Quantized values need flash attention.
    pub type_v: KvType,
    /// Keep the KV cache on the GPU. Default: yes, where there is one.
    pub offload_kqv: bool,
    /// Which vision tokens go on. Default: off.
    pub policy: PolicyConfig,
    /// Layers that are run together at most where each is looked into and may drop rows: what was run in vain is run once more,
    /// with the same result. Default: 1 on the CPU, 4 elsewhere, where each look costs a round trip.
    pub probe_stride: Option<u32>,
    /// Where requests with other policies may cut the model. Default: as the policy does.
    pub cuts: Cuts,
    /// Answers that are made at a time. Default: 1.
    pub n_sequences: u32,
    /// Pictures and conversations that are remembered at most. Default: 4.
    pub n_prefixes: u32,
    /// Bytes that the cache may hold after an answer, those of answers in the making included: what is missed least for later
    /// requests goes until it holds no more, all but what was used last. Default: as many as they are.
    pub max_prefix_bytes: Option<u64>,
    /// Whether a request that begins as an earlier one did is computed from there on. Default: yes.
    pub remember: bool,
}

/// The layers at which a model can be cut: policies that drop tokens elsewhere cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Cuts {
    /// Where the session's policy may cut; nowhere if it is off.
    #[default]
    OfPolicy,
    /// Before every layer: any policy can run, for a little more work per token.
    EveryLayer,
    /// Before these layers, ascending.
    Before(Vec<usize>),
}

impl Cuts {
    /// The cuts of a model whose policy has the cuts given; `None`: it is not pruned at all, and has llama.cpp's own
    /// memory.
    #[cfg(feature = "native")]
    pub(crate) fn of(&self, n_layer: usize, policy: Option<Vec<usize>>) -> Option<Vec<usize>> {
        match self {
            Self::OfPolicy => policy,
            Self::EveryLayer => Some((1..n_layer).collect()),
            Self::Before(layers) => {
                let mut all = [layers.clone(), policy.unwrap_or_default()].concat();
                all.retain(|&il| il > 0 && il < n_layer);
                all.sort_unstable();
                all.dedup();
                Some(all)
            }
        }
    }
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            n_ctx: None,
            n_batch: 2048,
            n_ubatch: 512,
            n_threads: None,
            flash_attn: FlashAttention::Auto,
            type_k: KvType::F16,
            type_v: KvType::F16,
            offload_kqv: true,
            policy: PolicyConfig::Off,
            probe_stride: None,
            cuts: Cuts::OfPolicy,
            n_sequences: 1,
            n_prefixes: 4,
            max_prefix_bytes: None,
            remember: true,
        }
    }
}

impl SessionOptions {
    /// Checks every value except the policy, which needs a model.
    ///
    /// # Errors
    /// [`Error::OptionRange`] and [`Error::QuantizedValues`].
    pub fn validate(&self) -> Result<(), Error> {
        in_range("n_ctx", self.n_ctx.unwrap_or(1), 1..=MAX_CTX)?;
        in_range("n_batch", self.n_batch, 1..=MAX_CTX)?;
        in_range("n_ubatch", self.n_ubatch, 1..=MAX_CTX)?;
        in_range("n_threads", self.n_threads.unwrap_or(1), 1..=MAX_THREADS)?;
        in_range(
            "probe_stride",
            self.probe_stride.unwrap_or(1),
            1..=MAX_PROBE_STRIDE,
        )?;
        in_range("n_sequences", self.n_sequences, 1..=MAX_SEQUENCES)?;
        in_range("n_prefixes", self.n_prefixes, 0..=MAX_SEQUENCES)?;
        if self.type_v.is_quantized() && self.flash_attn == FlashAttention::Off {
            return Err(Error::QuantizedValues { type_v: self.type_v });
        }
        Ok(())
    }
}

/// How tokens are chosen. The default takes the most likely one.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Temperature; 0 takes the most likely token: of what else is set only biases and penalties have a say then.
    pub temp: f32,
    /// Choose among the so many most likely tokens; 0 for all.
    pub top_k: u32,
    /// Choose among the most likely tokens that together have this probability.
    pub top_p: f32,
    /// Choose among tokens at least this likely, relative to the most likely one.
    pub min_p: f32,
    /// Seed of the draw, `None` for a random one.
    pub seed: Option<u32>,
    /// Tokens of the answer that the penalties look back on.
    pub repeat_last_n: u32,
    /// What the logit of a token that was chosen is divided by (multiplied with, below 0); 1 for no penalty.
    pub repeat_penalty: f32,
    /// What is taken off the logit of a token for each time that it was chosen.
    pub frequency_penalty: f32,
    /// What is taken off the logit of a token that was chosen.
    pub presence_penalty: f32,
    /// What is added to the logits of tokens; minus infinity bans one.
    pub logit_bias: Vec<(i32, f32)>,
}

impl Default for Sampling {
    /// The most likely token; where a temperature is set, llama.cpp's other defaults.
    fn default() -> Self {
        Self {
            temp: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            seed: None,
            repeat_last_n: 64,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
        }
    }
}

impl Sampling {
    /// Checks every value, except that the tokens of `logit_bias` are the model's.
    ///
    /// # Errors
    /// [`Error::OptionRange`]
    pub fn validate(&self) -> Result<(), Error> {
        in_range("temp", self.temp, 0.0..=100.0)?;
        in_range("top_k", self.top_k, 0..=i32::MAX as u32)?;
        in_range("top_p", self.top_p, 0.0..=1.0)?;
        in_range("min_p", self.min_p, 0.0..=1.0)?;
        in_range("repeat_last_n", self.repeat_last_n, 0..=MAX_CTX)?;
        in_range("repeat_penalty", self.repeat_penalty, 0.01..=100.0)?;
        in_range("frequency_penalty", self.frequency_penalty, -100.0..=100.0)?;
        in_range("presence_penalty", self.presence_penalty, -100.0..=100.0)?;
        let is_number = |bias: f32| !bias.is_nan() && bias < f32::INFINITY;
        match self.logit_bias.iter().find(|&&(_, bias)| !is_number(bias)) {
            None => Ok(()),
            Some((_, bias)) => Err(Error::OptionRange {
                name: "logit_bias",
                value: bias.to_string(),
                expected: "numbers, or minus infinity".to_owned(),
            }),
        }
    }
}

/// More layers than any model has.
const MAX_PROBE_STRIDE: u32 = 512;
/// As many as llama.cpp takes (`llama.cpp: llama_max_devices`@0.1.161).
const MAX_DEVICES: usize = 16;
/// As many as llama.cpp takes (`ggml.h: GGML_MAX_N_THREADS`@0.1.161).
pub(super) const MAX_THREADS: u32 = 512;
/// llama.cpp marks at most 256 (llama-cparams.h: LLAMA_MAX_SEQ@0.1.161); each that is at work may need two.
const MAX_SEQUENCES: u32 = 64;
/// Far more than any encoder makes; keeps pixels counted in 32 bits.
pub(crate) const MAX_IMAGE_TOKENS: u32 = 65_536;
/// Upstream rounds up to 256 and multiplies in 32 bits.
const MAX_CTX: u32 = 1 << 24;

pub(super) fn in_range<T: PartialOrd + fmt::Display>(
    name: &'static str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    let expected = format!("{} to {}", range.start(), range.end());
    Err(Error::OptionRange {
        name,
        value: value.to_string(),
        expected,
    })
}

#[cfg(test)]
mod tests;
