// Errors at the C interface: a status and a message for vp_last_error().
#pragma once

#include "visipruner.h"

#include <exception>
#include <stdexcept>
#include <string>

LLAMA_API void vp_set_error(const std::string & message);

// leave a message and return the status; where there is no memory for the message, there is none
LLAMA_API int32_t vp_fail(enum vp_status status, const char * message) noexcept;
LLAMA_API int32_t vp_fail(enum vp_status status, const std::string & message) noexcept;

// an exception with a status of its own
struct vp_error : std::runtime_error {
    vp_error(enum vp_status status, const std::string & message) : std::runtime_error(message), status(status) {}

    enum vp_status status;
};

// run fn, which returns a status; an exception becomes `status`, unless it has its own
template <typename F>
int32_t vp_guard(enum vp_status status, F && fn) {
    vp_set_error("");
    try {
        return fn();
    } catch (const vp_error & err) {
        return vp_fail(err.status, err.what());
    } catch (const std::exception & err) {
        return vp_fail(status, err.what());
    } catch (...) {
        return vp_fail(status, "unknown C++ exception");
    }
}

// the same for a function that returns a pointer; an exception becomes NULL
template <typename F>
auto vp_guard_ptr(F && fn) -> decltype(fn()) {
    decltype(fn()) res = nullptr;
    vp_guard(VP_BAD_ARGUMENT, [&]() -> int32_t {
        res = fn();
        return VP_OK;
    });
    return res;
}
