"""The numbers of patches that overlap do not all exist at once, where they are many."""

import math

import pytest

from keras_unpatchify.ops import unpatchify

# grid, token channels, signal channels, patch, stride; up to 64 patches cover a position.
GEOMETRIES = {
    "audio": ((500,), 128, 1, (16,), (8,)),
    "weather": ((24, 48), 512, 69, (4, 4), (2, 2)),
    "GAN": ((28, 28), 128, 64, (4, 4), (2, 2)),
    "image": ((32, 32), 64, 3, (8, 8), (4, 4)),
    "uneven image": ((20, 20), 96, 3, (12, 12), (5, 5)),
    "deep image": ((32, 32), 48, 1, (16, 16), (2, 2)),
    "volume": ((8, 8, 8), 256, 4, (8, 8, 8), (4, 4, 4)),
    "small volume": ((8, 8, 16), 96, 2, (4, 4, 4), (2, 2, 2)),
    "deep volume": ((8, 8, 8), 40, 1, (8, 8, 8), (2, 2, 2)),
}


@pytest.mark.jax_backend
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_forward_pass_holds_a_few_times_its_tokens_and_signal(geometry, padding):
    """As XLA lays out buffers, beside those of input and output. All patches at once would take up
    to ten times as much."""
    import jax

    grid, token, signal, patch, stride = geometry
    shapes = (16, *grid, token), (*patch, signal, token)
    arrays = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    program = jax.jit(lambda *a: unpatchify(*a, stride=stride, padding=padding)).lower(*arrays)
    needed = program.compile().memory_analysis()
    own = 4 * math.prod(arrays[0].shape) + needed.output_size_in_bytes
    assert needed.temp_size_in_bytes <= 3.4 * own
