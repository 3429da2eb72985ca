"""Vision rows that policies drop, as transformers can have it: they stay, and from some layer on nobody looks at them.

Which ones a policy keeps is found here from its definition, with transformers' own attention weights and values."""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

# What separates the last that is kept from the first that is not, as a share of it: far more than F16 comes to.
LEAST_GAP = 1e-2


@dataclass
class Layer:
    """What the last row of the prompt saw of the vision rows that were there: `weights` [n_head][n], and their `values`
    [n_head][n][d_head], those of grouped heads repeated."""

    weights: torch.Tensor
    values: torch.Tensor


def by_attention(layer):
    """FastV: the mean over heads."""
    return layer.weights.mean(0)


def by_contribution(layer):
    """VisiPruner: the norm of what a row adds to the last one, all heads side by side."""
    return (layer.weights[..., None] * layer.values).square().sum((0, 2)).sqrt()


def evenly_spaced(n, n_all):
    return [(2 * m + 1) * n_all // (2 * n) for m in range(n)]


def best(scores, present):
    """Some of those with the greatest scores, as many as leave the widest gap to the others."""
    order = scores.argsort(descending=True)
    ranked = scores[order]
    gaps = 1 - ranked[1:] / ranked[:-1]
    n = len(present) // 4 + int(gaps[len(present) // 4:3 * len(present) // 4 + 1].argmax()) + 1
    assert gaps[n - 1] >= LEAST_GAP
    return sorted(present[i] for i in order[:n].tolist())


@contextmanager
def dropping(family, rows, entered, score):
    """All layers see of the vision rows `rows` those in `entered` (indices), and those behind layer 0 what `score` picks
    of them; or none without it. Yields what each layer sees."""
    seen = [entered]
    caught = {}

    def hide(module, args, kwargs, il):
        mask = kwargs["attention_mask"].clone()
        hidden = torch.ones(len(rows), dtype=torch.bool)
        hidden[seen[-1]] = False
        mask[..., rows[hidden]] = torch.finfo(mask.dtype).min
        return args, kwargs | {"attention_mask": mask}

    def choose(module, args, out):
        if not score:
            seen.append([])
            return
        weights = out[1][0, :, -1, rows[entered]]
        n_head, d_head = len(weights), module.head_dim
        values = caught["values"][0, rows[entered]].unflatten(1, (-1, d_head)).transpose(0, 1)
        values = values.repeat_interleave(n_head // len(values), 0)
        seen.append(best(score(Layer(weights, values)), entered))

    layers = family.text_model().layers
    attention = layers[0].self_attn
    with ExitStack() as hooks:
        def keep(handle):
            hooks.callback(handle.remove)

        for il, layer in enumerate(layers):
            keep(layer.register_forward_pre_hook(
                lambda module, args, kwargs, il=il: hide(module, args, kwargs, il), with_kwargs=True))
        keep(attention.v_proj.register_forward_hook(lambda module, args, out: caught.update(values=out)))
        keep(attention.register_forward_hook(choose))
        yield seen


def of_policy(family, prompt, images, name):
    """One policy on one prompt: its fields, what it drops behind which layer (None: before layer 0), the logits."""
    _, is_vision, _ = family.tokens(prompt, images)
    rows = is_vision.nonzero().flatten()
    entered = list(range(len(rows)))
    if name.startswith("uniform+"):
        entered = evenly_spaced(max(2, 3 * len(rows) // 5), len(rows))
    score = {"uniform+fastv": by_attention, "fixed": by_contribution, "vtw": None}[name]
    with dropping(family, rows, entered, score) as seen:
        answer = family.answer(prompt, images)
    kept = seen[1]
    fields = {
        "uniform+fastv": {"budget": len(entered), "rank_layers": [0], "keep": [len(kept)]},
        "fixed": {"fusion_layer": 0, "keep": len(kept), "exit_from": len(family.text_model().layers)},
        "vtw": {"exit_from": 1},
    }[name]
    drops = [{"layer": None, "kept": entered}] if len(entered) < len(rows) else []
    return {"policy": name, **fields}, [*drops, {"layer": 0, "kept": kept}], answer.logits
