#include "vp-quantize.h"

#include "vp-status.h"

#include <stdexcept>

namespace {

// who hears of the quantizing that this thread is doing
struct vp_listener {
    llama_progress_callback progress;
    void                  * user_data;
    bool                    stopped = false;
};

} // namespace

static thread_local vp_listener * listener = nullptr;

void vp_quantize_next(size_t i_tensor, size_t n_tensors) {
    if (!listener) {
        return;
    }
    if (!listener->progress(float(i_tensor)/float(n_tensors), listener->user_data)) {
        listener->stopped = true;
        throw std::runtime_error("stopped by the caller");
    }
}

int32_t vp_model_quantize(
        const char * path_inp,
        const char * path_out,
        const struct llama_model_quantize_params * params,
        llama_progress_callback progress,
        void * progress_user_data) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        if (!path_inp || !path_out || !params || !progress) {
            return vp_fail(VP_BAD_ARGUMENT, "an argument is missing");
        }
        struct scope {
            scope(vp_listener & own) { listener = &own; }
            ~scope() { listener = nullptr; }
        };
        vp_listener own = { progress, progress_user_data };
        scope scope(own);

        if (llama_model_quantize(path_inp, path_out, params) == 0) {
            return VP_OK;
        }
        return own.stopped ? VP_ABORTED : VP_COMPUTE_FAILED; // llama.cpp has logged why
    });
}
