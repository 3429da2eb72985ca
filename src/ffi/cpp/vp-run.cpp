// Running rows of sequences: ranges of layers, and one token for each of several sequences.
//
// A call either happens or does not: hidden rows are read from one set of slots and written to another, and what a call
// has stored is forgotten when it fails.

#include "vp-seq.h"

#include "vp-abort.h"
#include "vp-hooks.h"
#include "vp-status.h"
#include "vp-upstream.h"

#include "llama-impl.h"

#include <algorithm>
#include <limits>
#include <new>

namespace {

// what the rows of a call are
enum class kind {
    stored, // run for the first time: rows of the sequence itself, its copies, and what its parent has not run yet
    replayed, // copies on their way to the layer from which they are the branch's own
};

// one call, checked
struct planned_call {
    vp_context  & ctx;
    vp_sequence & seq;
    const vp_range & range;

    kind what = kind::stored;

    bool is_last() const { return range.il_end == ctx.n_layer(); }

    int32_t last_row() const { return range.rows[range.n_rows - 1]; }

    // the layers before which rows are kept
    std::vector<int32_t> ils_out() const {
        std::vector<int32_t> res;
        for (int32_t il = range.il_begin + 1; range.can_rewind && il < range.il_end; ++il) {
            res.push_back(il);
        }
        if (!is_last()) {
            res.push_back(range.il_end);
        }
        return res;
    }
};

void check(bool is_good, const std::string & message) {
    if (!is_good) {
        throw vp_error(VP_BAD_ARGUMENT, message);
    }
}

void check_probe(const planned_call & call) {
    const auto & range = call.range;
    const auto * rows_end = range.rows + range.n_rows;

    const int32_t il_end = range.probe_il + range.n_probes;
    check(range.n_probes > 0 && range.probe_il >= range.il_begin && il_end <= range.il_end,
        format("layers [%d, %d) cannot be probed in layers [%d, %d)", range.probe_il, il_end, range.il_begin, range.il_end));
    check(range.n_probes == 1 || range.statistic == VP_STATISTIC_CONTRIBUTION, "attention is probed in one layer of a call");
    check(range.mode != VP_ATTENTION_ZERO && range.mode != VP_ATTENTION_MERGE,
        "a layer whose weights are changed after softmax cannot be probed");
    switch (range.statistic) {
        case VP_STATISTIC_CONTRIBUTION:
            check(call.last_row() == call.seq.n_rows() - 1,
                format("layer %d can be probed only where the last row of the sequence is run", range.probe_il));
            return;
        case VP_STATISTIC_ATTENTION:
            check(range.n_queries > 0 && range.queries && vp_are_rows(range.queries, range.n_queries, call.seq.n_rows()) &&
                    std::includes(range.rows, rows_end, range.queries, range.queries + range.n_queries),
                "the queries of a probe must ascend and be rows of the call");
            check((uint32_t) range.n_rows <= call.ctx.lctx->n_ubatch(),
                format("attention is probed in calls of one ubatch: %d rows, not %u", range.n_rows, call.ctx.lctx->n_ubatch()));
            return;
    }
    throw vp_error(VP_BAD_ARGUMENT, format("statistic %d is not known", (int) range.statistic));
}

void check_keys(const planned_call & call) {
    const auto & range = call.range;
    if (range.mode == VP_ATTENTION_PLAIN) {
        return;
    }
    check(range.mode == VP_ATTENTION_ZERO || range.mode == VP_ATTENTION_MERGE || range.mode == VP_ATTENTION_MASK,
        format("attention mode %d is not known", (int) range.mode));
    check(range.n_hidden > 0 && range.hidden && vp_are_rows(range.hidden, range.n_hidden, call.seq.n_rows()),
        format("hidden keys must ascend and be below %d", call.seq.n_rows()));
    check(range.mode != VP_ATTENTION_MERGE || call.seq.il_next(range.hidden[0]) >= range.il_end ||
            std::binary_search(range.rows, range.rows + range.n_rows, range.hidden[0]) || call.what == kind::replayed,
        format("weights are to be merged onto row %d, which these layers do not hold", range.hidden[0]));
}

void check_range(planned_call & call) {
    auto & ctx = call.ctx;
    const auto & seq   = call.seq;
    const auto & range = call.range;

    const auto layers = format("layers [%d, %d)", range.il_begin, range.il_end);
    check(ctx.kv ? ctx.kv->is_union(range.il_begin, range.il_end) : range.il_begin == 0 && range.il_end == ctx.n_layer(),
        layers + " are not a union of KV groups");
    check(ctx.kv || (range.mode == VP_ATTENTION_PLAIN && range.probe_il < 0), "the context was created without KV groups");
    for (int32_t il = range.il_begin; range.can_rewind && il < range.il_end; ++il) {
        check(ctx.kv && ctx.kv->is_union(il, il + 1), format("layer %d shares its KV group", il));
    }
    check(range.n_rows > 0 && range.rows && (uint32_t) range.n_rows <= ctx.lctx->n_batch(),
        format("%d rows in one call; the context takes 1 to %u", range.n_rows, ctx.lctx->n_batch()));
    check(range.both_ways_until < 0 || (uint32_t) range.n_rows <= ctx.lctx->n_ubatch(),
        format("%d rows that see each other both ways must fit in one ubatch of %u", range.n_rows, ctx.lctx->n_ubatch()));
    check(vp_are_rows(range.rows, range.n_rows, seq.n_rows()), format("rows must ascend and be below %d", seq.n_rows()));
    for (int32_t row = range.rows[0] + 1; !ctx.kv && row < seq.n_rows(); ++row) {
        check(seq.il_next(row) == 0, format("row %d has run, and llama.cpp's own memory takes row %d no more", row, range.rows[0]));
    }
    check(seq.n_branches == 0, "a sequence with branches is run by them");
    int32_t n_replayed = 0;
    for (int32_t i = 0; i < range.n_rows; ++i) {
        const int32_t row = range.rows[i];
        const auto copy = seq.copies.find(row);
        const int32_t due = seq.il_next(row);
        check(due == range.il_begin, format("row %d is due at layer %d, not %d", row, due, range.il_begin));
        if (copy != seq.copies.end() && due < copy->second.il_from) {
            check(range.il_end <= copy->second.il_from, format("row %d is the branch's own from layer %d on", row, copy->second.il_from));
            n_replayed++;
        } else {
            check(row >= seq.n_parent || copy != seq.copies.end() || seq.il_left[row] >= range.il_end, format("row %d was left at layer %d", row, range.il_begin));
        }
    }
    check(n_replayed == 0 || n_replayed == range.n_rows, "rows that are run once more have calls of their own");
    call.what = n_replayed > 0 ? kind::replayed : kind::stored;
    check_keys(call);
    if (range.probe_il >= 0) {
        check(call.what == kind::stored, "rows that are run once more are not probed");
        check_probe(call);
    }
}

llama_batch_ext build_batch(const planned_call & call) {
    const auto & seq   = call.seq;
    const auto & range = call.range;

    auto batch = vp_upstream_new_batch(*call.ctx.lctx);
    for (int32_t i = 0; i < range.n_rows; ++i) {
        const int32_t row = range.rows[i];
        const auto  & r   = seq.row(row);

        std::unordered_set<llama_seq_id> ids = { seq.id };
        if (call.what == kind::replayed) {
            ids = { seq.parent->id };
        } else if (row < seq.n_parent && !seq.copies.count(row)) {
            ids.insert(seq.parent->id);
        }
        // later ranges take their rows from the hidden ones
        const bool is_inp = range.il_begin < vp_upstream_input_end(call.ctx.hparams());
        const float * embd = is_inp && r.token < 0 ? r.embd->data() + r.embd_off : nullptr;
        const bool output = call.is_last() && call.what == kind::stored && row == seq.n_rows() - 1;
        vp_upstream_add_row(batch, is_inp ? r.token : -1, embd, r.pos, ids, output);
    }
    return batch;
}

// the batch rows that the queries of a probe are
std::vector<int32_t> batch_rows(const vp_range & range) {
    std::vector<int32_t> res;
    for (int32_t i = 0; i < range.n_rows && (int32_t) res.size() < range.n_queries; ++i) {
        if (range.rows[i] == range.queries[res.size()]) {
            res.push_back(i);
        }
    }
    return res;
}

vp_call describe(const planned_call & call) {
    const auto & range = call.range;

    vp_call res;
    res.seq_id = call.what == kind::replayed ? call.seq.parent->id : call.seq.id;
    res.store  = call.what == kind::stored;
    res.rows.assign(range.rows, range.rows + range.n_rows);
    res.both_ways_until = range.both_ways_until;
    if (range.mode != VP_ATTENTION_PLAIN) {
        res.keys.assign(range.hidden, range.hidden + range.n_hidden);
    }
    if (range.mode == VP_ATTENTION_MASK && range.affected) {
        res.affected.assign(range.affected, range.affected + range.n_rows);
    }
    if (range.probe_il >= 0 && range.statistic == VP_STATISTIC_ATTENTION) {
        res.queries = batch_rows(range);
    }
    for (const int32_t row : res.rows) {
        res.slots_in.push_back(vp_state_of(call.seq, row).slot);
    }
    for (const int32_t il : call.ils_out()) {
        res.slots_out[il].reserve(range.n_rows); // so that nothing fails once a slot is taken
    }
    for (auto & [il, slots] : res.slots_out) {
        for (int32_t i = 0; i < range.n_rows; ++i) {
            slots.push_back(call.ctx.hidden.take(il));
        }
    }
    res.hidden = &call.ctx.hidden;
    return res;
}

// leaves the context as any other call expects it, whatever happens
struct call_scope {
    call_scope(vp_context & ctx, vp_call && new_call, const vp_graph_params & params) : ctx(ctx), causal(ctx.lctx->get_causal_attn()) {
        ctx.call = std::move(new_call);
        ctx.lctx->set_causal_attn(ctx.call.both_ways_until < 0);
        vp_access::cparams(*ctx.lctx).vp = params;
        if (ctx.kv) {
            ctx.kv->begin_call(&ctx.call);
        }
    }
    ~call_scope() {
        vp_access::cparams(*ctx.lctx).vp = {};
        ctx.lctx->set_causal_attn(causal);
        if (ctx.kv) {
            ctx.kv->end_call();
            ctx.kv->set_range(0, -1);
        }
        for (const auto & slots : ctx.call.slots_out) {
            for (const int32_t slot : slots.second) {
                ctx.hidden.release(slot);
            }
        }
        ctx.call.slots_out.clear();
    }
    vp_context & ctx;
    const bool   causal;
};

// as upstream's decode() says it, with a message
int32_t explain(int32_t ret, const vp_context & ctx, int32_t n_rows, const std::string & why) {
    switch (ret) {
        case 1:  return vp_fail(VP_NO_SLOT, format("the KV cache of %u cells has no room for %d more tokens", ctx.lctx->n_ctx_seq(), n_rows));
        case 2:  return vp_fail(VP_ABORTED, "stopped by the caller");
        case -1: return vp_fail(VP_BAD_ARGUMENT, "llama.cpp refused the batch");
        case -2: return vp_fail(VP_ALLOC_FAILED, "there is no memory for the computation");
        default: return vp_fail(VP_COMPUTE_FAILED, "the computation failed" + (why.empty() ? "" : ": " + why));
    }
}

// where the rows of a call begin in a sequence, for a memory that knows positions only
struct beginning {
    llama_seq_id id;
    llama_pos    pos;
};

std::vector<beginning> beginnings(const planned_call & call) {
    const auto & seq = call.seq;
    const int32_t row = call.range.rows[0];
    const llama_pos pos = seq.row(row).pos[0];
    std::vector<beginning> res = { { seq.id, pos } };
    if (row < seq.n_parent) {
        res.push_back({ seq.parent->id, pos });
    }
    return res;
}

void undo(vp_context & ctx, const std::vector<beginning> & from) {
    if (ctx.kv) {
        ctx.kv->undo_call();
        return;
    }
    // llama.cpp forgets the ubatch that failed, and keeps those before it
    for (const auto & begin : from) {
        llama_memory_seq_rm(llama_get_memory(ctx.lctx.get()), begin.id, begin.pos, -1);
    }
}

// decodes a batch in a call_scope; what a failure has stored is forgotten
int32_t decode(vp_context & ctx, const llama_batch_ext & batch, const std::vector<beginning> & from) {
    int32_t ret;
    std::string why;
    try {
        ret = ctx.lctx->decode(batch);
        ctx.lctx->synchronize();
    } catch (const std::bad_alloc &) {
        ret = -2;
    } catch (const std::exception & err) {
        why = err.what();
        ret = -3;
    }
    try {
        ctx.devices.check();
        if (ret == 0) {
            ctx.fallbacks.note(*ctx.lctx, vp_access::cparams(*ctx.lctx).vp.il_begin, batch.tokens.size());
            return VP_OK;
        }
    } catch (...) {
        undo(ctx, from);
        throw;
    }
    const bool was_refused = ret == 1 || ret == -1; // before anything was stored
    if (ctx.kv || !was_refused) {
        undo(ctx, from);
    }
    return explain(ret, ctx, batch.tokens.size(), why);
}

// room for the rows of a call, in the groups that are active
void reserve(vp_context & ctx, int32_t n_rows, int32_t n_spare) {
    if (!ctx.kv) {
        return;
    }
    bool has_grown = false;
    bool has_room  = false;
    try {
        ctx.lctx->synchronize();
        has_room = ctx.kv->reserve(n_rows, std::max(n_spare, 0), has_grown);
    } catch (const std::exception & err) {
        vp_access::forget_graphs(*ctx.lctx);
        ctx.devices.check();
        throw vp_error(VP_ALLOC_FAILED, format("the KV cache cannot grow: %s", err.what()));
    }
    if (has_grown) {
        vp_access::forget_graphs(*ctx.lctx); // they read the old caches
    }
    if (!has_room) {
        throw vp_error(VP_NO_SLOT, format("the KV cache of %u cells has no room for %d more tokens", ctx.lctx->n_ctx_seq(), n_rows));
    }
}

int32_t values_per_key(enum vp_statistic statistic) {
    return statistic == VP_STATISTIC_CONTRIBUTION ? 2 : 1;
}

// the probes of the graph that was computed last: layer -> values by cell
std::map<int32_t, std::vector<float>> read_probes(const planned_call & call) {
    const auto & range = call.range;

    std::vector<const ggml_tensor *> up_to; // each layer
    for (int32_t il = range.probe_il; il < range.probe_il + range.n_probes; ++il) {
        const auto * probes = ggml_graph_get_tensor(vp_access::last_graph(*call.ctx.lctx)->get_gf(), vp_probe_name(il).c_str());
        if (!probes) {
            throw std::runtime_error(format("layer %d left no probe in the graph", il));
        }
        up_to.push_back(probes);
    }
    std::vector<float> values(up_to.back()->ne[0]);
    ggml_backend_tensor_get(up_to.back(), values.data(), 0, ggml_nbytes(up_to.back()));

    std::map<int32_t, std::vector<float>> res;
    auto begin = values.begin();
    for (int32_t i = 0; i < range.n_probes; ++i) {
        const auto end = values.begin() + up_to[i]->ne[0];
        res[range.probe_il + i].assign(begin, end);
        begin = end;
    }
    return res;
}

// values by cell become values by row
vp_sequence::probe by_row(const planned_call & call, int32_t il, const std::vector<float> & by_cell) {
    const auto & range = call.range;

    const auto &  hparams  = call.ctx.hparams();
    const bool    has_o    = range.statistic == VP_STATISTIC_CONTRIBUTION;
    const int64_t n_output = has_o ? hparams.n_embd_head_v(il)*hparams.n_head(il) : 0;
    const int32_t n_values = values_per_key(range.statistic);
    const int64_t n_kv     = ((int64_t) by_cell.size() - n_output)/n_values;

    const auto cells = call.ctx.kv->cells_of_rows(call.ctx.kv->group_of(il), call.seq.id, call.seq.n_rows());

    vp_sequence::probe res;
    res.output.assign(by_cell.end() - n_output, by_cell.end());
    for (int32_t i = 0; i < n_values; ++i) {
        std::vector<float> by_row(cells.size(), std::numeric_limits<float>::quiet_NaN());
        for (size_t row = 0; row < cells.size(); ++row) {
            if (cells[row] >= 0 && cells[row] < n_kv) {
                by_row[row] = by_cell[i*n_kv + cells[row]];
            }
        }
        res.by_row.push_back(std::move(by_row));
    }
    return res;
}

// whether a call goes on with the rows of a range whose stations are kept
bool is_of_last_range(const planned_call & call) {
    const auto & last = call.seq.last;
    return call.range.can_rewind && last.il_begin == call.range.il_begin && last.il_end == call.range.il_end &&
        (last.rows.empty() || last.rows.back() < call.range.rows[0]);
}

// what was written between the ends of a call that happened, to go back to
void keep_stations(planned_call & call) {
    auto & last = call.seq.last;
    last.il_begin = call.range.il_begin;
    last.il_end   = call.range.il_end;
    last.rows.insert(last.rows.end(), call.range.rows, call.range.rows + call.range.n_rows);
    auto & slots_out = call.ctx.call.slots_out;
    for (auto it = slots_out.begin(); it != slots_out.end() && it->first < call.range.il_end; it = slots_out.erase(it)) {
        auto & slots = last.slots[it->first];
        slots.insert(slots.end(), it->second.begin(), it->second.end());
    }
}

// the rows of a call that happened are due at its end, with what it has written
void advance(planned_call & call) {
    auto & slots_out = call.ctx.call.slots_out;
    for (int32_t i = 0; i < call.range.n_rows; ++i) {
        auto state = vp_state_of(call.seq, call.range.rows[i]);
        call.ctx.hidden.release(state.slot);
        state.slot    = call.is_last() ? -1 : slots_out.at(call.range.il_end)[i];
        state.il_next = call.range.il_end;
    }
    slots_out.clear();
}

} // namespace

