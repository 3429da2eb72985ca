//! Small models that llama.cpp makes by itself: it knows the tensors of an architecture, we give sizes and numbers.

use std::ffi::{CStr, CString, c_void};

use super::super::common::rng::Rng;
use super::super::{Error, Model, sys};
use crate::ffi::status::call;

/// The value of a key.
#[derive(Clone)]
pub enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    Bools(Vec<bool>),
}

use Value::{Bool, Bools, F32, I32s, U32, U32s};

pub const N_LAYER: usize = 4;
const N_HEAD: u32 = 4;
const N_HEAD_KV: u32 = 2;
const N_EMBD_HEAD: u32 = 32;
const N_EMBD: u32 = N_HEAD * N_EMBD_HEAD;
const N_VOCAB: u32 = 128;
const N_FF: u32 = 96;

/// Whether a model has several feed-forward networks in each layer, of which some are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Experts,
}

/// Sizes and numbers; what an architecture does not know it does not look at.
fn keys(arch: &str, kind: Kind) -> Vec<(&'static str, Value)> {
    let mut keys = vec![
        ("vocab_size", U32(N_VOCAB)),
        ("context_length", U32(256)),
        ("embedding_length", U32(N_EMBD)),
        ("block_count", U32(N_LAYER as u32)),
        ("feed_forward_length", U32(N_FF)),
        ("attention.head_count", U32(N_HEAD)),
        ("attention.head_count_kv", U32(N_HEAD_KV)),
        ("attention.key_length", U32(N_EMBD_HEAD)),
        ("attention.value_length", U32(N_EMBD_HEAD)),
        ("attention.key_length_swa", U32(N_EMBD_HEAD)),
        ("attention.value_length_swa", U32(N_EMBD_HEAD)),
        ("attention.layer_norm_rms_epsilon", F32(1e-5)),
        ("attention.layer_norm_epsilon", F32(1e-5)),
        ("attention.sliding_window", U32(16)),
        ("attention.clamp_kqv", F32(8.0)),
        ("attention.q_lora_rank", U32(64)),
        ("attention.kv_lora_rank", U32(64)),
        ("rope.dimension_count", U32(N_EMBD_HEAD)),
        ("rope.freq_base", F32(10_000.0)),
        ("rope.scaling.original_context_length", U32(256)),
        ("logit_scale", F32(0.5)),
        ("use_parallel_residual", Bool(true)),
        ("shortconv.l_cache", U32(3)),
        ("ssm.conv_kernel", U32(4)),
        ("ssm.inner_size", U32(2 * N_EMBD)),
        ("ssm.state_size", U32(32)),
        ("ssm.time_step_rank", U32(8)),
        ("ssm.group_count", U32(4)),
        ("wkv.head_size", U32(N_EMBD_HEAD)),
        ("full_attention_interval", U32(2)),
    ];
    if kind == Kind::Experts {
        keys.extend([
            ("expert_count", U32(4)),
            ("expert_used_count", U32(2)),
            ("expert_feed_forward_length", U32(64)),
            ("expert_shared_feed_forward_length", U32(64)),
            ("expert_chunk_feed_forward_length", U32(64)),
            ("expert_shared_count", U32(1)),
            ("expert_weights_scale", F32(1.0)),
            ("expert_gating_func", U32(1)),
            ("expert_group_scale", F32(0.05)),
            ("experts_per_group", U32(2)),
            ("interleave_moe_layer_step", U32(1)),
            ("leading_dense_block_count", U32(1)),
            ("moe_every_n_layers", U32(2)),
        ]);
    }
    keys.extend(keys_of(arch));
    keys
}

