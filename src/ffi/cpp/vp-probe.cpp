// What is read from the attention of one layer, beside the attention itself: only the weights of a few rows are
// computed a second time, so it works with flash attention.

#include "vp-hooks.h"
#include "vp-kv-groups.h"

#include "llama-graph.h"

#include <memory>
#include <string>

namespace {

// which batch rows are queries of the probe
class input_probe_queries : public llm_graph_input_i {
public:
    input_probe_queries(const vp_call * call) : call(call) {}

    void set_input(const llama_ubatch *) override {
        ggml_backend_tensor_set(idx, call->queries.data(), 0, ggml_nbytes(idx));
    }

    bool can_reuse(const llm_graph_params & params) override {
        return params.cparams.vp.call == call && params.cparams.vp.n_queries == idx->ne[0];
    }

    ggml_tensor * idx = nullptr; // I32 [n_queries]

private:
    const vp_call * call;
};

// the weights of some queries as the attention proper has them: [n_kv, n_queries, n_head]
ggml_tensor * attn_weights(
        const llm_graph_context & graph,
        ggml_tensor * q,       // [n_embd_head_k, n_head, n_queries]
        ggml_tensor * k,       // [n_embd_head_k, n_head_kv, n_kv]
        ggml_tensor * kq_mask, // [n_kv, n_queries]
        ggml_tensor * sinks,
        float         kq_scale) {
    auto * ctx0 = graph.ctx0;
    const auto & hparams = graph.hparams;

    auto * a = ggml_mul_mat(ctx0, ggml_permute(ctx0, k, 0, 2, 1, 3), ggml_permute(ctx0, q, 0, 2, 1, 3));
    ggml_prec_set_acc(a, GGML_PREC_F32);
    if (hparams.attn_soft_cap) {
        a = ggml_scale(ctx0, a, 1.0f/hparams.f_attn_logit_softcapping);
        a = ggml_scale(ctx0, ggml_tanh(ctx0, a), hparams.f_attn_logit_softcapping);
    }
    a = ggml_soft_max_ext(ctx0, a, kq_mask, kq_scale, hparams.f_max_alibi_bias);
    ggml_soft_max_add_sinks(a, sinks);
    return a;
}

// t summed over all but its first dimension
ggml_tensor * sum_keys(ggml_context * ctx0, ggml_tensor * t) {
    const int64_t n_kv = t->ne[0];
    t = ggml_cont(ctx0, ggml_transpose(ctx0, ggml_reshape_2d(ctx0, t, n_kv, ggml_nelements(t)/n_kv)));
    return ggml_reshape_1d(ctx0, ggml_sum_rows(ctx0, t), n_kv);
}

// VP_STATISTIC_CONTRIBUTION: the contribution of each key to the attention output of the last row, in closed form
//
// With c_j = concat over heads h of a[h][j] * v[g(h)][j] and o the attention output of the row:
//   ||c_j||^2 = sum over h of a[h][j]^2 * ||v[g(h)][j]||^2,   o.c_j = sum over h of a[h][j] * (o[h] . v[g(h)][j])
// so no tensor of heads x keys x head size is ever needed. If V is stored rotated, so is `cur` here, and neither sum
// notices.
//
// returns [2*n_kv + n_embd_head_v*n_head]: ||c_j||^2, o.c_j, o
ggml_tensor * contribution(
        const llm_graph_context & graph,
        ggml_tensor * q,
        ggml_tensor * k,
        ggml_tensor * v,
        ggml_tensor * kq_mask,
        ggml_tensor * sinks,
        ggml_tensor * cur,
        float         kq_scale) {
    auto * ctx0 = graph.ctx0;

    const bool v_trans = v->nb[1] > v->nb[2];

    const int64_t n_embd_head_v = v_trans ? v->ne[2] : v->ne[0];
    const int64_t n_head    = q->ne[1];
    const int64_t n_head_kv = k->ne[1];
    const int64_t n_group   = n_head/n_head_kv; // query heads per KV head
    const int64_t n_kv      = k->ne[2];
    const int64_t i_last    = q->ne[2] - 1;

    auto * q_last    = ggml_view_3d(ctx0, q, q->ne[0], n_head, 1, q->nb[1], q->nb[2], i_last*q->nb[2]);
    auto * mask_last = ggml_view_2d(ctx0, kq_mask, n_kv, 1, kq_mask->nb[1], i_last*kq_mask->nb[1]);

    auto * a = attn_weights(graph, q_last, k, mask_last, sinks, kq_scale);
    a = ggml_reshape_3d(ctx0, a, n_kv, n_group, n_head_kv);

    // values: F32 [n_embd_head_v, n_kv, n_head_kv]; the cast comes first where V may be quantized, and makes it whole
    auto * v_f32 = v_trans ?
        ggml_cast   (ctx0, ggml_permute(ctx0, v, 1, 2, 0, 3), GGML_TYPE_F32) :
        ggml_permute(ctx0, ggml_cast(ctx0, v, GGML_TYPE_F32), 0, 2, 1, 3);

    // attention output of the last row: [n_embd_head_v, n_group, n_head_kv]
    auto * o = ggml_view_3d(ctx0, cur, n_embd_head_v, n_group, n_head_kv,
            n_embd_head_v*cur->nb[0], n_embd_head_v*n_group*cur->nb[0], i_last*cur->nb[1]);

    auto * v_norm2 = ggml_sum_rows(ctx0, ggml_sqr(ctx0, v_f32));         // [1, n_kv, n_head_kv]
    v_norm2 = ggml_reshape_3d(ctx0, v_norm2, n_kv, 1, n_head_kv);
    auto * ov = ggml_mul_mat(ctx0, v_f32, o);                           // [n_kv, n_group, n_head_kv]
    ggml_prec_set_acc(ov, GGML_PREC_F32);

    auto * norm2 = sum_keys(ctx0, ggml_mul(ctx0, ggml_sqr(ctx0, a), v_norm2));
    auto * dot   = sum_keys(ctx0, ggml_mul(ctx0, a, ov));

    auto * o_last = ggml_view_1d(ctx0, cur, cur->ne[0], i_last*cur->nb[1]);

    return ggml_concat(ctx0, ggml_concat(ctx0, norm2, dot, 0), o_last, 0);
}

// VP_STATISTIC_ATTENTION: the weights that some rows put on each key, averaged over heads and summed over these rows
//
// returns [n_kv]
ggml_tensor * attention(
        const llm_graph_context & graph,
        ggml_tensor * q,
        ggml_tensor * k,
        ggml_tensor * kq_mask,
        ggml_tensor * sinks,
        float         kq_scale) {
    auto * ctx0 = graph.ctx0;

    auto inp = std::make_unique<input_probe_queries>(graph.cparams.vp.call);
    inp->idx = ggml_new_tensor_1d(ctx0, GGML_TYPE_I32, graph.cparams.vp.n_queries);
    ggml_set_input(inp->idx);
    ggml_set_name(inp->idx, "vp_probe_queries");

    auto * q_rows = ggml_cont_2d(ctx0, q, q->ne[0]*q->ne[1], q->ne[2]);
    q_rows = ggml_get_rows(ctx0, q_rows, inp->idx);
    q_rows = ggml_reshape_3d(ctx0, q_rows, q->ne[0], q->ne[1], q_rows->ne[1]);

    auto * a = attn_weights(graph, q_rows, k, ggml_get_rows(ctx0, kq_mask, inp->idx), sinks, kq_scale);

    graph.res->add_input(std::move(inp));
    return ggml_scale(ctx0, sum_keys(ctx0, a), 1.0f/q->ne[1]);
}

} // namespace

