"""Exact algebra on trained kernels, `(*patch, signal, token)`: resampled, and folded resizes."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import ops

Interpolation = Literal["cubic", "linear"]
INTERPOLATIONS = get_args(Interpolation)


def resampled(kernel: Any, patch: Sequence[int], to_tokens: bool, interpolation: str) -> Any:
    """The kernel for patches of another size, axis by axis.

    For a signal, the new patches are the old ones resized. For tokens, a resized patch gives the
    token that the patch gave: exactly if it grows, by least squares if it shrinks (FlexiViT, Beyer
    et al., 2023).
    """
    dtype = keras.backend.standardize_dtype(kernel.dtype)
    wide = "float64" if dtype == "float64" else "float32"
    for axis, (old, new) in enumerate(zip(kernel.shape, patch)):
        if new != old:
            resize = _resize_matrix(old, new, interpolation)
            matrix = np.linalg.pinv(resize).T if to_tokens else resize
            matrix = ops.convert_to_tensor(matrix.astype(wide))
            kernel = ops.tensordot(matrix, ops.cast(kernel, wide), axes=([1], [axis]))
            kernel = ops.moveaxis(kernel, 0, axis)
    return ops.cast(kernel, dtype)


def _resize_matrix(old: int, new: int, interpolation: str) -> np.ndarray:
    """Resizes `old` positions to `new`: `(new, old)`, antialiased, as PyTorch's `interpolate`."""
    scale = old / new
    width = max(scale, 1)
    position = (np.arange(old) + 0.5 - scale * (np.arange(new)[:, None] + 0.5)) / width
    distance = np.abs(position)
    if interpolation == "linear":
        weight = np.maximum(1 - distance, 0)
    else:  # a = -0.5 (Keys, 1981)
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weight / weight.sum(axis=1, keepdims=True)


def folded(kernel: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The kernel of a nearest resize and a convolution in one: (*k, ...) to (*patch, ...), float32.

    A token fills `size` positions, and each adds the reversed taps of the convolution. (Float64
    stays float64.)
    """
    kernel = kernel.astype(np.promote_types(kernel.dtype, "float32"))
    for axis, n in enumerate(size):
        taps = np.flip(kernel, axis)
        shape = list(taps.shape)
        shape[axis] += n - 1
        total = np.zeros(shape, taps.dtype)
        for start in range(n):
            place = [slice(None)] * taps.ndim
            place[axis] = slice(start, start + taps.shape[axis])
            total[tuple(place)] += taps
        kernel = total
    return kernel
