"""Gemma 3: every picture stretched to a square."""

import json

import torch
import transformers as tf

import vocabulary
from families.base import Family
from weights import randomize

SPECIALS = ["<start_of_image>", "<end_of_image>", "<image_soft_token>", "<start_of_turn>", "<end_of_turn>"]


class Gemma3(Family):
    name = "gemma3"
    bos = "<s>"
    prompt = "<start_of_turn>user\n<image>What is this?<end_of_turn>\n<start_of_turn>model\n"
    prompt_three = ("<start_of_turn>user\n<image>and <image>and <image>What differs?<end_of_turn>\n"
                    "<start_of_turn>model\n")

    def make(self, converters):
        self.checkpoint.mkdir(parents=True)
        ids, _ = vocabulary.sentencepiece_model(self.checkpoint, 340, bos=2, eos=1, pad=0, user_defined=SPECIALS,
                                                prefix=False)
        config = tf.Gemma3Config(
            text_config=dict(
                hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                head_dim=32, query_pre_attn_scalar=32, vocab_size=len(ids), sliding_window=512, rope_theta=1e6,
                rope_local_base_freq=1e4, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=2,
                sliding_window_pattern=6),
            vision_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                               image_size=56, patch_size=14, vision_use_head=False),
            bos_token_id=2, eos_token_id=1, mm_tokens_per_image=4,
            image_token_index=ids["<image_soft_token>"], boi_token_index=ids["<start_of_image>"],
            eoi_token_index=ids["<end_of_image>"])
        model = tf.Gemma3ForConditionalGeneration(config)
        randomize(model, 1, embedding_std=0.3, zero_centred_norms=("language_model", "soft_emb_norm"))
        model.save_pretrained(self.checkpoint)
        tf.Gemma3ImageProcessor(size={"height": 56, "width": 56}, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                                resample=2).save_pretrained(self.checkpoint)
        self.add_sequence_length(4)
        converters.model(self.checkpoint, self.folder / "model.gguf")
        converters.projector(self.checkpoint, self.folder / "mmproj.gguf")

    def add_sequence_length(self, n_rows):
        """The converter takes the projector's pooling from here; transformers drops a key that it does not know."""
        path = self.checkpoint / "preprocessor_config.json"
        path.write_text(json.dumps(dict(json.loads(path.read_text()), image_seq_length=n_rows)))

    def process(self, images, **options):
        return {"pixel_values": super().process(images, **options)["pixel_values"]}

    def picture_tokens(self, image):
        return self.span(self.model.config.mm_tokens_per_image, ["<start_of_image>"], ["<end_of_image>"])

    def image_token(self):
        return self.model.config.image_token_index

    def more_inputs(self, ids):
        """Rows of one picture see each other."""
        return {"token_type_ids": (ids == self.image_token()).to(torch.long)}
