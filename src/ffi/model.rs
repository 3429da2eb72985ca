//! A language model's weights and vocabulary.

use std::ffi::{CStr, CString, c_char};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::backend::{Device, DeviceKind, reading_registry};
use super::callback::Progress;
use super::status::{Error, Status, VpStatus, call, text};
use super::{log, sys};

/// How a model is loaded; names as in `llama_model_params`.
#[derive(Debug, Clone)]
pub(crate) struct ModelParams {
    /// Layers kept on the GPU, negative for all.
    pub(crate) n_gpu_layers: i32,
    /// The devices that they are kept on, `None` for all GPUs.
    pub(crate) devices: Option<Vec<Device>>,
    /// How the layers are split over them.
    pub(crate) split_mode: SplitMode,
    /// The one that holds the whole model, if it is not split.
    pub(crate) main_gpu: i32,
    /// The share of each, in any unit; empty: by free memory.
    pub(crate) tensor_split: Vec<f32>,
    pub(crate) use_mmap: bool,
    pub(crate) use_mlock: bool,
}

/// How layers are split over devices; names as in `enum llama_split_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SplitMode {
    None,
    Layer,
    Row,
}

/// An owned `llama_model`.
pub(crate) struct Model {
    ptr: NonNull<sys::llama_model>,
    /// Held while a context is created: see the comment on [`Sync`].
    creation: Mutex<()>,
}

// SAFETY: a llama_model has no thread affinity (llama-model.h@0.1.161: tensors, hparams, vocab and buffers; no
// thread-local state), and llama_model_free may run on any thread.
unsafe impl Send for Model {}

// SAFETY: after loading, every function called through `&Model` takes a `const llama_model *` or `const llama_vocab *`
// and reads (llama-model.cpp, llama-vocab.cpp@0.1.161; llama.h calls tokenization thread-safe). The one function that
// takes it mutably is llama_init_from_model, which may write hparams.n_ctx_train when a custom YaRN scale is asked for
// (llama-context.cpp:3894): Context never asks for one, and holds `creation` besides.
unsafe impl Sync for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from a successful load, is freed only here, and every Context and Projector made from it
        // holds an Arc of this Model, so none is left.
        unsafe { sys::llama_model_free(self.ptr.as_ptr()) }
    }
}

