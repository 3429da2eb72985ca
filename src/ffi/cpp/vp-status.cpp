#include "vp-status.h"

static thread_local std::string last_error;

void vp_set_error(const std::string & message) {
    last_error = message;
}

int32_t vp_fail(enum vp_status status, const char * message) noexcept {
    try {
        last_error = message;
    } catch (...) {
        last_error.clear();
    }
    return status;
}

int32_t vp_fail(enum vp_status status, const std::string & message) noexcept {
    return vp_fail(status, message.c_str());
}

const char * vp_last_error(void) {
    return last_error.c_str();
}
