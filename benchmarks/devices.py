"""What crosses eight devices when a signal is divided, by both lowerings, as a table.

    python benchmarks/devices.py [--out FILE]

Counts the elements that the collectives of compiled functions bring to a device, forward and with
the gradient of the input. The geometries are those of `tests/prove/test_division.py`.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
WORKER = HERE.parent / "tests" / "prove" / "division_worker.py"


def cell(kinds, elements):
    """The elements, and whether a collective gathers what was divided."""
    return f"{elements}, gathered" if {"all-gather", "all-to-all"} & set(kinds) else elements


def table(rows):
    lines = ["| geometry | padding | layer | divided axis | direction | blocks | native |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for *setting, blocks, native in rows:
        cells = [*setting, *(cell(*found) for found in (blocks, native))]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "devices.md")
    args = parser.parse_args()
    done = subprocess.run([sys.executable, WORKER], stdout=subprocess.PIPE, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    # without a native convolution of volumes
    rows = [row if len(row) == 7 else [*row, ([], "")] for row in rows]
    args.out.write_text(
        "# A divided signal\n\nElements that collectives bring to each of eight devices, float32; "
        "`python benchmarks/devices.py`.\nNative 3D convolutions are left out: jax takes minutes "
        "to compile them for a CPU.\n\n" + table(rows)
    )
    print(args.out.read_text())


if __name__ == "__main__":
    main()
