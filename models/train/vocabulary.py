"""The tokenizer: a SentencePiece-style vocabulary that llama.cpp's SPM tokenizer reads.

The pieces are 256 bytes, printable ASCII, and every word of the toy language together with all
of its prefixes: llama.cpp merges two neighbouring pieces only when their concatenation is a
piece itself, so a word can be reached only through its prefixes.
"""
from world import COLOURS, PLURALS, SHAPES

SPACE = "\u2581"
UNKNOWN, BOS, EOS = 0, 1, 2
FIRST_BYTE = 3
NORMAL, UNKNOWN_TYPE, CONTROL, BYTE = 1, 2, 3, 6      # llama.cpp's token types

WORDS = COLOURS + SHAPES + PLURALS + (
    "What How Is Where Describe color colour is the of shape has object objects are there a an in "
    "image picture many left right above below to top bottom and yes no you see thing things small "
    "large size it on side 0 1 2 3 4 5 6 7 8 9 USER: ASSISTANT:").split()
BARE_WORDS = "What How Is Where Describe USER: ASSISTANT:".split()   # also at the start of a line


def build():
    """(pieces, scores, types), aligned; a higher score merges first."""
    pieces, scores, types = ["<unk>", "<s>", "</s>"], [0.0] * 3, [UNKNOWN_TYPE, CONTROL, CONTROL]
    for byte in range(256):
        pieces.append(f"<0x{byte:02X}>")
        scores.append(0.0)
        types.append(BYTE)
    chains = [word[:n] for word in [SPACE + w for w in WORDS] + BARE_WORDS
              for n in range(2, len(word) + 1)]
    characters = [SPACE] + [chr(c) for c in range(33, 127)]
    for rank, piece in enumerate(dict.fromkeys(chains + characters)):
        pieces.append(piece)
        scores.append(float(-rank))
        types.append(NORMAL)
    return pieces, scores, types


PIECES, SCORES, TYPES = build()
IDS = {piece: i for i, piece in enumerate(PIECES)}
N_VOCAB = len(PIECES)
_word_ids = {}


def merge(text):
    """llama.cpp's `llm_tokenizer_spm_session`: merge the best pair, leftmost on ties."""
    symbols = list(text)
    while True:
        best = None
        for i in range(len(symbols) - 1):
            piece = IDS.get(symbols[i] + symbols[i + 1])
            if piece is not None and (best is None or SCORES[piece] > best[0]):
                best = SCORES[piece], i
        if best is None:
            break
        i = best[1]
        symbols[i:i + 2] = [symbols[i] + symbols[i + 1]]
    ids = []
    for symbol in symbols:
        ids += [IDS[symbol]] if symbol in IDS else [FIRST_BYTE + b for b in symbol.encode()]
    return ids


def encode(text):
    """Token ids of one text fragment, with the space prefix that llama.cpp adds to each.

    No piece has a space inside, so words are tokenized one by one and cached.
    """
    ids = []
    for word in text.split(" "):
        if word not in _word_ids:
            _word_ids[word] = merge(SPACE + word)
        ids += _word_ids[word]
    return ids


def decode(ids):
    """The text of token ids; control tokens are silent."""
    raw = b""
    for i in ids:
        if TYPES[i] == BYTE:
            raw += bytes([i - FIRST_BYTE])
        elif TYPES[i] == NORMAL:
            raw += PIECES[i].replace(SPACE, " ").encode()
    return raw.decode("utf-8", "replace")
