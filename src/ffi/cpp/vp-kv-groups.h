// One KV cache per group of consecutive layers, so that layers can hold different tokens.
//
// Composes llama_kv_cache objects as llama_kv_cache_iswa does. A batch is stored only in the groups of the layers that
// the current range runs (set_range); a dropped row is simply never stored in later groups.
//
// What a cell holds is said once: by the cell (position, sequences, and the row of these sequences that it is). Where a
// row lies is read off the cells whenever it is asked for, so it is true after cells were forgotten and used again.
#pragma once

#include "llama-kv-cache.h"

#include <map>
#include <memory>
#include <vector>

class  vp_hidden_rows;
struct vp_kv_group;

// the call in progress: which rows its batch has
struct vp_call {
    llama_seq_id seq_id = 0;        // whose cells its keys are looked for in
    std::vector<int32_t> rows;      // [batch rows] which row of their sequence they are
    std::vector<int32_t> slots_in;  // [batch rows] of the hidden rows, where they come from, above layer 0
    std::map<int32_t, std::vector<int32_t>> slots_out; // layer -> [batch rows] and where they go to before that layer
    bool    store = true;           // whether their keys and values are stored, or are there already
    int32_t both_ways_until = -1;   // without a causal mask: the last row that is seen

    std::vector<int32_t> keys;      // rows of the hidden keys
    std::vector<uint8_t> affected;  // [batch rows] whether they are masked, empty = all are
    std::vector<int32_t> queries;   // batch rows whose attention is read

    const vp_hidden_rows * hidden = nullptr; // whose slots these are
};

class vp_kv_groups : public llama_memory_i {
public:
    // a group whose layers attend in two ways (full and sliding window) becomes two caches; that of the sliding window
    // keeps what has left the window: sequences are rolled back, and pictures read again
    vp_kv_groups(
            const llama_model & model,
            ggml_type           type_k,
            ggml_type           type_v,
            const llama_cparams & cparams,
            const std::vector<vp_kv_group> & desc);

    llama_memory_context_ptr init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) override;
    llama_memory_context_ptr init_full() override;
    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize) override;

    bool get_can_shift() const override;

    void clear(bool data) override;

    // during a call nothing is removed: undo_call() does it, and knows what it has to remove
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

    // the first layer of a group
    int32_t first_layer(uint32_t g) const { return g_layers[g].il_begin; }

    llama_kv_cache * get(uint32_t g) const { return groups[g].get(); }

    // the values of layer il in all cells up to the last one in use, as llama_kv_cache::get_v() has them
    ggml_tensor * get_v(ggml_context * ctx, int32_t il) const;

    // whether the values of layer il are stored rotated: llama.cpp may do so with quantized ones
    bool is_rotated(int32_t il) const;

    // same kind and size of cache, whatever it holds
    bool same_shape(uint32_t a, uint32_t b) const;

    // groups with equal layout ids hold the same tokens in the same cells, and have the same free ones
    uint64_t layout(uint32_t g) const;

    // makes room for n_rows more rows in the active groups; one that has to grow gets n_spare cells more, and none more
    // than n_ctx; false if that is not enough. has_grown: whether graphs have to be built anew
    // throws if there is no memory, and leaves the groups as they are
    bool reserve(uint32_t n_rows, uint32_t n_spare, bool & has_grown);

    //
    // cells
    //

    // cell of each row of a sequence in group g, -1 = none: [n_rows]
    std::vector<int32_t> cells_of_rows(uint32_t g, llama_seq_id seq_id, int32_t n_rows) const;

    // visit the cells in use of group g: fn(cell, row)
    template <typename F>
    void for_each_cell(uint32_t g, F && fn) const {
        const auto & cells = groups[g]->get_cells(0);
        for (uint32_t i = cells.used_min(), end = cells.used_max_p1(); i < end; ++i) {
            if (!cells.is_empty(i)) {
                fn(i, g_rows[g][i]);
            }
        }
    }

    bool has(uint32_t g, uint32_t cell, llama_seq_id seq_id) const { return groups[g]->get_cells(0).seq_has(cell, seq_id); }

    void mark  (uint32_t g, uint32_t cell, llama_seq_id seq_id);
    void unmark(uint32_t g, uint32_t cell, llama_seq_id seq_id);

    // rows of a sequence in use in group g
    uint32_t n_used(uint32_t g, llama_seq_id seq_id) const;

    //
    // the call in progress
    //

    void begin_call(const vp_call * call);
    void end_call();

    // forgets what the call has stored
    void undo_call();

    const vp_call * current_call() const { return call; }

private:
    friend class vp_kv_groups_context;

    // the layers of a cache
    struct layers {
        int32_t il_begin;
        int32_t il_end;
        bool    swa;
    };

    std::unique_ptr<llama_kv_cache> new_cache(const layers & l, uint32_t n_cells) const;

    // places for the ubatches of a call in the first cells that are free; empty if there are not enough
    llama_kv_cache::slot_info_vec_t find_slots(uint32_t g, const std::vector<llama_ubatch> & ubatches) const;

    void grow(uint32_t g, uint32_t n_cells);

    // what was stored in these cells; the cache knows them already
    void record(uint32_t g, const llama_ubatch & ubatch, const std::vector<uint32_t> & cells);

    uint64_t hash_of_cell(uint32_t g, uint32_t cell) const;

    void touch(uint32_t g) { g_layout[g].is_known = false; }
    void touch_all();

    const llama_model   & model;
    const llama_cparams & cparams;
    const ggml_type       type_k;
    const ggml_type       type_v;

    std::vector<std::unique_ptr<llama_kv_cache>> groups;

    std::vector<uint32_t> il_group; // [n_layer] group of each layer
    std::vector<int32_t>  r_first;  // first layer of each described group, then n_layer
    std::vector<uint32_t> r_group;  // its first cache, then the number of caches (with sliding windows it may have two)
    std::vector<layers>   g_layers; // [n_groups]

    std::vector<std::vector<int32_t>> g_rows; // [n_groups][cells] row of each cell in use, -1 = not known

    struct layout_id {
        bool     is_known = false;
        uint64_t sum      = 0; // of the hashes of the cells in use
    };
    mutable std::vector<layout_id> g_layout; // [n_groups]

    uint32_t g_begin = 0;
    uint32_t g_end   = 0;

    const vp_call * call = nullptr;
    std::vector<std::pair<uint32_t, uint32_t>> stored; // (group, cell) of the call in progress
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

    // used to create a batch processing context; sinfos[g] is empty for the groups in which nothing is stored
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

private:
    vp_kv_groups * kv = nullptr;

    size_t i_next = 0; // index of the ubatch to process
    bool   is_full = false;

    std::vector<llama_ubatch>             ubatches;
    std::vector<slot_info_vec_t>          sinfos; // [n_groups][ubatches]
    std::vector<llama_memory_context_ptr> ctxs;   // [n_groups]

    const llama_memory_status status;
};
