//! The KV cache and the computation: prompts are read into sequences, and sequences go on token by token.
//!
//! ```text
//!  EncodedPrompt ─► keys ─► PrefixStore: what is there already
//!        │                      │
//!        └──────► turns ────────┴─► staged or dense prefill ─► a branch per question ─► decode, all in one batch
//! ```
//!
//! A question is a *branch* of the sequence that ends with its last picture: the picture is read once, and what a policy
//! keeps of it for one question is gone with that question.

#[cfg(feature = "lab")]
mod alone;
mod decoder;
mod dense;
mod keys;
mod staged;
mod store;
#[cfg(test)]
mod tests;
mod turns;

use std::ops::ControlFlow;
use std::sync::Arc;

pub use decoder::Decoder;
pub(crate) use keys::hash;
#[cfg(feature = "lab")]
pub(crate) use staged::OnProbe;
use store::PrefixStore;
pub(crate) use turns::{Read, Turn};

use super::error::{Error, computing};
use super::options::{Cuts, KvType, SessionOptions};
use super::prompt::EncodedPrompt;
use super::session::{AnyPolicy, Event, Generation, Request};
use super::{CancelHandle, Model, n_threads};
use crate::ffi::{self, Status};
use crate::policy::Policy;

/// The longest context that a cache has unless told otherwise: a model trained for 128 Ki tokens would take
/// gigabytes for its KV cache.
const DEFAULT_MAX_CTX: u32 = 8192;

/// Tokens of an answer that a suggested context size leaves room for.
const SUGGESTED_ANSWER: usize = 512;

/// Cells that each layer's KV cache begins with: it grows with what it is given.
const FIRST_CELLS: u32 = 256;

/// A KV cache with several answers in the making: each begins with [`begin`](Cache::begin), all go on together with
/// [`step`](Cache::step), and what one leaves behind is there for those that begin alike.
///
/// ```no_run
/// # use std::ops::ControlFlow::Continue;
/// # use visipruner::engine::{Cache, EncodedPrompt, Error, Model, Request, SessionOptions};
/// # fn run(model: &Model, prompts: &[EncodedPrompt], request: &Request) -> Result<(), Error> {
/// let options = SessionOptions { n_sequences: prompts.len() as u32, ..SessionOptions::default() };
/// let mut cache = Cache::new(model, &options)?;
/// let mut answers = Vec::new();
/// for prompt in prompts {
///     answers.push(cache.begin(prompt, request, |_| Continue(()))?);
/// }
/// while answers.iter().any(|answer| answer.stop().is_none()) {
///     cache.step(&mut answers.iter_mut().collect::<Vec<_>>())?;
/// }
/// for answer in answers {
///     println!("{}", cache.finish(answer).text);
/// }
/// # Ok(()) }
/// ```
///
/// ## Why does everything take `&mut self`?
/// It changes the KV cache and the buffers of the computation. Caches share their model.
pub struct Cache {
    /// `None` if it could not be made anew; the next request tries again.
    context: Option<ffi::Context>,
    model: Model,
    params: ffi::ContextParams,
    /// The layers at which the model can be cut; `None`: llama.cpp's own memory.
    cuts: Option<Vec<usize>>,
    kv_types: [KvType; 2],
    probe_stride: usize,
    /// Of requests that name none.
    policy: AnyPolicy,
    store: PrefixStore,
    max_prefix_bytes: Option<u64>,
}

impl Cache {
    /// Makes a cache. `options.policy` is what requests do that name no policy.
    ///
    /// # Errors
    /// [`Error::OptionRange`], [`Error::QuantizedValues`], [`Error::Policy`]; [`Error::Unsupported`] for cuts in a model
    /// that cannot be cut; [`Error::Context`] where llama.cpp refuses.
    pub fn new(model: &Model, options: &SessionOptions) -> Result<Self, Error> {
        options.policy.validate_for(model.n_layer())?;
        Self::with_policy(model, options, AnyPolicy::Config(options.policy.clone()))
    }

