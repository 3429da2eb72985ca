"""Pictures with structure at several scales; a name is all that they are made of."""

import numpy as np
from PIL import Image


def picture(name):
    """`WIDTHxHEIGHT`: the same picture whenever it is made."""
    width, height = map(int, name.split("x"))
    rng = np.random.default_rng([width, height])
    total = np.zeros((height, width, 3))
    for cells, weight in ((3, 1.0), (9, 0.7), (27, 0.4)):
        grid = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    total = total / 2.1 + rng.normal(0, 4, total.shape)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))
