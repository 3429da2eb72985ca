// Devices of other machines (ggml's RPC backend), which may go away: what was read from one that is gone is zero, and not to
// be trusted.
#pragma once

#include "ggml-backend.h"

#include <vector>

struct llama_model;

// where the weights of a model are, as far as it can be lost
class vp_devices {
public:
    vp_devices() = default;

    explicit vp_devices(const llama_model & model);

    // throws a vp_error, VP_DEVICE_LOST, if one of them is gone
    void check() const;

private:
    struct remote {
        ggml_backend_buffer_t buffer;
        bool (*is_lost)(ggml_backend_buffer_t buffer);
    };
    std::vector<remote> remotes;
};
