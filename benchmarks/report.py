"""The tables of a result of `bench.py`, and which goals it meets."""

from statistics import geometric_mean

STEPS = ("forward", "training")
# Keras Conv*Transpose over ours: geometric means of forward passes and training steps on a CPU. An
# accelerator computes most workloads faster than torch starts the operations.
FASTER_THAN_KERAS = {"torch": (2.0, 1.6), "tensorflow": (1.9, 1.4), "jax": (2.2, 12)}
FASTER_ON_GPU = (1, 1)
LOWERINGS = ("conv_transpose", "matmul", "subpixel")
COLUMNS = ("auto", *LOWERINGS, "keras", "hand-written", "product", "torch")


def slower(result, step, contender, tiling=None):
    """Times of "auto" over those of a contender, `{workload: ratio}`, where both are measured."""
    rows = [
        row
        for row in result["workloads"]
        if contender in row[step] and tiling in (None, row["tiling"])
    ]
    return {row["name"]: row[step]["auto"] / row[step][contender] for row in rows}


def slower_than_best(result, tiling):
    """Time of "auto" over that of the best lowering, `{workload: ratio}`.

    The mean of a forward pass and a training step.
    """
    rows = [row for row in result["workloads"] if tiling == row["tiling"]]
    found = {}
    for row in rows:
        ratios = []
        for step in STEPS:
            best = min(row[step][name] for name in ("auto", *LOWERINGS) if name in row[step])
            ratios.append(row[step]["auto"] / best)
        found[row["name"]] = sum(ratios) / len(ratios)
    return found


def of_patchify(result):
    """The part of a result that is about Patchify, in the form of that about Unpatchify."""
    return {"workloads": [{**row, **row["patchify"]} for row in result["workloads"]]}


def over_hand_written(measured):
    """Of `{contender: {workload: number}}`, "auto" over hand-written."""
    return {
        name: measured["auto"][name] / value for name, value in measured["hand-written"].items()
    }


def goals(result):
    """`(goal, what is wanted, what is measured, whether it is met)` of each goal."""
    found = []

    def at_most(limit, text, ratios):
        if ratios:
            name = max(ratios, key=ratios.get)
            found.append(
                (text, f"at most {limit:g}", f"{ratios[name]:.2f}, {name}", ratios[name] <= limit)
            )

    def mean_faster(least, text, ratios):
        if ratios:
            mean = 1 / geometric_mean(ratios.values())
            found.append((text, f"at least {least:g}", f"{mean:.2f}", mean >= least))

    on_cpu = result["device"] == "cpu"
    least_means = FASTER_THAN_KERAS[result["backend"]] if on_cpu else FASTER_ON_GPU
    for step, least in zip(STEPS, least_means):
        ratios = slower(result, step, "keras")
        mean_faster(
            least, f"{step}: times faster than Keras Conv*Transpose, geometric mean", ratios
        )
        at_most(1.1, f"{step}: time over Keras Conv*Transpose, worst", ratios)
    for step in STEPS:
        ratios = slower(result, step, "hand-written")
        at_most(1.05, f"{step}: time over hand-written, worst", ratios)
        mean_faster(1, f"{step}: times faster than hand-written, geometric mean", ratios)
    at_most(
        1.25,
        "forward: time over the bare product, tiling, worst",
        slower(result, "forward", "product", True),
    )
    at_most(
        1.25,
        "forward: time over the bare product, overlapping, worst",
        slower(result, "forward", "product", False),
    )
    for step in STEPS:
        ratios = slower(result, step, "torch")
        mean_faster(
            1.8, f"{step}: times faster than the PyTorch formulation, geometric mean", ratios
        )
    at_most(1.1, "auto over the best lowering, tiling, worst", slower_than_best(result, True))
    at_most(
        1.25, "auto over the best lowering, overlapping, worst", slower_than_best(result, False)
    )
    patchify = of_patchify(result)
    for step in STEPS:
        ratios = slower(patchify, step, "keras")
        at_most(1.1, f"Patchify, {step}: time over Keras Conv, worst", ratios)
    for kind, times in result.get("eager", {}).items():
        limit = 1.2 if kind == "tiling" else 1.5
        ratios = {kind: times["auto"] / times["keras"]}
        at_most(limit, f"eager call, {kind}: time over Keras Conv*Transpose", ratios)
    # TensorFlow comes with oneDNN; the other columns are measured without, which needs more.
    measured = result["memory"].get("auto, with oneDNN", result["memory"]["auto"])
    peaks = {
        row["name"]: (measured[row["name"]] - row["output"]) / (row["tokens"] + row["output"])
        for row in result["workloads"]
        if row["name"] in measured and not row["tiling"]
    }
    at_most(3, "forward: temporary memory over tokens and output, overlapping, worst", peaks)
    at_most(
        1.1,
        "Patchify: auto over the best lowering, tiling, worst",
        slower_than_best(patchify, True),
    )
    at_most(
        1.25,
        "Patchify: auto over the best lowering, overlapping, worst",
        slower_than_best(patchify, False),
    )
    at_most(
        1.02,
        "forward: peak memory over hand-written (exact to 2%), worst",
        over_hand_written(result["memory"]),
    )
    for step, measured in result.get("compile", {}).items():
        ratios = over_hand_written(measured)
        at_most(1, f"{step}: compile time over hand-written, worst", ratios)
        mean_faster(1, f"{step}: times faster to compile than hand-written, geometric mean", ratios)
    for kind in ("tiling", "overlapping"):
        row = result["growth"][kind]
        found.append(
            (
                f"exponent of time by tokens, {kind}",
                "at most 1.1",
                f"{row['slope']:.2f}",
                row["slope"] <= 1.1,
            )
        )
    return found


