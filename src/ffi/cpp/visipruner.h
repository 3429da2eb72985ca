// C interface of the staged engine: what Rust sees.
//
// Contract of every function here: no exception leaves it, and no argument makes it abort. A function that can fail
// returns a vp_status (or NULL) and leaves a message for the calling thread in vp_last_error().
//
// Names: a *prompt row* is a token of the prompt, text or vision, numbered 0 .. n_rows - 1 once and for all; dropping
// rows does not renumber the others. Cells of the KV cache never leave this library.
#pragma once

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum vp_status {
    VP_OK             =  0,
    VP_NO_SLOT        =  1, // the KV cache has no room; nothing was computed, the call can be repeated with fewer rows
    VP_ABORTED        =  2, // the abort callback said so; the sequence was removed from the cache
    VP_BAD_ARGUMENT   = -1, // nothing was computed
    VP_ALLOC_FAILED   = -2, // the sequence was removed from the cache
    VP_COMPUTE_FAILED = -3, // the sequence was removed from the cache
};

// what went wrong in the last failed call of this thread, "" if nothing did
LLAMA_API const char * vp_last_error(void);

//
// models and contexts: the llama.cpp functions of the same name, with exceptions caught
//

LLAMA_API struct llama_model * vp_model_load_from_file(const char * path, struct llama_model_params params);

// whether the model's layers can be run in ranges on a staged KV cache
// returns VP_OK, or VP_BAD_ARGUMENT with the reason in vp_last_error()
LLAMA_API int32_t vp_model_supports_ranges(const struct llama_model * model);

// the architectures that vp_model_supports_ranges() accepts, a NULL-terminated list
LLAMA_API const char * const * vp_supported_archs(void);

// llama_model_quantize(); progress hears how much is done, from 0 to 1, before each tensor, and returns whether to go on
// returns VP_ABORTED if it does not: the output is then incomplete
// the caller checks what llama.cpp asserts: no tensor has a fourth dimension, and ftype needs no importance matrix
LLAMA_API int32_t vp_model_quantize(
        const char * path_inp,
        const char * path_out,
        const struct llama_model_quantize_params * params,
        llama_progress_callback progress,
        void * progress_user_data);

// llama_tokenize() with exceptions caught; *n_tokens is what it returns
LLAMA_API int32_t vp_tokenize(
        const struct llama_vocab * vocab,
        const char  * text,
        int32_t       text_len,
        llama_token * tokens,
        int32_t       n_tokens_max,
        bool          add_special,
        bool          parse_special,
        int32_t     * n_tokens);

// the rows of the token embedding, as floats: [n_tokens][n_embd]
LLAMA_API int32_t vp_token_embd(const struct llama_model * model, const llama_token * tokens, int32_t n_tokens, float * out);

// layers [il_begin, il_begin of the next group) share one KV cache
struct vp_kv_group {
    int32_t  il_begin; // first layer; the first group must start at 0
    uint32_t n_cells;  // size of its cache, 0 = n_ctx
};

// n_groups = 0: llama.cpp's own memory, vp_prompt_* are refused, everything else is stock
// otherwise every cut at a group boundary is tried once, so that an unsuitable model is an error here
LLAMA_API struct llama_context * vp_init_from_model(
        struct llama_model        * model,
        struct llama_context_params params,
        const struct vp_kv_group  * groups,
        size_t                      n_groups);

// llama_decode() with its assertions checked first and exceptions caught
LLAMA_API int32_t vp_decode(struct llama_context * ctx, struct llama_batch batch);

//
// staged prefill
//

struct vp_prompt {
    int32_t             n_rows;
    const llama_token * token;  // [n_rows], -1 for a row that comes as an embedding
    const float       * embd;   // [rows with token == -1][n_embd_inp]
    const llama_pos   * pos;    // [n_rows][n_pos_per_embd], see vp_n_pos_per_embd()
    llama_seq_id        seq_id;
};

// positions per row: 1, or 4 for models with M-RoPE (time, y, x, other)
LLAMA_API int32_t vp_n_pos_per_embd(const struct llama_model * model);

// takes a copy of the prompt; its rows are then run with vp_prompt_run(), starting at layer 0
LLAMA_API int32_t vp_prompt_begin(struct llama_context * ctx, const struct vp_prompt * prompt);

// what the queries of a call do with some of the keys ("hidden" keys)
enum vp_attention_mode {
    VP_ATTENTION_PLAIN = 0,
    VP_ATTENTION_ZERO  = 1, // after softmax, weights on the hidden keys are zeroed
    VP_ATTENTION_MERGE = 2, // after softmax, weights on the hidden keys are summed onto the first of them
    VP_ATTENTION_MASK  = 3, // hidden keys are masked before softmax; a query that would see nothing keeps itself
};

