//! Image projectors: a vision encoder and what maps its output into the language model.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::image::{Image, check_size};
use super::picture_cache::{Encoded, PictureCache, Tile};
use crate::engine::cache::hash;
use crate::engine::model::{gpu, load_native, vision_shape};
use crate::engine::options::{FlashAttention, ProjectorOptions, VisionEncoder};
use crate::engine::prompt::template::RenderedTurn;
use crate::engine::prompt::{EncodedBy, EncodedPrompt, Part, Shown};
use crate::engine::{Error, Model, n_threads};
use crate::ffi::{self, Status};
use crate::gguf::{Gguf, ProjectorShape, open_projector};

/// An image projector (mmproj). It keeps its language model alive.
///
/// Encoding takes `&mut self`: the encoder's buffers belong to the projector.
pub struct Projector {
    native: ffi::Projector,
    model: Model,
    gguf: Gguf,
    shape: ProjectorShape,
    encoder: VisionEncoder,
    /// Layers that every image (or tile of one) goes through.
    n_encoder_layers: usize,
    load_time: Duration,
    cache: PictureCache,
}

impl Projector {
    /// Loads the projector of a model. `progress` hears how much is done, from 0 to 1, and may stop the loading.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is missing, damaged, or no projector; [`Error::ProjectorWidth`] for that of
    /// another model; [`Error::Load`] where llama.cpp refuses it; [`Error::LoadStopped`]; [`Error::OptionRange`].
    pub fn load(
        path: impl AsRef<Path>,
        model: &Model,
        options: &ProjectorOptions,
        progress: impl FnMut(f32) -> ControlFlow<()>,
    ) -> Result<Self, Error> {
        let began = Instant::now();
        let path = path.as_ref();
        options.validate()?;
        let (gguf, shape) = open_projector(path)?;
        let model_width = model.native().n_embd_inp() as u64;
        if let Some(projector_width) = shape.n_embd_out.filter(|width| *width != model_width) {
            let (projector, model) = (path.to_owned(), model.path().to_owned());
            return Err(Error::ProjectorWidth {
                projector,
                projector_width,
                model,
                model_width,
            });
        }
        let params = ffi::ProjectorParams {
            use_gpu: options.use_gpu,
            device: options.device.as_deref().map(gpu).transpose()?,
            n_threads: n_threads(options.n_threads),
            flash_attn: options.flash_attn.into(),
            image_min_tokens: options.image_min_tokens.map(|n| n as i32),
            image_max_tokens: options.image_max_tokens.map(|n| n as i32),
            upstream_encoder: options.encoder == VisionEncoder::Upstream,
        };
        let native = load_native(path, progress, |c_path, progress| {
            ffi::Projector::load(c_path, model.native(), &params, progress)
        })?;
        if !native.supports_vision() {
            return Err(Error::Load {
                path: path.to_owned(),
                reason: "it has no vision encoder".to_owned(),
            });
        }
        let n_encoder_layers = vision_shape(&gguf, &shape, options.encoder).n_layer.max(1);
        Ok(Self {
            native,
            model: model.clone(),
            gguf,
            shape,
            n_encoder_layers,
            encoder: options.encoder,
            load_time: began.elapsed(),
            cache: PictureCache::new(options.cache_bytes),
        })
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        self.gguf.path()
    }

    /// The file's metadata.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Sizes of the vision encoder.
    pub fn shape(&self) -> &ProjectorShape {
        &self.shape
    }

    /// The model it belongs to.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Which way pictures go through the vision encoder.
    pub fn encoder(&self) -> VisionEncoder {
        self.encoder
    }

    /// How long loading took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Vision tokens of an image of this size.
    ///
    /// # Errors
    /// [`Error::ImageSize`], or [`Error::Encode`] if it cannot be fitted to the encoder.
    pub fn image_tokens(&self, width: u32, height: u32) -> Result<usize, Error> {
        check_size(width, height)?;
        let failed = |error: ffi::Error| Error::Encode {
            index: 0,
            width,
            height,
            reason: error.message,
        };
        let bitmap = ffi::Bitmap::placeholder(width, height).map_err(failed)?;
        let chunks = self
            .native
            .tokenize(&[ffi::Part::Image(&bitmap)], true)
            .map_err(failed)?;
        let n_tokens = chunks.iter().map(|chunk| match chunk {
            ffi::Chunk::Text(_) => 0,
            ffi::Chunk::Image(image) => image.n_tokens(),
        });
        Ok(n_tokens.sum())
    }

