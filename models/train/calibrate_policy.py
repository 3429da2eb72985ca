"""Tries a grid of policies on a test set and prints the cheapest that keep the accuracy.

    python make_eval.py --seed 2 --out runs/calibration
    python calibrate_policy.py runs/model.npz runs/calibration

Calibrate on another seed than the one the accuracy is reported on. Cheap means few vision rows
computed over all layers; the figures are `simulate_policy.summary`'s.
"""
import argparse
import itertools

from evaluate import read_test_set
from export_gguf import load_model, round_like_export
from simulate_policy import Policy, simulate_all, summary


def floats(text):
    return [float(x) for x in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("test_set")
    parser.add_argument("--max-loss", type=float, default=1.0, help="points of accuracy")
    parser.add_argument("--first", type=int, help="use only the first so many questions")
    parser.add_argument("--shallow-mid-layer", type=lambda t: [int(x) for x in t.split(",")], default=[2, 3, 4, 5])
    parser.add_argument("--layer-threshold", type=floats, default=[0.995, 0.9995])
    parser.add_argument("--tokens-threshold", type=floats, default=[0.02, 0.05, 0.1])
    parser.add_argument("--exit-threshold", type=floats, default=[0.999])
    parser.add_argument("--exit-layers", type=int, default=2)
    args = parser.parse_args()
    model = round_like_export(load_model(args.checkpoint))
    items = read_test_set(args.test_set)[:args.first]
    dense = simulate_all(model, items, None)
    print("dense:", summary(dense), flush=True)
    good = []
    for k, layer, tokens, leave in itertools.product(
            args.shallow_mid_layer, args.layer_threshold, args.tokens_threshold, args.exit_threshold):
        policy = Policy(k, layer, tokens, leave, args.exit_layers)
        result = simulate_all(model, items, policy)
        print(policy, summary(result), sep="\n    ", flush=True)
        if 100 * (dense["right"].mean() - result["right"].mean()) <= args.max_loss:
            good.append((result["rows"].mean(), policy, result))
    print(f"\nwithin {args.max_loss} points, cheapest first:")
    for _, policy, result in sorted(good, key=lambda x: x[0]):
        print(policy, summary(result), sep="\n    ")


if __name__ == "__main__":
    main()
