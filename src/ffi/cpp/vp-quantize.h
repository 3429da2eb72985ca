// How far quantizing is, and stopping it. Called from src/llama-quant.cpp.
#pragma once

#include <cstddef>

// Caller: llama_model_quantize_impl(), before each tensor.
// Tells the caller of vp_model_quantize() below it on the stack that i_tensor of n_tensors are done, and throws where that
// wants no more. Without vp_model_quantize() it does nothing.
void vp_quantize_next(size_t i_tensor, size_t n_tensors);