int32_t vp_seq_run(struct vp_context * ctx, vp_seq seq, const struct vp_range * range) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        vp_catch_asserts catch_asserts;
        planned_call call = { *ctx, *ctx->get(seq), *range };
        check_range(call);

        const auto batch = build_batch(call);

        ctx->lctx->sched_reserve(); // for the whole graph, before it is cut
        if (ctx->kv) {
            ctx->kv->set_range(range->il_begin, range->il_end);
        }
        struct whole_range {
            ~whole_range() { if (kv) { kv->set_range(0, -1); } }
            vp_kv_groups * kv;
        } whole_range = { ctx->kv };

        if (call.what == kind::stored) {
            reserve(*ctx, range->n_rows, range->n_spare);
            vp_see_parent(*ctx, call.seq);
        }
        if (!is_of_last_range(call)) {
            vp_forget_stations(*ctx, call.seq);
        }
        try {
            ctx->hidden.reserve(*ctx->lctx, call.ils_out(), range->n_rows);
        } catch (const std::bad_alloc &) {
            return vp_fail(VP_ALLOC_FAILED, "there is no memory for the hidden rows");
        }

        vp_graph_params params;
        if (ctx->kv) {
            params.il_begin  = range->il_begin;
            params.il_end    = call.is_last() ? -1 : range->il_end;
            params.probe_il  = range->probe_il;
            params.n_probes  = range->probe_il < 0 ? 0 : range->n_probes;
            params.stations  = range->can_rewind;
            params.mode      = range->mode;
            params.store     = call.what == kind::stored;
            params.call      = &ctx->call;
        }
        const auto from = beginnings(call);
        auto description = describe(call);
        params.n_queries = (int32_t) description.queries.size();

        call_scope scope(*ctx, std::move(description), params);
        const int32_t status = decode(*ctx, batch, from);
        if (status != VP_OK) {
            return status;
        }
        try {
            if (range->probe_il >= 0) {
                const auto probes = read_probes(call);
                ctx->devices.check();
                for (const auto & probe : probes) {
                    call.seq.probes[probe.first] = by_row(call, probe.first, probe.second);
                }
            }
            if (range->can_rewind) {
                keep_stations(call);
            }
        } catch (...) {
            vp_forget_stations(*ctx, call.seq);
            undo(*ctx, from);
            throw;
        }
        advance(call);
        return VP_OK;
    });
}

