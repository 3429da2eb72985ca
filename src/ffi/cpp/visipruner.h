// C interface of the staged engine: what Rust sees.
//
// Contract of every function here: no exception leaves it, and no argument makes it abort. A function that can fail
// returns a vp_status (or NULL) and leaves a message for the calling thread in vp_last_error(). A call that fails leaves
// every sequence as it was before the call.
//
// Names: a *sequence* is a list of *rows*, tokens of text or vision, numbered from 0 once and for all: dropping rows does
// not renumber the others. Cells of the KV cache never leave this library.
#pragma once

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum vp_status {
    VP_OK             =  0,
    VP_NO_SLOT        =  1, // the KV cache has no room for these rows
    VP_ABORTED        =  2, // the abort callback said so
    VP_BAD_ARGUMENT   = -1,
    VP_ALLOC_FAILED   = -2,
    VP_COMPUTE_FAILED = -3,
    VP_UNSUPPORTED    = -4, // the memory of this model cannot do that
    VP_DEVICE_LOST    = -5, // another machine held a part of the model, and is gone
};

// what went wrong in the last failed call of this thread, "" if nothing did
LLAMA_API const char * vp_last_error(void);

// An assertion of ggml that fails while models, contexts, projectors or graphs are made, or text is tokenized, is an error
// like any other. Elsewhere it ends the process: handler hears why, as ggml_abort_callback_t does.
typedef void (*vp_abort_handler)(const char * message);
LLAMA_API void vp_set_abort_handler(vp_abort_handler handler);

// from now on, until the call that this thread is in returns, assertions end the process: called before a graph is
// computed, by llama_context::graph_compute(), and by the cb_eval of mtmd, which has no such place
LLAMA_API void vp_computing(void);

//
// devices of other machines: ggml's RPC backend, where it is built in
//

// adds the devices of a server, "host:port", to ggml's registry, once; no other thread may use the registry meanwhile
LLAMA_API int32_t vp_rpc_add_server(const char * endpoint);

// serves one client at a time, and says so on the standard output; returns if it cannot
// cache_dir: where large tensors are kept for the next time, NULL = nowhere
LLAMA_API int32_t vp_rpc_start_server(const char * endpoint, const char * cache_dir, size_t n_threads, size_t n_devices, ggml_backend_dev_t * devices);

//
// models and contexts: the llama.cpp functions of the same name, with exceptions caught
//

LLAMA_API struct llama_model * vp_model_load_from_file(const char * path, struct llama_model_params params);

// whether the model's layers can be run in ranges on a staged KV cache
// returns VP_OK, or VP_BAD_ARGUMENT with the reason in vp_last_error()
LLAMA_API int32_t vp_model_supports_ranges(const struct llama_model * model);

// whether all layers are computed on the CPU of this machine
LLAMA_API bool vp_model_is_on_cpu(const struct llama_model * model);

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

// positions per row: 1, or 4 for models with M-RoPE (time, y, x, other)
LLAMA_API int32_t vp_n_pos_per_embd(const struct llama_model * model);

// layers [il_begin, il_begin of the next group) share one KV cache
struct vp_kv_group {
    int32_t  il_begin; // first layer; the first group must start at 0
    uint32_t n_cells;  // cells that it begins with, 0 = n_ctx; it grows up to n_ctx
};

// a llama_context and the sequences in it
struct vp_context;

// n_groups = 0: llama.cpp's own memory, and every range is the whole model
// otherwise every cut at a group boundary is tried once, so that an unsuitable model is an error here
LLAMA_API struct vp_context * vp_init_from_model(
        struct llama_model        * model,
        struct llama_context_params params,
        const struct vp_kv_group  * groups,
        size_t                      n_groups);

LLAMA_API void vp_free(struct vp_context * ctx);

// to read logits and settings from; its memory is this library's to change
LLAMA_API struct llama_context * vp_llama_context(struct vp_context * ctx);

