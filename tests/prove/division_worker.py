"""What crosses devices when a signal is divided: `python division_worker.py`, under jax.

Prints a JSON list with a row for each geometry of `GEOMETRIES`, padding, divided axis, layer and
direction: the kinds of the compiled collectives, and how many elements they bring to a device, by
either lowering.
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

# batch, grid, token channels, signal channels, patch, stride
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
}
# jax takes minutes to compile a native transposed convolution of a volume for a CPU.
VOLUMES = {
    "3d tiling": (1, (8, 8, 8), 64, 1, (4, 4, 4), (4, 4, 4)),
    "3d overlap": (1, (8, 8, 16), 96, 2, (4, 4, 4), (2, 2, 2)),
}
COLLECTIVE = re.compile(
    r"= \(?\w+\[([\d,]*)\]\S* (all-gather|all-to-all|collective-permute|all-reduce)(-start)?\("
)


def collectives(function, shape, axis):
    """The kinds of a compiled function's collectives, and the elements of their results."""
    spec = [None] * len(shape)
    spec[axis] = "devices"
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("devices",)), PartitionSpec(*spec))
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    text = jax.jit(function).lower(x).compile().as_text()
    found = [
        (kind, math.prod(map(int, sizes.split(","))))
        for sizes, kind, _ in (m.groups() for m in COLLECTIVE.finditer(text))
        if sizes
    ]
    return sorted({kind for kind, _ in found}), sum(n for _, n in found)


def directions(layer, kernel, **options):
    """A scalar of the layer's output, which any division can hold, and its gradient."""

    def forward(x):
        return jnp.sum(jnp.sin(layer(x, kernel, **options)))

    return {"forward": forward, "gradient": jax.grad(forward)}


def rows(name, geometry, implementations):
    batch, grid, token, signal, patch, stride = geometry
    kernel = jnp.ones((*patch, signal, token), jnp.float32)
    size = tuple(n * s for n, s in zip(grid, stride))
    shapes = {unpatchify: (batch, *grid, token), patchify: (batch, *size, signal)}
    for padding in ("same", "valid"):
        for layer, shape in shapes.items():
            for axis in range(1, 1 + len(grid)):
                for direction in ("forward", "gradient"):
                    row = [name, padding, layer.__name__, axis, direction]
                    for implementation in implementations:
                        options = {"stride": stride, "padding": padding}
                        options["implementation"] = implementation
                        function = directions(layer, kernel, **options)[direction]
                        row.append(collectives(function, shape, axis))
                    yield row


def main():
    found = []
    for name, geometry in GEOMETRIES.items():
        found += rows(name, geometry, ("matmul", "conv_transpose"))
    for name, geometry in VOLUMES.items():
        found += rows(name, geometry, ("matmul",))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
