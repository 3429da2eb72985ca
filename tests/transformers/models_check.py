"""Compares the program with transformers on small models of every family, and prints a table (`make models-check`).

    python models_check.py [FAMILY ...]

Exits 1 if a family is off by more than LIMIT, or has other tokens.
VISIPRUNER names the program (target/release/visipruner), WORK the folder for models."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

import converters
from families import FAMILIES
from make_fixtures import HERE, THREE, WORK, make
from pictures import picture

BINARY = os.environ.get("VISIPRUNER", str(HERE.parent.parent / "target/release/visipruner"))
EXACT = ["--raw", "--report-logits", "-n", "1", "--temp", "0", "-t", "1", "-fa", "off", "-ctk", "f32", "-ctv", "f32",
         "--policy", "off"]

# The largest difference between logits, in units of their standard deviation.
LIMIT = 5e-3


@dataclass
class Outcome:
    """How the program compares for one prompt and one way of encoding pictures."""

    # In standard deviations of the logits; infinite where the program refuses.
    off: float
    has_same_tokens: bool
    has_same_argmax: bool

    @property
    def is_right(self):
        return self.off <= LIMIT and self.has_same_tokens and self.has_same_argmax


def run(family, encoder, prompt, paths):
    """The program's report, or what it said."""
    report = WORK / "report.json"
    report.unlink(missing_ok=True)
    images = [argument for path in paths for argument in ("--image", str(path))]
    done = subprocess.run(
        [BINARY, "run", "-m", family.folder / "model.gguf", "--mmproj", family.folder / "mmproj.gguf", *images,
         "-p", prompt, "--vision-encoder", encoder, "--report", report, *EXACT], capture_output=True, text=True)
    if done.returncode != 0 or not report.exists():
        return None, done.stderr.strip()
    return json.loads(report.read_text()), None


def compare(report, expected):
    logits, deviation = np.array(report["logits"]), expected.logits.std()
    # What is as likely as the most likely token up to the limit may change places with it.
    behind = expected.logits.max() - expected.logits[logits.argmax()]
    return Outcome(
        abs(logits - expected.logits).max() / deviation, report["token_ids"] == list(expected.token_ids),
        behind <= 2 * LIMIT * deviation)


def outcome(family, encoder, prompt, paths, expected):
    report, error = run(family, encoder, prompt, paths)
    if report is None:
        print(f"{family.name}, {encoder}: {error}", file=sys.stderr)
        return Outcome(float("inf"), False, False)
    return compare(report, expected)


def check_prompt(family, prompt, names):
    """Stock's outcome and this program's."""
    paths = [saved(name) for name in names]
    expected = family.answer(prompt, [picture(name) for name in names])
    return [outcome(family, encoder, prompt, paths, expected) for encoder in ("upstream", "reference")]


def in_words(outcomes):
    """The best and the worst of several prompts."""
    offs = sorted(outcome.off for outcome in outcomes)
    if offs[0] == float("inf"):
        return "refused"
    words = [f"{offs[0]:.1e} to {offs[-1]:.1e}"]
    for what, n in (("other rows", sum(not outcome.has_same_tokens for outcome in outcomes)),
                    ("another token", sum(not outcome.has_same_argmax for outcome in outcomes))):
        if n:
            words.append(f"{what} in {n} of {len(outcomes)}")
    return ", ".join(words)


def saved(name):
    path = WORK / f"{name}.png"
    picture(name).save(path)
    return path


def check_family(name, tools):
    """One row of the table; whether this program is right."""
    family = make(name, tools)
    prompts = [(family.prompt, [size]) for size in (*family.pictures, *family.more_pictures)]
    prompts.append((family.prompt_three, THREE))
    stock, ours = zip(*(check_prompt(family, prompt, names) for prompt, names in prompts), strict=True)
    print(f"| {family.name} | {in_words(stock)} | {in_words(ours)} |", flush=True)
    return all(outcome.is_right for outcome in ours)


def main():
    tools = converters.fetch(WORK)
    print("| family | stock | here |\n| --- | --- | --- |")
    if not all([check_family(name, tools) for name in sys.argv[1:] or FAMILIES]):
        sys.exit(f"a family is off by more than {LIMIT} standard deviations, or has other tokens")


if __name__ == "__main__":
    main()
