"""Checkpoint -> the two GGUF files that llama.cpp reads.

    python export_gguf.py runs/model.npz ../tiny-llava-shapes

writes ../tiny-llava-shapes-f16.gguf (language model) and ../tiny-llava-shapes-mmproj-f16.gguf
(vision tower and projector). Matrices are stored as F16, norms, biases and embeddings of
positions as F32, as llama.cpp's converters do.
"""
import argparse

import gguf
import jax
import numpy as np

import checkpoints
import network
import vocabulary
from world import PATCH, SIZE

NAME = "tiny-llava-shapes"
LICENSE = "MIT OR Apache-2.0"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}")


def half(x):
    return np.ascontiguousarray(np.asarray(x, np.float32).astype(np.float16))


def full(x):
    return np.ascontiguousarray(np.asarray(x, np.float32))


def round_like_export(model):
    """The checkpoint's tree with the rounding that the files bring, in float32 again.

    What is computed from this tree is what an exact engine computes from the files.
    """
    def rounded(path, x):
        name = jax.tree_util.keystr(path)
        is_matrix = np.ndim(x) == 2 and "['pos']" not in name
        return full(half(x)) if is_matrix else full(x)
    return jax.tree.map_with_path(rounded, model)


def load_model(path):
    """The float32 tree {tower, projector, llm} of a train_llm.py checkpoint."""
    key = jax.random.PRNGKey(0)
    template = dict(tower=network.init_tower(key), projector=network.init_projector(key),
                    llm=network.init_llm(key))
    return checkpoints.load(path, template)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer, what):
    writer.add_name(NAME)
    writer.add_description(what)
    writer.add_license(LICENSE)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def add_tokenizer(writer):
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.PIECES)
    writer.add_token_scores(vocabulary.SCORES)
    writer.add_token_types(vocabulary.TYPES)
    writer.add_bos_token_id(vocabulary.BOS)
    writer.add_eos_token_id(vocabulary.EOS)
    writer.add_unk_token_id(vocabulary.UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def export_llm(llm, path, s=network.SIZES):
    writer = gguf.GGUFWriter(path, "llama")
    describe(writer, "LLaVA-1.5-shaped toy: language model")
    writer.add_context_length(2048)
    writer.add_embedding_length(s.width)
    writer.add_block_count(s.layers)
    writer.add_feed_forward_length(s.ffn)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.heads)
    writer.add_rope_dimension_count(s.width // s.heads)
    writer.add_rope_freq_base(s.rope_base)
    writer.add_layer_norm_rms_eps(s.eps)
    writer.add_vocab_size(vocabulary.N_VOCAB)
    add_tokenizer(writer)
    writer.add_tensor("token_embd.weight", half(llm["embedding"]))
    writer.add_tensor("output_norm.weight", full(llm["norm"]))
    writer.add_tensor("output.weight", half(llm["output"].T))
    matrices = dict(attn_q="wq", attn_k="wk", attn_v="wv", attn_output="wo",
                    ffn_gate="w_gate", ffn_up="w_up", ffn_down="w_down")
    for il, layer in enumerate(llm["layers"]):
        writer.add_tensor(f"blk.{il}.attn_norm.weight", full(layer["norm1"]))
        writer.add_tensor(f"blk.{il}.ffn_norm.weight", full(layer["norm2"]))
        for tensor, name in matrices.items():
            writer.add_tensor(f"blk.{il}.{tensor}.weight", half(layer[name].T))
    finish(writer)


def export_mmproj(tower, projector, path, s=network.SIZES):
    writer = gguf.GGUFWriter(path, "clip")
    describe(writer, "LLaVA-1.5-shaped toy: vision tower and projector")
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", False)                              # quick GELU, as CLIP
    writer.add_uint32("clip.vision.image_size", SIZE)
    writer.add_uint32("clip.vision.patch_size", PATCH)
    writer.add_uint32("clip.vision.embedding_length", s.tower_width)
    writer.add_uint32("clip.vision.feed_forward_length", s.tower_ffn)
    writer.add_uint32("clip.vision.projection_dim", s.width)
    writer.add_uint32("clip.vision.attention.head_count", s.tower_heads)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", s.tower_eps)
    writer.add_uint32("clip.vision.block_count", s.tower_layers)
    # The features are what comes out of the last stored layer: all layers run, none is skipped.
    writer.add_array("clip.vision.feature_layer", [s.tower_layers])
    writer.add_array("clip.vision.image_mean", [float(x) for x in network.IMAGE_MEAN])
    writer.add_array("clip.vision.image_std", [float(x) for x in network.IMAGE_STD])

    kernel = np.asarray(tower["patch"]).reshape(PATCH, PATCH, 3, s.tower_width).transpose(3, 2, 0, 1)
    writer.add_tensor("v.patch_embd.weight", half(kernel))               # [out, channel, row, column]
    writer.add_tensor("v.class_embd", full(tower["cls"]))
    writer.add_tensor("v.position_embd.weight", full(tower["pos"]))      # row 0: the class token
    writer.add_tensor("v.pre_ln.weight", full(tower["pre_w"]))
    writer.add_tensor("v.pre_ln.bias", full(tower["pre_b"]))
    matrices = dict(attn_q=("wq", "bq"), attn_k=("wk", "bk"), attn_v=("wv", "bv"), attn_out=("wo", "bo"),
                    ffn_up=("w_up", "b_up"), ffn_down=("w_down", "b_down"))
    for il, layer in enumerate(tower["layers"]):
        for norm in ("ln1", "ln2"):
            writer.add_tensor(f"v.blk.{il}.{norm}.weight", full(layer[norm + "_w"]))
            writer.add_tensor(f"v.blk.{il}.{norm}.bias", full(layer[norm + "_b"]))
        for tensor, (weight, bias) in matrices.items():
            writer.add_tensor(f"v.blk.{il}.{tensor}.weight", half(layer[weight].T))
            writer.add_tensor(f"v.blk.{il}.{tensor}.bias", full(layer[bias]))
    for index, (weight, bias) in {0: ("project0", "bias0"), 2: ("project2", "bias2")}.items():
        writer.add_tensor(f"mm.{index}.weight", half(projector[weight].T))
        writer.add_tensor(f"mm.{index}.bias", full(projector[bias]))
    finish(writer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("prefix", help="path and first part of the names of both files")
    args = parser.parse_args()
    model = load_model(args.checkpoint)
    export_llm(model["llm"], f"{args.prefix}-f16.gguf")
    export_mmproj(model["tower"], model["projector"], f"{args.prefix}-mmproj-f16.gguf")


if __name__ == "__main__":
    main()
