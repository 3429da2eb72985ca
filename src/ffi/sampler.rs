//! The choice of the next token.

use std::ptr::NonNull;

use super::context::{Context, int};
use super::status::{Error, Status, VpStatus, call};
use super::sys;

/// Names as llama.cpp's. A temperature of 0 takes the most likely token: only penalties change which it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SamplerParams {
    pub(crate) temp: f32,
    pub(crate) top_k: i32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) seed: u32,
    pub(crate) penalty_last_n: i32,
    pub(crate) penalty_repeat: f32,
    pub(crate) penalty_freq: f32,
    pub(crate) penalty_present: f32,
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
        // SAFETY: `ptr` came from vp_sampler_init and is freed only here.
        unsafe { sys::llama_sampler_free(self.ptr.as_ptr()) }
    }
}

impl Sampler {
    /// Biases, penalties, top-k, top-p, min-p, temperature, draw: llama.cpp's order. A bias of minus infinity bans a token;
    /// one must be left.
    pub(crate) fn new(params: &SamplerParams, biases: &[(i32, f32)], n_vocab: usize) -> Result<Self, Error> {
        let params = sys::vp_sampler_params {
            temp: params.temp,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            seed: params.seed,
            penalty_last_n: params.penalty_last_n,
            penalty_repeat: params.penalty_repeat,
            penalty_freq: params.penalty_freq,
            penalty_present: params.penalty_present,
        };
        let biases: Vec<sys::llama_logit_bias> = biases
            .iter()
            .map(|&(token, bias)| sys::llama_logit_bias { token, bias })
            .collect();
        let (n_vocab, n_biases) = (int(n_vocab)?, int(biases.len())?);
        // SAFETY: the parameters and `n_biases` biases are read during the call only.
        let ptr = call("vp_sampler_init", || unsafe {
            sys::vp_sampler_init(&params, n_vocab, biases.as_ptr(), n_biases)
        })?;
        Ok(Self { ptr })
    }

    /// Chooses a token from the logits of a row of the context's last call, of the last one by default.
    pub(crate) fn sample(&mut self, context: &mut Context, row: Option<usize>) -> Result<i32, Error> {
        let refused = |message: &str| Error {
            call: "vp_sampler_sample",
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
        let mut token = 0;
        // SAFETY: both are live and used by nobody else. The two things that llama.cpp asserts hold: there are logits,
        // and, as their maximum is finite and every sampler keeps at least one candidate, the last one selects.
        call("vp_sampler_sample", || unsafe {
            VpStatus(sys::vp_sampler_sample(
                self.ptr.as_ptr(),
                context.as_ptr(),
                row,
                &mut token,
            ))
        })?;
        Ok(token)
    }
}