// what is read from the attention of one layer
enum vp_statistic {
    VP_STATISTIC_CONTRIBUTION = 0, // of each key to the attention output of the last prompt row, see vp_prompt_probe()
    VP_STATISTIC_ATTENTION    = 1, // the weights that some rows of the call put on each key, see vp_prompt_attention()
};

struct vp_range {
    int32_t il_begin;
    int32_t il_end;            // one past the last layer; both must be group boundaries
    int32_t n_rows;
    const int32_t * rows;      // [n_rows] prompt rows, ascending; each must have been run up to il_begin exactly

    enum vp_attention_mode mode;
    int32_t n_hidden;
    const int32_t * hidden;    // [n_hidden] prompt rows, ascending, as keys; unused for VP_ATTENTION_PLAIN
    const uint8_t * affected;  // [n_rows] VP_ATTENTION_MASK only: which of the queries, NULL = all

    int32_t probe_il;          // layer of the range that is probed, -1 = none
    enum vp_statistic statistic;
    int32_t n_queries;         // VP_STATISTIC_ATTENTION only, for calls of at most n_ubatch rows
    const int32_t * queries;   // [n_queries] rows of the call, ascending, whose weights are read

    bool    causal;            // false: the rows of this call see each other both ways (Gemma's images)
};

// Run layers [il_begin, il_end) for some rows. A range may be run in several calls. Rows that are not listed are
// dropped: they cannot be run in a later range, and later layers hold no KV cells for them.
// If il_end is the last layer and the last prompt row is listed, its logits are in llama_get_logits_ith(ctx, -1).
LLAMA_API int32_t vp_prompt_run(struct llama_context * ctx, const struct vp_range * range);

// the statistic of a probed layer, by prompt row: NaN where the layer holds no cell for the row
//   norm2 [n_rows]: ||c_j||^2, dot [n_rows]: o.c_j, returns through output_norm2: ||o||^2
LLAMA_API int32_t vp_prompt_probe(struct llama_context * ctx, int32_t il, float * norm2, float * dot, float * output_norm2);

// the statistic of a layer probed for attention, by prompt row: NaN where the layer holds no cell for the row
//   weight [n_rows]: a[h][i][row], averaged over the heads h and summed over the queries i of the last probed call
LLAMA_API int32_t vp_prompt_attention(struct llama_context * ctx, int32_t il, float * weight);

// what rows between two ranges take into the next one: [n_rows][n_embd]
LLAMA_API int32_t vp_prompt_hidden(struct llama_context * ctx, const int32_t * rows, int32_t n_rows, float * out);

//
// inspection: beside the probes, in contexts with an F16 or F32 cache of values; whatever goes wrong, the sequence stays
//

// logit lens: what the last prompt row takes into the next range, through output norm and head: [n_vocab]
LLAMA_API int32_t vp_prompt_lens_hidden(struct llama_context * ctx, float * logits);

// value-output lens: the attention output of the last prompt row in layer il, which was probed for contributions, through
// the layer's output projection, output norm and head: [n_vocab]
LLAMA_API int32_t vp_prompt_lens_attention(struct llama_context * ctx, int32_t il, float * logits);

// the L1 norms of the values that layer il holds, averaged over KV heads, by prompt row: [n_rows], NaN where it holds none
LLAMA_API int32_t vp_prompt_values(struct llama_context * ctx, int32_t il, float * l1);

//
// KV cache
//

// forget positions [p0, p1) of the sequence in layers [il_begin, il_end) (group boundaries)
LLAMA_API int32_t vp_kv_evict(struct llama_context * ctx, int32_t il_begin, int32_t il_end, llama_seq_id seq_id, llama_pos p0, llama_pos p1);

// cells in use in layer il, and the bytes of K and V of one cell / of the whole allocated cache of that layer
LLAMA_API int32_t vp_kv_usage(struct llama_context * ctx, int32_t il, uint32_t * n_cells, size_t * cell_bytes, size_t * allocated_bytes);

//
// pictures
//

enum vp_vision_encoder {
    VP_VISION_ENCODER_REFERENCE = 0, // class token first, all stored layers: what LLaVA was trained with
    VP_VISION_ENCODER_UPSTREAM  = 1, // as stock llama.cpp runs it
};

// for projectors loaded by this thread from now on
LLAMA_API void vp_set_vision_encoder(enum vp_vision_encoder encoder);

#ifdef __cplusplus
}
#endif
