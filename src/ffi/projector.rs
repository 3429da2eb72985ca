//! Pictures: the vision encoder and projector, and the chunks of a prompt that has images.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use super::backend::{Device, DeviceKind, reading_registry};
use super::callback::Progress;
use super::context::FlashAttention;
use super::model::Model;
use super::status::{Error, Status, ZeroIsOk, call};
use super::{log, sys};

/// Names as in `mtmd_context_params`.
#[derive(Debug, Clone)]
pub(crate) struct ProjectorParams {
    pub(crate) use_gpu: bool,
    pub(crate) n_threads: i32,
    pub(crate) flash_attn: FlashAttention,
    /// For models with dynamic resolution; `None` for the file's own.
    /// The GPU that it is encoded on, `None` for the first.
    pub(crate) device: Option<Device>,
    pub(crate) image_min_tokens: Option<i32>,
    pub(crate) image_max_tokens: Option<i32>,
    /// Stock llama.cpp's way through LLaVA's encoder instead of the right one.
    pub(crate) upstream_encoder: bool,
}

/// An owned `mtmd_context`.
pub(crate) struct Projector {
    ptr: NonNull<sys::mtmd_context>,
    /// From `Box::into_raw`; the projector's callback points to it. Touched only while `&mut self` is held.
    hook: NonNull<LayerHook>,
    /// Dropped after the projector, which uses its vocabulary.
    model: Arc<Model>,
}

// SAFETY: an mtmd_context has no thread affinity (mtmd.cpp@0.1.161: clip contexts, buffers, a vocabulary pointer).
unsafe impl Send for Projector {}

// SAFETY: what is called through `&Projector` takes a `const mtmd_context *` and reads: mtmd_tokenize_from_parts is
// documented thread-safe (mtmd.h), the others return a field or switch over one (mtmd.cpp:2177 ff.). Encoding writes
// and takes `&mut self`.
unsafe impl Sync for Projector {}

impl Drop for Projector {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from a successful load and `hook` from a Box; both are freed only here, the hook after the
        // projector that points to it. The model is still alive.
        unsafe {
            sys::mtmd_free(self.ptr.as_ptr());
            drop(Box::from_raw(self.hook.as_ptr()));
        }
    }
}

/// Hears of every layer that the encoder has computed.
struct LayerHook {
    /// A [`Progress`] while an image is being encoded, else NULL.
    progress: *mut c_void,
    /// Layers computed.
    n_done: usize,
    /// Whether the listener asked to stop.
    is_stopped: bool,
}

impl LayerHook {
    const IDLE: Self = Self {
        progress: std::ptr::null_mut(),
        n_done: 0,
        is_stopped: false,
    };

    /// ggml's question before a node whether its result is wanted, and after a wanted one whether to go on. Layers end
    /// with a node named `layer_out-<il>` (clip-graph and models/llava.cpp@0.1.161); between two of them nothing is
    /// fused, so asking for them changes no result.
    ///
    /// # Safety
    /// `tensor` is a live node and `user_data` the hook of the projector that computes.
    unsafe extern "C" fn on_node(tensor: *mut sys::ggml_tensor, ask: bool, user_data: *mut c_void) -> bool {
        // SAFETY: by this function's contract; the encoding that runs holds the projector's `&mut self`.
        let this = unsafe { &mut *user_data.cast::<Self>() };
        // SAFETY: no preconditions.
        unsafe { sys::vp_computing() };
        if this.progress.is_null() {
            return !ask;
        }
        if ask {
            // SAFETY: the tensor is live; ggml keeps names NUL-terminated (ggml.c ggml_set_name).
            let name = unsafe { CStr::from_ptr((*tensor).name.as_ptr()) };
            return name.to_bytes().starts_with(b"layer_out-");
        }
        this.n_done += 1;
        // SAFETY: `progress` is not NULL, hence the Progress on the stack of `Projector::encode`.
        let go_on = unsafe { Progress::callback(this.n_done as f32, this.progress) };
        this.is_stopped |= !go_on;
        go_on
    }
}

