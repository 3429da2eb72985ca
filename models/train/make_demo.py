"""Draws the demo pictures and what an exact engine must compute from them.

    python make_demo.py runs/model.npz --models ..

writes demo/*.png, demo/questions.json (questions that the model answers rightly; the script fails
when one is not) and fixtures/: per picture the projected vision tokens [64, 192] float32, and
fixtures/answers.json with the greedy answers and the last prompt token's five largest logits.
Everything comes from the training code's forward pass with the weights rounded as in the files.
"""
import argparse
import json
import os

import jax
import numpy as np
from PIL import Image

from export_gguf import load_model, round_like_export
from network import N_TEXT_BEFORE, PREFIX_TOKENS, answer_logits, project, see
from questions import LAYOUTS, prompt_ids
from vocabulary import EOS, decode
from world import COLOURS, N_PATCHES, SHAPES, Background, Scene, Thing, draw

MAX_ANSWER = 12
PADDED = 32                                     # rows that every forward pass is padded to


def thing(name, x, y, radius, tilt=0.0):
    colour, shape = name.split()
    return Thing(SHAPES.index(shape), COLOURS.index(colour), int(radius > 11), x, y, radius, tilt)


SCENES = {
    "shapes": Scene(
        (thing("red circle", 24, 27, 14), thing("yellow star", 84, 25, 15, 0.15),
         thing("blue square", 27, 84, 14, -0.1), thing("green triangle", 87, 80, 15, 0.1),
         thing("white ring", 57, 58, 9.5)),
        Background((118, 112, 128), (14, -10), 4.0, (0.25, 0.15), 5.0, 1)),
    "crosses": Scene(
        (thing("red cross", 22, 30, 9.5, 0.2), thing("red cross", 61, 22, 14, -0.1),
         thing("black cross", 88, 68, 15, 0.1), thing("cyan ring", 40, 78, 14)),
        Background((140, 132, 120), (-12, 8), 0.0, (0.0, 0.0), 6.0, 2)),
    "trio": Scene(
        (thing("purple star", 22, 70, 14, -0.2), thing("white square", 57, 34, 14, 0.15),
         thing("green circle", 92, 76, 10)),
        Background((104, 116, 110), (8, 16), 8.0, (0.1, 0.4), 3.0, 3)),
}

# picture -> (question, right answer), of different kinds; the first six of each go to the demo
QUESTIONS = {
    "shapes": [
        ("What color is the star?", "yellow"), ("What shape is the blue object?", "square"),
        ("How many objects are there?", "5"), ("Is there a red circle?", "yes"),
        ("Is there a red triangle?", "no"), ("Where is the green triangle?", "bottom right"),
        ("What color is the ring?", "white"), ("Where is the yellow star?", "top right")],
    "crosses": [
        ("What shape is the black object?", "cross"), ("How many red objects are there?", "2"),
        ("What color is the ring?", "cyan"), ("Is there a black cross in the image?", "yes"),
        ("Is there a cyan cross?", "no"), ("Where is the black cross?", "bottom right"),
        ("What shape is the cyan object?", "ring"), ("How many blue objects are there?", "0")],
    "trio": [
        ("Describe the image.", "purple star, white square, green circle"),
        ("What shape is the white thing?", "square"), ("What color is the circle?", "green"),
        ("Is the purple star left of the green circle?", "yes"),
        ("What is right of the white square?", "green circle"), ("How many stars are there?", "1"),
        ("Where is the purple star?", "bottom left"), ("Is there a white star?", "no")],
}
N_DEMO = 6


@jax.jit
def vision_tokens(model, pictures):
    return project(model["projector"], see(model["tower"], pictures))


@jax.jit
def all_logits(model, vision, tokens):
    return answer_logits(model["llm"], vision, tokens)[0]


def answer(model, vision, prompt):
    """(greedy answer ids without </s>, logits [n_vocab] of the last prompt token)."""
    ids, first = list(prompt), None
    while len(ids) < len(prompt) + MAX_ANSWER:
        tokens = np.zeros((1, 1, PADDED), np.int32)
        tokens[0, 0, :len(ids)] = ids
        logits = np.asarray(all_logits(model, vision, tokens))[0, 0, len(ids) - 1]
        first = logits if first is None else first
        if logits.argmax() == EOS:
            break
        ids.append(int(logits.argmax()))
    return ids[len(prompt):], first


def expected(model, name, vision, question, layout=LAYOUTS[0]):
    """One record of fixtures/answers.json."""
    prompt = prompt_ids(question, layout)
    ids, logits = answer(model, vision, prompt)
    best = np.argsort(-logits)[:5]
    return dict(image=f"../demo/{name}.png", question=question,
                prompt="USER: <image>" + layout.format(question),
                token_ids=PREFIX_TOKENS + [-1] * N_PATCHES + prompt,
                image_spans=[[N_TEXT_BEFORE, N_PATCHES]],
                answer=decode(ids).strip(), answer_ids=ids,
                top_logits=[[int(i), round(float(logits[i]), 5)] for i in best])


def write_json(path, records):
    """A JSON list with one record per line."""
    with open(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--models", default="..", help="folder that holds demo/ and fixtures/")
    args = parser.parse_args()
    demo, fixtures = os.path.join(args.models, "demo"), os.path.join(args.models, "fixtures")
    os.makedirs(demo, exist_ok=True)
    os.makedirs(fixtures, exist_ok=True)
    model = round_like_export(load_model(args.checkpoint))
    shown, records, wrong = [], [], []
    for name, scene in SCENES.items():
        picture = draw(scene)
        Image.fromarray(picture).save(os.path.join(demo, f"{name}.png"))
        vision = vision_tokens(model, picture[None])
        np.save(os.path.join(fixtures, f"{name}.vision.npy"), np.asarray(vision[0], np.float32))
        for question, right in QUESTIONS[name]:
            record = expected(model, name, vision, question)
            records.append(record)
            if record["answer"] != right:
                wrong.append((name, question, right, record["answer"]))
        shown.append(dict(image=f"{name}.png", questions=[
            dict(question=q, answers=[a]) for q, a in QUESTIONS[name][:N_DEMO]]))
    write_json(os.path.join(demo, "questions.json"), shown)
    write_json(os.path.join(fixtures, "answers.json"), records)
    if wrong:
        raise SystemExit(f"answered wrongly (picture, question, right, model's): {wrong}")


if __name__ == "__main__":
    main()
