"""Makes tests/transformers/fixtures: small models, pictures, and what transformers makes of them.

    python make_fixtures.py [FAMILY ...]        without names all families

README.md says what the files are. WORK names the folder for checkpoints and converters (target/transformers)."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import converters
import dropping
import sizes
import templates
from families import FAMILIES
from pictures import picture

HERE = Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"
THREE = ("100x40", "40x128", "150x130")
WORK = Path(os.environ.get("WORK", HERE.parent.parent / "target/transformers"))


def make(name, tools):
    """Makes the model of a family and loads it."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    family = FAMILIES[name](folder)
    family.make(tools)
    family.load()
    return family


def write_fixture(family):
    folder = FIXTURES / family.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(family.folder / "mmproj.gguf", folder)
    if family.model_of is None:
        shutil.copy(family.folder / "model.gguf", folder)
    meta = {
        "family": family.name,
        "model": f"../{family.model_of}/model.gguf" if family.model_of else "model.gguf",
        "mmproj": "mmproj.gguf",
        "prompt": family.prompt,
        "prompt_three": family.prompt_three,
        "pictures": {name: write_picture(family, folder, name) for name in family.pictures},
        "three": write_three(family, folder),
        "dropping": write_dropping(family, folder),
    }
    (folder / "meta.json").write_text(as_text(meta) + "\n")


def as_text(meta):
    """JSON with a line for each entry, for each picture and for each policy."""
    pictures = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in meta["pictures"].items())
    policies = ",\n".join("  " + json.dumps(entry) for entry in meta["dropping"])
    in_lines = {"pictures": f"{{\n{pictures}\n }}", "dropping": f"[\n{policies}\n ]"}
    entries = [f" {json.dumps(key)}: {in_lines.get(key) or json.dumps(value)}" for key, value in meta.items()]
    return "{\n" + ",\n".join(entries) + "\n}"


def write_picture(family, folder, name):
    image = picture(name)
    image.save(FIXTURES / f"{name}.png", optimize=True)
    fitted = family.fit(image)
    n_tiles, height, width, _ = fitted.tiles.shape
    Image.fromarray(fitted.tiles.reshape(-1, width, 3)).save(folder / f"{name}.pixels.png", optimize=True)
    answer = family.answer(family.prompt, [image])
    np.save(folder / f"{name}.vision.npy", answer.vision[0].numpy().astype("<f4"))
    np.save(folder / f"{name}.logits.npy", answer.logits.astype("<f4"))
    return dict(tiles=n_tiles, width=width, height=height, **fitted.details, n_rows=len(answer.vision[0]),
                token_ids=answer.token_ids)


def write_three(family, folder):
    names = THREE
    answer = family.answer(family.prompt_three, [picture(name) for name in names])
    np.save(folder / "three.logits.npy", answer.logits.astype("<f4"))
    return {"pictures": names, "n_rows": [len(rows) for rows in answer.vision], "token_ids": answer.token_ids}


def write_dropping(family, folder):
    """Policies on the last picture and on three, with the logits of each in one file."""
    entries, logits = [], []
    for prompt, pictures in (("prompt", family.pictures[-1:]), ("prompt_three", THREE)):
        for name in ("uniform+fastv", "fixed", "vtw"):
            images = [picture(name) for name in pictures]
            fields, drops, of_policy = dropping.of_policy(family, getattr(family, prompt), images, name)
            entries.append({"prompt": prompt, "pictures": pictures, "policy": fields, "drops": drops})
            logits.append(of_policy)
    np.save(folder / "dropping.logits.npy", np.stack(logits).astype("<f4"))
    return entries


def main():
    tools = converters.fetch(WORK)
    for name in sys.argv[1:] or FAMILIES:
        write_fixture(make(name, tools))
        print(name)
    sizes.write(FIXTURES / "sizes.json")
    templates.write(FIXTURES / "templates.json")


if __name__ == "__main__":
    main()