    /// As [`new`](Self::new); `options.policy` is not looked at.
    pub(crate) fn with_policy(
        model: &Model,
        options: &SessionOptions,
        policy: AnyPolicy,
    ) -> Result<Self, Error> {
        options.validate()?;
        let cuts = cuts(model, &options.cuts, policy.as_policy())?;
        let n_threads = n_threads(options.n_threads);
        let n_prefixes = options.n_prefixes;
        let params = ffi::ContextParams {
            n_ctx: options.n_ctx.unwrap_or_else(|| default_n_ctx(model)),
            // each sequence at work may have a parent that is in no store any more
            n_seq_max: 2 * options.n_sequences + n_prefixes,
            n_batch: options.n_batch.max(options.n_ubatch),
            n_ubatch: options.n_ubatch,
            n_threads,
            n_threads_batch: n_threads,
            flash_attn: options.flash_attn.into(),
            type_k: options.type_k.ggml_type(),
            type_v: options.type_v.ggml_type(),
            offload_kqv: options.offload_kqv,
        };
        let mut cache = Self {
            context: None,
            model: model.clone(),
            params,
            cuts,
            kv_types: [options.type_k, options.type_v],
            probe_stride: options
                .probe_stride
                .map_or_else(|| default_probe_stride(model), |stride| stride as usize),
            policy,
            store: PrefixStore::new(n_prefixes as usize, !model.native().has_recurrent_layers()),
            max_prefix_bytes: options.max_prefix_bytes,
        };
        cache.renew()?;
        Ok(cache)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens that all sequences together may have.
    pub fn n_ctx(&self) -> u32 {
        self.params.n_ctx // llama.cpp rounds up; what was asked for is what holds
    }

    /// Forgets what no answer is being made on.
    pub fn forget(&mut self) {
        self.store.clear();
    }

    /// Reads a prompt, as far as it is not there already, and chooses the first token of its answer. `on_event` hears what
    /// happens and may stop it.
    ///
    /// # Errors
    /// What is wrong with prompt, policy or request: [`Error::ForeignPrompt`], [`Error::EmptyPrompt`],
    /// [`Error::PromptTooLong`], [`Error::OptionRange`], [`Error::Policy`], [`Error::NoCut`]; [`Error::NoRoom`],
    /// [`Error::OutOfMemory`], [`Error::Compute`].
    pub fn begin(
        &mut self,
        prompt: &EncodedPrompt,
        request: &Request,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, Error> {
        let policy = self.policy.clone();
        self.begin_with(prompt, &policy, request, &mut on_event, &mut |_| {})
    }

    /// As [`begin`](Cache::begin), for a cache with answers in the making: `meanwhile` is called before each call of the
    /// computation, and can go on with them.
    ///
    /// ```no_run
    /// # use std::ops::ControlFlow::Continue;
    /// # use visipruner::engine::{Cache, EncodedPrompt, Error, Generation, Request};
    /// # fn run(cache: &mut Cache, prompt: &EncodedPrompt, request: &Request, other: &mut Generation) -> Result<(), Error> {
    /// let mut failed = Ok(());
    /// let answer = cache.begin_beside(prompt, request, |_| Continue(()), |decoder| {
    ///     failed = decoder.step(&mut [&mut *other]);
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`begin`](Cache::begin).
    pub fn begin_beside(
        &mut self,
        prompt: &EncodedPrompt,
        request: &Request,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
        mut meanwhile: impl FnMut(&mut Decoder<'_>),
    ) -> Result<Generation, Error> {
        let policy = self.policy.clone();
        self.begin_with(prompt, &policy, request, &mut on_event, &mut meanwhile)
    }

    /// The cache as what goes on with answers.
    pub(crate) fn decoder(&mut self) -> Result<Decoder<'_>, Error> {
        let n_ctx = self.n_ctx() as usize;
        self.context()?;
        let Self {
            context,
            store,
            model,
            ..
        } = self;
        let context = context.as_mut().ok_or(Error::Context {
            n_ctx: n_ctx as u32,
            reason: "there is none".to_owned(),
        })?;
        Ok(Decoder {
            context,
            store,
            model,
            n_ctx,
        })
    }

    pub(crate) fn kv_types(&self) -> [KvType; 2] {
        self.kv_types
    }

    pub(crate) fn context(&mut self) -> Result<&mut ffi::Context, Error> {
        if self.context.is_none() {
            self.renew()?;
        }
        self.context.as_mut().ok_or(Error::Context {
            n_ctx: self.params.n_ctx,
            reason: "there is none".to_owned(),
        })
    }

    /// Takes the context away, and says how many sequences the next one is for: 0 or too many, and there is none. Returns how
    /// many there were.
    #[cfg(all(test, feature = "server"))]
    pub(crate) fn lose_context(&mut self, n_seq_max: u32) -> u32 {
        self.store.clear();
        self.context = None;
        std::mem::replace(&mut self.params.n_seq_max, n_seq_max)
    }

    /// The old context goes before the new one comes: there need not be memory for both.
    fn renew(&mut self) -> Result<(), Error> {
        self.store.clear();
        self.context = None;
        let group = |&il_begin: &usize| ffi::KvGroup {
            il_begin,
            n_cells: FIRST_CELLS,
        };
        let groups: Vec<ffi::KvGroup> = match &self.cuts {
            Some(cuts) => [0].iter().chain(cuts).map(group).collect(),
            None => Vec::new(),
        };
        let context = ffi::Context::new(self.model.native(), &self.params, &groups);
        self.context = Some(context.map_err(|error| Error::Context {
            n_ctx: self.params.n_ctx,
            reason: error.message,
        })?);
        Ok(())
    }

    /// Makes sure that a prompt can be computed: it is one of this model, there is room, and batches hold what must be
    /// together.
    pub(crate) fn fit(&mut self, prompt: &EncodedPrompt, n_predict: usize) -> Result<(), Error> {
        if !prompt.is_of(&self.model) {
            return Err(Error::ForeignPrompt);
        }
        let n_tokens = prompt.layout.n_rows;
        if n_tokens == 0 {
            return Err(Error::EmptyPrompt);
        }
        if n_tokens > self.n_ctx() as usize {
            let suggested = (n_tokens + n_predict.min(SUGGESTED_ANSWER)).next_multiple_of(256);
            let (n_vision, n_ctx) = (prompt.layout.n_vision(), self.n_ctx());
            return Err(Error::PromptTooLong {
                n_tokens,
                n_vision,
                n_ctx,
                suggested,
            });
        }
        let together = if prompt.non_causal {
            prompt.longest_image() as u32
        } else {
            0
        };
        if together > self.context()?.n_ubatch() {
            self.params.n_ubatch = self.params.n_ubatch.max(together);
            self.params.n_batch = self.params.n_batch.max(together);
            self.renew()?;
        }
        Ok(())
    }

    /// The policy's cuts must be among those that the cache was made with. One that acts before layer 0 needs none.
    pub(crate) fn check_cuts(&self, policy: &dyn Policy) -> Result<(), Error> {
        let no_cut = |il| Error::NoCut {
            policy: policy.name(),
            il,
        };
        if policy.acts_before_model() {
            return Ok(());
        }
        let Some(own) = &self.cuts else {
            self.model.supports_pruning()?;
            return Err(no_cut(0));
        };
        let cuts = policy.cuts(self.model.n_layer());
        cuts.into_iter()
            .find(|il| !own.contains(il))
            .map_or(Ok(()), |il| Err(no_cut(il)))
    }

    /// Reads a prompt, turn by turn, from where the cache has it. There is none if it was stopped.
    pub(crate) fn read(
        &mut self,
        prompt: &EncodedPrompt,
        policy: Option<&dyn Policy>,
        n_predict: usize,
        cancel: &CancelHandle,
        on_read: OnRead<'_>,
    ) -> Result<Option<Read>, Error> {
        // an answer that grows longer makes the cache grow with it
        let n_spare = n_predict.min(SUGGESTED_ANSWER);
        let (cuts, model) = (self.cuts.clone(), self.model.clone());
        if self.context.is_none() {
            self.renew()?;
        }
        let n_ctx = self.n_ctx() as usize;
        let Self { context, store, .. } = self;
        let Some(context) = context.as_mut() else {
            return Ok(None);
        };
        let reader = turns::Reader {
            model: &model,
            cuts: cuts.as_deref(),
            probe_stride: self.probe_stride,
            prompt,
            policy,
            n_spare,
            n_ctx,
            store,
        };
        context.watching(cancel.flag(), |context| reader.read(context, on_read))
    }

    /// Keeps the rows of a turn that has been answered, for the turns that follow.
    pub(crate) fn keep(&mut self, turn: Turn, answer: &[i32]) {
        let Self { context, store, .. } = self;
        if let Some(context) = context.as_mut()
            && let Some(kept) = turn.settled(context, answer)
        {
            store.keep(kept);
        }
        while self.max_prefix_bytes.is_some_and(|max| self.held_bytes() > max) && self.store.forget_older() {}
    }

    /// Bytes that are held, by whatever sequence: keys, values, hidden rows and embeddings.
    pub(crate) fn held_bytes(&mut self) -> u64 {
        let n_layer = self.model.n_layer();
        let Some(context) = self.context.as_mut() else {
            return 0;
        };
        let of_layer = |il| {
            let usage = context.kv_usage(il).ok()?;
            Some(u64::from(usage.n_cells) * usage.cell_bytes as u64)
        };
        let kv: u64 = (0..n_layer).filter_map(of_layer).sum();
        kv + context.bytes_beside().unwrap_or(0) as u64
    }
}

/// How far a prompt is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadSoFar {
    /// How much is done of what is to be computed, from 0 to 1.
    pub(crate) done: f32,
    /// Rows that were there.
    pub(crate) n_reused: usize,
}

