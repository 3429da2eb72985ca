#include "visipruner.h"

#include "vp-status.h"

#include "llama-cpp.h"

#include <cmath>
#include <vector>

static void add(llama_sampler * chain, llama_sampler * sampler) {
    llama_sampler_ptr owned(sampler);
    llama_sampler_chain_add(chain, sampler);
    owned.release();
}

static void add_bans(llama_sampler * chain, int32_t n_vocab, const llama_token * banned, int32_t n_banned) {
    std::vector<llama_logit_bias> biases;
    for (int32_t i = 0; i < n_banned; ++i) {
        biases.push_back({ banned[i], -INFINITY });
    }
    add(chain, llama_sampler_init_logit_bias(n_vocab, n_banned, biases.data()));
}

struct llama_sampler * vp_sampler_init(
        const struct vp_sampler_params * params,
        int32_t             n_vocab,
        const llama_token * banned,
        int32_t             n_banned) {
    return vp_guard_ptr([&] {
        llama_sampler_ptr chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        if (n_banned > 0) {
            add_bans(chain.get(), n_vocab, banned, n_banned);
        }
        if (params->temp <= 0.0f) {
            add(chain.get(), llama_sampler_init_greedy());
            return chain.release();
        }
        add(chain.get(), llama_sampler_init_top_k(params->top_k));
        add(chain.get(), llama_sampler_init_top_p(params->top_p, 1));
        add(chain.get(), llama_sampler_init_min_p(params->min_p, 1));
        add(chain.get(), llama_sampler_init_temp(params->temp));
        add(chain.get(), llama_sampler_init_dist(params->seed));
        return chain.release();
    });
}

int32_t vp_sampler_sample(struct llama_sampler * sampler, struct vp_context * ctx, int32_t i_row, llama_token * token) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        *token = llama_sampler_sample(sampler, vp_llama_context(ctx), i_row);
        return VP_OK;
    });
}
