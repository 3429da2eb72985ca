// What an inspection reads beside the probes: small graphs of their own on what a sequence has left in the context.

#include "vp-seq.h"

#include "vp-status.h"
#include "vp-upstream.h"

#include "llama-batch.h"
#include "llama-impl.h"

#include <algorithm>
#include <limits>
#include <new>

namespace {

struct graph_input {
    ggml_tensor              * tensor; // F32 [n]
    const std::vector<float> & values; // [n]
};

// computes one tensor on the scheduler of the context; the graphs that it held are built anew afterwards
std::vector<float> compute(vp_context & ctx, ggml_context * ctx0, ggml_tensor * out, const std::vector<graph_input> & inputs) {
    auto * gf = ggml_new_graph(ctx0);
    ggml_set_output(out);
    ggml_build_forward_expand(gf, out);

    auto & lctx = *ctx.lctx;
    vp_access::forget_graphs(lctx);
    auto * sched = lctx.get_sched();
    ggml_backend_sched_reset(sched);
    if (!ggml_backend_sched_alloc_graph(sched, gf)) {
        throw std::bad_alloc();
    }
    for (const auto & input : inputs) {
        ggml_backend_tensor_set(input.tensor, input.values.data(), 0, ggml_nbytes(input.tensor));
    }
    const auto status = lctx.graph_compute(gf, false);
    lctx.synchronize();
    if (status != GGML_STATUS_SUCCESS) {
        ggml_backend_sched_reset(sched);
        ctx.devices.check();
        throw status == GGML_STATUS_ABORTED ? vp_error(VP_ABORTED, "stopped by the caller") : vp_error(VP_COMPUTE_FAILED, "the graph could not be computed");
    }

    std::vector<float> res(ggml_nelements(out));
    ggml_backend_tensor_get(out, res.data(), 0, ggml_nbytes(out));
    ggml_backend_sched_reset(sched);
    ctx.devices.check();
    return res;
}

ggml_context_ptr new_graph_context() {
    const ggml_init_params params = { 64*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true };
    return ggml_context_ptr(ggml_init(params));
}

ggml_tensor * linear(ggml_context * ctx0, ggml_tensor * w, ggml_tensor * scale, ggml_tensor * bias, ggml_tensor * cur) {
    cur = ggml_mul_mat(ctx0, w, cur);
    if (scale) {
        cur = ggml_mul(ctx0, cur, scale);
    }
    return bias ? ggml_add(ctx0, cur, bias) : cur;
}

// what the output norm reads, in a graph of one row; NULL if the graph does not end in a norm
ggml_tensor * before_output_norm(const llm_graph_result & res) {
    for (auto * t = res.t_embd; t; t = t->src[0]) {
        if (t->op == GGML_OP_RMS_NORM || t->op == GGML_OP_NORM) {
            return t->src[0];
        }
        if (t->op == GGML_OP_GET_ROWS) { // of one row the rows asked for are that row
            t->op     = GGML_OP_CONT;
            t->src[1] = nullptr;
            continue;
        }
        if (t->op != GGML_OP_MUL && t->op != GGML_OP_ADD) { // weight and bias
            return nullptr;
        }
    }
    return nullptr;
}

// the logits of a row that takes the place of what the output norm reads: the end of the model's own graph
std::vector<float> ending(vp_context & ctx, const std::vector<float> & row) {
    auto & lctx = *ctx.lctx;

    const auto mctx = ctx.kv->init_full();
    llama_batch_allocr balloc(ctx.hparams().n_pos_per_embd());
    auto & res = vp_access::build_graph_of_one_row(lctx, balloc.ubatch_reserve(1, 1), mctx.get());

    auto * inp = before_output_norm(res);
    if (!inp || !res.t_logits || ggml_nelements(inp) != (int64_t) row.size()) {
        throw vp_error(VP_UNSUPPORTED, "the end of this model's graph is not known here");
    }
    inp->op       = GGML_OP_NONE;
    inp->view_src = nullptr;
    std::fill(inp->src, inp->src + GGML_MAX_SRC, nullptr);
    ggml_set_input(inp);

    const auto ctx0 = new_graph_context();
    return compute(ctx, ctx0.get(), res.t_logits, {{ inp, row }});
}

// where layer il can be looked into
void check_layer(const vp_context & ctx, int32_t il) {
    if (!ctx.kv) {
        throw vp_error(VP_BAD_ARGUMENT, "the context was created without KV groups");
    }
    if (il < 0 || il >= ctx.n_layer()) {
        throw vp_error(VP_BAD_ARGUMENT, format("layer %d of a model with %d layers", il, ctx.n_layer()));
    }
    if (ctx.kv->is_rotated(il)) {
        throw vp_error(VP_BAD_ARGUMENT, "values are stored rotated: use an F16 cache");
    }
}

// v: a view of the cache; returns F32 [n_kv]: the L1 norm of each cell's values, averaged over KV heads
ggml_tensor * value_norms(ggml_context * ctx0, ggml_tensor * v) {
    const bool v_trans = v->nb[1] > v->nb[2];

    const int64_t n_kv      = v_trans ? v->ne[0] : v->ne[2];
    const int64_t n_head_kv = v->ne[1];

    // [n_embd_head_v, n_head_kv, n_kv]
    auto * cur = v_trans ?
        ggml_cont(ctx0, ggml_permute(ctx0, ggml_cast(ctx0, v, GGML_TYPE_F32), 2, 1, 0, 3)) :
        ggml_cast(ctx0, v, GGML_TYPE_F32);

    cur = ggml_sum_rows(ctx0, ggml_reshape_2d(ctx0, ggml_abs(ctx0, cur), cur->ne[0]*n_head_kv, n_kv));
    return ggml_scale(ctx0, ggml_reshape_1d(ctx0, cur, n_kv), 1.0f/n_head_kv);
}

} // namespace