impl Model {
    /// Loads a model. `progress` hears `0.0 ..= 1.0` and returns whether to go on.
    pub(crate) fn load(
        path: &CStr,
        params: &ModelParams,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self, Error> {
        log::install();
        let mut progress = Progress::new(progress);
        open(params.devices.as_deref());
        // SAFETY: no preconditions.
        let mut c_params = unsafe { sys::llama_model_default_params() };
        c_params.n_gpu_layers = params.n_gpu_layers;
        let mut devices = params.devices.as_deref().map(null_terminated);
        if let Some(devices) = &mut devices {
            c_params.devices = devices.as_mut_ptr();
        }
        c_params.load_mode = load_mode(params.use_mmap, params.use_mlock);
        c_params.split_mode = match params.split_mode {
            SplitMode::None => sys::LLAMA_SPLIT_MODE_NONE,
            SplitMode::Layer => sys::LLAMA_SPLIT_MODE_LAYER,
            SplitMode::Row => sys::LLAMA_SPLIT_MODE_ROW,
        };
        c_params.main_gpu = params.main_gpu;
        // SAFETY: no preconditions.
        let shares = of_length(&params.tensor_split, unsafe { sys::llama_max_devices() });
        c_params.tensor_split = shares.as_ptr();
        let _reading = reading_registry();
        c_params.progress_callback = Some(Progress::callback);
        c_params.progress_callback_user_data = progress.user_data();
        // SAFETY: `path` is NUL-terminated; the progress callback's data outlives the call and is not touched
        // meanwhile; so do the list of devices, which ends with a null pointer, and that of shares, which has as many as
        // llama.cpp reads; everything else in the parameters is upstream's default.
        let loaded = call("vp_model_load_from_file", || unsafe {
            sys::vp_model_load_from_file(path.as_ptr(), c_params)
        });
        progress.finish();
        Ok(Self {
            ptr: loaded?,
            creation: Mutex::new(()),
        })
    }

    /// One that llama.cpp has made in another way.
    #[cfg(any(test, fuzzing))]
    pub(super) fn from_raw(ptr: NonNull<sys::llama_model>) -> Self {
        Self {
            ptr,
            creation: Mutex::new(()),
        }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.ptr.as_ptr()
    }

    /// To be held while a context is created from this model.
    pub(super) fn creation(&self) -> MutexGuard<'_, ()> {
        self.creation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vocab(&self) -> *const sys::llama_vocab {
        // SAFETY: `ptr` is a live model; the vocabulary is part of it.
        unsafe { sys::llama_model_get_vocab(self.as_ptr()) }
    }

    /// Whether the layers can be run in ranges on a staged KV cache; the error says why not.
    pub(crate) fn supports_ranges(&self) -> Result<(), Error> {
        call("vp_model_supports_ranges", || {
            // SAFETY: `ptr` is a live model.
            VpStatus(unsafe { sys::vp_model_supports_ranges(self.as_ptr()) })
        })
    }

    /// Whether all layers are computed on the CPU of this machine.
    pub(crate) fn is_on_cpu(&self) -> bool {
        // SAFETY: `ptr` is a live model.
        unsafe { sys::vp_model_is_on_cpu(self.as_ptr()) }
    }

    /// Whether layers keep a state in place of a cell for each row.
    pub(crate) fn has_recurrent_layers(&self) -> bool {
        // SAFETY: `ptr` is a live model.
        unsafe { sys::llama_model_is_recurrent(self.as_ptr()) || sys::llama_model_is_hybrid(self.as_ptr()) }
    }

    /// Transformer layers.
    pub(crate) fn n_layer(&self) -> usize {
        // SAFETY: `ptr` is a live model.
        count(unsafe { sys::llama_model_n_layer(self.as_ptr()) })
    }

    /// Width of an input embedding.
    pub(crate) fn n_embd(&self) -> usize {
        // SAFETY: the model is alive; a field is read.
        count(unsafe { sys::llama_model_n_embd(self.as_ptr()) })
    }

    /// Width of an embedding that takes the place of a token.
    pub(crate) fn n_embd_inp(&self) -> usize {
        // SAFETY: `ptr` is a live model.
        count(unsafe { sys::llama_model_n_embd_inp(self.as_ptr()) })
    }

    /// Context length the model was trained for.
    pub(crate) fn n_ctx_train(&self) -> u32 {
        // SAFETY: `ptr` is a live model.
        unsafe { sys::llama_model_n_ctx_train(self.as_ptr()) }
            .try_into()
            .unwrap_or(0)
    }

    /// Positions per row: 1, or 4 with M-RoPE.
    pub(crate) fn n_pos_per_embd(&self) -> usize {
        // SAFETY: `ptr` is a live model.
        count(unsafe { sys::vp_n_pos_per_embd(self.as_ptr()) }).max(1)
    }

    /// Size of all tensors.
    pub(crate) fn size_bytes(&self) -> u64 {
        // SAFETY: `ptr` is a live model.
        unsafe { sys::llama_model_size(self.as_ptr()) }
    }

    /// Number of weights.
    pub(crate) fn n_params(&self) -> u64 {
        // SAFETY: `ptr` is a live model.
        unsafe { sys::llama_model_n_params(self.as_ptr()) }
    }

    /// Architecture, size and quantization in words, such as "llama 7B Q4_K - Medium".
    pub(crate) fn description(&self) -> String {
        sized_text(|buf, len| {
            // SAFETY: `ptr` is a live model and `buf` has `len` writable bytes.
            unsafe { sys::llama_model_desc(self.as_ptr(), buf, len) }
        })
    }

    /// Whether the model only decodes, which is the only kind that can answer here.
    pub(crate) fn is_decoder_only(&self) -> bool {
        // SAFETY: `ptr` is a live model.
        unsafe {
            sys::llama_model_has_decoder(self.as_ptr())
                && !sys::llama_model_has_encoder(self.as_ptr())
                && !sys::llama_model_is_diffusion(self.as_ptr())
        }
    }

    /// The model's own chat template, in Jinja.
    pub(crate) fn chat_template(&self) -> Option<String> {
        // SAFETY: `ptr` is a live model; NULL asks for the default template; the string belongs to the model.
        unsafe { text(sys::llama_model_chat_template(self.as_ptr(), std::ptr::null())) }
    }

    /// Whether there is a tokenizer.
    pub(crate) fn has_vocab(&self) -> bool {
        // SAFETY: the vocabulary belongs to the live model.
        unsafe { sys::llama_vocab_type(self.vocab()) != sys::LLAMA_VOCAB_TYPE_NONE }
    }

    /// Tokens in the vocabulary.
    pub(crate) fn n_vocab(&self) -> usize {
        // SAFETY: the vocabulary belongs to the live model.
        count(unsafe { sys::llama_vocab_n_tokens(self.vocab()) })
    }

    /// Whether prompts start with the BOS token.
    pub(crate) fn adds_bos(&self) -> bool {
        // SAFETY: the vocabulary belongs to the live model.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab()) }
    }

    /// A token that prompts are to begin or end with but that the vocabulary lacks: llama.cpp asserts that it is there
    /// (llama-vocab.cpp:595 ff.).
    pub(crate) fn missing_special(&self) -> Option<&'static str> {
        let vocab = self.vocab();
        // SAFETY: the vocabulary belongs to the live model.
        let (lacks_bos, lacks_eos) = unsafe {
            (
                sys::llama_vocab_get_add_bos(vocab) && sys::llama_vocab_bos(vocab) == sys::LLAMA_TOKEN_NULL,
                sys::llama_vocab_get_add_eos(vocab) && sys::llama_vocab_eos(vocab) == sys::LLAMA_TOKEN_NULL,
            )
        };
        match (lacks_bos, lacks_eos) {
            (true, _) => Some("prompts are to begin with BOS, but there is no such token"),
            (_, true) => Some("prompts are to end with EOS, but there is no such token"),
            _ => None,
        }
    }

