"""What crosses devices when a signal is divided: `python division_worker.py`, under jax.

Prints a JSON list with a row for each geometry, padding, layer, divided axis (and whether it is the
longest, of equal ones the first) and direction. A row has three things for either lowering: the
kinds of the compiled collectives; how many elements they bring to a device; and how much a device
holds at the peak beside its input, over its part of tokens and signal.
"""

import json
import math
import os
import re

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from keras_unpatchify.ops import patchify, unpatchify

# What a device holds of the kernel counts for little.
BATCH = 8

# batch over `BATCH`, grid, token channels, signal channels, patch, stride
GEOMETRIES = {
    "1d tiling": (2, (64,), 64, 2, (8,), (8,)),
    "1d audio": (2, (64,), 128, 1, (16,), (8,)),
    "2d tiling": (2, (32, 32), 64, 3, (4, 4), (4, 4)),
    "2d tiling with wide tokens": (2, (32, 32), 256, 3, (4, 4), (4, 4)),
    "2d overlap": (2, (32, 32), 64, 3, (4, 4), (2, 2)),
    "2d overlap of one image": (1, (32, 32), 256, 3, (8, 8), (4, 4)),
    "2d uneven": (2, (32, 32), 128, 3, (3, 3), (2, 2)),
    "2d weather": (1, (32, 64), 512, 69, (4, 4), (2, 2)),
    "2d narrow tokens": (1, (32, 32), 128, 64, (4, 4), (2, 2)),
    "2d one axis overlaps": (2, (32, 32), 64, 3, (4, 2), (2, 2)),
    "2d deep overlap": (1, (32, 64), 64, 8, (8, 8), (2, 2)),
}
# jax takes minutes to compile a native transposed convolution of a volume for a CPU.
VOLUMES = {
    "3d tiling": (1, (8, 8, 8), 64, 1, (4, 4, 4), (4, 4, 4)),
    "3d overlap": (1, (8, 8, 16), 96, 2, (4, 4, 4), (2, 2, 2)),
}
# Its result is one array, or several in parentheses.
COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) (all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)\("
)
ARRAY = re.compile(r"\w+\[([\d,]*)\]")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
LOOP = re.compile(r" while\(.* body=%?([\w.-]+).*\"known_trip_count\":\{\"n\":\"(\d+)\"")


def collectives(text):
    """The kind of each collective of a compiled program, and the elements that it brings."""
    where, found, loops = None, [], {}
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            where = header[1]
        elif loop := LOOP.search(line):
            loops[loop[1]] = where, int(loop[2])
        elif result := COLLECTIVE.search(line):
            shapes = [shape.split(",") for shape in ARRAY.findall(result[1]) if shape]
            found.append((where, result[2], sum(math.prod(map(int, n)) for n in shapes)))
        else:
            assert not re.search(r" while\(|-start\(", line), line

    def rounds(where):
        """How often the instructions of a computation run."""
        outside, number = loops.get(where, (None, 1))
        return number * (rounds(outside) if outside else 1)

    return [(kind, elements * rounds(where)) for where, kind, elements in found]


def compiled(function, shape, axis):
    """The kinds of a function's collectives, the elements of their results, and those held."""
    spec = [None] * len(shape)
    spec[axis] = "devices"
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("devices",)), PartitionSpec(*spec))
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    program = jax.jit(function).lower(x).compile()
    found = collectives(program.as_text())
    held = program.memory_analysis().temp_size_in_bytes // 4
    return sorted({kind for kind, _ in found}), sum(n for _, n in found), held


def directions(layer, kernel, **options):
    """A scalar of the layer's output, which any division can hold, and its gradient."""

    def forward(x):
        return jnp.sum(jnp.sin(layer(x, kernel, **options)))

    return {"forward": forward, "gradient": jax.grad(forward)}


def rows(name, geometry, implementations):
    batch, grid, token, signal, patch, stride = geometry
    batch *= BATCH
    # Of numbers that all differ, so that XLA merges no blocks.
    kernel = np.random.default_rng(0).normal(size=(*patch, signal, token)).astype("float32")
    size = tuple(n * s for n, s in zip(grid, stride))  # of which each padding makes the grid
    shapes = {unpatchify: (batch, *grid, token), patchify: (batch, *size, signal)}
    own = sum(map(math.prod, shapes.values())) // len(jax.devices())
    for padding in ("same", "valid", "circular"):
        for layer, shape in shapes.items():
            for axis in range(1, 1 + len(grid)):
                for direction in ("forward", "gradient"):
                    longest = grid.index(max(grid)) == axis - 1
                    row = [name, padding, layer.__name__, axis, longest, direction]
                    for implementation in implementations:
                        options = {"stride": stride, "padding": padding}
                        options["implementation"] = implementation
                        function = directions(layer, kernel, **options)[direction]
                        kinds, moved, held = compiled(function, shape, axis)
                        row.append((kinds, moved, held / own))
                    yield row


def divided_kernels():
    """What is gathered where the kernel is divided along the signal: `{layer: elements}`.

    The elements are those of the largest gather.
    """
    kernel = jax.ShapeDtypeStruct((4, 4, 16, 32), jnp.float32)
    mesh, found = Mesh(np.array(jax.devices()), ("devices",)), {}
    divided = NamedSharding(mesh, PartitionSpec(None, None, "devices", None))
    for layer, channels in ((patchify, 16), (unpatchify, 32)):
        x = jax.ShapeDtypeStruct((8, 16, 16, channels), jnp.float32)

        def loss(x, kernel, layer=layer):
            y = layer(x, kernel, stride=2, padding="same", implementation="matmul")
            return jnp.sum(jnp.sin(y))

        given = (NamedSharding(mesh, PartitionSpec()), divided)
        program = jax.jit(jax.grad(loss, (0, 1)), in_shardings=given).lower(x, kernel).compile()
        gathered = [n for kind, n in collectives(program.as_text()) if kind == "all-gather"]
        found[layer.__name__] = max(gathered, default=0)
    return found


def main():
    found = []
    for name, geometry in GEOMETRIES.items():
        found += rows(name, geometry, ("matmul", "conv_transpose"))
    for name, geometry in VOLUMES.items():
        found += rows(name, geometry, ("matmul",))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
