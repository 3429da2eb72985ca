// mtmd's own functions, whose exceptions and assertions become errors.
#include "visipruner.h"

#include "vp-abort.h"
#include "vp-status.h"

#include "mtmd.h"

struct mtmd_context * vp_mtmd_init_from_file(
        const char * path,
        const struct llama_model * model,
        const struct mtmd_context_params * params) {
    return vp_guard_ptr([&] {
        vp_catch_asserts scope;
        return mtmd_init_from_file(path, model, *params);
    });
}

int32_t vp_tokenize_from_parts(
        const struct mtmd_context * ctx,
        struct mtmd_input_chunks  * output,
        const struct mtmd_input_part * const * parts,
        size_t n_parts,
        bool   add_special) {
    return vp_guard(VP_BAD_ARGUMENT, [&]() -> int32_t {
        vp_catch_asserts scope;
        return mtmd_tokenize_from_parts(ctx, output, parts, n_parts, add_special);
    });
}

int32_t vp_encode_chunk(struct mtmd_context * ctx, const struct mtmd_input_chunk * chunk) {
    return vp_guard(VP_COMPUTE_FAILED, [&]() -> int32_t {
        vp_catch_asserts scope;
        return mtmd_encode_chunk(ctx, chunk);
    });
}

struct mtmd_bitmap * vp_bitmap_init(uint32_t nx, uint32_t ny, const unsigned char * data) {
    return vp_guard_ptr([&] { return mtmd_bitmap_init(nx, ny, data); });
}

struct mtmd_input_chunks * vp_input_chunks_init(void) {
    return vp_guard_ptr([] { return mtmd_input_chunks_init(); });
}
