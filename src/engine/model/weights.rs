//! Language models.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::vocabulary;
use crate::engine::constraint::Vocabulary;
use crate::engine::devices::device;
use crate::engine::options::{ModelOptions, SplitMode};
use crate::engine::prompt::template::{self, Specials};
use crate::engine::prompt::{IMAGE_MARKERS, Part, Prompt, Surroundings};
use crate::engine::session::text::Utf8Stream;
use crate::engine::{Error, Projector, Request, Unsupported};
use crate::ffi;
use crate::gguf::{Gguf, LlmShape, open_llm};

/// A language model: weights and vocabulary. Clones share them.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use visipruner::engine::{Model, ModelOptions};
///
/// let model = Model::load("llava-v1.5-7b-Q4_K_M.gguf", &ModelOptions::default(), |progress| {
///     eprint!("\r{:.0} %", progress * 100.0);
///     ControlFlow::Continue(())
/// })?;
/// println!("{}: {} layers", model.description(), model.shape().n_layer);
/// # Ok::<(), visipruner::engine::Error>(())
/// ```
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    native: Arc<ffi::Model>,
    gguf: Gguf,
    shape: LlmShape,
    specials: Specials,
    load_time: Duration,
    /// Made when it is first needed.
    vocabulary: OnceLock<Result<Vocabulary, String>>,
}

impl Model {
    /// Loads a model. `progress` hears how much is done, from 0 to 1, and may stop the loading.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is missing, damaged, or no language model, found before llama.cpp sees it;
    /// [`Error::Load`] where llama.cpp refuses it; [`Error::LoadStopped`]; [`Error::NoDevice`], [`Error::OptionRange`]; [`Error::NoDecoder`] for a model that does
    /// not generate text token by token.
    pub fn load(
        path: impl AsRef<Path>,
        options: &ModelOptions,
        progress: impl FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self, Error> {
        let began = Instant::now();
        let path = path.as_ref();
        options.validate()?;
        let (gguf, shape) = open_llm(path)?;
        let vocabulary = |reason| Error::Vocabulary {
            path: path.to_owned(),
            reason,
        };
        if let Some(reason) = vocabulary::defect(&gguf)? {
            return Err(vocabulary(reason));
        }
        let params = ffi::ModelParams {
            n_gpu_layers: options.n_gpu_layers,
            devices: chosen(options)?,
            split_mode: match options.split_mode {
                SplitMode::None => ffi::SplitMode::None,
                SplitMode::Layer => ffi::SplitMode::Layer,
                SplitMode::Row => ffi::SplitMode::Row,
            },
            main_gpu: i32::try_from(options.main_gpu).unwrap_or(i32::MAX),
            tensor_split: options.tensor_split.clone(),
            use_mmap: options.use_mmap,
            use_mlock: options.use_mlock,
        };
        let native = load_native(path, progress, |c_path, progress| {
            ffi::Model::load(c_path, &params, progress)
        })?;
        let no_decoder = |reason| Error::NoDecoder {
            path: path.to_owned(),
            reason,
        };
        if !native.is_decoder_only() {
            return Err(no_decoder("it is not a decoder that generates token by token"));
        }
        if !native.has_vocab() || native.n_vocab() == 0 {
            return Err(no_decoder("it has no tokenizer"));
        }
        if let Some(reason) = native.missing_special() {
            return Err(vocabulary(reason.to_owned()));
        }
        let specials = Specials {
            bos: native.bos_text(),
            eos: native.eos_text(),
            adds_bos: native.adds_bos(),
        };
        Ok(Self(Arc::new(Inner {
            native: Arc::new(native),
            gguf,
            shape,
            specials,
            load_time: began.elapsed(),
            vocabulary: OnceLock::new(),
        })))
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        self.0.gguf.path()
    }

    /// The file's metadata.
    pub fn gguf(&self) -> &Gguf {
        &self.0.gguf
    }

    /// Layers, widths, heads.
    pub fn shape(&self) -> &LlmShape {
        &self.0.shape
    }

    /// Architecture, size and quantization in words, such as "llama 7B Q4_K - Medium".
    pub fn description(&self) -> String {
        self.0.native.description()
    }

    /// Number of weights.
    pub fn n_params(&self) -> u64 {
        self.0.native.n_params()
    }

    /// Size of all weights.
    pub fn size_bytes(&self) -> u64 {
        self.0.native.size_bytes()
    }

    /// Transformer layers.
    pub fn n_layer(&self) -> usize {
        self.0.native.n_layer()
    }

    /// Tokens in the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.0.native.n_vocab()
    }

