#include "vp-upstream.h"

#include "llama-model.h"

#include <algorithm>
#include <cstring>

bool vp_access::build_graph(llama_context & ctx, const llama_ubatch & ubatch, const llama_memory_context_i * mctx) {
    auto * res = ctx.get_gf_res_reserve();
    res->reset();
    return ctx.model.build_graph(ctx.graph_params(res, ubatch, mctx, LLM_GRAPH_TYPE_DEFAULT)) != nullptr;
}

const std::vector<std::pair<llm_arch, const char *>> & vp_upstream_archs() {
    static const std::vector<std::pair<llm_arch, const char *>> archs = {
        { LLM_ARCH_LLAMA,    "llama"    },
        { LLM_ARCH_QWEN2,    "qwen2"    },
        { LLM_ARCH_QWEN3,    "qwen3"    },
        { LLM_ARCH_QWEN2VL,  "qwen2vl"  },
        { LLM_ARCH_GEMMA3,   "gemma3"   },
        { LLM_ARCH_MISTRAL3, "mistral3" },
    };
    return archs;
}

bool vp_upstream_caps_logits(llm_arch arch) {
    return arch == LLM_ARCH_GEMMA3;
}

std::unique_ptr<llama_kv_cache> vp_upstream_new_cache(
        const llama_model & model,
        const llama_cparams & cparams,
        ggml_type type_k,
        ggml_type type_v,
        uint32_t n_cells,
        bool swa,
        const llama_kv_cache::layer_filter_cb & filter) {
    const auto & hparams = model.hparams;

    const uint32_t n_pad = 1;

    return std::make_unique<llama_kv_cache>(
            model, hparams, type_k, type_v, !cparams.flash_attn, cparams.offload_kqv, cparams.kv_unified,
            n_cells, cparams.n_seq_max, n_pad,
            swa ? hparams.n_swa : 0, swa ? hparams.swa_type : LLAMA_SWA_TYPE_NONE,
            nullptr, filter, nullptr, nullptr);
}

llama_kv_cells & vp_upstream_cells(llama_kv_cache & cache) {
    // upstream hands them out to be read; the object behind is not const, and marking a cell changes nothing else
    return const_cast<llama_kv_cells &>(cache.get_cells(0));
}

llama_batch_ext vp_upstream_new_batch(llama_context & ctx) {
    llama_batch_ext batch(&ctx);
    batch.mem      = nullptr;
    batch.has_gaps = true;
    batch.n_embd   = batch.n_embd_inp;
    return batch;
}

void vp_upstream_add_row(
        llama_batch_ext & batch,
        llama_token token,
        const float * embd,
        const llama_pos * pos,
        const std::unordered_set<llama_seq_id> & seq_ids,
        bool output) {
    llama_batch_ext::token t;
    t.seq_ids = seq_ids;
    t.output  = output;
    std::copy(pos, pos + batch.n_pos_per_embd, t.pos.begin());
    if (token >= 0) {
        t.id = token;
    } else {
        t.has_embd = true;
        t.embd_off = batch.embd.size();
    }
    if (embd) {
        batch.embd.insert(batch.embd.end(), embd, embd + batch.n_embd_inp);
    }
    batch.tokens.push_back(std::move(t));
}

void vp_upstream_drop_outputs(llm_graph_result & res) {
    res.t_logits = res.t_embd = res.t_embd_pooled = res.t_h_nextn = nullptr;
    res.t_sampled.clear();
    res.t_sampled_probs.clear();
    res.t_sampled_logits.clear();
    res.t_candidates.clear();
}

bool vp_upstream_outputs_are_known(llm_graph_result & res, bool is_last) {
    const auto is_known = [&](const ggml_tensor * t) {
        return strncmp(t->name, "vp_", 3) == 0 ||
            (is_last && (t == res.t_logits || t == res.t_embd || t == res.t_embd_pooled || t == res.t_h_nextn));
    };
    // set_outputs() marks tensors whether they are still part of the graph or not
    for (auto * t = ggml_get_first_tensor(res.get_ctx()); t; t = ggml_get_next_tensor(res.get_ctx(), t)) {
        if ((t->flags & GGML_TENSOR_FLAG_OUTPUT) && !is_known(t)) {
            return false;
        }
    }
    return true;
}

void vp_upstream_drop_inputs(llm_graph_result & res, bool without_embd, bool without_out_ids) {
    auto & inputs = res.inputs;
    inputs.erase(std::remove_if(inputs.begin(), inputs.end(), [&](const llm_graph_input_ptr & inp) {
        return (without_embd    && dynamic_cast<llm_graph_input_embd    *>(inp.get())) ||
               (without_out_ids && dynamic_cast<llm_graph_input_out_ids *>(inp.get()));
    }), inputs.end());
}

bool vp_upstream_is_kv_write(const ggml_tensor * node) {
    return node->op == GGML_OP_SET_ROWS && node->view_src &&
        (strncmp(node->view_src->name, "cache_k", 7) == 0 || strncmp(node->view_src->name, "cache_v", 7) == 0);
}