    /// The text of the BOS token, empty if there is none.
    pub(crate) fn bos_text(&self) -> String {
        // SAFETY: the vocabulary belongs to the live model.
        self.special_text(unsafe { sys::llama_vocab_bos(self.vocab()) })
    }

    /// The text of the EOS token, empty if there is none.
    pub(crate) fn eos_text(&self) -> String {
        // SAFETY: the vocabulary belongs to the live model.
        self.special_text(unsafe { sys::llama_vocab_eos(self.vocab()) })
    }

    fn special_text(&self, token: i32) -> String {
        String::from_utf8_lossy(&self.piece(token, true)).into_owned()
    }

    /// Whether the token ends generation.
    pub(crate) fn is_end_of_generation(&self, token: i32) -> bool {
        // SAFETY: the vocabulary belongs to the live model; the id is only looked up in a set (llama-vocab.cpp is_eog).
        unsafe { sys::llama_vocab_is_eog(self.vocab(), token) }
    }

    /// The bytes of a token, which need not be whole characters. Empty for an id outside the vocabulary.
    ///
    /// `special`: render special tokens too.
    pub(crate) fn piece(&self, token: i32, special: bool) -> Vec<u8> {
        if token < 0 || token as usize >= self.n_vocab() {
            return Vec::new();
        }
        let mut buf = vec![0u8; 32];
        loop {
            let capacity = i32::try_from(buf.len()).unwrap_or(i32::MAX);
            // SAFETY: the id is inside the vocabulary, and `buf` has `capacity` writable bytes.
            let n = unsafe {
                sys::llama_token_to_piece(self.vocab(), token, buf.as_mut_ptr().cast(), capacity, 0, special)
            };
            if let Ok(len) = usize::try_from(n) {
                buf.truncate(len);
                return buf;
            }
            buf.resize(n.unsigned_abs() as usize, 0);
        }
    }

