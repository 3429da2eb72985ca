#include "vp-prompt.h"

#include "vp-access.h"
#include "vp-kv-groups.h"
#include "vp-status.h"

#include "llama-batch.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

void vp_reserve_hidden(llama_context & ctx, vp_prompt_state & prompt, int64_t n_rows) {
    if (prompt.hidden && prompt.hidden->ne[1] >= n_rows) {
        return;
    }
    vp_access::forget_graphs(ctx); // they read the old buffer
    prompt.hidden = nullptr;

    const auto & model = ctx.get_model();
    ggml_init_params params = { ggml_tensor_overhead(), nullptr, true };
    prompt.hidden_ctx.reset(ggml_init(params));

    auto * hidden = ggml_new_tensor_2d(prompt.hidden_ctx.get(), GGML_TYPE_F32, model.hparams.n_embd, GGML_PAD(n_rows, 256));
    ggml_set_name(hidden, "vp_hidden");

    auto * dev  = model.dev_layer(0);
    auto * buft = dev ? ggml_backend_dev_buffer_type(dev) : ggml_backend_cpu_buffer_type();
    prompt.hidden_buf.reset(ggml_backend_alloc_ctx_tensors_from_buft(prompt.hidden_ctx.get(), buft));
    if (!prompt.hidden_buf) {
        throw std::bad_alloc();
    }
    prompt.hidden = hidden;
}

//
// beginning a prompt
//

vp_kv_groups * vp_get_groups(llama_context * ctx) {
    return dynamic_cast<vp_kv_groups *>(ctx->get_memory());
}

int32_t vp_fail_no_groups() {
    return vp_fail(VP_BAD_ARGUMENT, "the context was created without KV groups");
}

int32_t vp_prompt_begin(struct llama_context * ctx, const struct vp_prompt * inp) {
    return vp_guard(VP_ALLOC_FAILED, [&]() -> int32_t {
        auto * kv = vp_get_groups(ctx);
        if (!kv) {
            return vp_fail_no_groups();
        }
        const auto & hparams = ctx->get_model().hparams;

        const int64_t n_rows  = inp->n_rows;
        const int64_t n_embd  = hparams.n_embd_inp();
        const int64_t n_pos   = hparams.n_pos_per_embd();
        const int32_t n_vocab = ctx->get_model().vocab.n_tokens();

        if (n_rows <= 0 || n_rows > ctx->n_ctx_seq()) {
            return vp_fail(VP_BAD_ARGUMENT, format("the prompt has %d tokens and the context room for %u", inp->n_rows, ctx->n_ctx_seq()));
        }
        if (inp->seq_id < 0 || (uint32_t) inp->seq_id >= ctx->n_seq_max()) {
            return vp_fail(VP_BAD_ARGUMENT, format("sequence %d is not below %u", inp->seq_id, ctx->n_seq_max()));
        }
        if (kv->seq_pos_max(inp->seq_id) >= 0) {
            return vp_fail(VP_BAD_ARGUMENT, format("sequence %d is not empty: a staged prefill starts a sequence", inp->seq_id));
        }

        std::vector<int32_t> embd_row(n_rows, -1);
        int32_t n_embd_rows = 0;
        for (int64_t i = 0; i < n_rows; ++i) {
            if (inp->token[i] >= n_vocab || inp->token[i] < -1) {
                return vp_fail(VP_BAD_ARGUMENT, format("row %d has token %d, the vocabulary %d tokens", (int) i, inp->token[i], n_vocab));
            }
            if (inp->token[i] == -1) {
                embd_row[i] = n_embd_rows++;
            }
        }
        if (n_embd_rows > 0 && !inp->embd) {
            return vp_fail(VP_BAD_ARGUMENT, "rows without a token need embeddings");
        }

        kv->forget_prompt();
        vp_reserve_hidden(*ctx, kv->prompt, n_rows);

        auto & prompt = kv->prompt;
        prompt.n_rows   = n_rows;
        prompt.seq_id   = inp->seq_id;
        prompt.embd_row = std::move(embd_row);
        prompt.token.assign(inp->token, inp->token + n_rows);
        prompt.embd .assign(inp->embd, inp->embd + n_embd_rows*n_embd);
        prompt.pos  .assign(inp->pos, inp->pos + n_rows*n_pos);
        prompt.il_next.assign(n_rows, 0);
        return VP_OK;
    });
}

//
// running a range
//

// an ascending list of rows of the prompt
static bool are_rows(const int32_t * rows, int32_t n, int32_t n_rows) {
    for (int32_t i = 0; i < n; ++i) {
        if (rows[i] < 0 || rows[i] >= n_rows || (i > 0 && rows[i] <= rows[i - 1])) {
            return false;
        }
    }
    return true;
}

