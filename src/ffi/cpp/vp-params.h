// Which part of the layers a graph runs, and how. Carried by llama_cparams, so that it reaches the graph, its inputs
// and the check for graph reuse without a parameter of its own in any of them.
#pragma once

#include <cstdint>

struct ggml_tensor;
struct vp_call;

struct vp_graph_params {
    int32_t il_begin  = 0;
    int32_t il_end    = -1;   // one past the last layer, -1 = all
    int32_t probe_il  = -1;   // first layer that is probed, -1 = none
    int32_t n_probes  = 0;    // layers that are probed
    int32_t n_queries = 0;    // rows whose attention is read there, 0: the contribution to the last row is
    int32_t mode      = 0;    // enum vp_attention_mode
    bool    stations  = false; // whether what rows take into each layer is kept
    bool    store     = true; // whether keys and values go into the cache, or are there already

    // NULL: not a call of vp_seq_run(), and every hook is a no-op
    const vp_call * call = nullptr;

    bool is_whole() const { return il_begin == 0 && il_end < 0 && !stations; }

    bool is_probed(int32_t il) const { return probe_il >= 0 && il >= probe_il && il < probe_il + n_probes; }

    // equal parameters give graphs of equal topology
    bool operator==(const vp_graph_params & other) const {
        return il_begin == other.il_begin && il_end == other.il_end && probe_il == other.probe_il &&
            n_probes == other.n_probes && stations == other.stations && n_queries == other.n_queries && mode == other.mode && store == other.store && call == other.call;
    }
};