    /// The tokens of a text.
    ///
    /// `add_special`: with BOS and EOS as the metadata says; `parse_special`: special tokens are recognised.
    pub(crate) fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<i32>, Error> {
        let too_long = || Error {
            call: "vp_tokenize",
            status: Status::BadArgument,
            message: format!("a text of {} bytes is too long", text.len()),
        };
        let n_bytes = i32::try_from(text.len()).map_err(|_| too_long())?;
        let mut tokens = vec![0i32; text.len() + 2];
        loop {
            let capacity = i32::try_from(tokens.len()).map_err(|_| too_long())?;
            let mut n = 0;
            call("vp_tokenize", || {
                // SAFETY: `text` has `n_bytes` bytes and `tokens` room for `capacity`; `n` is a local.
                VpStatus(unsafe {
                    sys::vp_tokenize(
                        self.vocab(),
                        text.as_ptr().cast(),
                        n_bytes,
                        tokens.as_mut_ptr(),
                        capacity,
                        add_special,
                        parse_special,
                        &mut n,
                    )
                })
            })?;
            match n {
                0.. => {
                    tokens.truncate(n as usize);
                    return Ok(tokens);
                }
                i32::MIN => return Err(too_long()),
                _ => tokens.resize(n.unsigned_abs() as usize, 0),
            }
        }
    }
}

impl Model {
    /// The rows of the token embedding for some tokens: `[tokens][n_embd]`.
    pub(crate) fn token_embd(&self, tokens: &[i32]) -> Result<Vec<f32>, Error> {
        let mut embd = vec![f32::NAN; tokens.len() * self.n_embd()];
        let n_tokens = i32::try_from(tokens.len()).map_err(|_| Error {
            call: "vp_token_embd",
            status: Status::BadArgument,
            message: format!("{} tokens are too many", tokens.len()),
        })?;
        call("vp_token_embd", || {
            // SAFETY: the model is alive; `embd` has room for a row of n_embd floats per token.
            VpStatus(unsafe {
                sys::vp_token_embd(self.as_ptr(), tokens.as_ptr(), n_tokens, embd.as_mut_ptr())
            })
        })?;
        Ok(embd)
    }
}

/// The architectures whose layers can be run in ranges.
pub(crate) fn supported_archs() -> Vec<String> {
    let mut archs = Vec::new();
    // SAFETY: visipruner.h promises a NULL-terminated list of NUL-terminated strings; it is static.
    unsafe {
        let mut entry = sys::vp_supported_archs();
        while !entry.is_null() {
            let Some(arch) = text(*entry) else { break };
            archs.push(arch);
            entry = entry.add(1);
        }
    }
    archs
}

/// A path as C wants it. `None` if it holds a NUL byte, which no file name does.
pub(crate) fn c_path(path: &std::path::Path) -> Option<CString> {
    #[cfg(unix)]
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec();
    #[cfg(not(unix))]
    let bytes = path.to_string_lossy().into_owned().into_bytes();
    CString::new(bytes).ok()
}

/// A list of devices as `llama_model_params` takes it.
/// Opens the devices that a model is split over; `None`: all that llama.cpp takes.
fn open(devices: Option<&[Device]>) {
    let is_taken = |device: &Device| matches!(device.kind(), DeviceKind::Gpu | DeviceKind::Remote);
    let all = || Device::all().into_iter().filter(is_taken).collect();
    let devices = devices.map_or_else(all, <[Device]>::to_vec);
    devices.into_iter().for_each(Device::open);
}

/// Shares, 0 for what is not said.
fn of_length(shares: &[f32], n: usize) -> Vec<f32> {
    let mut shares = shares.to_vec();
    shares.resize(n, 0.0);
    shares
}

fn null_terminated(devices: &[Device]) -> Vec<sys::ggml_backend_dev_t> {
    let devices = devices.iter().map(|device| device.as_ptr());
    devices.chain([std::ptr::null_mut()]).collect()
}

fn load_mode(use_mmap: bool, use_mlock: bool) -> sys::llama_load_mode {
    match (use_mmap, use_mlock) {
        (true, true) => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
        (true, false) => sys::LLAMA_LOAD_MODE_MMAP,
        (false, true) => sys::LLAMA_LOAD_MODE_MLOCK,
        (false, false) => sys::LLAMA_LOAD_MODE_NONE,
    }
}

fn count(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// A text of unknown length: `write(buf, len)` returns the length it has or would have had.
fn sized_text(mut write: impl FnMut(*mut c_char, usize) -> i32) -> String {
    let mut buf = vec![0u8; 128];
    let len = count(write(buf.as_mut_ptr().cast(), buf.len()));
    if len >= buf.len() {
        buf.resize(len + 1, 0);
        write(buf.as_mut_ptr().cast(), buf.len());
    }
    buf.truncate(len);
    String::from_utf8_lossy(&buf).into_owned()
}
