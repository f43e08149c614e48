"""The ways to compute the product with every patch, each in both directions.

A lowering is two functions, which are adjoint to each other without a bias:

    tokens(x, kernel, axes)              (batch, *size, signal) -> (batch, *grid, token)
    signal(x, kernel, bias, axes, size)  (batch, *grid, token) -> (batch, *size, signal)

The kernel is `(*patch, signal, token)`; the bias is `None`, or what each patch adds,
`(*patch, signal)`. A size of `None` is the default size along its axis.

No lowering merges an axis of the grid or of the signal with another axis or with the batch. A
signal that is divided over devices along one of its axes therefore stays divided.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_unpatchify import geometry

# Overlapping patches of these are added in float32, and the sum is rounded to them at the end.
HALF_PRECISIONS = ("float16", "bfloat16")


class Lowering(NamedTuple):
    """One way to compute, in both directions."""

    tokens: Callable
    signal: Callable


class Group(NamedTuple):
    """Blocks of a patch: of one width, next to one another in a matrix."""

    starts: list[tuple[int, ...]]  # in a patch, one number per axis for each block
    width: list[int]  # per axis
    kernel: Any  # (blocks * prod(width) * signal, token)
    bias: Any  # (blocks * prod(width) * signal,), or None


def native_tokens(x, kernel, axes):
    """The backend's strided convolution, of whole patches."""
    size = sizes_of(x)[1:-1]
    grid = [axis.grid(n) for axis, n in zip(axes, size)]
    edges = [geometry.to_patches(axis, n) for axis, n in zip(axes, size)]
    x = _fit(x, edges, [axis.natural(n) for axis, n in zip(axes, grid)])
    strides = [axis.stride for axis in axes]
    y = ops.conv(x, kernel, strides, padding="valid", data_format="channels_last")
    # TensorFlow returns an empty batch unchanged.
    return ops.reshape(y, (batch_of(y, *grid), *grid, kernel.shape[-1]))


def native_signal(x, kernel, bias, axes, size):
    """The backend's transposed convolution, of the natural size, which is then made to fit."""
    strides = [axis.stride for axis in axes]
    y = ops.conv_transpose(
        x, kernel, strides, padding="valid", output_padding=0, data_format="channels_last"
    )
    y = _fit(y, [geometry.to_signal(axis, n) for axis, n in zip(axes, size)], size)
    if bias is None:
        return y
    ones = ops.ones((1, *sizes_of(x)[1:-1], 1), x.dtype)
    return y + cast(block_signal(ones, ops.expand_dims(bias, -1), None, axes, size), y.dtype)