int32_t vp_seq_lens_hidden(struct vp_context * ctx, vp_seq seq, float * logits) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        if (!ctx->kv) {
            return vp_fail(VP_BAD_ARGUMENT, "the context was created without KV groups");
        }
        const int32_t last = ctx->get(seq)->n_rows() - 1;
        std::vector<float> hidden(ctx->hparams().n_embd);
        const int32_t status = vp_seq_hidden(ctx, seq, &last, 1, hidden.data());
        if (status == VP_OK) {
            const auto res = ending(*ctx, hidden);
            std::copy(res.begin(), res.end(), logits);
        }
        return status;
    });
}

int32_t vp_seq_lens_attention(struct vp_context * ctx, vp_seq seq, int32_t il, float * logits) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        check_layer(*ctx, il);
        const auto & probe = vp_find_probe(*ctx->get(seq), il, VP_STATISTIC_CONTRIBUTION);
        const auto & layer = ctx->lctx->get_model().layers[il];

        const auto ctx0 = new_graph_context();
        auto * inp = ggml_new_tensor_1d(ctx0.get(), GGML_TYPE_F32, probe.output.size());
        ggml_set_input(inp);
        ggml_set_name(inp, "vp_lens");
        auto * projected = linear(ctx0.get(), layer.wo, layer.wo_s, layer.wo_b, inp);

        const auto res = ending(*ctx, compute(*ctx, ctx0.get(), projected, {{ inp, probe.output }}));
        std::copy(res.begin(), res.end(), logits);
        return VP_OK;
    });
}

int32_t vp_seq_values(struct vp_context * ctx, vp_seq seq, int32_t il, int32_t n_rows, float * l1) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        const auto & s = *ctx->get(seq);
        check_layer(*ctx, il);
        const uint32_t g = ctx->kv->group_of(il);
        if (ctx->kv->n_used(g, s.id) == 0) {
            return vp_fail(VP_BAD_ARGUMENT, format("layer %d holds no tokens", il));
        }
        const auto ctx0 = new_graph_context();

        const auto by_cell = compute(*ctx, ctx0.get(), value_norms(ctx0.get(), ctx->kv->get_v(ctx0.get(), il)), {});
        const auto cells   = ctx->kv->cells_of_rows(g, s.id, n_rows);
        for (int32_t row = 0; row < n_rows; ++row) {
            const bool is_held = cells[row] >= 0 && cells[row] < (int32_t) by_cell.size();
            l1[row] = is_held ? by_cell[cells[row]] : std::numeric_limits<float>::quiet_NaN();
        }
        return VP_OK;
    });
}