    /// Whether vision tokens can be pruned between the layers of this model. Before layer 0 they can in every model.
    ///
    /// # Errors
    /// [`Unsupported`] with the reason and the architectures in which they can.
    pub fn supports_pruning(&self) -> Result<(), Unsupported> {
        self.0.native.supports_ranges().map_err(|error| Unsupported {
            arch: self.0.shape.arch.clone(),
            reason: error.message,
            supported: supported_archs(),
        })
    }

    /// The tokens of a text. `add_special`: with BOS and EOS, as the model's metadata says; `parse_special`: special tokens
    /// in it are recognised.
    ///
    /// # Errors
    /// [`Error::Tokenize`]
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<i32>, Error> {
        let tokens = self.0.native.tokenize(text, add_special, parse_special);
        tokens.map_err(|error| Error::Tokenize {
            reason: error.to_string(),
        })
    }

    /// The text of tokens. Special tokens are rendered if `special`; bytes that are no characters become U+FFFD.
    pub fn detokenize(&self, tokens: &[i32], special: bool) -> String {
        let mut stream = Utf8Stream::default();
        let mut text: String = tokens
            .iter()
            .map(|&token| stream.push(&self.0.native.piece(token, special)))
            .collect();
        text.push_str(&stream.finish());
        text
    }

    /// Whether a token ends generation.
    pub fn is_end_of_generation(&self, token: i32) -> bool {
        self.0.native.is_end_of_generation(token)
    }

    /// The tokens that end generation.
    /// The bytes that a token stands for; they need not be whole characters. Empty for control tokens, and for numbers that
    /// are no token.
    pub fn token_bytes(&self, token: i32) -> Vec<u8> {
        self.0.native.piece(token, false)
    }

    /// What constraints need of the vocabulary.
    pub(crate) fn vocabulary(&self) -> Result<&Vocabulary, Error> {
        let made = self.0.vocabulary.get_or_init(|| {
            Vocabulary::of(self).map_err(|error| match error {
                Error::Constraint { reason } => reason,
                other => other.to_string(),
            })
        });
        made.as_ref().map_err(|reason| Error::Constraint {
            reason: reason.clone(),
        })
    }

    /// Whether the vocabulary has a token of this number.
    pub(crate) fn has_token(&self, token: i32) -> bool {
        usize::try_from(token).is_ok_and(|token| token < self.n_vocab())
    }

    pub(crate) fn end_of_generation_tokens(&self) -> Vec<i32> {
        (0..self.0.native.n_vocab() as i32)
            .filter(|&token| self.is_end_of_generation(token))
            .collect()
    }

    /// The model's own chat template, in Jinja.
    pub fn chat_template(&self) -> Option<String> {
        self.0.native.chat_template()
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.0.load_time
    }

    /// A handle that does not keep the weights.
    pub(crate) fn downgrade(&self) -> WeakModel {
        WeakModel(Arc::downgrade(&self.0))
    }

