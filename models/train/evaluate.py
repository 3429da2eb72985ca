"""Accuracy of a checkpoint on a test set of make_eval.py, with the files' rounding.

    python evaluate.py runs/model.npz runs/eval [--blank]

Right means that greedy decoding gives the whole answer and then stops. --blank shows grey instead
of the picture: what is left is what can be guessed from the question.
"""
import argparse
import collections
import functools
import json
import os

import jax
import numpy as np
from PIL import Image

from export_gguf import load_model, round_like_export
from network import answer_logits, project, see
from questions import CATEGORIES, MAX_LENGTH, Question, put_question
from world import SIZE

BLANK = 122                                     # about the mean grey of the backgrounds


def read_test_set(folder):
    """[(record, picture uint8 [112, 112, 3])], pictures shared between their questions."""
    @functools.lru_cache(maxsize=None)
    def picture(name):
        return np.asarray(Image.open(os.path.join(folder, name)).convert("RGB"))
    with open(os.path.join(folder, "questions.jsonl")) as lines:
        records = [json.loads(line) for line in lines]
    return [(record, picture(record["image"])) for record in records]


def as_batch(items, blank=False):
    """Batch arrays as questions.batch makes them, one question per picture (M = 1)."""
    n = len(items)
    data = dict(pictures=np.zeros((n, SIZE, SIZE, 3), np.uint8),
                tokens=np.zeros((n, 1, MAX_LENGTH), np.int32),
                targets=np.zeros((n, 1, MAX_LENGTH), np.int32),
                learn=np.zeros((n, 1, MAX_LENGTH), np.float32),
                category=np.zeros((n, 1), np.int32))
    for b, (record, picture) in enumerate(items):
        data["pictures"][b] = BLANK if blank else picture
        put_question(data, (b, 0), Question(record["category"], record["question"], record["answers"][0]))
    return data


def in_batches(items, size=64, blank=False):
    """Batches of one size, the last one filled up by repeating, with the number of true items."""
    for start in range(0, len(items), size):
        part = items[start:start + size]
        yield as_batch((part * size)[:size] if len(part) < size else part, blank), len(part)


def whole_answer_right(logits, data):
    """bool [B, M]: each answer token is the most likely one, given those before it."""
    return ((logits.argmax(-1) == data["targets"]) | (data["learn"] == 0)).all(-1)


@jax.jit
def dense_right(model, data):
    vision = project(model["projector"], see(model["tower"], data["pictures"]))
    logits, _ = answer_logits(model["llm"], vision, data["tokens"])
    return whole_answer_right(logits, data)[:, 0]


def accuracy_table(records, right):
    """[(name, n, accuracy)] per category, then for yes/no (exist and relation) and for all."""
    groups = collections.OrderedDict((c, [c]) for c in CATEGORIES)
    groups["yes/no"] = ["exist", "relation"]
    groups["all"] = CATEGORIES
    rows = []
    for name, members in groups.items():
        chosen = np.array([r["category"] in members for r in records])
        if chosen.any():
            rows.append((name, int(chosen.sum()), float(right[chosen].mean())))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("test_set")
    parser.add_argument("--blank", action="store_true")
    args = parser.parse_args()
    model = round_like_export(load_model(args.checkpoint))
    items = read_test_set(args.test_set)
    right = np.concatenate([np.asarray(dense_right(model, data))[:n]
                            for data, n in in_batches(items, blank=args.blank)])
    for name, n, accuracy in accuracy_table([record for record, _ in items], right):
        print(f"{name:10s} {n:5d} {100 * accuracy:6.1f} %")


if __name__ == "__main__":
    main()