/// What one architecture needs beside the others.
fn keys_of(arch: &str) -> Vec<(&'static str, Value)> {
    let is_sliding = || Bools((0..N_LAYER).map(|il| il % 2 == 0).collect());
    let n_head_kv = || U32s((0..N_LAYER as u32).map(|il| il % 2 * N_HEAD_KV).collect());
    let sections = || ("rope.dimension_sections", U32s(vec![6, 5, 5, 0]));
    match arch {
        "apertus" => ["xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"]
            .map(|key| (key, F32(0.5)))
            .into(),
        "bert" | "nomic-bert" | "nomic-bert-moe" | "jina-bert-v2" | "jina-bert-v3" => {
            vec![("tokenizer.ggml.token_type_count", U32(2))]
        }
        // some ids are those of pictures
        "chameleon" => vec![("vocab_size", U32(8448))],
        "deepseek2-ocr" | "olmoe" | "dots1" => vec![("attention.head_count_kv", U32(N_HEAD))],
        "deepseek2" | "mistral4" | "minicpm3" | "plm" => vec![
            ("attention.head_count_kv", U32(N_HEAD)),
            ("rope.dimension_count", U32(N_EMBD_HEAD / 2)),
        ],
        "dflash" => vec![
            ("target_layers", I32s(vec![1, 2, 3])),
            ("attention.sliding_window_pattern", is_sliding()),
        ],
        "eagle3" => vec![
            ("target_layers", I32s(vec![1, 2, 3])),
            ("target_hidden_size", U32(N_EMBD)),
        ],
        "gemma4" => vec![
            ("attention.sliding_window_pattern", is_sliding()),
            ("embedding_length_per_layer_input", U32(0)),
        ],
        "granite" => vec![
            ("deepstack_mapping", I32s(vec![0, 1, 2, -1])),
            ("embedding_scale", F32(3.0)),
        ],
        "graniteswitch" => vec![
            ("adapters.count", U32(1)),
            ("adapters.lora_rank", U32(4)),
            ("adapters.token_ids_activate", I32s(vec![5])),
            ("adapters.token_ids_substitute", I32s(vec![6])),
        ],
        "granite_swa" | "mimo2" | "step35" | "spark2_5" => {
            vec![("attention.sliding_window_pattern", is_sliding())]
        }
        "hrm_text" => vec![
            ("hrm.layers_per_stack", U32(1)),
            ("hrm.h_cycles", U32(2)),
            ("hrm.l_cycles", U32(1)),
        ],
        "hy_v4" => {
            let mut keys = [latent(), indexer(), hyper_connection(4)].concat();
            keys.extend([
                ("hyper_connection.magnitude", F32(1.0)),
                ("attention.indexer.types", U32s(vec![1; N_LAYER])),
            ]);
            keys
        }
        "kimi-k3" | "bailingmoe3" => {
            let mut keys = [latent(), linear_attention()].concat();
            keys.extend([
                ("attn_res.block_size", U32(2)),
                ("activation.situ_beta", F32(1.0)),
                ("activation.situ_linear_beta", F32(1.0)),
            ]);
            keys
        }
        "lfm2" | "lfm2moe" | "jamba" | "granitehybrid" => {
            vec![("attention.head_count_kv", n_head_kv())]
        }
        "maple" => vec![
            ("attention.sliding_window_pattern", is_sliding()),
            ("swiglu_clamp_exp", F32(7.0)),
        ],
        "minimax-01" => vec![("residual_scale", F32(1.0))],
        "minimax-m3" => {
            let mut keys = indexer();
            keys.extend([
                ("attention.indexer.block_size", U32(8)),
                ("attention.indexer.local_blocks", U32(1)),
            ]);
            keys
        }
        // a state, attention, or a feed-forward network in each layer
        "nemotron_h" | "nemotron_h_moe" => vec![
            ("attention.head_count_kv", U32s(vec![0, N_HEAD_KV, 0, 0])),
            ("feed_forward_length", U32s(vec![0, 0, N_FF, 0])),
        ],
        "plamo2" => vec![
            ("attention.head_count_kv", n_head_kv()),
            ("ssm.group_count", U32(0)),
        ],
        "qwen2vl" | "paddleocr" | "hunyuan_vl" | "glm4" | "glm4moe" | "qwen35" | "qwen3next" => {
            vec![sections()]
        }
        // without the width of experts llama.cpp divides by their number, which may be 0
        "qwen35moe" => vec![sections(), ("expert_feed_forward_length", U32(64))],
        "qwen3vl" | "qwen3vlmoe" => vec![sections(), ("n_deepstack_layers", U32(2))],
        // it speaks the last 3,072 of its tokens
        "qwen3tts" => vec![sections(), ("vocab_size", U32(3072 + N_VOCAB))],
        "qwen4exp" => {
            let mut keys = [indexer(), hyper_connection(2)].concat();
            keys.extend([
                sections(),
                ("hyper_connection.low_rank", U32(16)),
                ("expert_feed_forward_length", U32(64)),
            ]);
            keys
        }
        "rwkv7" => rwkv(2),
        "arwkv7" => rwkv(1),
        "t5" | "t5encoder" => vec![("attention.relative_buckets_count", U32(32))],
        _ => Vec::new(),
    }
}