//
// sequences
//
// A sequence that stands by itself can be forked, and branched off from. A *branch* reads the rows of its parent where the
// parent has them, and adds rows of its own. Until the branch leaves some rows of its parent, what it runs of them is run
// for the parent too; so a parent holds what does not depend on its branches.
//

// number of a sequence; 0 is none
typedef int32_t vp_seq;

// one without rows; VP_NO_SLOT if there are n_seq_max
LLAMA_API int32_t vp_seq_new(struct vp_context * ctx, vp_seq * seq);

// one that begins with the rows of its parent, which is no branch; the parent keeps its rows as long as it has branches
LLAMA_API int32_t vp_seq_branch(struct vp_context * ctx, vp_seq parent, vp_seq * seq);

// a second one with the same rows, standing in the same cells; of a branch there is none
LLAMA_API int32_t vp_seq_fork(struct vp_context * ctx, vp_seq src, vp_seq * seq);

// a parent is gone when its last branch is
LLAMA_API void vp_seq_free(struct vp_context * ctx, vp_seq seq);

// rows in order
struct vp_rows {
    int32_t             n_rows;
    const llama_token * token; // [n_rows], -1 for a row that comes as an embedding
    const float       * embd;  // [rows with token == -1][n_embd_inp]
    const llama_pos   * pos;   // [n_rows][n_pos_per_embd], from 0 on, below INT32_MAX; see vp_n_pos_per_embd()
};

// adds rows, a copy of which is taken; they are due at layer 0
LLAMA_API int32_t vp_seq_add(struct vp_context * ctx, vp_seq seq, const struct vp_rows * rows);

// the next layer of each row: [n_rows], n_layer = it has run through all
LLAMA_API int32_t vp_seq_due(struct vp_context * ctx, vp_seq seq, int32_t * il, int32_t n_rows);

// what the queries of a call do with some of the keys ("hidden" keys)
enum vp_attention_mode {
    VP_ATTENTION_PLAIN = 0,
    VP_ATTENTION_ZERO  = 1, // after softmax, weights on the hidden keys are zeroed
    VP_ATTENTION_MERGE = 2, // after softmax, weights on the hidden keys are summed onto the first of them
    VP_ATTENTION_MASK  = 3, // hidden keys are masked before softmax; a query that would see nothing keeps itself
};

// what is read from the attention of one layer
enum vp_statistic {
    VP_STATISTIC_CONTRIBUTION = 0, // of each key to the attention output of the last row, see vp_seq_probe()
    VP_STATISTIC_ATTENTION    = 1, // the weights that some rows of the call put on each key, see vp_seq_attention()
};

struct vp_range {
    int32_t il_begin;
    int32_t il_end;            // one past the last layer; both must be group boundaries
    int32_t n_rows;
    const int32_t * rows;      // [n_rows] ascending; each must be due at il_begin
    int32_t n_spare;           // where the cache has to grow, it grows by so many cells more

    enum vp_attention_mode mode;
    int32_t n_hidden;
    const int32_t * hidden;    // [n_hidden] rows, ascending, as keys; unused for VP_ATTENTION_PLAIN
    const uint8_t * affected;  // [n_rows] VP_ATTENTION_MASK only: which of the queries, NULL = all

    int32_t probe_il;          // layer of the range that is probed, -1 = none
    int32_t n_probes;          // layers from there on that are probed; more than 1 for VP_STATISTIC_CONTRIBUTION only
    enum vp_statistic statistic;
    int32_t n_queries;         // VP_STATISTIC_ATTENTION only, for calls of at most n_ubatch rows
    const int32_t * queries;   // [n_queries] rows of the call, ascending, whose weights are read

    bool can_rewind;           // vp_seq_rewind() can go back to each layer of the range; all are group boundaries

    int32_t both_ways_until;   // -1: each row sees what is before it; else all see each other and every row up to this one
};

// Run layers [il_begin, il_end) for some rows. A range may be run in several calls.
// If il_end is the last layer and the last row is listed, its logits are in vp_logits(ctx, -1).
LLAMA_API int32_t vp_seq_run(struct vp_context * ctx, vp_seq seq, const struct vp_range * range);

