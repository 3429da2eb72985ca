// Models and contexts: llama.cpp's own, checked first; and the memory of KV groups.

#include "vp-abort.h"
#include "vp-devices.h"
#include "vp-hooks.h"
#include "vp-seq.h"
#include "vp-status.h"
#include "vp-upstream.h"

#include "llama-impl.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory.h"
#include "llama-model.h"

#include "llama-cpp.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

const char * const * vp_supported_archs(void) {
    static const std::vector<const char *> names = [] {
        std::vector<const char *> res;
        for (const auto arch : vp_upstream_archs()) {
            res.push_back(llm_arch_name(arch));
        }
        res.push_back(nullptr);
        return res;
    }();
    return names.data();
}

struct llama_model * vp_model_load_from_file(const char * path, struct llama_model_params params) {
    return vp_guard_ptr([&]() -> llama_model * {
        vp_catch_asserts scope;
        llama_model_ptr model(llama_model_load_from_file(path, params));
        if (model) {
            vp_devices(*model).check();
        }
        return model.release();
    });
}

int32_t vp_model_supports_ranges(const struct llama_model * model) {
    return vp_guard(VP_BAD_ARGUMENT, [&]() -> int32_t {
        if (const char * reason = vp_upstream_refusal(*model)) {
            return vp_fail(VP_BAD_ARGUMENT, reason);
        }
        return VP_OK;
    });
}

bool vp_model_is_on_cpu(const struct llama_model * model) {
    for (int32_t il = 0; il < (int32_t) model->hparams.n_layer(); ++il) {
        auto * dev = model->dev_layer(il);
        if (dev && ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_CPU) {
            return false;
        }
    }
    return true;
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
        vp_catch_asserts scope;
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
    return new vp_kv_groups(model, params.type_k, params.type_v, cparams, *requested_groups);
}

// try every cut once, so that a model that does not allow one fails here and not in the middle of a prompt
static void check_cuts(vp_context & ctx) {
    auto & lctx = *ctx.lctx;
    ctx.hidden.reserve(lctx, ctx.kv->boundaries(), 1);
    ctx.call.hidden = &ctx.hidden;

    const auto mctx = ctx.kv->init_full();

    llama_batch_allocr balloc(ctx.hparams().n_pos_per_embd());
    const auto ubatch = balloc.ubatch_reserve(1, 1);

    auto & vp = vp_access::cparams(lctx).vp;

    const auto try_range = [&](int32_t il_begin, int32_t il_end) {
        vp = {};
        vp.il_begin = il_begin;
        vp.il_end   = il_end;
        vp.call     = &ctx.call;
        const bool is_built = vp_access::build_graph(lctx, ubatch, mctx.get());
        vp = {};
        if (!is_built) {
            throw std::runtime_error(format("the layers of '%s' cannot be run in ranges", lctx.get_model().arch_name().c_str()));
        }
        if (!vp_upstream_outputs_are_known(*lctx.get_gf_res_reserve(), il_end < 0)) {
            throw std::runtime_error("a range of layers keeps an output of the model that is not known here");
        }
    };
    for (const int32_t il : ctx.kv->boundaries()) {
        try_range(0, il);
        try_range(il, -1);
    }
    lctx.get_gf_res_reserve()->reset();
}

static void check_groups(const llama_model & model, const llama_context_params & params, const std::vector<vp_kv_group> & groups) {
    const int32_t n_layer = model.hparams.n_layer();
    for (size_t i = 0; i < groups.size(); ++i) {
        const int32_t il = groups[i].il_begin;
        if ((i == 0 && il != 0) || (i > 0 && il <= groups[i - 1].il_begin) || il >= n_layer) {
            throw std::runtime_error(format("KV group %zu starts at layer %d: groups start at 0, ascend, and end below layer %d", i, il, n_layer));
        }
    }
    if (params.embeddings || params.ctx_type != LLAMA_CONTEXT_TYPE_DEFAULT) {
        throw std::runtime_error("staged prefill works in contexts for text generation only");
    }
}