/// MLA: one vector in memory for keys and values of all heads.
fn latent() -> Vec<(&'static str, Value)> {
    const N_LORA: u32 = 64;
    const N_ROT: u32 = N_EMBD_HEAD / 2;
    vec![
        ("attention.head_count_kv", U32(1)),
        ("attention.key_length", U32(N_LORA + N_ROT)),
        ("attention.value_length", U32(N_LORA)),
        ("attention.key_length_mla", U32(N_EMBD_HEAD)),
        ("attention.value_length_mla", U32(N_EMBD_HEAD)),
        ("rope.dimension_count", U32(N_ROT)),
    ]
}

/// A small attention of its own that says which rows the other one looks at.
fn indexer() -> Vec<(&'static str, Value)> {
    vec![
        ("attention.indexer.head_count", U32(2)),
        ("attention.indexer.key_length", U32(N_EMBD_HEAD)),
        ("attention.indexer.top_k", U32(8)),
    ]
}

/// Layers that pass on several tensors.
fn hyper_connection(n: u32) -> Vec<(&'static str, Value)> {
    vec![
        ("hyper_connection.count", U32(n)),
        ("hyper_connection.sinkhorn_iterations", U32(2)),
        ("hyper_connection.epsilon", F32(1e-6)),
    ]
}

/// Kimi's delta attention, a state, in every other layer.
fn linear_attention() -> Vec<(&'static str, Value)> {
    vec![
        (
            "attention.head_count_kv",
            U32s((0..N_LAYER as u32).map(|il| il % 2).collect()),
        ),
        ("kda.head_dim", U32(N_EMBD_HEAD)),
        ("kda.gate_lower_bound", F32(-5.0)),
    ]
}

fn rwkv(token_shift_count: u32) -> Vec<(&'static str, Value)> {
    vec![
        ("token_shift_count", U32(token_shift_count)),
        ("time_mix_extra_dim", U32(32)),
        ("time_decay_extra_dim", U32(32)),
        ("attention.decay_lora_rank", U32(32)),
        ("attention.iclr_lora_rank", U32(32)),
        ("attention.value_residual_mix_lora_rank", U32(32)),
        ("attention.gate_lora_rank", U32(32)),
    ]
}

