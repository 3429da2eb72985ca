#include "vp-status.h"

static thread_local std::string last_error;

void vp_set_error(const std::string & message) {
    last_error = message;
}

int32_t vp_fail(enum vp_status status, const std::string & message) {
    last_error = message;
    return status;
}

const char * vp_last_error(void) {
    return last_error.c_str();
}
