"""Tables, summaries and the picture of all results of `bench.py`: `python benchmarks/report.py`.

Writes a `.md` file beside each `.json` file, `devices.md` of a divided signal, and `speed.png`.
"""

import argparse
import json
import math
import pathlib
from statistics import geometric_mean

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from timing import STEPS
from workloads import LAYERS, LOWERINGS, MODELS, Workload, input_shape

COLUMNS = ("auto", "before", *LOWERINGS, "keras", "resize", "hand-written", "product", "torch")
COLORS = {"torch": "#d1495b", "tensorflow": "#edae49", "jax": "#00798c"}
LABELS = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
MODEL_NAMES = {workload.name for workload in MODELS}


def times(row, layer, step):
    """Median seconds of each contender."""
    return {name: middle for name, (_, middle, _) in row[layer][step].items()}


def title(row):
    return f"{row['name']}, {row['padding']}"


def is_model(row):
    """One of the fifteen workloads of the summary that the README shows."""
    return row["name"] in MODEL_NAMES and row["padding"] == "valid"


def over(rows, layer, step, contender):
    """Times of "auto" over those of a contender, or of the best lowering, `{workload: ratio}`."""
    found = {}
    for row in rows:
        seconds = times(row, layer, step)
        if contender == "best":
            seconds["best"] = min(seconds[n] for n in ("auto", *LOWERINGS) if n in seconds)
        if contender in seconds:
            found[title(row)] = seconds["auto"] / seconds[contender]
    return found


def table(head, rows):
    """A table in markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def speed_table(rows, layer, step):
    """Milliseconds, and in parentheses how many times those of "auto" they are."""
    measured = [times(row, layer, step) for row in rows]
    columns = [name for name in COLUMNS if any(name in seconds for seconds in measured)]

    def cell(seconds, name):
        if name not in seconds:
            return ""
        ratio = "" if name == "auto" else f" ({seconds[name] / seconds['auto']:.2f})"
        return f"{1e3 * seconds[name]:.2f}{ratio}"

    lines = [
        [title(row), *(cell(seconds, name) for name in columns)]
        for row, seconds in zip(rows, measured)
    ]
    return table([f"{layer}, {step}", *columns], lines)


def summary(rows):
    """How "auto" does beside other contenders: means and the worst of each layer and step."""
    groups = {
        "models": [row for row in rows if is_model(row)],
        "valid": [row for row in rows if row["padding"] == "valid"],
        "same": [row for row in rows if row["padding"] == "same"],
    }
    lines = []
    for contender in ("keras", "before", "resize", "hand-written", "torch", "best"):
        for name, group in groups.items():
            for layer in LAYERS:
                ratios = [over(group, layer, step, contender) for step in STEPS]
                if not all(ratios):
                    continue
                means = [f"{1 / geometric_mean(r.values()):.2f}" for r in ratios]
                worst = [max(r, key=r.get) for r in ratios]
                worst = [f"{r[w]:.2f} ({w})" for r, w in zip(ratios, worst)]
                slow = sum(ratio > 1.1 for r in ratios for ratio in r.values())
                passes = sum(map(len, ratios))
                lines.append([contender, name, layer, *means, *worst, f"{slow} of {passes}"])
    head = ["beside", "workloads", "layer", *(f"times as fast, {step}" for step in STEPS)]
    head += [*(f"slowest, {step}: its time over theirs" for step in STEPS), "over 1.1"]
    return table(head, lines)


def memory_table(result):
    """Peak memory of a forward pass of `Unpatchify`, of eight times the batch."""
    number = 4 if "bfloat16" not in result["command"] else 2  # bytes
    lines = []
    for row in result["workloads"]:
        shapes = [input_shape(Workload(**row["shape"]), layer) for layer in LAYERS]
        own = [8 * number * math.prod(shape) for shape in shapes]
        peaks = [peaks.get(title(row)) for peaks in result["memory"].values()]
        between = [peak and (peak - own[1]) / sum(own) for peak in peaks]
        lines.append([title(row), *(f"{n / 2**20:.1f}" for n in own)])
        lines[-1] += ["" if n is None else f"{n:.2f}" for n in between]
    return table(["workload", "tokens, MiB", "output, MiB", *result["memory"]], lines)


def eager_table(result):
    lines = []
    for kind, measured in result["eager"].items():
        seconds = {name: middle for name, (_, middle, _) in measured.items()}
        ratio = seconds["auto"] / seconds["keras"]
        lines.append([kind, *(f"{1e6 * t:.0f}" for t in seconds.values()), f"{ratio:.2f}"])
    return table(["call", *measured, "auto over keras"], lines)


def markdown(result):
    """All of a result."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rows = result["workloads"]
    parts = [
        f"# {result['backend']}, {result['device_name']}\n\n{versions}; {result['system']}; "
        f"commit {result['commit']}\n\n`{result['command']}`\n",
        "Medians of contenders that take turns.\n",
        summary(rows),
        "Milliseconds; in parentheses how many times those of `auto`.\n",
        *(speed_table(rows, layer, step) for layer in LAYERS for step in STEPS),
        table(["workload", "geometry"], [[title(row), row["geometry"]] for row in rows]),
    ]
    if "eager" in result:
        parts += ["An eager call on a tiny input, microseconds:\n", eager_table(result)]
    if any(result.get("memory", {}).values()):
        parts += ["Memory of a forward pass of `Unpatchify` beside tokens and output, over both:\n"]
        parts += [memory_table(result)]
    return "\n".join(parts)