    /// Encodes an image: its embeddings as the language model gets them, `[image_tokens][n_embd]`.
    ///
    /// # Errors
    /// [`Error::Encode`]
    pub fn encode(&mut self, image: &Image) -> Result<Vec<f32>, Error> {
        let turn = RenderedTurn {
            parts: vec![Part::Image],
            answer: None,
        };
        let prompt = self.encode_prompt(vec![turn], std::slice::from_ref(image), |_, _| {
            ControlFlow::Continue(())
        })?;
        Ok(prompt.map_or_else(Vec::new, |prompt| prompt.embd))
    }

    /// What reports say of the projector.
    pub(crate) fn facts(&self) -> EncodedBy {
        EncodedBy {
            path: self.path().to_owned(),
            load_time: self.load_time,
            shape: vision_shape(&self.gguf, &self.shape, self.encoder),
            n_tokens_per_image: self.shape.n_tokens_per_image.map(|n_tokens| n_tokens as usize),
        }
    }

    /// Whether the rows of an image see each other both ways.
    pub(crate) fn uses_non_causal(&self) -> bool {
        self.native.uses_non_causal()
    }

    /// Tokenizes a prompt and encodes its images. `on_encoded` hears how many of how many layers are done, starting with
    /// none, and may stop: then there is no prompt.
    ///
    /// # Errors
    /// [`Error::Tokenize`] and [`Error::Encode`].
    pub(crate) fn encode_prompt(
        &mut self,
        turns: Vec<RenderedTurn>,
        images: &[Image],
        mut on_encoded: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<EncodedPrompt>, Error> {
        let chunks = self.chunks(&turns, images)?;
        // A large image may be cut into tiles, each a chunk of its own.
        let n_chunks = chunks
            .iter()
            .flat_map(ffi::Chunks::iter)
            .filter(|chunk| matches!(chunk, ffi::Chunk::Image(_)))
            .count();
        let mut prompt = EncodedPrompt::new(self.model.native().n_pos_per_embd(), self.uses_non_causal());
        prompt.encoded_by = Some(self.facts());
        let n_steps = n_chunks * self.n_encoder_layers;
        let tiles = Tiles {
            images,
            hashes: images.iter().map(|image| self.hash_of(image)).collect(),
            n_chunks,
        };
        let (mut n_encoded, mut fresh) = (0, Vec::new());
        for (turn, chunks) in turns.into_iter().zip(&chunks) {
            for chunk in chunks.iter() {
                let image = match chunk {
                    ffi::Chunk::Text(tokens) => {
                        prompt.push_text(tokens);
                        continue;
                    }
                    ffi::Chunk::Image(image) => image,
                };
                let n_done = n_encoded * self.n_encoder_layers;
                if on_encoded(n_done, n_steps).is_break() {
                    return Ok(None);
                }
                let mut on_layer = |il: usize| on_encoded((n_done + il).min(n_steps), n_steps).is_continue();
                let place = tiles.place(n_encoded);
                if !self.push_tile(&mut prompt, &image, &place, &mut fresh, &mut on_layer)? {
                    return Ok(None);
                }
                n_encoded += 1;
            }
            let answer = turn.answer.map(|answer| self.model.answer_tokens(answer));
            prompt.end_turn(answer.transpose()?.as_deref());
        }
        if n_chunks > 0 && on_encoded(n_steps, n_steps).is_break() {
            return Ok(None);
        }
        Ok(Some(prompt))
    }

    /// The chunks of each turn.
    fn chunks(&self, turns: &[RenderedTurn], images: &[Image]) -> Result<Vec<ffi::Chunks>, Error> {
        let bitmap = |(i, image): (usize, &Image)| {
            let bitmap = ffi::Bitmap::rgb8(image.width(), image.height(), image.data());
            bitmap.map_err(|error| encode_error(i, image, &error))
        };
        let bitmaps = images
            .iter()
            .enumerate()
            .map(bitmap)
            .collect::<Result<Vec<_>, _>>()?;
        let mut next_bitmap = bitmaps.iter();
        let mut of_turn = |(i, turn): (usize, &RenderedTurn)| {
            let parts: Vec<_> = turn
                .parts
                .iter()
                .filter_map(|part| match part {
                    Part::Text(text) => Some(ffi::Part::Text(text)),
                    Part::Image => next_bitmap.next().map(ffi::Part::Image),
                })
                .collect();
            self.native
                .tokenize(&parts, i == 0)
                .map_err(|error| Error::Tokenize {
                    reason: error.message,
                })
        };
        turns.iter().enumerate().map(&mut of_turn).collect()
    }

    /// Of a picture's pixels, and of what they go through.
    fn hash_of(&self, image: &Image) -> u64 {
        let size = (image.width(), image.height());
        hash(&(
            size,
            image.data(),
            self.path(),
            self.encoder == VisionEncoder::Upstream,
        ))
    }

    /// Adds a picture or a tile of one to a prompt, from the cache if it is there. `fresh` holds the tiles of its picture
    /// that were encoded so far. Returns whether to go on.
    fn push_tile(
        &mut self,
        prompt: &mut EncodedPrompt,
        chunk: &ffi::ImageChunk<'_>,
        place: &Place<'_>,
        fresh: &mut Vec<Tile>,
        on_layer: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool, Error> {
        let n_embd_inp = self.model.native().n_embd_inp();
        let of_image = place.of_image.filter(|_| self.cache.is_on());
        if let Some((i, _)) = of_image
            && let Some(tile) = self.cache.get(place.image).and_then(|kept| kept.tiles.get(i))
            && tile.embd.len() == chunk.n_tokens() * n_embd_inp
        {
            prompt.push_image(chunk, &tile.embd, place.shown);
            prompt.saved_time += tile.took;
            return Ok(true);
        }
        let began = Instant::now();
        let embd = match self.native.encode(chunk, on_layer) {
            Ok(embd) => embd,
            Err(error) if error.status == Status::Aborted => return Ok(false),
            Err(error) => return Err(encode_error(place.index, place.image, &error)),
        };
        prompt.push_image(chunk, embd, place.shown);
        let Some((i, n_tiles)) = of_image else {
            return Ok(true);
        };
        fresh.push(Tile {
            embd: embd.to_vec(),
            took: began.elapsed(),
        });
        if i + 1 == n_tiles {
            let tiles = std::mem::take(fresh);
            if tiles.len() == n_tiles {
                let image = place.image.clone();
                self.cache.put(Encoded { image, tiles });
            }
        }
        Ok(true)
    }
}

/// The pictures of a prompt and the chunks that they became: a large one may be cut into tiles, which follow each other.
struct Tiles<'a> {
    images: &'a [Image],
    /// Of the images.
    hashes: Vec<u64>,
    n_chunks: usize,
}

/// What a chunk shows.
struct Place<'a> {
    /// Its picture; where several are cut into tiles, only likely so.
    image: &'a Image,
    /// The number of that.
    index: usize,
    /// Which of its picture's tiles it is, and of how many; `None` where it is not sure.
    of_image: Option<(usize, usize)>,
    shown: Shown,
}

