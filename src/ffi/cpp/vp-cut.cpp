// Layer ranges: build the graph of the whole model as upstream does, then keep the nodes between two layer inputs.
//
// Works for any architecture whose layers pass on one tensor and nothing else; that is checked here, so no
// architecture needs a line of its own. Of the model's input, layers may read slices that are added later (DeepStack):
// the rows of such a range come with their input once more.

#include "vp-hidden.h"
#include "vp-hooks.h"
#include "vp-kv-groups.h"
#include "vp-upstream.h"

#include "llama-batch.h"
#include "llama-graph.h"
#include "llama-impl.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>
#include <vector>

namespace {

// where the hidden rows of the batch rows come from, and where they go to
class input_hidden_rows : public llm_graph_input_i {
public:
    input_hidden_rows(const vp_call * call) : call(call) {}

    // of the rows of `from`, those that are this graph's
    ggml_tensor * read(ggml_context * ctx, ggml_tensor * from, int64_t n_tokens) {
        hidden_in = from;
        idx_in    = new_index(ctx, GGML_TYPE_I32, n_tokens, "vp_hidden_idx_in");
        return ggml_get_rows(ctx, from, idx_in);
    }

    // what layer il takes becomes rows of `to`
    ggml_tensor * write(ggml_context * ctx, int32_t il, ggml_tensor * to, ggml_tensor * rows) {
        auto * idx = new_index(ctx, GGML_TYPE_I64, rows->ne[1], "vp_hidden_idx_out");
        writes.push_back({ il, to, idx });
        return ggml_set_rows(ctx, to, rows, idx);
    }

    void set_input(const llama_ubatch * ubatch) override {
        if (idx_in) {
            set_slots<int32_t>(idx_in, call->slots_in, *ubatch);
        }
        for (const auto & w : writes) {
            set_slots<int64_t>(w.idx, call->slots_out.at(w.il), *ubatch);
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        // the buffers grow with the rows
        const auto & vp = params.cparams.vp;
        return vp.call == call && (!hidden_in || hidden_in == call->hidden->tensor(vp.il_begin)) &&
            std::all_of(writes.begin(), writes.end(), [&](const write_at & w) { return w.hidden == call->hidden->tensor(w.il); });
    }

private:
    static ggml_tensor * new_index(ggml_context * ctx, ggml_type type, int64_t n, const char * name) {
        auto * idx = ggml_new_tensor_1d(ctx, type, n);
        ggml_set_input(idx);
        ggml_set_name(idx, name);
        return idx;
    }

    template <typename T>
    void set_slots(ggml_tensor * idx, const std::vector<int32_t> & slots, const llama_ubatch & ubatch) const {
        std::vector<T> of_ubatch(idx->ne[0]);
        for (size_t i = 0; i < of_ubatch.size(); ++i) {
            of_ubatch[i] = call->hidden->index(slots[ubatch.data->batch_idxs[i]]);
        }
        ggml_backend_tensor_set(idx, of_ubatch.data(), 0, ggml_nbytes(idx));
    }

    const vp_call * call;

    // where rows come from, and which they are there
    ggml_tensor * hidden_in = nullptr;
    ggml_tensor * idx_in    = nullptr; // I32 [n_tokens]

    // and where they go to
    struct write_at {
        int32_t       il;
        ggml_tensor * hidden;
        ggml_tensor * idx; // I64 [n_tokens]
    };
    std::vector<write_at> writes;
};

struct cut {
    llm_graph_result & res;

    int32_t il_begin;
    int32_t il_end;

    ggml_tensor * h_in;  // input of layer il_begin, NULL: the model's own input
    ggml_tensor * h_out; // input of layer il_end, NULL: the model's own output

    std::vector<ggml_tensor *> nodes;
    std::vector<bool>          compute; // upstream keeps nodes in the graph that it does not compute

    int i_in  = -1;
    int i_out = -1;
    int i_inp = -1; // the last node of the model's input, if layers behind the cut read slices of it

    cut(llm_graph_result & res, int32_t il_begin, int32_t il_end, int32_t n_layer) :
            res(res), il_begin(il_begin), il_end(il_end),
            h_in (il_begin > 0       ? res.t_layer_inp[il_begin] : nullptr),
            h_out(il_end   < n_layer ? res.t_layer_inp[il_end]   : nullptr) {
        auto * gf = res.get_gf();
        for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
            nodes.push_back(ggml_graph_node(gf, i));
            compute.push_back(nodes[i]->flags & GGML_TENSOR_FLAG_COMPUTE);
            if (nodes[i] == h_in) {
                i_in = i;
            }
            if (nodes[i] == h_out) {
                i_out = i;
            }
        }
        if (!h_out) {
            i_out = (int) nodes.size() - 1;
        }
        for (int i = i_in + 1; i_in >= 0 && i <= i_out; ++i) {
            if (is_slice(nodes[i])) {
                i_inp = (int) (std::find(nodes.begin(), nodes.begin() + i_in, res.t_layer_inp[0]) - nodes.begin());
                break;
            }
        }
    }

    // of the rows of the model's input, which are wider than the hidden ones, what a later layer adds
    bool is_slice(const ggml_tensor * t) const {
        return t->op == GGML_OP_VIEW && t->src[0] == res.t_inp_embd && t->view_offs > res.t_inp_embd->view_offs;
    }

    bool reads_input() const { return !h_in || i_inp >= 0; }

    bool refuse(const char * why) const {
        LLAMA_LOG_ERROR("%s: layers [%d, %d): %s\n", __func__, il_begin, il_end, why);
        return false;
    }

