"""Stage 1: projector and language model learn to answer questions; the tower is frozen.

    python train_llm.py --tower runs/tower.npz --steps 1600 --out runs/model.npz

Two things besides the answers' cross-entropy, both gone at export:

Mentions. Where a question has just named something ("Is the red circle | left of ..."), a linear
head on the rows after the first MENTION_LAYERS layers must say whether it is there, which colour and
shape it has, where it is, or how many there are. Without it a run of this length found single things,
but compared two of them rightly in 70 to 79 % of the cases only.

Visibility. For a share of the pictures the questions see no vision token in the first two layers,
or in all layers from a random one on. That is how big LLaVA models behave by themselves (shallow
layers read the task, middle layers fuse the picture, deep layers do without); a model of ten
layers shows it only faintly without help.
"""
import argparse
import datetime
import os
import queue
import random
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

import checkpoints
import train_tower
from network import Initializer, SIZES, answer_logits, init_llm, init_projector, project, rms_norm, see
from optimizer import MuonAdam
from questions import CATEGORIES, batch
from world import COLOURS, MAX_THINGS, SHAPES, draw, random_scene

MENTION_LAYERS = 5                  # the mention heads read what the first five layers made
MENTION_WEIGHT = 0.5
N_MENTION = 1 + len(COLOURS) + len(SHAPES) + 2 + MAX_THINGS + 1
EASY = dict(colour=2, shape=2, exist=2, count=0.6, what_rel=0.5, relation=1, where=1, caption=0.4)
FULL = dict(colour=0.8, shape=0.8, exist=1.4, count=1.4, what_rel=1.2, relation=1.8, where=1.2, caption=0.7)


def difficulty(step):
    """(weights of the categories, most things in a picture) at a step."""
    if step < 150:
        return EASY, 3
    return FULL, 4 if step < 400 else MAX_THINGS


# ---------------------------------------------------------------------------- losses

def cross_entropy(logits, wanted):
    wanted = wanted.astype(jnp.int32)
    picked = jnp.take_along_axis(logits, jnp.maximum(wanted, 0)[..., None], -1)[..., 0]
    return jax.scipy.special.logsumexp(logits, -1) - picked


def mention_loss(heads, rows, mentions):
    """rows [B, M, L, width], mentions [B, M, 2, 7] (questions.MENTION_FIELDS)."""
    token, found, colour, shape, x, y, number = jnp.moveaxis(mentions, -1, 0)
    at = jnp.maximum(token, 0).astype(jnp.int32)[..., None]
    named = rms_norm(jnp.take_along_axis(rows, at, 2), 1.0, SIZES.eps)
    out = named @ heads["w"] + heads["b"]
    bounds = np.cumsum([1, len(COLOURS), len(SHAPES), 2])
    is_there, colours, shapes, place, numbers = jnp.split(out, bounds, -1)
    is_there = is_there[..., 0]
    losses = [
        (found, jnp.logaddexp(0, is_there) - is_there * found),
        (colour, cross_entropy(colours, colour)),
        (shape, cross_entropy(shapes, shape)),
        (x, 4 * (jnp.abs(place[..., 0] - x) + jnp.abs(place[..., 1] - y))),
        (number, cross_entropy(numbers, number))]
    applies = [(target >= 0).astype(jnp.float32) for target, _ in losses]
    total = sum((a * loss).sum() for a, (_, loss) in zip(applies, losses))
    return total / (1.0 + (token >= 0).sum())


def answer_loss(logits, data):
    """Mean cross-entropy over answer tokens, and per category (right, asked)."""
    loss = (cross_entropy(logits, data["targets"]) * data["learn"]).sum() / data["learn"].sum()
    right = ((logits.argmax(-1) == data["targets"]) | (data["learn"] == 0)).all(-1)
    category = jax.nn.one_hot(data["category"], len(CATEGORIES))
    return loss, ((category * right[..., None]).sum((0, 1)), category.sum((0, 1)))


def random_visibility(rng, n_scenes, n_layers, first_layers=0.35, last_layers=0.5):
    """bool [n_layers, B, 1, 1]: in which layers a picture's questions see it."""
    visible = np.ones((n_layers, n_scenes, 1, 1), bool)
    for b in range(n_scenes):
        if rng.random() < first_layers:
            visible[:2, b] = False
        if rng.random() < last_layers:
            visible[rng.randint(6, n_layers - 1):, b] = False
    return visible


# ---------------------------------------------------------------------------- set-up

def projector_from_dense(key, tower, dense):
    """A projector that passes on what the tower's dense heads read, and whitened features.

    Colour, shape and place then reach the language model as directions of their own from the
    first step on.
    """
    rng = random.Random(99)
    pictures = np.stack([draw(random_scene(rng)) for _ in range(128)])
    features = see(tower, pictures).reshape(-1, SIZES.tower_width)
    centre = features.mean(0)
    values, vectors = jnp.linalg.eigh(jnp.cov(features.T))
    whiten = vectors * jax.lax.rsqrt(values + 0.02 * values.mean()) @ vectors.T
    signed = lambda x: jnp.concatenate([x, -x[..., -4:]], -1)       # GELU would halve the places
    read, bias = signed(dense["w"]), signed(dense["b"])
    scale = 1.5 / (features @ read + bias).std(0)
    n_rest = SIZES.width - read.shape[1]
    rest = whiten @ jax.random.normal(key, (SIZES.tower_width, n_rest)) * SIZES.tower_width ** -0.5
    projector = init_projector(key)
    projector["project0"] = jnp.concatenate([read * scale, rest], 1)
    projector["bias0"] = jnp.concatenate([bias * scale, -centre @ rest])
    return projector


