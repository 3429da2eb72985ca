// What we know of llama.cpp's insides, in one place: a newer version of it is checked here first.
//
// Its public headers and the virtual functions of llama_memory_i are used elsewhere too; what stands here are private
// members, constructors, and lists that upstream may add to without the compiler noticing.
#pragma once

#include "llama-batch.h"
#include "llama-context.h"
#include "llama-graph.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <memory>
#include <unordered_set>
#include <vector>

// the one friend of llama_context
struct vp_access {
    static llama_cparams & cparams(llama_context & ctx) { return ctx.cparams; }

    // the graph that was computed last, with its tensors still in memory
    static llm_graph_result * last_graph(llama_context & ctx) { return ctx.gf_res_prev_active; }

    // how often a graph was computed that was there already
    static int32_t n_reused(const llama_context & ctx) { return ctx.n_reused; }

    // the next graph is built anew
    static void forget_graphs(llama_context & ctx) { ctx.gf_res_prev_active = nullptr; }

    // builds the graph of an ubatch, without memory for it; false: upstream or vp_cut_graph() refused
    static bool build_graph(llama_context & ctx, const llama_ubatch & ubatch, const llama_memory_context_i * mctx);

    // the same of an ubatch of one row, whose logits are asked for; it lasts until the next graph is built
    static llm_graph_result & build_graph_of_one_row(llama_context & ctx, const llama_ubatch & ubatch, const llama_memory_context_i * mctx);
};

// the architectures whose layers pass on one tensor, and whose memory is llama_kv_cache or llama_kv_cache_iswa, used
// through build_attn_inp_kv() or build_attn_inp_kv_iswa() alone; each is tried (src/ffi/tests/archs/)
const std::vector<llm_arch> & vp_upstream_archs();

// why a model cannot be cut, NULL if it can
const char * vp_upstream_refusal(const llama_model & model);

// layers from here on read nothing of the model's input: 1, or more for models that add slices of it later (DeepStack)
int32_t vp_upstream_input_end(const llama_hparams & hparams);

// the cache of the layers that filter names; swa: with the sliding window of the model
// throws if there is no memory
std::unique_ptr<llama_kv_cache> vp_upstream_new_cache(
        const llama_model & model,
        const llama_cparams & cparams,
        ggml_type type_k,
        ggml_type type_v,
        uint32_t n_cells,
        bool swa,
        const llama_kv_cache::layer_filter_cb & filter);

// the one stream of cells of a cache, to mark sequences in
llama_kv_cells & vp_upstream_cells(llama_kv_cache & cache);

// a batch whose positions and sequences are not checked against the memory: the rows of a sequence say what they are
llama_batch_ext vp_upstream_new_batch(llama_context & ctx);

// an entry of such a batch; embd: its input, NULL for a row that comes as a token or from the hidden rows
void vp_upstream_add_row(
        llama_batch_ext & batch,
        llama_token token,
        const float * embd,
        const llama_pos * pos,
        const std::unordered_set<llama_seq_id> & seq_ids,
        bool output);

// after a graph was cut before the model's output: none of the result's outputs exists any more
void vp_upstream_drop_outputs(llm_graph_result & res);

// whether a graph that was built to the end marks no output but those whose names begin with "vp_" and, if it runs to the
// last layer, those of vp_upstream_drop_outputs(): false if upstream has an output that is not listed there
bool vp_upstream_outputs_are_known(llm_graph_result & res, bool is_last);

// inputs that are read only outside of a range stay without memory and must not be set
void vp_upstream_drop_inputs(llm_graph_result & res, bool without_embd, bool without_out_ids);

// whether a node writes keys or values into the cache
bool vp_upstream_is_kv_write(const ggml_tensor * node);
