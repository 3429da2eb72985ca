//! A context: the KV cache, the sequences in it, and the computation.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::Range as Layers;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::backend::reading_registry;
use super::model::Model;
use super::status::{Error, Status, VpStatus, call, text};
use super::{log, sys};

/// When flash attention is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlashAttention {
    /// Where the backend has it.
    Auto,
    On,
    Off,
}

/// Names as in `llama_context_params`.
#[derive(Debug, Clone)]
pub(crate) struct ContextParams {
    pub(crate) n_ctx: u32,
    pub(crate) n_seq_max: u32,
    pub(crate) n_batch: u32,
    pub(crate) n_ubatch: u32,
    pub(crate) n_threads: i32,
    pub(crate) n_threads_batch: i32,
    pub(crate) flash_attn: FlashAttention,
    /// `ggml_type` of K and V, by number.
    pub(crate) type_k: u32,
    pub(crate) type_v: u32,
    pub(crate) offload_kqv: bool,
}

/// The layers from `il_begin` to the next group share one KV cache, which begins with `n_cells` cells (0: as many as the
/// context).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvGroup {
    pub(crate) il_begin: usize,
    pub(crate) n_cells: u32,
}

/// Rows of a sequence, in order: `vp_rows`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// `[n_rows]`, -1 for a row that comes as an embedding.
    pub(crate) token: &'a [i32],
    /// `[rows with token -1][n_embd_inp]`
    pub(crate) embd: &'a [f32],
    /// `[n_rows][n_pos_per_embd]`
    pub(crate) pos: &'a [i32],
}

/// What the queries of a range do with its hidden keys: `vp_attention_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttentionMode {
    Plain,
    Zero,
    Merge,
    Mask,
}

/// Rows that run through some layers: `vp_range`, whose comments hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range<'a> {
    pub(crate) il_begin: usize,
    pub(crate) il_end: usize,
    pub(crate) rows: &'a [i32],
    pub(crate) n_spare: usize,
    pub(crate) mode: AttentionMode,
    pub(crate) hidden: &'a [i32],
    /// Parallel to `rows`; `None` for all.
    pub(crate) affected: Option<&'a [u8]>,
    pub(crate) probe: Option<Probe<'a>>,
    /// Whether [`Context::rewind`] can go back to each layer of it.
    pub(crate) can_rewind: bool,
    /// The last row that the rows see, if they see each other both ways.
    pub(crate) both_ways_until: Option<i32>,
}

/// What is read from the attention of one layer of a range: `vp_statistic`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Probe<'a> {
    /// The contribution of each key to the last row.
    Contribution { il: usize },
    /// The same in `n` layers from `il` on.
    Contributions { il: usize, n: usize },
    /// The weights that the rows `queries` of the call put on each key. The call has at most `n_ubatch` rows.
    Attention { il: usize, queries: &'a [i32] },
}

/// A token that a sequence goes on with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) sequence: &'a Sequence,
    pub(crate) token: i32,
    pub(crate) pos: i32,
}

/// The KV cache of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvUsage {
    /// Cells in use.
    pub(crate) n_cells: u32,
    /// Bytes of K and V of one cell.
    pub(crate) cell_bytes: usize,
    /// Bytes of the whole allocated cache of the layer.
    pub(crate) allocated_bytes: usize,
}

/// Operation and device, as ggml calls them, and a count.
pub(crate) type Fallbacks = BTreeMap<(String, String), u64>;

/// Sequences whose owner is gone, until the context, which alone may touch them, frees them.
type Gone = Mutex<Vec<sys::vp_seq>>;

/// A sequence of a context: `vp_seq`. It may outlive its context, and is an error there.
#[derive(Debug)]
pub(crate) struct Sequence {
    number: sys::vp_seq,
    gone: Arc<Gone>,
}

impl Drop for Sequence {
    fn drop(&mut self) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.push(self.number);
    }
}

/// What ggml asks during a computation: whether to stop. NULL: nobody wants to.
type Watched = AtomicPtr<AtomicBool>;

