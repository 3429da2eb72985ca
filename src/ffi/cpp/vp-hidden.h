// What rows take from one range of layers into the next: hidden rows, on the device of the first layer.
#pragma once

#include "ggml-cpp.h"

#include <cstdint>
#include <vector>

struct llama_context;

// slots are counted: forks of a sequence share theirs; whoever writes takes new ones
class vp_hidden_rows {
public:
    // makes room for n more rows; throws if there is no memory, and leaves everything as it is
    void reserve(llama_context & ctx, int64_t n);

    // a slot for one row, with one owner; there must be room
    int32_t take();

    // one owner more, one less; -1 is no slot
    void share  (int32_t slot);
    void release(int32_t slot);

    // a new slot with a copy of another one; there must be room
    int32_t copy(int32_t slot);

    // F32 [n_embd]
    void read(int32_t slot, float * out) const;

    ggml_tensor * tensor() const { return hidden; }

    // bytes of the rows that have an owner
    size_t n_bytes() const;

private:
    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buf;
    ggml_tensor           * hidden = nullptr; // F32 [n_embd, slots]

    std::vector<int32_t> owners; // [slots]
    std::vector<int32_t> free;   // slots without an owner
};
