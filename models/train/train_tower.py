"""Stage 0: the vision tower alone learns to say, for every patch, what it belongs to.

The language model's loss alone teaches seeing slowly: the answer's gradient says little about where
to look. Dense targets (colour, shape, size, centre, offset, absolute position) are free, since the
scenes are ours. The heads are dropped afterwards.

    python train_tower.py --steps 1500 --out runs/tower.npz
"""
import argparse
import os
import queue
import random
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

import checkpoints
from network import Initializer, SIZES, init_tower, see
from optimizer import MuonAdam
from world import draw, patch_targets, random_scene

N_DENSE = 24            # 9 colours, 7 shapes, 3 sizes (each with "none"), centre, dx, dy, x, y


def init(key):
    a, b = jax.random.split(key)
    return dict(tower=init_tower(a),
                dense=dict(w=Initializer(b)((SIZES.tower_width, N_DENSE), SIZES.tower_width ** -0.5),
                           b=jnp.zeros(N_DENSE)))


def dense_loss(dense, features, targets):
    """Loss and (colour accuracy, shape accuracy, position error) on patches that hold a thing.

    features [B, 64, tower_width], targets [B, 64, 9] as `world.patch_targets` makes them.
    """
    out = features @ dense["w"] + dense["b"]
    has = targets[..., 4]
    weight = 0.25 + 0.75 * has                                  # background patches teach less

    def classify(logits, column):
        wanted = targets[..., column].astype(jnp.int32)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits, -1), wanted[..., None], -1)[..., 0]
        right = ((logits.argmax(-1) == wanted) * has).sum() / (has.sum() + 1e-6)
        return (loss * weight).mean(), right

    colour, colour_right = classify(out[..., :9], 0)
    shape, shape_right = classify(out[..., 9:16], 1)
    size, _ = classify(out[..., 16:19], 2)
    centre = (jnp.logaddexp(0, out[..., 19]) - out[..., 19] * targets[..., 3]).mean()
    error = jnp.abs(out[..., 20:] - targets[..., 5:]) * has[..., None]
    place = error[..., :2].sum(-1).mean() + 2 * error[..., 2:].sum(-1).mean()
    position_error = error[..., 2:].sum() / (2 * has.sum() + 1e-6)
    return (colour + 1.5 * shape + 0.5 * size + centre + place,
            (colour_right, shape_right, position_error))


def batches(seed, size, depth=8):
    """An endless generator of (pictures, targets), drawn in a thread of its own."""
    ready = queue.Queue(depth)

    def fill():
        rng = random.Random(seed)
        while True:
            scenes = [random_scene(rng) for _ in range(size)]
            ready.put((np.stack([draw(s) for s in scenes]), np.stack([patch_targets(s) for s in scenes])))

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield ready.get()


def learning_rate(step, steps, flat, warmup=30):
    """Warm up, stay at 1 for the first `flat` share, then fall to 0 linearly."""
    return min(1.0, (step + 1) / warmup, (1 - step / steps) / (1 - flat))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--flat", type=float, default=0.65, help="share of the steps at the full rate")
    parser.add_argument("--start-from", metavar="CHECKPOINT", help="weights to go on from")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.02, help="of Muon; Adam's is a tenth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/tower.npz")
    args = parser.parse_args()
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)

    params = init(jax.random.PRNGKey(args.seed))
    if args.start_from:
        params = jax.tree.map(jnp.asarray, checkpoints.load(args.start_from, params))
    optimizer = MuonAdam(params)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, pictures, targets, rate):
        loss = lambda p: dense_loss(p["dense"], see(p["tower"], pictures), targets)
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        params, state, _ = optimizer.update(grads, state, params, rate, 0.1 * rate)
        return params, state, value, metrics

    start = time.time()
    for i, (pictures, targets) in zip(range(args.steps), batches(args.seed, args.batch)):
        rate = args.rate * learning_rate(i, args.steps, args.flat)
        params, state, loss, (colour, shape, error) = step(params, state, pictures, targets, rate)
        if i % 50 == 49 or i == 0:
            print(f"{i + 1:5d} {time.time() - start:5.0f}s loss {loss:.3f} colour {colour:.3f} "
                  f"shape {shape:.3f} position error {error:.3f}", flush=True)
        if i % 250 == 249:
            checkpoints.save(args.out, params)
    checkpoints.save(args.out, params)


if __name__ == "__main__":
    main()
