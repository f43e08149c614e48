"""What is measured: the geometry of real models, and the ways to compute it."""

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_unpatchify import Patchify, Unpatchify


class Workload(NamedTuple):
    """Tokens `(batch, *grid, token)` to a signal of `signal` channels."""

    name: str
    batch: int
    grid: tuple
    token: int
    signal: int
    patch: tuple
    stride: tuple

    @property
    def tiling(self):
        return self.patch == self.stride

    @property
    def size(self):
        return tuple((n - 1) * s + p for n, s, p in zip(self.grid, self.stride, self.patch))

    def __str__(self):
        sizes = ["x".join(map(str, self.patch))] + ["x".join(map(str, self.stride))] * (
            not self.tiling
        )
        grid = "x".join(map(str, self.grid))
        return (
            f"{self.batch} x {grid} x {self.token} -> {self.signal}, patch {' stride '.join(sizes)}"
        )


WORKLOADS = (
    Workload("MAE decoder", 8, (14, 14), 512, 3, (16, 16), (16, 16)),
    Workload("DiT-XL/2", 8, (16, 16), 1152, 8, (2, 2), (2, 2)),
    Workload("UNet upsampling", 4, (28, 28), 256, 128, (2, 2), (2, 2)),
    Workload("video transformer", 1, (8, 14, 14), 768, 3, (2, 16, 16), (2, 16, 16)),
    Workload("medical volume", 2, (8, 8, 8), 256, 1, (8, 8, 8), (8, 8, 8)),
    Workload("long series", 8, (1024,), 256, 4, (16,), (16,)),
    Workload("weather, overlapping", 1, (45, 90), 512, 69, (4, 4), (2, 2)),
    Workload("ViT, overlapping", 8, (14, 14), 512, 3, (16, 16), (8, 8)),
    Workload("GAN, overlapping", 4, (28, 28), 128, 64, (4, 4), (2, 2)),
    Workload("audio, overlapping", 4, (2000,), 512, 1, (16,), (8,)),
    Workload("volume, overlapping", 1, (8, 8, 8), 256, 4, (8, 8, 8), (4, 4, 4)),
    Workload("series, uneven", 8, (500,), 256, 4, (10,), (4,)),
    Workload("image, uneven", 4, (20, 20), 384, 3, (12, 12), (5, 5)),
    Workload("small volume", 1, (16, 16, 16), 96, 2, (4, 4, 4), (2, 2, 2)),
    Workload("deep overlap", 1, (64, 64), 256, 1, (16, 16), (2, 2)),
)


class HandWritten(keras.layers.Layer):
    """What people write: Dense, reshape, transpose, reshape. Patches that tile only."""

    def __init__(self, workload):
        super().__init__()
        self.workload = workload
        self.dense = keras.layers.Dense(math.prod(workload.patch) * workload.signal)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        _, _, grid, _, signal, patch, _ = self.workload
        rank = len(grid)
        order = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
        y = ops.reshape(self.dense(x), (-1, *grid, *patch, signal))
        y = ops.transpose(y, (0, *order, 1 + 2 * rank))
        return ops.reshape(y, (-1, *(n * p for n, p in zip(grid, patch)), signal))


class Product(keras.layers.Layer):
    """The bare matrix product of the same size, without a bias and in the wrong order."""

    def __init__(self, workload):
        super().__init__()
        self.columns = math.prod(workload.patch) * workload.signal

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.columns))

    def call(self, x):
        return ops.matmul(ops.reshape(x, (-1, x.shape[-1])), self.kernel)


def contenders(workload):
    """The names of all contenders of a workload on this backend."""
    torch = keras.backend.backend() == "torch" and keras.config.dtype_policy().name == "float32"
    return (
        *("auto", "conv_transpose", "matmul"),
        *["subpixel"] * (not workload.tiling),
        "keras",
        *["hand-written"] * workload.tiling,
        "product",
        *["torch"] * torch,
    )


def make(workload, contender):
    """A contender, with the weights that all contenders of a workload share."""
    _, batch, grid, token, signal, patch, stride = workload
    rng = np.random.default_rng(0)
    kernel = rng.uniform(-1, 1, (*patch, signal, token)).astype("float32") / math.sqrt(token)
    bias = rng.uniform(-1, 1, signal).astype("float32")
    columns = kernel.reshape(-1, token).T
    if contender == "torch":
        return torch_formulation(grid, kernel, bias, stride)
    if contender == "hand-written":
        layer, weights = HandWritten(workload), (columns, np.tile(bias, math.prod(patch)))
    elif contender == "product":
        layer, weights = Product(workload), (columns,)
    elif contender == "keras":
        layer = getattr(keras.layers, f"Conv{len(grid)}DTranspose")(signal, patch, stride)
        weights = kernel, bias
    else:
        layer = Unpatchify(token, signal, len(grid), patch, stride, implementation=contender)
        weights = kernel, bias
    layer.build((batch, *grid, token))
    layer.set_weights(weights)
    return layer


def make_patchify(workload, contender):
    """A layer that makes the tokens of a workload from its signal."""
    _, batch, grid, token, signal, patch, stride = workload
    if contender == "keras":
        layer = getattr(keras.layers, f"Conv{len(grid)}D")(token, patch, stride)
    else:
        layer = Patchify(signal, token, len(grid), patch, stride, implementation=contender)
    layer.build((batch, *workload.size, signal))
    return layer


def torch_formulation(grid, kernel, bias, stride):
    """Permute to channels-first, contiguous, `torch.nn.ConvTransposeNd`, permute back."""
    import torch

    rank = len(grid)
    *patch, signal, token = kernel.shape
    convolution = getattr(torch.nn, f"ConvTranspose{rank}d")(token, signal, tuple(patch), stride)
    convolution.weight.data = torch.from_numpy(
        np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1)))
    )
    convolution.bias.data = torch.from_numpy(bias)

    class Formulation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = convolution

        def forward(self, x):
            return self.convolution(x.movedim(-1, 1).contiguous()).movedim(1, -1)

    return Formulation().to("cuda" if torch.cuda.is_available() else "cpu")
