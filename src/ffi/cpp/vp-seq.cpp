#include "vp-seq.h"

#include "vp-status.h"
#include "vp-upstream.h"

#include "llama-impl.h"

#include <algorithm>
#include <limits>
#include <set>

int32_t vp_sequence::il_next(int32_t i) const {
    if (i >= n_parent) {
        return rows[i - n_parent].il_next;
    }
    const auto copy = copies.find(i);
    return copy == copies.end() ? parent->rows[i].il_next : copy->second.il_next;
}

bool vp_sequence::sees(int32_t row, int32_t il) const {
    if (row >= n_parent || il >= il_left[row]) {
        return false;
    }
    return std::none_of(evictions.begin(), evictions.end(), [&](const eviction & e) {
        return il >= e.il_begin && il < e.il_end && std::binary_search(e.rows.begin(), e.rows.end(), row);
    });
}

const vp_sequence_ptr & vp_context::get(vp_seq seq) const {
    const auto it = seqs.find(seq);
    if (it == seqs.end() || it->second->is_freed) {
        throw vp_error(VP_BAD_ARGUMENT, format("there is no sequence %d", seq));
    }
    return it->second;
}

bool vp_are_rows(const int32_t * rows, int32_t n, int32_t n_rows) {
    for (int32_t i = 0; i < n; ++i) {
        if (rows[i] < 0 || rows[i] >= n_rows || (i > 0 && rows[i] <= rows[i - 1])) {
            return false;
        }
    }
    return true;
}

static void check(bool is_good, const std::string & message) {
    if (!is_good) {
        throw vp_error(VP_BAD_ARGUMENT, message);
    }
}

static void check_rows(const int32_t * rows, int32_t n, int32_t n_rows) {
    check(n >= 0 && (n == 0 || rows), "a list of rows is missing");
    check(vp_are_rows(rows, n, n_rows), format("rows must ascend and be below %d", n_rows));
}

//
// cells
//

// visit the cells in use that a sequence has: fn(group, cell, row); of llama.cpp's own memory there are none to visit
template <typename F>
static void for_each_cell_of(vp_context & ctx, llama_seq_id id, F && fn) {
    if (!ctx.kv) {
        return;
    }
    for (uint32_t g = 0; g < ctx.kv->n_groups(); ++g) {
        ctx.kv->for_each_cell(g, [&](uint32_t cell, int32_t row) {
            if (ctx.kv->has(g, cell, id)) {
                fn(g, cell, row);
            }
        });
    }
}

void vp_see_parent(vp_context & ctx, const vp_sequence & seq) {
    if (!ctx.kv || !seq.parent) {
        return;
    }
    for (uint32_t g = 0; g < ctx.kv->n_groups(); ++g) {
        if (!ctx.kv->active(g)) {
            continue;
        }
        const int32_t il = ctx.kv->first_layer(g);
        ctx.kv->for_each_cell(g, [&](uint32_t cell, int32_t row) {
            if (ctx.kv->has(g, cell, seq.parent->id) && seq.sees(row, il)) {
                ctx.kv->mark(g, cell, seq.id);
            }
        });
    }
}

vp_row_state vp_state_of(vp_sequence & seq, int32_t row) {
    if (row >= seq.n_parent) {
        auto & r = seq.rows[row - seq.n_parent];
        return { r.il_next, r.slot };
    }
    const auto copy = seq.copies.find(row);
    if (copy != seq.copies.end()) {
        return { copy->second.il_next, copy->second.slot };
    }
    auto & r = seq.parent->rows[row];
    return { r.il_next, r.slot };
}

void vp_forget_rows(vp_context & ctx, const vp_sequence & seq, int32_t il_begin, int32_t il_end, const std::vector<int32_t> & rows) {
    for_each_cell_of(ctx, seq.id, [&](uint32_t g, uint32_t cell, int32_t row) {
        const int32_t il = ctx.kv->first_layer(g);
        if (il < il_begin || il >= il_end || !std::binary_search(rows.begin(), rows.end(), row)) {
            return;
        }
        ctx.kv->unmark(g, cell, seq.id);
        if (row < seq.n_parent && !seq.copies.count(row)) {
            ctx.kv->unmark(g, cell, seq.parent->id);
        }
    });
}

