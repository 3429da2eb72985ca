#include "vp-kv-groups.h"

#include "visipruner.h"

#include "llama-batch.h"
#include "llama-impl.h"
#include "llama-io.h"
#include "llama-model.h"

#include <algorithm>
#include <cassert>
#include <stdexcept>

//
// vp_kv_groups
//

vp_kv_groups::vp_kv_groups(
        const llama_model & model,
        ggml_type           type_k,
        ggml_type           type_v,
        const llama_cparams & cparams,
        bool                swa_full,
        const std::vector<vp_kv_group> & desc) {
    const auto & hparams = model.hparams;

    const int32_t  n_layer = hparams.n_layer_all;
    const uint32_t n_pad   = 1;

    // as llama_kv_cache_iswa sizes its sliding-window cache
    const uint32_t n_swa_cells = swa_full ? cparams.n_ctx_seq :
        GGML_PAD(hparams.n_swa*(cparams.kv_unified ? cparams.n_seq_max : 1) + cparams.n_ubatch, 256);

    il_group.resize(n_layer);

    for (size_t r = 0; r < desc.size(); ++r) {
        const int32_t il_begin = desc[r].il_begin;
        const int32_t il_end   = r + 1 < desc.size() ? desc[r + 1].il_begin : n_layer;

        if (il_begin >= il_end || (r == 0 && il_begin != 0)) {
            throw std::runtime_error(format("KV group %zu is empty or out of order: layers [%d, %d) of %d", r, il_begin, il_end, n_layer));
        }

        const uint32_t n_cells = desc[r].n_cells == 0 ? cparams.n_ctx_seq : std::min(cparams.n_ctx_seq, GGML_PAD(desc[r].n_cells, 256));

        r_first.push_back(il_begin);
        r_group.push_back(groups.size());

        for (const bool swa : { false, true }) {
            bool any = false;
            for (int32_t il = il_begin; il < il_end; ++il) {
                if (hparams.is_swa(il) == swa) {
                    il_group[il] = groups.size();
                    any = true;
                }
            }
            if (!any) {
                continue;
            }

            const layer_filter_cb filter = [&](int32_t il) {
                return il >= il_begin && il < il_end && hparams.is_swa(il) == swa;
            };

            groups.push_back(std::make_unique<llama_kv_cache>(
                        model, hparams, type_k, type_v, !cparams.flash_attn, cparams.offload_kqv, cparams.kv_unified,
                        swa ? std::min(n_cells, n_swa_cells) : n_cells, cparams.n_seq_max, n_pad,
                        swa ? hparams.n_swa : 0, swa ? hparams.swa_type : LLAMA_SWA_TYPE_NONE,
                        nullptr, filter, nullptr, nullptr));
            g_swa.push_back(swa);
        }
    }

    r_first.push_back(n_layer);
    r_group.push_back(groups.size());

    layouts.resize(groups.size());
    row_cells.resize(groups.size());

    clear(false);
    set_range(0, -1);
}

static uint64_t mix64(uint64_t h, uint64_t v) {
    // splitmix64's finalizer over the running hash and the value
    h ^= v + 0x9e3779b97f4a7c15ull + (h << 6) + (h >> 2);
    h ^= h >> 30; h *= 0xbf58476d1ce4e5b9ull;
    h ^= h >> 27; h *= 0x94d049bb133111ebull;
    return h ^ (h >> 31);
}

void vp_kv_groups::layout_mix(uint32_t g, uint64_t v) {
    layouts[g] = mix64(layouts[g], v);
}

void vp_kv_groups::layout_mix_all(std::initializer_list<int64_t> vs) {
    for (uint32_t g = 0; g < groups.size(); ++g) {
        for (const auto v : vs) {
            layout_mix(g, (uint64_t) v);
        }
    }
}

bool vp_kv_groups::same_shape(uint32_t a, uint32_t b) const {
    return g_swa[a] == g_swa[b] && groups[a]->get_size() == groups[b]->get_size();
}

