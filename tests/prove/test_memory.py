"""The numbers of patches that overlap do not all exist at once, where they are many."""

import math

import pytest

from keras_unpatchify.ops import patchify, unpatchify

# What the kernel needs counts for little.
BATCH = 64

# grid, token channels, signal channels, patch, stride; up to 64 patches cover a position.
GEOMETRIES = {
    "audio": ((500,), 128, 1, (16,), (8,)),
    "deep audio": ((500,), 16, 2, (60,), (1,)),
    "weather": ((24, 48), 512, 69, (4, 4), (2, 2)),
    "GAN": ((28, 28), 128, 64, (4, 4), (2, 2)),
    "uneven GAN": ((16, 16), 128, 64, (5, 5), (2, 2)),
    "image": ((32, 32), 64, 3, (8, 8), (4, 4)),
    "uneven image": ((20, 20), 96, 3, (12, 12), (5, 5)),
    "deep image": ((32, 32), 48, 1, (16, 16), (2, 2)),
    "deep uneven image": ((24, 24), 64, 3, (15, 11), (2, 4)),
    "volume": ((8, 8, 8), 256, 4, (8, 8, 8), (4, 4, 4)),
    "small volume": ((8, 8, 16), 96, 2, (4, 4, 4), (2, 2, 2)),
    "deep volume": ((8, 8, 8), 40, 1, (8, 8, 8), (2, 2, 2)),
    "deep uneven volume": ((8, 8, 8), 64, 3, (7, 7, 7), (2, 2, 2)),
    # A cell has 4 to 64 times as many numbers as a token.
    "narrow volume": ((8, 8, 8), 128, 64, (4, 4, 4), (2, 2, 2)),
    "narrow uneven volume": ((8, 8, 8), 128, 64, (5, 5, 5), (2, 2, 2)),
    "narrowest volume": ((8, 8, 8), 64, 64, (8, 8, 8), (4, 4, 4)),
}


def needed(function, shape, geometry, padding):
    """The memory beside input and output, over those, as XLA lays out buffers."""
    import jax

    _, token, signal, patch, stride = geometry
    x, kernel = (jax.ShapeDtypeStruct(n, "float32") for n in (shape, (*patch, signal, token)))
    program = jax.jit(lambda *a: function(*a, stride=stride, padding=padding)).lower(x, kernel)
    found = program.compile().memory_analysis()
    return found.temp_size_in_bytes / (4 * math.prod(shape) + found.output_size_in_bytes)


@pytest.mark.jax_backend
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_unpatchify_needs_at_most_three_times_its_tokens_and_output(geometry, padding):
    """All patches at once would take up to 12 times as much."""
    grid, token, *_ = geometry
    assert needed(unpatchify, (BATCH, *grid, token), geometry, padding) <= 3


@pytest.mark.jax_backend
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_patchify_needs_a_few_times_its_signal_and_output(geometry, padding):
    """XLA lays the blocks side by side for the product, so they exist twice."""
    grid, _, signal, patch, stride = geometry
    size = [n * s if padding == "same" else (n - 1) * s + p for n, p, s in zip(grid, patch, stride)]
    assert needed(patchify, (BATCH, *size, signal), geometry, padding) <= 6
