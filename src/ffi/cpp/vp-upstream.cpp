#include "vp-upstream.h"

#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

bool vp_access::build_graph(llama_context & ctx, const llama_ubatch & ubatch, const llama_memory_context_i * mctx) {
    auto * res = ctx.get_gf_res_reserve();
    res->reset();
    return ctx.model.build_graph(ctx.graph_params(res, ubatch, mctx, LLM_GRAPH_TYPE_DEFAULT)) != nullptr;
}

llm_graph_result & vp_access::build_graph_of_one_row(llama_context & ctx, const llama_ubatch & ubatch, const llama_memory_context_i * mctx) {
    const auto n_outputs = ctx.n_outputs;
    ctx.n_outputs = 1;
    const bool is_built = build_graph(ctx, ubatch, mctx);
    ctx.n_outputs = n_outputs;
    if (!is_built) {
        throw std::runtime_error("the graph of one row could not be built");
    }
    return *ctx.get_gf_res_reserve();
}

const std::vector<llm_arch> & vp_upstream_archs() {
    static const std::vector<llm_arch> archs = {
        LLM_ARCH_LLAMA, LLM_ARCH_LLAMA4, LLM_ARCH_DECI, LLM_ARCH_FALCON, LLM_ARCH_GPT2, LLM_ARCH_GPTNEOX, LLM_ARCH_MPT,
        LLM_ARCH_BAICHUAN, LLM_ARCH_STARCODER, LLM_ARCH_STABLELM, LLM_ARCH_QWEN, LLM_ARCH_QWEN2, LLM_ARCH_QWEN2MOE,
        LLM_ARCH_QWEN2VL, LLM_ARCH_QWEN3, LLM_ARCH_QWEN3MOE, LLM_ARCH_QWEN3VL, LLM_ARCH_QWEN3VLMOE, LLM_ARCH_PHI2,
        LLM_ARCH_PHI3, LLM_ARCH_PHIMOE, LLM_ARCH_PLAMO, LLM_ARCH_PLAMO3, LLM_ARCH_CODESHELL, LLM_ARCH_ORION,
        LLM_ARCH_INTERNLM2, LLM_ARCH_MINICPM, LLM_ARCH_MINICPM3, LLM_ARCH_GEMMA, LLM_ARCH_GEMMA2, LLM_ARCH_GEMMA3,
        LLM_ARCH_GEMMA4, LLM_ARCH_STARCODER2, LLM_ARCH_MAPLE, LLM_ARCH_XVERSE, LLM_ARCH_COMMAND_R, LLM_ARCH_COHERE2,
        LLM_ARCH_COHERE2MOE, LLM_ARCH_DBRX, LLM_ARCH_OLMO, LLM_ARCH_OLMO2, LLM_ARCH_OLMOE, LLM_ARCH_MUSE_GLIMMER,
        LLM_ARCH_OPENELM, LLM_ARCH_ARCTIC, LLM_ARCH_DEEPSEEK, LLM_ARCH_DEEPSEEK2, LLM_ARCH_DEEPSEEK2OCR,
        LLM_ARCH_CHATGLM, LLM_ARCH_GLM4, LLM_ARCH_GLM4_MOE, LLM_ARCH_BITNET, LLM_ARCH_JAIS, LLM_ARCH_JAIS2,
        LLM_ARCH_NEMOTRON, LLM_ARCH_EXAONE, LLM_ARCH_EXAONE4, LLM_ARCH_EXAONE_MOE, LLM_ARCH_GRANITE,
        LLM_ARCH_GRANITE_MOE, LLM_ARCH_GRANITE_SWA, LLM_ARCH_BAILINGMOE, LLM_ARCH_BAILINGMOE2, LLM_ARCH_DOTS1,
        LLM_ARCH_ARCEE, LLM_ARCH_AFMOE, LLM_ARCH_LAGUNA, LLM_ARCH_ERNIE4_5, LLM_ARCH_ERNIE4_5_MOE,
        LLM_ARCH_HUNYUAN_MOE, LLM_ARCH_HUNYUAN_DENSE, LLM_ARCH_HUNYUAN_VL, LLM_ARCH_HY_V3, LLM_ARCH_SMOLLM3,
        LLM_ARCH_OPENAI_MOE, LLM_ARCH_SMALLTHINKER, LLM_ARCH_SEED_OSS, LLM_ARCH_GROVEMOE, LLM_ARCH_APERTUS,
        LLM_ARCH_MINIMAX_M2, LLM_ARCH_PANGU_EMBED, LLM_ARCH_MISTRAL3, LLM_ARCH_PADDLEOCR, LLM_ARCH_MIMO2,
        LLM_ARCH_STEP35, LLM_ARCH_SPARK2_5, LLM_ARCH_MAINCODER, LLM_ARCH_MELLUM, LLM_ARCH_NANBEIGE,
    };
    return archs;
}