/// Pixels for the encoder, or just the size of a picture.
pub(crate) struct Bitmap {
    ptr: NonNull<sys::mtmd_bitmap>,
}

impl Drop for Bitmap {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from vp_bitmap_init and is freed only here.
        unsafe { sys::mtmd_bitmap_free(self.ptr.as_ptr()) }
    }
}

impl Bitmap {
    /// A copy of RGB pixels, `[height][width][3]`.
    pub(crate) fn rgb8(width: u32, height: u32, data: &[u8]) -> Result<Self, Error> {
        if data.len() as u64 != u64::from(width) * u64::from(height) * 3 {
            let message = format!("{width}x{height} pixels with {} bytes", data.len());
            return Err(Error {
                call: "vp_bitmap_init",
                status: Status::BadArgument,
                message,
            });
        }
        // SAFETY: `data` has width * height * 3 bytes, checked above, and is copied.
        let ptr = call("vp_bitmap_init", || unsafe {
            sys::vp_bitmap_init(width, height, data.as_ptr())
        })?;
        Ok(Self { ptr })
    }

    /// A picture without pixels, of which only tokens can be counted.
    pub(crate) fn placeholder(width: u32, height: u32) -> Result<Self, Error> {
        // SAFETY: mtmd.h documents NULL data as a placeholder.
        let ptr = call("vp_bitmap_init", || unsafe {
            sys::vp_bitmap_init(width, height, std::ptr::null())
        })?;
        Ok(Self { ptr })
    }
}

