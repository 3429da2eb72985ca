#include "vp-kv-groups.h"

#include "vp-upstream.h"

#include "visipruner.h"

#include "llama-batch.h"
#include "llama-impl.h"
#include "llama-io.h"
#include "llama-model.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <stdexcept>

//
// vp_kv_groups
//

// caches are a multiple of so many cells long, as upstream pads what attention reads of them
static const uint32_t N_CELLS_STEP = 256;

vp_kv_groups::vp_kv_groups(
        const llama_model & model,
        ggml_type           type_k,
        ggml_type           type_v,
        const llama_cparams & cparams,
        const std::vector<vp_kv_group> & desc) :
        model(model), cparams(cparams), type_k(type_k), type_v(type_v) {
    const auto & hparams = model.hparams;

    const int32_t n_layer = hparams.n_layer_all;

    il_group.resize(n_layer);

    for (size_t r = 0; r < desc.size(); ++r) {
        const int32_t il_begin = desc[r].il_begin;
        const int32_t il_end   = r + 1 < desc.size() ? desc[r + 1].il_begin : n_layer;

        if (il_begin >= il_end || (r == 0 && il_begin != 0)) {
            throw std::runtime_error(format("KV group %zu is empty or out of order: layers [%d, %d) of %d", r, il_begin, il_end, n_layer));
        }

        const uint32_t n_cells = desc[r].n_cells == 0 ? cparams.n_ctx_seq : std::min(cparams.n_ctx_seq, GGML_PAD(desc[r].n_cells, N_CELLS_STEP));

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
            if (any) {
                g_layers.push_back({ il_begin, il_end, swa });
                groups  .push_back(new_cache(g_layers.back(), n_cells));
                g_rows  .emplace_back(groups.back()->get_size(), -1);
            }
        }
    }

    r_first.push_back(n_layer);
    r_group.push_back(groups.size());

    g_layout.resize(groups.size());

    set_range(0, -1);
}

std::unique_ptr<llama_kv_cache> vp_kv_groups::new_cache(const layers & l, uint32_t n_cells) const {
    const auto & hparams = model.hparams;
    return vp_upstream_new_cache(model, cparams, type_k, type_v, n_cells, l.swa, [&](int32_t il) {
        return il >= l.il_begin && il < l.il_end && hparams.is_swa(il) == l.swa;
    });
}

//
// layouts
//

static uint64_t mix64(uint64_t h, uint64_t v) {
    // splitmix64's finalizer over the running hash and the value
    h ^= v + 0x9e3779b97f4a7c15ull + (h << 6) + (h >> 2);
    h ^= h >> 30; h *= 0xbf58476d1ce4e5b9ull;
    h ^= h >> 27; h *= 0x94d049bb133111ebull;
    return h ^ (h >> 31);
}

uint64_t vp_kv_groups::hash_of_cell(uint32_t g, uint32_t cell) const {
    const auto & cells = groups[g]->get_cells(0);
    const auto & ext   = cells.ext_get(cell);

    uint64_t res = mix64(cell, (uint64_t) cells.pos_get(cell));
    res = mix64(res, ((uint64_t) (uint32_t) ext.x << 32) | (uint32_t) ext.y);
    return mix64(res, std::hash<llama_kv_cells::seq_set_t>()(cells.seq_get_all(cell)));
}

// a sum, so that it does not matter in which order cells came and went
uint64_t vp_kv_groups::layout(uint32_t g) const {
    auto & id = g_layout[g];
    if (!id.is_known) {
        id = { true, 0 };
        for_each_cell(g, [&](uint32_t cell, int32_t) { id.sum += hash_of_cell(g, cell); });
    }
    return mix64(mix64(groups[g]->get_size(), g_layers[g].swa), id.sum);
}

void vp_kv_groups::touch_all() {
    for (auto & id : g_layout) {
        id.is_known = false;
    }
}

bool vp_kv_groups::same_shape(uint32_t a, uint32_t b) const {
    return g_layers[a].swa == g_layers[b].swa && groups[a]->get_size() == groups[b]->get_size();
}

