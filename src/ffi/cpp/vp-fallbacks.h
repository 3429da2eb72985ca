// Operations that another device computes than the one that holds their layer: it lacks the operation, or what is read lies
// elsewhere. A graph says nothing of it, and is as slow as the copies between the two.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

struct llama_context;

class vp_fallbacks {
public:
    // operation, device that computed it
    using key = std::pair<std::string, std::string>;

    // notes the graph that was computed last; il_begin: the first of its layers, n_tokens: the rows of the call
    void note(llama_context & lctx, int32_t il_begin, uint32_t n_tokens);

    const std::map<key, uint64_t> & counts() const { return total; }

private:
    std::map<key, uint64_t> last; // of one graph
    std::map<key, uint64_t> total;

    int32_t n_reused = 0; // graphs that llama.cpp had used again when the last one was noted
};
