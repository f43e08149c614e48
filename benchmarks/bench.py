"""Speed and memory of both layers beside what they replace, on one Keras backend.

    KERAS_BACKEND=torch python benchmarks/bench.py [--out DIR] [--rounds N] [--only TEXT] ...

Writes all numbers to `{backend}-{device}.json`. The device is what the backend sees. With
`--dtype`, its name stands at the end. `benchmarks/report.py` makes tables and the picture of them.
"""

import argparse
import functools
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import machine
from keras import ops
from timing import BACKEND, STEPS, compile_all, jax_functions, quartiles, random_input, steps
from workloads import LAYERS, WORKLOADS, contenders, input_shape, make

from keras_unpatchify import Unpatchify

HERE = pathlib.Path(__file__).parent
# Largest difference between contenders, as a fraction of the largest value: rounding in sums of up
# to 10^6 products, on a GPU with factors of 10 mantissa bits; bfloat16 has 8.
TOLERANCE = {"float32": {"cpu": 1e-4, "gpu": 1e-2}, "bfloat16": {"cpu": 4e-2, "gpu": 4e-2}}
# What takes a jax CPU minutes, or is known to be many times slower.
LEFT_OUT = {"conv_transpose", "keras", "subpixel"}
# Whose memory is measured, in a forward pass of eight times the batch.
WEIGHED = ("auto", "matmul", "hand-written", "keras")


def measured(workload, layer):
    """The contenders that are measured."""
    names = contenders(workload, layer)
    if BACKEND != "jax" or machine.device() != "cpu":
        return names
    slow = LEFT_OUT if len(workload.grid) == 3 else {"subpixel"}
    return [name for name in names if name not in slow]


def check(workload, functions):
    """Every contender has the same output and the same gradient of the input."""
    tolerance = TOLERANCE[keras.config.dtype_policy().compute_dtype][machine.device()]
    results = {}
    for name in functions.keys() - {"product"}:
        values = functions[name]["forward"](), functions[name]["training"]()[1][1]
        results[name] = [ops.convert_to_numpy(ops.cast(value, "float32")) for value in values]
    for name, values in results.items():
        for value, expected in zip(values, results["matmul"]):
            if value.shape != expected.shape:  # Keras's "valid" has more where there are gaps
                raise SystemExit(f"{workload.name}: {name} has the shape {value.shape}")
            error = abs(value - expected).max() / abs(expected).max()
            if not error <= tolerance:
                raise SystemExit(f"{workload.name}: {name} differs from matmul by {error:.1e}")


def speed(workload, layer, rounds, before):
    """Quartiles of seconds, `{step: {contender: (low, median, high)}}`."""
    x = random_input(*input_shape(workload, layer))
    functions = {n: steps(make(workload, layer, n), x) for n in measured(workload, layer)}
    if before:
        functions["before"] = steps(make(workload, layer, "auto", before), x)
    compile_all(functions)
    check(workload, functions)
    return {
        step: quartiles({name: function[step] for name, function in functions.items()}, rounds)
        for step in STEPS
    }


# Eager calls on a tiny input: arguments of both layers.
TINY = {"tiling": (2, 2, "valid"), "overlapping": (4, 2, "valid"), "same": (4, 2, "same")}


def eager(rounds, before):
    """Seconds of an eager call on 2 x 4 x 4 x 8 numbers, `{kind: {contender: quartiles}}`."""
    x, found = random_input(2, 4, 4, 8), {}
    for kind, (patch, stride, padding) in TINY.items():
        layers = {
            "auto": Unpatchify(8, 3, 2, patch, stride, padding=padding),
            "keras": keras.layers.Conv2DTranspose(3, patch, stride, padding),
        }
        if before:
            layers["before"] = before.Unpatchify(8, 3, 2, patch, stride, padding=padding)
        calls = {name: functools.partial(layer, x) for name, layer in layers.items()}
        found[kind] = quartiles(calls, 4 * rounds)
    return found


def answer(environment, *arguments):
    """What this script prints with other arguments, in a process that runs nothing else."""
    command = [sys.executable, __file__, *arguments]
    lines = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    return json.loads(lines[-1])


