// What ggml asserts while something is made or looked at becomes an exception, and so an error. While graphs are computed
// it ends the process as ever: other threads would wait for the one that is gone.
#pragma once

// while one of these lives, an assertion that fails in this thread throws a std::runtime_error
struct vp_catch_asserts {
    vp_catch_asserts();
    ~vp_catch_asserts();

    vp_catch_asserts(const vp_catch_asserts &) = delete;
    vp_catch_asserts & operator=(const vp_catch_asserts &) = delete;

private:
    bool was_caught;
};