// what is known of architectures that cannot be cut
static const char * refusal_of_arch(llm_arch arch) {
    if (llm_arch_is_recurrent(arch)) {
        return "its layers keep a state in place of a cell for each row";
    }
    if (llm_arch_is_hybrid(arch)) {
        return "some of its layers keep a state in place of a cell for each row";
    }
    switch (arch) {
        case LLM_ARCH_BERT:
        case LLM_ARCH_MODERN_BERT:
        case LLM_ARCH_NOMIC_BERT:
        case LLM_ARCH_NOMIC_BERT_MOE:
        case LLM_ARCH_NEO_BERT:
        case LLM_ARCH_JINA_BERT_V2:
        case LLM_ARCH_JINA_BERT_V3:
        case LLM_ARCH_EUROBERT:
        case LLM_ARCH_LLAMA_EMBED:
        case LLM_ARCH_GEMMA_EMBEDDING:
        case LLM_ARCH_T5:
        case LLM_ARCH_T5ENCODER:
        case LLM_ARCH_CLEF:
            return "it is or has an encoder";
        case LLM_ARCH_DREAM:
        case LLM_ARCH_LLADA:
        case LLM_ARCH_LLADA_MOE:
        case LLM_ARCH_RND1:
            return "it generates by diffusion, without causal attention";
        case LLM_ARCH_POCKETTTS:
        case LLM_ARCH_QWEN3TTS:
        case LLM_ARCH_WAVTOKENIZER_DEC:
            return "it generates sound";
        case LLM_ARCH_EAGLE3:
        case LLM_ARCH_DFLASH:
        case LLM_ARCH_GEMMA4_ASSISTANT:
            return "it drafts for another model, whose hidden rows it reads";
        case LLM_ARCH_GEMMA3N:
        case LLM_ARCH_TALKIE:
        case LLM_ARCH_HRM_TEXT:
            return "its layers pass on more than one tensor";
        case LLM_ARCH_GRANITE_SWITCH:
            return "it takes tokens only, and no rows of pictures";
        case LLM_ARCH_CHAMELEON:
            return "llama.cpp runs it only where each call has outputs";
        case LLM_ARCH_COGVLM:
            return "rows of text and of pictures go through different weights, and a call has both";
        case LLM_ARCH_GROK:
            return "its scores are capped in a way that the probes do not know";
        case LLM_ARCH_DEEPSEEK32:
        case LLM_ARCH_GLM_DSA:
        case LLM_ARCH_DOTS3NOTE:
        case LLM_ARCH_HY_V4:
        case LLM_ARCH_MINIMAX_M3:
            return "its memory holds more than keys and values";
        default:
            return "it has not been compared";
    }
}

const char * vp_upstream_refusal(const llama_model & model) {
    const auto & archs   = vp_upstream_archs();
    const auto & hparams = model.hparams;
    if (std::find(archs.begin(), archs.end(), model.arch) == archs.end()) {
        return refusal_of_arch(model.arch);
    }
    if (hparams.is_mla()) {
        return "its memory holds one latent vector in place of keys and values (MLA)";
    }
    if (model.per_layer_tok_embd) {
        return "each of its layers reads an embedding of its own";
    }
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (!hparams.has_kv(il)) {
            return "some of its layers read keys and values of others";
        }
    }
    if (hparams.n_layer_nextn > 0) {
        return "it has layers for the prediction of several tokens";
    }
    if (hparams.use_alibi || !hparams.causal_attn) {
        return hparams.use_alibi ? "its attention has ALiBi" : "its attention is not causal";
    }
    return nullptr;
}

int32_t vp_upstream_input_end(const llama_hparams & hparams) {
    const auto & mapping = hparams.deepstack_mapping_arr; // Granite: the slice that is added before a layer
    for (int32_t il = hparams.n_layer() - 1; il > 0; --il) {
        if (mapping[il] >= 0) {
            return il;
        }
    }
    return std::max<int32_t>(1, hparams.n_deepstack_layers); // Qwen3-VL: one slice is added after each of the first layers
}