/// A piece of a prompt.
pub(crate) enum Part<'a> {
    /// Text; special tokens are recognised.
    Text(&'a str),
    /// A picture.
    Image(&'a Bitmap),
}

impl Projector {
    /// The first GPU, of this machine.
    fn usual_device() -> Option<Device> {
        Device::all()
            .into_iter()
            .find(|device| device.kind() == DeviceKind::Gpu)
    }

    /// Loads a projector. `progress` hears `0.0 ..= 1.0` and returns whether to go on.
    pub(crate) fn load(
        path: &CStr,
        model: &Arc<Model>,
        params: &ProjectorParams,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self, Error> {
        log::install();
        let mut progress = Progress::new(progress);
        // SAFETY: no preconditions.
        let mut c_params = unsafe { sys::mtmd_context_params_default() };
        let device = params.device.or_else(Self::usual_device);
        if params.use_gpu {
            device.iter().for_each(|device| device.open());
        }
        c_params.use_gpu = params.use_gpu && device.is_some();
        c_params.device = device.map_or(std::ptr::null_mut(), Device::as_ptr);
        c_params.n_threads = params.n_threads;
        c_params.print_timings = false;
        c_params.flash_attn_type = match params.flash_attn {
            FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        };
        c_params.image_min_tokens = params.image_min_tokens.unwrap_or(-1);
        c_params.image_max_tokens = params.image_max_tokens.unwrap_or(-1);
        let hook = NonNull::from(Box::leak(Box::new(LayerHook::IDLE)));
        c_params.cb_eval = Some(LayerHook::on_node);
        c_params.cb_eval_user_data = hook.as_ptr().cast();
        c_params.progress_callback = Some(Progress::callback);
        c_params.progress_callback_user_data = progress.user_data();
        let encoder = if params.upstream_encoder {
            sys::VP_VISION_ENCODER_UPSTREAM
        } else {
            sys::VP_VISION_ENCODER_REFERENCE
        };
        let _reading = reading_registry();
        // SAFETY: `path` is NUL-terminated, the model is alive, the progress callback's data outlives the call and is
        // not touched meanwhile. The choice of encoder holds for projectors that this thread loads, which it does next.
        let loaded = call("vp_mtmd_init_from_file", || unsafe {
            sys::vp_set_vision_encoder(encoder);
            sys::vp_mtmd_init_from_file(path.as_ptr(), model.as_ptr(), &c_params)
        });
        let ptr = match loaded {
            Ok(ptr) => ptr,
            Err(error) => {
                // SAFETY: from the Box above; the projector that would have pointed to it was not made.
                drop(unsafe { Box::from_raw(hook.as_ptr()) });
                progress.finish();
                return Err(error);
            }
        };
        let this = Self {
            ptr,
            hook,
            model: Arc::clone(model),
        };
        progress.finish();
        Ok(this)
    }

    /// Whether it takes pictures (and not just sound).
    pub(crate) fn supports_vision(&self) -> bool {
        // SAFETY: `ptr` is live.
        unsafe { sys::mtmd_support_vision(self.ptr.as_ptr()) }
    }

    /// Whether the rows of an image see each other both ways.
    pub(crate) fn uses_non_causal(&self) -> bool {
        // SAFETY: `ptr` is live; NULL asks about images.
        unsafe { sys::mtmd_decode_use_non_causal(self.ptr.as_ptr(), std::ptr::null()) }
    }

    /// The chunks of a prompt: text tokens and images in turn; at its beginning with BOS and EOS as the model's metadata
    /// says.
    pub(crate) fn tokenize(&self, parts: &[Part<'_>], is_first: bool) -> Result<Chunks, Error> {
        let texts: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(sys::mtmd_input_text {
                    text: text.as_ptr().cast(),
                    text_len: text.len(),
                    add_special: false,
                    parse_special: true,
                }),
                Part::Image(_) => None,
            })
            .collect();
        let c_parts: Vec<_> = parts
            .iter()
            .zip(&texts)
            .map(|(part, text)| sys::mtmd_input_part {
                text: text.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                bitmap: match part {
                    Part::Text(_) => std::ptr::null(),
                    Part::Image(bitmap) => bitmap.ptr.as_ptr(),
                },
            })
            .collect();
        let pointers: Vec<*const sys::mtmd_input_part> = c_parts.iter().map(std::ptr::from_ref).collect();
        let new_list = || {
            // SAFETY: no preconditions.
            unsafe { sys::vp_input_chunks_init() }
        };
        let chunks = Chunks {
            ptr: call("vp_input_chunks_init", new_list)?,
        };
        call("vp_tokenize_from_parts", || {
            // SAFETY: `ptr` is live; each part has exactly one of text and bitmap, and all of them outlive the call.
            ZeroIsOk(unsafe {
                sys::vp_tokenize_from_parts(
                    self.ptr.as_ptr(),
                    chunks.ptr.as_ptr(),
                    pointers.as_ptr(),
                    pointers.len(),
                    is_first,
                )
            })
        })?;
        Ok(chunks)
    }

    /// Encodes an image: embeddings `[n_tokens][n_embd_inp]`, valid until the next one. `on_layer` hears how many layers
    /// of the encoder are done and says whether to go on; if not, the status is [`Status::Aborted`].
    pub(crate) fn encode(
        &mut self,
        image: &ImageChunk<'_>,
        on_layer: &mut dyn FnMut(usize) -> bool,
    ) -> Result<&[f32], Error> {
        let mut closure = |n_done: f32| on_layer(n_done as usize);
        let mut progress = Progress::new(&mut closure);
        let (ptr, hook) = (self.ptr.as_ptr(), self.hook.as_ptr());
        // SAFETY: the hook is live, and nothing but the encoding below reads it.
        unsafe {
            *hook = LayerHook {
                progress: progress.user_data(),
                ..LayerHook::IDLE
            }
        };
        let encoded = call("vp_encode_chunk", || {
            // SAFETY: both are live, and nothing else uses the projector.
            ZeroIsOk(unsafe { sys::vp_encode_chunk(ptr, image.chunk) })
        });
        // SAFETY: the encoding is over, so nothing else uses the hook.
        let is_stopped = unsafe { std::ptr::replace(hook, LayerHook::IDLE) }.is_stopped;
        progress.finish();
        if is_stopped {
            let message = "stopped by the caller".to_owned();
            return Err(Error {
                call: "vp_encode_chunk",
                status: Status::Aborted,
                message,
            });
        }
        encoded?;
        let n_values = image.n_tokens() * self.model.n_embd_inp();
        // SAFETY: mtmd.h promises n_tokens * n_embd_inp floats of the model that the projector was loaded for after a
        // successful encoding; the next one needs `&mut self` and so ends the borrow.
        Ok(unsafe { std::slice::from_raw_parts(sys::mtmd_get_output_embd(ptr), n_values) })
    }
}

/// An owned list of chunks.
pub(crate) struct Chunks {
    ptr: NonNull<sys::mtmd_input_chunks>,
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from vp_input_chunks_init and is freed only here; chunks borrow from `self`.
        unsafe { sys::mtmd_input_chunks_free(self.ptr.as_ptr()) }
    }
}

