"""What the lowerings owe beside values: sums that keep small terms, sizes that are not guessed,
the choice of one."""

import keras
import numpy as np
import pytest

from keras_unpatchify import geometry, lowerings, ops
from keras_unpatchify.ops import patchify, unpatchify

# A sum of one large number and small ones, each of which is less than half a unit of the large one.
LARGE = {"float16": 2048, "bfloat16": 256}


@pytest.mark.parametrize("dtype", LARGE)
def test_overlaps_add_up_in_single_precision(dtype):
    """One block of a patch after another: added in half precision, every small number would be
    lost."""
    kernel = np.ones((16, 1, 1), "float32")
    kernel[0] = LARGE[dtype]
    x = np.ones((1, 31, 1), "float32")
    options = {"stride": 1, "implementation": "matmul"}
    arrays = [keras.ops.cast(a, dtype) for a in (x, kernel)]
    sums = {
        "tokens": patchify(*arrays, **options),
        "signal": unpatchify(*arrays, **options)[:, 15:31],
    }
    for name, y in sums.items():
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
        np.testing.assert_allclose(y, LARGE[dtype] + 15, atol=1, err_msg=name)


@pytest.mark.parametrize(
    ("shape", "more", "batch"),
    [
        ((5, 3, 4), (), 5),
        ((5, None, 4), (), 5),
        ((None, 3, 4), (), -1),
        ((None, 3, 4), (2, 6), -1),
        ((None, 3, 4), (2, None), None),
        ((None, None, 4), (), None),
        ((1, 3, 4), (), -1),
        ((1, None, 4), (), 1),
        ((1, 3, 4), (None,), 1),
        ((0, 3, 4), (), 0),
    ],
)
def test_a_batch_is_inferred_where_it_alone_is_unknown(shape, more, batch):
    assert lowerings.batch_of(keras.KerasTensor(shape), *more) == batch


def chosen(monkeypatch, backend, stride, token, signal, name="auto", operation="unpatchify"):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    axes = geometry.make_axes((4, 4), stride, "valid", 2)
    lowering = ops._lowering(name, operation, axes, signal, token)
    return next(name for name, known in lowerings.LOWERINGS.items() if known is lowering)


@pytest.mark.parametrize(
    ("backend", "stride", "token", "signal", "name"),
    [
        ("torch", 2, 127, 1, "conv_transpose"),
        ("torch", 2, 128, 1, "matmul"),
        ("torch", 2, 255, 32, "conv_transpose"),
        ("torch", 2, 256, 32, "matmul"),
        ("torch", 2, 2, 1, "conv_transpose"),
        ("torch", 2, 1, 1, "matmul"),
        ("torch", (4, 2), 8, 1, "conv_transpose"),
        ("torch", 4, 8, 1, "matmul"),
        ("torch", 5, 8, 1, "matmul"),
        ("tensorflow", 2, 23, 3, "conv_transpose"),
        ("tensorflow", 2, 24, 3, "matmul"),
        ("jax", 2, 2, 8, "matmul"),
        ("numpy", 2, 2, 8, "matmul"),
    ],
)
def test_the_rule_of_auto(monkeypatch, backend, stride, token, signal, name):
    assert chosen(monkeypatch, backend, stride, token, signal) == name


@pytest.mark.parametrize(
    ("backend", "stride", "token", "name"),
    [
        ("torch", 2, 2000, "conv_transpose"),
        ("torch", 4, 2000, "matmul"),
        ("torch", 2, 1, "matmul"),
        ("tensorflow", 2, 2000, "conv_transpose"),
        ("tensorflow", 4, 2000, "matmul"),
        ("jax", 2, 2, "matmul"),
    ],
)
def test_the_rule_of_auto_for_patchify(monkeypatch, backend, stride, token, name):
    assert chosen(monkeypatch, backend, stride, token, 1, operation="patchify") == name


@pytest.mark.parametrize("name", lowerings.LOWERINGS)
def test_a_lowering_that_is_named_is_taken(monkeypatch, name):
    assert chosen(monkeypatch, "torch", 2, 8, 1, name) == name
