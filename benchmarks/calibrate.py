"""Which lowering is faster where patches overlap, and what "auto" loses by its choice.

    KERAS_BACKEND=torch python benchmarks/calibrate.py [--rounds N] [--every N] [--work N]
        [--dtype POLICY] [--layer patchify] [--out FILE]

"Slowdown" compares a choice with the best of all lowerings, as the mean of a forward pass and a
training step. It is printed for "auto", and for each lowering alone.
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import machine
from timing import BACKEND, compile_all, medians, random_input, steps

from keras_unpatchify import Patchify, Unpatchify, ops

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
TOKENS = 256  # at least
LOWERINGS = ("conv_transpose", "matmul", "subpixel")


def geometries(work):
    """Each with the length of an axis of its grid, for a batch of two and this much work."""
    for rank, patch, stride in PATCHES:
        for token, signal in CHANNELS:
            tokens = max(work / (token * signal * patch**rank), TOKENS)
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
    compile_all(functions)
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


def chosen(layer_name, geometry, length):
    """What "auto" takes."""
    token, signal, rank, patch, stride = geometry
    columns = patch**rank * signal
    work = 2 * length**rank * columns * token
    to_tokens = layer_name == "patchify"
    whole = patch % stride == 0
    numbers = signal, token, columns, work, rank
    problem = ops.Problem(
        to_tokens, True, whole, *numbers, gaps=False, accelerated=machine.device() != "cpu"
    )
    return ops.choose(problem)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--every", type=int, default=1, help="measure only every n-th geometry")
    parser.add_argument("--layer", choices=("unpatchify", "patchify"), default="unpatchify")
    parser.add_argument("--work", type=float, default=3e8, help="multiplications of a forward pass")
    parser.add_argument("--dtype", default="float32", help="a dtype policy of Keras")
    parser.add_argument("--out", help="a file for all times, as JSON")
    args = parser.parse_args()
    machine.keep_memory()
    machine.same_precision()
    keras.config.set_dtype_policy(args.dtype)
    rows = []
    print(f"{BACKEND}, {args.layer}: milliseconds, {' / '.join(LOWERINGS)}\n")
    print("| token | signal | rank | patch | stride | forward | training | auto |")
    print("|---|---|---|---|---|---|---|---|")
    for geometry, length in list(geometries(args.work))[:: args.every]:
        if BACKEND == "jax" and geometry[2] == 3 and machine.device() == "cpu":
            continue  # jax computes native 3D transposed convolutions on CPUs in minutes
        row = measure(args.layer, geometry, length, args.rounds)
        row["auto"] = chosen(args.layer, geometry, length)
        rows.append(row)
        times = (row[step].values() for step in ("forward", "training"))
        cells = [*geometry, *(" / ".join(f"{t:.2f}" for t in step) for step in times), row["auto"]]
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    print("\n| choice | worst slowdown | mean slowdown |\n|---|---|---|")
    for choice in ("auto", *LOWERINGS):
        losses = [slowdown(row, row["auto"] if choice == "auto" else choice) for row in rows]
        print(f"| {choice} | {max(losses):.0%} | {sum(losses) / len(losses):.1%} |")
    if args.out:
        with open(args.out, "w") as file:
            json.dump(rows, file)


if __name__ == "__main__":
    main()
