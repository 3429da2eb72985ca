//! A context: the KV cache and the computation.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::model::Model;
use super::status::{Error, Status, VpStatus, call};
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

/// The layers from `il_begin` to the next group share one KV cache of `n_cells` cells (0: as many as the context).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvGroup {
    pub(crate) il_begin: usize,
    pub(crate) n_cells: u32,
}

/// A whole prompt, rows in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prompt<'a> {
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

/// One call of the staged prefill: `vp_range`, whose comments hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range<'a> {
    pub(crate) il_begin: usize,
    pub(crate) il_end: usize,
    pub(crate) rows: &'a [i32],
    pub(crate) mode: AttentionMode,
    pub(crate) hidden: &'a [i32],
    /// Parallel to `rows`; `None` for all.
    pub(crate) affected: Option<&'a [u8]>,
    pub(crate) probe: Option<Probe<'a>>,
    pub(crate) causal: bool,
}

/// What is read from the attention of one layer of a range: `vp_statistic`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Probe<'a> {
    /// The contribution of each key to the last prompt row.
    Contribution { il: usize },
    /// The weights that the rows `queries` of the call put on each key. The call has at most `n_ubatch` rows.
    Attention { il: usize, queries: &'a [i32] },
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

/// An owned `llama_context` with one sequence, number 0.
pub(crate) struct Context {
    ptr: NonNull<sys::llama_context>,
    /// Rows of the prompt that was begun last.
    n_prompt_rows: usize,
    /// Read by the abort callback during computation.
    _cancel: Arc<AtomicBool>,
    /// Dropped after the context, which points into it.
    model: Arc<Model>,
}

// SAFETY: a llama_context may move between threads as long as one thread uses it at a time, which `&mut self`
// enforces: it owns its scheduler, buffers and (with the auto threadpool) its workers, and keeps no thread-local state
// (llama-context.h@0.1.161). GPU backends select their device at every call.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from a successful creation and is freed only here; the model is still alive.
        unsafe { sys::llama_free(self.ptr.as_ptr()) }
    }
}

impl Context {
    /// Creates a context. Without groups it has llama.cpp's own memory and cannot run ranges. Setting `cancel` ends a
    /// computation with [`Status::Aborted`] (where the backend looks at it: the CPU does).
    pub(crate) fn new(
        model: &Arc<Model>,
        params: &ContextParams,
        groups: &[KvGroup],
        cancel: Arc<AtomicBool>,
    ) -> Result<Self, Error> {
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
        let c_params = Self::c_params(params, &cancel);
        let _creation = model.creation();
        // SAFETY: the model is alive and `creation` keeps other creations out; `groups` has as many entries as said;
        // `cancel` is kept alive by the value returned, which frees the context before it drops `cancel`.
        let ptr = call("vp_init_from_model", || unsafe {
            sys::vp_init_from_model(model.as_ptr(), c_params, groups.as_ptr(), groups.len())
        })?;
        Ok(Self {
            ptr,
            n_prompt_rows: 0,
            _cancel: cancel,
            model: Arc::clone(model),
        })
    }

    fn c_params(params: &ContextParams, cancel: &Arc<AtomicBool>) -> sys::llama_context_params {
        // SAFETY: no preconditions.
        let mut c_params = unsafe { sys::llama_context_default_params() };
        c_params.n_ctx = params.n_ctx;
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
        c_params.abort_callback_data = Arc::as_ptr(cancel).cast_mut().cast();
        c_params
    }

    /// The model of this context.
    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub(super) fn as_ptr(&mut self) -> *mut sys::llama_context {
        self.ptr.as_ptr()
    }

    /// Tokens one call may decode.
    pub(crate) fn n_batch(&self) -> u32 {
        // SAFETY: `ptr` is a live context; a field is read.
        unsafe { sys::llama_n_batch(self.ptr.as_ptr()) }
    }

    /// Tokens computed at a time.
    pub(crate) fn n_ubatch(&self) -> u32 {
        // SAFETY: `ptr` is a live context; a field is read.
        unsafe { sys::llama_n_ubatch(self.ptr.as_ptr()) }
    }

    /// Forgets every token.
    pub(crate) fn clear(&mut self) {
        // SAFETY: `ptr` is a live context and nothing else uses it; a NULL memory is accepted by llama_memory_clear.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.as_ptr()), true) }
    }

