//! `visipruner run`: answers to questions about the same pictures.

use std::path::{Path, PathBuf};

#[cfg(feature = "native")]
use visipruner::engine::Request;
use visipruner::engine::{Image, ModelOptions, ProjectorOptions, Prompt, Sampling, SessionOptions};
use visipruner::policy::PolicyConfig;
use visipruner::policy::presets::Resolved;

use super::args::{ComputeArgs, GpuLayers, ReportArgs, RunArgs, SamplingArgs};
use super::error::Error;
use super::files::{self, ChosenPolicy, Files};
use super::terminal::Terminal;
use super::{image, output, questions};

/// A context that was not asked for is at most this long: a model trained for 128 Ki tokens would take gigabytes.
const DEFAULT_MAX_CTX: u32 = 4096;

/// Room for pictures that come again: a few, with their pixels and embeddings.
const PICTURE_CACHE_BYTES: usize = 256 << 20;

/// Everything that was asked for, checked as far as it can be before weights are loaded.
#[derive(Debug)]
pub struct RunOptions {
    /// The language model's file.
    pub model_path: PathBuf,
    /// The projector's file.
    pub projector_path: Option<PathBuf>,
    /// How the model is loaded.
    pub model: ModelOptions,
    /// How the projector is loaded.
    pub projector: ProjectorOptions,
    /// How the session is set up, policy included.
    pub session: SessionOptions,
    /// The questions as they were asked: at least one.
    pub texts: Vec<String>,
    /// The questions, each with all pictures.
    pub prompts: Vec<Prompt>,
    /// Jinja instead of the model's own template.
    pub chat_template: Option<String>,
    /// The pictures of the prompt's markers, in order.
    pub images: Vec<Image>,
    /// Tokens to generate at most, `None` until the context is full.
    pub n_predict: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Where the policy of the session comes from.
    pub policy: Resolved,
    /// What is written down.
    pub report: ReportArgs,
    /// Whether llama.cpp's log is shown.
    pub is_verbose: bool,
}

/// Answers the questions.
///
/// # Errors
/// Whatever is wrong with flags, files, pictures or prompt, and what goes wrong in the engine.
pub fn run(args: RunArgs) -> Result<(), Error> {
    let mut terminal = Terminal::new(&args.output);
    let options = RunOptions::check(args, &mut terminal)?;
    answer(&options, &mut terminal)
}

#[cfg(feature = "native")]
use super::answer::answer;

#[cfg(not(feature = "native"))]
fn answer(_: &RunOptions, _: &mut Terminal) -> Result<(), Error> {
    Err(Error::NoEngine)
}

impl RunOptions {
    /// Checks the flags, reads the pictures and the headers of the models, and settles the policy.
    ///
    /// # Errors
    /// As [`run`].
    pub fn check(args: RunArgs, terminal: &mut Terminal) -> Result<Self, Error> {
        let texts = questions::texts(&args.questions)?;
        let prompt = |text: &String| {
            let parts = args.prompt.marker.split(text);
            if args.prompt.raw {
                Prompt::Raw(parts)
            } else {
                Prompt::Chat {
                    system: args.prompt.system_prompt.clone(),
                    history: Vec::new(),
                    user: parts,
                }
            }
        };
        let prompts: Vec<Prompt> = texts.iter().map(prompt).collect();
        let sources = image::sources(&args.prompt.images)?;
        for prompt in &prompts {
            questions::check_places(prompt, sources.len())?;
        }
        if let Some(path) = &args.report.report {
            output::check_writable("the report", path)?;
        }
        let files = Files::open(&args.model, !sources.is_empty(), terminal)?;
        let policy = files.policy(&args.policy)?;
        let images = image::read_all(&sources, args.compute.pictures.background)?;
        if !images.is_empty() {
            say_about_policy(&policy, &files, terminal);
        }
        let session = session_options(&args.compute, files.model.1.n_ctx_train, &policy.resolved.policy);
        session.validate()?;
        let projector = projector_options(&args.compute);
        projector.validate()?;
        Ok(Self {
            model_path: files.model_path().to_owned(),
            projector_path: files.projector_path().map(Path::to_owned),
            model: model_options(&args.compute)?,
            projector: ProjectorOptions {
                cache_bytes: if prompts.len() > 1 { PICTURE_CACHE_BYTES } else { 0 },
                ..projector
            },
            session,
            texts,
            prompts,
            chat_template: args.prompt.chat_template.map(chat_template).transpose()?,
            images,
            n_predict: usize::try_from(args.sampling.n_predict).ok(),
            sampling: sampling(&args.sampling),
            policy: policy.resolved,
            report: args.report,
            is_verbose: args.output.verbose,
        })
    }
}

#[cfg(feature = "native")]
impl RunOptions {
    /// A question, in a context of `n_ctx` tokens.
    pub fn request(&self, n_ctx: u32, prompt: &Prompt) -> Request {
        Request {
            images: self.images.clone(),
            n_predict: self.n_predict.unwrap_or(n_ctx as usize),
            sampling: self.sampling.clone(),
            chat_template: self.chat_template.clone(),
            report_logits: self.report.report_logits,
            report_probes: self.report.report_probes,
            ..Request::new(prompt.clone())
        }
    }
}

