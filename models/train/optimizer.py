"""Muon for the hidden matrices, Adam for the rest.

Muon (Keller Jordan, 2024) replaces a matrix's momentum by the nearest orthogonal matrix, here
with four Newton-Schulz steps. Steps are the scarce thing on a CPU, and it needs few.
"""
import collections

import jax
import jax.numpy as jnp

MOMENTUM = 0.95
BETA1, BETA2 = 0.9, 0.98


def orthogonalize(matrices, steps=4):
    """Newton-Schulz on a stack [n, rows, columns], rows <= columns."""
    x = matrices / (jnp.linalg.norm(matrices, axis=(1, 2), keepdims=True) + 1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(steps):
        s = x @ x.transpose(0, 2, 1)
        x = a * x + (b * s + c * (s @ s)) @ x
    return x


class MuonAdam:
    """Holds no state of its own, only which leaf of the parameter tree is treated how."""

    def __init__(self, params):
        flat, self.treedef = jax.tree.flatten_with_path(params)
        names = [jax.tree_util.keystr(path) for path, _ in flat]
        shapes = [leaf.shape for _, leaf in flat]
        self.is_hidden = [len(s) == 2 and ("layers" in n or "project" in n)
                          for n, s in zip(names, shapes)]
        self.rate = [0.5 if n.endswith(("['wq']", "['wk']")) and not "tower" in n else 1.0 for n in names]
        self.stacks = collections.defaultdict(list)      # matrices of one size go through together
        for i, shape in enumerate(shapes):
            if self.is_hidden[i]:
                self.stacks[tuple(sorted(shape))].append(i)

    def init(self, params):
        leaves = jax.tree.leaves(params)
        first = [jnp.zeros_like(x) for x in leaves]
        second = [jnp.zeros(()) if hidden else jnp.zeros_like(x)
                  for x, hidden in zip(leaves, self.is_hidden)]
        return first, second, jnp.zeros(())

    def update(self, grads, state, params, muon_rate, adam_rate):
        """(params, state, gradient norm) after one step; the gradient is clipped to norm 1."""
        grads, leaves = jax.tree.leaves(grads), jax.tree.leaves(params)
        first, second, count = list(state[0]), list(state[1]), state[2] + 1
        norm = jnp.sqrt(sum((g * g).sum() for g in grads))
        grads = [g * jnp.minimum(1.0, 1.0 / norm) for g in grads]
        out = list(leaves)
        for short_first, members in self.stacks.items():
            self._muon(short_first, members, grads, first, leaves, out, muon_rate)
        for i, leaf in enumerate(leaves):
            if self.is_hidden[i]:
                continue
            first[i] = BETA1 * first[i] + (1 - BETA1) * grads[i]
            second[i] = BETA2 * second[i] + (1 - BETA2) * grads[i] ** 2
            step = first[i] / (1 - BETA1 ** count)
            step /= jnp.sqrt(second[i] / (1 - BETA2 ** count)) + 1e-8
            decay = 0.01 if leaf.ndim == 2 else 0.0
            out[i] = leaf - adam_rate * self.rate[i] * (decay * leaf + step)
        return jax.tree.unflatten(self.treedef, out), (first, second, count), norm

    def _muon(self, short_first, members, grads, first, leaves, out, muon_rate):
        for i in members:
            first[i] = MOMENTUM * first[i] + grads[i]
        flip = {i: leaves[i].shape != short_first for i in members}
        nesterov = [grads[i] + MOMENTUM * first[i] for i in members]
        stack = jnp.stack([x.T if flip[i] else x for i, x in zip(members, nesterov)])
        for i, direction in zip(members, orthogonalize(stack)):
            n_in, n_out = leaves[i].shape
            rate = muon_rate * self.rate[i]
            step = max(1.0, n_out / n_in) ** 0.5 * (direction.T if flip[i] else direction)
            out[i] = leaves[i] * (1 - 0.1 * rate) - rate * step
