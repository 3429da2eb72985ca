#include "vp-vision.h"

static thread_local enum vp_vision_encoder encoder_for_new_projectors = VP_VISION_ENCODER_REFERENCE;

void vp_set_vision_encoder(enum vp_vision_encoder encoder) {
    encoder_for_new_projectors = encoder;
}

enum vp_vision_encoder vp_vision_encoder_for_new_projector() {
    return encoder_for_new_projectors;
}

bool vp_vision_class_token_first(enum vp_vision_encoder encoder) {
    return encoder == VP_VISION_ENCODER_REFERENCE;
}

bool vp_vision_runs_all_layers(enum vp_vision_encoder encoder, bool has_llava_projector) {
    return has_llava_projector && encoder == VP_VISION_ENCODER_REFERENCE;
}