def init(key, tower, dense):
    keys = jax.random.split(key, 3)
    heads = dict(w=Initializer(keys[2])((SIZES.width, N_MENTION), SIZES.width ** -0.5),
                 b=jnp.zeros(N_MENTION))
    return dict(projector=projector_from_dense(keys[0], tower, dense), llm=init_llm(keys[1]),
                mention=heads)


def data_feed(seed, first_step, n_scenes, n_questions, depth=4):
    """An endless generator of batches with their visibility, made in a thread of its own."""
    ready = queue.Queue(depth)

    def fill():
        rng = random.Random(f"{seed} {first_step}")
        step = first_step
        while True:
            weights, most = difficulty(step)
            data = batch(rng, n_scenes, n_questions, weights, 1, most)
            ready.put((data, random_visibility(rng, n_scenes, SIZES.layers)))
            step += 1

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield ready.get()


class Schedule:
    """Warm up, stay, then fall linearly over the last `decay` share to 2 % of the rate.

    With a time of day to finish by, the total is lowered to what still fits at the pace seen, so
    that a slower machine ends with the same fall, sooner.
    """

    def __init__(self, steps, first, finish_by=None, warmup=100, decay=0.55):
        self.steps, self.first, self.warmup, self.decay = steps, first, warmup, decay
        self.deadline = seconds_until(finish_by) + time.time() if finish_by else None
        self.start = time.time()

    def update(self, step):
        done = step - self.first
        if self.deadline and done >= 50:
            pace = (time.time() - self.start) / done
            fits = step + max(1, int((self.deadline - time.time()) / pace))
            self.steps = min(self.steps, fits)

    def rate(self, step):
        fall = (1 - step / self.steps) / self.decay
        return min(1.0, (step + 1) / self.warmup, max(0.02, fall))


def seconds_until(clock):
    """Seconds until a time of day "HH:MM" (UTC)."""
    now = datetime.datetime.now(datetime.timezone.utc)
    hour, minute = map(int, clock.split(":"))
    then = now.replace(hour=hour, minute=minute, second=0)
    return (then - now).total_seconds() % 86400


class Progress:
    """Prints the loss and the share of right answers since the last line."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.start, self.losses = time.time(), []
        self.right = self.asked = np.zeros(len(CATEGORIES))

    def add(self, loss, right, asked):
        self.losses.append(float(loss))
        self.right, self.asked = self.right + np.asarray(right), self.asked + np.asarray(asked)

    def report(self, step, steps, extra):
        shares = self.right / np.maximum(self.asked, 1)
        pace = (time.time() - self.start) / len(self.losses)
        print(f"{step:5d}/{steps} {pace:.2f} s/step loss {np.mean(self.losses):.3f} {extra} | "
              + " ".join(f"{c} {x:.2f}" for c, x in zip(CATEGORIES, shares)), flush=True)
        self.reset()


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", required=True, help="checkpoint of train_tower.py")
    parser.add_argument("--out", default="runs/model.npz")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--finish-by", metavar="HH:MM", help="UTC; end the schedule by then")
    parser.add_argument("--resume", action="store_true", help="go on from OUT with its optimizer state")
    parser.add_argument("--scenes", type=int, default=12, help="pictures per step")
    parser.add_argument("--questions", type=int, default=12, help="questions per picture")
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--adam-rate", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=200)
    return parser.parse_args()


def main():
    args = parse_args()
    key = jax.random.PRNGKey(args.seed)
    seeing = checkpoints.load(args.tower, train_tower.init(key))
    tower = seeing["tower"]
    params = init(key, tower, seeing["dense"])
    optimizer = MuonAdam(params)
    state = optimizer.init(params)
    first = 0
    if args.resume:
        saved = checkpoints.load(args.out + ".state", dict(params=params, state=state, step=0))
        params, state, first = saved["params"], saved["state"], int(saved["step"])

    def loss_fn(params, data, visible):
        vision = project(params["projector"], see(tower, data["pictures"]))
        logits, rows = answer_logits(params["llm"], vision, data["tokens"], visible, MENTION_LAYERS)
        loss, counts = answer_loss(logits, data)
        mentions = mention_loss(params["mention"], rows, data["mentions"])
        return loss + MENTION_WEIGHT * mentions, (loss, mentions, counts)

    @jax.jit
    def train_step(params, state, data, visible, muon_rate, adam_rate):
        (_, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, data, visible)
        params, state, norm = optimizer.update(grads, state, params, muon_rate, adam_rate)
        return params, state, aux, norm

    def save(step):
        checkpoints.save(args.out, dict(tower=tower, projector=params["projector"], llm=params["llm"]))
        checkpoints.save(args.out + ".state", dict(params=params, state=state, step=step))

    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    schedule, progress = Schedule(args.steps, first, args.finish_by), Progress()
    step = first
    for data, visible in data_feed(args.seed, first, args.scenes, args.questions):
        rate = schedule.rate(step)
        params, state, (loss, mentions, counts), norm = train_step(
            params, state, data, visible, args.muon_rate * rate, args.adam_rate * rate)
        progress.add(loss, *counts)
        step += 1
        schedule.update(step)
        if step % 50 == 0 or step == first + 1:
            progress.report(step, schedule.steps, f"mentions {mentions:.2f} gradient {norm:.2f} rate {rate:.3f}")
        if step % args.save_every == 0:
            save(step)
        if step >= schedule.steps:
            break
    save(step)


if __name__ == "__main__":
    main()
