// Runs a model on stock llama.cpp, through its public interface only: loads, tokenizes a prompt with images, evaluates
// it with mtmd's own helper, decodes greedily. Prints two lines,
//   prompt <token ids, -1 for each image token>
//   generated <token ids>
// and writes the logits of the last prompt token as raw float32 [n_vocab] in the byte order of the machine.
//
// With --bench 1 it encodes the images once, prints `encoded <ms>`, and then runs the prompt and decodes N tokens once per
// line of standard input, printing the tokens and `times <prefill ms> <decode ms>` each time. With --question it goes on
// with those questions: the cache keeps everything up to the last image, only the text after it is evaluated, and the same
// two lines are printed each time.

#include "ggml-backend.h"
#include "llama-cpp.h"
#include "mtmd-helper.h"
#include "mtmd.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const char * const usage =
    "usage: stock-eval -m MODEL -p PROMPT [options]\n"
    "  --mmproj FILE    projector (without it the prompt is text)\n"
    "  --image FILE     binary PPM (P6, 8 bit), once per <__media__> in the prompt\n"
    "  -o FILE          where the logits of the last prompt token go\n"
    "  -n N             tokens to generate (0)\n"
    "  --bench 1        run again and again, with times; needs a projector\n"
    "  --question TEXT  a further question of the bench: text that takes the place of the text after the last image;\n"
    "                   an end-of-image token that mtmd puts there is part of it. Can be repeated\n"
    "  -c N             size of the context (model's own)\n"
    "  -b N -ub N       batch and micro-batch (llama.cpp's defaults)\n"
    "  -t N             threads (4)\n"
    "  -ngl N           layers on the GPU (0)\n"
    "  -ctk T -ctv T    type of the KV cache: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1 (f16)\n"
    "  -fa M            flash attention of model and encoder: on, off, auto (auto)\n";

struct options {
    std::string model;
    std::string mmproj;
    std::string prompt;
    std::string logits;
    std::vector<std::string> images;
    std::vector<std::string> questions;
    int32_t n_predict    = 0;
    int32_t n_threads    = 4;
    int32_t n_gpu_layers = 0;
    bool    is_bench     = false;
    llama_context_params ctx = llama_context_default_params();
};

template <typename T>
T named(const std::map<std::string, T> & values, const std::string & name) {
    const auto found = values.find(name);
    if (found == values.end()) {
        throw std::runtime_error("unknown value '" + name + "'");
    }
    return found->second;
}

const std::map<std::string, ggml_type> kv_types = {
    { "f32",  GGML_TYPE_F32  }, { "f16",  GGML_TYPE_F16  }, { "bf16", GGML_TYPE_BF16 }, { "q8_0", GGML_TYPE_Q8_0 },
    { "q4_0", GGML_TYPE_Q4_0 }, { "q4_1", GGML_TYPE_Q4_1 }, { "q5_0", GGML_TYPE_Q5_0 }, { "q5_1", GGML_TYPE_Q5_1 },
};

const std::map<std::string, llama_flash_attn_type> flash_attn_types = {
    { "on",   LLAMA_FLASH_ATTN_TYPE_ENABLED  },
    { "off",  LLAMA_FLASH_ATTN_TYPE_DISABLED },
    { "auto", LLAMA_FLASH_ATTN_TYPE_AUTO     },
};