// Goes back to layer il within the last range, if it can: its rows are due there again, and what it has computed from there
// on is forgotten. Only until the sequence is run further.
LLAMA_API int32_t vp_seq_rewind(struct vp_context * ctx, vp_seq seq, int32_t il);

// from layer il on (a group boundary) these rows of the parent are not rows of this branch
LLAMA_API int32_t vp_seq_leave(struct vp_context * ctx, vp_seq seq, int32_t il, const int32_t * rows, int32_t n_rows);

// from layer il on these rows of the parent are rows of the branch's own, beginning with what the parent's take into that
// layer; where the parent's have gone further, they are due at layer 0 and are run up to layer il once more, for what they
// take into it, without being stored
LLAMA_API int32_t vp_seq_copy(struct vp_context * ctx, vp_seq seq, int32_t il, const int32_t * rows, int32_t n_rows);

// makes a branch a sequence by itself, in which nothing was left: rows of the parent are what they are there. Copies are
// forgotten, but for those of `rows`, which take the place of the parent's.
LLAMA_API int32_t vp_seq_settle(struct vp_context * ctx, vp_seq seq, const int32_t * rows, int32_t n_rows);

// forgets rows from n_rows on; a branch keeps its parent's
LLAMA_API int32_t vp_seq_truncate(struct vp_context * ctx, vp_seq seq, int32_t n_rows);

// forgets what layers [il_begin, il_end) (group boundaries) hold of some rows, for this sequence only
LLAMA_API int32_t vp_seq_evict(struct vp_context * ctx, vp_seq seq, int32_t il_begin, int32_t il_end, const int32_t * rows, int32_t n_rows);

struct vp_token {
    vp_seq      seq;
    llama_token token;
    llama_pos   pos;
};

// adds one row each to different sequences and runs them through all layers; the logits of tokens[i] are in vp_logits(ctx, i)
// n_spare as in vp_range
LLAMA_API int32_t vp_decode(struct vp_context * ctx, const struct vp_token * tokens, int32_t n_tokens, int32_t n_spare);

// logits [n_vocab] of a row of the last call, -1 = the last one; NULL if there are none
LLAMA_API float * vp_logits(struct vp_context * ctx, int32_t i);

//
// what was read
//

// the statistic of a probed layer, by row: NaN where the layer holds no cell for the row
//   norm2 [n_rows]: ||c_j||^2, dot [n_rows]: o.c_j, returns through output_norm2: ||o||^2
LLAMA_API int32_t vp_seq_probe(struct vp_context * ctx, vp_seq seq, int32_t il, int32_t n_rows, float * norm2, float * dot, float * output_norm2);

// the statistic of a layer probed for attention, by row: NaN where the layer holds no cell for the row
//   weight [n_rows]: a[h][i][row], averaged over the heads h and summed over the queries i of the last probed call
LLAMA_API int32_t vp_seq_attention(struct vp_context * ctx, vp_seq seq, int32_t il, int32_t n_rows, float * weight);

// what rows between two ranges take into the next one: [n_rows][n_embd]
LLAMA_API int32_t vp_seq_hidden(struct vp_context * ctx, vp_seq seq, const int32_t * rows, int32_t n_rows, float * out);

//
// inspection: beside the probes, in contexts with an F16 or F32 cache of values
//

// logit lens: what the last row takes into the next range, through output norm and head: [n_vocab]
LLAMA_API int32_t vp_seq_lens_hidden(struct vp_context * ctx, vp_seq seq, float * logits);

// value-output lens: the attention output of the last row in layer il, which was probed for contributions, through the
// layer's output projection, output norm and head: [n_vocab]
LLAMA_API int32_t vp_seq_lens_attention(struct vp_context * ctx, vp_seq seq, int32_t il, float * logits);

// the L1 norms of the values that layer il holds, averaged over KV heads, by row: [n_rows], NaN where it holds none
LLAMA_API int32_t vp_seq_values(struct vp_context * ctx, vp_seq seq, int32_t il, int32_t n_rows, float * l1);