struct vp_context * vp_init_from_model(
        struct llama_model        * model,
        struct llama_context_params params,
        const struct vp_kv_group  * groups,
        size_t                      n_groups) {
    return vp_guard_ptr([&]() -> vp_context * {
        vp_catch_asserts catch_asserts;
        const std::vector<vp_kv_group> desc(groups, groups + n_groups);
        if (n_groups > 0) {
            if (vp_model_supports_ranges(model) != VP_OK) {
                return nullptr;
            }
            check_groups(*model, params, desc);
        }
        params.kv_unified = true; // one stream of cells, which sequences can share
        params.swa_full   = true; // sequences are rolled back, also to before their window

        struct scope {
            scope(const std::vector<vp_kv_group> * groups) { requested_groups = groups; }
            ~scope() { requested_groups = nullptr; }
        } scope(n_groups > 0 ? &desc : nullptr);

        auto ctx = std::make_unique<vp_context>();
        ctx->devices = vp_devices(*model);
        ctx->devices.check();
        ctx->lctx.reset(llama_init_from_model(model, params));
        if (!ctx->lctx) {
            throw std::runtime_error("the context could not be created"); // llama.cpp has logged why
        }
        ctx->ids.resize(ctx->lctx->n_seq_max());
        if (n_groups > 0) {
            ctx->kv     = dynamic_cast<vp_kv_groups *>(ctx->lctx->get_memory());
            ctx->hidden = vp_hidden_rows(*model);
            check_cuts(*ctx);
        }
        ctx->devices.check();
        return ctx.release();
    });
}

void vp_free(struct vp_context * ctx) {
    delete ctx;
}

struct llama_context * vp_llama_context(struct vp_context * ctx) {
    return ctx->lctx.get();
}

//
// KV cache
//

// the cache that holds layer il, NULL for other kinds of memory
static const llama_kv_cache * cache_of_layer(const vp_context & ctx, int32_t il) {
    if (ctx.kv) {
        return ctx.kv->get(ctx.kv->group_of(il));
    }
    auto * memory = llama_get_memory(ctx.lctx.get());
    if (auto * kv = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        return ctx.hparams().is_swa(il) ? kv->get_swa() : kv->get_base();
    }
    return dynamic_cast<llama_kv_cache *>(memory);
}

// the same, or a vp_error
static const llama_kv_cache & get_cache_of_layer(const vp_context & ctx, int32_t il) {
    if (il < 0 || il >= ctx.n_layer()) {
        throw vp_error(VP_BAD_ARGUMENT, format("layer %d of a model with %d layers", il, ctx.n_layer()));
    }
    const auto * cache = cache_of_layer(ctx, il);
    if (!cache) {
        throw vp_error(VP_UNSUPPORTED, "this model keeps no KV cache per layer");
    }
    return *cache;
}

int32_t vp_seq_usage(struct vp_context * ctx, vp_seq seq, int32_t il, uint32_t * n_cells) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        const auto & s = *ctx->get(seq);
        *n_cells = get_cache_of_layer(*ctx, il).get_cells(s.id).seq_pos_get(s.id).size();
        return VP_OK;
    });
}

int32_t vp_kv_usage(struct vp_context * ctx, int32_t il, uint32_t * n_cells, size_t * cell_bytes, size_t * allocated_bytes) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        const auto & hparams = ctx->hparams();
        const auto & cache   = get_cache_of_layer(*ctx, il);
        *n_cells         = cache.get_cells(0).get_used(); // one stream, see vp_init_from_model()
        *cell_bytes      = ggml_row_size(cache.type_k(), hparams.n_embd_k_gqa(il)) + ggml_row_size(cache.type_v(), hparams.n_embd_v_gqa(il));
        *allocated_bytes = *cell_bytes*cache.get_size();
        return VP_OK;
    });
}