int32_t vp_seq_rewind(struct vp_context * ctx, vp_seq seq, int32_t il) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        auto & s = *ctx->get(seq);
        const auto slots = s.last.slots.find(il);
        check(slots != s.last.slots.end(), format("there is no way back to layer %d", il));
        for (size_t i = 0; i < s.last.rows.size(); ++i) {
            auto state = vp_state_of(s, s.last.rows[i]);
            ctx->hidden.release(state.slot);
            state.slot    = slots->second[i];
            state.il_next = il;
            slots->second[i] = -1;
        }
        vp_forget_rows(*ctx, s, il, s.last.il_end, s.last.rows);
        s.probes.erase(s.probes.lower_bound(il), s.probes.end());
        vp_forget_stations(*ctx, s);
        return VP_OK;
    });
}

int32_t vp_decode(struct vp_context * ctx, const struct vp_token * tokens, int32_t n_tokens, int32_t n_spare) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        vp_catch_asserts catch_asserts;
        check(n_tokens > 0 && tokens && (uint32_t) n_tokens <= ctx->lctx->n_batch(),
            format("a batch of %d tokens; the context takes 1 to %u", n_tokens, ctx->lctx->n_batch()));
        const int32_t n_vocab = ctx->lctx->get_model().vocab.n_tokens();
        const bool    is_mrope = ctx->hparams().n_pos_per_embd() > 1;

        std::vector<vp_sequence *> seqs;
        auto batch = vp_upstream_new_batch(*ctx->lctx);
        std::vector<beginning> from;
        vp_call description;
        for (int32_t i = 0; i < n_tokens; ++i) {
            auto & s = *ctx->get(tokens[i].seq);
            check(s.n_branches == 0, "a sequence with branches is run by them");
            check(std::find(seqs.begin(), seqs.end(), &s) == seqs.end(), "a sequence decodes one token at a time");
            check(tokens[i].token >= 0 && tokens[i].token < n_vocab, format("token %d, the vocabulary has %d tokens", tokens[i].token, n_vocab));
            check((uint32_t) s.n_rows() < ctx->lctx->n_ctx_seq(), format("the sequence has %d tokens and the context no room for more", s.n_rows()));
            check(vp_is_pos(tokens[i].pos), format("a token has position %d", tokens[i].pos));
            seqs.push_back(&s);
            vp_forget_stations(*ctx, s);
            description.rows.push_back(s.n_rows());
            const llama_pos p = tokens[i].pos;
            from.push_back({ s.id, p });
            const llama_pos pos[4] = { p, is_mrope ? p : 0, is_mrope ? p : 0, 0 };
            vp_upstream_add_row(batch, tokens[i].token, nullptr, pos, { s.id }, true);
        }
        for (auto * s : seqs) {
            if (s->rows.size() == s->rows.capacity()) {
                s->rows.reserve(2*s->rows.size() + 1); // now, and not when the tokens have run
            }
        }
        ctx->lctx->sched_reserve();
        reserve(*ctx, n_tokens, n_spare);

        call_scope scope(*ctx, std::move(description), {});
        const int32_t status = decode(*ctx, batch, from);
        if (status != VP_OK) {
            return status;
        }
        for (int32_t i = 0; i < n_tokens; ++i) {
            vp_row row;
            row.token   = tokens[i].token;
            row.il_next = ctx->n_layer();
            std::fill(row.pos, row.pos + 3, tokens[i].pos);
            seqs[i]->rows.push_back(row);
        }
        return VP_OK;
    });
}

