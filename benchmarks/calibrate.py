"""Which lowering is faster where patches overlap, and the rule of one number that loses least by
it.

    KERAS_BACKEND=torch python benchmarks/calibrate.py [--rounds N] [--every N]
        [--layer patchify] [--out FILE]

"Slowdown" compares a choice with the better of the two lowerings, as the mean of a forward pass
and a training step.
"""

import argparse
import itertools
import json
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from timing import BACKEND, medians, random_input, steps

from keras_unpatchify import Patchify, Unpatchify

# token channels, signal channels
CHANNELS = (
    (64, 64),
    (128, 64),
    (256, 128),
    (128, 32),
    (256, 64),
    (512, 64),
    (256, 16),
    (64, 4),
    (512, 16),
)
CHANNELS += ((1024, 32), (128, 3), (384, 6), (512, 3), (1024, 8), (128, 1), (512, 4))
# rank, patch, stride
PATCHES = (
    (2, 3, 2),
    (2, 4, 2),
    (2, 7, 4),
    (2, 8, 4),
    (2, 16, 8),
    (2, 4, 3),
    (1, 4, 2),
    (1, 7, 4),
    (1, 16, 8),
)
PATCHES += ((1, 64, 16), (3, 3, 2), (3, 4, 2), (3, 8, 4))
WORK = 3e8  # multiplications of a forward pass, a few milliseconds
TOKENS = 256  # at least
LOWERINGS = ("conv_transpose", "matmul")

# The rules: the native convolution where this is below the number.
PREDICTORS = {
    "token / signal": lambda token, signal, rank, patch, stride: token / signal,
    "1 / signal": lambda token, signal, rank, patch, stride: 1 / signal,
    "token": lambda token, signal, rank, patch, stride: token,
    "prod(patch) * token / signal": lambda token, signal, rank, patch, stride: (
        patch**rank * token / signal
    ),
    "prod(stride) * token / signal": lambda token, signal, rank, patch, stride: (
        stride**rank * token / signal
    ),
}


def geometries():
    """Each with the length of an axis of its grid, for a batch of two."""
    for rank, patch, stride in PATCHES:
        for token, signal in CHANNELS:
            tokens = max(WORK / (token * signal * patch**rank), TOKENS)
            yield (token, signal, rank, patch, stride), min(round((tokens / 2) ** (1 / rank)), 4096)


def measure(layer_name, geometry, length, rounds):
    """Milliseconds `{step: {lowering: ...}}`."""
    token, signal, rank, patch, stride = geometry
    if layer_name == "unpatchify":
        layer, channels, size = Unpatchify, (token, signal), length
    else:
        layer, channels, size = Patchify, (signal, token), (length - 1) * stride + patch
    x = random_input(2, *(size,) * rank, channels[0])
    functions = {}
    for lowering in LOWERINGS:
        made = layer(*channels, rank, patch, stride, implementation=lowering)
        made.build(tuple(x.shape))
        functions[lowering] = steps(made, x)
    times = {
        step: medians({name: functions[name][step] for name in LOWERINGS}, rounds)
        for step in ("forward", "training")
    }
    return {step: {name: 1e3 * seconds for name, seconds in times[step].items()} for step in times}


def slowdown(row, choice):
    """How much slower than the better lowering, 0.1 for 10%."""
    return (
        sum(row[step][choice] / min(row[step].values()) for step in ("forward", "training")) / 2 - 1
    )


def outcome(rows, predictor, number):
    """The worst and the mean slowdown of the rule with this number."""
    losses = [
        slowdown(row, LOWERINGS[0] if predictor(*row["geometry"]) < number else LOWERINGS[1])
        for row in rows
    ]
    return max(losses), sum(losses) / len(losses)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--every", type=int, default=1, help="measure only every n-th geometry")
    parser.add_argument("--layer", choices=("unpatchify", "patchify"), default="unpatchify")
    parser.add_argument("--out", help="a file for all times, as JSON")
    args = parser.parse_args()
    rows = []
    print(f"{BACKEND}, {args.layer}: milliseconds, native / matrix product\n")
    print(
        "| token | signal | rank | patch | stride | forward | training | native / matrix product |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for geometry, length in list(geometries())[:: args.every]:
        if BACKEND == "jax" and geometry[2] == 3:
            continue  # jax computes native 3D transposed convolutions on CPUs in minutes
        row = {"geometry": geometry, **measure(args.layer, geometry, length, args.rounds)}
        rows.append(row)
        pairs = [[row[step][name] for name in LOWERINGS] for step in ("forward", "training")]
        ratio = math.sqrt(math.prod(native / product for native, product in pairs))
        cells = [
            *geometry,
            *(f"{native:.2f} / {product:.2f}" for native, product in pairs),
            f"{ratio:.2f}",
        ]
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    print("\n| native where below | number | worst slowdown | mean slowdown |\n|---|---|---|---|")
    for name, predictor in PREDICTORS.items():
        values = sorted({predictor(*row["geometry"]) for row in rows})
        numbers = [0, *(math.sqrt(a * b) for a, b in itertools.pairwise(values)), math.inf]
        number = min(numbers, key=lambda number: outcome(rows, predictor, number))
        worst, mean = outcome(rows, predictor, number)
        print(f"| {name} | {number:.3g} | {worst:.0%} | {mean:.1%} |")
    for name, number in (("never native", 0), ("always native", math.inf)):
        worst, mean = outcome(rows, PREDICTORS["token"], number)
        print(f"| {name} | | {worst:.0%} | {mean:.1%} |")
    if args.out:
        with open(args.out, "w") as file:
            json.dump(rows, file)


if __name__ == "__main__":
    main()
