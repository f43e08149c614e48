"""Cases, checkpoints and comparisons for the tests of weights of PyTorch modules."""

import numpy as np
import pytest
from backend import to_numpy
from cases import Case, normal

from keras_unpatchify import load_torch_weights

# Both sides sum at most 300 products of normal numbers in float32, in orders of their own.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


def draw(data_dim, tiling, seed):
    """A case, no two sizes of which are the same; those of even seeds have a bias."""
    rng = np.random.default_rng(seed)
    patch = tuple(map(int, rng.permutation([2, 3, 4])[:data_dim]))
    stride = patch
    if not tiling:
        stride = tuple(int(k + d) for k, d in zip(patch, rng.choice([-1, 1], data_dim)))
    grid = tuple(map(int, rng.permutation([5, 6, 7])[:data_dim] - data_dim))
    token, signal = int(rng.integers(8, 12)), int(rng.integers(1, 6))
    return Case(patch, stride, grid, token, signal, bias=seed % 2 == 0)


TILING = {f"{d}d-tiling-{i}": draw(d, True, 10 * d + i) for d in (1, 2, 3) for i in range(2)}
STRIDED = {f"{d}d-strided-{i}": draw(d, False, 10 * d + i) for d in (1, 2, 3) for i in range(2)}
CASES = TILING | STRIDED

over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
over_methods = pytest.mark.parametrize("method", ["unpatchify", "patchify"])

SMALL = Case((4, 2), (4, 2), (3, 5), token=8, signal=3)


def channels_last(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def channels_first(torch, array):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def built(layer, channels=8):
    layer.build((*(None,) * (layer.data_dim + 1), channels))
    return layer


def state_of(layer):
    return [(w.path, to_numpy(w).tobytes()) for w in layer.weights], layer.built


def refusal(layer, source, error=ValueError, **options):
    """The text of the error, after a look at the layer: it is as it was."""
    before = state_of(layer)
    with pytest.raises(error) as info:
        load_torch_weights(layer, source, **options)
    assert state_of(layer) == before
    return str(info.value)


def checkpoint(case=SMALL, dtype="float32", prefix=""):
    """The arrays of a transposed convolution."""
    weight = normal((case.token, case.signal, *case.patch), 5).astype(dtype)
    return {f"{prefix}weight": weight, f"{prefix}bias": normal((case.signal,), 6).astype(dtype)}


def bits(arrays):
    return {
        name: (array.dtype.name, array.shape, np.ascontiguousarray(array).tobytes())
        for name, array in arrays.items()
    }
