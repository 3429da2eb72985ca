"""Called as llama-server, starts `visipruner serve` on the model that ships, with the flags that mean the same."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import MMPROJ, MODEL

SAME = {"--port", "--temp", "--seed", "--host", "--alias", "--ctx-size", "--parallel", "--n-predict", "--api-key", "--threads",
        "--batch-size", "--ubatch-size", "--cache-ram", "--media-path", "--chat-template"}
OTHER_NAME = {"--cors-origins": "--cors-origin", "--chat-template-file": "--chat-template"}
# nothing here depends on them: what they switch on is always on, or they only say where a model comes from
NO_NEED = {"--jinja", "--cont-batching", "--kv-unified", "--slots", "--metrics", "--offline", "--verbose"}
NO_NEED_WITH_VALUE = {"--hf-repo", "--hf-file", "--model-url", "--mmproj-url", "-fa", "--models-max"}


def translated(words):
    """Flags of visipruner; what it has no flag for ends the program, and the test that wanted it fails."""
    flags, words = [], list(words)
    while words:
        word = words.pop(0)
        if word in SAME or word in OTHER_NAME:
            flags += [OTHER_NAME.get(word, word), words.pop(0)]
        elif word in NO_NEED_WITH_VALUE:
            words.pop(0)
        elif word not in NO_NEED and word not in ("--no-slots", "--no-jinja"):
            raise SystemExit(f"visipruner serve has no flag for {word}")
    return flags


if __name__ == "__main__":
    visipruner = os.environ["VISIPRUNER"]
    os.execv(visipruner, [visipruner, "serve", "-m", str(MODEL), "--mmproj", str(MMPROJ), *translated(sys.argv[1:])])