float * vp_logits(struct vp_context * ctx, int32_t i) {
    return vp_guard_ptr([&] { return llama_get_logits_ith(ctx->lctx.get(), i); });
}

//
// results
//

const vp_sequence::probe & vp_find_probe(const vp_sequence & seq, int32_t il, enum vp_statistic statistic) {
    const auto it = seq.probes.find(il);
    check(it != seq.probes.end() && (int32_t) it->second.by_row.size() == values_per_key(statistic),
        format("layer %d was not probed for this statistic", il));
    return it->second;
}

// later rows of the sequence were not there when it was probed
static void copy_by_row(const std::vector<float> & src, float * dst, int32_t n_rows) {
    for (int32_t i = 0; i < n_rows; ++i) {
        dst[i] = i < (int32_t) src.size() ? src[i] : std::numeric_limits<float>::quiet_NaN();
    }
}

int32_t vp_seq_probe(struct vp_context * ctx, vp_seq seq, int32_t il, int32_t n_rows, float * norm2, float * dot, float * output_norm2) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        const auto & probe = vp_find_probe(*ctx->get(seq), il, VP_STATISTIC_CONTRIBUTION);
        copy_by_row(probe.by_row[0], norm2, n_rows);
        copy_by_row(probe.by_row[1], dot,   n_rows);
        double sum = 0.0;
        for (const float x : probe.output) {
            sum += (double) x*x;
        }
        *output_norm2 = (float) sum;
        return VP_OK;
    });
}

int32_t vp_seq_attention(struct vp_context * ctx, vp_seq seq, int32_t il, int32_t n_rows, float * weight) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        copy_by_row(vp_find_probe(*ctx->get(seq), il, VP_STATISTIC_ATTENTION).by_row[0], weight, n_rows);
        return VP_OK;
    });
}

int32_t vp_seq_hidden(struct vp_context * ctx, vp_seq seq, const int32_t * rows, int32_t n_rows, float * out) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        auto & s = *ctx->get(seq);
        check(n_rows >= 0 && (n_rows == 0 || rows) && vp_are_rows(rows, n_rows, s.n_rows()), format("rows must ascend and be below %d", s.n_rows()));
        const int64_t n_embd = ctx->hparams().n_embd;
        for (int32_t i = 0; i < n_rows; ++i) {
            const int32_t slot = vp_state_of(s, rows[i]).slot;
            check(slot >= 0, format("row %d is not between two ranges", rows[i]));
            ctx->hidden.read(slot, out + i*n_embd);
        }
        ctx->devices.check();
        return VP_OK;
    });
}
