"""Parameter trees as flat .npz files, one array per leaf, named by its path."""
import os

import jax
import numpy as np


def save(path, tree):
    """Writes atomically, so that a reader never meets half a file."""
    flat, _ = jax.tree.flatten_with_path(tree)
    arrays = {jax.tree_util.keystr(key): np.asarray(leaf) for key, leaf in flat}
    with open(path + ".part", "wb") as file:
        np.savez(file, **arrays)
    os.replace(path + ".part", path)


def load(path, template):
    """The tree of `template`'s structure with the file's values; the file may hold more."""
    with np.load(path) as arrays:
        return jax.tree.map_with_path(lambda key, _: arrays[jax.tree_util.keystr(key)], template)
