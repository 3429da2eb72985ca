"""Compares the program with transformers on small models of every family, and prints a table (`make models-check`).

    python models_check.py [FAMILY ...]

Exits 1 if the program fails, or is off by more than LIMIT, in a family whose pictures it encodes right.
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

    words: str
    is_right: bool


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
    logits = np.array(report["logits"])
    off = abs(logits - expected.logits).max() / expected.logits.std()
    n_rows = sum(token < 0 for token in report["token_ids"])
    n_expected = sum(token < 0 for token in expected.token_ids)
    notes = [f"{off:.1e}"]
    if logits.argmax() != expected.logits.argmax():
        notes.append("other argmax")
    if n_rows != n_expected:
        notes.append(f"{n_rows} rows")
    elif report["token_ids"] != expected.token_ids:
        notes.append("other tokens")
    return Outcome(", ".join(notes), len(notes) == 1 and off <= LIMIT)


def outcome(family, encoder, prompt, paths, expected):
    report, error = run(family, encoder, prompt, paths)
    if report is None:
        print(f"{family.name}, {encoder}: {error}", file=sys.stderr)
        return Outcome("refused", False)
    return compare(report, expected)


def check_prompt(family, prompt, names):
    """One row of the table; whether this program is right."""
    paths = [saved(name) for name in names]
    expected = family.answer(prompt, [picture(name) for name in names])
    stock, ours = (outcome(family, encoder, prompt, paths, expected) for encoder in ("upstream", "reference"))
    n_rows = sum(len(rows) for rows in expected.vision)
    print(f"| {family.name} | {' '.join(names)} | {n_rows} | {stock.words} | {ours.words} |", flush=True)
    return ours.is_right


def saved(name):
    path = WORK / f"{name}.png"
    picture(name).save(path)
    return path


def check_family(name, tools):
    family = make(name, tools)
    prompts = [(family.prompt, [size]) for size in (*family.pictures, *family.more_pictures)]
    prompts.append((family.prompt_three, THREE))
    return all([check_prompt(family, prompt, names) for prompt, names in prompts])


def main():
    tools = converters.fetch(WORK)
    print("| family | pictures | rows | stock | ours |\n| --- | --- | --- | --- | --- |")
    if not all([check_family(name, tools) for name in sys.argv[1:] or FAMILIES]):
        sys.exit(f"a family is off by more than {LIMIT} standard deviations, or has other rows")


if __name__ == "__main__":
    main()