ggml_tensor * vp_kv_groups::get_v(ggml_context * ctx, int32_t il) const {
    const auto & kv = *groups[il_group[il]];

    llama_kv_cache::slot_info sinfo;
    sinfo.s0 = 0;
    sinfo.s1 = 0;
    return kv.get_v(ctx, il, kv.get_cells(0).used_max_p1(), sinfo);
}

bool vp_kv_groups::holds_cells(int32_t il) const {
    return groups[il_group[il]]->get_cells(0).get_used() > 0;
}

bool vp_kv_groups::is_rotated(int32_t il) const {
    return ggml_is_quantized(groups[il_group[il]]->type_v());
}

// index of il in r_first, -1 = no group starts there
static int32_t find_boundary(const std::vector<int32_t> & r_first, int32_t il) {
    const auto it = std::find(r_first.begin(), r_first.end(), il);
    return it == r_first.end() ? -1 : (int32_t) (it - r_first.begin());
}

bool vp_kv_groups::is_union(int32_t il_begin, int32_t il_end) const {
    return il_begin < il_end && find_boundary(r_first, il_begin) >= 0 && find_boundary(r_first, il_end) >= 0;
}

bool vp_kv_groups::set_range(int32_t il_begin, int32_t il_end) {
    if (il_end < 0) {
        il_end = r_first.back();
    }
    if (!is_union(il_begin, il_end)) {
        return false;
    }
    g_begin = r_group[find_boundary(r_first, il_begin)];
    g_end   = r_group[find_boundary(r_first, il_end)];
    return true;
}

std::vector<int32_t> vp_kv_groups::boundaries() const {
    return { r_first.begin() + 1, r_first.end() - 1 };
}

void vp_kv_groups::forget_prompt() {
    prompt.n_rows = 0;
    prompt.probes.clear();
    for (auto & cells : row_cells) {
        cells.clear();
    }
}

void vp_kv_groups::clear(bool data) {
    for (uint32_t g = 0; g < groups.size(); ++g) {
        groups[g]->clear(data);
        layouts[g] = mix64(groups[g]->get_size(), g_swa[g]);
    }
    forget_prompt();
}

bool vp_kv_groups::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    layout_mix_all({ 1, seq_id, p0, p1 });
    bool res = true;
    for (auto & kv : groups) {
        res = kv->seq_rm(seq_id, p0, p1) && res;
    }
    return res;
}

void vp_kv_groups::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    layout_mix_all({ 2, seq_id_src, seq_id_dst, p0, p1 });
    for (auto & kv : groups) {
        kv->seq_cp(seq_id_src, seq_id_dst, p0, p1);
    }
}

void vp_kv_groups::seq_keep(llama_seq_id seq_id) {
    layout_mix_all({ 3, seq_id });
    for (auto & kv : groups) {
        kv->seq_keep(seq_id);
    }
}

void vp_kv_groups::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    layout_mix_all({ 4, seq_id, p0, p1, shift });
    for (auto & kv : groups) {
        kv->seq_add(seq_id, p0, p1, shift);
    }
}

void vp_kv_groups::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    layout_mix_all({ 5, seq_id, p0, p1, d });
    for (auto & kv : groups) {
        kv->seq_div(seq_id, p0, p1, d);
    }
}

llama_pos vp_kv_groups::seq_pos_min(llama_seq_id seq_id) const {
    llama_pos res = -1;
    for (uint32_t g = 0; g < r_group[1]; ++g) {
        res = std::max(res, groups[g]->seq_pos_min(seq_id)); // a sliding window forgets its first positions
    }
    return res;
}

llama_pos vp_kv_groups::seq_pos_max(llama_seq_id seq_id) const {
    return groups[0]->seq_pos_max(seq_id);
}

