"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: pictures of any size, stretched to whole patches."""

import torch
import transformers as tf

import vocabulary
from families.base import CLIP_MEAN, CLIP_STD, Family, llama_text, write_architectures
from weights import randomize

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
            "<|video_pad|>"]
PROMPT = "<|im_start|>user\n<image>What is this?<|im_end|>\n<|im_start|>assistant\n"
PROMPT_THREE = "<|im_start|>user\n<image>and <image>and <image>What differs?<|im_end|>\n<|im_start|>assistant\n"


def qwen_text(n_vocab, ids, **more):
    return llama_text(n_vocab, rms_norm_eps=1e-6, rope_theta=1e6, bos_token_id=ids["<|endoftext|>"],
                      eos_token_id=ids["<|im_end|>"], **more)


def mrope(sections, **more):
    return {"type": "mrope", "rope_type": "default", "mrope_section": sections, **more}


class QwenVl(Family):
    """Three layers at least: the converter takes the projector's numbers for layers'."""

    prompt, prompt_three = PROMPT, PROMPT_THREE
    more_pictures = ("112x84", "310x190")

    def config(self, n_vocab, ids, tokens):
        raise NotImplementedError

    def image_processor(self):
        """The limits are those of published checkpoints. They are not in GGUF files. (`size` would be passed over.)"""
        return tf.Qwen2VLImageProcessor(image_mean=CLIP_MEAN, image_std=CLIP_STD, min_pixels=3136, max_pixels=12845056)

    def make(self, converters):
        self.checkpoint.mkdir(parents=True)
        ids, _ = vocabulary.byte_pairs(self.checkpoint, 290, SPECIALS, eos="<|im_end|>")
        tokens = dict(image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
                      vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"])
        model = randomize(self.architecture(self.config(len(ids), ids, tokens)), 1)
        randomize(model.model.language_model, 2)
        randomize(model.lm_head, 3)
        model.save_pretrained(self.checkpoint)
        self.image_processor().save_pretrained(self.checkpoint)
        write_architectures(self.checkpoint, self.architecture.__name__)
        converters.model(self.checkpoint, self.folder / "model.gguf", pre="qwen2")
        converters.projector(self.checkpoint, self.folder / "mmproj.gguf")

    def tiles(self, inputs):
        """The processor cuts a picture into patches, those of one merged row side by side: back to a picture."""
        _, height, width = inputs["image_grid_thw"][0].tolist()
        merge, size = self.processor.merge_size, self.processor.patch_size
        patches = inputs["pixel_values"].reshape(
            height // merge, width // merge, merge, merge, 3, self.processor.temporal_patch_size, size, size)
        return patches[:, :, :, :, :, 0].permute(0, 2, 5, 1, 3, 6, 4).reshape(1, height * size, width * size, 3)

    def picture_tokens(self, image):
        grid = self.process([image])["image_grid_thw"][0]
        return self.span(int(grid.prod()) // self.processor.merge_size ** 2, ["<|vision_start|>"], ["<|vision_end|>"])


class Qwen2Vl(QwenVl):
    name = "qwen2vl"
    architecture = tf.Qwen2VLForConditionalGeneration

    def config(self, n_vocab, ids, tokens):
        text = qwen_text(n_vocab, ids, rope_scaling=mrope([4, 6, 6]))
        vision = dict(depth=3, embed_dim=32, hidden_size=64, num_heads=2, mlp_ratio=2, patch_size=14,
                      spatial_merge_size=2, temporal_patch_size=2, in_channels=3)
        return tf.Qwen2VLConfig(text_config=text, vision_config=vision, **text, **tokens)


class Qwen25Vl(QwenVl):
    """The encoder's attention works in windows of 4 x 4 rows, but for the last layer."""

    name = "qwen25vl"
    model_of = "qwen2vl"
    architecture = tf.Qwen2_5_VLForConditionalGeneration

    def config(self, n_vocab, ids, tokens):
        text = qwen_text(n_vocab, ids, rope_scaling=mrope([4, 6, 6]))
        vision = dict(depth=3, hidden_size=32, out_hidden_size=64, num_heads=2, intermediate_size=64, patch_size=14,
                      spatial_merge_size=2, temporal_patch_size=2, window_size=112, fullatt_block_indexes=[2],
                      in_channels=3, in_chans=3, tokens_per_second=2)
        return tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **text, **tokens)


class Qwen3Vl(QwenVl):
    """Rows are as wide as `1 + n` embeddings: behind the embedding what each of `n` layers of the encoder adds to one of
    the first `n` layers of the language model."""

    name = "qwen3vl"
    # All become much larger than they are.
    pictures = ("100x40", "40x128", "150x130")
    more_pictures = ("56x56", "256x256", "310x190")
    architecture = tf.Qwen3VLForConditionalGeneration

    def config(self, n_vocab, ids, tokens):
        text = qwen_text(n_vocab, ids, rope_scaling=mrope([6, 5, 5], mrope_interleaved=True))
        vision = dict(depth=2, hidden_size=32, out_hidden_size=64, num_heads=2, intermediate_size=64, patch_size=16,
                      spatial_merge_size=2, temporal_patch_size=2, in_channels=3, deepstack_visual_indexes=[0],
                      num_position_embeddings=64)
        return tf.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **tokens)

    def image_processor(self):
        return tf.Qwen2VLImageProcessor(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, min_pixels=65536,
                                        max_pixels=16777216)

    def as_rows(self, caught):
        """Text rows have nothing behind their embedding."""
        rows, is_vision = super().as_rows(caught), caught["visual_pos_masks"][0]
        wide = []
        for added in caught["deepstack_visual_embeds"]:
            full = torch.zeros_like(rows)
            full[is_vision] = added
            wide.append(full)
        return torch.cat([rows, *wide], dim=1)
