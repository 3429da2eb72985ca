// One KV cache per group of consecutive layers, so that layers can hold different tokens.
//
// Composes llama_kv_cache objects as llama_kv_cache_iswa does. A batch is stored only in the groups of the layers that
// the current range runs (set_range); a dropped row is simply never stored in later groups.
#pragma once

#include "llama-kv-cache.h"

#include "ggml-cpp.h"

#include <map>
#include <memory>
#include <vector>

struct vp_kv_group;

// the rows of the prompt that a range is run for, and where the groups keep them
struct vp_prompt_state {
    int32_t      n_rows = 0;
    llama_seq_id seq_id = 0;

    std::vector<llama_token> token; // [n_rows], -1 = embedding
    std::vector<int32_t>     embd_row;  // [n_rows] row of embd, -1 = token
    std::vector<float>       embd;      // [embedding rows][n_embd_inp]
    std::vector<llama_pos>   pos;       // [n_rows][n_pos_per_embd]
    std::vector<int32_t>     il_next;   // [n_rows] layer that the row is to be run through next

    // hidden rows between two ranges, F32 [n_embd, capacity]: row r of the prompt is row r of the tensor
    ggml_context_ptr        hidden_ctx;
    ggml_backend_buffer_ptr hidden_buf;
    ggml_tensor           * hidden = nullptr;

    // the call in progress
    std::vector<int32_t> rows;     // prompt row of each batch row
    std::vector<int32_t> keys;     // prompt rows of the hidden keys
    std::vector<uint8_t> affected; // [rows] whether the batch row is masked, empty = all are
    std::vector<int32_t> queries;  // batch rows whose attention is read

    // results: per probed layer, one vector [n_rows] per value that the statistic has for a key; with the contribution
    // comes the attention output of the last row, [n_embd_head_v*n_head]
    struct probe {
        std::vector<std::vector<float>> by_row;
        std::vector<float>              output;
    };
    std::map<int32_t, probe> probes; // il -> ...
};

class vp_kv_groups : public llama_memory_i {
public:
    // a group whose layers attend in two ways (full and sliding window) becomes two caches
    vp_kv_groups(
            const llama_model & model,
            ggml_type           type_k,
            ggml_type           type_v,
            const llama_cparams & cparams,
            bool                swa_full,
            const std::vector<vp_kv_group> & desc);

