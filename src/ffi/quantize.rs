//! Quantizing a model's file.

use std::ffi::CStr;

use super::callback::Progress;
use super::status::{Error, VpStatus, call};
use super::{log, sys};

/// Names as in `llama_model_quantize_params`.
#[derive(Debug, Clone)]
pub(crate) struct QuantizeParams {
    /// A number of `enum llama_ftype` that needs no importance matrix.
    pub(crate) ftype: u32,
    pub(crate) n_threads: i32,
    pub(crate) allow_requantize: bool,
}

/// Writes a quantized copy of a model. `progress` hears `0.0 .. 1.0` before each tensor and returns whether to go on; where
/// it does not, the status is [`Aborted`](super::Status::Aborted). After an error the output may hold anything.
///
/// The input has been read by [`gguf`](crate::gguf), and no tensor of it has a fourth dimension: llama-quant.cpp@0.1.161
/// counts the rows of three, and asserts that it has written all.
pub(crate) fn quantize(
    input: &CStr,
    output: &CStr,
    params: &QuantizeParams,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<(), Error> {
    log::install();
    let mut progress = Progress::new(progress);
    // SAFETY: no preconditions.
    let mut c_params = unsafe { sys::llama_model_quantize_default_params() };
    c_params.ftype = params.ftype;
    c_params.nthread = params.n_threads;
    c_params.allow_requantize = params.allow_requantize;
    let user_data = progress.user_data();
    let quantized = call("vp_model_quantize", || {
        // SAFETY: both paths are NUL-terminated; the parameters hold upstream's defaults, without pointers, and numbers; the
        // progress callback's data outlives the call, is not touched meanwhile, and hears on this thread (vp-quantize.cpp).
        VpStatus(unsafe {
            sys::vp_model_quantize(
                input.as_ptr(),
                output.as_ptr(),
                &c_params,
                Some(Progress::callback),
                user_data,
            )
        })
    });
    progress.finish();
    quantized
}
