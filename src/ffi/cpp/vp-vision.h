// Which vision encoder a projector gets. Called from mtmd (tools/mtmd/clip-model.h and models/).
#pragma once

#include "visipruner.h"

// Caller: the constructor of clip_hparams, once per projector, in the thread that loads it.
// Returns what vp_set_vision_encoder() said last in this thread: the projector keeps it for life.
LLAMA_API enum vp_vision_encoder vp_vision_encoder_for_new_projector(void);

// Caller: build() of clip_graph_llava (for LLaVA-type projectors), clip_graph_internvl, clip_graph_cogvlm, whenever an image
// is encoded.
// Returns whether the class embedding stands before the patches, as the position embeddings (0 = class token) assume.
// Stock puts it after them.
LLAMA_API bool vp_vision_class_token_first(enum vp_vision_encoder encoder);

// Caller: clip_graph_llava::build, whenever an image is encoded, for files that don't name a feature layer.
// Returns whether all layers of the file run. LLaVA takes the output of the second-to-last layer of the original
// encoder, and the converter already leaves the last one out; stock leaves out one more.
LLAMA_API bool vp_vision_runs_all_layers(enum vp_vision_encoder encoder, bool has_llava_projector);