options parse(int argc, char ** argv) {
    options opt;
    const std::map<std::string, std::function<void(const std::string &)>> flags = {
        { "-m",          [&](const std::string & v) { opt.model        = v; } },
        { "--mmproj",    [&](const std::string & v) { opt.mmproj       = v; } },
        { "--image",     [&](const std::string & v) { opt.images.push_back(v); } },
        { "-p",          [&](const std::string & v) { opt.prompt       = v; } },
        { "-o",          [&](const std::string & v) { opt.logits       = v; } },
        { "--bench",     [&](const std::string & v) { opt.is_bench     = v != "0"; } },
        { "--question",  [&](const std::string & v) { opt.questions.push_back(v); } },
        { "-n",          [&](const std::string & v) { opt.n_predict    = std::stoi(v); } },
        { "-t",          [&](const std::string & v) { opt.n_threads    = std::stoi(v); } },
        { "-ngl",        [&](const std::string & v) { opt.n_gpu_layers = std::stoi(v); } },
        { "-c",          [&](const std::string & v) { opt.ctx.n_ctx    = std::stoi(v); } },
        { "-b",          [&](const std::string & v) { opt.ctx.n_batch  = std::stoi(v); } },
        { "-ub",         [&](const std::string & v) { opt.ctx.n_ubatch = std::stoi(v); } },
        { "-ctk",        [&](const std::string & v) { opt.ctx.type_k   = named(kv_types, v); } },
        { "-ctv",        [&](const std::string & v) { opt.ctx.type_v   = named(kv_types, v); } },
        { "-fa",         [&](const std::string & v) { opt.ctx.flash_attn_type = named(flash_attn_types, v); } },
    };
    for (int i = 1; i < argc; i += 2) {
        const auto flag = flags.find(argv[i]);
        if (flag == flags.end() || i + 1 == argc) {
            throw std::runtime_error(std::string("cannot read '") + argv[i] + "'\n" + usage);
        }
        flag->second(argv[i + 1]);
    }
    if (opt.model.empty() || opt.prompt.empty() || (opt.is_bench && opt.mmproj.empty())) {
        throw std::runtime_error(usage);
    }
    opt.ctx.n_threads       = opt.n_threads;
    opt.ctx.n_threads_batch = opt.n_threads;
    return opt;
}

mtmd_bitmap * load_ppm(const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    uint32_t nx = 0;
    uint32_t ny = 0;
    uint32_t max = 0;
    file >> magic >> nx >> ny >> max;
    file.get(); // the one blank before the pixels
    if (!file || magic != "P6" || max != 255) {
        throw std::runtime_error(path + " is not a binary PPM of 8 bits");
    }
    std::vector<char> rgb(size_t(nx) * ny * 3);
    if (!file.read(rgb.data(), rgb.size())) {
        throw std::runtime_error(path + " is truncated");
    }
    return mtmd_bitmap_init(nx, ny, reinterpret_cast<const unsigned char *>(rgb.data()));
}

// a projector and a prompt with images for it
class multimodal {
public:
    multimodal(const options & opt, const llama_model * model) {
        mtmd_context_params params = mtmd_context_params_default();
        params.use_gpu         = opt.n_gpu_layers != 0;
        params.n_threads       = opt.n_threads;
        params.flash_attn_type = opt.ctx.flash_attn_type;
        params.warmup          = false;
        mctx.reset(mtmd_init_from_file(opt.mmproj.c_str(), model, params));
        if (mctx == nullptr) {
            throw std::runtime_error("cannot load " + opt.mmproj);
        }
        n_embd = llama_model_n_embd_inp(model);

        std::vector<mtmd::bitmap_ptr> bitmaps;
        std::vector<const mtmd_bitmap *> views;
        for (const auto & image : opt.images) {
            bitmaps.emplace_back(load_ppm(image));
            views.push_back(bitmaps.back().get());
        }
        chunks = tokenize(opt.prompt, /*add_special=*/true, views);
        if (!opt.questions.empty() && !is_text(last(chunks))) {
            throw std::runtime_error("the prompt ends with an image, not with a question");
        }
        for (const auto & question : opt.questions) {
            questions.push_back(tokenize(question, /*add_special=*/false, {}));
        }
    }

    void print() const {
        printf("prompt");
        for (size_t i = 0; i < mtmd_input_chunks_size(chunks.get()); i++) {
            const mtmd_input_chunk * chunk = mtmd_input_chunks_get(chunks.get(), i);
            size_t n_text = 0;
            const llama_token * tokens = is_text(chunk) ? mtmd_input_chunk_get_tokens_text(chunk, &n_text) : nullptr;
            for (size_t j = 0; j < mtmd_input_chunk_get_n_tokens(chunk); j++) {
                printf(" %d", tokens ? tokens[j] : -1);
            }
        }
        printf("\n");
    }

    // as mtmd's own tools do it
    void eval(llama_context * ctx) const {
        llama_pos n_past = 0;
        if (mtmd_helper_eval_chunks(mctx.get(), ctx, chunks.get(), 0, 0, llama_n_batch(ctx), /*logits_last=*/true, &n_past) != 0) {
            throw std::runtime_error("cannot evaluate the prompt");
        }
    }

