"""Speed, memory and compile time of both layers beside what they replace, on one Keras backend.

    KERAS_BACKEND=torch python benchmarks/bench.py [--out DIR] [--rounds N] [--quick]

Writes all numbers, `{backend}-{device}.json`, and their tables and goals, `{backend}-{device}.md`.
The device is what the backend sees. With `--dtype`, its name stands at the end of both names.
`python benchmarks/plot.py` draws the picture of all results.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import machine
import report
from keras import ops
from timing import (
    BACKEND,
    STEPS,
    compile_all,
    jax_functions,
    medians,
    quartiles,
    random_input,
    steps,
)
from workloads import WORKLOADS, Workload, contenders, make, make_patchify

from keras_unpatchify import Unpatchify

# Largest difference between contenders, as a fraction of the largest value: rounding in sums of up
# to 10^6 products, on a GPU with factors of 10 mantissa bits; bfloat16 has 8.
TOLERANCE = {"float32": {"cpu": 1e-4, "gpu": 1e-2}, "bfloat16": {"cpu": 4e-2, "gpu": 4e-2}}
NATIVE_3D = "jax takes minutes for one native 3D transposed convolution on a CPU: left out"
SUBPIXEL = "jax is slow to train the convolution over cells on a CPU: left out"


def left_out(workload, contender):
    """Why a contender is not measured, or `None`."""
    if BACKEND != "jax" or machine.device() != "cpu":
        return None
    if contender == "subpixel":
        return SUBPIXEL
    native = contender in ("conv_transpose", "keras") and len(workload.grid) == 3
    return NATIVE_3D if native else None


def input_of(workload):
    return random_input(workload.batch, *workload.grid, workload.token)


def check(workload, functions):
    """Every contender has the same output and the same gradient of the input."""
    tolerance = TOLERANCE[keras.config.dtype_policy().compute_dtype][machine.device()]
    results = {}
    for name in functions.keys() - {"product"}:
        values = functions[name]["forward"](), functions[name]["training"]()[1][1]
        results[name] = [ops.convert_to_numpy(ops.cast(value, "float32")) for value in values]
    for name, values in results.items():
        for value, expected in zip(values, results["matmul"]):
            error = abs(value - expected).max() / abs(expected).max()
            if not error <= tolerance:
                raise SystemExit(f"{workload.name}: {name} differs from matmul by {error:.1e}")


def speed(workload, rounds):
    """Seconds, `{step: {contender: seconds}}`."""
    x = input_of(workload)
    names = [name for name in contenders(workload) if not left_out(workload, name)]
    functions = {name: steps(make(workload, name), x) for name in names}
    compile_all(functions)
    check(workload, functions)
    return measured(functions, rounds)


def patchify_speed(workload, rounds):
    """Seconds of the lowerings of Patchify, `{step: {contender: seconds}}`."""
    x = random_input(workload.batch, *workload.size, workload.signal)
    names = ("auto", "conv_transpose", "matmul", *["subpixel"] * (not workload.tiling), "keras")
    names = [name for name in names if not left_out(workload, name)]
    functions = {name: steps(make_patchify(workload, name), x) for name in names}
    compile_all(functions)
    return measured(functions, rounds)


def measured(functions, rounds):
    """Medians `{step: {contender: seconds}}`, and the quartiles beside them."""
    found = {}
    for step in STEPS:
        times = quartiles({name: functions[name][step] for name in functions}, rounds)
        found[step] = {name: middle for name, (_, middle, _) in times.items()}
        found[f"{step} quartiles"] = {name: (low, high) for name, (low, _, high) in times.items()}
    return found


# Eager calls on a tiny input: arguments of both layers.
TINY = {
    "tiling": {"kernel": (2, 2)},
    "overlapping": {"kernel": (4, 2)},
    "overlapping, same": {"kernel": (4, 2), "padding": "same"},
}


def eager_seconds(rounds):
    """Seconds of an eager call on 2 x 4 x 4 x 8 numbers, `{kind: {contender: seconds}}`."""
    x = random_input(2, 4, 4, 8)
    found = {}
    for kind, options in TINY.items():
        (patch, stride), padding = options["kernel"], options.get("padding", "valid")
        layers = {
            "auto": Unpatchify(8, 3, 2, patch, stride, padding=padding),
            "keras": keras.layers.Conv2DTranspose(3, patch, stride, padding),
        }
        calls = {name: functools.partial(layer, x) for name, layer in layers.items()}
        found[kind] = medians(calls, 4 * rounds)
    return found


def compile_seconds(workload, rounds):
    """Median seconds to trace, lower and compile under jax, `{step: {contender: seconds}}`."""
    import jax

    names, x = ("auto", "hand-written"), input_of(workload)
    layers = {name: make(workload, name) for name in names}
    times = {step: {name: [] for name in names} for step in STEPS}
    for i in range(rounds):
        for name in names[:: (-1) ** i]:
            weights = [variable.value for variable in layers[name].trainable_variables]
            for step, function in zip(STEPS, jax_functions(layers[name])):
                jax.clear_caches()
                start = time.perf_counter()
                jax.jit(function).lower(weights, x).compile()
                times[step][name].append(time.perf_counter() - start)
    return {step: {name: statistics.median(times[step][name]) for name in names} for step in STEPS}


def answer(environment, *arguments):
    """What this script prints with other arguments, in a process that runs nothing else."""
    command = [sys.executable, __file__, *arguments]
    lines = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    return json.loads(lines[-1])


def peak_bytes(contender, *options):
    """Peak memory of a forward pass, `{workload: bytes}`."""
    environment = {**os.environ, **machine.EVERY_BUFFER_APART}
    return answer(environment, "--peak-memory", contender, *options)


def print_peak_bytes(contender, workloads):
    peaks = {}
    for workload in workloads:
        if contender not in contenders(workload) or left_out(workload, contender):
            continue
        # resident memory is exact to some 100 KiB only
        workload = workload._replace(batch=8 * workload.batch)
        layer, x = make(workload, contender), input_of(workload)
        if BACKEND == "jax":
            weights = [variable.value for variable in layer.trainable_variables]
            peaks[workload.name] = machine.jax_peak_bytes(jax_functions(layer)[0], weights, x)
        else:
            forward = steps(layer, x)["forward"]
            peaks[workload.name] = statistics.median(machine.peak_bytes(forward) for _ in range(5))
    print(json.dumps(peaks))


def pool_growths():
    """What TensorFlow's pool grows by in a forward pass of "auto", `{workload: bytes}`."""
    environment = {k: v for k, v in os.environ.items() if k not in machine.KEPT_MEMORY}
    return {
        workload.name: answer(environment, "--pool-growth", workload.name)
        for workload in WORKLOADS
        if not workload.tiling
    }