bool vp_kv_groups::evict(int32_t il_begin, int32_t il_end, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    bool res = true;
    const uint32_t g0 = r_group[find_boundary(r_first, il_begin)];
    const uint32_t g1 = r_group[find_boundary(r_first, il_end)];
    for (uint32_t g = g0; g < g1; ++g) {
        for (const int64_t v : { 6, seq_id, p0, p1 }) {
            layout_mix(g, (uint64_t) v);
        }
        res = groups[g]->seq_rm(seq_id, p0, p1) && res;
    }
    return res;
}

std::map<ggml_backend_buffer_type_t, size_t> vp_kv_groups::memory_breakdown() const {
    std::map<ggml_backend_buffer_type_t, size_t> res;
    for (const auto & kv : groups) {
        for (const auto & [buft, size] : kv->memory_breakdown()) {
            res[buft] += size;
        }
    }
    return res;
}

llama_memory_context_ptr vp_kv_groups::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) {
    GGML_UNUSED(embd_all);

    balloc.split_reset();

    std::vector<llama_ubatch> ubatches;
    while (true) {
        auto ubatch = balloc.split_simple(n_ubatch);
        if (ubatch.n_tokens == 0) {
            break;
        }
        ubatches.push_back(std::move(ubatch)); // NOLINT
    }

    if (balloc.get_n_used() < balloc.get_n_tokens()) {
        return std::make_unique<vp_kv_groups_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
    }

    std::vector<llama_kv_cache::slot_info_vec_t> sinfos(groups.size());
    for (uint32_t g = g_begin; g < g_end; ++g) {
        // the same layout has the same free slots
        uint32_t same = g_begin;
        while (same < g && layouts[same] != layouts[g]) {
            ++same;
        }
        sinfos[g] = same < g ? sinfos[same] : groups[g]->prepare(ubatches);
        if (sinfos[g].empty()) {
            return std::make_unique<vp_kv_groups_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
        }
    }

    return std::make_unique<vp_kv_groups_context>(this, std::move(sinfos), std::move(ubatches));
}

llama_memory_context_ptr vp_kv_groups::init_full() {
    return std::make_unique<vp_kv_groups_context>(this);
}

llama_memory_context_ptr vp_kv_groups::init_update(llama_context * lctx, bool optimize) {
    return std::make_unique<vp_kv_groups_context>(this, lctx, optimize);
}

bool vp_kv_groups::get_can_shift() const {
    for (const auto & kv : groups) {
        if (!kv->get_can_shift()) {
            return false;
        }
    }
    return true;
}

void vp_kv_groups::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    const uint32_t n = groups.size();
    io.write(&n, sizeof(n));
    for (const auto & kv : groups) {
        kv->state_write(io, seq_id, flags);
    }
}

void vp_kv_groups::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    uint32_t n;
    io.read(&n, sizeof(n));
    if (n != groups.size()) {
        throw std::runtime_error(format("the state has %u KV groups, this context %zu", n, groups.size()));
    }
    for (uint32_t g = 0; g < groups.size(); ++g) {
        groups[g]->state_read(io, seq_id, flags);
        layout_mix(g, (7ull << 32) + g); // the cells may lie anywhere now: share with no other group
    }
}

//
// vp_kv_groups_context
//

vp_kv_groups_context::vp_kv_groups_context(llama_memory_status status) : status(status) {}

vp_kv_groups_context::vp_kv_groups_context(vp_kv_groups * kv) :
        kv(kv), is_full(true), status(LLAMA_MEMORY_STATUS_SUCCESS) {
    for (uint32_t g = 0; g < kv->n_groups(); ++g) {
        ctxs.push_back(kv->get(g)->init_full());
    }
}

static llama_memory_status combined_status(const std::vector<llama_memory_context_ptr> & ctxs) {
    auto res = LLAMA_MEMORY_STATUS_NO_UPDATE;
    for (const auto & ctx : ctxs) {
        res = llama_memory_status_combine(res, ctx->get_status());
    }
    return res;
}

