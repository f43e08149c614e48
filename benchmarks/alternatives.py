"""Other ways to compute `Unpatchify` on jax, beside the one that "auto" takes: a table.

    python benchmarks/alternatives.py [--rounds N] [--out FILE]

Memory is what a forward pass of eight times the batch needs at the peak beside its tokens and its
output, over those two. Times are over those of `blocks`. What is moved are the elements that
collectives bring to a device, over those that they bring for the native convolution: with the first
axis divided over eight devices, forward and with the gradient of the tokens, and with the second.
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
from unittest import mock

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import machine
from timing import medians, random_input
from workloads import WORKLOADS

from keras_unpatchify import lowerings
from keras_unpatchify.ops import unpatchify

HERE = pathlib.Path(__file__).parent
# Two blocks along each axis; native convolutions of volumes take jax minutes.
OVERLAPPING = [
    w for w in WORKLOADS if not w.tiling and all(p == 2 * s for p, s in zip(w.patch, w.stride))
]
DIVIDED = ("weather, overlapping", "GAN, overlapping")


def native(x, kernel, w):
    """The backend's convolution."""
    return unpatchify(x, kernel, stride=w.stride, implementation="conv_transpose")


def blocks(x, kernel, w):
    """One product or a few, whose blocks are added: what "auto" takes."""
    return unpatchify(x, kernel, stride=w.stride, implementation="matmul")


def at_once(x, kernel, w):
    """The same without loops over blocks, which "auto" takes where patches are crowded."""
    with mock.patch.object(lowerings, "LOOPS_FROM", math.inf):
        return blocks(x, kernel, w)


def grown_by_each(x, kernel, w):
    """The same where each block makes the signal longer."""
    with mock.patch.object(lowerings, "_apart", return_value=()):
        return blocks(x, kernel, w)


def loop(x, kernel, w):
    """A product for each block, in a loop that never holds two of them."""
    return along_axes(x, taps_of(kernel, w), w, 1)


def gathered(x, kernel, w):
    """One product of the tokens of all patches that reach a cell."""
    taps = taps_of(kernel, w)
    number = taps.shape[: len(w.grid)]
    tokens = []
    for place in itertools.product(*map(range, number)):
        y = x
        for axis, (n, m) in enumerate(zip(place, number), 1):
            y = pad(y, axis, n, m - 1 - n)
        tokens.append(y)
    taps = jnp.reshape(taps, (len(tokens), -1, w.token))
    return to_space(jnp.einsum("b...t,bct->...c", jnp.stack(tokens), taps), w)


def cells(x, kernel, w):
    """The convolution over cells."""
    return unpatchify(x, kernel, stride=w.stride, implementation="subpixel")


WAYS = (blocks, at_once, grown_by_each, loop, gathered, cells)


def along_axes(x, taps, w, axis):
    """The sum of the blocks `taps`, of this and the later axes, as a signal along those."""
    if axis > len(w.grid):
        return to_space(jnp.tensordot(x, taps, axes=(-1, -1)), w)
    stride, more = w.stride[axis - 1], w.patch[axis - 1] - w.stride[axis - 1]

    def place(tap):
        return pad(along_axes(x, tap, w, axis + 1), axis, 0, more)

    def step(total, tap):
        # each block lies one stride before the next: the sum of those behind moves as a whole
        moved = jax.lax.slice_in_dim(pad(total, axis, stride, 0), 0, total.shape[axis], 1, axis)
        return moved + place(tap), None

    # from zeros, as XLA unrolls a loop of one step
    zeros = jnp.zeros(jax.eval_shape(place, taps[0]).shape, x.dtype)
    return jax.lax.scan(step, zeros, taps, reverse=True)[0]


def pad(y, axis, before, after):
    return jnp.pad(y, [(before, after) if i == axis else (0, 0) for i in range(y.ndim)])


