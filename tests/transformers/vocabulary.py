"""Small tokenizers of the two kinds that the families use, trained on a few lines of text."""

import json

import sentencepiece
import tokenizers

TEXT = """
What is this? What is in the picture? The picture shows a cat that sleeps on a red sofa beside the window.
Where is the dog? The dog stands in front of the house and looks at the children, who play with a yellow ball.
How many birds are on the roof? There are three birds on the roof, and two more sit on the fence behind it.
What differs between the two pictures? In the first one the door is open, in the second one it is closed.
Which colour has the car? The car is blue, and its wheels are black. Another car behind it is white and green.
Is it summer or winter? There is snow on the trees and on the street, so it must be winter in this picture.
What do they do with these things? They read a book together, while someone else writes a letter at the table.
Describe what you see, from left to right, and from the top of the picture to its bottom. Answer with one word.
"""


def sentencepiece_model(folder, n_tokens, bos, eos, pad=None, user_defined=(), prefix=True):
    """A SentencePiece BPE model with bytes to fall back on, as Llama's and Gemma's are. Returns its ids by name, and the
    function that tokenizes a text."""
    (folder / "corpus.txt").write_text(TEXT)
    special = dict(unk_id=0, bos_id=bos, eos_id=eos, pad_id=-1) if pad is None else dict(
        unk_id=3, bos_id=bos, eos_id=eos, pad_id=pad)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=n_tokens, model_type="bpe",
        byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=prefix, user_defined_symbols=list(user_defined), minloglevel=2, num_threads=1, **special)
    (folder / "corpus.txt").unlink()
    ids, tokenize = load_sentencepiece(folder)
    write_config(folder, tokenizer_class="LlamaTokenizer", add_bos_token=True, add_eos_token=False, bos_token="<s>",
                 eos_token="</s>", unk_token="<unk>", added_tokens_decoder=special_tokens(user_defined, ids))
    return ids, tokenize


def load_sentencepiece(folder):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return {model.id_to_piece(i): i for i in range(model.vocab_size())}, model.encode


def byte_pairs(folder, n_tokens, specials, eos, bos=None):
    """A byte-level BPE tokenizer, as Qwen's, SmolLM's and Mistral's are. Returns what `sentencepiece_model` returns."""
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=n_tokens, initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tok.train_from_iterator([TEXT], trainer)
    # SmolVLM's pictures have two newlines before the last tile, as one token.
    tok.add_tokens([tokenizers.AddedToken("\n\n", special=False, normalized=False)])
    tok.add_special_tokens([tokenizers.AddedToken(s, special=True, normalized=False) for s in specials])
    tok.save(str(folder / "tokenizer.json"))
    write_config(folder, tokenizer_class="PreTrainedTokenizerFast", eos_token=eos, pad_token=eos, bos_token=bos,
                 add_bos_token=bos is not None, added_tokens_decoder=special_tokens(specials, tok.get_vocab()))
    return load_byte_pairs(folder)


def load_byte_pairs(folder):
    tok = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tok.get_vocab(), lambda text: tok.encode(text, add_special_tokens=False).ids


def load(folder):
    """What `sentencepiece_model` or `byte_pairs` wrote."""
    return load_sentencepiece(folder) if (folder / "tokenizer.model").exists() else load_byte_pairs(folder)


def special_tokens(names, ids):
    return {str(ids[name]): {"content": name, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
                             "special": True} for name in names}


def write_config(folder, **config):
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