    void encode() {
        for (size_t i = 0; i < mtmd_input_chunks_size(chunks.get()); i++) {
            const mtmd_input_chunk * chunk = mtmd_input_chunks_get(chunks.get(), i);
            embd.emplace_back();
            if (is_text(chunk)) {
                continue;
            }
            if (mtmd_encode_chunk(mctx.get(), chunk) != 0) {
                throw std::runtime_error("cannot encode an image");
            }
            const float * src = mtmd_get_output_embd(mctx.get());
            embd.back().assign(src, src + mtmd_input_chunk_get_n_tokens(chunk)*n_embd);
        }
    }

    // the same as eval(), on what encode() has left
    void eval_encoded(llama_context * ctx) {
        llama_pos n_past = 0;
        const size_t n_chunks = mtmd_input_chunks_size(chunks.get());
        for (size_t i = 0; i < n_chunks; i++) {
            const mtmd_input_chunk * chunk = mtmd_input_chunks_get(chunks.get(), i);
            question_pos = n_past; // of the last chunk, in the end
            const int32_t n_batch = llama_n_batch(ctx);
            const int32_t status  = is_text(chunk) ?
                mtmd_helper_eval_chunk_single(mctx.get(), ctx, chunk, n_past, 0, n_batch, i + 1 == n_chunks, &n_past) :
                mtmd_helper_decode_image_chunk(mctx.get(), ctx, chunk, embd[i].data(), n_past, 0, n_batch, &n_past, nullptr, nullptr);
            if (status != 0) {
                throw std::runtime_error("cannot evaluate the prompt");
            }
        }
    }

    // removes the text after the last image, and the answer to it
    void forget_question(llama_context * ctx) const {
        if (!llama_memory_seq_rm(llama_get_memory(ctx), 0, question_pos, -1)) {
            throw std::runtime_error("the cache cannot forget a question");
        }
    }

    // a question, where the one before has been forgotten
    void eval_question(llama_context * ctx, size_t i) const {
        const mtmd_input_chunk * chunk = last(questions.at(i));
        const int32_t n_batch = llama_n_batch(ctx);
        llama_pos n_past = question_pos;
        if (mtmd_helper_eval_chunk_single(mctx.get(), ctx, chunk, n_past, 0, n_batch, /*logits_last=*/true, &n_past) != 0) {
            throw std::runtime_error("cannot evaluate the question");
        }
    }

private:
    static bool is_text(const mtmd_input_chunk * chunk) {
        return mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_TEXT;
    }

    // of a prompt, all the text after the last image: mtmd never leaves two chunks of text side by side
    static const mtmd_input_chunk * last(const mtmd::input_chunks_ptr & chunks) {
        return mtmd_input_chunks_get(chunks.get(), mtmd_input_chunks_size(chunks.get()) - 1);
    }

    mtmd::input_chunks_ptr tokenize(const std::string & prompt, bool add_special, std::vector<const mtmd_bitmap *> images) const {
        const mtmd_input_text text = { prompt.c_str(), prompt.size(), add_special, /*parse_special=*/true };
        mtmd::input_chunks_ptr out(mtmd_input_chunks_init());
        if (mtmd_tokenize(mctx.get(), out.get(), &text, images.data(), images.size()) != 0) {
            throw std::runtime_error("cannot tokenize '" + prompt + "'");
        }
        return out;
    }

    mtmd::context_ptr      mctx;
    mtmd::input_chunks_ptr chunks;
    std::vector<mtmd::input_chunks_ptr> questions; // after that of the prompt

    llama_pos question_pos = 0; // where the text after the last image begins
    size_t n_embd = 0;
    std::vector<std::vector<float>> embd; // [chunks] of image chunks, else empty
};

void eval_text(const options & opt, llama_context * ctx) {
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
    const auto n_bytes = int32_t(opt.prompt.size());
    std::vector<llama_token> tokens(opt.prompt.size() + 8); // with room for special tokens
    const int32_t n_tokens = llama_tokenize(vocab, opt.prompt.c_str(), n_bytes, tokens.data(), int32_t(tokens.size()),
            /*add_special=*/true, /*parse_special=*/true);
    if (n_tokens <= 0) {
        throw std::runtime_error("cannot tokenize the prompt");
    }

    printf("prompt");
    for (int32_t i = 0; i < n_tokens; i++) {
        printf(" %d", tokens[i]);
    }
    printf("\n");

    const auto n_batch = int32_t(llama_n_batch(ctx));
    for (int32_t i = 0; i < n_tokens; i += n_batch) {
        if (llama_decode(ctx, llama_batch_get_one(&tokens[i], std::min(n_batch, n_tokens - i))) != 0) {
            throw std::runtime_error("cannot evaluate the prompt");
        }
    }
}