static void forget_cells(vp_context & ctx, llama_seq_id id) {
    if (!ctx.kv) {
        llama_memory_seq_rm(llama_get_memory(ctx.lctx.get()), id, -1, -1);
        return;
    }
    for_each_cell_of(ctx, id, [&](uint32_t g, uint32_t cell, int32_t) { ctx.kv->unmark(g, cell, id); });
}

//
// making and freeing
//

static llama_seq_id unused_id(const vp_context & ctx) {
    const auto it = std::find(ctx.ids.begin(), ctx.ids.end(), false);
    if (it == ctx.ids.end()) {
        throw vp_error(VP_NO_SLOT, format("all %zu sequences of the context are in use", ctx.ids.size()));
    }
    return it - ctx.ids.begin();
}

void vp_forget_stations(vp_context & ctx, vp_sequence & seq) {
    for (const auto & slots : seq.last.slots) {
        for (const int32_t slot : slots.second) {
            ctx.hidden.release(slot);
        }
    }
    seq.last = {};
}

static void release_rows(vp_context & ctx, vp_sequence & seq) {
    vp_forget_stations(ctx, seq);
    for (const auto & row : seq.rows) {
        ctx.hidden.release(row.slot);
    }
    for (const auto & copy : seq.copies) {
        ctx.hidden.release(copy.second.slot);
    }
    seq.rows.clear();
    seq.copies.clear();
}

static void drop(vp_context & ctx, const vp_sequence_ptr & seq);

static void leave_parent(vp_context & ctx, vp_sequence & seq) {
    if (const auto parent = std::move(seq.parent)) {
        seq.parent.reset();
        if (--parent->n_branches == 0 && parent->is_freed) {
            drop(ctx, parent);
        }
    }
}

// the end of a sequence that nobody needs any more
static void drop(vp_context & ctx, const vp_sequence_ptr & seq) {
    forget_cells(ctx, seq->id);
    release_rows(ctx, *seq);
    ctx.ids[seq->id] = false;
    leave_parent(ctx, *seq);
    for (auto it = ctx.seqs.begin(); it != ctx.seqs.end(); ++it) {
        if (it->second == seq) {
            ctx.seqs.erase(it);
            break;
        }
    }
}

// make a sequence and let `fill` say what it starts with; if that throws there is no new sequence
template <typename F>
static int32_t new_sequence(vp_context & ctx, vp_seq * out, F && fill) {
    const auto seq = std::make_shared<vp_sequence>();
    seq->id = unused_id(ctx);
    ctx.seqs.emplace(ctx.next_seq, seq);
    ctx.ids[seq->id] = true;
    try {
        fill(*seq);
    } catch (...) {
        drop(ctx, seq);
        throw;
    }
    *out = ctx.next_seq++;
    return VP_OK;
}

int32_t vp_seq_new(struct vp_context * ctx, vp_seq * seq) {
    return vp_guard(VP_ALLOC_FAILED, [&] { return new_sequence(*ctx, seq, [](vp_sequence &) {}); });
}

int32_t vp_seq_branch(struct vp_context * ctx, vp_seq parent, vp_seq * seq) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        const auto src = ctx->get(parent);
        check(!src->parent, "a branch has no branches");
        return new_sequence(*ctx, seq, [&](vp_sequence & res) {
            res.parent = src;
            src->n_branches++;
            res.n_parent = src->n_rows();
            res.il_left.assign(res.n_parent, ctx->n_layer());
            if (!ctx->kv) {
                llama_memory_seq_cp(llama_get_memory(ctx->lctx.get()), src->id, res.id, -1, -1);
            }
        });
    });
}