/// How ggml's names of other machines' devices begin.
const REMOTE_DEVICE: &str = "RPC";

/// How the flags want models to be loaded; devices of other machines are there from now on.
///
/// # Errors
/// Values out of their range, and servers that cannot be used.
pub fn model_options(args: &ComputeArgs) -> Result<ModelOptions, Error> {
    let options = ModelOptions {
        n_gpu_layers: n_gpu_layers(args),
        devices: devices(args),
        split_mode: args.devices.split_mode,
        main_gpu: args.devices.main_gpu,
        tensor_split: args.devices.tensor_split.clone(),
        use_mmap: !args.no_mmap,
        use_mlock: args.mlock,
    };
    options.validate()?;
    #[cfg(feature = "rpc")]
    super::devices::add(&args.devices.rpc)?;
    Ok(options)
}

/// Layers on the GPU, negative for all.
pub fn n_gpu_layers(args: &ComputeArgs) -> i32 {
    match args.n_gpu_layers {
        None | Some(GpuLayers::All) => -1,
        Some(GpuLayers::Count(n)) => i32::try_from(n).unwrap_or(i32::MAX),
    }
}

/// The devices that are named, `None` for all that there are.
fn devices(args: &ComputeArgs) -> Option<Vec<String>> {
    match args.devices.device.as_slice() {
        [] => None,
        [none] if none == "none" => Some(Vec::new()),
        names => Some(names.to_vec()),
    }
}

/// How the flags want projectors to be loaded. Without GPU layers the encoder stays on the CPU, too; of several devices it
/// takes the first of this machine.
pub fn projector_options(args: &ComputeArgs) -> ProjectorOptions {
    let devices = devices(args);
    let local = devices.map(|names| names.into_iter().find(|name| !name.starts_with(REMOTE_DEVICE)));
    let is_on_cpu = args.n_gpu_layers == Some(GpuLayers::Count(0)) || local == Some(None);
    ProjectorOptions {
        use_gpu: !is_on_cpu,
        device: local.flatten(),
        image_min_tokens: args.pictures.tokens.image_min_tokens,
        image_max_tokens: args.pictures.tokens.image_max_tokens,
        n_threads: args.threads.map(u32::from),
        encoder: args.pictures.vision_encoder,
        flash_attn: args.flash_attn,
        ..ProjectorOptions::default()
    }
}

/// How the flags want sessions to be set up.
pub fn session_options(args: &ComputeArgs, n_ctx_train: u32, policy: &PolicyConfig) -> SessionOptions {
    SessionOptions {
        n_ctx: Some(match args.ctx_size {
            None => n_ctx_train.clamp(1, DEFAULT_MAX_CTX),
            Some(0) => n_ctx_train.max(1),
            Some(n_ctx) => n_ctx,
        }),
        n_batch: args.batch_size,
        n_ubatch: args.ubatch_size,
        n_threads: args.threads.map(u32::from),
        flash_attn: args.flash_attn,
        type_k: args.cache_type_k,
        type_v: args.cache_type_v,
        offload_kqv: !args.no_kv_offload,
        probe_stride: args.probe_stride,
        policy: policy.clone(),
        ..SessionOptions::default()
    }
}

/// How the flags want tokens to be chosen.
pub fn sampling(args: &SamplingArgs) -> Sampling {
    Sampling {
        temp: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        seed: u32::try_from(args.seed).ok(),
        repeat_last_n: args.repeat_last_n,
        repeat_penalty: args.repeat_penalty,
        frequency_penalty: args.frequency_penalty,
        presence_penalty: args.presence_penalty,
        logit_bias: Vec::new(),
    }
}

/// The template itself, or what stands in the file of that name.
///
/// # Errors
/// [`Error::ReadTemplate`]
pub fn chat_template(argument: String) -> Result<String, Error> {
    if argument.contains("{{") || argument.contains("{%") {
        return Ok(argument);
    }
    files::read_text(Path::new(&argument)).map_err(|source| Error::ReadTemplate {
        path: argument.into(),
        source,
    })
}

/// Says where no thresholds are known for a model that is to see pictures.
pub fn say_about_policy(policy: &ChosenPolicy, files: &Files, terminal: &mut Terminal) {
    let resolved = &policy.resolved;
    if resolved.not_calibrated && files.can_be_cut() == Some(false) {
        terminal.say(format_args!(
            "hint: nothing is pruned; the layers of {} cannot be run in ranges, but --policy divprune drops tokens before them",
            files.model.1.arch
        ));
    } else if resolved.not_calibrated {
        terminal.say(
            "hint: no pruning thresholds are known for this model, so nothing is pruned; find them with visipruner \
             calibrate, give them with --policy-file, or choose layers with --policy fixed --fusion-layer F --keep K \
             --exit-from E",
        );
    }
    let is_borrowed = policy.file.is_none() && resolved.preset.is_none();
    if is_borrowed && resolved.policy.visipruner().is_some() {
        terminal.warn(
            "no thresholds are known for this model: what no flag says is taken from LLaVA-1.5 7B and may keep too much \
             or too little",
        );
    }
}
