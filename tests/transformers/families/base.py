"""What the families have in common."""

import json
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import transformers as tf

import vocabulary

tf.logging.set_verbosity_error()
torch.set_num_threads(1)

# Stands for a vision row among token ids, as in the program's reports.
VISION = -1

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@dataclass
class Fitted:
    """A picture as its encoder gets it: `tiles` [n][height][width][3], 8 bits each, in the order of their rows in the
    prompt; `details` says how they came about, in the family's own terms."""

    tiles: np.ndarray
    details: dict


@dataclass
class Answer:
    """A prompt run through transformers. `token_ids` has `VISION` for vision rows; `vision` are those rows, picture by
    picture; `logits` are the last row's."""

    token_ids: list
    vision: list
    logits: np.ndarray


def llama_text(n_vocab, **more):
    """The shape of every language model here: 2 layers, 2 heads of 32 over 1 of keys and values."""
    return dict(dict(
        hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, vocab_size=n_vocab, rms_norm_eps=1e-5, max_position_embeddings=4096, tie_word_embeddings=False), **more)


def write_architectures(checkpoint, top, text=None):
    """Names the classes in config.json as published checkpoints do, where transformers writes others."""
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["architectures"] = [top]
    config["text_config"].pop("architectures", None)
    if text:
        config["text_config"]["architectures"] = [text]
    path.write_text(json.dumps(config, indent=1))


class Family:
    """One family. A subclass says how its model is made, how a picture is fitted, and which tokens stand for it."""

    name = None
    # Whose language model it shares.
    model_of = None
    # Whether the prompt begins with a token of its own.
    bos = None
    # The pictures of its fixtures; the first has a size that needs no fitting, if there is a small one.
    pictures = ("56x56", "100x40", "40x128", "150x130")
    # What `make models-check` tries beside them.
    more_pictures = ("310x190",)
    prompt = "USER: <image>\nWhat is this? ASSISTANT:"
    prompt_three = "USER: <image>\nand <image>\nand <image>\nWhat differs? ASSISTANT:"

    def __init__(self, folder):
        self.folder = folder
        self.checkpoint = folder / "hf"

    # How it is made.

    def make(self, converters):
        """Writes checkpoint, `model.gguf` and `mmproj.gguf`."""
        raise NotImplementedError

    def load(self):
        """Reads the checkpoint."""
        self.model = tf.AutoModelForImageTextToText.from_pretrained(
            self.checkpoint, attn_implementation="eager", dtype=torch.float32).eval()
        self.processor = tf.AutoImageProcessor.from_pretrained(self.checkpoint, use_fast=False)
        self.ids, self.tokenize = vocabulary.load(self.checkpoint)

    # What a picture becomes.

    def fit(self, image):
        """The picture after everything that its processor does with whole bytes."""
        tiles = self.tiles(self.process([image], do_rescale=False, do_normalize=False))
        assert (tiles == tiles.round()).all()
        return Fitted(tiles.numpy().astype(np.uint8), self.details(image, tiles))

    def tiles(self, inputs):
        """[n][height][width][3]"""
        pixels = inputs["pixel_values"]
        return pixels.reshape(-1, *pixels.shape[-3:]).permute(0, 2, 3, 1)

    def details(self, image, tiles):
        return {}

    def process(self, images, **options):
        """What transformers' model takes besides tokens."""
        return dict(self.processor(images=images, return_tensors="pt", **options))

    def picture_tokens(self, image):
        """Token ids that stand for a picture, those around it included, and which of them are vision rows."""
        raise NotImplementedError

    def span(self, n_rows, begin=(), end=()):
        """`picture_tokens` of pictures whose rows follow each other."""
        ids = [self.ids[t] for t in begin] + [self.image_token()] * n_rows + [self.ids[t] for t in end]
        return ids, [False] * len(begin) + [True] * n_rows + [False] * len(end)

    def image_token(self):
        return self.model.config.image_token_id

    # A prompt.

    @torch.no_grad()
    def answer(self, prompt, images):
        """Runs a prompt; each `<image>` in it is the next picture."""
        ids, is_vision, spans = self.tokens(prompt, images)
        tensor = torch.tensor([ids])
        with self.entering_rows() as entered:
            out = self.model(input_ids=tensor, attention_mask=torch.ones_like(tensor), use_cache=False,
                             **self.process(images), **self.more_inputs(tensor))
        rows = entered()[is_vision]
        visible = [VISION if v else i for i, v in zip(ids, is_vision)]
        return Answer(visible, list(rows.split(spans)), out.logits[0, -1].numpy())

    def tokens(self, prompt, images):
        ids, is_vision, spans = [], [], []
        if self.bos:
            ids, is_vision = [self.ids[self.bos]], [False]
        for i, text in enumerate(prompt.split("<image>")):
            if i > 0:
                picture, vision = self.picture_tokens(images[i - 1])
                ids, is_vision = ids + picture, is_vision + vision
                spans.append(sum(vision))
            ids, is_vision = ids + self.tokenize(text), is_vision + [False] * len(self.tokenize(text))
        return ids, torch.tensor(is_vision), spans

    def more_inputs(self, ids):
        return {}

    def text_model(self):
        return self.model.model.language_model

    @contextmanager
    def entering_rows(self):
        """Catches the rows that the language model gets, [n_rows][n_embd]."""
        caught = {}
        handle = self.text_model().register_forward_pre_hook(
            lambda module, args, kwargs: caught.update(kwargs), with_kwargs=True)
        yield lambda: self.as_rows(caught)
        handle.remove()

    def as_rows(self, caught):
        return caught["inputs_embeds"][0]
