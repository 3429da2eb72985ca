// The contribution of each key to the attention output of the last prompt row, in closed form.
//
// With c_j = concat over heads h of a[h][j] * v[g(h)][j] and o the attention output of the row:
//   ||c_j||^2 = sum over h of a[h][j]^2 * ||v[g(h)][j]||^2,   o.c_j = sum over h of a[h][j] * (o[h] . v[g(h)][j])
// so no tensor of heads x keys x head size is ever needed, and only the weights of one row are: it works beside flash
// attention. If V is stored rotated, so is `cur` here, and neither sum notices.

#include "vp-hooks.h"

#include "llama-graph.h"

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
    if (!graph.cparams.vp.prompt || il != graph.cparams.vp.probe_il) {
        return;
    }

    auto * ctx0 = graph.ctx0;
    const auto & hparams = graph.hparams;

    const bool v_trans = v->nb[1] > v->nb[2];

    const int64_t n_embd_head_v = v_trans ? v->ne[2] : v->ne[0];
    const int64_t n_head    = q->ne[1];
    const int64_t n_head_kv = k->ne[1];
    const int64_t n_group   = n_head/n_head_kv; // query heads per KV head
    const int64_t n_kv      = k->ne[2];
    const int64_t i_last    = q->ne[2] - 1;

    // weights of the last row: [n_kv, n_group, n_head_kv]
    auto * q_last = ggml_view_3d(ctx0, q, q->ne[0], n_head, 1, q->nb[1], q->nb[2], i_last*q->nb[2]);
    auto * a = ggml_mul_mat(ctx0, ggml_permute(ctx0, k, 0, 2, 1, 3), ggml_permute(ctx0, q_last, 0, 2, 1, 3));
    ggml_prec_set_acc(a, GGML_PREC_F32);
    if (hparams.attn_soft_cap) {
        a = ggml_scale(ctx0, a, 1.0f/hparams.f_attn_logit_softcapping);
        a = ggml_scale(ctx0, ggml_tanh(ctx0, a), hparams.f_attn_logit_softcapping);
    }
    auto * mask_last = ggml_view_2d(ctx0, kq_mask, n_kv, 1, kq_mask->nb[1], i_last*kq_mask->nb[1]);
    a = ggml_soft_max_ext(ctx0, a, mask_last, kq_scale, hparams.f_max_alibi_bias);
    ggml_soft_max_add_sinks(a, sinks);
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

    const auto sum_heads = [&](ggml_tensor * t) {
        t = ggml_cont(ctx0, ggml_transpose(ctx0, ggml_reshape_2d(ctx0, t, n_kv, n_head)));
        return ggml_reshape_1d(ctx0, ggml_sum_rows(ctx0, t), n_kv);
    };
    auto * norm2 = sum_heads(ggml_mul(ctx0, ggml_sqr(ctx0, a), v_norm2));
    auto * dot   = sum_heads(ggml_mul(ctx0, a, ov));

    auto * o_last  = ggml_view_1d(ctx0, cur, cur->ne[0], i_last*cur->nb[1]);
    auto * o_norm2 = ggml_reshape_1d(ctx0, ggml_sum_rows(ctx0, ggml_sqr(ctx0, o_last)), 1);

    auto * res = ggml_concat(ctx0, ggml_concat(ctx0, norm2, dot, 0), o_norm2, 0); // [2*n_kv + 1]
    graph.cb(res, "vp_probe", il);
    ggml_set_output(res);
    ggml_build_forward_expand(graph.gf, res);
}
