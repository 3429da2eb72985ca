//! Image projectors: a vision encoder and what maps its output into the language model.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::fit::{Fit, Size};
use super::image::{Image, check_size};
use super::marks;
use super::picture_cache::{Encoded, PictureCache, Tile};
use crate::engine::cache::hash;
use crate::engine::devices::device;
use crate::engine::model::{load_native, vision_shape};
use crate::engine::options::{FlashAttention, MAX_IMAGE_TOKENS, ProjectorOptions, VisionEncoder};
use crate::engine::prompt::template::RenderedTurn;
use crate::engine::prompt::{EncodedBy, EncodedPrompt, Part, PromptSize, Shown};
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
    /// How pictures are fitted to it; `None` where mtmd does it.
    fit: Option<Fit>,
    /// Layers that every image (or tile of one) goes through.
    n_encoder_layers: usize,
    load_time: Duration,
    cache: PictureCache,
    /// What is wrong with the vocabulary, though not so that nothing could be computed.
    warning: Option<String>,
}

impl Projector {
    /// Loads the projector of a model. `progress` hears how much is done, from 0 to 1, and may stop the loading.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is missing, damaged, or no projector; [`Error::ProjectorWidth`] for that of
    /// another model; [`Error::PictureToken`] for that of one with another vocabulary; [`Error::Load`] where llama.cpp refuses it; [`Error::LoadStopped`]; [`Error::OptionRange`].
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
        if let Some(token) = marks::missing_required(&shape.projector_type, model.native()) {
            return Err(Error::PictureToken {
                projector: path.to_owned(),
                projector_type: shape.projector_type,
                token,
                model: model.path().to_owned(),
            });
        }
        let fit = Fit::of(&gguf, &shape, options)?.filter(|_| options.encoder == VisionEncoder::Reference);
        let (image_min_tokens, image_max_tokens) = match fit {
            // mtmd leaves a picture that was fitted as it is
            Some(_) => (Some(1), Some(MAX_IMAGE_TOKENS)),
            None => (options.image_min_tokens, options.image_max_tokens),
        };
        let params = ffi::ProjectorParams {
            use_gpu: options.use_gpu,
            device: options.device.as_deref().map(device).transpose()?,
            n_threads: n_threads(options.n_threads),
            flash_attn: options.flash_attn.into(),
            image_min_tokens: image_min_tokens.map(|n| n as i32),
            image_max_tokens: image_max_tokens.map(|n| n as i32),
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
        let missing = marks::missing_expected(&shape.projector_type, model.native());
        let n_encoder_layers = vision_shape(&gguf, &shape, options.encoder).n_layer.max(1);
        Ok(Self {
            native,
            model: model.clone(),
            gguf,
            warning: missing.map(|token| {
                format!(
                    "the model's vocabulary lacks {token}, which stands beside the pictures of {} projectors: it is \
                     written in letters. Is this projector the model's own?",
                    shape.projector_type
                )
            }),
            shape,
            fit,
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
        let failed = |reason: String| Error::Encode {
            index: 0,
            width,
            height,
            reason,
        };
        let picture = Size { width, height };
        let Some(fit) = &self.fit else {
            return Ok(self.tiles_of_mtmd(picture).map_err(failed)?.into_iter().sum());
        };
        let (n_tiles, size) = fit.tile_size(picture).map_err(failed)?;
        let per_tile: usize = self.tiles_of_mtmd(size).map_err(failed)?.into_iter().sum();
        Ok(match fit.map(picture, per_tile) {
            Some(map) => per_tile + map.n_rows(),
            None => n_tiles * per_tile,
        })
    }

    /// A picture as the vision encoder gets it: one tile, or several in the order of their rows in the prompt. `None` where
    /// llama.cpp fits it: with [`VisionEncoder::Upstream`], and for families that are not fitted here.
    ///
    /// # Errors
    /// [`Error::Encode`] for a picture that the model does not take.
    pub fn fitted(&self, image: &Image) -> Result<Option<Vec<Image>>, Error> {
        let tiles = self.fit.as_ref().map(|fit| fit.tiles(image)).transpose();
        tiles.map_err(|reason| encode_error(0, image, reason))
    }

    /// The tiles that mtmd makes of a picture: tokens of each.
    fn tiles_of_mtmd(&self, size: Size) -> Result<Vec<usize>, String> {
        let words = |error: ffi::Error| error.message;
        let bitmap = ffi::Bitmap::placeholder(size.width, size.height).map_err(words)?;
        let part = ffi::Part::Image(&bitmap);
        let chunks = self.native.tokenize(&[part], true).map_err(words)?;
        let n_tokens = chunks.iter().filter_map(|chunk| match chunk {
            ffi::Chunk::Text(_) => None,
            ffi::Chunk::Image(image) => Some(image.n_tokens()),
        });
        Ok(n_tokens.collect())
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

    /// What is to be said of every prompt with a picture.
    pub(crate) fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
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
        let pictures: Vec<_> = images
            .iter()
            .enumerate()
            .map(|(i, image)| self.picture(i, image))
            .collect::<Result<_, _>>()?;
        let chunks = self.chunks(&turns, &pictures)?;
        let n_tiles: usize = pictures.iter().map(|picture| picture.n_tiles).sum();
        let n_steps = n_tiles * self.n_encoder_layers;
        let mut prompt = EncodedPrompt::new(self.model.native().n_pos_per_embd(), self.uses_non_causal());
        prompt.encoded_by = Some(self.facts());
        let (mut n_encoded, mut coming) = (0, pictures.iter());
        let mut open: Option<Open<'_>> = None;
        for (turn, chunks) in turns.into_iter().zip(&chunks) {
            for chunk in chunks.iter() {
                let chunk = match chunk {
                    // mtmd takes the tiles for pictures of their own, and puts what stands between two of them there
                    ffi::Chunk::Text(_) if open.is_some() && self.fit.is_some() => continue,
                    ffi::Chunk::Text(tokens) => {
                        prompt.push_text(tokens);
                        continue;
                    }
                    ffi::Chunk::Image(chunk) => chunk,
                };
                let Some(mut picture) = open.take().or_else(|| coming.next().map(Open::new)) else {
                    continue;
                };
                let n_done = n_encoded * self.n_encoder_layers;
                if on_encoded(n_done, n_steps).is_break() {
                    return Ok(None);
                }
                let mut on_layer = |il: usize| on_encoded((n_done + il).min(n_steps), n_steps).is_continue();
                if !self.push_tile(&mut prompt, &chunk, &mut picture, &mut on_layer)? {
                    return Ok(None);
                }
                n_encoded += 1;
                if picture.is_complete() {
                    self.close(&mut prompt, picture);
                } else {
                    open = Some(picture);
                }
            }
            let answer = turn
                .answer
                .as_ref()
                .map(|answer| self.model.answer_tokens(answer));
            prompt.end_turn(answer.transpose()?.as_deref());
        }
        if n_tiles > 0 && on_encoded(n_steps, n_steps).is_break() {
            return Ok(None);
        }
        Ok(Some(prompt))
    }

    /// The size of a prompt.
    ///
    /// # Errors
    /// As [`encode_prompt`](Self::encode_prompt).
    pub(crate) fn prompt_size(&self, turns: &[RenderedTurn], images: &[Image]) -> Result<PromptSize, Error> {
        let mut pictures: Vec<_> = images
            .iter()
            .enumerate()
            .map(|(i, image)| self.picture(i, image))
            .collect::<Result<_, _>>()?;
        if self.fit.is_some() {
            // one tile stands for all of a picture: what mtmd puts between tiles is not in the prompt
            pictures
                .iter_mut()
                .for_each(|picture| picture.bitmaps.truncate(1));
        }
        let mut n_text = 0;
        for chunk in self.chunks(turns, &pictures)?.iter().flat_map(ffi::Chunks::iter) {
            if let ffi::Chunk::Text(tokens) = chunk {
                n_text += tokens.len();
            }
        }
        for answer in turns.iter().filter_map(|turn| turn.answer.as_ref()) {
            n_text += self.model.answer_tokens(answer)?.len();
        }
        let tokens_of = |image: &Image| self.image_tokens(image.width(), image.height());
        Ok(PromptSize {
            n_text,
            images: images.iter().map(tokens_of).collect::<Result<_, _>>()?,
        })
    }

    /// A picture as mtmd gets it.
    fn picture<'a>(&self, index: usize, image: &'a Image) -> Result<Picture<'a>, Error> {
        let failed = |reason: String| encode_error(index, image, reason);
        let bitmap = |tile: &Image| {
            let bitmap = ffi::Bitmap::rgb8(tile.width(), tile.height(), tile.data());
            bitmap.map_err(|error| failed(error.message))
        };
        let bitmaps = match &self.fit {
            Some(fit) => fit.tiles(image).map_err(failed)?.iter().map(bitmap).collect(),
            None => bitmap(image).map(|bitmap| vec![bitmap]),
        }?;
        let n_tiles = match &self.fit {
            Some(_) => bitmaps.len(),
            None => self.tiles_of_mtmd(Size::of(image)).map_err(failed)?.len(),
        };
        Ok(Picture {
            image,
            index,
            hash: self.hash_of(image),
            bitmaps,
            n_tiles,
        })
    }