def devices(rows):
    """What crosses eight devices, and what each holds, when a signal is divided."""

    def cells(kinds, moved, held):
        gathered = ", gathered" if {"all-gather", "all-to-all"} & set(kinds) else ""
        return f"{moved}{gathered}", f"{held:.2f}"

    head = ["geometry", "padding", "layer", "divided axis", "longest", "direction"]
    head += ["matmul: moved", "held", "native: moved", "held"]
    lines = []
    for *setting, longest, direction, ours, native in [(*row, None)[:8] for row in rows]:
        setting += ["yes" if longest else "no", direction]
        lines.append([*setting, *cells(*ours), *(cells(*native) if native else ("", ""))])
    return (
        "# A divided signal\n\nOn jax, float32. What is moved are the elements that collectives "
        "bring to each of eight devices. What is held is the memory of a device at the peak, "
        "beside its part of the input, over its part of tokens and signal together. The native 3D "
        "convolutions are left out: jax takes minutes to compile them for a CPU.\n\n"
        + table(head, lines)
    )


def picture(results):
    """One panel per step; per workload a bar for each result, on a logarithmic axis."""
    rows = [row for row in results[0]["workloads"] if is_model(row)]
    figure, panels = pyplot.subplots(
        1, 2, figsize=(12, 0.62 * len(rows) + 1.8), sharey=True, layout="constrained"
    )
    height = 0.8 / len(results)
    for panel, step in zip(panels, STEPS):
        panel.axvline(1, color="#333333", linewidth=1, zorder=3)
        for i, result in enumerate(results):
            bars(panel, result, step, height, (i - (len(results) - 1) / 2) * height)
        panel.set_xscale("log")
        name = {"forward": "Forward pass", "training": "Training step"}[step]
        panel.set_title(name, fontsize=12, fontweight="bold", loc="left")
        low, high = panel.get_xlim()
        panel.set_xlim(min(low, 0.7) * 0.85, high * 1.5)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        panel.xaxis.grid(True, color="#dddddd", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(length=0, which="both")
        panel.spines[:].set_visible(False)
    names = [f"{row['name']}\n{row['geometry'].removesuffix(', valid')}" for row in rows]
    panels[0].set_yticks(range(len(rows)), names, fontsize=9)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.supxlabel("times as fast as Keras Conv*Transpose with the same weights", fontsize=11)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=len(results), frameon=False)
    return figure


def bars(panel, result, step, height, shift):
    """The bars of one result, or a word where Keras is left out."""
    color, name = COLORS[result["backend"]], LABELS[result["backend"]]
    rows = [times(r, "unpatchify", step) for r in result["workloads"] if is_model(r)]
    ratios = {y: row["keras"] / row["auto"] for y, row in enumerate(rows) if "keras" in row}
    label = f"{name} {result['versions'][result['backend']].split('+')[0]}"
    places, widths = [y + shift for y in ratios], [ratio - 1 for ratio in ratios.values()]
    found = panel.barh(places, widths, height * 0.92, left=1, color=color, label=label)
    digits = [0 if ratio >= 9.95 else 1 if ratio >= 1.05 else 2 for ratio in ratios.values()]
    texts = [f"{ratio:.{n}f}" for ratio, n in zip(ratios.values(), digits)]
    panel.bar_label(found, texts, padding=3, fontsize=8)
    for y, row in enumerate(rows):
        if y not in ratios:
            text = f"{1e3 * row['auto']:.2g} ms; Keras: minutes"
            style = {"va": "center", "fontsize": 8, "color": color, "style": "italic"}
            panel.text(1.03, y + shift, text, **style)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = pathlib.Path(__file__).parent
    parser.add_argument("--results", type=pathlib.Path, default=here / "results", metavar="DIR")
    folder = parser.parse_args().results
    on_cpu = []
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        path.with_suffix(".md").write_text(markdown(result))
        if "division" in result:
            (folder / "devices.md").write_text(devices(result["division"]))
        if path.stem.endswith("-cpu"):
            on_cpu.append(result)
    if on_cpu:
        picture(on_cpu).savefig(folder / "speed.png", dpi=150, facecolor="white")


if __name__ == "__main__":
    main()
