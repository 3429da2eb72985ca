"""What the stage policy costs and saves on this model, simulated in JAX.

    python simulate_policy.py runs/model.npz runs/eval --policy ../tiny-llava-shapes.policy.toml

Stages middle and deep, cumulative exit, relative unit; the shallow stage is off. Layers above
`shallow_mid_layer` are probed at the last prompt row; the first in which a vision token has
cos < layer_threshold is the fusion layer; tokens with a norm above tokens_threshold go on to the
next layer; after `exit_layers` later layers in which all of them have cos >= exit_threshold,
vision is gone. Dropped rows are hidden from every row, the picture's own included, which is the
same as dropping them. Answer tokens see what the cache of each layer holds.
"""
import argparse
import dataclasses
import functools
import tomllib

import jax
import jax.numpy as jnp
import numpy as np

from evaluate import accuracy_table, in_batches, read_test_set, whole_answer_right
from export_gguf import load_model, round_like_export
from network import SIZES, embed, head_logits, llm_layer, project, see
from world import N_PATCHES


@dataclasses.dataclass(frozen=True)
class Policy:
    shallow_mid_layer: int
    layer_threshold: float
    tokens_threshold: float          # relative: a share of ||o||
    exit_threshold: float
    exit_layers: int

    @classmethod
    def read(cls, path):
        with open(path, "rb") as file:
            table = tomllib.load(file)
        assert table["tokens_threshold_unit"] == "relative" and table["exit_count"] == "cumulative"
        return cls(**{field.name: table[field.name] for field in dataclasses.fields(cls)})


def statistic(attention, row):
    """(cos, norm / ||o||), each [B, 64]: the contribution of each vision token to row `row` [B].

    The closed form: ||c_j||^2 = sum_h a_hj^2 ||v_hj||^2 and o.c_j = sum_h a_hj (o_h . v_hj).
    """
    weights, values, out = attention
    at = row[:, None, None, None]
    a = jnp.take_along_axis(weights[:, :, 0], at, 2)[:, :, 0]           # [B, heads, 64]
    o = jnp.take_along_axis(out[:, :, 0], at, 2)[:, :, 0]               # [B, heads, head]
    norm2 = jnp.einsum("bhj,bhj->bj", a ** 2, (values ** 2).sum(-1))
    dot = jnp.einsum("bhj,bhjd,bhd->bj", a, values, o)
    o2 = (o ** 2).sum((1, 2))[:, None]
    cos = (o2 - dot) / jnp.sqrt(jnp.maximum(o2 * (o2 - 2 * dot + norm2), 1e-20))
    return cos, jnp.sqrt(norm2 / o2)


@functools.partial(jax.jit, static_argnames="prune")
def run_layer(prefix, blocks, layer, visible, row, prune):
    prefix, blocks, attention = llm_layer(prefix, blocks, layer, visible[:, None], prune_prefix=prune)
    return prefix, blocks, *statistic(attention, row)


@jax.jit
def start(model, data):
    """The LLM's input rows (prefix, blocks) and the last prompt row of each block [B]."""
    vision = project(model["projector"], see(model["tower"], data["pictures"]))
    prefix, blocks = embed(model["llm"], vision, data["tokens"])
    return prefix, blocks, (data["learn"][:, 0] > 0).argmax(-1)


@jax.jit
def finish(model, blocks, data):
    return whole_answer_right(head_logits(model["llm"], blocks), data)[:, 0]


def simulate(model, data, policy):
    """Arrays over the batch: right, fusion (layer or n_layer), exit_from, rows [B, n_layer].

    rows counts the vision rows that each layer computes at prefill; kept is how many went on
    after fusion (64 where no layer fired).
    """
    prefix, blocks, row = start(model, data)
    n_batch, n_layer = len(data["tokens"]), SIZES.layers
    visible = np.ones((n_batch, N_PATCHES), bool)
    fusion, exit_from = np.full(n_batch, n_layer), np.full(n_batch, n_layer)
    kept, calm, rows = np.full(n_batch, N_PATCHES), np.zeros(n_batch, int), []
    for il, layer in enumerate(model["llm"]["layers"]):
        rows.append(visible.sum(1))
        prefix, blocks, cos, norm = run_layer(prefix, blocks, layer, visible, row,
                                              prune=bool((fusion < il).any()))
        if policy is None or il <= policy.shallow_mid_layer:
            continue
        cos, norm = np.asarray(cos), np.asarray(norm)
        calm += (fusion < il) & np.where(visible, cos >= policy.exit_threshold, True).all(1)
        leaving = (fusion < il) & (exit_from == n_layer) & (calm >= policy.exit_layers)
        fires = (fusion == n_layer) & (cos < policy.layer_threshold).any(1)
        fusion[fires] = il
        visible = visible & np.where(fires[:, None], norm > policy.tokens_threshold, True)
        visible[leaving] = False
        kept[fires] = visible[fires].sum(1)
        leaving |= fires & (kept == 0)
        exit_from[leaving] = il + 1
    right = np.asarray(finish(model, blocks, data))
    return dict(right=right, fusion=fusion, exit_from=exit_from, kept=kept, rows=np.stack(rows, 1))


def simulate_all(model, items, policy, size=128):
    """`simulate` over a whole test set."""
    parts = []
    for data, n in in_batches(items, size):
        parts.append({key: value[:n] for key, value in simulate(model, data, policy).items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def summary(result):
    """One line: accuracy, where fusion and exit fall, tokens kept, share of vision rows computed."""
    n_layer = result["rows"].shape[1]
    fused = result["fusion"] < n_layer
    histogram = lambda x: "/".join(str(int((x == il).sum())) for il in range(n_layer + 1))
    return (f"accuracy {100 * result['right'].mean():.2f} %, fused {100 * fused.mean():.1f} %, "
            f"kept {result['kept'][fused].mean() if fused.any() else N_PATCHES:.1f} of {N_PATCHES}, "
            f"vision rows {100 * result['rows'].mean() / N_PATCHES:.1f} %, "
            f"fusion layer {histogram(result['fusion'])}, first without vision {histogram(result['exit_from'])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("test_set")
    parser.add_argument("--policy", required=True, help="TOML file")
    args = parser.parse_args()
    model = round_like_export(load_model(args.checkpoint))
    items = read_test_set(args.test_set)
    records = [record for record, _ in items]
    dense = simulate_all(model, items, None)
    pruned = simulate_all(model, items, Policy.read(args.policy))
    print("dense: ", summary(dense))
    print("pruned:", summary(pruned))
    for (name, n, before), (_, _, after) in zip(accuracy_table(records, dense["right"]),
                                                accuracy_table(records, pruned["right"])):
        print(f"{name:10s} {n:5d} {100 * before:6.1f} % {100 * after:6.1f} %")


if __name__ == "__main__":
    main()