//
// memory
//

// cells of a sequence in layer il
LLAMA_API int32_t vp_seq_usage(struct vp_context * ctx, vp_seq seq, int32_t il, uint32_t * n_cells);

// cells in use in layer il, by whatever sequence, the bytes of K and V of one cell, and of the whole allocated cache
LLAMA_API int32_t vp_kv_usage(struct vp_context * ctx, int32_t il, uint32_t * n_cells, size_t * cell_bytes, size_t * allocated_bytes);

// bytes that all sequences together keep beside the KV cache, for rows that can go on: hidden rows and embeddings
LLAMA_API int32_t vp_bytes_beside(struct vp_context * ctx, size_t * n_bytes);

//
// where it was computed
//

// operations of the model's layers that another device computed than the one that holds the layer
struct vp_fallback {
    const char * op;     // as ggml calls it: "FLASH_ATTN_EXT"
    const char * device; // that computed it: "CPU"
    uint64_t     n;      // how often, since the context was made; of a call in several ubatches the last one counts
};

// the first n_max of them; *n: how many there are. The names last as long as the context.
LLAMA_API int32_t vp_get_fallbacks(struct vp_context * ctx, struct vp_fallback * dst, int32_t n_max, int32_t * n);

//
// choosing tokens
//

// names as llama.cpp's; temp 0 takes the most likely token: of the others only the penalties have a say then
struct vp_sampler_params {
    float    temp;
    int32_t  top_k;
    float    top_p;
    float    min_p;
    uint32_t seed;
    int32_t  penalty_last_n; // chosen tokens that the penalties look back on
    float    penalty_repeat;
    float    penalty_freq;
    float    penalty_present;
};

// biases, penalties, top-k, top-p, min-p, temperature, draw; a bias of -INFINITY bans, which must leave a token
// free it with llama_sampler_free()
LLAMA_API struct llama_sampler * vp_sampler_init(
        const struct vp_sampler_params * params,
        int32_t                  n_vocab,
        const llama_logit_bias * biases,
        int32_t                  n_biases);

// a token by the logits of a row of the last call, -1 for its last one; the caller checks that they are finite
LLAMA_API int32_t vp_sampler_sample(struct llama_sampler * sampler, struct vp_context * ctx, int32_t i_row, llama_token * token);

//
// pictures: mtmd's functions of the same name, with exceptions caught
//

struct mtmd_bitmap;
struct mtmd_context;
struct mtmd_context_params;
struct mtmd_input_chunk;
struct mtmd_input_chunks;
struct mtmd_input_part;

// NULL if the projector cannot be loaded
LLAMA_API struct mtmd_context * vp_mtmd_init_from_file(
        const char * path,
        const struct llama_model * model,
        const struct mtmd_context_params * params);

// what mtmd_tokenize_from_parts() and mtmd_encode_chunk() return, or a vp_status below 0
LLAMA_API int32_t vp_tokenize_from_parts(
        const struct mtmd_context * ctx,
        struct mtmd_input_chunks  * output,
        const struct mtmd_input_part * const * parts,
        size_t n_parts,
        bool   add_special);
LLAMA_API int32_t vp_encode_chunk(struct mtmd_context * ctx, const struct mtmd_input_chunk * chunk);

// a copy of RGB pixels, [ny][nx][3]; without data only tokens can be counted
LLAMA_API struct mtmd_bitmap * vp_bitmap_init(uint32_t nx, uint32_t ny, const unsigned char * data);

LLAMA_API struct mtmd_input_chunks * vp_input_chunks_init(void);

enum vp_vision_encoder {
    VP_VISION_ENCODER_REFERENCE = 0, // class token first, all stored layers of LLaVA: as models were trained
    VP_VISION_ENCODER_UPSTREAM  = 1, // as stock llama.cpp runs it
};

// for projectors loaded by this thread from now on
LLAMA_API void vp_set_vision_encoder(enum vp_vision_encoder encoder);

#ifdef __cplusplus
}
#endif
