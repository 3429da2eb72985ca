"""LLaVA and MobileVLM: CLIP's encoder of a fixed size, converted by the route of their own checkpoints."""

import json
import shutil

import safetensors.torch
import torch
import transformers as tf
from torch import nn
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.modeling_llava_next import unpad_image

import vocabulary
from families.base import CLIP_MEAN, CLIP_STD, Family, llama_text
from weights import randomize

SIZE = 56
PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]


def clip(size=SIZE, patch=14):
    """The last layer is not used."""
    return tf.CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
                               image_size=size, patch_size=patch, projection_dim=24)


class Llava(Family):
    """What LLaVA 1.5, 1.6 and MobileVLM share: the language model."""

    bos = "<s>"
    seed = 6

    def tokenizer(self):
        self.checkpoint.mkdir(parents=True)
        ids, _ = vocabulary.sentencepiece_model(self.checkpoint, 340, bos=1, eos=2)
        return len(ids)

    def text_config(self, n_vocab):
        return tf.LlamaConfig(**llama_text(n_vocab, bos_token_id=1, eos_token_id=2))

    def image_token(self):
        return self.model.config.image_token_index

    def write_text_model(self, model):
        """The language model by itself: the converter knows no LLaVA checkpoint as a whole. One model does for all."""
        folder = self.folder / "text"
        text = tf.LlamaForCausalLM(model.config.text_config)
        text.model.load_state_dict(model.model.language_model.state_dict())
        text.lm_head.load_state_dict(model.lm_head.state_dict())
        text.save_pretrained(folder)
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(self.checkpoint / name, folder / name)
        return folder


class Llava15(Llava):
    """Pictures are padded to a square with the mean colour, then resized."""

    name = "llava15"
    size, patch = SIZE, 14

    def make(self, converters):
        n_vocab = self.tokenizer()
        config = tf.LlavaConfig(vision_config=clip(self.size, self.patch), text_config=self.text_config(n_vocab),
                                image_token_index=n_vocab - 1, vision_feature_layer=-2,
                                vision_feature_select_strategy="default")
        model = tf.LlavaForConditionalGeneration(config)
        self.randomize(model)
        model.save_pretrained(self.checkpoint)
        tf.LlavaImageProcessor(
            do_pad=True, size={"shortest_edge": self.size}, crop_size={"height": self.size, "width": self.size},
            image_mean=CLIP_MEAN, image_std=CLIP_STD).save_pretrained(self.checkpoint)
        converters.model(self.write_text_model(model), self.folder / "model.gguf")
        self.write_projector(model, converters)

    def randomize(self, model):
        """Every member of the family gets the language model that LLaVA 1.5 has."""
        randomize(model.model.language_model, self.seed)
        randomize(model.lm_head, self.seed)
        randomize(model.model.vision_tower, self.seed + 1)
        randomize(model.model.multi_modal_projector, self.seed + 2)

    def write_projector(self, model, converters):
        original = self.folder / "original"
        original.mkdir()
        projector = {"model.mm_projector." + name: p for name, p in self.projector_state(model).items()}
        torch.save(projector, original / "pytorch_model.bin")
        converters.surgery(original)
        write_clip(self.folder / "clip", model.model.vision_tower)
        converters.legacy_projector(self.folder / "clip", original / "llava.projector", self.folder / "mmproj.gguf",
                                    *self.projector_flags())

    def projector_state(self, model):
        names = {"linear_1": "0", "linear_2": "2"}
        state = model.model.multi_modal_projector.state_dict()
        return {name.replace(part, names[part]): p for name, p in state.items() for part in names if part in name}

    def projector_flags(self):
        return []

    def picture_tokens(self, image):
        return self.span((self.size // self.patch) ** 2)


def write_clip(folder, tower):
    """The encoder as CLIP's own checkpoints have it, with a text side."""
    text = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=300,
                max_position_embeddings=16)
    model = tf.CLIPModel(tf.CLIPConfig(vision_config=tower.config.to_dict(), text_config=text, projection_dim=24))
    model.vision_model.load_state_dict(tower.vision_model.state_dict())
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(config, projection_dim=24)))
    characters = [chr(c) for c in range(33, 127)]
    tokens = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = tf.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    size = tower.config.image_size
    processor = tf.CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size},
                                      image_mean=CLIP_MEAN, image_std=CLIP_STD)
    tf.CLIPProcessor(processor, tokenizer).save_pretrained(folder)


class MobileVlm(Llava15):
    """llama.cpp knows these projectors with 24 x 24 patches only."""

    model_of = "llava15"
    size, patch = 96, 4
    pictures = ("96x96", "100x40", "40x128", "150x130")

    def randomize(self, model):
        super().randomize(model)
        model.model.multi_modal_projector = self.projector(model.config)
        randomize(model.model.multi_modal_projector, self.seed + 3)

    def projector(self, config):
        return self.projector_class(config.vision_config.hidden_size, config.text_config.hidden_size)

    def load(self):
        """transformers knows no such projector: it reads a checkpoint with ours in place of its own."""
        super().load()
        state = safetensors.torch.load_file(self.checkpoint / "model.safetensors")
        prefix = "multi_modal_projector."
        ours = self.projector(self.model.config)
        ours.load_state_dict({name.removeprefix(prefix): p for name, p in state.items() if name.startswith(prefix)})
        self.model.model.multi_modal_projector = ours.eval()

    def projector_state(self, model):
        return model.model.multi_modal_projector.state_dict()

    def picture_tokens(self, image):
        return self.span((self.size // self.patch // 2) ** 2)


def to_map(rows):
    """[n][rows][width] to [n][width][side][side]"""
    side = int(rows.shape[1] ** 0.5)
    return rows.transpose(1, 2).reshape(rows.shape[0], -1, side, side)


def to_rows(maps):
    return maps.flatten(2).transpose(1, 2)


class Ldpv2(nn.Module):
    """The projector of MobileVLM V2 (arXiv 2402.03766): two linear layers, pooling by 2, positions by a depthwise
    convolution. Names are those of its checkpoints."""

    def __init__(self, width, out):
        super().__init__()
        self.mlp = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))})
        self.peg = nn.ModuleDict({"peg": nn.Sequential(nn.Conv2d(out, out, 3, padding=1, groups=out))})

    def forward(self, rows):
        pooled = nn.functional.avg_pool2d(to_map(self.mlp["mlp"](rows)), 2)
        return to_rows(self.peg["peg"](pooled) + pooled)