/// A piece of a tokenized prompt.
pub(crate) enum Chunk<'a> {
    /// Text tokens.
    Text(&'a [i32]),
    /// An image, or a tile of one.
    Image(ImageChunk<'a>),
}

/// An image, or a tile of one, ready to be encoded.
#[derive(Clone, Copy)]
pub(crate) struct ImageChunk<'a> {
    chunk: *const sys::mtmd_input_chunk,
    owner: PhantomData<&'a Chunks>,
}

impl Chunks {
    /// The chunks in order. Sound is never among them: only text and bitmaps go in.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Chunk<'_>> {
        // SAFETY: `ptr` is live.
        let n = unsafe { sys::mtmd_input_chunks_size(self.ptr.as_ptr()) };
        (0..n).map(|i| {
            // SAFETY: `i` is below the size; the chunk belongs to `self` and is never changed after tokenization.
            let chunk = unsafe { sys::mtmd_input_chunks_get(self.ptr.as_ptr(), i) };
            let mut n_tokens = 0;
            // SAFETY: the chunk is live. The tokens belong to it; for an image NULL and 0 come back.
            unsafe {
                let tokens = sys::mtmd_input_chunk_get_tokens_text(chunk, &mut n_tokens);
                if sys::mtmd_input_chunk_get_type(chunk) == sys::MTMD_INPUT_CHUNK_TYPE_TEXT {
                    Chunk::Text(if n_tokens == 0 {
                        &[]
                    } else {
                        std::slice::from_raw_parts(tokens, n_tokens)
                    })
                } else {
                    Chunk::Image(ImageChunk {
                        chunk,
                        owner: PhantomData,
                    })
                }
            }
        })
    }
}

impl ImageChunk<'_> {
    /// Tokens the language model sees.
    pub(crate) fn n_tokens(&self) -> usize {
        // SAFETY: the chunk is live: it borrows from its list.
        unsafe { sys::mtmd_input_chunk_get_n_tokens(self.chunk) }
    }

    /// By how much the position of what follows advances.
    pub(crate) fn n_pos(&self) -> i32 {
        // SAFETY: as above.
        unsafe { sys::mtmd_input_chunk_get_n_pos(self.chunk) }
    }

    /// For M-RoPE: the four positions of each token, `[n_tokens][4]` in the order time, y, x, other, when the image
    /// begins at position `pos_0`.
    pub(crate) fn mrope_positions(&self, pos_0: i32) -> Vec<[i32; 4]> {
        // SAFETY: the chunk is live: it borrows from its list.
        let image = unsafe { sys::mtmd_input_chunk_get_tokens_image(self.chunk) };
        // The list holds no sound, so this is an image.
        assert!(!image.is_null(), "a chunk that is neither text nor image");
        let position = |i| {
            // SAFETY: `image` is part of the live chunk, and `i` is one of its tokens.
            let pos = unsafe { sys::mtmd_image_tokens_get_decoder_pos(image, pos_0, i) };
            [pos.t as i32, pos.y as i32, pos.x as i32, pos.z as i32]
        };
        (0..self.n_tokens()).map(position).collect()
    }
}