int32_t vp_seq_fork(struct vp_context * ctx, vp_seq src, vp_seq * seq) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        const auto old = ctx->get(src);
        check(!old->parent, "a branch cannot be forked");
        return new_sequence(*ctx, seq, [&](vp_sequence & res) {
            res.rows = old->rows;
            for (const auto & row : res.rows) {
                ctx->hidden.share(row.slot);
            }
            if (ctx->kv) {
                for_each_cell_of(*ctx, old->id, [&](uint32_t g, uint32_t cell, int32_t) { ctx->kv->mark(g, cell, res.id); });
            } else {
                llama_memory_seq_cp(llama_get_memory(ctx->lctx.get()), old->id, res.id, -1, -1);
            }
        });
    });
}

void vp_seq_free(struct vp_context * ctx, vp_seq seq) {
    vp_guard(VP_BAD_ARGUMENT, [&]() -> int32_t {
        const auto old = ctx->get(seq);
        if (old->n_branches > 0) {
            old->is_freed = true;
        } else {
            drop(*ctx, old);
        }
        return VP_OK;
    });
}

//
// rows
//

int32_t vp_seq_add(struct vp_context * ctx, vp_seq seq, const struct vp_rows * inp) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        auto & s = *ctx->get(seq);
        check(s.n_branches == 0, "a sequence with branches gets no more rows");

        const int64_t n_embd  = ctx->hparams().n_embd_inp();
        const int64_t n_pos   = ctx->hparams().n_pos_per_embd();
        const int32_t n_vocab = ctx->lctx->get_model().vocab.n_tokens();
        const int64_t n_ctx   = ctx->lctx->n_ctx_seq();

        check(inp->n_rows > 0 && inp->token && inp->pos, "there are no rows to add");
        check(s.n_rows() + (int64_t) inp->n_rows <= n_ctx,
            format("the sequence would have %d tokens and the context has room for %d", s.n_rows() + inp->n_rows, (int) n_ctx));

        int64_t n_embd_rows = 0;
        for (int32_t i = 0; i < inp->n_rows; ++i) {
            check(inp->token[i] >= -1 && inp->token[i] < n_vocab,
                format("row %d has token %d, the vocabulary %d tokens", i, inp->token[i], n_vocab));
            n_embd_rows += inp->token[i] == -1;
        }
        check(n_embd_rows == 0 || inp->embd, "rows without a token need embeddings");
        for (int64_t i = 0; i < inp->n_rows*n_pos; ++i) {
            check(vp_is_pos(inp->pos[i]), format("row %d has position %d", (int) (i/n_pos), inp->pos[i]));
        }

        const auto embd = std::make_shared<const std::vector<float>>(inp->embd, inp->embd + n_embd_rows*n_embd);

        std::vector<vp_row> rows(inp->n_rows);
        size_t off = 0;
        for (int32_t i = 0; i < inp->n_rows; ++i) {
            rows[i].token = inp->token[i];
            std::copy(inp->pos + i*n_pos, inp->pos + (i + 1)*n_pos, rows[i].pos);
            if (rows[i].token == -1) {
                rows[i].embd     = embd;
                rows[i].embd_off = off;
                off += n_embd;
            }
        }
        s.rows.insert(s.rows.end(), rows.begin(), rows.end());
        return VP_OK;
    });
}

int32_t vp_seq_due(struct vp_context * ctx, vp_seq seq, int32_t * il, int32_t n_rows) {
    return vp_guard(VP_BAD_ARGUMENT, [&]() -> int32_t {
        const auto & s = *ctx->get(seq);
        check(n_rows == s.n_rows(), format("the sequence has %d rows, not %d", s.n_rows(), n_rows));
        for (int32_t i = 0; i < n_rows; ++i) {
            il[i] = s.il_next(i);
        }
        return VP_OK;
    });
}

// the cells from which on a model with a sliding window is told apart from one that has forgotten
static bool has_lost_its_window(vp_context & ctx, llama_seq_id id, llama_pos pos) {
    const auto & hparams = ctx.hparams();
    if (hparams.n_swa == 0) {
        return false;
    }
    const llama_pos pos_min = llama_memory_seq_pos_min(llama_get_memory(ctx.lctx.get()), id);
    return pos_min > std::max<llama_pos>(0, pos - (llama_pos) hparams.n_swa);
}

