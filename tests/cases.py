"""The geometries and layers that the tables of tests run over, and arrays for them."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
import reference

from keras_unpatchify import Patchify, Unpatchify

IMPLEMENTATIONS = ("conv_transpose", "matmul", "subpixel")
PADDINGS = ("valid", "same", "pairs")

# The sums behind a value are at most a few hundred products of standard normal numbers, in float32.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, dtype="float32")


@keras.saving.register_keras_serializable("tests")
class Drawn(keras.initializers.Initializer):
    """Normal numbers of NumPy: jax takes half a second for the first draw of each shape."""

    def __call__(self, shape, dtype=None):
        return keras.ops.convert_to_tensor(normal(shape, 2), dtype)


class Case(NamedTuple):
    """A patching of a grid of `token` channels and a signal of `signal` channels."""

    patch: tuple
    stride: tuple
    grid: tuple
    token: int = 3
    signal: int = 2
    batch: int = 2
    bias: bool = True

    @property
    def data_dim(self):
        return len(self.patch)

    @property
    def arguments(self):
        return {"data_dim": self.data_dim, "patch_size": self.patch, "stride": self.stride}

    @property
    def size(self):
        """The default size without padding."""
        return self.default_size("valid")

    def unpatchify(self, in_features=None, **options):
        return self._layer(Unpatchify, in_features, self.signal, options)

    def patchify(self, in_features=None, **options):
        return self._layer(Patchify, in_features, self.token, options)

    def _layer(self, layer_class, in_features, out_features, options):
        options = {"weight_init": Drawn(), **self.arguments, **options}
        return layer_class(in_features, out_features, **options)

    def padding(self, kind):
        """The argument: a word, or uneven pairs that leave something of every patch."""
        return tuple((k // 2, (k - 1) // 3) for k in self.patch) if kind == "pairs" else kind

    def axes(self, padding):
        return zip(self.grid, self.patch, self.stride, reference.along_axes(padding, self.data_dim))

    def sizes(self, padding):
        """The smallest and the largest signal of the grid, and the default, without repetition."""
        axes = [reference.sizes_of(*axis) for axis in self.axes(padding)]
        ends = tuple(a[0] for a in axes), tuple(a[-1] for a in axes)
        return sorted({*ends, self.default_size(padding)})

    def default_size(self, padding):
        return tuple(reference.default_size(*axis) for axis in self.axes(padding))

    def tokens(self, seed=0):
        return normal((self.batch, *self.grid, self.token), seed)

    def signals(self, size, seed=1):
        return normal((self.batch, *size, self.signal), seed)

    def kernel(self, seed=2):
        return normal((*self.patch, self.signal, self.token), seed)


CASES = {
    "1d-tiling": Case((4,), (4,), (5,)),
    "1d-overlap": Case((5,), (2,), (6,)),
    "1d-overlap-deep": Case((7,), (2,), (3,)),
    "1d-gap": Case((3,), (5,), (4,)),
    "1d-one-token": Case((6,), (2,), (1,)),
    "1d-patch-one": Case((1,), (1,), (4,)),
    "1d-patch-one-gap": Case((1,), (3,), (4,)),
    "2d-tiling": Case((3, 2), (3, 2), (2, 4)),
    "2d-overlap": Case((4, 4), (2, 2), (3, 5)),
    "2d-mixed": Case((5, 2), (2, 3), (4, 3)),
    "2d-one-token": Case((3, 4), (2, 4), (1, 1)),
    "2d-batch-one": Case((4, 3), (3, 2), (2, 3), batch=1),
    "2d-batch-zero": Case((2, 3), (2, 2), (3, 2), batch=0),
    "2d-many-channels": Case((2, 2), (2, 2), (3, 3), token=40, signal=16),
    "2d-wide-token": Case((2, 2), (1, 2), (3, 2), token=32, signal=1),
    "2d-wide-blocks": Case((4, 2), (2, 2), (2, 2), signal=64),
    # jax computes these in rounds: of two channels, the last with one; and of one channel each
    "1d-rounds": Case((8,), (1,), (5,), token=1, signal=5),
    "2d-rounds": Case((5, 4), (2, 1), (2, 3), token=2, signal=3),
    "3d-tiling": Case((2, 3, 2), (2, 3, 2), (2, 2, 3)),
    "3d-overlap": Case((4, 2, 5), (2, 1, 2), (2, 3, 2), token=2),
    "3d-mixed": Case((1, 3, 2), (3, 2, 2), (2, 2, 3)),
}
FILLED = tuple(name for name, case in CASES.items() if case.batch)
COMPACT = ("1d-overlap", "2d-tiling", "2d-mixed", "3d-mixed")


def marks(case):
    return () if case.batch else pytest.mark.empty_batch


def over_cases(names=tuple(CASES)):
    cases = [pytest.param(CASES[name], id=name, marks=marks(CASES[name])) for name in names]
    return pytest.mark.parametrize("case", cases)


over_layers = pytest.mark.parametrize("layer_class", [Unpatchify, Patchify])
over_paddings = pytest.mark.parametrize("padding", PADDINGS)
over_implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
