#include "vp-devices.h"

#include "visipruner.h"

#include "vp-status.h"

#include "llama-impl.h"
#include "llama-model.h"

#include "ggml-cpp.h"

#include <map>
#include <set>
#include <string>

static ggml_backend_dev_t device_of(ggml_backend_buffer_t buffer) {
    return ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buffer));
}

vp_devices::vp_devices(const llama_model & model) {
    std::set<ggml_backend_buffer_t> seen;
    for (const auto & named : model.tensors_by_name) {
        auto * buffer = named.second->buffer;
        if (!buffer || !seen.insert(buffer).second) {
            continue;
        }
        auto * dev = device_of(buffer);
        if (!dev) {
            continue;
        }
        auto * is_lost = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), "ggml_backend_rpc_buffer_is_lost");
        if (is_lost) {
            remotes.push_back({ buffer, (bool (*)(ggml_backend_buffer_t)) is_lost });
        }
    }
}

void vp_devices::check() const {
    for (const auto & r : remotes) {
        if (r.is_lost(r.buffer)) {
            throw vp_error(VP_DEVICE_LOST, format("the server %s is gone, and the part of the model that it held: load the model anew",
                ggml_backend_dev_description(device_of(r.buffer))));
        }
    }
}

static ggml_backend_reg_t rpc_reg() {
    auto * reg = ggml_backend_reg_by_name("RPC");
    if (!reg) {
        throw vp_error(VP_UNSUPPORTED, "this program was built without ggml's RPC backend");
    }
    return reg;
}

static bool is_registered(ggml_backend_reg_t reg) {
    for (size_t i = 0; i < ggml_backend_reg_count(); ++i) {
        if (ggml_backend_reg_get(i) == reg) {
            return true;
        }
    }
    return false;
}

int32_t vp_rpc_add_server(const char * endpoint) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        using add_server_t = ggml_backend_reg_t (*)(const char * endpoint);
        auto * add_server = (add_server_t) ggml_backend_reg_get_proc_address(rpc_reg(), "ggml_backend_rpc_add_server");
        auto * reg = add_server(endpoint);
        if (!reg) {
            return vp_fail(VP_DEVICE_LOST, "it does not tell its devices");
        }
        if (!is_registered(reg)) {
            ggml_backend_register(reg);
        }
        // the connection is kept for good: between two models another client would take the server
        static auto & kept = *new std::map<std::string, ggml_backend_ptr>;
        kept[endpoint].reset(ggml_backend_dev_init(ggml_backend_reg_dev_get(reg, 0), nullptr));
        return VP_OK;
    });
}

int32_t vp_rpc_start_server(const char * endpoint, const char * cache_dir, size_t n_threads, size_t n_devices, ggml_backend_dev_t * devices) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        using start_server_t = void (*)(const char *, const char *, size_t, size_t, ggml_backend_dev_t *);
        auto * start_server = (start_server_t) ggml_backend_reg_get_proc_address(rpc_reg(), "ggml_backend_rpc_start_server");
        start_server(endpoint, cache_dir, n_threads, n_devices, devices);
        return vp_fail(VP_COMPUTE_FAILED, "it ended");
    });
}