int32_t vp_seq_truncate(struct vp_context * ctx, vp_seq seq, int32_t n_rows) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        auto & s = *ctx->get(seq);
        check(s.n_branches == 0, "a sequence with branches keeps its rows");
        check(n_rows >= s.n_parent && n_rows <= s.n_rows(), format("the sequence has %d rows, %d of its parent", s.n_rows(), s.n_parent));
        if (n_rows == s.n_rows()) {
            return VP_OK;
        }
        if (ctx->kv) {
            for_each_cell_of(*ctx, s.id, [&](uint32_t g, uint32_t cell, int32_t row) {
                if (row >= n_rows) {
                    ctx->kv->unmark(g, cell, s.id);
                }
            });
        } else {
            const llama_pos pos = s.row(n_rows).pos[0];
            if (has_lost_its_window(*ctx, s.id, pos) || !llama_memory_seq_rm(llama_get_memory(ctx->lctx.get()), s.id, pos, -1)) {
                return vp_fail(VP_UNSUPPORTED, "the memory of this model cannot forget its last tokens only");
            }
        }
        vp_forget_stations(*ctx, s);
        const int32_t n_own = n_rows - s.n_parent;
        for (size_t i = n_own; i < s.rows.size(); ++i) {
            ctx->hidden.release(s.rows[i].slot);
        }
        s.rows.resize(n_own);
        return VP_OK;
    });
}

//
// what a branch takes from its parent
//

static vp_sequence & get_branch(vp_context & ctx, vp_seq seq) {
    auto & s = *ctx.get(seq);
    check(s.parent != nullptr, format("sequence %d is no branch", seq));
    return s;
}

static void check_boundary(const vp_context & ctx, int32_t il) {
    check(ctx.kv && (il == 0 || il == ctx.n_layer() || ctx.kv->is_union(0, il)), format("no KV group begins at layer %d", il));
}

int32_t vp_seq_leave(struct vp_context * ctx, vp_seq seq, int32_t il, const int32_t * rows, int32_t n_rows) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        auto & s = get_branch(*ctx, seq);
        check_boundary(*ctx, il);
        check_rows(rows, n_rows, s.n_parent);
        for (int32_t i = 0; i < n_rows; ++i) {
            s.il_left[rows[i]] = std::min(s.il_left[rows[i]], il);
        }
        for_each_cell_of(*ctx, s.id, [&](uint32_t g, uint32_t cell, int32_t row) {
            if (ctx->kv->first_layer(g) >= il && std::binary_search(rows, rows + n_rows, row) && !s.copies.count(row)) {
                ctx->kv->unmark(g, cell, s.id);
            }
        });
        return VP_OK;
    });
}

int32_t vp_seq_copy(struct vp_context * ctx, vp_seq seq, int32_t il, const int32_t * rows, int32_t n_rows) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        auto & s = get_branch(*ctx, seq);
        check_boundary(*ctx, il);
        check_rows(rows, n_rows, s.n_parent);
        for (int32_t i = 0; i < n_rows; ++i) {
            check(s.parent->rows[rows[i]].il_next >= il, format("row %d has not come to layer %d", rows[i], il));
            check(!s.copies.count(rows[i]), format("row %d is a row of the branch already", rows[i]));
        }
        int32_t n_done = 0;
        try {
            for (; n_done < n_rows; ++n_done) {
                const int32_t row = rows[n_done];
                const auto & src = s.parent->rows[row];
                auto & copy = s.copies[row] = { il, 0 };
                if (il == ctx->n_layer()) {
                    copy.il_next = il;
                } else if (src.il_next == il && src.slot >= 0) {
                    copy.il_next = il;
                    copy.slot    = src.slot;
                    ctx->hidden.share(copy.slot);
                }
            }
        } catch (...) {
            for (int32_t i = 0; i <= n_done; ++i) {
                const auto copy = s.copies.find(rows[i]);
                if (copy != s.copies.end()) {
                    ctx->hidden.release(copy->second.slot);
                    s.copies.erase(copy);
                }
            }
            throw;
        }
        for (int32_t i = 0; i < n_rows; ++i) {
            s.il_left[rows[i]] = std::min(s.il_left[rows[i]], il);
        }
        return VP_OK;
    });
}

