// Models and contexts: llama.cpp's own, checked first; and the memory of KV groups.

#include "vp-access.h"
#include "vp-hooks.h"
#include "vp-kv-groups.h"
#include "vp-prompt.h"
#include "vp-status.h"

#include "llama-impl.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory.h"
#include "llama-model.h"

#include "llama-cpp.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

// architectures with a test of exactness each (src/ffi/tests.rs): their layers pass on one tensor, and their memory
// is llama_kv_cache or llama_kv_cache_iswa, used through build_attn_inp_kv() or build_attn_inp_kv_iswa() alone
static const std::vector<std::pair<llm_arch, const char *>> supported_archs = {
    { LLM_ARCH_LLAMA,   "llama"   },
    { LLM_ARCH_QWEN2,   "qwen2"   },
    { LLM_ARCH_QWEN3,   "qwen3"   },
    { LLM_ARCH_QWEN2VL, "qwen2vl" },
    { LLM_ARCH_GEMMA3,  "gemma3"  },
};

const char * const * vp_supported_archs(void) {
    static const std::vector<const char *> names = [] {
        std::vector<const char *> res;
        for (const auto & arch : supported_archs) {
            res.push_back(arch.second);
        }
        res.push_back(nullptr);
        return res;
    }();
    return names.data();
}

struct llama_model * vp_model_load_from_file(const char * path, struct llama_model_params params) {
    return vp_guard_ptr([&] { return llama_model_load_from_file(path, params); });
}

int32_t vp_model_supports_ranges(const struct llama_model * model) {
    return vp_guard(VP_BAD_ARGUMENT, [&]() -> int32_t {
        const auto & hparams = model->hparams;

        const bool known = std::any_of(supported_archs.begin(), supported_archs.end(), [&](const auto & arch) {
            return arch.first == model->arch;
        });
        if (!known) {
            return vp_fail(VP_BAD_ARGUMENT, format("architecture '%s' cannot be pruned", model->arch_name().c_str()));
        }
        if (hparams.n_layer_nextn > 0) {
            return vp_fail(VP_BAD_ARGUMENT, "models with multi-token prediction layers cannot be pruned");
        }
        if (hparams.use_alibi || !hparams.causal_attn) {
            return vp_fail(VP_BAD_ARGUMENT, "models with ALiBi or without causal attention cannot be pruned");
        }
        return VP_OK;
    });
}

int32_t vp_tokenize(
        const struct llama_vocab * vocab,
        const char  * text,
        int32_t       text_len,
        llama_token * tokens,
        int32_t       n_tokens_max,
        bool          add_special,
        bool          parse_special,
        int32_t     * n_tokens) {
    return vp_guard(VP_BAD_ARGUMENT, [&]() -> int32_t {
        *n_tokens = llama_tokenize(vocab, text, text_len, tokens, n_tokens_max, add_special, parse_special);
        return VP_OK;
    });
}

int32_t vp_token_embd(const struct llama_model * model, const llama_token * tokens, int32_t n_tokens, float * out) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        const auto * table = model->tok_embd;
        if (!table || table->ne[0] != model->hparams.n_embd) {
            return vp_fail(VP_BAD_ARGUMENT, "the model has no plain token embedding");
        }
        const auto    to_float = ggml_get_type_traits(table->type)->to_float;
        const int64_t n_embd   = table->ne[0];

        std::vector<uint8_t> row(table->nb[1]);
        for (int32_t i = 0; i < n_tokens; ++i) {
            if (tokens[i] < 0 || tokens[i] >= table->ne[1]) {
                return vp_fail(VP_BAD_ARGUMENT, format("token %d of a vocabulary of %d", tokens[i], (int) table->ne[1]));
            }
            ggml_backend_tensor_get(table, row.data(), tokens[i]*table->nb[1], row.size());
            if (to_float) {
                to_float(row.data(), out + i*n_embd, n_embd);
            } else {
                memcpy(out + i*n_embd, row.data(), n_embd*sizeof(float)); // F32
            }
        }
        return VP_OK;
    });
}

int32_t vp_n_pos_per_embd(const struct llama_model * model) {
    return model->hparams.n_pos_per_embd();
}

//
// memory
//

// what vp_init_from_model() asks of the llama_model::create_memory() below it on the stack
static thread_local const std::vector<vp_kv_group> * requested_groups = nullptr;

llama_memory_i * vp_create_memory(const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams) {
    if (!requested_groups) {
        return nullptr;
    }
    return new vp_kv_groups(model, params.type_k, params.type_v, cparams, params.swa_full, *requested_groups);
}

// try every cut once, so that a model that does not allow one fails here and not in the middle of a prompt
static bool check_cuts(llama_context & ctx, vp_kv_groups & kv) {
    vp_reserve_hidden(ctx, kv.prompt, 1);

    const auto mctx = kv.init_full();

    llama_batch_allocr balloc(ctx.get_model().hparams.n_pos_per_embd());
    const auto ubatch = balloc.ubatch_reserve(1, 1);

    auto & vp = vp_access::cparams(ctx).vp;

    bool res = true;
    for (const int32_t il : kv.boundaries()) {
        vp = { 0, il, -1, 0, VP_ATTENTION_PLAIN, &kv.prompt };
        res = res && vp_access::build_graph(ctx, ubatch, mctx.get());
        vp = { il, -1, -1, 0, VP_ATTENTION_PLAIN, &kv.prompt };
        res = res && vp_access::build_graph(ctx, ubatch, mctx.get());
    }
    vp = {};
    ctx.get_gf_res_reserve()->reset();
    return res;
}