    /// Whether two handles share their weights.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn native(&self) -> &Arc<ffi::Model> {
        &self.0.native
    }

    /// The parts that are tokenized for a request's prompt: put into a chat template if it is a question, with a place for
    /// each of its images, which have `surroundings`.
    ///
    /// # Errors
    /// [`Error::Markers`], [`Error::EmptyPrompt`], and [`Error::Template`] if the template fails.
    pub(crate) fn rendered(
        &self,
        request: &Request,
        surroundings: Surroundings,
    ) -> Result<template::Rendered, Error> {
        let user = request.prompt.with_places(request.images.len())?;
        let specials = &self.0.specials;
        let (system, history) = match &request.prompt {
            Prompt::Raw(_) => {
                let turns = vec![template::RenderedTurn {
                    parts: user,
                    answer: None,
                }];
                return Ok(template::Rendered { turns, warning: None });
            }
            Prompt::Chat { system, history, .. } => (system.as_deref(), history),
        };
        let conversation = template::Conversation {
            system,
            history,
            user: &user,
        };
        let rendered = match request.chat_template.as_deref() {
            Some(given) => template::apply(given, specials, &conversation, surroundings),
            None => {
                let own = self.chat_template();
                template::apply_or_llava(own.as_deref(), specials, &conversation, surroundings)
            }
        };
        rendered.map_err(|reason| Error::Template { reason })
    }

    /// A prompt as the chat template has it, with [`IMAGE_MARKERS`]' first one in the places of pictures.
    ///
    /// # Errors
    /// [`Error::Markers`], [`Error::EmptyPrompt`], [`Error::Template`]
    pub fn prompt_text(&self, projector: Option<&Projector>, request: &Request) -> Result<String, Error> {
        let rendered = self.rendered(request, Surroundings::of(projector))?;
        let mut text = String::new();
        for turn in rendered.turns {
            for part in turn.parts {
                match part {
                    Part::Text(part) => text.push_str(&part),
                    Part::Image => text.push_str(IMAGE_MARKERS[0]),
                }
            }
            match turn.answer {
                Some(template::RenderedAnswer::Text(answer)) => text.push_str(&answer),
                Some(template::RenderedAnswer::Tokens(tokens)) => {
                    text.push_str(&self.detokenize(&tokens, true))
                }
                None => {}
            }
        }
        Ok(text)
    }

    /// The tokens of a text in a prompt; at its beginning with BOS and EOS as the metadata says.
    pub(crate) fn tokenize_prompt(&self, parts: &[Part], is_first: bool) -> Result<Vec<i32>, Error> {
        let texts = parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Image => None,
        });
        let text: String = texts.collect();
        let tokens = self.0.native.tokenize(&text, is_first, true);
        tokens.map_err(|error| Error::Tokenize {
            reason: error.to_string(),
        })
    }

    /// The tokens of an answer in a prompt.
    pub(crate) fn answer_tokens(&self, answer: &template::RenderedAnswer) -> Result<Vec<i32>, Error> {
        match answer {
            template::RenderedAnswer::Tokens(tokens) => Ok(tokens.clone()),
            template::RenderedAnswer::Text(text) => self.tokenize(text, false, false),
        }
    }
}

/// A model that may be gone.
#[derive(Clone)]
pub(crate) struct WeakModel(Weak<Inner>);

impl WeakModel {
    /// Whether it is this one.
    pub(crate) fn is(&self, model: &Model) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&model.0))
    }
}

impl std::fmt::Debug for WeakModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WeakModel")
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path())
            .field("description", &self.description())
            .finish()
    }
}

/// The architectures whose vision tokens can be pruned between layers.
pub fn supported_archs() -> Vec<String> {
    ffi::supported_archs()
}

/// The devices that are named; `None`: all GPUs.
fn chosen(options: &ModelOptions) -> Result<Option<Vec<ffi::Device>>, Error> {
    let named = |names: &Vec<String>| names.iter().map(|name| device(name)).collect();
    options.devices.as_ref().map(named).transpose()
}

/// Loads a file through `load`, telling a stop by the caller from a failure.
pub(crate) fn load_native<T>(
    path: &Path,
    mut progress: impl FnMut(f32) -> ControlFlow<()>,
    load: impl FnOnce(&std::ffi::CStr, &mut dyn FnMut(f32) -> bool) -> Result<T, ffi::Error>,
) -> Result<T, Error> {
    let path: PathBuf = path.to_owned();
    let Some(c_path) = ffi::c_path(&path) else {
        return Err(Error::Load {
            path,
            reason: "the name holds a NUL byte".to_owned(),
        });
    };
    if ffi::Device::all().is_empty() {
        return Err(Error::NoBackend);
    }
    let mut stopped = false;
    let mut go_on = |done: f32| {
        stopped |= progress(done).is_break();
        !stopped
    };
    let loaded = load(&c_path, &mut go_on);
    if stopped {
        return Err(Error::LoadStopped { path });
    }
    loaded.map_err(|error| Error::Load {
        path,
        reason: error.message,
    })
}
