// Sequences: their rows, how far each has come, and which cells are theirs.
#pragma once

#include "visipruner.h"

#include "vp-devices.h"
#include "vp-fallbacks.h"
#include "vp-hidden.h"
#include "vp-kv-groups.h"

#include "llama-context.h"
#include "llama-cpp.h"
#include "llama-model.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

// a row of a sequence
struct vp_row {
    llama_token token = -1; // -1 = embedding
    llama_pos   pos[4] = {};
    int32_t     il_next = 0;  // the layer that it is due at
    int32_t     slot    = -1; // of the hidden rows: what it takes into that layer, -1 = nothing
    std::shared_ptr<const std::vector<float>> embd; // its input begins at embd_off
    size_t      embd_off = 0;
};

// a parent's row that goes on as a row of its branch
struct vp_row_copy {
    int32_t il_from; // the first layer that stores it
    int32_t il_next;
    int32_t slot = -1;
};

struct vp_sequence {
    llama_seq_id id;

    std::shared_ptr<vp_sequence> parent; // whose rows come first
    int32_t n_parent   = 0; // rows of the parent
    int32_t n_branches = 0;
    bool    is_freed   = false; // by its owner, while there are branches

    std::vector<vp_row> rows; // of its own

    // branches only
    std::vector<int32_t> il_left;          // [n_parent] the layer from which the row is not seen
    std::map<int32_t, vp_row_copy> copies; // row -> ...

    struct eviction {
        int32_t il_begin;
        int32_t il_end;
        std::vector<int32_t> rows; // ascending
    };
    std::vector<eviction> evictions;

    // results: per probed layer, one vector [n_rows] per value that the statistic has for a key; with the contribution
    // comes the attention output of the last row, [n_embd_head_v*n_head]
    struct probe {
        std::vector<std::vector<float>> by_row;
        std::vector<float>              output;
    };
    std::map<int32_t, probe> probes; // il -> ...

    // of the last range, if it can be gone back in: what its rows have taken into each layer
    struct stations {
        int32_t il_begin = 0;
        int32_t il_end   = 0;
        std::vector<int32_t> rows; // ascending
        std::map<int32_t, std::vector<int32_t>> slots; // il -> [rows]
    };
    stations last;

    int32_t n_rows() const { return n_parent + (int32_t) rows.size(); }

    // its own, or its parent's
    const vp_row & row(int32_t i) const { return i < n_parent ? parent->rows[i] : rows[i - n_parent]; }

    // where row i of this sequence is due
    int32_t il_next(int32_t i) const;

    // whether it sees a row of its parent in a layer
    bool sees(int32_t row, int32_t il) const;
};

using vp_sequence_ptr = std::shared_ptr<vp_sequence>;

struct vp_context {
    llama_context_ptr lctx;
    vp_kv_groups    * kv = nullptr; // the memory of lctx, NULL: llama.cpp's own

    vp_devices     devices;
    vp_hidden_rows hidden;
    vp_call        call; // in progress, or the last one

    vp_fallbacks fallbacks;

    std::map<vp_seq, vp_sequence_ptr> seqs;
    std::vector<bool> ids; // [n_seq_max] which are in use
    vp_seq next_seq = 1;

    const llama_hparams & hparams() const { return lctx->get_model().hparams; }

    int32_t n_layer() const { return hparams().n_layer(); }

    // throws vp_error if there is none
    const vp_sequence_ptr & get(vp_seq seq) const;
};

// llama.cpp takes a negative position for none, and no range of positions holds the greatest one
inline bool vp_is_pos(llama_pos pos) { return pos >= 0 && pos < INT32_MAX; }

// an ascending list of rows below n_rows
bool vp_are_rows(const int32_t * rows, int32_t n, int32_t n_rows);

// a row of a sequence, to be changed
struct vp_row_state {
    int32_t & il_next;
    int32_t & slot;
};
vp_row_state vp_state_of(vp_sequence & seq, int32_t row);

// forgets what layers [il_begin, il_end) hold of rows that the sequence has run, for its parent, too
void vp_forget_rows(vp_context & ctx, const vp_sequence & seq, int32_t il_begin, int32_t il_end, const std::vector<int32_t> & rows);

// what is kept to go back to
void vp_forget_stations(vp_context & ctx, vp_sequence & seq);

// marks what a branch sees of its parent in the active groups
void vp_see_parent(vp_context & ctx, const vp_sequence & seq);

// what the probe of layer il read; throws vp_error if it was not probed for this statistic
const vp_sequence::probe & vp_find_probe(const vp_sequence & seq, int32_t il, enum vp_statistic statistic);