/// Hears before each call of reading a prompt how far it is, and may stop it. Answers may go on meanwhile.
pub(crate) type OnRead<'a> = &'a mut dyn FnMut(ReadSoFar, &mut Decoder<'_>) -> ControlFlow<()>;

/// The same for a part of a prompt: how much of it is done, from 0 to 1.
pub(crate) type BeforeCall<'a> = &'a mut dyn FnMut(f32, &mut Decoder<'_>) -> ControlFlow<()>;

/// Between two layers that are probed the host reads a few numbers and decides. For the CPU that is nothing; another device
/// waits meanwhile.
fn default_probe_stride(model: &Model) -> usize {
    if model.native().is_on_cpu() { 1 } else { 4 }
}

/// The cuts of a cache. A policy that acts before layer 0 has none where the model cannot be cut.
fn cuts(model: &Model, options: &Cuts, policy: Option<&dyn Policy>) -> Result<Option<Vec<usize>>, Error> {
    let n_layer = model.n_layer();
    let cuts = options.of(n_layer, policy.map(|policy| policy.cuts(n_layer)));
    let needs_none = *options == Cuts::OfPolicy && policy.is_none_or(|policy| policy.acts_before_model());
    match model.supports_pruning() {
        Err(_) if needs_none => Ok(None),
        Err(unsupported) if cuts.is_some() => Err(unsupported.into()),
        _ => Ok(cuts),
    }
}

/// Does what may find no room, forgetting what no request is at work on, the oldest first, until there is.
fn with_room<T>(
    context: &mut ffi::Context,
    store: &mut PrefixStore,
    mut work: impl FnMut(&mut ffi::Context) -> Result<T, ffi::Error>,
) -> Result<T, ffi::Error> {
    loop {
        match work(context) {
            Err(error) if error.status == Status::NoSlot && store.forget_one() => {}
            result => return result,
        }
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("model", &self.model)
            .field("cuts", &self.cuts)
            .finish()
    }
}

fn default_n_ctx(model: &Model) -> u32 {
    model.native().n_ctx_train().clamp(1, DEFAULT_MAX_CTX)
}

/// What a computation in the cache failed for.
pub(crate) fn failed(what: &'static str) -> impl Fn(ffi::Error) -> Error {
    move |error| computing(what, error)
}

/// A shared sequence.
pub(crate) type Shared = Arc<ffi::Sequence>;
