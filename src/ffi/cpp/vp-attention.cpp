// Changes to the attention weights after softmax, made on V: the weights of the hidden keys times zero equal the
// weights times a V that is zero there, and their sum on one key equals the weights times a V that is that key's
// everywhere. So flash attention needs no change, and the cache keeps the true V.

#include "vp-hooks.h"
#include "vp-kv-groups.h"

#include "visipruner.h"

#include "llama-graph.h"

#include <vector>

namespace {

// the cells of the hidden keys in one KV group
class input_hidden_keys : public llm_graph_input_i {
public:
    input_hidden_keys(const vp_kv_groups_context * mctx, const vp_call * call, uint32_t g, bool has_first) :
        has_first(has_first), mctx(mctx), call(call), g(g) {}

    void set_input(const llama_ubatch * ubatch) override {
        GGML_UNUSED(ubatch);

        const size_t n_kv  = keep->ne[0];
        const auto   cells = mctx->get_kv()->cells_of_rows(g, call->seq_id, call->keys.back() + 1);

        std::vector<float> v_keep(n_kv, 1.0f);
        std::vector<float> v_hidden(n_kv, 0.0f);
        for (const int32_t key : call->keys) {
            if (cells[key] >= 0) {
                v_keep  [cells[key]] = 0.0f;
                v_hidden[cells[key]] = 1.0f;
            }
        }
        ggml_backend_tensor_set(keep, v_keep.data(), 0, ggml_nbytes(keep));

        if (has_first) {
            std::vector<float> v_first(n_kv, 0.0f);
            v_first[cells[call->keys.front()]] = 1.0f;
            ggml_backend_tensor_set(first,  v_first .data(), 0, ggml_nbytes(first));
            ggml_backend_tensor_set(hidden, v_hidden.data(), 0, ggml_nbytes(hidden));
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        mctx = static_cast<const vp_kv_groups_context *>(params.mctx);
        return params.cparams.vp.call == call; // n_kv is checked by the attention input
    }

    const bool has_first;

    ggml_tensor * keep   = nullptr; // F32 [n_kv] 0 for hidden keys, else 1
    ggml_tensor * first  = nullptr; // F32 [n_kv] 1 for the first hidden key, else 0
    ggml_tensor * hidden = nullptr; // F32 [n_kv] 1 for hidden keys, else 0

private:
    const vp_kv_groups_context * mctx;
    const vp_call              * call;
    const uint32_t               g;
};

input_hidden_keys * build_input(const llm_graph_context & graph, int64_t n_kv, int il) {
    const auto & vp   = graph.cparams.vp;
    const auto * mctx = static_cast<const vp_kv_groups_context *>(graph.mctx);

    auto inp = std::make_unique<input_hidden_keys>(mctx, vp.call, mctx->get_kv()->group_of(il), vp.mode == VP_ATTENTION_MERGE);

    const auto new_input = [&](const char * name) {
        auto * t = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_F32, n_kv);
        ggml_set_input(t);
        graph.cb(t, name, il);
        return t;
    };
    inp->keep = new_input("vp_keep");
    if (inp->has_first) {
        inp->first  = new_input("vp_first");
        inp->hidden = new_input("vp_hidden");
    }
    return static_cast<input_hidden_keys *>(graph.res->add_input(std::move(inp)));
}

// v: [n_kv, n_head_kv, n_embd_head], the cache without flash attention
ggml_tensor * change_values_trans(ggml_context * ctx0, ggml_tensor * v, const input_hidden_keys & inp) {
    v = ggml_permute(ctx0, v, 0, 2, 1, 3); // [n_kv, n_embd_head, n_head_kv]

    ggml_tensor * cur = ggml_mul(ctx0, v, inp.keep);
    if (inp.has_first) {
        auto * onehot  = ggml_repeat_4d(ctx0, inp.first, v->ne[0], 1, v->ne[2], 1);
        auto * v_first = ggml_mul_mat(ctx0, v, onehot);                                   // [n_embd_head, 1, n_head_kv]
        v_first = ggml_reshape_3d(ctx0, v_first, 1, v_first->ne[0], v_first->ne[2]);
        v_first = ggml_repeat_4d(ctx0, v_first, v->ne[0], v->ne[1], v->ne[2], 1);
        cur = ggml_add(ctx0, cur, ggml_mul(ctx0, v_first, inp.hidden));
    }
    return ggml_permute(ctx0, cur, 0, 2, 1, 3);
}

// v: [n_embd_head, n_head_kv, n_kv], the cache with flash attention
ggml_tensor * change_values(ggml_context * ctx0, ggml_tensor * v, const input_hidden_keys & inp) {
    const int64_t n_kv = v->ne[2];

    if (ggml_is_quantized(v->type)) {
        v = ggml_cast(ctx0, v, GGML_TYPE_F32);
    }

    ggml_tensor * cur = ggml_mul(ctx0, v, ggml_reshape_3d(ctx0, inp.keep, 1, 1, n_kv));
    if (inp.has_first) {
        auto * v_f32   = v->type == GGML_TYPE_F32 ? v : ggml_cast(ctx0, v, GGML_TYPE_F32);
        auto * v_cells = ggml_cont(ctx0, ggml_permute(ctx0, v_f32, 1, 2, 0, 3));          // [n_kv, n_embd_head, n_head_kv]
        auto * onehot  = ggml_repeat_4d(ctx0, inp.first, n_kv, 1, v_cells->ne[2], 1);
        auto * v_first = ggml_mul_mat(ctx0, v_cells, onehot);                             // [n_embd_head, 1, n_head_kv]
        v_first = ggml_reshape_3d(ctx0, v_first, v_first->ne[0], v_first->ne[2], 1);
        v_first = ggml_repeat_4d(ctx0, v_first, v_first->ne[0], v_first->ne[1], n_kv, 1);
        cur = ggml_add(ctx0, cur, ggml_mul(ctx0, v_first, ggml_reshape_3d(ctx0, inp.hidden, 1, 1, n_kv)));
    }
    return cur;
}

} // namespace

ggml_tensor * vp_attn_values(const llm_graph_context & graph, ggml_tensor * v, int il) {
    const auto & vp = graph.cparams.vp;
    if (!vp.call || (vp.mode != VP_ATTENTION_ZERO && vp.mode != VP_ATTENTION_MERGE)) {
        return v;
    }
    if (il < vp.il_begin || (vp.il_end >= 0 && il >= vp.il_end)) {
        return v; // cut away anyway
    }

    const bool v_trans = v->nb[1] > v->nb[2];

    const auto * inp = build_input(graph, v_trans ? v->ne[0] : v->ne[2], il);

    ggml_tensor * cur = v_trans ? change_values_trans(graph.ctx0, v, *inp) : change_values(graph.ctx0, v, *inp);
    graph.cb(cur, "vp_v", il);
    return cur;
}