def block_tokens(x, kernel, axes):
    """Sums, over the blocks of a patch, the product with the cells that lie under them."""
    size = sizes_of(x)[1:-1]
    grid = [axis.grid(n) for axis, n in zip(axes, size)]
    # All whole cells of the signal, for these divide over devices as it does.
    spare = [
        max(0, n // axis.stride - g) if geometry.is_static(n) else 0
        for axis, n, g in zip(axes, size, grid)
    ]
    length = [(g + more) * axis.stride for axis, g, more in zip(axes, grid, spare)]
    total = None
    for group in _groups(kernel, None, axes):
        columns = []
        for start in group.starts:
            edges = _block_edges(geometry.to_patches, axes, size, start, spare)
            columns.append(_space_to_depth(_fit(x, edges, length), axes, grid, spare, group.width))
        columns = columns[0] if len(columns) == 1 else ops.concatenate(columns, axis=-1)
        product = _product(columns, group.kernel)
        total = _add(total, product, several=len(group.starts) < _blocks(axes))
    return total


def block_signal(x, kernel, bias, axes, size):
    """Sums, over the blocks of a patch, their products, each moved to its place in the signal."""
    total = None
    for group in _groups(kernel, bias, axes):
        columns = _product(x, ops.transpose(group.kernel))
        if bias is not None:
            columns = columns + group.bias
        for start, block in zip(group.starts, _split(columns, len(group.starts), axis=-1)):
            edges = _block_edges(geometry.to_signal, axes, size, start, [0] * len(axes))
            piece = _fit(_depth_to_space(block, axes, group.width), edges, size)
            total = _add(total, piece, several=_blocks(axes) > 1)
    return total


# By the names of the argument `implementation`.
LOWERINGS = {
    "conv_transpose": Lowering(native_tokens, native_signal),
    "matmul": Lowering(block_tokens, block_signal),
}


def _product(x, matrix):
    """(batch, *grid, channels) times (channels, others) -> (batch, *grid, others)."""
    if _on_tensorflow():
        # Its gradient of a product with a batch has a matrix for each example and row.
        y = ops.reshape(x, (-1, x.shape[-1])) @ matrix
        return ops.reshape(y, (batch_of(x), *sizes_of(x)[1:-1], matrix.shape[-1]))
    # `ops.matmul` rounds float64 on torch and numpy; NumPy widens bfloat16.
    return cast(x @ matrix, x.dtype)


def _cut(x, edges):
    """Takes off the cuts of each edge, which are ints."""
    if not any(any(edge.cuts) for edge in edges):
        return x
    cuts = [edge.cuts for edge in edges]
    if _on_tensorflow():
        # Its gradient of a plain slice takes as long as the rest of a training step.
        size = [n - sum(cut) for n, cut in zip(sizes_of(x)[1:-1], cuts)]
        start = [front for front, _ in cuts]
        return ops.slice(x, (0, *start, 0), (sizes_of(x)[0], *size, x.shape[-1]))
    # The gradient of `ops.slice` on jax gathers a divided axis.
    return x[(slice(None), *(slice(front, -back or None) for front, back in cuts))]


def _on_tensorflow():
    """Whether two operations are written otherwise than for all other backends."""
    return keras.backend.backend() == "tensorflow"


def _blocks(axes):
    """The number of blocks of a patch."""
    return math.prod([axis.blocks for axis in axes])


def _groups(kernel, bias, axes):
    """The blocks of a patch, in groups; a group is computed at once."""
    axes_starts = [range(0, axis.patch, axis.width) for axis in axes]
    starts = list(itertools.product(*axes_starts))
    if any(axis.patch % axis.width for axis in axes):
        return [_block(kernel, bias, axes, start) for start in starts]
    signal, token = kernel.shape[-2:]
    width = [axis.width for axis in axes]
    # columns that exist at once have about as many channels as a token and one block
    at_once = 1 + token // (math.prod(width) * signal)
    number = -(-len(starts) // at_once)
    while len(starts) % number:
        number += 1
    each = len(starts) // number
    kernels = _split(ops.reshape(_by_blocks(kernel, axes), (-1, token)), number, axis=0)
    biases = [None] * number
    if bias is not None:
        biases = _split(_flat(_by_blocks(bias, axes)), number, axis=0)
    return [
        Group(starts[i * each : (i + 1) * each], width, kernels[i], biases[i])
        for i in range(number)
    ]


def _block(kernel, bias, axes, start):
    """The block that starts there, which may be shorter than the others, as a group."""
    width = [min(axis.width, axis.patch - n) for axis, n in zip(axes, start)]
    place = tuple(slice(n, n + m) for n, m in zip(start, width))
    kernel = ops.reshape(kernel[place], (-1, kernel.shape[-1]))
    return Group([start], width, kernel, None if bias is None else ops.reshape(bias[place], (-1,)))


def _by_blocks(array, axes):
    """(*patch, ...) -> (*blocks, *width, ...)."""
    if _blocks(axes) == 1:
        return array
    d, channels = len(axes), array.shape[len(axes) :]
    split = [n for axis in axes for n in (axis.blocks, axis.width)]
    order = (*range(0, 2 * d, 2), *range(1, 2 * d, 2), *range(2 * d, 2 * d + len(channels)))
    return ops.transpose(ops.reshape(array, (*split, *channels)), order)


def _depth_to_space(cells, axes, width):
    """(batch, *grid, prod(width) * signal) -> (batch, *grid * stride, signal)."""
    d, batch, grid = len(axes), batch_of(cells), sizes_of(cells)[1:-1]
    *outer, last = width
    signal = cells.shape[-1] // (math.prod(outer) * last)
    y = ops.reshape(cells, (batch, *grid, *outer, last * signal))
    # (batch, *grid, *stride), the channels within the last
    gaps = [(0, axis.stride - n) for axis, n in zip(axes, width)]
    if any(map(any, gaps)):
        gaps[-1] = (0, gaps[-1][1] * signal)
        y = ops.pad(y, [(0, 0)] * (1 + d) + gaps)
    order = (0, *(k for i in range(1, 1 + d) for k in (i, d + i)))
    size = [n * axis.stride for axis, n in zip(axes, grid)]
    return ops.reshape(ops.transpose(y, order), (batch, *size, signal))


def _space_to_depth(x, axes, grid, spare, width):
    """(batch, *(grid + spare) * stride, signal) -> (batch, *grid, prod(width) * signal)."""
    d, batch, signal = len(axes), batch_of(x), x.shape[-1]
    strides = [axis.stride for axis in axes]
    strides[-1] *= signal
    split = [n for g, more, s in zip(grid, spare, strides) for n in (g + more, s)]
    order = (0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2))
    y = ops.transpose(ops.reshape(x, (batch, *split)), order)
    # (batch, *grid, *stride), the channels within the last
    *outer, last = width
    if any(spare) or strides != [*outer, last * signal]:
        y = y[(slice(None), *map(slice, (*grid, *outer, last * signal)))]
    return ops.reshape(y, (batch, *grid, math.prod(width) * signal))


def _block_edges(direction, axes, size, start, spare):
    """The edges of a block's cells: one for each token, and for each axis so many spare ones."""
    return [
        direction(axis, n, first, axis.patch - first - (1 + more) * axis.stride)
        for axis, n, first, more in zip(axes, size, start, spare)
    ]


def _fit(x, edges, size):
    """Adds the zeros of each edge and takes off its cuts; `size` is the result's."""
    if not all(geometry.is_static(cut) for edge in edges for cut in edge.cuts):
        x = _pad(x, edges)
        front = [edge.cuts[0] for edge in edges]
        return ops.slice(x, (0, *front, 0), (sizes_of(x)[0], *size, x.shape[-1]))
    # Positions that are cut before zeros are added are neither stored nor moved between devices.
    long = [geometry.is_static(n) and sum(e.cuts) <= n for n, e in zip(x.shape[1:-1], edges)]
    return _pad(_cut(x, edges), edges) if all(long) else _cut(_pad(x, edges), edges)


def _pad(x, edges):
    if not any(any(edge.zeros) for edge in edges):
        return x
    return ops.pad(x, [(0, 0), *(edge.zeros for edge in edges), (0, 0)])


def _add(total, y, several):
    """The sum so far and one of several terms, in float32 if they are in half precision."""
    y = cast(y, "float32") if several and is_half(y.dtype) else y
    return y if total is None else total + y


def _flat(x):
    return x if len(x.shape) == 1 else ops.reshape(x, (-1,))


def _split(x, parts, axis):
    return [x] if parts == 1 else ops.split(x, parts, axis=axis)


def sizes_of(x):
    """The shape of a tensor; sizes that are known only at run time are scalars of the backend."""
    shape = tuple(x.shape)
    return ops.shape(x) if None in shape else shape


def batch_of(x: Any, *more: geometry.Size) -> geometry.Size:
    """The size of the batch for a reshape: -1 where no other size, of `x` or `more`, is unknown.

    A batch of 1 counts as unknown, because exporters trace with it and mean any batch. Where
    another size is unknown, none is inferred: PyTorch's symbolic shapes would make it a quotient.
    """
    batch, *others = sizes_of(x)
    only = all(map(geometry.is_static, (*others, *more)))
    return -1 if only and (not geometry.is_static(batch) or batch == 1) else batch


def is_half(dtype: Any) -> bool:
    """Whether numbers are in half precision."""
    return keras.backend.standardize_dtype(dtype) in HALF_PRECISIONS


def cast(x: Any, dtype: Any) -> Any:
    """The tensor in the dtype."""
    return x if x.dtype == dtype else ops.cast(x, dtype)
