"""What crosses eight devices, and what each of them holds, when a signal is divided: a table.

    python benchmarks/devices.py [--out FILE]

Counts the elements that the collectives of compiled functions bring to a device, forward and with
the gradient of the input, by both lowerings. The geometries are those of
`tests/prove/division_worker.py`.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
WORKER = HERE.parent / "tests" / "prove" / "division_worker.py"

EXPLANATION = """`python benchmarks/devices.py`, float32. What is moved are the elements that
collectives bring to each of eight devices. What is held is the memory of a device at the peak,
beside its part of the input, over its part of tokens and signal together. The native 3D
convolutions are left out: jax takes minutes to compile them for a CPU.
"""


def cells(kinds, moved, held):
    """The elements moved, and whether a collective gathers what was divided; the memory."""
    gathered = ", gathered" if {"all-gather", "all-to-all"} & set(kinds) else ""
    return f"{moved}{gathered}", f"{held:.2f}"


def table(rows):
    lines = [
        "| geometry | padding | layer | divided axis | longest | direction "
        "| blocks: moved | held | native: moved | held |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        *setting, longest, direction = row[:6]
        setting += ["yes" if longest else "no", direction]
        # volumes have no native convolution
        found = [text for lowering in row[6:] for text in cells(*lowering)] + ["", ""]
        lines.append(f"| {' | '.join(map(str, [*setting, *found[:4]]))} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "devices.md")
    args = parser.parse_args()
    done = subprocess.run([sys.executable, WORKER], stdout=subprocess.PIPE, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    args.out.write_text(f"# A divided signal\n\n{EXPLANATION}\n{table(rows)}")
    print(args.out.read_text())


if __name__ == "__main__":
    main()
