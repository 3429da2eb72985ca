// Attention inputs (indices, masks) for a memory of KV groups: one set per layout, shared by the groups that have it.

#include "vp-hooks.h"
#include "vp-kv-groups.h"

#include "visipruner.h"

#include "llama-graph.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

namespace {

// VP_ATTENTION_MASK: hides the keys of the call in progress from its affected queries
// mask: [n_kv, n_tokens], written by the host
template <typename T>
void hide_keys(
        T * mask, T hidden, int64_t n_kv,
        const llama_ubatch & ubatch,
        const vp_call & call,
        const std::vector<int32_t> & cells_of_rows) {
    const auto is_visible = [](T v) { return std::isfinite(std::is_same<T, ggml_fp16_t>::value ? ggml_fp16_to_fp32((ggml_fp16_t) v) : (float) v); };

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        const int32_t i_batch = ubatch.data->batch_idxs[i];
        if (!call.affected.empty() && !call.affected[i_batch]) {
            continue;
        }
        T * row = mask + i*n_kv;

        const int32_t own_cell = cells_of_rows[call.rows[i_batch]];
        const T       own      = row[own_cell];

        for (const int32_t key : call.keys) {
            if (cells_of_rows[key] >= 0) {
                row[cells_of_rows[key]] = hidden;
            }
        }

        // softmax over nothing is not a number: such a query keeps itself
        if (std::none_of(row, row + n_kv, is_visible)) {
            row[own_cell] = own;
        }
    }
}

// without a causal mask a row sees all rows of its sequence that are stored: hides those after `until`
// mask: [n_kv, n_tokens], written by the host
template <typename T>
void hide_later_rows(T * mask, T hidden, int64_t n_kv, int64_t n_tokens, const vp_kv_groups & kv, uint32_t g, int32_t until) {
    kv.for_each_cell(g, [&](uint32_t cell, int32_t row) {
        for (int64_t i = 0; row > until && cell < n_kv && i < n_tokens; ++i) {
            mask[i*n_kv + cell] = hidden;
        }
    });
}

class attn_input_groups {
public:
    attn_input_groups(const llm_graph_context & graph, const vp_kv_groups_context * mctx) : mctx(mctx) {
        sub_of_group = mctx->layout_classes(reps);
        for (const uint32_t g : reps) {
            subs.push_back(build_sub(graph, mctx->get(g)));
        }
    }

    void set_input(const llama_ubatch * ubatch) {
        for (size_t c = 0; c < subs.size(); ++c) {
            subs[c]->set_input(ubatch);
            set_input_hidden_keys(c, *ubatch);
        }
    }

    bool can_reuse(const llm_graph_params & params) {
        mctx = static_cast<const vp_kv_groups_context *>(params.mctx);
        if (mctx->layout_classes(reps) != sub_of_group) {
            return false;
        }
        bool res = true;
        for (size_t c = 0; c < subs.size(); ++c) {
            llm_graph_params params_sub = params;
            params_sub.mctx = mctx->get(reps[c]);
            res = subs[c]->can_reuse(params_sub) && res;
        }
        return res;
    }

    llm_graph_input_attn_kv * layer(int il) {
        const uint32_t g = mctx->get_kv()->group_of(il);
        auto * sub = subs[sub_of_group[g]].get();
        sub->mctx = mctx->get(g); // the groups of a layout share indices and mask, not the cache
        return sub;
    }

private:
    static std::unique_ptr<llm_graph_input_attn_kv> build_sub(const llm_graph_context & graph, const llama_kv_cache_context * mctx) {
        auto * ctx0 = graph.ctx0;

        auto res = std::make_unique<llm_graph_input_attn_kv>(graph.hparams, graph.cparams, mctx);

        res->self_k_idxs = mctx->build_input_k_idxs(ctx0, graph.ubatch);
        res->self_v_idxs = mctx->build_input_v_idxs(ctx0, graph.ubatch);

        // as upstream builds it, for one stream
        res->self_kq_mask = ggml_new_tensor_4d(ctx0, graph.cparams.flash_attn ? GGML_TYPE_F16 : GGML_TYPE_F32,
                mctx->get_n_kv(), graph.ubatch.n_tokens, 1, 1);
        ggml_set_input(res->self_kq_mask);
        ggml_set_name(res->self_kq_mask, "attn_inp_kq_mask");
        res->self_kq_mask_cnv = res->self_kq_mask;

        res->self_k_rot = mctx->build_input_k_rot(ctx0);
        res->self_v_rot = mctx->build_input_v_rot(ctx0);

        return res;
    }

