"""llama.cpp's converters, from the source distribution of a package that contains them."""

import os
import subprocess
import sys
from pathlib import Path

import sources

HERE = Path(__file__).resolve().parent
PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"


def fetch(folder):
    return Converters(sources.fetch(folder, PACKAGE, VERSION, SHA256) / "vendor/llama.cpp")


class Converters:
    """What turns checkpoints into GGUF files."""

    def __init__(self, llama_cpp):
        self.llama_cpp = llama_cpp
        self.legacy = llama_cpp / "tools/mtmd/legacy-models"

    def model(self, checkpoint, out, pre="default"):
        """The language model, in F16. `pre` names the pre-tokenizer, which cannot be told from a tokenizer of our own."""
        self.run(HERE / "convert_small.py", checkpoint, "--outfile", out, "--outtype", "f16", TOKENIZER_PRE=pre)

    def projector(self, checkpoint, out):
        """The vision encoder and what stands between it and the language model, in F16."""
        self.run(HERE / "convert_small.py", checkpoint, "--outfile", out, "--outtype", "f16", "--mmproj")

    def legacy_projector(self, encoder, projector, out, *args):
        """The same from a CLIP folder, as it is done for LLaVA's and MobileVLM's own checkpoints."""
        folder = Path(out).parent / "legacy"
        self.run(self.legacy / "convert_image_encoder_to_gguf.py", "-m", encoder, "--llava-projector", projector,
                 "--output-dir", folder, *args)
        (folder / "mmproj-model-f16.gguf").rename(out)

    def surgery(self, checkpoint):
        """Takes the projector out of a checkpoint that is laid out as LLaVA's own: `llava.projector`."""
        self.run(self.legacy / "llava_surgery.py", "-m", checkpoint)

    def surgery_v2(self, checkpoint):
        """Takes encoder and projector out of a checkpoint of LLaVA-1.6: `llava.clip`, `llava.projector`."""
        self.run(self.legacy / "llava_surgery_v2.py", "-C", "-m", checkpoint)

    def run(self, script, *args, **env):
        """Runs a script; its output is shown only if it fails."""
        env = dict(os.environ, PYTHONPATH=f"{self.llama_cpp}:{self.llama_cpp / 'gguf-py'}", HF_HUB_OFFLINE="1", **env)
        done = subprocess.run([sys.executable, str(script), *map(str, args)], env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{Path(script).name} failed:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