/// A model with random weights, whose last layer adds nothing if it `ends_idly`.
///
/// # Errors
/// What llama.cpp misses.
pub fn random_model(arch: &str, kind: Kind, ends_idly: bool) -> Result<Model, Error> {
    crate::ffi::log::install();
    // SAFETY: no preconditions.
    let metadata = unsafe { sys::gguf_init_empty() };
    let set_str = |key: &str, value: &str| {
        let (key, value) = (c_string(key), c_string(value));
        // SAFETY: the metadata is alive, both strings end with NUL.
        unsafe { sys::gguf_set_val_str(metadata, key.as_ptr(), value.as_ptr()) };
    };
    set_str("general.architecture", arch);
    set_str("tokenizer.ggml.model", "no_vocab");
    for (key, value) in keys(arch, kind) {
        let is_of_all = key.starts_with("tokenizer.") || key.starts_with("xielu.");
        let key = c_string(&if is_of_all {
            key.to_owned()
        } else {
            format!("{arch}.{key}")
        });
        let key = key.as_ptr();
        // SAFETY: the metadata is alive, the key ends with NUL, arrays are as long as is said.
        unsafe {
            match value {
                U32(value) => sys::gguf_set_val_u32(metadata, key, value),
                F32(value) => sys::gguf_set_val_f32(metadata, key, value),
                Bool(value) => sys::gguf_set_val_bool(metadata, key, value),
                U32s(values) => sys::gguf_set_arr_data(
                    metadata,
                    key,
                    sys::GGUF_TYPE_UINT32,
                    values.as_ptr().cast(),
                    values.len(),
                ),
                I32s(values) => sys::gguf_set_arr_data(
                    metadata,
                    key,
                    sys::GGUF_TYPE_INT32,
                    values.as_ptr().cast(),
                    values.len(),
                ),
                Bools(values) => sys::gguf_set_arr_data(
                    metadata,
                    key,
                    sys::GGUF_TYPE_BOOL,
                    values.as_ptr().cast(),
                    values.len(),
                ),
            }
        }
    }
    // SAFETY: no preconditions.
    let mut params = unsafe { sys::llama_model_default_params() };
    params.n_gpu_layers = 0;
    let loaded = call("llama_model_init_from_user", || {
        // SAFETY: the metadata is alive, `fill` takes any tensor and its flag, which outlives the call, and the parameters
        // are upstream's default.
        unsafe {
            sys::llama_model_init_from_user(
                metadata,
                Some(fill),
                (&raw const ends_idly).cast_mut().cast(),
                params,
            )
        }
    });
    // SAFETY: it is alive, and the model has copied what it needs.
    unsafe { sys::gguf_free(metadata) };
    loaded.map(Model::from_raw)
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// Puts random numbers into a tensor: norms about 1, biases about 0, matrices that keep the size of a row.
extern "C" fn fill(tensor: *mut sys::ggml_tensor, ends_idly: *mut c_void) {
    // SAFETY: llama.cpp hands out a tensor that it has just made, with a name that ends with NUL.
    let (name, n_rows, n_in) = unsafe {
        let name = CStr::from_ptr((*tensor).name.as_ptr()).to_string_lossy();
        let ne = (*tensor).ne;
        (
            name.into_owned(),
            (ne[1] * ne[2] * ne[3]) as usize,
            ne[0] as usize,
        )
    };
    let mut rng = Rng::named(5, &name);
    // SAFETY: it is the flag that `random_model` has handed over.
    let ends_idly = unsafe { *ends_idly.cast::<bool>() };
    let is_last = name.starts_with(&format!("blk.{}.", N_LAYER - 1));
    let writes = ["attn_out", "ffn_down", "ffn_output"]
        .iter()
        .any(|part| name.contains(part));
    let is_vector = n_rows == 1;
    let (mean, std) = match () {
        () if ends_idly && is_last && name.contains("layer_output_scale") => (1.0, 0.0),
        () if ends_idly && is_last && writes && !name.contains("norm") => (0.0, 0.0),
        () if ends_idly && is_last && name.contains("post") && name.ends_with("bias") => (0.0, 0.0),
        () if name.contains("norm") && name.ends_with("weight") => (1.0, 0.1),
        () if name.contains("scale") || name.contains("rope_f") => (1.0, 0.05),
        () if name.starts_with("token_embd") => (0.0, 0.7),
        () if is_vector => (0.0, 0.1),
        () if name.contains("attn_q") => (0.0, 2.0 / (n_in as f64).sqrt()),
        () => (0.0, 1.0 / (n_in as f64).sqrt()),
    };
    let values: Vec<f32> = (0..n_rows * n_in)
        .map(|_| (mean + std * rng.normal()) as f32)
        .collect();
    // SAFETY: without a type in the metadata a tensor is F32 (llama-model-loader.cpp@0.1.161), contiguous, and of that size.
    unsafe {
        sys::ggml_backend_tensor_set(tensor, values.as_ptr().cast(), 0, values.len() * size_of::<f32>());
    }
}
