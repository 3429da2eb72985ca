"""What transformers makes of conversations in the chat templates of published models: fixtures/templates.json.

    python templates.py

The templates are those that pinned packages hold. Each conversation is a list of texts and pictures (null), as the model's
processor leaves it to its tokenizer; what llama.cpp puts around a picture itself is part of the picture."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE as SMOLVLM
from transformers.utils.chat_template_utils import render_jinja_template

import converters
import sources

HERE = Path(__file__).resolve().parent
WORK = Path(os.environ.get("WORK", HERE.parent.parent / "target/transformers"))
AXOLOTL = ("axolotl", "0.19.0", "136d623f04c909c5149d7f5dbd4a0e215014ab4c3617cce9d64010b5b8ca609d")


@dataclass
class Published:
    """A template. `picture` is what it writes for a picture, `around` what the processor puts on either side of that."""

    template: str
    projector: str
    picture: str
    around: str = ""
    bos: str = "<s>"
    eos: str = "</s>"


def published():
    axolotl = sources.fetch(WORK, *AXOLOTL) / "src/axolotl/utils/chat_templates/templates"
    llama_cpp = converters.fetch(WORK).llama_cpp / "models/templates"

    def read(folder, name):
        return (folder / f"{name}.jinja").read_text()

    qwen = "<|vision_start|><|image_pad|><|vision_end|>"
    return {
        "llava15": Published(read(axolotl, "llava"), "mlp", "<image>"),
        "qwen2vl": Published(read(axolotl, "qwen2_vl"), "qwen2vl_merger", qwen, eos="<|im_end|>"),
        "qwen35": Published(read(llama_cpp, "Qwen3.5-4B"), "qwen3vl_merger", qwen, eos="<|im_end|>"),
        "smolvlm": Published(SMOLVLM, "idefics3", "<image>", bos="<|im_start|>", eos="<end_of_utterance>"),
        # full_image_sequence of processing_gemma3.py and processing_gemma3n.py
        "gemma3": Published(read(axolotl, "gemma3"), "gemma3", "<start_of_image>", "\n\n", bos="<bos>", eos="<eos>"),
        "gemma3n": Published(read(axolotl, "gemma3n"), "gemma3nv", "<image_soft_token>", "\n\n", bos="<bos>", eos="<eos>"),
        "gemma4": Published(read(axolotl, "gemma4"), "gemma4v", "<|image|>", bos="<bos>", eos="<eos>"),
        "pixtral": Published(read(axolotl, "pixtral"), "pixtral", "[IMG]"),
        "llama4": Published(read(axolotl, "llama4"), "llama4", "<|image|>", bos="<|begin_of_text|>", eos="<|eot|>"),
        "lfm2": Published(read(llama_cpp, "LFM2.5-8B-A1B"), "lfm2", "<image>", eos="<|im_end|>"),
        "apriel": Published(read(llama_cpp, "Apriel-1.6-15b-Thinker-fixed"), "pixtral", "[IMG]"),
    }


# Each turn is a question, and but for the last one its answer; None is a picture.
CONVERSATIONS = {
    "picture": (None, [[None, "What is red?"]]),
    "pictures": (None, [[None, None, "What differs?"]]),
    "pictures in text": (None, [["Is ", None, " larger than ", None, "?"]]),
    "text": (None, [["What is red?"]]),
    "system": ("Be brief.", [[None, "What is red?"]]),
    "turns": (None, [[None, "What is red?"], "A ball.", ["Where is it?"]]),
    "turns with pictures": ("Be brief.", [[None, "What is <b>red</b>?"], "A \"ball\".", [None, "And here?"], "No.", ["Why?"]]),
}


def messages(system, turns):
    """As processors take them: lists of typed pieces."""
    def piece(part):
        return {"type": "image"} if part is None else {"type": "text", "text": part}

    out = [] if system is None else [{"role": "system", "content": [piece(system)]}]
    for turn in turns:
        role = "assistant" if isinstance(turn, str) else "user"
        out.append({"role": role, "content": [piece(part) for part in ([turn] if isinstance(turn, str) else turn)]})
    return out


def parts(one, system, turns):
    """The conversation as the template and the processor write it; a reason if they refuse it."""
    try:
        rendered, _ = render_jinja_template(
            [messages(system, turns)], chat_template=one.template, add_generation_prompt=True, bos_token=one.bos,
            eos_token=one.eos)
    except Exception as error:
        return str(error)
    n_pictures = sum(part is None for turn in turns if isinstance(turn, list) for part in turn)
    texts = rendered[0].split(one.picture)
    if len(texts) != n_pictures + 1:
        return "it leaves out the pictures"
    texts = [(one.around if i > 0 else "") + text + (one.around if i < n_pictures else "") for i, text in enumerate(texts)]
    whole = [part for text in texts for part in (text, None)][:-1]
    return [part for part in whole if part != ""]


def write(path):
    templates = {
        name: dict(vars(one), conversations={key: parts(one, *value) for key, value in CONVERSATIONS.items()})
        for name, one in published().items()
    }
    whole = {"conversations": {key: dict(system=system, turns=turns) for key, (system, turns) in CONVERSATIONS.items()},
             "templates": templates}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write(HERE / "fixtures/templates.json")