def print_peak_bytes(contender, workloads):
    """The peak memory of a forward pass of `Unpatchify`, `{workload: bytes}`."""
    peaks = {}
    for workload in workloads:
        if contender not in measured(workload, "unpatchify"):
            continue
        # resident memory is exact to some 100 KiB only
        workload = workload._replace(batch=8 * workload.batch)
        layer = make(workload, "unpatchify", contender)
        x = random_input(*input_shape(workload, "unpatchify"))
        if BACKEND == "jax":
            weights = [variable.value for variable in layer.trainable_variables]
            peak = machine.jax_peak_bytes(jax_functions(layer)[0], weights, x)
        else:
            forward = steps(layer, x)["forward"]
            peak = statistics.median(machine.peak_bytes(forward) for _ in range(5))
        peaks[key(workload)] = peak
    print(json.dumps(peaks))


def print_pool_growth(index, workloads):
    """What TensorFlow's pool grows by in a forward pass of "auto"."""
    workload = workloads[index]._replace(batch=8 * workloads[index].batch)
    x = random_input(*input_shape(workload, "unpatchify"))
    print(json.dumps(machine.pool_growth(make(workload, "unpatchify", "auto"), x)))


def memory(workloads, options):
    """`{contender: {workload: bytes}}`."""
    apart = {**os.environ, **machine.EVERY_BUFFER_APART}
    found = {name: answer(apart, "--peak-memory", name, *options) for name in WEIGHED}
    if BACKEND == "tensorflow" and machine.device() == "cpu":
        plain = {k: v for k, v in os.environ.items() if k not in machine.KEPT_MEMORY}
        found["auto, with oneDNN"] = {
            key(w): answer(plain, "--pool-growth", str(i), *options)
            for i, w in enumerate(workloads)
            if not w.tiling
        }
    return found


def division():
    """The rows of `tests/prove/division_worker.py`: what crosses devices of a divided signal."""
    worker = HERE.parent / "tests" / "prove" / "division_worker.py"
    done = subprocess.run([sys.executable, worker], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def key(workload):
    return f"{workload.name}, {workload.padding}"


def other_package(checkout):
    """The package of another checkout, under a name of its own."""
    ours = {name: m for name, m in sys.modules.items() if name.startswith("keras_unpatchify")}
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, checkout)
    package = importlib.import_module("keras_unpatchify")
    sys.path.remove(checkout)
    sys.modules.update(ours)
    return package


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender")
    parser.add_argument("--only", default="", help="workloads whose names hold this text")
    parser.add_argument("--speed-only", action="store_true", help="no memory, no division")
    parser.add_argument("--before", metavar="CHECKOUT", help="another contender, its package")
    parser.add_argument("--batch", type=int, default=1, help="multiplies each batch")
    parser.add_argument("--dtype", default="float32", help="a dtype policy of Keras")
    parser.add_argument("--resume", action="store_true", help="keep the rows of the file")
    for name, kind in (("--peak-memory", str), ("--pool-growth", int)):  # what processes are asked
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    machine.same_precision()
    keras.config.set_dtype_policy(args.dtype)
    workloads = [w._replace(batch=args.batch * w.batch) for w in WORKLOADS if args.only in w.name]
    if args.peak_memory:
        return print_peak_bytes(args.peak_memory, workloads)
    if args.pool_growth is not None:
        return print_pool_growth(args.pool_growth, workloads)
    machine.keep_memory()
    before, start = args.before and other_package(args.before), time.perf_counter()
    command = f"KERAS_BACKEND={BACKEND} python benchmarks/bench.py {' '.join(sys.argv[1:])}".strip()
    result = {"backend": BACKEND, **machine.description(), "command": command, "workloads": []}
    args.out.mkdir(parents=True, exist_ok=True)
    dtype = "" if args.dtype == "float32" else f"-{args.dtype}"
    path = args.out / f"{BACKEND}-{result['device']}{dtype}.json"
    if args.resume and path.exists():
        result["workloads"] = json.loads(path.read_text())["workloads"]
    have = {(row["name"], row["padding"]) for row in result["workloads"]}
    for workload in (w for w in workloads if (w.name, w.padding) not in have):
        print(f"{time.perf_counter() - start:4.0f} s  {workload}", file=sys.stderr, flush=True)
        row = {"name": workload.name, "padding": workload.padding, "tiling": workload.tiling}
        row |= {"geometry": str(workload), "shape": workload._asdict()}
        row |= {layer: speed(workload, layer, args.rounds, before) for layer in LAYERS}
        result["workloads"].append(row)
        if args.resume:
            path.write_text(json.dumps(result, indent=1) + "\n")
    if BACKEND != "jax":
        result["eager"] = eager(args.rounds, before)
    if not args.speed_only:
        result["memory"] = memory(workloads, sys.argv[1:])
        if BACKEND == "jax" and machine.device() == "cpu":
            result["division"] = division()
    result["minutes"] = (time.perf_counter() - start) / 60
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