    /// Whether tokens of one call attend only to earlier ones.
    pub(crate) fn set_causal(&mut self, causal: bool) {
        // SAFETY: `ptr` is a live context and nothing else uses it.
        unsafe { sys::llama_set_causal_attn(self.as_ptr(), causal) }
    }

    /// Decodes tokens at consecutive positions from `pos_0`. With `logits_last`, [`Context::logits`] are those of the
    /// last one.
    pub(crate) fn decode_tokens(
        &mut self,
        tokens: &[i32],
        pos_0: i32,
        logits_last: bool,
    ) -> Result<(), Error> {
        let mut tokens = tokens.to_vec();
        let mut pos = consecutive(pos_0, tokens.len())?;
        let mut batch = Batch::new(tokens.len(), logits_last);
        let c_batch = batch.as_c(tokens.as_mut_ptr(), std::ptr::null_mut(), &mut pos)?;
        self.decode(c_batch)
    }

    /// Decodes embeddings `[n][n_embd_inp]` at positions `pos`, which are section-major: `[n_pos_per_embd][n]`.
    pub(crate) fn decode_embd(&mut self, embd: &[f32], pos: &[i32], logits_last: bool) -> Result<(), Error> {
        let n = pos.len() / self.model.n_pos_per_embd();
        if embd.len() != n * self.model.n_embd_inp() || pos.len() != n * self.model.n_pos_per_embd() {
            return Err(refused(
                "llama_decode",
                format!("{} values and {} positions are no rows", embd.len(), pos.len()),
            ));
        }
        let mut embd = embd.to_vec();
        let mut pos = pos.to_vec();
        let mut batch = Batch::new(n, logits_last);
        let c_batch = batch.as_c(std::ptr::null_mut(), embd.as_mut_ptr(), &mut pos)?;
        self.decode(c_batch)
    }

    fn decode(&mut self, batch: sys::llama_batch) -> Result<(), Error> {
        let ctx = self.as_ptr();
        // SAFETY: `ctx` is live and used by nobody else; the two callers keep the batch's arrays alive across the
        // call, each with one entry per token (and per token and section for positions).
        call("vp_decode", || VpStatus(unsafe { sys::vp_decode(ctx, batch) }))
    }

    /// Logits `[n_vocab]` of the last row that was asked for them. `None` if none was.
    pub(crate) fn logits(&mut self) -> Option<&[f32]> {
        let n_vocab = self.model.n_vocab();
        // SAFETY: `ptr` is a live context. The rows hold n_vocab floats each and stay valid until the next
        // computation, which needs `&mut self` and so ends the borrow.
        unsafe {
            let logits = sys::llama_get_logits_ith(self.as_ptr(), -1);
            (!logits.is_null()).then(|| std::slice::from_raw_parts(logits, n_vocab))
        }
    }

    /// Takes a copy of a prompt, whose rows [`Context::prompt_run`] then runs from layer 0.
    pub(crate) fn prompt_begin(&mut self, prompt: &Prompt<'_>) -> Result<(), Error> {
        let n_embd_rows = prompt.token.iter().filter(|&&token| token == -1).count();
        let n_pos = self.model.n_pos_per_embd();
        if prompt.pos.len() != prompt.token.len() * n_pos
            || prompt.embd.len() != n_embd_rows * self.model.n_embd_inp()
        {
            let message = format!(
                "{} rows, {n_embd_rows} of them embeddings, with {} values and {} positions",
                prompt.token.len(),
                prompt.embd.len(),
                prompt.pos.len()
            );
            return Err(refused("vp_prompt_begin", message));
        }
        let c_prompt = sys::vp_prompt {
            n_rows: int(prompt.token.len())?,
            token: prompt.token.as_ptr(),
            embd: prompt.embd.as_ptr(),
            pos: prompt.pos.as_ptr(),
            seq_id: 0,
        };
        let ctx = self.as_ptr();
        call("vp_prompt_begin", || {
            // SAFETY: `ctx` is live and used by nobody else; the arrays have the lengths visipruner.h asks for, checked
            // above, and are copied during the call.
            VpStatus(unsafe { sys::vp_prompt_begin(ctx, &c_prompt) })
        })?;
        self.n_prompt_rows = prompt.token.len();
        Ok(())
    }