    void set_input_hidden_keys(size_t c, const llama_ubatch & ubatch) {
        const auto * mask = subs[c]->self_kq_mask;
        if (!subs[c]->cparams.vp.call || mask->buffer == nullptr || !mctx->get_kv()->active(reps[c])) {
            return;
        }
        if (mask->type == GGML_TYPE_F16) {
            hide(c, (ggml_fp16_t *) mask->data, ggml_fp32_to_fp16(-INFINITY), ubatch);
        } else {
            hide(c, (float *) mask->data, -INFINITY, ubatch);
        }
    }

    template <typename T>
    void hide(size_t c, T * mask, T hidden, const llama_ubatch & ubatch) {
        const auto &   vp   = subs[c]->cparams.vp;
        const auto &   kv   = *mctx->get_kv();
        const int64_t  n_kv = subs[c]->self_kq_mask->ne[0];
        const uint32_t g    = reps[c];

        if (vp.call->both_ways_until >= 0) {
            hide_later_rows(mask, hidden, n_kv, (int64_t) ubatch.n_tokens, kv, g, vp.call->both_ways_until);
        }
        if (vp.mode == VP_ATTENTION_MASK) {
            const int32_t n_rows = std::max(vp.call->keys.back(), vp.call->rows.back()) + 1;
            hide_keys(mask, hidden, n_kv, ubatch, *vp.call, kv.cells_of_rows(g, vp.call->seq_id, n_rows));
        }
    }

    const vp_kv_groups_context * mctx;

    std::vector<uint32_t> sub_of_group; // [n_groups]
    std::vector<uint32_t> reps;         // [subs] first group of each layout

    std::vector<std::unique_ptr<llm_graph_input_attn_kv>> subs;
};

class attn_input_kv : public llm_graph_input_attn_kv {
public:
    attn_input_kv(const llm_graph_context & graph, const vp_kv_groups_context * mctx) :
        llm_graph_input_attn_kv(graph.hparams, graph.cparams, nullptr), groups(graph, mctx) {}

    void set_input(const llama_ubatch * ubatch) override { groups.set_input(ubatch); }
    bool can_reuse(const llm_graph_params & params) override { return groups.can_reuse(params); }

    attn_input_groups groups;
};

class attn_input_kv_iswa : public llm_graph_input_attn_kv_iswa {
public:
    attn_input_kv_iswa(const llm_graph_context & graph, const vp_kv_groups_context * mctx) :
        llm_graph_input_attn_kv_iswa(graph.hparams, graph.cparams, nullptr), groups(graph, mctx) {}

    void set_input(const llama_ubatch * ubatch) override { groups.set_input(ubatch); }
    bool can_reuse(const llm_graph_params & params) override { return groups.can_reuse(params); }

    attn_input_groups groups;
};

template <typename T, typename B>
B * build_attn_inp(const llm_graph_context & graph) {
    const auto * mctx = dynamic_cast<const vp_kv_groups_context *>(graph.mctx);
    if (!mctx) {
        return nullptr;
    }
    return static_cast<B *>(graph.res->add_input(std::make_unique<T>(graph, mctx)));
}

} // namespace

llm_graph_input_attn_kv * vp_build_attn_inp_kv(const llm_graph_context & graph) {
    return build_attn_inp<attn_input_kv, llm_graph_input_attn_kv>(graph);
}

llm_graph_input_attn_kv_iswa * vp_build_attn_inp_kv_iswa(const llm_graph_context & graph) {
    return build_attn_inp<attn_input_kv_iswa, llm_graph_input_attn_kv_iswa>(graph);
}

llm_graph_input_attn_kv * vp_attn_input(llm_graph_input_attn_kv * inp, int il) {
    auto * inp_groups = dynamic_cast<attn_input_kv *>(inp);
    return inp_groups ? inp_groups->groups.layer(il) : inp;
}

llm_graph_input_attn_kv * vp_attn_input(llm_graph_input_attn_kv_iswa * inp, int il) {
    auto * inp_groups = dynamic_cast<attn_input_kv_iswa *>(inp);
    return inp_groups ? inp_groups->groups.layer(il) : nullptr;
}