static int32_t check_probe(llama_context & ctx, const vp_prompt_state & prompt, const vp_range & range) {
    const auto * rows_end = range.rows + range.n_rows;

    if (range.probe_il < range.il_begin || range.probe_il >= range.il_end) {
        return vp_fail(VP_BAD_ARGUMENT, format("layer %d cannot be probed in layers [%d, %d)", range.probe_il, range.il_begin, range.il_end));
    }
    if (range.mode == VP_ATTENTION_ZERO || range.mode == VP_ATTENTION_MERGE) {
        return vp_fail(VP_BAD_ARGUMENT, "a layer whose weights are changed after softmax cannot be probed");
    }
    switch (range.statistic) {
        case VP_STATISTIC_CONTRIBUTION:
            if (rows_end[-1] != prompt.n_rows - 1) {
                return vp_fail(VP_BAD_ARGUMENT, format("layer %d can be probed only where the last row of the prompt is run", range.probe_il));
            }
            return VP_OK;
        case VP_STATISTIC_ATTENTION:
            if (range.n_queries <= 0 || !are_rows(range.queries, range.n_queries, prompt.n_rows) ||
                    !std::includes(range.rows, rows_end, range.queries, range.queries + range.n_queries)) {
                return vp_fail(VP_BAD_ARGUMENT, "the queries of a probe must ascend and be rows of the call");
            }
            if ((uint32_t) range.n_rows > ctx.n_ubatch()) {
                return vp_fail(VP_BAD_ARGUMENT, format("attention is probed in calls of one ubatch: %d rows, not %u", range.n_rows, ctx.n_ubatch()));
            }
            return VP_OK;
    }
    return vp_fail(VP_BAD_ARGUMENT, format("statistic %d is not known", (int) range.statistic));
}

static int32_t check_range(llama_context & ctx, const vp_kv_groups & kv, const vp_range & range) {
    const auto & prompt = kv.prompt;

    if (!kv.is_union(range.il_begin, range.il_end)) {
        return vp_fail(VP_BAD_ARGUMENT, format("layers [%d, %d) are not a union of KV groups", range.il_begin, range.il_end));
    }
    if (range.n_rows <= 0 || (uint32_t) range.n_rows > ctx.n_batch()) {
        return vp_fail(VP_BAD_ARGUMENT, format("%d rows in one call; the context takes 1 to %u", range.n_rows, ctx.n_batch()));
    }
    if (!range.causal && (uint32_t) range.n_rows > ctx.n_ubatch()) {
        return vp_fail(VP_BAD_ARGUMENT, format("%d rows that see each other both ways must fit in one ubatch of %u", range.n_rows, ctx.n_ubatch()));
    }
    if (!are_rows(range.rows, range.n_rows, prompt.n_rows)) {
        return vp_fail(VP_BAD_ARGUMENT, format("rows must ascend and be below %d", prompt.n_rows));
    }
    for (int32_t i = 0; i < range.n_rows; ++i) {
        if (prompt.il_next[range.rows[i]] != range.il_begin) {
            return vp_fail(VP_BAD_ARGUMENT, format("row %d is due at layer %d, not %d", range.rows[i], prompt.il_next[range.rows[i]], range.il_begin));
        }
    }
    if (range.mode != VP_ATTENTION_PLAIN && (range.n_hidden <= 0 || !are_rows(range.hidden, range.n_hidden, prompt.n_rows))) {
        return vp_fail(VP_BAD_ARGUMENT, format("hidden keys must ascend and be below %d", prompt.n_rows));
    }
    if (range.mode == VP_ATTENTION_MERGE && prompt.il_next[range.hidden[0]] < range.il_end && !std::binary_search(range.rows, range.rows + range.n_rows, range.hidden[0])) {
        return vp_fail(VP_BAD_ARGUMENT, format("weights are to be merged onto row %d, which these layers do not hold", range.hidden[0]));
    }
    return range.probe_il >= 0 ? check_probe(ctx, prompt, range) : VP_OK;
}