    /// Runs a range of layers for some rows of the prompt.
    pub(crate) fn prompt_run(&mut self, range: &Range<'_>) -> Result<(), Error> {
        if range
            .affected
            .is_some_and(|affected| affected.len() != range.rows.len())
        {
            return Err(refused(
                "vp_prompt_run",
                "one `affected` flag per row is needed".to_owned(),
            ));
        }
        let (probe_il, statistic, queries) = match range.probe {
            None => (-1, sys::VP_STATISTIC_CONTRIBUTION, [].as_slice()),
            Some(Probe::Contribution { il }) => (int(il)?, sys::VP_STATISTIC_CONTRIBUTION, [].as_slice()),
            Some(Probe::Attention { il, queries }) => (int(il)?, sys::VP_STATISTIC_ATTENTION, queries),
        };
        let c_range = sys::vp_range {
            il_begin: int(range.il_begin)?,
            il_end: int(range.il_end)?,
            n_rows: int(range.rows.len())?,
            rows: range.rows.as_ptr(),
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
            statistic,
            n_queries: int(queries.len())?,
            queries: queries.as_ptr(),
            causal: range.causal,
        };
        let ctx = self.as_ptr();
        call("vp_prompt_run", || {
            // SAFETY: `ctx` is live and used by nobody else; the arrays have the lengths given and outlive the call.
            VpStatus(unsafe { sys::vp_prompt_run(ctx, &c_range) })
        })
    }

    /// The statistic of a probed layer, by prompt row (`norm2` and `dot`, NaN where the layer holds no cell for the
    /// row), and `||o||^2`.
    pub(crate) fn prompt_probe(&mut self, il: usize) -> Result<(Vec<f32>, Vec<f32>, f32), Error> {
        let mut norm2 = vec![f32::NAN; self.n_prompt_rows];
        let mut dot = vec![f32::NAN; self.n_prompt_rows];
        let mut output_norm2 = f32::NAN;
        let (il, ctx) = (int(il)?, self.as_ptr());
        call("vp_prompt_probe", || {
            // SAFETY: `ctx` is live and used by nobody else; both vectors have room for the rows of the prompt that it
            // holds, which `prompt_begin` counted.
            VpStatus(unsafe {
                sys::vp_prompt_probe(ctx, il, norm2.as_mut_ptr(), dot.as_mut_ptr(), &mut output_norm2)
            })
        })?;
        Ok((norm2, dot, output_norm2))
    }

    /// The weights that the last call probed for attention in layer `il` put on each prompt row, averaged over heads and
    /// summed over the queries: `[n_rows]`, NaN where the layer holds no cell for the row.
    pub(crate) fn prompt_attention(&mut self, il: usize) -> Result<Vec<f32>, Error> {
        let mut weight = vec![f32::NAN; self.n_prompt_rows];
        let (il, ctx) = (int(il)?, self.as_ptr());
        call("vp_prompt_attention", || {
            // SAFETY: `ctx` is live and used by nobody else; the vector has room for the rows of the prompt that it
            // holds, which `prompt_begin` counted.
            VpStatus(unsafe { sys::vp_prompt_attention(ctx, il, weight.as_mut_ptr()) })
        })?;
        Ok(weight)
    }

    /// Logit lens: what the last prompt row takes into the next range, through output norm and head: `[n_vocab]`.
    pub(crate) fn lens_hidden(&mut self) -> Result<Vec<f32>, Error> {
        let mut logits = vec![f32::NAN; self.model.n_vocab()];
        let ctx = self.as_ptr();
        call("vp_prompt_lens_hidden", || {
            // SAFETY: `ctx` is live and used by nobody else; the vector has room for the vocabulary.
            VpStatus(unsafe { sys::vp_prompt_lens_hidden(ctx, logits.as_mut_ptr()) })
        })?;
        Ok(logits)
    }

    /// Value-output lens: the attention output of the last prompt row in layer `il`, which was probed for contributions,
    /// through the layer's output projection, output norm and head: `[n_vocab]`.
    pub(crate) fn lens_attention(&mut self, il: usize) -> Result<Vec<f32>, Error> {
        let mut logits = vec![f32::NAN; self.model.n_vocab()];
        let (il, ctx) = (int(il)?, self.as_ptr());
        call("vp_prompt_lens_attention", || {
            // SAFETY: as above.
            VpStatus(unsafe { sys::vp_prompt_lens_attention(ctx, il, logits.as_mut_ptr()) })
        })?;
        Ok(logits)
    }