/// An owned `vp_context`.
pub(crate) struct Context {
    ptr: NonNull<sys::vp_context>,
    gone: Arc<Gone>,
    /// Read by the abort callback during computation; dropped after the context.
    watched: Box<Watched>,
    /// Dropped after the context, which points into it.
    model: Arc<Model>,
}

// SAFETY: a llama_context may move between threads as long as one thread uses it at a time, which `&mut self`
// enforces: it owns its scheduler, buffers and (with the auto threadpool) its workers, and keeps no thread-local state
// (llama-context.h@0.1.161). GPU backends select their device at every call. Our own vp_context is plain data.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from a successful creation and is freed only here; the model is still alive.
        unsafe { sys::vp_free(self.ptr.as_ptr()) }
    }
}

impl Context {
    /// Creates a context. Without groups it has llama.cpp's own memory, and every range is the whole model.
    pub(crate) fn new(model: &Arc<Model>, params: &ContextParams, groups: &[KvGroup]) -> Result<Self, Error> {
        log::install();
        let groups = groups
            .iter()
            .map(|group| {
                Ok(sys::vp_kv_group {
                    il_begin: int(group.il_begin)?,
                    n_cells: group.n_cells,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let watched = Box::new(Watched::new(null_mut()));
        let c_params = Self::c_params(params, &watched);
        let _creation = model.creation();
        let _reading = reading_registry();
        // SAFETY: the model is alive and `creation` keeps other creations out; `groups` has as many entries as said;
        // `watched` stays where it is, and the value returned frees the context before it drops it.
        let ptr = call("vp_init_from_model", || unsafe {
            sys::vp_init_from_model(model.as_ptr(), c_params, groups.as_ptr(), groups.len())
        })?;
        Ok(Self {
            ptr,
            gone: Arc::default(),
            watched,
            model: Arc::clone(model),
        })
    }

    fn c_params(params: &ContextParams, watched: &Watched) -> sys::llama_context_params {
        // SAFETY: no preconditions.
        let mut c_params = unsafe { sys::llama_context_default_params() };
        c_params.n_ctx = params.n_ctx;
        c_params.n_seq_max = params.n_seq_max;
        c_params.n_batch = params.n_batch;
        c_params.n_ubatch = params.n_ubatch;
        c_params.n_threads = params.n_threads;
        c_params.n_threads_batch = params.n_threads_batch;
        c_params.flash_attn_type = match params.flash_attn {
            FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        };
        c_params.type_k = params.type_k as sys::ggml_type;
        c_params.type_v = params.type_v as sys::ggml_type;
        c_params.offload_kqv = params.offload_kqv;
        c_params.abort_callback = Some(on_abort_query);
        c_params.abort_callback_data = std::ptr::from_ref(watched).cast_mut().cast();
        c_params
    }

    /// The model of this context.
    #[cfg(feature = "lab")]
    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Does something during which setting `stop` ends a computation with [`Status::Aborted`] (where the backend looks at
    /// it: the CPU does). Within the work of another it takes that one's place.
    pub(crate) fn watching<R>(&mut self, stop: &AtomicBool, work: impl FnOnce(&mut Self) -> R) -> R {
        struct Unwatch<'a>(&'a mut Context, *mut AtomicBool);
        impl Drop for Unwatch<'_> {
            fn drop(&mut self) {
                self.0.watched.store(self.1, Ordering::Relaxed);
            }
        }
        let before = self
            .watched
            .swap(std::ptr::from_ref(stop).cast_mut(), Ordering::Relaxed);
        let unwatch = Unwatch(self, before);
        work(&mut *unwatch.0)
    }

    pub(super) fn as_ptr(&mut self) -> *mut sys::vp_context {
        self.ptr.as_ptr()
    }

    /// Tokens one call may run.
    pub(crate) fn n_batch(&self) -> u32 {
        // SAFETY: both are live; a field is read.
        unsafe { sys::llama_n_batch(sys::vp_llama_context(self.ptr.as_ptr())) }
    }

    /// Tokens computed at a time.
    pub(crate) fn n_ubatch(&self) -> u32 {
        // SAFETY: both are live; a field is read.
        unsafe { sys::llama_n_ubatch(sys::vp_llama_context(self.ptr.as_ptr())) }
    }

    /// Frees the sequences whose owner is gone.
    pub(crate) fn free_the_gone(&mut self) {
        let gone = std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner));
        for number in gone {
            // SAFETY: `ptr` is live and used by nobody else; any number is accepted.
            unsafe { sys::vp_seq_free(self.ptr.as_ptr(), number) }
        }
    }

    /// The context and the number of one of its sequences.
    fn own(&mut self, sequence: &Sequence) -> Result<(*mut sys::vp_context, sys::vp_seq), Error> {
        self.free_the_gone();
        if Arc::ptr_eq(&sequence.gone, &self.gone) {
            Ok((self.ptr.as_ptr(), sequence.number))
        } else {
            Err(refused(
                "vp_seq",
                "the sequence belongs to another context".to_owned(),
            ))
        }
    }

    fn made(
        &mut self,
        name: &'static str,
        make: impl FnOnce(*mut sys::vp_context, &mut sys::vp_seq) -> i32,
    ) -> Result<Sequence, Error> {
        self.free_the_gone();
        let mut number = 0;
        let ctx = self.ptr.as_ptr();
        call(name, || VpStatus(make(ctx, &mut number)))?;
        Ok(Sequence {
            number,
            gone: Arc::clone(&self.gone),
        })
    }

    /// A sequence without rows.
    pub(crate) fn new_sequence(&mut self) -> Result<Sequence, Error> {
        // SAFETY: `ctx` is live and used by nobody else; the output is a local.
        self.made("vp_seq_new", |ctx, number| unsafe {
            sys::vp_seq_new(ctx, number)
        })
    }

    /// A sequence that begins with the rows of another one, and reads them there.
    pub(crate) fn branch(&mut self, parent: &Sequence) -> Result<Sequence, Error> {
        let (_, parent) = self.own(parent)?;
        // SAFETY: as above.
        self.made("vp_seq_branch", |ctx, number| unsafe {
            sys::vp_seq_branch(ctx, parent, number)
        })
    }

    /// A second sequence with the same rows.
    pub(crate) fn fork(&mut self, sequence: &Sequence) -> Result<Sequence, Error> {
        let (_, src) = self.own(sequence)?;
        // SAFETY: as above.
        self.made("vp_seq_fork", |ctx, number| unsafe {
            sys::vp_seq_fork(ctx, src, number)
        })
    }

    /// Adds rows to a sequence, due at layer 0.
    pub(crate) fn add(&mut self, sequence: &Sequence, rows: &Rows<'_>) -> Result<(), Error> {
        let n_embd_rows = rows.token.iter().filter(|&&token| token == -1).count();
        let n_pos = self.model.n_pos_per_embd();
        if rows.pos.len() != rows.token.len() * n_pos
            || rows.embd.len() != n_embd_rows * self.model.n_embd_inp()
        {
            let message = format!(
                "{} rows, {n_embd_rows} of them embeddings, with {} values and {} positions",
                rows.token.len(),
                rows.embd.len(),
                rows.pos.len()
            );
            return Err(refused("vp_seq_add", message));
        }
        let c_rows = sys::vp_rows {
            n_rows: int(rows.token.len())?,
            token: rows.token.as_ptr(),
            embd: rows.embd.as_ptr(),
            pos: rows.pos.as_ptr(),
        };
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_add", || {
            // SAFETY: `ctx` is live and used by nobody else; the arrays have the lengths visipruner.h asks for, checked
            // above, and are copied during the call.
            VpStatus(unsafe { sys::vp_seq_add(ctx, seq, &c_rows) })
        })
    }

    /// The next layer of each of the `n_rows` rows of a sequence; the number of layers for those that have run through all.
    pub(crate) fn due(&mut self, sequence: &Sequence, n_rows: usize) -> Result<Vec<usize>, Error> {
        let mut il = vec![0; n_rows];
        let (ctx, seq) = self.own(sequence)?;
        let n_rows = int(n_rows)?;
        call("vp_seq_due", || {
            // SAFETY: `ctx` is live and used by nobody else; the vector has room for as many rows as are asked for.
            VpStatus(unsafe { sys::vp_seq_due(ctx, seq, il.as_mut_ptr(), n_rows) })
        })?;
        Ok(il.into_iter().map(|il| il as usize).collect())
    }

    /// Runs a range of layers for some rows.
    pub(crate) fn run(&mut self, sequence: &Sequence, range: &Range<'_>) -> Result<(), Error> {
        if range
            .affected
            .is_some_and(|affected| affected.len() != range.rows.len())
        {
            return Err(refused(
                "vp_seq_run",
                "one `affected` flag per row is needed".to_owned(),
            ));
        }
        let of_last = (sys::VP_STATISTIC_CONTRIBUTION, [].as_slice());
        let (probe_il, n_probes, (statistic, queries)) = match range.probe {
            None => (-1, 0, of_last),
            Some(Probe::Contribution { il }) => (int(il)?, 1, of_last),
            Some(Probe::Contributions { il, n }) => (int(il)?, int(n)?, of_last),
            Some(Probe::Attention { il, queries }) => (int(il)?, 1, (sys::VP_STATISTIC_ATTENTION, queries)),
        };
        let c_range = sys::vp_range {
            il_begin: int(range.il_begin)?,
            il_end: int(range.il_end)?,
            n_rows: int(range.rows.len())?,
            rows: range.rows.as_ptr(),
            n_spare: int(range.n_spare)?,
            mode: match range.mode {
                AttentionMode::Plain => sys::VP_ATTENTION_PLAIN,
                AttentionMode::Zero => sys::VP_ATTENTION_ZERO,
                AttentionMode::Merge => sys::VP_ATTENTION_MERGE,
                AttentionMode::Mask => sys::VP_ATTENTION_MASK,
            },
            n_hidden: int(range.hidden.len())?,
            hidden: range.hidden.as_ptr(),
            affected: range.affected.map_or(std::ptr::null(), <[u8]>::as_ptr),
            probe_il,
            n_probes,
            can_rewind: range.can_rewind,
            statistic,
            n_queries: int(queries.len())?,
            queries: queries.as_ptr(),
            both_ways_until: range.both_ways_until.unwrap_or(-1),
        };
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_run", || {
            // SAFETY: `ctx` is live and used by nobody else; the arrays have the lengths given and outlive the call.
            VpStatus(unsafe { sys::vp_seq_run(ctx, seq, &c_range) })
        })
    }

    /// From layer `il` on these rows of the parent are not rows of this branch.
    pub(crate) fn leave(&mut self, branch: &Sequence, il: usize, rows: &[i32]) -> Result<(), Error> {
        let (il, n_rows) = (int(il)?, int(rows.len())?);
        let (ctx, seq) = self.own(branch)?;
        call("vp_seq_leave", || {
            // SAFETY: `ctx` is live and used by nobody else; the array has the length given.
            VpStatus(unsafe { sys::vp_seq_leave(ctx, seq, il, rows.as_ptr(), n_rows) })
        })
    }

    /// From layer `il` on these rows of the parent are rows of the branch's own. They may have to be run up to that layer
    /// once more: [`due`](Self::due) says it.
    pub(crate) fn copy(&mut self, branch: &Sequence, il: usize, rows: &[i32]) -> Result<(), Error> {
        let (il, n_rows) = (int(il)?, int(rows.len())?);
        let (ctx, seq) = self.own(branch)?;
        call("vp_seq_copy", || {
            // SAFETY: as above.
            VpStatus(unsafe { sys::vp_seq_copy(ctx, seq, il, rows.as_ptr(), n_rows) })
        })
    }

    /// Makes a branch a sequence by itself, whose copies of `rows` take the place of the parent's.
    pub(crate) fn settle(&mut self, branch: &Sequence, rows: &[i32]) -> Result<(), Error> {
        let n_rows = int(rows.len())?;
        let (ctx, seq) = self.own(branch)?;
        call("vp_seq_settle", || {
            // SAFETY: as above.
            VpStatus(unsafe { sys::vp_seq_settle(ctx, seq, rows.as_ptr(), n_rows) })
        })
    }

    /// Forgets the rows of a sequence from `n_rows` on.
    pub(crate) fn truncate(&mut self, sequence: &Sequence, n_rows: usize) -> Result<(), Error> {
        let n_rows = int(n_rows)?;
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_truncate", || {
            // SAFETY: `ctx` is live and used by nobody else.
            VpStatus(unsafe { sys::vp_seq_truncate(ctx, seq, n_rows) })
        })
    }

    /// Forgets what some layers hold of some rows.
    pub(crate) fn evict(
        &mut self,
        sequence: &Sequence,
        layers: Layers<usize>,
        rows: &[i32],
    ) -> Result<(), Error> {
        let (il_begin, il_end, n_rows) = (int(layers.start)?, int(layers.end)?, int(rows.len())?);
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_evict", || {
            // SAFETY: `ctx` is live and used by nobody else; the array has the length given.
            VpStatus(unsafe { sys::vp_seq_evict(ctx, seq, il_begin, il_end, rows.as_ptr(), n_rows) })
        })
    }

    /// Goes back to layer `il` within the last range, if it can.
    pub(crate) fn rewind(&mut self, sequence: &Sequence, il: usize) -> Result<(), Error> {
        let (il, (ctx, seq)) = (int(il)?, self.own(sequence)?);
        call("vp_seq_rewind", || {
            // SAFETY: `ctx` is live and used by nobody else; any layer is accepted.
            VpStatus(unsafe { sys::vp_seq_rewind(ctx, seq, il) })
        })
    }

    /// Adds one token each to different sequences, and runs them through all layers. Where the cache has to grow, it
    /// grows by `n_spare` cells more.
    pub(crate) fn decode(&mut self, tokens: &[Token<'_>], n_spare: usize) -> Result<(), Error> {
        let mut c_tokens = Vec::with_capacity(tokens.len());
        for token in tokens {
            let (_, seq) = self.own(token.sequence)?;
            c_tokens.push(sys::vp_token {
                seq,
                token: token.token,
                pos: token.pos,
            });
        }
        let (n_tokens, n_spare) = (int(c_tokens.len())?, int(n_spare)?);
        let ctx = self.ptr.as_ptr();
        call("vp_decode", || {
            // SAFETY: `ctx` is live and used by nobody else; the array has the length given.
            VpStatus(unsafe { sys::vp_decode(ctx, c_tokens.as_ptr(), n_tokens, n_spare) })
        })
    }

    /// Logits `[n_vocab]` of a row of the last call, of the last one by default. `None` if there are none.
    pub(crate) fn logits(&mut self, row: Option<usize>) -> Option<&[f32]> {
        let n_vocab = self.model.n_vocab();
        let row = row.map_or(Some(-1), |row| i32::try_from(row).ok())?;
        // SAFETY: `ptr` is live. The rows hold n_vocab floats each and stay valid until the next computation, which needs
        // `&mut self` and so ends the borrow.
        unsafe {
            let logits = sys::vp_logits(self.ptr.as_ptr(), row);
            (!logits.is_null()).then(|| std::slice::from_raw_parts(logits, n_vocab))
        }
    }

    /// The same logits, to be changed before a token is chosen by them.
    pub(crate) fn logits_mut(&mut self, row: Option<usize>) -> Option<&mut [f32]> {
        let n_vocab = self.model.n_vocab();
        let row = row.map_or(Some(-1), |row| i32::try_from(row).ok())?;
        // SAFETY: as for `logits`; the context owns the buffer, and nobody else looks at it while it is borrowed.
        unsafe {
            let logits = sys::vp_logits(self.ptr.as_ptr(), row);
            (!logits.is_null()).then(|| std::slice::from_raw_parts_mut(logits, n_vocab))
        }
    }

    /// Operations that another device computed than the one that holds their layer, by operation and device: how often,
    /// since the context was made.
    pub(crate) fn fallbacks(&mut self) -> Fallbacks {
        let mut entries: Vec<sys::vp_fallback> = Vec::new();
        loop {
            let room = entries.len();
            let mut n = 0;
            // SAFETY: the context is live and used by nobody else; there is room for as many entries as are asked for.
            let status = unsafe {
                sys::vp_get_fallbacks(self.ptr.as_ptr(), entries.as_mut_ptr(), room as i32, &mut n)
            };
            if status != sys::VP_OK {
                return Fallbacks::new();
            }
            if n as usize <= room {
                break;
            }
            entries.resize_with(n as usize, Default::default);
        }
        let entry = |entry: &sys::vp_fallback| {
            // SAFETY: the names end with NUL and live as long as the context, which is borrowed.
            let [op, device] = [entry.op, entry.device].map(|name| unsafe { text(name) });
            Some(((op?, device?), entry.n))
        };
        entries.iter().filter_map(entry).collect()
    }

    /// The statistic of a probed layer, by row (`norm2` and `dot`, `[n_rows]`, NaN where the layer holds no cell for the
    /// row), and `||o||^2`.
    pub(crate) fn contributions(
        &mut self,
        sequence: &Sequence,
        il: usize,
        n_rows: usize,
    ) -> Result<(Vec<f32>, Vec<f32>, f32), Error> {
        let mut norm2 = vec![f32::NAN; n_rows];
        let mut dot = vec![f32::NAN; n_rows];
        let mut output_norm2 = f32::NAN;
        let (il, n_rows) = (int(il)?, int(n_rows)?);
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_probe", || {
            // SAFETY: `ctx` is live and used by nobody else; both vectors have room for the rows asked for.
            VpStatus(unsafe {
                sys::vp_seq_probe(
                    ctx,
                    seq,
                    il,
                    n_rows,
                    norm2.as_mut_ptr(),
                    dot.as_mut_ptr(),
                    &mut output_norm2,
                )
            })
        })?;
        Ok((norm2, dot, output_norm2))
    }

    /// The weights that the queries of the last probed call of a layer put on each row, averaged over heads and summed
    /// over the queries: `[n_rows]`, NaN where the layer holds no cell for the row.
    pub(crate) fn attention(
        &mut self,
        sequence: &Sequence,
        il: usize,
        n_rows: usize,
    ) -> Result<Vec<f32>, Error> {
        let mut weight = vec![f32::NAN; n_rows];
        let (il, n_rows) = (int(il)?, int(n_rows)?);
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_attention", || {
            // SAFETY: `ctx` is live and used by nobody else; the vector has room for the rows asked for.
            VpStatus(unsafe { sys::vp_seq_attention(ctx, seq, il, n_rows, weight.as_mut_ptr()) })
        })?;
        Ok(weight)
    }

    /// Logit lens: what the last row takes into the next range, through output norm and head: `[n_vocab]`.
    #[cfg(feature = "lab")]
    pub(crate) fn lens_hidden(&mut self, sequence: &Sequence) -> Result<Vec<f32>, Error> {
        let mut logits = vec![f32::NAN; self.model.n_vocab()];
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_lens_hidden", || {
            // SAFETY: `ctx` is live and used by nobody else; the vector has room for the vocabulary.
            VpStatus(unsafe { sys::vp_seq_lens_hidden(ctx, seq, logits.as_mut_ptr()) })
        })?;
        Ok(logits)
    }

    /// Value-output lens: the attention output of the last row in layer `il`, which was probed for contributions, through
    /// the layer's output projection, output norm and head: `[n_vocab]`.
    #[cfg(feature = "lab")]
    pub(crate) fn lens_attention(&mut self, sequence: &Sequence, il: usize) -> Result<Vec<f32>, Error> {
        let mut logits = vec![f32::NAN; self.model.n_vocab()];
        let il = int(il)?;
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_lens_attention", || {
            // SAFETY: as above.
            VpStatus(unsafe { sys::vp_seq_lens_attention(ctx, seq, il, logits.as_mut_ptr()) })
        })?;
        Ok(logits)
    }

    /// The L1 norms of the values that layer `il` holds, averaged over KV heads: `[n_rows]`, NaN where it holds none.
    #[cfg(feature = "lab")]
    pub(crate) fn value_norms(
        &mut self,
        sequence: &Sequence,
        il: usize,
        n_rows: usize,
    ) -> Result<Vec<f32>, Error> {
        let mut l1 = vec![f32::NAN; n_rows];
        let (il, n_rows) = (int(il)?, int(n_rows)?);
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_values", || {
            // SAFETY: `ctx` is live and used by nobody else; the vector has room for the rows asked for.
            VpStatus(unsafe { sys::vp_seq_values(ctx, seq, il, n_rows, l1.as_mut_ptr()) })
        })?;
        Ok(l1)
    }

    #[cfg(any(test, fuzzing))]
    /// What rows between two ranges take into the next one: `[rows][n_embd]`.
    pub(crate) fn hidden(&mut self, sequence: &Sequence, rows: &[i32]) -> Result<Vec<f32>, Error> {
        let mut hidden = vec![f32::NAN; rows.len() * self.model.n_embd()];
        let n_rows = int(rows.len())?;
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_hidden", || {
            // SAFETY: `ctx` is live and used by nobody else; `hidden` has room for as many rows as are asked for.
            VpStatus(unsafe { sys::vp_seq_hidden(ctx, seq, rows.as_ptr(), n_rows, hidden.as_mut_ptr()) })
        })?;
        Ok(hidden)
    }

    /// Cells that a layer has of a sequence.
    pub(crate) fn n_cells_of(&mut self, sequence: &Sequence, il: usize) -> Result<u32, Error> {
        let mut n_cells = 0;
        let il = int(il)?;
        let (ctx, seq) = self.own(sequence)?;
        call("vp_seq_usage", || {
            // SAFETY: `ctx` is live and used by nobody else; the output is a local.
            VpStatus(unsafe { sys::vp_seq_usage(ctx, seq, il, &mut n_cells) })
        })?;
        Ok(n_cells)
    }

    /// What the KV cache of a layer holds, of all sequences.
    pub(crate) fn kv_usage(&mut self, il: usize) -> Result<KvUsage, Error> {
        self.free_the_gone();
        let mut usage = KvUsage {
            n_cells: 0,
            cell_bytes: 0,
            allocated_bytes: 0,
        };
        let (il, ctx) = (int(il)?, self.ptr.as_ptr());
        call("vp_kv_usage", || {
            // SAFETY: `ctx` is live and used by nobody else; the outputs are locals.
            VpStatus(unsafe {
                sys::vp_kv_usage(
                    ctx,
                    il,
                    &mut usage.n_cells,
                    &mut usage.cell_bytes,
                    &mut usage.allocated_bytes,
                )
            })
        })?;
        Ok(usage)
    }

    /// Bytes that all sequences keep beside the KV cache: hidden rows and embeddings.
    pub(crate) fn bytes_beside(&mut self) -> Result<usize, Error> {
        self.free_the_gone();
        let mut n_bytes = 0;
        let ctx = self.ptr.as_ptr();
        call("vp_bytes_beside", || {
            // SAFETY: as above.
            VpStatus(unsafe { sys::vp_bytes_beside(ctx, &mut n_bytes) })
        })?;
        Ok(n_bytes)
    }
}

/// ggml's question, between two nodes of a graph, whether to stop.
///
/// # Safety
/// `data` is the [`Watched`] of the context that computes, and what that points to, if anything, is alive.
unsafe extern "C" fn on_abort_query(data: *mut c_void) -> bool {
    // SAFETY: by this function's contract; Context keeps the box as long as the context lives, and `watching` keeps what
    // it points to.
    unsafe {
        let stop = (*data.cast::<Watched>()).load(Ordering::Relaxed);
        !stop.is_null() && (*stop).load(Ordering::Relaxed)
    }
}

pub(super) fn int(n: usize) -> Result<i32, Error> {
    i32::try_from(n).map_err(|_| refused("llama.cpp", format!("{n} does not fit an int32_t")))
}

fn refused(call: &'static str, message: String) -> Error {
    Error {
        call,
        status: Status::BadArgument,
        message,
    }
}