std::string vp_probe_name(int32_t il) {
    return "vp_probe-" + std::to_string(il);
}

void vp_attn_probe(
        const llm_graph_context & graph,
        ggml_tensor * q,       // [n_embd_head_k, n_head, n_tokens]
        ggml_tensor * k,       // [n_embd_head_k, n_head_kv, n_kv]
        ggml_tensor * v,       // [n_embd_head_v, n_head_kv, n_kv] or [n_kv, n_head_kv, n_embd_head_v]
        ggml_tensor * kq_mask, // [n_kv, n_tokens]
        ggml_tensor * sinks,
        ggml_tensor * cur,     // [n_embd_head_v*n_head, n_tokens]
        float         kq_scale,
        int           il) {
    const auto & vp = graph.cparams.vp;
    if (!vp.call || !vp.is_probed(il)) {
        return;
    }
    auto * res = vp.n_queries > 0 ?
        attention   (graph, q, k,    kq_mask, sinks,      kq_scale) :
        contribution(graph, q, k, v, kq_mask, sinks, cur, kq_scale);

    // of several layers one tensor, so that the host reads once
    if (il > vp.probe_il) {
        res = ggml_concat(graph.ctx0, ggml_graph_get_tensor(graph.gf, vp_probe_name(il - 1).c_str()), res, 0);
    }
    ggml_set_name(res, vp_probe_name(il).c_str());
    ggml_set_output(res);
    ggml_build_forward_expand(graph.gf, res);
}
