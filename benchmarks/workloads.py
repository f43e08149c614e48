"""What is measured: geometries of real models and convolutions, and the ways to compute them."""

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

import keras_unpatchify


class Workload(NamedTuple):
    """Tokens `(batch, *grid, token)`, and a signal of `signal` channels."""

    name: str
    batch: int
    grid: tuple
    token: int
    signal: int
    patch: tuple
    stride: tuple
    padding: str = "valid"
    resize: bool = False  # whether the kernel is that of a nearest resize and a convolution

    @property
    def tiling(self):
        return self.patch == self.stride

    @property
    def size(self):
        whole = tuple(n * s for n, s in zip(self.grid, self.stride))
        if self.padding == "same":
            return whole
        return tuple(n - s + k for n, s, k in zip(whole, self.stride, self.patch))

    def __str__(self):
        sizes = ["x".join(map(str, self.patch))]
        sizes += ["x".join(map(str, self.stride))] * (not self.tiling)
        grid = "x".join(map(str, self.grid))
        patch = " stride ".join(sizes)
        return f"{self.batch} x {grid} x {self.token}, {self.signal}, patch {patch}, {self.padding}"


# Patches of real models.
MODELS = (
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

# Convolutions of encoders, and transposed ones of decoders.
ENCODERS = (
    Workload("2D 4/2", 4, (28, 28), 128, 64, (4, 4), (2, 2)),
    Workload("2D 3/2", 4, (28, 28), 128, 64, (3, 3), (2, 2)),
    Workload("2D 3/1, narrow", 4, (28, 28), 64, 64, (3, 3), (1, 1)),
    Workload("2D 3/1, wide", 4, (14, 14), 256, 256, (3, 3), (1, 1)),
    Workload("2D 7/4 of 3 channels", 4, (56, 56), 64, 3, (7, 7), (4, 4)),
    Workload("2D 7/2 of 3 channels", 4, (56, 56), 64, 3, (7, 7), (2, 2)),
    Workload("2D 4/4 of 3 channels", 4, (56, 56), 96, 3, (4, 4), (4, 4)),
    Workload("2D 2/2", 4, (28, 28), 192, 96, (2, 2), (2, 2)),
    Workload("1D 10/5 of 1 channel", 8, (800,), 256, 1, (10,), (5,)),
    Workload("1D 3/2", 8, (800,), 256, 256, (3,), (2,)),
    Workload("1D 3/1", 8, (500,), 128, 128, (3,), (1,)),
    Workload("3D 3/2", 1, (16, 16, 16), 32, 16, (3, 3, 3), (2, 2, 2)),
    Workload("3D 3/1", 1, (16, 16, 16), 16, 16, (3, 3, 3), (1, 1, 1)),
    Workload("3D 2/2", 1, (16, 16, 16), 32, 16, (2, 2, 2), (2, 2, 2)),
)

# Steps of decoders that enlarge by a nearest resize by the stride, and convolve.
RESIZES = (
    Workload("resize 2, 3 x 3", 1, (32, 32), 128, 128, (4, 4), (2, 2), "same", resize=True),
    Workload("resize 2, 3 x 3, narrow", 1, (64, 64), 64, 32, (4, 4), (2, 2), "same", resize=True),
    Workload("resize 4, 5 x 5", 1, (16, 16), 128, 64, (8, 8), (4, 4), "same", resize=True),
)

# Models with "valid", which tiling patches do not tell from "same"; encoders with both.
WORKLOADS = (*MODELS, *(w._replace(padding=p) for w in ENCODERS for p in ("valid", "same")))
WORKLOADS += tuple(w._replace(padding="same") for w in MODELS if not w.tiling)
WORKLOADS += RESIZES

LAYERS = ("unpatchify", "patchify")
LOWERINGS = ("conv_transpose", "matmul", "subpixel")


class HandWritten(keras.layers.Layer):
    """What people write: Dense, reshape, transpose, reshape. Patches that tile only."""

    def __init__(self, workload):
        super().__init__()
        self.workload = workload
        self.dense = keras.layers.Dense(math.prod(workload.patch) * workload.signal)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        grid, signal, patch = self.workload.grid, self.workload.signal, self.workload.patch
        rank = len(grid)
        order = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
        y = ops.reshape(self.dense(x), (-1, *grid, *patch, signal))
        y = ops.transpose(y, (0, *order, 1 + 2 * rank))
        return ops.reshape(y, (-1, *self.workload.size, signal))


class Product(keras.layers.Layer):
    """The bare matrix product of the same size, without a bias and in the wrong order."""

    def __init__(self, workload):
        super().__init__()
        self.columns = math.prod(workload.patch) * workload.signal

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.columns))

    def call(self, x):
        return ops.matmul(ops.reshape(x, (-1, x.shape[-1])), self.kernel)


