#include "vp-fallbacks.h"

#include "visipruner.h"
#include "vp-seq.h"
#include "vp-status.h"
#include "vp-upstream.h"

#include "llama-context.h"
#include "llama-model.h"

#include "ggml-backend.h"

#include <cctype>
#include <cstdlib>
#include <cstring>

namespace {

bool is_gpu(ggml_backend_dev_t dev) {
    const auto type = ggml_backend_dev_type(dev);
    return type != GGML_BACKEND_DEVICE_TYPE_CPU && type != GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

bool has_gpu(ggml_backend_sched_t sched) {
    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); ++i) {
        if (is_gpu(ggml_backend_get_device(ggml_backend_sched_get_backend(sched, i)))) {
            return true;
        }
    }
    return false;
}

bool computes(const ggml_tensor * t) {
    switch (t->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return false;
        default:
            return t->flags & GGML_TENSOR_FLAG_COMPUTE;
    }
}

// the layer at the end of a name as upstream gives it, "Qcur-3" and "Qcur-3 (reshaped)"; -1 = it names none
int32_t layer_of_name(const char * name) {
    const char * end   = name + strcspn(name, " ");
    const char * digit = end;
    while (digit > name && isdigit((unsigned char) digit[-1])) {
        --digit;
    }
    return digit == end || digit == name || digit[-1] != '-' ? -1 : atoi(digit);
}

// follows a graph, in upstream's order, from layer to layer
struct layer_walk {
    const llama_model & model;
    int32_t il;
    bool    is_after = false; // the last layer

    // the device that holds the layer of the next node, NULL for the model's input, which upstream keeps on the CPU
    ggml_backend_dev_t next(const ggml_tensor * t) {
        const int32_t named = layer_of_name(t->name);
        const int32_t n_layer = model.hparams.n_layer();
        if (named > il && named < n_layer) {
            il = named;
        }
        is_after = is_after || (il == n_layer - 1 && (strcmp(t->name, "norm") == 0 || strncmp(t->name, "result_", 7) == 0));
        return is_after ? model.dev_output() : il < 0 ? nullptr : model.dev_layer(il);
    }
};

} // namespace

void vp_fallbacks::note(llama_context & lctx, int32_t il_begin, uint32_t n_tokens) {
    auto * sched = lctx.get_sched();
    auto * graph = vp_access::last_graph(lctx);
    if (!graph || !has_gpu(sched)) {
        return;
    }
    const int32_t n_reused_now = vp_access::n_reused(lctx);
    const bool is_same = n_tokens <= lctx.n_ubatch() && n_reused_now > n_reused;
    n_reused = n_reused_now;
    if (!is_same) {
        last.clear();
        layer_walk walk = { lctx.get_model(), il_begin > 0 ? il_begin : -1 };
        for (int i = 0; i < ggml_graph_n_nodes(graph->get_gf()); ++i) {
            auto * t = ggml_graph_node(graph->get_gf(), i);
            const auto expected = walk.next(t);
            const auto backend  = computes(t) ? ggml_backend_sched_get_tensor_backend(sched, t) : nullptr;
            if (!expected || !backend) {
                continue;
            }
            const auto dev = ggml_backend_get_device(backend);
            if (dev != expected && (is_gpu(dev) || is_gpu(expected))) {
                last[{ ggml_op_desc(t), ggml_backend_dev_name(dev) }]++;
            }
        }
    }
    for (const auto & [key, n] : last) {
        total[key] += n;
    }
}

int32_t vp_get_fallbacks(struct vp_context * ctx, struct vp_fallback * dst, int32_t n_max, int32_t * n) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        *n = 0;
        for (const auto & [key, count] : ctx->fallbacks.counts()) {
            if (*n < n_max) {
                dst[*n] = { key.first.c_str(), key.second.c_str(), count };
            }
            ++*n;
        }
        return VP_OK;
    });
}
