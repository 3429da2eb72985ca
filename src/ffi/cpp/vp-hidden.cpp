#include "vp-hidden.h"

#include "vp-upstream.h"

#include <algorithm>
#include <new>

void vp_hidden_rows::reserve(llama_context & lctx, int64_t n) {
    if ((int64_t) free.size() >= n) {
        return;
    }
    const auto & model = lctx.get_model();

    const int64_t n_old = owners.size();
    const int64_t n_new = GGML_PAD(n_old - (int64_t) free.size() + n, 256);

    ggml_context_ptr new_ctx(ggml_init({ ggml_tensor_overhead(), nullptr, true }));
    auto * new_hidden = ggml_new_tensor_2d(new_ctx.get(), GGML_TYPE_F32, model.hparams.n_embd, n_new);
    ggml_set_name(new_hidden, "vp_hidden");

    auto * dev  = model.dev_layer(0);
    auto * buft = dev ? ggml_backend_dev_buffer_type(dev) : ggml_backend_cpu_buffer_type();
    ggml_backend_buffer_ptr new_buf(ggml_backend_alloc_ctx_tensors_from_buft(new_ctx.get(), buft));
    if (!new_buf) {
        throw std::bad_alloc();
    }
    lctx.synchronize();
    if (n_old > 0) {
        std::vector<uint8_t> rows(n_old*hidden->nb[1]);
        ggml_backend_tensor_get(hidden,     rows.data(), 0, rows.size());
        ggml_backend_tensor_set(new_hidden, rows.data(), 0, rows.size());
    }
    vp_access::forget_graphs(lctx); // they read the old buffer

    free.reserve(n_new);
    owners.resize(n_new, 0);
    ctx    = std::move(new_ctx);
    buf    = std::move(new_buf);
    hidden = new_hidden;
    for (int64_t slot = n_old; slot < n_new; ++slot) {
        free.push_back(slot);
    }
}

int32_t vp_hidden_rows::take() {
    const int32_t slot = free.back();
    free.pop_back();
    owners[slot] = 1;
    return slot;
}

void vp_hidden_rows::share(int32_t slot) {
    if (slot >= 0) {
        owners[slot]++;
    }
}

void vp_hidden_rows::release(int32_t slot) {
    if (slot >= 0 && --owners[slot] == 0) {
        free.push_back(slot);
    }
}

int32_t vp_hidden_rows::copy(int32_t slot) {
    std::vector<float> row(hidden->ne[0]);
    read(slot, row.data());
    const int32_t res = take();
    ggml_backend_tensor_set(hidden, row.data(), res*hidden->nb[1], hidden->nb[1]);
    return res;
}

void vp_hidden_rows::read(int32_t slot, float * out) const {
    ggml_backend_tensor_get(hidden, out, slot*hidden->nb[1], hidden->nb[1]);
}

size_t vp_hidden_rows::n_bytes() const {
    return hidden ? (owners.size() - free.size())*hidden->nb[1] : 0;
}