def input_shape(workload, layer):
    if layer == "unpatchify":
        return (workload.batch, *workload.grid, workload.token)
    return (workload.batch, *workload.size, workload.signal)


def contenders(workload, layer):
    """The names of all contenders of a workload on this backend."""
    torch = keras.backend.backend() == "torch" and keras.config.dtype_policy().name == "float32"
    whole = all(k % s == 0 for k, s in zip(workload.patch, workload.stride))
    names = ["auto", "conv_transpose", "matmul", "keras"]
    names += ["subpixel"] * (whole and not workload.tiling)
    names += ["resize"] * (workload.resize and layer == "unpatchify")
    if layer == "unpatchify" and workload.padding == "valid":
        names += ["hand-written"] * workload.tiling + ["product"] + ["torch"] * torch
    return names


def make(workload, layer, contender, package=keras_unpatchify):
    """A contender, with the weights that all contenders of a workload share."""
    _, _, grid, token, signal, patch, stride, padding, resize = workload
    rng, to_signal = np.random.default_rng(0), layer == "unpatchify"
    kernel = rng.uniform(-1, 1, (*patch, signal, token)).astype("float32") / math.sqrt(token)
    bias = rng.uniform(-1, 1, signal if to_signal else token).astype("float32")
    if resize:  # 2D
        size = [k - s + 1 for k, s in zip(patch, stride)]
        convolution = keras.layers.Conv2D(signal, size, padding=padding)
        convolution.build((None, None, None, token))
        taps = kernel[: size[0], : size[1]].swapaxes(-1, -2)
        convolution.kernel.assign(taps)
        if contender == "resize":
            convolution.bias.assign(bias)
            tokens = keras.Input(batch_shape=input_shape(workload, layer))
            return keras.Sequential([tokens, keras.layers.UpSampling2D(stride), convolution])
        kernel = package.Unpatchify.from_conv(convolution, stride).get_weights()[0]
    columns, weights = kernel.reshape(-1, token).T, (kernel, bias)
    if contender == "torch":
        return torch_formulation(kernel, bias, stride)
    if contender == "hand-written":
        made, weights = HandWritten(workload), (columns, np.tile(bias, math.prod(patch)))
    elif contender == "product":
        made, weights = Product(workload), (columns,)
    elif contender == "keras":
        kind = getattr(keras.layers, f"Conv{len(grid)}D{'Transpose' if to_signal else ''}")
        made = kind(signal if to_signal else token, patch, stride, padding)
    else:
        kind, channels = package.Patchify, (signal, token)
        if to_signal:
            kind, channels = package.Unpatchify, (token, signal)
        options = {"padding": padding, "implementation": contender}
        made = kind(*channels, len(grid), patch, stride, **options)
    made.build(input_shape(workload, layer))
    made.set_weights(weights)
    return made


def torch_formulation(kernel, bias, stride):
    """Permute to channels-first, contiguous, `torch.nn.ConvTransposeNd`, permute back."""
    import torch

    *patch, signal, token = kernel.shape
    kind = getattr(torch.nn, f"ConvTranspose{len(patch)}d")
    convolution = kind(token, signal, tuple(patch), stride)
    weight = np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1)))
    convolution.weight.data, convolution.bias.data = map(torch.from_numpy, (weight, bias))

    class Formulation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = convolution

        def forward(self, x):
            return self.convolution(x.movedim(-1, 1).contiguous()).movedim(1, -1)

    return Formulation().to("cuda" if torch.cuda.is_available() else "cpu")