def taps_of(kernel, w):
    """(*patch, signal, token) -> (*blocks, cell, token)."""
    d, number = len(w.patch), [p // s for p, s in zip(w.patch, w.stride)]
    split = [n for pair in zip(number, w.stride) for n in pair]
    y = jnp.reshape(kernel, (*split, w.signal, w.token))
    y = jnp.transpose(y, (*range(0, 2 * d, 2), *range(1, 2 * d, 2), 2 * d, 2 * d + 1))
    return jnp.reshape(y, (*number, -1, w.token))


def to_space(y, w):
    """(batch, *grid, cell) -> (batch, *grid * stride, signal)."""
    batch, *grid, _ = y.shape
    d = len(grid)
    y = jnp.reshape(y, (batch, *grid, *w.stride, w.signal))
    y = jnp.transpose(y, (0, *(k for i in range(1, 1 + d) for k in (i, d + i)), 2 * d + 1))
    return jnp.reshape(y, (batch, *(n * s for n, s in zip(grid, w.stride)), w.signal))


def arrays(w, batch):
    return random_input(batch, *w.grid, w.token), random_input(*w.patch, w.signal, w.token)


def runner(function, *arguments):
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


def measured(w, rounds):
    """`{way: (memory, forward, training)}`; memory and times as above."""
    x, kernel = arrays(w, w.batch)
    many, _ = arrays(w, 8 * w.batch)
    output = 4 * 8 * w.batch * math.prod((*w.size, w.signal))
    expected = blocks(x, kernel, w)
    memory, forward, training = {}, {}, {}
    for way in WAYS:

        def function(x, kernel, way=way):
            return way(x, kernel, w)

        error = abs(function(x, kernel) - expected).max() / abs(expected).max()
        assert error < 1e-4, (way, error)
        slope = jax.grad(lambda *a, f=function: jnp.mean(jnp.square(f(*a))), (0, 1))
        needed = machine.jax_peak_bytes(function, many, kernel) - output
        memory[way] = needed / (many.nbytes + output)
        forward[way] = runner(function, x, kernel)
        training[way] = runner(slope, x, kernel)
    forward, training = medians(forward, rounds), medians(training, rounds)
    return {
        way.__name__: (
            memory[way],
            forward[way] / forward[blocks],
            training[way] / training[blocks],
        )
        for way in WAYS
    }


def moved():
    """The collectives of every way, `{workload: {way: [(kinds, elements), ...]}}`."""
    sys.path.append(str(HERE.parent / "tests" / "prove"))
    import division_worker  # which asks for eight devices: jax has not counted them yet

    found = {}
    for w in OVERLAPPING:
        if w.name not in DIVIDED:
            continue
        w = w._replace(grid=(32, 64))  # which eight devices divide
        kernel = arrays(w, 1)[1]
        rows = found[w.name] = {}
        for way in (native, *WAYS):

            def forward(x, way=way, w=w, kernel=kernel):
                return jnp.sum(jnp.sin(way(x, kernel, w)))

            rows[way.__name__] = [
                division_worker.compiled(function, (w.batch, *w.grid, w.token), axis)[:2]
                for axis in (1, 2)
                for function in (forward, jax.grad(forward))
            ]
    return found


def as_text(rows, way):
    """The elements over those of the native convolution, or that a collective gathers."""
    if any({"all-gather", "all-to-all"} & set(kinds) for kinds, _ in rows[way]):
        return "gathers"
    return ", ".join(f"{n / of:.2f}" for (_, n), (_, of) in zip(rows[way], rows["native"]))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "alternatives.md")
    parser.add_argument("--moved", action="store_true", help="print what is moved, no more")
    args = parser.parse_args()
    if args.moved:
        return print(json.dumps(moved()))
    machine.keep_memory()
    command = [sys.executable, __file__, "--moved"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    collectives = json.loads(output.splitlines()[-1])
    lines = [
        "| workload | way | memory | forward | training | moved |",
        "|---|---|---|---|---|---|",
    ]
    for w in OVERLAPPING:
        for name, numbers in measured(w, args.rounds).items():
            text = as_text(collectives[w.name], name) if w.name in collectives else ""
            row = [w.name, name, *(f"{n:.2f}" for n in numbers), text]
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    args.out.write_text("\n".join(["# Other ways on jax", "", __doc__.strip(), "", *lines, ""]))


if __name__ == "__main__":
    main()
