#include "vp-abort.h"

#include "visipruner.h"

#include <cstring>
#include <stdexcept>

static vp_abort_handler last_words = nullptr;

static thread_local bool is_caught = false;

vp_catch_asserts::vp_catch_asserts() : was_caught(is_caught) {
    is_caught = true;
}

vp_catch_asserts::~vp_catch_asserts() {
    is_caught = was_caught;
}

void vp_computing(void) {
    is_caught = false;
}

// ggml_abort() calls it and then ends the process, if it comes back
static void on_abort(const char * message) {
    if (is_caught) {
        const char * slash = strrchr(message, '/'); // the file, without where it was when it was compiled
        throw std::runtime_error(slash ? slash + 1 : message);
    }
    if (last_words) {
        last_words(message);
    }
}

void vp_set_abort_handler(vp_abort_handler handler) {
    last_words = handler;
    ggml_set_abort_callback(on_abort);
}
