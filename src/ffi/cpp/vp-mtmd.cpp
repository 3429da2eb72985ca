// The constructors of mtmd that let exceptions pass; its other functions catch them.
#include "visipruner.h"

#include "vp-status.h"

#include "mtmd.h"

struct mtmd_bitmap * vp_bitmap_init(uint32_t nx, uint32_t ny, const unsigned char * data) {
    return vp_guard_ptr([&] { return mtmd_bitmap_init(nx, ny, data); });
}

struct mtmd_input_chunks * vp_input_chunks_init(void) {
    return vp_guard_ptr([] { return mtmd_input_chunks_init(); });
}
