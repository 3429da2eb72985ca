#include "visipruner.h"

#include "vp-status.h"

#include "llama-cpp.h"

static void add(llama_sampler * chain, llama_sampler * sampler) {
    llama_sampler_ptr owned(sampler);
    llama_sampler_chain_add(chain, sampler);
    owned.release();
}

struct llama_sampler * vp_sampler_init(
        const struct vp_sampler_params * params,
        int32_t                  n_vocab,
        const llama_logit_bias * biases,
        int32_t                  n_biases) {
    return vp_guard_ptr([&] {
        llama_sampler_ptr chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        if (n_biases > 0) {
            add(chain.get(), llama_sampler_init_logit_bias(n_vocab, n_biases, biases));
        }
        add(chain.get(), llama_sampler_init_penalties(
                n_vocab, params->penalty_last_n, params->penalty_repeat, params->penalty_freq, params->penalty_present));
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
