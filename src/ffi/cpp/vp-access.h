// The one friend of llama_context: what staged prefill needs of its insides.
#pragma once

#include "llama-context.h"
#include "llama-model.h"

struct vp_access {
    static llama_cparams & cparams(llama_context & ctx) { return ctx.cparams; }

    static llama_batch_allocr & balloc(llama_context & ctx) { return *ctx.balloc; }

    // the graph that was computed last, with its tensors still in memory
    static llm_graph_result * last_graph(llama_context & ctx) { return ctx.gf_res_prev_active; }

    // the next graph is built anew
    static void forget_graphs(llama_context & ctx) { ctx.gf_res_prev_active = nullptr; }

    static bool build_graph(llama_context & ctx, const llama_ubatch & ubatch, const llama_memory_context_i * mctx) {
        auto * res = ctx.get_gf_res_reserve();
        res->reset();
        return ctx.model.build_graph(ctx.graph_params(res, ubatch, mctx, LLM_GRAPH_TYPE_DEFAULT)) != nullptr;
    }
};