//
// groups
//

ggml_tensor * vp_kv_groups::get_v(ggml_context * ctx, int32_t il) const {
    const auto & kv = *groups[il_group[il]];

    llama_kv_cache::slot_info sinfo;
    sinfo.s0 = 0;
    sinfo.s1 = 0;
    return kv.get_v(ctx, il, kv.get_cells(0).used_max_p1(), sinfo);
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

//
// growth
//

namespace {

// the state of a cache, in memory
class state_buffer : public llama_io_write_i, public llama_io_read_i {
public:
    void write(const void * src, size_t size) override {
        const auto * bytes = static_cast<const uint8_t *>(src);
        data.insert(data.end(), bytes, bytes + size);
    }

    void write_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        data.resize(data.size() + size);
        ggml_backend_tensor_get(tensor, data.data() + data.size() - size, offset, size);
    }

    void read(void * dst, size_t size) override { memcpy(dst, take(size), size); }

    void read_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        ggml_backend_tensor_set(tensor, take(size), offset, size);
    }

    size_t n_bytes() override { return data.size(); }

private:
    const uint8_t * take(size_t size) {
        if (n_read + size > data.size()) {
            throw std::runtime_error("the state of a cache ends early");
        }
        n_read += size;
        return data.data() + n_read - size;
    }

    std::vector<uint8_t> data;
    size_t n_read = 0;
};

} // namespace

void vp_kv_groups::grow(uint32_t g, uint32_t n_cells) {
    auto bigger = new_cache(g_layers[g], n_cells);

    std::vector<int32_t> rows;
    if (groups[g]->get_cells(0).get_used() > 0) {
        state_buffer state;
        groups[g]->state_write(state);
        bigger->state_read(state);
        // the cells in use are moved together, in their order
        for_each_cell(g, [&](uint32_t, int32_t row) { rows.push_back(row); });
    }
    rows.resize(n_cells, -1);

    groups[g] = std::move(bigger);
    g_rows[g] = std::move(rows);
    touch(g);
}

bool vp_kv_groups::reserve(uint32_t n_rows, uint32_t n_spare, bool & has_grown) {
    for (uint32_t g = g_begin; g < g_end; ++g) {
        const uint64_t n_used  = groups[g]->get_cells(0).get_used();
        const uint64_t n_cells = groups[g]->get_size();
        if (n_used + n_rows > cparams.n_ctx_seq) {
            return false;
        }
        if (n_used + n_rows > n_cells) {
            const uint64_t n_wanted = GGML_PAD(n_used + n_rows + n_spare, N_CELLS_STEP);
            has_grown = true;
            grow(g, std::min<uint64_t>(n_wanted, cparams.n_ctx_seq));
        }
    }
    return true;
}

//
// cells
//

std::vector<int32_t> vp_kv_groups::cells_of_rows(uint32_t g, llama_seq_id seq_id, int32_t n_rows) const {
    std::vector<int32_t> res(n_rows, -1);
    for_each_cell(g, [&](uint32_t cell, int32_t row) {
        if (row >= 0 && row < n_rows && has(g, cell, seq_id)) {
            res[row] = cell;
        }
    });
    return res;
}

void vp_kv_groups::mark(uint32_t g, uint32_t cell, llama_seq_id seq_id) {
    if (!has(g, cell, seq_id)) {
        vp_upstream_cells(*groups[g]).seq_add(cell, seq_id);
        touch(g);
    }
}

void vp_kv_groups::unmark(uint32_t g, uint32_t cell, llama_seq_id seq_id) {
    if (has(g, cell, seq_id)) {
        vp_upstream_cells(*groups[g]).seq_rm(cell, seq_id);
        touch(g);
    }
}

uint32_t vp_kv_groups::n_used(uint32_t g, llama_seq_id seq_id) const {
    return groups[g]->get_cells(0).seq_pos_get(seq_id).size();
}

//
// the call in progress
//

void vp_kv_groups::begin_call(const vp_call * new_call) {
    call = new_call;
    stored.clear();
}

void vp_kv_groups::end_call() {
    call = nullptr;
    stored.clear();
}

