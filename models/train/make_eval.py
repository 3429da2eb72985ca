"""Writes a held-out test set: PNG pictures and one JSON line per question.

    python make_eval.py --pictures 300 --per-picture 5 --out runs/eval

A line of OUT/questions.jsonl is {"id", "image", "question", "answers", "category"}; "image" is
relative to the file, "answers" lists what counts as right (compared after trimming). Same
arguments, same set. The generators' seeds are strings that training never uses.
"""
import argparse
import json
import os
import random

from PIL import Image

from questions import CATEGORIES, ask_many
from world import draw, random_scene


def held_out(seed, n_pictures, per_picture):
    """Yields (scene, questions); categories are equally likely where the picture allows them."""
    weights = dict.fromkeys(CATEGORIES, 1)
    for i in range(n_pictures):
        rng = random.Random(f"held-out {seed} {i}")
        scene = random_scene(rng)
        yield scene, ask_many(rng, scene, per_picture, weights)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--per-picture", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=112, help="side of the pictures; 112 needs no resize")
    parser.add_argument("--out", default="runs/eval")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, "questions.jsonl"), "w") as lines:
        for i, (scene, questions) in enumerate(held_out(args.seed, args.pictures, args.per_picture)):
            image = f"{i:05d}.png"
            Image.fromarray(draw(scene, args.pixels)).save(os.path.join(args.out, image))
            for j, question in enumerate(questions):
                record = dict(id=f"{i:05d}-{j}", image=image, question=question.text,
                              answers=[question.answer], category=question.category)
                lines.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
