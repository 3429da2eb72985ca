"""Pixtral: pictures of any size, a token between rows of patches."""

import transformers as tf

import vocabulary
from families.base import CLIP_MEAN, CLIP_STD, Family, llama_text
from weights import randomize

SPECIALS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
PATCH = 14


class Pixtral(Family):
    """The token between rows counts as a vision row here, as in llama.cpp: the projector's file brings its embedding."""

    name = "pixtral"
    bos = "<s>"
    prompt = "[INST]<image>What is this?[/INST]"
    prompt_three = "[INST]<image>and <image>and <image>What differs?[/INST]"

    def make(self, converters):
        self.checkpoint.mkdir(parents=True)
        ids, _ = vocabulary.byte_pairs(self.checkpoint, 290, SPECIALS, eos="</s>", bos="<s>")
        vision = tf.PixtralVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
                                        image_size=448, patch_size=PATCH, rope_theta=10000.0, hidden_act="gelu",
                                        head_dim=16)
        text = tf.MistralConfig(**llama_text(len(ids), bos_token_id=ids["<s>"], eos_token_id=ids["</s>"],
                                             sliding_window=None))
        config = tf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=ids["[IMG]"],
                                vision_feature_layer=-1, vision_feature_select_strategy="full")
        randomize(tf.LlavaForConditionalGeneration(config), 5).save_pretrained(self.checkpoint)
        tf.PixtralImageProcessor(size={"longest_edge": 448}, patch_size={"height": PATCH, "width": PATCH},
                                 image_mean=CLIP_MEAN, image_std=CLIP_STD).save_pretrained(self.checkpoint)
        converters.model(self.checkpoint, self.folder / "model.gguf", pre="tekken")
        converters.projector(self.checkpoint, self.folder / "mmproj.gguf")

    def image_token(self):
        return self.model.config.image_token_index

    def tiles(self, inputs):
        height, width = inputs["image_sizes"][0].tolist()
        return super().tiles(inputs)[:, :height, :width]

    def picture_tokens(self, image):
        height, width = self.process([image])["image_sizes"][0].tolist()
        row = [self.image_token()] * (width // PATCH)
        ids = (row + [self.ids["[IMG_BREAK]"]]) * (height // PATCH)
        ids[-1] = self.ids["[IMG_END]"]
        return ids, [True] * (len(ids) - 1) + [False]