def table(head, rows):
    """A table in markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def speed_table(result, step):
    """Milliseconds, and in parentheses how many times those of "auto" they are."""
    columns = [name for name in COLUMNS if any(name in row[step] for row in result["workloads"])]

    def cell(row, name):
        if name not in row[step]:
            return ""
        times = "" if name == "auto" else f" ({row[step][name] / row[step]['auto']:.2f})"
        return f"{1e3 * row[step][name]:.2f}{times}"

    rows = [[row["name"], *(cell(row, name) for name in columns)] for row in result["workloads"]]
    means = [1 / geometric_mean(slower(result, step, name).values()) for name in columns]
    return table(
        [step, *columns], [*rows, ["geometric mean", *(f"({mean:.2f})" for mean in means)]]
    )


def markdown(result):
    """All of a result."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    megabytes = {
        name: {w: f"{n / 2**20:.1f}" for w, n in peaks.items()}
        for name, peaks in result["memory"].items()
    }
    growth = [
        [kind, *(f"{1e3 * t:.2f}" for t in row["seconds"]), f"{row['slope']:.2f}"]
        for kind, row in result["growth"].items()
    ]
    parts = [
        f"# {result['backend']}, {result['device_name']}\n\n{versions}; "
        f"{result['system']}; commit {result['commit']}\n\n`{result['command']}`\n",
        "Milliseconds; in parentheses how many times those of `auto`. Medians of contenders "
        "that take turns.\n",
        *(speed_table(result, step) for step in STEPS),
        *(f"{reason}.\n" for reason in result["left_out"]),
        "Patchify, from the signals of the same geometries to their tokens:\n",
        *(speed_table(of_patchify(result), step) for step in STEPS),
        table(
            ["workload", "geometry"],
            [[row["name"], row["geometry"]] for row in result["workloads"]],
        ),
    ]
    if any(megabytes.values()):
        rows = [
            [
                row["name"],
                *(peaks.get(row["name"], "") for peaks in megabytes.values()),
                *(f"{row[what] / 2**20:.1f}" for what in ("tokens", "output")),
            ]
            for row in result["workloads"]
        ]
        parts += ["Peak memory of a forward pass of eight times the batch, MiB, output included:\n"]
        parts += [table(["workload", *megabytes, "tokens", "output"], rows)]
    if "eager" in result:
        rows = [
            [
                kind,
                *(f"{1e6 * t:.0f}" for t in times.values()),
                f"{times['auto'] / times['keras']:.2f}",
            ]
            for kind, times in result["eager"].items()
        ]
        parts += ["An eager call on a tiny input, microseconds:\n"]
        parts += [table(["call", "auto", "keras", "auto over keras"], rows)]
    if "compile" in result:
        parts += ["Time to trace, lower and compile, milliseconds:\n"]
        for step, measured in result["compile"].items():
            rows = [
                [name, *(f"{1e3 * seconds[name]:.1f}" for seconds in measured.values())]
                for name in measured["auto"]
            ]
            parts += [table([step, *measured], rows)]
    if "native_3d_seconds" in result:
        parts += [
            f"Keras's Conv3DTranspose on the medical volume, once: "
            f"{result['native_3d_seconds']:.0f} s.\n"
        ]
    parts += [
        "Growth of a forward pass with the number of tokens, milliseconds:\n",
        table(["tokens", *result["growth"]["tiling"]["tokens"], "exponent"], growth),
        "Goals:\n",
        table(
            ["goal", "wanted", "measured", ""],
            [[*row, "met" if met else "**missed**"] for *row, met in goals(result)],
        ),
    ]
    return "\n".join(parts)
