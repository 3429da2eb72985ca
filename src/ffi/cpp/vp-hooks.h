// What the patches call. Every hook is a no-op for a context without KV groups (see vp_init_from_model()), and all but
// the first three are no-ops outside vp_seq_run().
#pragma once

#include "vp-params.h"

#include "ggml.h"

#include <cstdint>
#include <string>

struct llama_cparams;
struct llama_memory_i;
struct llama_memory_params;
struct llama_model;
struct llm_graph_context;
struct llm_graph_params;
class  llm_graph_input_attn_kv;
class  llm_graph_input_attn_kv_iswa;
class  llm_graph_result;

// called by llama_model::create_memory() first of all
// returns the staged KV cache if vp_init_from_model() asked this thread for one, else NULL: upstream goes on
llama_memory_i * vp_create_memory(const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams);

// called by build_attn_inp_kv() and build_attn_inp_kv_iswa() first of all
// returns an input that serves all KV groups, owned by the graph result, or NULL if the memory is upstream's own
llm_graph_input_attn_kv      * vp_build_attn_inp_kv     (const llm_graph_context & graph);
llm_graph_input_attn_kv_iswa * vp_build_attn_inp_kv_iswa(const llm_graph_context & graph);

// called by build_attn() before it looks into its input
// returns the input of the KV group of layer il; for an upstream input: itself (kv), NULL (iswa)
llm_graph_input_attn_kv * vp_attn_input(llm_graph_input_attn_kv      * inp, int il);
llm_graph_input_attn_kv * vp_attn_input(llm_graph_input_attn_kv_iswa * inp, int il);

// called by build_norm() and build_qkv() with the tensor that they consume: the first one of a layer is its input
void vp_mark_layer_inp(const llm_graph_context & graph, ggml_tensor * cur, int il);

// called by build_attn() with V as the cache holds it
// returns V as the attention of this call shall see it, see enum vp_attention_mode
ggml_tensor * vp_attn_values(const llm_graph_context & graph, ggml_tensor * v, int il);

// called by build_attn() after the attention proper
// cur: its output before the output projection; q, k, v, kq_mask, sinks: what build_attn_mha() was given
void vp_attn_probe(
        const llm_graph_context & graph,
        ggml_tensor * q,
        ggml_tensor * k,
        ggml_tensor * v,
        ggml_tensor * kq_mask,
        ggml_tensor * sinks,
        ggml_tensor * cur,
        float         kq_scale,
        int           il);

// the tensor in which the probes of all probed layers up to il are, one behind the other
std::string vp_probe_name(int32_t il);

// called by llama_model::build_graph() when the graph is complete, before its outputs are marked
// reduces it to the layers that params.cparams.vp names; false: the model does not allow the cut
bool vp_cut_graph(llm_graph_result & res, const llm_graph_params & params);
