"""Draws `results/speed.png` from all results of `bench.py` on CPUs: how many times faster than
Keras's Conv*Transpose.

python benchmarks/plot.py [--results DIR]
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

STEPS = {"forward": "Forward pass", "training": "Training step"}
COLORS = {"torch": "#d1495b", "tensorflow": "#edae49", "jax": "#00798c"}
LABELS = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}


def draw(results):
    """One panel per step; per workload a bar for each result, on a logarithmic axis."""
    rows = results[0]["workloads"]
    figure, panels = pyplot.subplots(
        1, 2, figsize=(12, 0.62 * len(rows) + 1.8), sharey=True, layout="constrained"
    )
    height = 0.8 / len(results)
    for panel, (step, title) in zip(panels, STEPS.items()):
        panel.axvline(1, color="#333333", linewidth=1, zorder=3)
        for i, result in enumerate(results):
            draw_bars(panel, result, step, height, (i - (len(results) - 1) / 2) * height)
        panel.set_xscale("log")
        panel.set_title(title, fontsize=12, fontweight="bold", loc="left")
        low, high = panel.get_xlim()
        panel.set_xlim(min(low, 0.7) * 0.85, high * 1.5)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        panel.xaxis.grid(True, color="#dddddd", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(length=0, which="both")
        panel.spines[:].set_visible(False)
    panels[0].set_yticks(
        range(len(rows)), [f"{row['name']}\n{row['geometry']}" for row in rows], fontsize=9
    )
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.supxlabel("times as fast as Keras Conv*Transpose with the same weights", fontsize=11)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper right",
        ncols=len(results),
        frameon=False,
    )
    return figure


def draw_bars(panel, result, step, height, shift):
    """The bars of one result, or a word where Keras is left out."""
    color = COLORS[result["backend"]]
    rows = enumerate(result["workloads"])
    ratios = {y: row[step]["keras"] / row[step]["auto"] for y, row in rows if "keras" in row[step]}
    bars = panel.barh(
        [y + shift for y in ratios],
        [ratio - 1 for ratio in ratios.values()],
        height * 0.92,
        left=1,
        color=color,
        label=f"{LABELS[result['backend']]} {result['versions'][result['backend']].split('+')[0]}",
        edgecolor="white",
        linewidth=0,
    )
    texts = [
        f"{ratio:.{0 if ratio >= 9.95 else 1 if ratio >= 1.05 else 2}f}"
        for ratio in ratios.values()
    ]
    panel.bar_label(bars, texts, padding=3, fontsize=8)
    for y, row in enumerate(result["workloads"]):
        if y not in ratios:
            text = f"{1e3 * row[step]['auto']:.2g} ms; Keras: minutes"
            panel.text(1.03, y + shift, text, va="center", fontsize=8, color=color, style="italic")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent / "results",
        metavar="DIR",
    )
    folder = parser.parse_args().results
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*-cpu.json"))]
    if not results:
        raise SystemExit(f"There are no results in {folder}: run bench.py first")
    draw(results).savefig(folder / "speed.png", dpi=150, facecolor="white")


if __name__ == "__main__":
    main()