    /// The chunks of each turn.
    fn chunks(&self, turns: &[RenderedTurn], pictures: &[Picture<'_>]) -> Result<Vec<ffi::Chunks>, Error> {
        let mut coming = pictures.iter();
        let mut of_turn = |(i, turn): (usize, &RenderedTurn)| {
            let mut parts = Vec::new();
            for part in &turn.parts {
                match part {
                    Part::Text(text) => parts.push(ffi::Part::Text(text)),
                    Part::Image => {
                        let bitmaps = coming.next().map(|picture| &picture.bitmaps);
                        parts.extend(bitmaps.into_iter().flatten().map(ffi::Part::Image));
                    }
                }
            }
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

    /// Adds a tile of a picture to a prompt, from the cache if it is there. Those that form a map are added when all of them
    /// are there. Returns whether to go on.
    fn push_tile(
        &mut self,
        prompt: &mut EncodedPrompt,
        chunk: &ffi::ImageChunk<'_>,
        open: &mut Open<'_>,
        on_layer: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool, Error> {
        let (picture, i_tile) = (open.picture, open.tiles.len());
        let kept = self
            .cache
            .get(picture.image)
            .and_then(|kept| kept.tiles.get(i_tile));
        let n_values = chunk.n_tokens() * self.model.native().n_embd_inp();
        let tile = match kept.filter(|kept| kept.embd.len() == n_values) {
            Some(kept) => {
                prompt.saved_time += kept.took;
                kept.clone()
            }
            None => {
                let began = Instant::now();
                let embd = match self.native.encode(chunk, on_layer) {
                    Ok(embd) => embd.to_vec(),
                    Err(error) if error.status == Status::Aborted => return Ok(false),
                    Err(error) => return Err(encode_error(picture.index, picture.image, error.message)),
                };
                open.is_fresh = true;
                let took = began.elapsed();
                Tile { embd, took }
            }
        };
        let map = self
            .fit
            .as_ref()
            .and_then(|fit| fit.map(picture.size(), chunk.n_tokens()));
        if map.is_none() || i_tile == 0 {
            let covers = self.fit.as_ref().map(|fit| fit.covers(picture.size(), i_tile));
            prompt.push_image(chunk, &tile.embd, picture.shown(i_tile, covers));
        }
        open.tiles.push(tile);
        Ok(true)
    }

    /// The end of a picture: its map, if its tiles form one, and a place in the cache.
    fn close(&mut self, prompt: &mut EncodedPrompt, open: Open<'_>) {
        let Open {
            picture,
            tiles,
            is_fresh,
        } = open;
        let rows_per_tile = tiles[0].embd.len() / self.model.native().n_embd_inp();
        let map = self
            .fit
            .as_ref()
            .and_then(|fit| fit.map(picture.size(), rows_per_tile));
        if let Some(map) = map.filter(|map| map.n_rows() > 0) {
            let behind_overview: Vec<_> = tiles[1..].iter().map(|tile| tile.embd.as_slice()).collect();
            // the last column is newlines
            let columns = map.grid().0 as f32;
            let covers = [0.0, 0.0, columns / (columns - 1.0), 1.0];
            prompt.push_map(
                &map.merge(&behind_overview),
                map.grid(),
                picture.shown(1, Some(covers)),
            );
        }
        if is_fresh && self.cache.is_on() {
            let image = picture.image.clone();
            self.cache.put(Encoded { image, tiles });
        }
    }
}

/// A picture of a prompt.
struct Picture<'a> {
    image: &'a Image,
    /// Which of the request's pictures it is.
    index: usize,
    hash: u64,
    /// What mtmd gets: the tiles that were cut here, or the picture itself.
    bitmaps: Vec<ffi::Bitmap>,
    /// Chunks that mtmd makes of it.
    n_tiles: usize,
}

impl Picture<'_> {
    fn size(&self) -> Size {
        Size::of(self.image)
    }

    fn shown(&self, tile: usize, covers: Option<[f32; 4]>) -> Shown {
        Shown {
            item: self.index,
            tile,
            covers,
            hash: self.hash,
        }
    }
}

/// A picture of which some tiles are encoded.
struct Open<'a> {
    picture: &'a Picture<'a>,
    tiles: Vec<Tile>,
    /// Whether one of them did not come from the cache.
    is_fresh: bool,
}

impl<'a> Open<'a> {
    fn new(picture: &'a Picture<'a>) -> Self {
        Self {
            picture,
            tiles: Vec::new(),
            is_fresh: false,
        }
    }

    fn is_complete(&self) -> bool {
        self.tiles.len() == self.picture.n_tiles
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

fn encode_error(index: usize, image: &Image, reason: String) -> Error {
    Error::Encode {
        index,
        width: image.width(),
        height: image.height(),
        reason,
    }
}