std::unique_ptr<llama_kv_cache> vp_upstream_new_cache(
        const llama_model & model,
        const llama_cparams & cparams,
        ggml_type type_k,
        ggml_type type_v,
        uint32_t n_cells,
        bool swa,
        const llama_kv_cache::layer_filter_cb & filter) {
    const auto & hparams = model.hparams;

    const uint32_t n_pad = 1;

    return std::make_unique<llama_kv_cache>(
            model, hparams, type_k, type_v, !cparams.flash_attn, cparams.offload_kqv, cparams.kv_unified,
            n_cells, cparams.n_seq_max, n_pad,
            swa ? hparams.n_swa : 0, swa ? hparams.swa_type : LLAMA_SWA_TYPE_NONE,
            nullptr, filter, nullptr, nullptr);
}

llama_kv_cells & vp_upstream_cells(llama_kv_cache & cache) {
    // upstream hands them out to be read; the object behind is not const, and marking a cell changes nothing else
    return const_cast<llama_kv_cells &>(cache.get_cells(0));
}

llama_batch_ext vp_upstream_new_batch(llama_context & ctx) {
    llama_batch_ext batch(&ctx);
    batch.mem      = nullptr;
    batch.has_gaps = true;
    batch.n_embd   = batch.n_embd_inp;
    return batch;
}

void vp_upstream_add_row(
        llama_batch_ext & batch,
        llama_token token,
        const float * embd,
        const llama_pos * pos,
        const std::unordered_set<llama_seq_id> & seq_ids,
        bool output) {
    llama_batch_ext::token t;
    t.seq_ids = seq_ids;
    t.output  = output;
    std::copy(pos, pos + batch.n_pos_per_embd, t.pos.begin());
    if (token >= 0) {
        t.id = token;
    } else {
        t.has_embd = true;
        t.embd_off = batch.embd.size();
    }
    if (embd) {
        batch.embd.insert(batch.embd.end(), embd, embd + batch.n_embd_inp);
    }
    batch.tokens.push_back(std::move(t));
}

void vp_upstream_drop_outputs(llm_graph_result & res) {
    res.t_logits = res.t_embd = res.t_embd_pooled = res.t_h_nextn = nullptr;
    res.t_sampled.clear();
    res.t_sampled_probs.clear();
    res.t_sampled_logits.clear();
    res.t_candidates.clear();
}

bool vp_upstream_outputs_are_known(llm_graph_result & res, bool is_last) {
    const auto is_known = [&](const ggml_tensor * t) {
        return strncmp(t->name, "vp_", 3) == 0 ||
            (is_last && (t == res.t_logits || t == res.t_embd || t == res.t_embd_pooled || t == res.t_h_nextn));
    };
    // set_outputs() marks tensors whether they are still part of the graph or not
    for (auto * t = ggml_get_first_tensor(res.get_ctx()); t; t = ggml_get_next_tensor(res.get_ctx(), t)) {
        if ((t->flags & GGML_TENSOR_FLAG_OUTPUT) && !is_known(t)) {
            return false;
        }
    }
    return true;
}

void vp_upstream_drop_inputs(llm_graph_result & res, bool without_embd, bool without_out_ids) {
    std::unordered_set<const ggml_tensor *> read;
    for (int i = 0; i < ggml_graph_n_nodes(res.get_gf()); ++i) {
        const auto * node = ggml_graph_node(res.get_gf(), i);
        read.insert(node->src, node->src + GGML_MAX_SRC);
        read.insert(node->view_src);
    }
    const auto is_dropped = [&](llm_graph_input_i * inp) {
        if (dynamic_cast<llm_graph_input_embd *>(inp)) {
            return without_embd;
        }
        if (dynamic_cast<llm_graph_input_out_ids *>(inp)) {
            return without_out_ids;
        }
        // layers without RoPE read no positions, and only some scale their scores
        if (const auto * pos = dynamic_cast<llm_graph_input_pos *>(inp)) {
            return !read.count(pos->pos);
        }
        if (const auto * temp = dynamic_cast<llm_graph_input_attn_temp *>(inp)) {
            return !read.count(temp->attn_scale);
        }
        return false;
    };
    auto & inputs = res.inputs;
    inputs.erase(std::remove_if(inputs.begin(), inputs.end(), [&](const llm_graph_input_ptr & inp) {
        return is_dropped(inp.get());
    }), inputs.end());
}

bool vp_upstream_is_kv_write(const ggml_tensor * node) {
    return node->op == GGML_OP_SET_ROWS && node->view_src &&
        (strncmp(node->view_src->name, "cache_k", 7) == 0 || strncmp(node->view_src->name, "cache_v", 7) == 0);
}