static llama_batch_ext build_batch(llama_context & ctx, const vp_prompt_state & prompt, const vp_range & range, bool is_last) {
    llama_batch_ext batch(&ctx);
    batch.mem      = nullptr; // positions follow from the rows: nothing to check or infer
    batch.has_gaps = true;
    batch.n_embd   = batch.n_embd_inp;

    const int64_t n_embd = batch.n_embd_inp;
    const bool    is_inp = range.il_begin == 0; // later ranges take their rows from the hidden buffer

    for (int32_t i = 0; i < range.n_rows; ++i) {
        const int32_t row = range.rows[i];

        llama_batch_ext::token t;
        t.seq_ids.insert(prompt.seq_id);
        t.output = is_last && row == prompt.n_rows - 1;
        for (size_t j = 0; j < batch.n_pos_per_embd; ++j) {
            t.pos[j] = prompt.pos[row*batch.n_pos_per_embd + j];
        }
        if (is_inp && prompt.token[row] >= 0) {
            t.id = prompt.token[row];
        } else {
            t.has_embd = true;
            t.embd_off = batch.embd.size();
        }
        if (is_inp && prompt.token[row] < 0) {
            const float * src = prompt.embd.data() + prompt.embd_row[row]*n_embd;
            batch.embd.insert(batch.embd.end(), src, src + n_embd);
        }
        batch.tokens.push_back(std::move(t));
    }
    return batch;
}

static int32_t values_per_key(enum vp_statistic statistic) {
    return statistic == VP_STATISTIC_CONTRIBUTION ? 2 : 1;
}

// of the graph that was computed last: the probe by cell becomes one by row
static void read_probe(llama_context & ctx, vp_kv_groups & kv, int32_t il, enum vp_statistic statistic) {
    auto & prompt = kv.prompt;

    auto * probe = ggml_graph_get_tensor(vp_access::last_graph(ctx)->get_gf(), format("vp_probe-%d", il).c_str());
    if (!probe) {
        throw std::runtime_error(format("layer %d left no probe in the graph", il));
    }
    std::vector<float> by_cell(probe->ne[0]);
    ggml_backend_tensor_get(probe, by_cell.data(), 0, ggml_nbytes(probe));

    const auto &  hparams  = ctx.get_model().hparams;
    const bool    has_o    = statistic == VP_STATISTIC_CONTRIBUTION;
    const int64_t n_output = has_o ? hparams.n_embd_head_v(il)*hparams.n_head(il) : 0;
    const int32_t n_values = values_per_key(statistic);
    const int64_t n_kv     = (probe->ne[0] - n_output)/n_values;

    const auto & cells = kv.cells_of_rows(kv.group_of(il));

    vp_prompt_state::probe res;
    res.output.assign(by_cell.end() - n_output, by_cell.end());
    for (int32_t i = 0; i < n_values; ++i) {
        std::vector<float> by_row(prompt.n_rows, std::numeric_limits<float>::quiet_NaN());
        for (size_t row = 0; row < cells.size(); ++row) {
            if (cells[row] >= 0 && cells[row] < n_kv) {
                by_row[row] = by_cell[i*n_kv + cells[row]];
            }
        }
        res.by_row.push_back(std::move(by_row));
    }
    prompt.probes[il] = std::move(res);
}

// the batch rows that the queries of a probe are
static std::vector<int32_t> batch_rows(const vp_range & range) {
    std::vector<int32_t> res;
    for (int32_t i = 0; i < range.n_rows && (int32_t) res.size() < range.n_queries; ++i) {
        if (range.rows[i] == range.queries[res.size()]) {
            res.push_back(i);
        }
    }
    return res;
}