// the most likely token, in bench mode of those that do not end the answer
llama_sampler * new_sampler(const llama_vocab * vocab, bool is_bench) {
    std::vector<llama_logit_bias> banned;
    for (llama_token id = 0; is_bench && id < llama_vocab_n_tokens(vocab); id++) {
        if (llama_vocab_is_eog(vocab, id)) {
            banned.push_back({ id, -INFINITY });
        }
    }
    llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, llama_sampler_init_logit_bias(llama_vocab_n_tokens(vocab), banned.size(), banned.data()));
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    return chain;
}

void generate(const options & opt, llama_context * ctx) {
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
    const llama_sampler_ptr sampler(new_sampler(vocab, opt.is_bench));
    printf("generated");
    for (int32_t i = 0; i < opt.n_predict; i++) {
        llama_token id = llama_sampler_sample(sampler.get(), ctx, -1);
        if (llama_vocab_is_eog(vocab, id)) {
            break;
        }
        printf(" %d", id);
        if (i + 1 < opt.n_predict && llama_decode(ctx, llama_batch_get_one(&id, 1)) != 0) {
            throw std::runtime_error("cannot decode token " + std::to_string(i));
        }
    }
    printf("\n");
}

void write_logits(const options & opt, llama_context * ctx) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
    std::ofstream file(opt.logits, std::ios::binary);
    if (!file.write(reinterpret_cast<const char *>(llama_get_logits_ith(ctx, -1)), n_vocab * sizeof(float))) {
        throw std::runtime_error("cannot write " + opt.logits);
    }
}

double ms_since(std::chrono::steady_clock::time_point began) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
}

// prefills and answers, with times
void answer(const options & opt, llama_context * ctx, const std::function<void()> & eval) {
    const auto prefill = std::chrono::steady_clock::now();
    eval();
    llama_synchronize(ctx);
    const double prefill_ms = ms_since(prefill);

    const auto decode = std::chrono::steady_clock::now();
    generate(opt, ctx);
    printf("times %f %f\n", prefill_ms, ms_since(decode));
    fflush(stdout);
}

// answers each line of standard input with a run; another process decides when
void bench(const options & opt, llama_context * ctx, multimodal & prompt) {
    const auto began = std::chrono::steady_clock::now();
    prompt.encode();
    printf("encoded %f\n", ms_since(began));
    fflush(stdout);
    for (std::string line; std::getline(std::cin, line);) {
        llama_memory_clear(llama_get_memory(ctx), true);
        answer(opt, ctx, [&] { prompt.eval_encoded(ctx); });
        for (size_t i = 0; i < opt.questions.size(); i++) {
            prompt.forget_question(ctx);
            answer(opt, ctx, [&] { prompt.eval_question(ctx, i); });
        }
    }
}

void run(const options & opt) {
    ggml_backend_load_all();
    llama_backend_init();

    llama_model_params mparams = llama_model_default_params();
    mparams.n_gpu_layers = opt.n_gpu_layers;
    const llama_model_ptr model(llama_model_load_from_file(opt.model.c_str(), mparams));
    if (model == nullptr) {
        throw std::runtime_error("cannot load " + opt.model);
    }
    const llama_context_ptr ctx(llama_init_from_model(model.get(), opt.ctx));
    if (ctx == nullptr) {
        throw std::runtime_error("cannot make a context");
    }

    std::unique_ptr<multimodal> prompt;
    if (!opt.mmproj.empty()) {
        prompt = std::make_unique<multimodal>(opt, model.get());
        prompt->print();
    }
    if (opt.is_bench) {
        bench(opt, ctx.get(), *prompt);
        return;
    }
    if (prompt) {
        prompt->eval(ctx.get());
    } else {
        eval_text(opt, ctx.get());
    }
    if (!opt.logits.empty()) {
        write_logits(opt, ctx.get());
    }
    generate(opt, ctx.get());
}

} // namespace

int main(int argc, char ** argv) {
    try {
        run(parse(argc, argv));
    } catch (const std::exception & error) {
        fprintf(stderr, "stock-eval: %s\n", error.what());
        return 1;
    }
    return 0;
}