class MobileVlm2(MobileVlm):
    name = "mobilevlm2"
    projector_class = Ldpv2

    def projector_flags(self):
        return ["--projector-type", "ldpv2"]


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of a map."""

    def forward(self, maps):
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


class Squeeze(nn.Module):
    """What weighs channels by their means over the map."""

    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, maps):
        means = maps.mean((2, 3), keepdim=True)
        return maps * nn.functional.hardsigmoid(self.fc2(nn.functional.relu(self.fc1(means))))


class InvertedResidual(nn.Module):
    """A block of MobileNetV3 (arXiv 1905.02244) that does not widen; with a shortcut where the map keeps its size."""

    def __init__(self, width, stride):
        super().__init__()
        depthwise = nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)
        self.block = nn.ModuleList([
            nn.Sequential(depthwise, ChannelNorm(width), nn.Hardswish()), Squeeze(width),
            nn.Sequential(nn.Conv2d(width, width, 1, bias=False), ChannelNorm(width))])
        self.has_shortcut = stride == 1

    def forward(self, maps):
        out = maps
        for step in self.block:
            out = step(out)
        return maps + out if self.has_shortcut else out


class Ldp(nn.Module):
    """The projector of MobileVLM (arXiv 2312.16886): two linear layers and two blocks of convolutions, the second of which
    halves the map's sides. Names are those of its checkpoints."""

    def __init__(self, width, out):
        super().__init__()
        self.mlp = nn.Sequential(nn.Identity(), nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))
        self.mb_block = nn.Sequential(nn.Identity(), InvertedResidual(out, 1), InvertedResidual(out, 2))

    def forward(self, rows):
        return to_rows(self.mb_block(to_map(self.mlp(rows))))


class MobileVlm1(MobileVlm):
    name = "mobilevlm1"
    projector_class = Ldp

    def projector_state(self, model):
        return {"model." + name: p for name, p in super().projector_state(model).items()}

    def projector_flags(self):
        return ["--projector-type", "ldp"]


class Llava16(Llava):
    """The whole picture, then tiles of one of a few sizes, merged to one map: padding cut away, a row of its own after
    each row of patches."""

    name = "llava16"
    model_of = "llava15"

    def make(self, converters):
        n_vocab = self.tokenizer()
        config = tf.LlavaNextConfig(vision_config=clip(), text_config=self.text_config(n_vocab),
                                    image_token_index=n_vocab - 1, vision_feature_layer=-2,
                                    image_grid_pinpoints=PINPOINTS)
        model = tf.LlavaNextForConditionalGeneration(config)
        randomize(model, self.seed + 4)
        randomize(model.model.language_model, self.seed)
        randomize(model.lm_head, self.seed)
        model.save_pretrained(self.checkpoint)
        tf.LlavaNextImageProcessor(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_mean=CLIP_MEAN,
            image_std=CLIP_STD, image_grid_pinpoints=PINPOINTS).save_pretrained(self.checkpoint)
        converters.model(self.write_text_model(model), self.folder / "model.gguf")
        self.write_projector(model, converters)

    def write_projector(self, model, converters):
        split = self.folder / "split"
        shutil.copytree(self.checkpoint, split)
        converters.surgery_v2(split)
        encoder = self.folder / "encoder"
        encoder.mkdir()
        shutil.copy(split / "llava.clip", encoder / "pytorch_model.bin")
        # The keys are those of the config.json that published conversions of LLaVA-1.6 were made with.
        (encoder / "config.json").write_text(json.dumps(dict(
            model.config.vision_config.to_dict(), architectures=["CLIPVisionModel"], image_grid_pinpoints=PINPOINTS,
            mm_patch_merge_type="spatial_unpad", image_aspect_ratio="anyres", image_crop_resolution=224,
            image_split_resolution=224, mm_projector_type="mlp2x_gelu")))
        converters.legacy_projector(encoder, split / "llava.projector", self.folder / "mmproj.gguf",
                                    "--clip-model-is-vision")

    def details(self, image, tiles):
        height, width = select_best_resolution((image.height, image.width), PINPOINTS)
        return {"columns": width // SIZE, "rows": height // SIZE, "overview": "first",
                "unpadded": self.unpadded(image)}

    def unpadded(self, image):
        """Columns and rows of patches that are left of the merged map."""
        height, width = select_best_resolution((image.height, image.width), PINPOINTS)
        merged = unpad_image(torch.zeros(1, height // 14, width // 14), (image.height, image.width))
        return merged.shape[2], merged.shape[1]

    def picture_tokens(self, image):
        columns, rows = self.unpadded(image)
        return self.span((SIZE // 14) ** 2 + (columns + 1) * rows)
