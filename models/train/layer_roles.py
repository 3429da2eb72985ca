"""Where the model needs its picture: accuracy with the vision tokens hidden in some of the layers.

    python layer_roles.py runs/model.npz runs/eval --first 500

Hidden from the questions and answers, that is; the picture's own rows go on in all layers.
"""
import argparse

import jax
import numpy as np

from evaluate import in_batches, read_test_set, whole_answer_right
from export_gguf import load_model, round_like_export
from network import SIZES, answer_logits, project, see


@jax.jit
def right_with(model, data, visible):
    """bool [B]; visible bool [n_layer, 1, 1, 1]."""
    vision = project(model["projector"], see(model["tower"], data["pictures"]))
    logits, _ = answer_logits(model["llm"], vision, data["tokens"], visible)
    return whole_answer_right(logits, data)[:, 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("test_set")
    parser.add_argument("--first", type=int, help="use only the first so many questions")
    args = parser.parse_args()
    model = round_like_export(load_model(args.checkpoint))
    batches = list(in_batches(read_test_set(args.test_set)[:args.first]))

    def accuracy(layers):
        visible = np.isin(np.arange(SIZES.layers), layers).reshape(-1, 1, 1, 1)
        return 100 * np.concatenate([np.asarray(right_with(model, data, visible))[:n]
                                     for data, n in batches]).mean()

    print("k, accuracy when seen only in layers < k, and only in layers >= k", flush=True)
    for k in range(SIZES.layers + 1):
        print(f"{k:2d} {accuracy(range(k)):6.1f} % {accuracy(range(k, SIZES.layers)):6.1f} %", flush=True)


if __name__ == "__main__":
    main()