def print_pool_growth(name):
    workload = next(workload for workload in WORKLOADS if workload.name == name)
    workload = workload._replace(batch=8 * workload.batch)
    print(json.dumps(machine.pool_growth(make(workload, "auto"), input_of(workload))))


def growth(contender, patch, stride, tokens, rounds):
    """Seconds of a forward pass for each number of tokens, and the slope of their logarithms."""
    seconds = []
    for n in tokens:
        grid = math.isqrt(n), n // math.isqrt(n)
        workload = Workload("growth", 1, grid, 128, 3, (patch, patch), (stride, stride))
        forward = steps(make(workload, contender), input_of(workload))["forward"]
        seconds += medians({contender: forward}, rounds).values()
    slope = statistics.linear_regression([*map(math.log, tokens)], [*map(math.log, seconds)]).slope
    return {"tokens": tokens, "seconds": seconds, "slope": slope}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results", metavar="DIR"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, three workloads, up to 16384 tokens"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument(
        "--batch", type=int, default=1, help="what to multiply the batch of each workload by"
    )
    parser.add_argument(
        "--dtype", default="float32", help="a dtype policy of Keras, such as mixed_bfloat16"
    )
    parser.add_argument(
        "--native-3d",
        action="store_true",
        help="run the slowest contender under jax once: 6 minutes",
    )
    parser.add_argument(
        "--peak-memory", metavar="CONTENDER", help="print the peak memory of one contender, no more"
    )
    parser.add_argument(
        "--pool-growth", metavar="WORKLOAD", help="print what tensorflow's pool grows by, no more"
    )
    args = parser.parse_args()
    machine.same_precision()
    keras.config.set_dtype_policy(args.dtype)
    workloads = [workload._replace(batch=args.batch * workload.batch) for workload in WORKLOADS]
    if args.peak_memory:
        return print_peak_bytes(args.peak_memory, workloads)
    if args.pool_growth:
        return print_pool_growth(args.pool_growth)
    machine.keep_memory()
    rounds = min(args.rounds, 3) if args.quick else args.rounds
    result = {
        "backend": BACKEND,
        **machine.description(),
        "rounds": rounds,
        "command": command_line(),
        "workloads": [],
    }
    result["left_out"] = sorted(
        {reason for w in WORKLOADS for name in contenders(w) if (reason := left_out(w, name))}
    )
    start = time.perf_counter()
    number = 4 if args.dtype == "float32" else 2  # bytes

    def progress(text):
        print(f"{time.perf_counter() - start:4.0f} s  {text}", file=sys.stderr, flush=True)

    for workload in workloads[::4] if args.quick else workloads:
        progress(str(workload))
        row = {"name": workload.name, "geometry": str(workload), "tiling": workload.tiling}
        # bytes, where memory is measured
        row["tokens"] = number * 8 * workload.batch * math.prod((*workload.grid, workload.token))
        row["output"] = number * 8 * workload.batch * math.prod((*workload.size, workload.signal))
        patchify = patchify_speed(workload, rounds)
        result["workloads"].append({**row, **speed(workload, rounds), "patchify": patchify})
    if BACKEND == "jax" and machine.device() == "cpu":
        progress("compile time")
        compiles = {w.name: compile_seconds(w, min(rounds, 7)) for w in workloads if w.tiling}
        result["compile"] = {
            step: {
                contender: {name: compiles[name][step][contender] for name in compiles}
                for contender in ("auto", "hand-written")
            }
            for step in STEPS
        }
    if BACKEND != "jax":
        progress("eager calls")
        result["eager"] = eager_seconds(rounds)
    progress("peak memory")
    result["memory"] = {
        name: {} if args.no_memory else peak_bytes(name, *sys.argv[1:])
        for name in ("auto", "matmul", "hand-written", "keras")
    }
    if BACKEND == "tensorflow" and machine.device() == "cpu" and not args.no_memory:
        result["memory"] = {"auto, with oneDNN": pool_growths(), **result["memory"]}
    progress("growth with the number of tokens")
    tokens = [2**k for k in range(10, 15 if args.quick else 21, 2)]
    kinds = {
        "tiling": ("auto", 8, 8),
        "overlapping": ("auto", 8, 4),
        "bare product": ("product", 8, 8),
    }
    result["growth"] = {kind: growth(*sizes, tokens, rounds) for kind, sizes in kinds.items()}
    if args.native_3d:
        progress("one native 3D forward pass")
        volume = next(workload for workload in WORKLOADS if workload.name == "medical volume")
        began = time.perf_counter()
        steps(make(volume, "keras"), input_of(volume))["forward"]()
        result["native_3d_seconds"] = time.perf_counter() - began
    result["minutes"] = (time.perf_counter() - start) / 60
    args.out.mkdir(parents=True, exist_ok=True)
    dtype = "" if args.dtype == "float32" else f"-{args.dtype}"
    path = args.out / f"{BACKEND}-{result['device']}{dtype}"
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(report.markdown(result))
    print(report.markdown(result))


def command_line():
    return f"KERAS_BACKEND={BACKEND} python benchmarks/bench.py {' '.join(sys.argv[1:])}".strip()


if __name__ == "__main__":
    main()