    /// The L1 norms of the values that layer `il` holds, averaged over KV heads: `[n_rows]`, by prompt row, NaN where it
    /// holds none.
    pub(crate) fn value_norms(&mut self, il: usize) -> Result<Vec<f32>, Error> {
        let mut l1 = vec![f32::NAN; self.n_prompt_rows];
        let (il, ctx) = (int(il)?, self.as_ptr());
        call("vp_prompt_values", || {
            // SAFETY: `ctx` is live and used by nobody else; the vector has room for the rows of the prompt that it
            // holds, which `prompt_begin` counted.
            VpStatus(unsafe { sys::vp_prompt_values(ctx, il, l1.as_mut_ptr()) })
        })?;
        Ok(l1)
    }

    #[cfg(test)]
    /// What rows between two ranges take into the next one: `[rows][n_embd]`.
    pub(crate) fn prompt_hidden(&mut self, rows: &[i32]) -> Result<Vec<f32>, Error> {
        let mut hidden = vec![f32::NAN; rows.len() * self.model.n_embd()];
        let (n_rows, ctx) = (int(rows.len())?, self.as_ptr());
        call("vp_prompt_hidden", || {
            // SAFETY: `ctx` is live and used by nobody else; `hidden` has room for as many rows as are asked for.
            VpStatus(unsafe { sys::vp_prompt_hidden(ctx, rows.as_ptr(), n_rows, hidden.as_mut_ptr()) })
        })?;
        Ok(hidden)
    }

    /// Forgets positions `[p0, p1)` in layers `[il_begin, il_end)`.
    pub(crate) fn kv_evict(&mut self, layers: std::ops::Range<usize>, p0: i32, p1: i32) -> Result<(), Error> {
        let (il_begin, il_end) = (int(layers.start)?, int(layers.end)?);
        let ctx = self.as_ptr();
        call("vp_kv_evict", || {
            // SAFETY: `ctx` is live and used by nobody else.
            VpStatus(unsafe { sys::vp_kv_evict(ctx, il_begin, il_end, 0, p0, p1) })
        })
    }

    /// What the KV cache of a layer holds.
    pub(crate) fn kv_usage(&mut self, il: usize) -> Result<KvUsage, Error> {
        let mut usage = KvUsage {
            n_cells: 0,
            cell_bytes: 0,
            allocated_bytes: 0,
        };
        let (il, ctx) = (int(il)?, self.as_ptr());
        call("vp_kv_usage", || {
            // SAFETY: `ctx` is live and used by nobody else; the three outputs are locals.
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
}

/// ggml's question, between two nodes of a graph, whether to stop.
///
/// # Safety
/// `data` is the `AtomicBool` behind the `Arc` of the context that computes.
unsafe extern "C" fn on_abort_query(data: *mut c_void) -> bool {
    // SAFETY: by this function's contract; Context keeps the Arc as long as the context lives.
    unsafe { &*data.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}

/// The arrays of a `llama_batch` with one sequence, number 0.
struct Batch {
    n_seq_id: Vec<i32>,
    /// What every entry of `seq_id` points to; boxed so that it stays where it is.
    zero: Box<sys::llama_seq_id>,
    seq_id: Vec<*mut sys::llama_seq_id>,
    logits: Vec<i8>,
}

impl Batch {
    fn new(n_tokens: usize, logits_last: bool) -> Self {
        let mut zero = Box::new(0);
        let mut logits = vec![0; n_tokens];
        if let Some(last) = logits.last_mut() {
            *last = i8::from(logits_last);
        }
        Self {
            n_seq_id: vec![1; n_tokens],
            seq_id: vec![&raw mut *zero; n_tokens],
            zero,
            logits,
        }
    }

    /// The batch as C sees it, valid while `self` and the arrays are.
    fn as_c(&mut self, token: *mut i32, embd: *mut f32, pos: &mut [i32]) -> Result<sys::llama_batch, Error> {
        self.seq_id.fill(&raw mut *self.zero);
        Ok(sys::llama_batch {
            n_tokens: int(self.logits.len())?,
            token,
            embd,
            pos: pos.as_mut_ptr(),
            n_seq_id: self.n_seq_id.as_mut_ptr(),
            seq_id: self.seq_id.as_mut_ptr(),
            logits: self.logits.as_mut_ptr(),
        })
    }
}

fn consecutive(pos_0: i32, n: usize) -> Result<Vec<i32>, Error> {
    let end = pos_0
        .checked_add(int(n)?)
        .ok_or_else(|| refused("llama_decode", format!("position {pos_0} + {n}")))?;
    Ok((pos_0..end).collect())
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
