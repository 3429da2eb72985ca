"""convert_hf_to_gguf.py for checkpoints whose tokenizers were trained here: run with llama.cpp's folder in PYTHONPATH."""

import os

import convert_hf_to_gguf
from conversion.base import MmprojModel, ModelBase, TextModel

every_tensor_but_text = MmprojModel.filter_tensors.__func__


def with_token_embeddings(cls, item):
    """The embedding of Pixtral's [IMG_BREAK] belongs to the projector's file, but the converter passes over everything
    of the language model before it looks for it."""
    if item[0].endswith("embed_tokens.weight"):
        return ModelBase.filter_tensors.__func__(cls, item)
    return every_tensor_but_text(cls, item)


MmprojModel.filter_tensors = classmethod(with_token_embeddings)
TextModel.get_vocab_base_pre = lambda self, tokenizer: os.environ["TOKENIZER_PRE"]
convert_hf_to_gguf.main()
