// Staged prefill: the rows of one prompt, run through ranges of layers.
#pragma once

#include <cstdint>

struct llama_context;
struct vp_prompt_state;

// make room for n_rows hidden rows beside the first layer; throws if there is no memory
void vp_reserve_hidden(llama_context & ctx, vp_prompt_state & prompt, int64_t n_rows);