int32_t vp_seq_settle(struct vp_context * ctx, vp_seq seq, const int32_t * rows, int32_t n_rows) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        auto & s = get_branch(*ctx, seq);
        check_rows(rows, n_rows, s.n_parent);
        const int32_t n_layer = ctx->n_layer();
        const auto is_settled = [&](int32_t row) { return std::binary_search(rows, rows + n_rows, row); };
        for (int32_t i = s.n_parent; i < s.n_rows(); ++i) {
            check(s.il_next(i) == n_layer, format("row %d has not run through all layers", i));
        }
        for (int32_t i = 0; i < n_rows; ++i) {
            check(s.copies.count(rows[i]) && s.il_next(rows[i]) == n_layer, format("row %d is no row of the branch that has run", rows[i]));
        }

        std::vector<vp_row> all = s.parent->rows;
        all.insert(all.end(), s.rows.begin(), s.rows.end());

        if (ctx->kv) {
            for (uint32_t g = 0; g < ctx->kv->n_groups(); ++g) {
                const int32_t il = ctx->kv->first_layer(g);
                ctx->kv->for_each_cell(g, [&](uint32_t cell, int32_t row) {
                    const bool is_ours = ctx->kv->has(g, cell, s.id);
                    if (ctx->kv->has(g, cell, s.parent->id)) {
                        const bool is_replaced = is_settled(row) && il >= s.copies.at(row).il_from;
                        if (is_replaced) {
                            ctx->kv->unmark(g, cell, s.id);
                        } else {
                            ctx->kv->mark(g, cell, s.id);
                        }
                    } else if (is_ours && row < s.n_parent && !is_settled(row)) {
                        ctx->kv->unmark(g, cell, s.id);
                    }
                });
            }
        }
        for (const auto & copy : s.copies) {
            ctx->hidden.release(copy.second.slot);
        }
        for (int32_t i = 0; i < s.n_parent; ++i) {
            if (is_settled(i)) {
                all[i].il_next = n_layer;
                all[i].slot    = -1;
            } else {
                ctx->hidden.share(all[i].slot);
            }
        }
        s.rows = std::move(all);
        s.copies.clear();
        s.il_left.clear();
        s.evictions.clear();
        s.n_parent = 0;
        leave_parent(*ctx, s);
        return VP_OK;
    });
}

int32_t vp_seq_evict(struct vp_context * ctx, vp_seq seq, int32_t il_begin, int32_t il_end, const int32_t * rows, int32_t n_rows) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        auto & s = *ctx->get(seq);
        check(ctx->kv && ctx->kv->is_union(il_begin, il_end), format("layers [%d, %d) are not a union of KV groups", il_begin, il_end));
        check_rows(rows, n_rows, s.n_rows());
        s.evictions.push_back({ il_begin, il_end, { rows, rows + n_rows } });
        for_each_cell_of(*ctx, s.id, [&](uint32_t g, uint32_t cell, int32_t row) {
            const int32_t il = ctx->kv->first_layer(g);
            if (il >= il_begin && il < il_end && std::binary_search(rows, rows + n_rows, row)) {
                ctx->kv->unmark(g, cell, s.id);
            }
        });
        return VP_OK;
    });
}

//
// memory
//

int32_t vp_bytes_beside(struct vp_context * ctx, size_t * n_bytes) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        std::set<const std::vector<float> *> embds; // forks share theirs
        for (const auto & seq : ctx->seqs) {
            for (const auto & row : seq.second->rows) {
                embds.insert(row.embd.get());
            }
        }
        *n_bytes = ctx->hidden.n_bytes();
        for (const auto * embd : embds) {
            *n_bytes += embd ? embd->size()*sizeof(float) : 0;
        }
        return VP_OK;
    });
}