void vp_kv_groups::undo_call() {
    for (const auto & [g, cell] : stored) {
        auto & cells = vp_upstream_cells(*groups[g]);
        if (!cells.is_empty(cell)) {
            cells.rm(cell);
        }
        touch(g);
    }
    stored.clear();
}

void vp_kv_groups::record(uint32_t g, const llama_ubatch & ubatch, const std::vector<uint32_t> & cells) {
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        g_rows[g][cells[i]] = call ? call->rows[ubatch.data->batch_idxs[i]] : -1;
        stored.emplace_back(g, cells[i]);
        if (g_layout[g].is_known) {
            g_layout[g].sum += hash_of_cell(g, cells[i]);
        }
    }
}

llama_kv_cache::slot_info_vec_t vp_kv_groups::find_slots(uint32_t g, const std::vector<llama_ubatch> & ubatches) const {
    const auto & cells = groups[g]->get_cells(0);

    llama_kv_cache::slot_info_vec_t res;
    uint32_t cell = 0;
    for (const auto & ubatch : ubatches) {
        llama_kv_cache::slot_info sinfo;
        sinfo.s0 = 0;
        sinfo.s1 = 0;
        sinfo.resize(1);
        sinfo.strm[0] = 0;
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i, ++cell) {
            while (cell < cells.size() && !cells.is_empty(cell)) {
                ++cell;
            }
            if (cell >= cells.size()) {
                return {};
            }
            sinfo.idxs[0].push_back(cell);
        }
        res.push_back(std::move(sinfo));
    }
    return res;
}

//
// llama_memory_i
//

void vp_kv_groups::clear(bool data) {
    for (auto & kv : groups) {
        kv->clear(data);
    }
    touch_all();
}

bool vp_kv_groups::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (call) {
        return true;
    }
    touch_all();
    bool res = true;
    for (auto & kv : groups) {
        res = kv->seq_rm(seq_id, p0, p1) && res;
    }
    return res;
}

void vp_kv_groups::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    touch_all();
    for (auto & kv : groups) {
        kv->seq_cp(seq_id_src, seq_id_dst, p0, p1);
    }
}

void vp_kv_groups::seq_keep(llama_seq_id seq_id) {
    touch_all();
    for (auto & kv : groups) {
        kv->seq_keep(seq_id);
    }
}

void vp_kv_groups::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    touch_all();
    for (auto & kv : groups) {
        kv->seq_add(seq_id, p0, p1, shift);
    }
}

void vp_kv_groups::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    touch_all();
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
    for (uint32_t g = g_begin; g < g_end && (!call || call->store); ++g) {
        // the same layout has the same free slots
        uint32_t same = g_begin;
        while (same < g && layout(same) != layout(g)) {
            ++same;
        }
        sinfos[g] = same < g ? sinfos[same] : find_slots(g, ubatches);
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
        std::fill(g_rows[g].begin(), g_rows[g].end(), -1);
        touch(g);
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
        if (!this->sinfos[g].empty()) {
            ctxs.push_back(std::make_unique<llama_kv_cache_context>(kv->get(g), this->sinfos[g], this->ubatches));
        } else {
            // for a part of the graph that is cut away, or reads all that is there and stores nothing
            ctxs.push_back(kv->get(g)->init_full());
        }
    }
}

bool vp_kv_groups_context::next() {
    for (uint32_t g = 0; g < ctxs.size(); ++g) {
        if (!sinfos[g].empty()) {
            ctxs[g]->next();
        }
    }
    return ++i_next < ubatches.size();
}

bool vp_kv_groups_context::apply() {
    const bool is_update = ubatches.empty();

    bool res = true;
    for (uint32_t g = 0; g < ctxs.size(); ++g) {
        if (is_update || !sinfos[g].empty()) {
            res = ctxs[g]->apply() && res;
        }
        if (!is_update && !sinfos[g].empty()) {
            kv->record(g, ubatches[i_next], sinfos[g][i_next].idxs[0]); // one stream, see vp_init_from_model()
        }
    }
    return res;
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
