"""How far half, single and double precision are from the oracle, and that no lowering is further
than native."""

import functools

import keras
import numpy as np
import pytest
import reference
from backend import to_numpy
from cases import IMPLEMENTATIONS, over_implementations
from ml_dtypes import finfo

from keras_unpatchify import Patchify, Unpatchify

# patch, stride, grid, token channels, signal channels
GEOMETRIES = {
    "tiling": ((16,), (16,), (8,), 4096, 3),
    "tiling 2d": ((4, 4), (4, 4), (4, 4), 1024, 3),
    "overlapping": ((16,), (4,), (8,), 768, 3),
    "overlapping 2d": ((8, 8), (2, 2), (5, 5), 512, 3),
    "overlapping at every position": ((4, 4), (1, 1), (5, 5), 64, 2),
}

# Values are rounded once where they are written, and by the native lowering again where they are
# divided by a mean's
# count: each rounding to nearest is off by 0.29 to 0.58 of half an `eps` on average, and two of
# them by less than one.
ROUNDINGS = 1.5
# Thousands of products are added one after another, by a native convolution and by the oracle too.
SUMMED = 30

over_geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
over_overlaps = pytest.mark.parametrize("overlap", ["sum", "mean"])


def rms(a):
    return np.sqrt(np.mean(np.asarray(a, "float64") ** 2))


def relative_error(actual, expected):
    return rms(np.asarray(actual, "float64") - expected) / rms(expected)


def normal(shape, dtype, seed, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def unpatchify_error(geometry, dtype, implementation, overlap="sum", bias=False):
    patch, stride, grid, token, signal = geometry
    x = normal((1, *grid, token), dtype, 0)
    weights = [normal((*patch, signal, token), dtype, 1, token**-0.5)] + [
        normal(signal, dtype, 2)
    ] * bias
    layer = Unpatchify(
        token,
        signal,
        len(patch),
        patch,
        stride,
        bias,
        overlap=overlap,
        implementation=implementation,
        dtype=dtype,
    )
    layer.build(x.shape)
    layer.set_weights(weights)
    y = layer(keras.ops.convert_to_tensor(x))
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    return relative_error(
        to_numpy(y), reference.unpatchify(x, *weights, stride=stride, overlap=overlap)
    )


def patchify_error(geometry, dtype, implementation):
    patch, stride, grid, token, signal = geometry
    size = [reference.default_size(g, k, s, "valid") for g, k, s in zip(grid, patch, stride)]
    x, kernel = normal((1, *size, signal), dtype, 0), normal((*patch, signal, token), dtype, 1, 0.1)
    layer = Patchify(
        signal, token, len(patch), patch, stride, False, implementation=implementation, dtype=dtype
    )
    layer.build(x.shape)
    layer.set_weights([kernel])
    y = layer(keras.ops.convert_to_tensor(x))
    return relative_error(to_numpy(y), reference.patchify(x, kernel, stride=stride))


def unit(dtype):
    """The largest relative error of one rounding."""
    return float(finfo(dtype).eps) / 2


@functools.cache
def rounding(dtype):
    """The error of a rounding on average, at most, as the backend's own product rounds.

    TensorFlow's product in bfloat16 rounds towards zero where the processor has no such product:
    with twice the error.
    """
    a = normal((64, 64), dtype, 0)
    product = to_numpy(keras.ops.matmul(a, keras.ops.transpose(a)))
    exact = np.asarray(a, "float64") @ np.asarray(a, "float64").T
    to_nearest = relative_error(product, exact) < 0.6 * unit(dtype)
    return (0.5 if to_nearest else 1) * unit(dtype)


@functools.cache
def native_adds_up_in_half(dtype):
    """Whether Keras's own transposed convolution does, as in bfloat16 on an older processor."""
    patch, stride, grid, token, signal = GEOMETRIES["overlapping 2d"]
    x, kernel = normal((1, *grid, token), dtype, 0), normal((*patch, signal, token), dtype, 1)
    options = {"output_padding": 0, "data_format": "channels_last"}
    y = keras.ops.conv_transpose(x, kernel, stride, **options)
    expected = reference.unpatchify(x, kernel, stride=stride)
    return relative_error(to_numpy(y), expected) > ROUNDINGS * 0.5 * unit(dtype)


@over_geometries
@over_overlaps
@over_implementations
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rounds_the_sum_twice_at_most(geometry, overlap, implementation, dtype):
    error = unpatchify_error(geometry, dtype, implementation, overlap)
    if implementation != "matmul" and (dtype == "float16" or native_adds_up_in_half(dtype)):
        # on a CPU some backends add up in float16 here: 4e-3 in TensorFlow, where a rounding
        # makes 2e-4
        assert error < 10 * ROUNDINGS * unit(dtype)
    else:
        assert error < ROUNDINGS * rounding(dtype)


@over_geometries
@over_overlaps
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_others_are_as_exact_as_the_native_lowering(geometry, overlap, dtype):
    native, *others = (unpatchify_error(geometry, dtype, i, overlap) for i in IMPLEMENTATIONS)
    assert max(others) < 1.5 * native


@over_geometries
@over_implementations
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_patchify_rounds_once(geometry, implementation, dtype):
    assert patchify_error(geometry, dtype, implementation) < rounding(dtype)


@over_geometries
@over_implementations
def test_single_precision(geometry, implementation):
    assert unpatchify_error(geometry, "float32", implementation) < SUMMED * unit("float32")
    assert patchify_error(geometry, "float32", implementation) < SUMMED * unit("float32")


@pytest.mark.float64
@over_geometries
@over_implementations
@pytest.mark.parametrize("bias", [False, True])
def test_double_precision(geometry, implementation, bias, double):
    with double:
        assert unpatchify_error(geometry, "float64", implementation, bias=bias) < SUMMED * unit(
            "float64"
        )
        assert patchify_error(geometry, "float64", implementation) < SUMMED * unit("float64")


@over_implementations
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_weights_whole_and_ends_in_float32_where_asked(
    implementation, policy
):
    """A model that computes in half precision, whose last layer computes in float32 what it is
    given."""
    x = normal((2, 8, 9, 3), "float32", 0)
    options = {"data_dim": 2, "patch_size": (4, 3), "implementation": implementation}
    image = keras.Input(x.shape[1:])
    there = Patchify(3, 32, dtype=policy, **options)
    back = Unpatchify(32, 3, dtype="float32", **options)
    model = keras.Model(image, back(there(image)))
    y = model(x)
    half = policy.removeprefix("mixed_")
    assert there.compute_dtype == half
    assert (
        keras.backend.standardize_dtype(y.dtype)
        == "float32"
        == back.kernel.dtype
        == there.kernel.dtype
    )
    arrays = [np.asarray(keras.ops.convert_to_numpy(w)) for w in model.weights]
    tokens = reference.patchify(x, *arrays[:2], stride=(4, 3))
    assert relative_error(
        to_numpy(y), reference.unpatchify(tokens, *arrays[2:], stride=(4, 3))
    ) < 2 * unit(half)


@pytest.mark.trains
@over_implementations
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(implementation, policy):
    x = np.cumsum(normal((8, 8, 9, 2), "float32", 0), axis=1)
    image = keras.Input(x.shape[1:])
    options = {
        "data_dim": 2,
        "patch_size": (4, 3),
        "stride": (2, 3),
        "implementation": implementation,
    }
    tokens = Patchify(2, 12, dtype=policy, **options)(image)
    model = keras.Model(image, Unpatchify(12, 2, overlap="mean", dtype=policy, **options)(tokens))
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    history = model.fit(x, x, batch_size=8, epochs=10, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.8 * history[0]
