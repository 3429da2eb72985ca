//! The choice of the next token.

use std::ptr::NonNull;

use super::context::{Context, int};
use super::status::{Error, Status, call};
use super::sys;

/// Names as llama.cpp's. A temperature of 0 takes the most likely token and ignores the rest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SamplerParams {
    pub(crate) temp: f32,
    pub(crate) top_k: i32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) seed: u32,
}

/// An owned sampler chain.
pub(crate) struct Sampler {
    ptr: NonNull<sys::llama_sampler>,
}

// SAFETY: samplers are plain heap objects with their own random state (llama-sampler.cpp@0.1.161); `&mut self` keeps
// them to one thread at a time.
unsafe impl Send for Sampler {}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: `ptr` is the chain made in `new`, which owns the samplers added to it; freed only here.
        unsafe { sys::llama_sampler_free(self.ptr.as_ptr()) }
    }
}

impl Sampler {
    /// Top-k, top-p, min-p, temperature, draw: llama.cpp's order. `banned` tokens are never chosen; they must not be the
    /// whole vocabulary.
    pub(crate) fn new(params: &SamplerParams, banned: &[i32], n_vocab: usize) -> Result<Self, Error> {
        // SAFETY: no preconditions.
        let chain = call("llama_sampler_chain_init", || unsafe {
            sys::llama_sampler_chain_init(sys::llama_sampler_chain_default_params())
        })?;
        let this = Self { ptr: chain };
        if !banned.is_empty() {
            let bias: Vec<_> = banned
                .iter()
                .map(|&token| sys::llama_logit_bias {
                    token,
                    bias: f32::NEG_INFINITY,
                })
                .collect();
            let (n_vocab, n_bias) = (int(n_vocab)?, int(bias.len())?);
            // SAFETY: `bias` has `n_bias` entries and is copied.
            this.add(unsafe { sys::llama_sampler_init_logit_bias(n_vocab, n_bias, bias.as_ptr()) })?;
        }
        if params.temp <= 0.0 {
            // SAFETY: no preconditions.
            this.add(unsafe { sys::llama_sampler_init_greedy() })?;
            return Ok(this);
        }
        // SAFETY: the constructors have no preconditions; at least one candidate is kept by each.
        unsafe {
            this.add(sys::llama_sampler_init_top_k(params.top_k))?;
            this.add(sys::llama_sampler_init_top_p(params.top_p, 1))?;
            this.add(sys::llama_sampler_init_min_p(params.min_p, 1))?;
            this.add(sys::llama_sampler_init_temp(params.temp))?;
            this.add(sys::llama_sampler_init_dist(params.seed))?;
        }
        Ok(this)
    }

    fn add(&self, sampler: *mut sys::llama_sampler) -> Result<(), Error> {
        let sampler = call("llama_sampler_init", || sampler)?;
        // SAFETY: both are live, and the chain takes ownership.
        unsafe { sys::llama_sampler_chain_add(self.ptr.as_ptr(), sampler.as_ptr()) };
        Ok(())
    }

    /// Chooses a token from the logits of a row of the context's last call, of the last one by default.
    pub(crate) fn sample(&mut self, context: &mut Context, row: Option<usize>) -> Result<i32, Error> {
        let refused = |message: &str| Error {
            call: "llama_sampler_sample",
            status: Status::BadArgument,
            message: message.to_owned(),
        };
        let logits = context
            .logits(row)
            .ok_or_else(|| refused("there are no logits to choose from"))?;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !largest.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
            return Err(refused(
                "the model's logits are not numbers: its weights or the backend are broken",
            ));
        }
        let row = row.map_or(Ok(-1), int)?;
        // SAFETY: both are live and used by nobody else. The two things the function asserts hold: there are logits,
        // and, as their maximum is finite and every sampler keeps at least one candidate, the last one selects.
        Ok(unsafe { sys::llama_sampler_sample(self.ptr.as_ptr(), context.llama_context(), row) })
    }
}
