// What rows take from one range of layers into the next: hidden rows, each on the device of the layer that reads it. A
// model that is split over several devices passes a row on to the next one once, however many ranges it is run in.
#pragma once

#include "ggml-cpp.h"

#include <cstdint>
#include <vector>

struct llama_context;
struct llama_model;

// slots are counted: forks of a sequence share theirs; whoever writes takes new ones
class vp_hidden_rows {
public:
    vp_hidden_rows() = default;

    explicit vp_hidden_rows(const llama_model & model);

    // makes room for n more rows that each of these layers reads; throws if there is no memory, and leaves all rows as they are
    void reserve(llama_context & ctx, const std::vector<int32_t> & ils, int64_t n);

    // a slot for one row that layer il reads, with one owner; there must be room
    int32_t take(int32_t il);

    // one owner more, one less; -1 is no slot
    void share  (int32_t slot);
    void release(int32_t slot);

    // F32 [n_embd]
    void read(int32_t slot, float * out) const;

    // F32 [n_embd, n]: the rows that layer il reads, and which of them a slot is
    ggml_tensor * tensor(int32_t il) const { return stores[store_of_layer[il]].rows; }
    int32_t       index (int32_t slot) const { return slot/(int32_t) stores.size(); }

    // bytes of the rows that have an owner
    size_t n_bytes() const;

private:
    // the rows on one device
    struct store {
        ggml_backend_buffer_type_t buft;
        ggml_context_ptr           ctx;
        ggml_backend_buffer_ptr    buf;
        ggml_tensor              * rows = nullptr;

        std::vector<int32_t> owners; // [rows]
        std::vector<int32_t> free;   // rows without an owner
    };

    // a slot counts through the stores first: row*n_stores + store
    const store & at(int32_t slot) const { return stores[slot % stores.size()]; }
    store       & at(int32_t slot)       { return stores[slot % stores.size()]; }

    void reserve_in(store & s, llama_context & ctx, int64_t n);

    std::vector<store>  stores;
    std::vector<size_t> store_of_layer; // [n_layer]
};
