"""The numbers of patches that overlap do not all exist at once, where they are many."""

import math

import pytest

from keras_unpatchify.ops import patchify, unpatchify

# What the kernel needs counts for little.
BATCH = 64

# grid, token channels, signal channels, patch, stride
ORDINARY = {  # patches of at most two strides, signals of at least three channels
    "audio": ((500,), 128, 3, (16,), (8,)),
    "weather": ((24, 48), 512, 69, (4, 4), (2, 2)),
    "prime weather": ((24, 48), 128, 73, (4, 4), (2, 2)),
    "GAN": ((28, 28), 128, 64, (4, 4), (2, 2)),
    "uneven": ((32, 32), 96, 48, (3, 3), (2, 2)),
    "image": ((32, 32), 64, 3, (8, 8), (4, 4)),
    "volume": ((8, 8, 8), 256, 4, (8, 8, 8), (4, 4, 4)),
    "small volume": ((8, 8, 16), 96, 3, (4, 4, 4), (2, 2, 2)),
    # A cell has 4 to 64 times as many numbers as a token.
    "narrow volume": ((8, 8, 8), 128, 64, (4, 4, 4), (2, 2, 2)),
    "narrowest volume": ((8, 8, 8), 64, 64, (8, 8, 8), (4, 4, 4)),
    "prime volume": ((8, 8, 8), 64, 73, (4, 4, 4), (2, 2, 2)),
}
DEEP = {  # of three blocks and more along an axis
    "uneven GAN": ((16, 16), 128, 64, (5, 5), (2, 2)),
    "uneven image": ((20, 20), 96, 3, (12, 12), (5, 5)),
    "uneven volume": ((8, 8, 8), 128, 64, (5, 5, 5), (2, 2, 2)),
}
WITH_PADDINGS = pytest.mark.parametrize("padding", ["valid", "same"])


def over(table):
    return pytest.mark.parametrize("geometry", table.values(), ids=table)


def needed(function, geometry, padding):
    """The memory beside input and output over those, as XLA lays out buffers: forward, and with
    the gradients of input and kernel."""
    import jax
    from jax import numpy as jnp

    grid, token, signal, patch, stride = geometry
    size = [n * s if padding == "same" else (n - 1) * s + p for n, p, s in zip(grid, patch, stride)]
    tokens, signals = (BATCH, *grid, token), (BATCH, *size, signal)
    shape = tokens if function is unpatchify else signals
    own = 4 * (math.prod(tokens) + math.prod(signals))

    def forward(x, kernel):
        return function(x, kernel, stride=stride, padding=padding)

    training = jax.grad(lambda *arrays: jnp.sum(jnp.sin(forward(*arrays))), (0, 1))
    arrays = [jax.ShapeDtypeStruct(n, "float32") for n in (shape, (*patch, signal, token))]
    programs = [jax.jit(f).lower(*arrays).compile() for f in (forward, training)]
    return [program.memory_analysis().temp_size_in_bytes / own for program in programs]


@pytest.mark.jax_backend
@over(ORDINARY)
@WITH_PADDINGS
@pytest.mark.parametrize(("function", "most"), [(unpatchify, (3, 7)), (patchify, (5, 17))])
def test_a_layer_needs_a_few_times_its_signal_and_tokens(function, most, geometry, padding):
    """For tokens, XLA lays the blocks side by side for the product, and keeps those of all
    rounds."""
    forward, training = needed(function, geometry, padding)
    assert forward <= most[0]
    assert training <= most[1]


@pytest.mark.jax_backend
@over(DEEP)
@WITH_PADDINGS
@pytest.mark.parametrize("function", [unpatchify, patchify])
def test_deep_overlaps_of_three_channels_and_more(function, geometry, padding):
    """All patches at once would take up to 16 times as much."""
    forward, training = needed(function, geometry, padding)
    assert forward <= 4
    assert training <= (6 if function is unpatchify else 20)


@pytest.mark.jax_backend
def test_a_prime_number_of_channels_costs_no_more_than_its_neighbours():
    """Rounds need not divide them."""
    prime = ORDINARY["prime volume"]
    grid, token, signal, *patch = prime
    neighbour = needed(unpatchify, (grid, token, signal - 1, *patch), "same")
    for ours, theirs in zip(needed(unpatchify, prime, "same"), neighbour):
        assert ours <= 1.2 * theirs
