"""Layers, checkpoints and comparisons for the tests of weights of PyTorch modules."""

from typing import NamedTuple

import numpy as np
import pytest
from backend import to_numpy
from cases import normal

from keras_unpatchify import Patchify, Unpatchify, load_torch_weights

# Both sides sum at most 300 products of normal numbers in float32, in orders of their own.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


class Case(NamedTuple):
    """A patching of a grid; no two sizes of a case are the same, which shows a wrong order."""

    patch: tuple
    stride: tuple
    grid: tuple
    token: int
    signal: int
    bias: bool = True

    @property
    def data_dim(self):
        return len(self.patch)

    @property
    def size(self):
        return tuple((n - 1) * s + k for n, s, k in zip(self.grid, self.stride, self.patch))

    def unpatchify(self, in_features=None, **options):
        return self._layer(Unpatchify, in_features, self.signal, **options)

    def patchify(self, in_features=None, **options):
        return self._layer(Patchify, in_features, self.token, **options)

    def _layer(self, cls, in_features, out_features, **options):
        # zeros, because JAX takes half a second for the first random draw of each shape
        sizes = (in_features, out_features, self.data_dim, self.patch, self.stride)
        return cls(*sizes, weight_init="zeros", **options)


def draw(data_dim, tiling, seed):
    """A case; those of even seeds have a bias."""
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
over_layers = pytest.mark.parametrize("method", ["unpatchify", "patchify"])

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