    llama_memory_context_ptr init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) override;
    llama_memory_context_ptr init_full() override;
    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize) override;

    bool get_can_shift() const override;

    void clear(bool data) override;

    bool seq_rm  (llama_seq_id seq_id,                              llama_pos p0, llama_pos p1) override;
    void seq_cp  (llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override;
    void seq_keep(llama_seq_id seq_id)                                                          override;
    void seq_add (llama_seq_id seq_id,                              llama_pos p0, llama_pos p1, llama_pos shift) override;
    void seq_div (llama_seq_id seq_id,                              llama_pos p0, llama_pos p1, int d) override;

    // the first group holds every position, dropped rows of later groups leave gaps
    llama_pos seq_pos_min(llama_seq_id seq_id) const override;
    llama_pos seq_pos_max(llama_seq_id seq_id) const override;

    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const override;

    void state_write(llama_io_write_i & io, llama_seq_id seq_id = -1, llama_state_seq_flags flags = 0) const override;
    void state_read (llama_io_read_i  & io, llama_seq_id seq_id = -1, llama_state_seq_flags flags = 0) override;

    //
    // groups
    //

    // the layers that the next batches run, il_end = -1: to the last; false if they are not a union of groups
    bool set_range(int32_t il_begin, int32_t il_end);

    // whether [il_begin, il_end) is a union of groups
    bool is_union(int32_t il_begin, int32_t il_end) const;

    // the layers at which a range can start, other than 0
    std::vector<int32_t> boundaries() const;

    uint32_t n_groups()         const { return groups.size(); }
    uint32_t group_of(int il)   const { return il_group[il]; }
    bool     active(uint32_t g) const { return g >= g_begin && g < g_end; }

    llama_kv_cache * get(uint32_t g) const { return groups[g].get(); }

    // the values of layer il in all cells up to the last one in use, as llama_kv_cache::get_v() has them
    ggml_tensor * get_v(ggml_context * ctx, int32_t il) const;

    // whether layer il holds any token
    bool holds_cells(int32_t il) const;

    // whether the values of layer il are stored rotated: llama.cpp may do so with quantized ones
    bool is_rotated(int32_t il) const;

    // same kind and size of cache, whatever it holds
    bool same_shape(uint32_t a, uint32_t b) const;

    // groups with equal layout ids hold the same tokens in the same cells: a hash over everything done to them
    uint64_t layout(uint32_t g) const { return layouts[g]; }
    void     layout_mix(uint32_t g, uint64_t v);

    // seq_rm() in the layers [il_begin, il_end) only
    bool evict(int32_t il_begin, int32_t il_end, llama_seq_id seq_id, llama_pos p0, llama_pos p1);

    //
    // prompt
    //

    vp_prompt_state prompt;

    // cell of each row of the prompt in group g, -1 = none
    std::vector<int32_t> & cells_of_rows(uint32_t g) { return row_cells[g]; }

    void forget_prompt();

private:
    void layout_mix_all(std::initializer_list<int64_t> vs);

    std::vector<std::unique_ptr<llama_kv_cache>> groups;

    std::vector<uint32_t> il_group; // [n_layer] group of each layer
    std::vector<int32_t>  r_first;  // first layer of each described group, then n_layer
    std::vector<uint32_t> r_group;  // its first cache, then the number of caches (with sliding windows it may have two)
    std::vector<bool>     g_swa;    // [n_groups] whether the cache is that of sliding-window layers
    std::vector<uint64_t> layouts;  // [n_groups]

    std::vector<std::vector<int32_t>> row_cells; // [n_groups][n_rows]

    uint32_t g_begin = 0;
    uint32_t g_end   = 0;
};

class vp_kv_groups_context : public llama_memory_context_i {
public:
    using slot_info_vec_t = llama_kv_cache::slot_info_vec_t;

    // used for errors
    vp_kv_groups_context(llama_memory_status status);

    // used to create a full-cache context
    vp_kv_groups_context(vp_kv_groups * kv);

    // used to create an update context
    vp_kv_groups_context(vp_kv_groups * kv, llama_context * lctx, bool optimize);

    // used to create a batch processing context; sinfos[g] is empty for the groups that are not active
    vp_kv_groups_context(vp_kv_groups * kv, std::vector<slot_info_vec_t> sinfos, std::vector<llama_ubatch> ubatches);

    bool next()  override;
    bool apply() override;

    llama_memory_status  get_status() const override;
    const llama_ubatch & get_ubatch() const override;

    //
    // vp_kv_groups_context specific API
    //

    const vp_kv_groups * get_kv() const { return kv; }

    const llama_kv_cache_context * get(uint32_t g) const {
        return static_cast<const llama_kv_cache_context *>(ctxs[g].get());
    }

    // class of each group such that groups of a class can share slots, index inputs and masks
    // reps[c]: the first group of class c
    std::vector<uint32_t> layout_classes(std::vector<uint32_t> & reps) const;

    // cell of each row of the prompt in group g, -1 = none
    const std::vector<int32_t> & cells_of_rows(uint32_t g) const { return kv->cells_of_rows(g); }

private:
    void record(uint32_t g); // the cells of the current ubatch, in layout id and row map

    vp_kv_groups * kv = nullptr;

    size_t i_next = 0; // index of the ubatch to process
    bool   is_full = false;

    std::vector<llama_ubatch>             ubatches;
    std::vector<slot_info_vec_t>          sinfos; // [n_groups][ubatches]
    std::vector<llama_memory_context_ptr> ctxs;   // [n_groups]

    const llama_memory_status status;
};
