"""The oracle: both layers and their gradients as loops over tokens, in NumPy float64, apart from
the package."""

import itertools

import numpy as np


def tokens_along(size, patch, stride, padding):
    """Counts the patches that fit, or with "same" the positions at which one starts."""
    if padding == "same":
        return len(range(0, size, stride))
    before, after = (0, 0) if padding == "valid" else padding
    starts = range(-before, size + after, stride)
    return sum(1 for start in starts if start + patch <= size + after)


def sizes_of(grid, patch, stride, padding):
    """Every size along one axis that has this many tokens, found by trying them."""
    return [
        n
        for n in range(1, (grid + 1) * stride + patch)
        if tokens_along(n, patch, stride, padding) == grid
    ]


def default_size(grid, patch, stride, padding):
    """The size along one axis where none is asked for."""
    if padding == "same":
        return grid * stride
    return (grid - 1) * stride + patch - (0 if padding == "valid" else sum(padding))


def along_axes(padding, axes):
    """The padding of each axis: of all the same word, or of each its pair."""
    return [padding] * axes if isinstance(padding, str) else list(padding)


def _windows(grid, size, kernel, stride, padding):
    """For each token its index, where its patch lies in the signal, and which part of the kernel
    lies inside."""
    patch = kernel.shape[:-2]
    befores = []
    for n, k, s, g, pad in zip(size, patch, stride, grid, along_axes(padding, len(patch))):
        overhang = max((g - 1) * s + k - n, 0) if pad == "same" else 0
        befores.append(overhang // 2 if isinstance(pad, str) else pad[0])
    for index in itertools.product(*map(range, grid)):
        starts = [i * s - b for i, s, b in zip(index, stride, befores)]
        inside = [(max(a, 0), min(a + k, n)) for a, k, n in zip(starts, patch, size)]
        if all(low < high for low, high in inside):
            signal = tuple(slice(low, high) for low, high in inside)
            part = tuple(slice(low - a, high - a) for (low, high), a in zip(inside, starts))
            yield index, signal, part


def _product(signal, part):
    """(batch, *patch, signal), (*patch, signal, token) -> (batch, token)."""
    return np.tensordot(signal, part, axes=(range(1, signal.ndim), range(part.ndim - 1)))


def patchify(x, kernel, bias=None, *, stride, padding="valid"):
    """(batch, *size, signal) -> (batch, *grid, token)."""
    x, kernel = np.asarray(x, "float64"), np.asarray(kernel, "float64")
    size = x.shape[1:-1]
    pads = along_axes(padding, len(size))
    grid = [tokens_along(*axis) for axis in zip(size, kernel.shape, stride, pads)]
    y = np.zeros((x.shape[0], *grid, kernel.shape[-1]))
    for index, signal, part in _windows(grid, size, kernel, stride, padding):
        y[(slice(None), *index)] = _product(x[(slice(None), *signal)], kernel[part])
    return y if bias is None else y + np.asarray(bias, "float64")


def unpatchify(x, kernel, bias=None, *, stride, padding="valid", size=None, overlap="sum"):
    """(batch, *grid, token) -> (batch, *size, signal)."""
    x, kernel = np.asarray(x, "float64"), np.asarray(kernel, "float64")
    grid = x.shape[1:-1]
    pads = along_axes(padding, len(grid))
    size = size or [default_size(*axis) for axis in zip(grid, kernel.shape, stride, pads)]
    patch_bias = np.zeros(kernel.shape[:-1])
    if bias is not None and np.ndim(bias) > 1:
        patch_bias, bias = np.asarray(bias, "float64"), None
    y = np.zeros((x.shape[0], *size, kernel.shape[-2]))
    for index, signal, part in _windows(grid, size, kernel, stride, padding):
        token = x[(slice(None), *index)]
        y[(slice(None), *signal)] += np.einsum("bt,...ct->b...c", token, kernel[part])
        y[(slice(None), *signal)] += patch_bias[part]
    if overlap == "mean":
        y = y / np.maximum(covers(grid, size, kernel.shape[:-2], stride, padding), 1)
    return y if bias is None else y + np.asarray(bias, "float64")


def unpatchify_gradients(x, kernel, weights, *, stride, padding="valid", overlap="sum"):
    """Gradients of `sum(weights * unpatchify(x, kernel, bias))`.

    For x, the kernel, a bias per channel, and a bias of each patch.
    """
    x, kernel, weights = (np.asarray(a, "float64") for a in (x, kernel, weights))
    dx, dkernel, dpatch = np.zeros(x.shape), np.zeros(kernel.shape), np.zeros(kernel.shape[:-1])
    grid, size = x.shape[1:-1], weights.shape[1:-1]
    shares = weights
    if overlap == "mean":
        shares = weights / np.maximum(covers(grid, size, kernel.shape[:-2], stride, padding), 1)
    for index, signal, part in _windows(grid, size, kernel, stride, padding):
        here = shares[(slice(None), *signal)]
        dx[(slice(None), *index)] = _product(here, kernel[part])
        dkernel[part] += np.einsum("b...c,bt->...ct", here, x[(slice(None), *index)])
        dpatch[part] += here.sum(axis=0)
    return dx, dkernel, weights.sum(axis=tuple(range(weights.ndim - 1))), dpatch


def covers(grid, size, patch, stride, padding="valid"):
    """How many patches cover each position, (*size, 1)."""
    count = np.zeros((*size, 1))
    for _, signal, _ in _windows(grid, size, np.zeros((*patch, 1, 1)), stride, padding):
        count[signal] += 1
    return count


def patchify_gradients(x, kernel, weights, *, stride, padding="valid"):
    """Gradients of `sum(weights * patchify(x, kernel, bias))` for x, kernel and bias."""
    x, kernel, weights = (np.asarray(a, "float64") for a in (x, kernel, weights))
    dx, dkernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for index, signal, part in _windows(
        weights.shape[1:-1], x.shape[1:-1], kernel, stride, padding
    ):
        here = weights[(slice(None), *index)]
        dx[(slice(None), *signal)] += np.einsum("bt,...ct->b...c", here, kernel[part])
        dkernel[part] += np.einsum("b...c,bt->...ct", x[(slice(None), *signal)], here)
    return dx, dkernel, weights.sum(axis=tuple(range(weights.ndim - 1)))
