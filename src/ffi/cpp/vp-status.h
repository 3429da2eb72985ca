// Errors at the C interface: a status and a message for vp_last_error().
#pragma once

#include "visipruner.h"

#include <exception>
#include <string>

void vp_set_error(const std::string & message);

// leave a message and return the status
int32_t vp_fail(enum vp_status status, const std::string & message);

// run fn, which returns a status; an exception becomes `status`
template <typename F>
int32_t vp_guard(enum vp_status status, F && fn) {
    vp_set_error("");
    try {
        return fn();
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