    // layers within the range whose input is kept
    std::vector<int32_t> stations(const vp_graph_params & vp) const {
        std::vector<int32_t> ils;
        for (int32_t il = il_begin + 1; vp.stations && il < il_end; ++il) {
            ils.push_back(il);
        }
        return ils;
    }

    bool is_possible(const llm_graph_params & params, int32_t n_layer) const {
        const auto is_hidden = [&](const ggml_tensor * t) {
            return t && t->type == GGML_TYPE_F32 && ggml_is_contiguous(t) && t->op != GGML_OP_NONE &&
                t->ne[0] == params.hparams.n_embd && t->ne[1] == params.ubatch.n_tokens && ggml_nelements(t) == t->ne[0]*t->ne[1];
        };
        if ((il_begin > 0 && !is_hidden(h_in)) || (il_end < n_layer && !is_hidden(h_out))) {
            return refuse("the model passes no plain hidden state at the cut");
        }
        const auto ils = stations(params.cparams.vp);
        if (!std::all_of(ils.begin(), ils.end(), [&](int32_t il) { return is_hidden(res.t_layer_inp[il]); })) {
            return refuse("the model passes no plain hidden state within");
        }
        if ((h_in && i_in < 0) || i_out <= i_in || i_inp >= i_in + (h_in == nullptr)) {
            return refuse("the cut was not found in the graph");
        }
        if (h_in && reads_input() && il_begin >= vp_upstream_input_end(params.hparams)) {
            return refuse("a layer reads the model's input");
        }
        return true;
    }

    // nodes up to the cut that depend on the model's input
    std::unordered_set<const ggml_tensor *> earlier_nodes() const {
        std::unordered_set<const ggml_tensor *> earlier;
        if (!h_in) {
            return earlier;
        }
        for (const auto * t : { res.t_inp_tokens, res.t_inp_embd }) {
            if (t) {
                earlier.insert(t);
            }
        }
        for (int i = 0; i <= i_in; ++i) {
            for (const auto * src : nodes[i]->src) {
                if (src && earlier.count(src)) {
                    earlier.insert(nodes[i]);
                    break;
                }
            }
        }
        return earlier;
    }

    // the output of layer il_begin - 1 becomes a read of the stored rows, in place: its readers stay as they are
    void read_hidden(const ggml_tensor * get_rows) const {
        h_in->op = get_rows->op;
        memcpy(h_in->op_params, get_rows->op_params, sizeof(h_in->op_params));
        memcpy(h_in->src, get_rows->src, sizeof(h_in->src));
        h_in->view_src  = nullptr;
        h_in->view_offs = 0;
    }

    // only the nodes between the cuts, in the order that upstream gave them: KV writes have no readers in the graph. `write`
    // makes what comes behind the input of a layer.
    template <typename F>
    void keep_nodes(const vp_graph_params & vp, F && write) const {
        const auto ils = stations(vp);
        auto * gf = res.get_gf();
        ggml_graph_clear(gf);
        for (int i = 0; i <= i_out; ++i) {
            if ((i > i_inp && i <= i_in) || (!vp.store && vp_upstream_is_kv_write(nodes[i]))) {
                continue;
            }
            if (compute[i]) {
                ggml_build_forward_expand(gf, nodes[i]);
            } else {
                ggml_build_forward_order(gf, nodes[i]);
            }
            for (const int32_t il : ils) {
                if (res.t_layer_inp[il] == nodes[i]) {
                    ggml_build_forward_expand(gf, write(il, nodes[i]));
                }
            }
        }
    }

    bool is_closed(const std::unordered_set<const ggml_tensor *> & earlier) const {
        auto * gf = res.get_gf();
        const std::unordered_set<const ggml_tensor *> input(nodes.begin(), nodes.begin() + i_inp + 1);
        for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
            const auto * t = ggml_graph_node(gf, i);
            if (input.count(t) || is_slice(t)) {
                continue;
            }
            for (const auto * src : t->src) {
                if (src && t != h_in && src != h_in && earlier.count(src)) {
                    return refuse("a layer reads more of earlier layers than their output");
                }
            }
        }
        return true;
    }
};

} // namespace

void vp_mark_layer_inp(const llm_graph_context & graph, ggml_tensor * cur, int il) {
    auto & t_layer_inp = graph.res->t_layer_inp;
    if (graph.cparams.vp.call && il >= 0 && il < (int) t_layer_inp.size() && !t_layer_inp[il]) {
        t_layer_inp[il] = cur;
    }
}

bool vp_cut_graph(llm_graph_result & res, const llm_graph_params & params) {
    const auto & vp = params.cparams.vp;
    if (vp.is_whole()) {
        return true;
    }

    const int32_t n_layer  = params.hparams.n_layer();
    const int64_t n_tokens = params.ubatch.n_tokens;

    const cut c(res, vp.il_begin, vp.il_end < 0 ? n_layer : vp.il_end, n_layer);
    if (!c.is_possible(params, n_layer)) {
        return false;
    }

    const auto earlier = c.earlier_nodes();

    auto inp = std::make_unique<input_hidden_rows>(vp.call);
    if (c.h_in) {
        c.read_hidden(inp->read(res.get_ctx(), vp.call->hidden->tensor(vp.il_begin), n_tokens));
    }

    const auto write = [&](int32_t il, ggml_tensor * rows) {
        return inp->write(res.get_ctx(), il, vp.call->hidden->tensor(il), rows);
    };
    c.keep_nodes(vp, write);
    if (!c.is_closed(earlier)) {
        return false;
    }
    vp_upstream_drop_inputs(res, !c.reads_input(), c.h_out != nullptr);

    if (c.h_out) {
        vp_upstream_drop_outputs(res);
        ggml_build_forward_expand(res.get_gf(), write(vp.il_end, c.h_out));
    }

    res.add_input(std::move(inp));
    return true;
}