int32_t vp_prompt_run(struct llama_context * ctx, const struct vp_range * range) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        auto * kv = vp_get_groups(ctx);
        if (!kv) {
            return vp_fail_no_groups();
        }
        auto & prompt = kv->prompt;

        const int32_t status = check_range(*ctx, *kv, *range);
        if (status != VP_OK) {
            return status;
        }

        const int32_t n_layer = ctx->get_model().hparams.n_layer();
        const bool    is_last = range->il_end == n_layer;

        const auto batch = build_batch(*ctx, prompt, *range, is_last);

        ctx->sched_reserve(); // for the whole graph, before it is cut

        // leaves the context as any other call expects it, whatever happens
        struct scope {
            scope(llama_context & ctx, vp_kv_groups & kv, const vp_range & range, bool is_last) : ctx(ctx), kv(kv), causal(ctx.get_causal_attn()) {
                kv.prompt.rows.assign(range.rows, range.rows + range.n_rows);
                if (range.mode != VP_ATTENTION_PLAIN) {
                    kv.prompt.keys.assign(range.hidden, range.hidden + range.n_hidden);
                }
                if (range.mode == VP_ATTENTION_MASK && range.affected) {
                    kv.prompt.affected.assign(range.affected, range.affected + range.n_rows);
                }
                if (range.probe_il >= 0 && range.statistic == VP_STATISTIC_ATTENTION) {
                    kv.prompt.queries = batch_rows(range);
                }
                kv.set_range(range.il_begin, range.il_end);
                ctx.set_causal_attn(range.causal);
                vp_access::cparams(ctx).vp = {
                    range.il_begin, is_last ? -1 : range.il_end,
                    range.probe_il, (int32_t) kv.prompt.queries.size(),
                    range.mode, &kv.prompt,
                };
            }
            ~scope() {
                vp_access::cparams(ctx).vp = {};
                ctx.set_causal_attn(causal);
                kv.set_range(0, -1);
                kv.prompt.rows.clear();
                kv.prompt.keys.clear();
                kv.prompt.affected.clear();
                kv.prompt.queries.clear();
            }
            llama_context & ctx;
            vp_kv_groups  & kv;
            const bool      causal;
        };

        int32_t ret;
        {
            scope scope(*ctx, *kv, *range, is_last);
            try {
                ret = ctx->decode(batch);
                ctx->synchronize();
            } catch (const std::exception & err) {
                ret = vp_fail(VP_COMPUTE_FAILED, err.what());
            }
            if (ret == VP_OK && range->probe_il >= 0) {
                read_probe(*ctx, *kv, range->probe_il, range->statistic);
            }
        }

        switch (ret) {
            case VP_OK:
                for (int32_t i = 0; i < range->n_rows; ++i) {
                    prompt.il_next[range->rows[i]] = range->il_end;
                }
                break;
            case VP_NO_SLOT:
                vp_fail(VP_NO_SLOT, format("layers [%d, %d) have no room for %d more tokens", range->il_begin, range->il_end, range->n_rows));
                break;
            case VP_BAD_ARGUMENT:
                vp_fail(VP_BAD_ARGUMENT, "llama.cpp refused the batch");
                break;
            default: // some layers hold the rows and some do not: the prompt has to start again
                kv->seq_rm(prompt.seq_id, -1, -1);
                kv->forget_prompt();
                break;
        }
        return ret;
    });
}

//
// results
//

const vp_prompt_state::probe * vp_find_probe(llama_context * ctx, int32_t il, enum vp_statistic statistic) {
    const auto * kv = vp_get_groups(ctx);
    if (!kv) {
        vp_fail_no_groups();
        return nullptr;
    }
    const auto it = kv->prompt.probes.find(il);
    if (it == kv->prompt.probes.end() || (int32_t) it->second.by_row.size() != values_per_key(statistic)) {
        vp_fail(VP_BAD_ARGUMENT, format("layer %d was not probed for this statistic", il));
        return nullptr;
    }
    return &it->second;
}

static float sum_of_squares(const std::vector<float> & v) {
    double res = 0.0;
    for (const float x : v) {
        res += (double) x*x;
    }
    return (float) res;
}

static void copy(const std::vector<float> & src, float * dst) {
    std::copy(src.begin(), src.end(), dst);
}

int32_t vp_prompt_probe(struct llama_context * ctx, int32_t il, float * norm2, float * dot, float * output_norm2) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        const auto * probe = vp_find_probe(ctx, il, VP_STATISTIC_CONTRIBUTION);
        if (!probe) {
            return VP_BAD_ARGUMENT;
        }
        copy(probe->by_row[0], norm2);
        copy(probe->by_row[1], dot);
        *output_norm2 = sum_of_squares(probe->output);
        return VP_OK;
    });
}

int32_t vp_prompt_attention(struct llama_context * ctx, int32_t il, float * weight) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        const auto * probe = vp_find_probe(ctx, il, VP_STATISTIC_ATTENTION);
        if (!probe) {
            return VP_BAD_ARGUMENT;
        }
        copy(probe->by_row[0], weight);
        return VP_OK;
    });
}

int32_t vp_prompt_hidden(struct llama_context * ctx, const int32_t * rows, int32_t n_rows, float * out) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        auto * kv = vp_get_groups(ctx);
        if (!kv) {
            return vp_fail_no_groups();
        }
        const auto & prompt = kv->prompt;
        if (!are_rows(rows, n_rows, prompt.n_rows)) {
            return vp_fail(VP_BAD_ARGUMENT, format("rows must ascend and be below %d", prompt.n_rows));
        }
        const int32_t n_layer = ctx->get_model().hparams.n_layer();
        for (int32_t i = 0; i < n_rows; ++i) {
            const int32_t il = prompt.il_next[rows[i]];
            if (il == 0 || il == n_layer) {
                return vp_fail(VP_BAD_ARGUMENT, format("row %d is not between two ranges", rows[i]));
            }
            ggml_backend_tensor_get(prompt.hidden, out + i*prompt.hidden->ne[0], rows[i]*prompt.hidden->nb[1], prompt.hidden->nb[1]);
        }
        return VP_OK;
    });
}