impl<'a> Tiles<'a> {
    fn place(&self, i_chunk: usize) -> Place<'a> {
        let index = i_chunk * self.images.len() / self.n_chunks;
        let first = (index * self.n_chunks).div_ceil(self.images.len());
        Place {
            image: &self.images[index],
            index,
            of_image: match self.images.len() {
                1 => Some((i_chunk, self.n_chunks)),
                n_images if n_images == self.n_chunks => Some((0, 1)),
                _ => None,
            },
            shown: Shown {
                item: index,
                tile: i_chunk - first,
                // where it is not sure what a tile shows, it is all pictures together
                hash: match self.images.len() {
                    n_images if n_images == 1 || n_images == self.n_chunks => self.hashes[index],
                    _ => hash(&(&self.hashes, i_chunk)),
                },
            },
        }
    }
}

impl std::fmt::Debug for Projector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Projector")
            .field("path", &self.path())
            .field("encoder", &self.encoder)
            .finish()
    }
}

impl From<FlashAttention> for ffi::FlashAttention {
    fn from(flash_attn: FlashAttention) -> Self {
        match flash_attn {
            FlashAttention::Auto => Self::Auto,
            FlashAttention::On => Self::On,
            FlashAttention::Off => Self::Off,
        }
    }
}

fn encode_error(index: usize, image: &Image, error: &ffi::Error) -> Error {
    Error::Encode {
        index,
        width: image.width(),
        height: image.height(),
        reason: error.message.clone(),
    }
}
