"""InternVL 2.5 and 3 with a Qwen2 model: a grid of tiles, then the whole picture."""

import json
import shutil

import safetensors.torch
import torch
import transformers as tf
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

import vocabulary
from families.base import Family
from families.qwen import PROMPT, PROMPT_THREE, qwen_text
from weights import randomize

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>"]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TILE, MIN_TILES, MAX_TILES = 56, 1, 12
VISION_CONFIG = dict(
    hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=[TILE, TILE],
    patch_size=[14, 14], attention_bias=True, use_qk_norm=False, norm_type="layer_norm", layer_norm_eps=1e-6,
    layer_scale_init_value=0.1)

# transformers' names of weights, and those of the family's own checkpoints, which the converter reads.
EMBEDDINGS = {"cls_token": "class_embedding", "position_embeddings": "position_embedding",
              "patch_embeddings.projection.weight": "patch_embedding.weight",
              "patch_embeddings.projection.bias": "patch_embedding.bias"}
LAYER = {"attention.projection_layer.": "attn.proj.", "layernorm_before.": "norm1.", "layernorm_after.": "norm2.",
         "mlp.fc1.": "mlp.fc1.", "mlp.fc2.": "mlp.fc2.", "lambda_1": "ls1", "lambda_2": "ls2"}
PROJECTOR = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}


class InternVl(Family):
    name = "internvl"
    prompt, prompt_three = PROMPT, PROMPT_THREE

    def make(self, converters):
        self.checkpoint.mkdir(parents=True)
        ids, _ = vocabulary.byte_pairs(self.checkpoint, 290, SPECIALS, eos="<|im_end|>")
        text = tf.Qwen2Config(**qwen_text(len(ids), ids))
        config = tf.InternVLConfig(text_config=text, vision_config=VISION_CONFIG, image_token_id=ids["<IMG_CONTEXT>"],
                                   downsample_ratio=0.5, vision_feature_layer=-1)
        model = randomize(tf.InternVLForConditionalGeneration(config), 3)
        model.save_pretrained(self.checkpoint)
        tf.GotOcr2ImageProcessor(size={"height": TILE, "width": TILE}, crop_to_patches=True, min_patches=MIN_TILES,
                                 max_patches=MAX_TILES, image_mean=MEAN, image_std=STD).save_pretrained(self.checkpoint)
        original = self.folder / "original"
        self.write_original(original, model, text)
        converters.model(original, self.folder / "model.gguf", pre="qwen2")
        converters.projector(original, self.folder / "mmproj.gguf")

    def write_original(self, original, model, text):
        """The checkpoint as the family's own are laid out."""
        original.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(self.checkpoint / name, original / name)
        safetensors.torch.save_file(original_state(model), original / "model.safetensors")
        vision = dict(VISION_CONFIG, architectures=["InternVisionModel"], image_size=TILE, patch_size=14,
                      hidden_act="gelu", model_type="intern_vit_6b")
        (original / "config.json").write_text(json.dumps(dict(
            architectures=["InternVLChatModel"], model_type="internvl_chat", downsample_ratio=0.5, select_layer=-1,
            min_dynamic_patch=MIN_TILES, max_dynamic_patch=MAX_TILES, force_image_size=TILE, use_thumbnail=True,
            dynamic_image_size=True, llm_config=dict(text.to_dict(), architectures=["Qwen2ForCausalLM"]),
            vision_config=vision)))
        (original / "preprocessor_config.json").write_text(json.dumps(dict(
            image_mean=MEAN, image_std=STD, size=TILE, crop_size=TILE)))

    def details(self, image, tiles):
        columns, rows = get_optimal_tiled_canvas((image.height, image.width), (TILE, TILE), MIN_TILES, MAX_TILES)
        return {"columns": columns, "rows": rows, "overview": "last" if columns * rows > 1 else None}

    def picture_tokens(self, image):
        n_tiles = len(self.process([image])["pixel_values"])
        return self.span(n_tiles * (TILE // 14 // 2) ** 2, ["<img>"], ["</img>"])


def original_state(model):
    source = {name: p.clone() for name, p in model.state_dict().items()}
    state = {"language_model.lm_head.weight": source["lm_head.weight"]}
    for name, p in source.items():
        if name.startswith("model.language_model."):
            state["language_model.model." + name.removeprefix("model.language_model.")] = p
    for ours, theirs in EMBEDDINGS.items():
        state["vision_model.embeddings." + theirs] = source[f"model.vision_tower.embeddings.{ours}"]
    for ours, theirs in PROJECTOR.items():
        for kind in ("weight", "bias"):
            state[f"mlp1.{theirs}.{kind}"] = source[f"model.multi_modal_projector.{ours}.{kind}"]
    for il in range(VISION_CONFIG["num_hidden_layers"]):
        state.update(original_layer(source, f"model.vision_tower.encoder.layer.{il}.",
                                    f"vision_model.encoder.layers.{il}."))
    assert sum(p.numel() for p in state.values()) == sum(p.numel() for p in source.values())
    return {name: p.contiguous() for name, p in state.items()}


def original_layer(source, ours, theirs):
    layer = {}
    for kind in ("weight", "bias"):
        layer[f"{theirs}attn.qkv.{kind}"] = torch.cat([source[f"{ours}attention.{x}_proj.{kind}"] for x in "qkv"])
    for name, p in source.items():
        for a, b in LAYER.items():
            if name.startswith(ours + a):
                layer[theirs + b + name.removeprefix(ours + a)] = p
    return layer