static llama_context * init_with_groups(llama_model * model, llama_context_params params, std::vector<vp_kv_group> groups) {
    if (vp_model_supports_ranges(model) != VP_OK) {
        return nullptr;
    }
    const int32_t n_layer = model->hparams.n_layer();
    for (size_t i = 0; i < groups.size(); ++i) {
        const int32_t il = groups[i].il_begin;
        if ((i == 0 && il != 0) || (i > 0 && il <= groups[i - 1].il_begin) || il >= n_layer) {
            throw std::runtime_error(format("KV group %zu starts at layer %d: groups start at 0, ascend, and end below layer %d", i, il, n_layer));
        }
    }
    if (params.embeddings || params.ctx_type != LLAMA_CONTEXT_TYPE_DEFAULT) {
        throw std::runtime_error("staged prefill works in contexts for text generation only");
    }
    params.kv_unified = true; // one stream of cells per group

    struct scope {
        scope(const std::vector<vp_kv_group> * groups) { requested_groups = groups; }
        ~scope() { requested_groups = nullptr; }
    } scope(&groups);

    llama_context_ptr ctx(llama_init_from_model(model, params));
    if (!ctx) {
        throw std::runtime_error("the context could not be created"); // llama.cpp has logged why
    }
    if (!check_cuts(*ctx, *dynamic_cast<vp_kv_groups *>(ctx->get_memory()))) {
        throw std::runtime_error(format("the layers of '%s' cannot be run in ranges", model->arch_name().c_str()));
    }
    return ctx.release();
}

struct llama_context * vp_init_from_model(
        struct llama_model        * model,
        struct llama_context_params params,
        const struct vp_kv_group  * groups,
        size_t                      n_groups) {
    return vp_guard_ptr([&]() -> llama_context * {
        if (n_groups > 0) {
            return init_with_groups(model, params, { groups, groups + n_groups });
        }
        auto * ctx = llama_init_from_model(model, params);
        if (!ctx) {
            vp_set_error("the context could not be created");
        }
        return ctx;
    });
}

int32_t vp_decode(struct llama_context * ctx, struct llama_batch batch) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        if (batch.n_tokens <= 0 || (uint32_t) batch.n_tokens > ctx->n_batch()) {
            return vp_fail(VP_BAD_ARGUMENT, format("a batch of %d tokens; the context takes 1 to %u", batch.n_tokens, ctx->n_batch()));
        }
        if (!ctx->get_causal_attn() && (uint32_t) batch.n_tokens > ctx->n_ubatch()) {
            return vp_fail(VP_BAD_ARGUMENT, format("%d tokens that see each other both ways must fit in one ubatch of %u", batch.n_tokens, ctx->n_ubatch()));
        }
        return llama_decode(ctx, batch);
    });
}

//
// KV cache
//

int32_t vp_kv_evict(struct llama_context * ctx, int32_t il_begin, int32_t il_end, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        auto * kv = dynamic_cast<vp_kv_groups *>(ctx->get_memory());
        if (!kv || !kv->is_union(il_begin, il_end)) {
            return vp_fail(VP_BAD_ARGUMENT, format("layers [%d, %d) are not a union of KV groups", il_begin, il_end));
        }
        if (seq_id < 0 || (uint32_t) seq_id >= ctx->n_seq_max()) {
            return vp_fail(VP_BAD_ARGUMENT, format("sequence %d is not below %u", seq_id, ctx->n_seq_max()));
        }
        return kv->evict(il_begin, il_end, seq_id, p0, p1) ? VP_OK : vp_fail(VP_COMPUTE_FAILED, "the positions could not be removed");
    });
}

// the cache that holds layer il, NULL for other kinds of memory
static const llama_kv_cache * cache_of_layer(llama_memory_i * memory, const llama_hparams & hparams, int32_t il) {
    if (auto * kv = dynamic_cast<vp_kv_groups *>(memory)) {
        return kv->get(kv->group_of(il));
    }
    if (auto * kv = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        return hparams.is_swa(il) ? kv->get_swa() : kv->get_base();
    }
    return dynamic_cast<llama_kv_cache *>(memory);
}

int32_t vp_kv_usage(struct llama_context * ctx, int32_t il, uint32_t * n_cells, size_t * cell_bytes, size_t * allocated_bytes) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        const auto & hparams = ctx->get_model().hparams;
        if (il < 0 || il >= (int32_t) hparams.n_layer()) {
            return vp_fail(VP_BAD_ARGUMENT, format("layer %d of a model with %u layers", il, hparams.n_layer()));
        }
        const auto * cache = cache_of_layer(ctx->get_memory(), hparams, il);
        if (!cache) {
            return vp_fail(VP_BAD_ARGUMENT, "this model keeps no KV cache per layer");
        }
        *n_cells = 0;
        for (uint32_t s = 0; s < cache->get_n_stream(); ++s) {
            *n_cells += cache->get_cells(s).get_used();
        }
        *cell_bytes      = ggml_row_size(cache->type_k(), hparams.n_embd_k_gqa(il)) + ggml_row_size(cache->type_v(), hparams.n_embd_v_gqa(il));
        *allocated_bytes = *cell_bytes*cache->get_size()*cache->get_n_stream();
        return VP_OK;
    });
}
