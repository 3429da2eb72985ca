#include "vp-hidden.h"

#include "vp-upstream.h"

#include <algorithm>
#include <new>

vp_hidden_rows::vp_hidden_rows(const llama_model & model) {
    for (int32_t il = 0; il < (int32_t) model.hparams.n_layer(); ++il) {
        auto * dev  = model.dev_layer(il);
        auto * buft = dev ? ggml_backend_dev_buffer_type(dev) : ggml_backend_cpu_buffer_type();
        const auto known = std::find_if(stores.begin(), stores.end(), [&](const store & s) { return s.buft == buft; });
        store_of_layer.push_back(known - stores.begin());
        if (known == stores.end()) {
            stores.push_back({});
            stores.back().buft = buft;
        }
    }
}

void vp_hidden_rows::reserve(llama_context & lctx, const std::vector<int32_t> & ils, int64_t n) {
    std::vector<int64_t> n_in(stores.size(), 0);
    for (const int32_t il : ils) {
        n_in[store_of_layer[il]] += n;
    }
    for (size_t i = 0; i < stores.size(); ++i) {
        reserve_in(stores[i], lctx, n_in[i]);
    }
}

void vp_hidden_rows::reserve_in(store & s, llama_context & lctx, int64_t n) {
    if ((int64_t) s.free.size() >= n) {
        return;
    }
    const int64_t n_old = s.owners.size();
    const int64_t n_new = GGML_PAD(n_old - (int64_t) s.free.size() + n, 256);

    ggml_context_ptr new_ctx(ggml_init({ ggml_tensor_overhead(), nullptr, true }));
    auto * new_rows = ggml_new_tensor_2d(new_ctx.get(), GGML_TYPE_F32, lctx.get_model().hparams.n_embd, n_new);
    ggml_set_name(new_rows, "vp_hidden");

    ggml_backend_buffer_ptr new_buf(ggml_backend_alloc_ctx_tensors_from_buft(new_ctx.get(), s.buft));
    if (!new_buf) {
        throw std::bad_alloc();
    }
    lctx.synchronize();
    if (n_old > 0) {
        std::vector<uint8_t> rows(n_old*s.rows->nb[1]);
        ggml_backend_tensor_get(s.rows,   rows.data(), 0, rows.size());
        ggml_backend_tensor_set(new_rows, rows.data(), 0, rows.size());
    }
    vp_access::forget_graphs(lctx); // they read the old buffer

    s.free.reserve(n_new);
    s.owners.resize(n_new, 0);
    s.ctx  = std::move(new_ctx);
    s.buf  = std::move(new_buf);
    s.rows = new_rows;
    for (int64_t i = n_old; i < n_new; ++i) {
        s.free.push_back(i);
    }
}

int32_t vp_hidden_rows::take(int32_t il) {
    const size_t i_store = store_of_layer[il];
    auto & s = stores[i_store];
    const int32_t i = s.free.back();
    s.free.pop_back();
    s.owners[i] = 1;
    return i*(int32_t) stores.size() + (int32_t) i_store;
}

void vp_hidden_rows::share(int32_t slot) {
    if (slot >= 0) {
        at(slot).owners[index(slot)]++;
    }
}

void vp_hidden_rows::release(int32_t slot) {
    if (slot >= 0 && --at(slot).owners[index(slot)] == 0) {
        at(slot).free.push_back(index(slot));
    }
}

void vp_hidden_rows::read(int32_t slot, float * out) const {
    const auto * rows = at(slot).rows;
    ggml_backend_tensor_get(rows, out, index(slot)*rows->nb[1], rows->nb[1]);
}

size_t vp_hidden_rows::n_bytes() const {
    size_t res = 0;
    for (const auto & s : stores) {
        res += s.rows ? (s.owners.size() - s.free.size())*s.rows->nb[1] : 0;
    }
    return res;
}
