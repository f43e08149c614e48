"""Patchings drawn at random, what the oracle says of them, and what a backend computes."""

import contextlib
import os
from typing import NamedTuple

import numpy as np
import reference
from backend import BACKEND, value_and_gradients
from cases import IMPLEMENTATIONS
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from ml_dtypes import finfo

SCALE = float(os.environ.get("KERAS_UNPATCHIFY_PROVE_SCALE", "1"))

# (largest patch, stride, grid) along each axis of a signal of one, two and three: the oracle
# loops over all tokens.
LARGEST = {1: (6, 6, 5), 2: (4, 4, 3), 3: (3, 3, 2)}

COMPUTED = {}


def cases(number):
    """Settings of a test of so many cases, the same at every run, times
    KERAS_UNPATCHIFY_PROVE_SCALE."""
    number = max(int(number * SCALE), 1)
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=checks,
    )


def count(test):
    """Counts a case of a test, for the summary."""
    COMPUTED[test] = COMPUTED.get(test, 0) + 1


class Patching(NamedTuple):
    """A pair of layers and an input for each of them; `size` is a signal of the grid, one of
    several."""

    patch: tuple
    stride: tuple
    grid: tuple
    size: tuple
    token: int
    signal: int
    batch: int
    padding: str | tuple
    implementation: str
    dtype: str

    @property
    def options(self):
        """Arguments that both layers take."""
        return {
            "data_dim": len(self.patch),
            "patch_size": self.patch,
            "stride": self.stride,
            "padding": self.padding,
            "implementation": self.implementation,
            "dtype": self.dtype,
        }

    @property
    def gaps(self):
        return any(s > k for k, s in zip(self.patch, self.stride))

    @property
    def default_size(self):
        axes = zip(self.grid, self.patch, self.stride)
        pads = reference.along_axes(self.padding, len(self.patch))
        return tuple(reference.default_size(*axis, pad) for axis, pad in zip(axes, pads))

    def normal(self, *shape, seed=0):
        """Normal numbers that the dtype holds."""
        return np.random.default_rng(seed).standard_normal(shape).astype(self.dtype)

    def tokens(self, seed=0):
        return self.normal(self.batch, *self.grid, self.token, seed=seed)

    def signals(self, size=None, seed=1):
        return self.normal(self.batch, *(size or self.size), self.signal, seed=seed)

    def kernel(self):
        return self.normal(*self.patch, self.signal, self.token, seed=2)

    def unpatchify(self, x, kernel, bias=None, *, overlap, size):
        """What the oracle computes of an `Unpatchify`."""
        options = {"stride": self.stride, "padding": self.padding, "size": size, "overlap": overlap}
        return reference.unpatchify(x, kernel, bias, **options)

    def unpatchify_gradients(self, x, kernel, bias=None, *, weights, overlap):
        """Its gradients for x, kernel and bias."""
        options = {"stride": self.stride, "padding": self.padding, "overlap": overlap}
        *both, per_channel, per_patch = reference.unpatchify_gradients(
            x, kernel, weights, **options
        )
        return both if bias is None else [*both, per_patch if bias.ndim > 1 else per_channel]

    def patchify(self, x, kernel, bias=None):
        """What the oracle computes of a `Patchify`."""
        return reference.patchify(x, kernel, bias, stride=self.stride, padding=self.padding)

    def patchify_gradients(self, x, kernel, bias=None, *, weights):
        """Its gradients for x, kernel and bias."""
        gradients = reference.patchify_gradients(
            x, kernel, weights, stride=self.stride, padding=self.padding
        )
        return gradients[: 2 if bias is None else 3]

    def covers(self, size):
        """How many patches cover each position."""
        return reference.covers(self.grid, size, self.patch, self.stride, self.padding)


@st.composite
def patchings(draw, dtypes=("float32",), smallest_batch=0):
    """A `Patching`."""
    data_dim = draw(st.sampled_from([1, 1, 2, 2, 3]))
    largest_patch, largest_stride, largest_grid = LARGEST[data_dim]
    axes = st.lists(st.integers(1, largest_patch), min_size=data_dim, max_size=data_dim)
    patch = tuple(draw(axes))
    strides = st.lists(st.integers(1, largest_stride), min_size=data_dim, max_size=data_dim).map(
        tuple
    )
    stride = draw(st.one_of(st.just(patch), strides))
    grid = tuple(draw(st.lists(st.integers(1, largest_grid), min_size=data_dim, max_size=data_dim)))
    pairs = st.tuples(*[st.tuples(*[st.integers(0, k - 1)] * 2) for k in patch])
    padding = draw(st.one_of(st.sampled_from(["valid", "same"]), pairs))
    sized = list(zip(grid, patch, stride, reference.along_axes(padding, data_dim), strict=True))
    assume(all(reference.default_size(*axis) > 0 for axis in sized))
    size = tuple(draw(st.sampled_from(reference.sizes_of(*axis))) for axis in sized)
    return Patching(
        patch,
        stride,
        grid,
        size,
        token=draw(st.integers(1, 4)),
        signal=draw(st.integers(1, 3)),
        batch=draw(st.integers(max(smallest_batch, BACKEND == "openvino"), 2)),
        padding=padding,
        implementation=draw(st.sampled_from(["auto", *IMPLEMENTATIONS])),
        dtype=draw(st.sampled_from(dtypes)),
    )


def absolute(*arrays):
    return [np.abs(np.asarray(a, "float64")) for a in arrays]


def bound(dtype, sums, magnitude):
    """How far a value may be from the exact one: one rounding for each term of a sum, of the size
    of all of them.

    `magnitude` is the sum of the terms' absolute values, as the oracle computes it from absolute
    arrays.
    """
    return (sums + 4) * (
        float(finfo(dtype).eps) / 2 * magnitude + float(finfo(dtype).smallest_subnormal)
    )


def assert_computes(actual, oracle, arrays, sums, dtype):
    """Whether the array is what the oracle makes of the arrays, but for the roundings of so many
    sums."""
    expected = oracle(*arrays)
    assert actual.shape == expected.shape
    error = np.abs(np.asarray(actual, "float64") - expected)
    limit = bound(dtype, sums, oracle(*absolute(*arrays)))
    assert (error <= limit).all(), (
        f"off by {np.max(error - limit)} more than the bound {np.max(limit)}"
    )


def precision(dtype):
    """A context in which the backend computes in that dtype."""
    if BACKEND != "jax" or dtype != "float64":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def of_layer(layer, arrays, weights, **arguments):
    """`layer(x)` for `arrays = (x, *weights of the layer)`, and its gradients for each of them."""

    def function(x, *variables):
        return layer.stateless_call(list(variables), [], x, **arguments)[0]

    return value_and_gradients(function, arrays, weights)
