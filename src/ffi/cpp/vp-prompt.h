// Staged prefill: the rows of one prompt, run through ranges of layers.
#pragma once

#include "visipruner.h"
#include "vp-kv-groups.h"

#include <cstdint>

// the memory of a context that was created with KV groups, else NULL
vp_kv_groups * vp_get_groups(llama_context * ctx);

// the status and message for a context without them
int32_t vp_fail_no_groups();

// what the probe of layer il read if it was for this statistic; NULL with a message if not
const vp_prompt_state::probe * vp_find_probe(llama_context * ctx, int32_t il, enum vp_statistic statistic);

// make room for n_rows hidden rows beside the first layer; throws if there is no memory
void vp_reserve_hidden(llama_context & ctx, vp_prompt_state & prompt, int64_t n_rows);