static std::vector<llama_memory_context_ptr> init_updates(vp_kv_groups * kv, llama_context * lctx, bool optimize) {
    std::vector<llama_memory_context_ptr> res;
    for (uint32_t g = 0; g < kv->n_groups(); ++g) {
        res.push_back(kv->get(g)->init_update(lctx, optimize));
    }
    return res;
}

vp_kv_groups_context::vp_kv_groups_context(vp_kv_groups * kv, llama_context * lctx, bool optimize) :
        kv(kv), ctxs(init_updates(kv, lctx, optimize)), status(combined_status(ctxs)) {}

vp_kv_groups_context::vp_kv_groups_context(
        vp_kv_groups * kv,
        std::vector<slot_info_vec_t> sinfos,
        std::vector<llama_ubatch> ubatches) :
        kv(kv), ubatches(std::move(ubatches)), sinfos(std::move(sinfos)), status(LLAMA_MEMORY_STATUS_SUCCESS) {
    for (uint32_t g = 0; g < kv->n_groups(); ++g) {
        if (kv->active(g)) {
            ctxs.push_back(std::make_unique<llama_kv_cache_context>(kv->get(g), this->sinfos[g], this->ubatches));
        } else {
            // only used to build the parts of the graph that are cut away
            ctxs.push_back(kv->get(g)->init_full());
        }
    }
}

bool vp_kv_groups_context::next() {
    for (uint32_t g = 0; g < ctxs.size(); ++g) {
        if (kv->active(g)) {
            ctxs[g]->next();
        }
    }
    return ++i_next < ubatches.size();
}

bool vp_kv_groups_context::apply() {
    const bool is_update = ubatches.empty();

    bool res = true;
    for (uint32_t g = 0; g < ctxs.size(); ++g) {
        if (is_update || kv->active(g)) {
            res = ctxs[g]->apply() && res;
        }
        if (!is_update && kv->active(g)) {
            record(g);
        }
    }
    return res;
}

void vp_kv_groups_context::record(uint32_t g) {
    const auto & ubatch = ubatches[i_next];
    const auto & cells  = sinfos[g][i_next].idxs[0]; // one stream, see vp_init_from_model()

    kv->layout_mix(g, 0);
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        kv->layout_mix(g, cells[i]);
        for (uint32_t j = 0; j < ubatch.n_pos; ++j) {
            kv->layout_mix(g, ubatch.pos[j*ubatch.n_tokens + i]);
        }
        for (int32_t s = 0; s < ubatch.n_seq_id[i]; ++s) {
            kv->layout_mix(g, ubatch.seq_id[i][s]);
        }
    }

    const auto & rows = kv->prompt.rows;
    if (rows.empty()) {
        return; // not a staged prefill
    }
    auto & row_cells = kv->cells_of_rows(g);
    row_cells.resize(kv->prompt.n_rows, -1);
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        row_cells[rows[ubatch.data->batch_idxs[i]]] = cells[i];
    }
}

llama_memory_status vp_kv_groups_context::get_status() const {
    return status;
}

const llama_ubatch & vp_kv_groups_context::get_ubatch() const {
    assert(status == LLAMA_MEMORY_STATUS_SUCCESS);

    return ubatches[i_next];
}

std::vector<uint32_t> vp_kv_groups_context::layout_classes(std::vector<uint32_t> & reps) const {
    const auto same = [&](uint32_t a, uint32_t b) {
        if (!is_full && kv->active(a) != kv->active(b)) {
            return false;
        }
        return is_full || !kv->active(a) ? kv->same_shape(a, b) : kv->layout(a) == kv->layout(b);
    };

    reps.clear();
    std::vector<uint32_t> res(ctxs.size());
    for (uint32_t g = 0; g < ctxs.size(); ++g) {
        uint32_t c = 0;
        while (c < reps.size() && !same(reps[c], g)) {
            ++c;
        }
        if (c == reps.size()) {
            reps.push_back(g);
        }
        res[g] = c;
    }
    return res;
}
