"""Patches in blocks, and signals in cells: how a kernel, tokens and a signal are rearranged.

`axes` are `Extent`s, which say what a block and a cell are. Block `n` of all patches fills the
beginning of each cell, `n * width` positions after the first patch begins.
"""

import itertools
import math
from typing import NamedTuple

from keras import ops

from keras_unpatchify import _tensors


class Block(NamedTuple):
    """A part of a patch; one number per axis, in positions."""

    start: tuple[int, ...]
    width: tuple[int, ...]


def of_patch(axes, order):
    """The blocks of a patch, sorted by their starts along the axes in order."""
    starts = itertools.product(*(range(0, axis.patch, axis.width) for axis in axes))
    blocks = [
        Block(start, tuple(min(axis.width, axis.patch - n) for axis, n in zip(axes, start)))
        for start in starts
    ]
    return sorted(blocks, key=lambda block: [block.start[i] for i in order])


def matrix(array, axes, order):
    """(*patch, signal, ...) -> (prod(patch) * signal, ...), one block after another."""
    more = array.shape[len(axes) + 1 :]
    if all(axis.patch % axis.width == 0 for axis in axes):
        return _tensors.reshape(_block_by_block(array, axes, order), (-1, *more))
    rows = []
    for start, width in of_patch(axes, order):
        place = tuple(slice(n, n + m) for n, m in zip(start, width))
        rows.append(_tensors.reshape(array[place], (-1, *more)))
    return ops.concatenate(rows)


def taps(kernel, axes):
    """(*patch, signal, token) -> (*blocks, prod(width) * signal, token), of blocks equally wide."""
    signal, token = map(int, kernel.shape[-2:])  # torch.jit traces with tensors
    kernel = _block_by_block(kernel, axes, range(len(axes)))
    cell = math.prod([axis.width for axis in axes]) * signal
    return _tensors.reshape(kernel, (*(axis.blocks for axis in axes), cell, token))


def _block_by_block(array, axes, order):
    """(*patch, ...) -> (*blocks in order, *width, ...), or as it is where there is one block."""
    if all(axis.blocks == 1 for axis in axes):
        return array
    d, more = len(axes), tuple(map(int, array.shape[len(axes) :]))
    split = [n for axis in axes for n in (axis.blocks, axis.width)]
    moved = (*(2 * i for i in order), *range(1, 2 * d, 2), *range(2 * d, 2 * d + len(more)))
    return ops.transpose(_tensors.reshape(array, (*split, *more)), moved)


def of_columns(columns, axes, order):
    """(batch, *grid, prod(patch) * signal) -> each block, with its (..., prod(width) * signal)."""
    blocks = of_patch(axes, order)
    signal = columns.shape[-1] // math.prod([axis.patch for axis in axes])
    return zip(blocks, _tensors.split(columns, [math.prod(b.width) * signal for b in blocks]))


def depth_to_space(cells, axes, width):
    """(batch, *grid, prod(width) * signal) -> (batch, *grid * stride, signal)."""
    d, batch, grid = len(axes), _tensors.batch_of(cells), _tensors.shape_of(cells)[1:-1]
    *outer, last = width
    signal = cells.shape[-1] // (math.prod(outer) * last)
    # (batch, *grid, *width), the channels within the last
    y = _tensors.reshape(cells, (batch, *grid, *outer, last * signal))
    gaps = [axis.stride - n for axis, n in zip(axes, width)]
    gaps[-1] *= signal
    # (batch, *grid, *stride)
    y = _tensors.pad(y, [(0, 0)] * (1 + d) + [(0, n) for n in gaps])
    order = (0, *(k for i in range(1, 1 + d) for k in (i, d + i)))
    size = [n * axis.stride for axis, n in zip(axes, grid)]
    return _tensors.reshape(ops.transpose(y, order), (batch, *size, signal))


def space_to_depth(x, axes, grid, spare, width):
    """(batch, *(grid + spare) * stride, signal) -> (batch, *grid, prod(width) * signal)."""
    d, batch, signal = len(axes), _tensors.batch_of(x), x.shape[-1]
    strides = [axis.stride for axis in axes]
    strides[-1] *= signal
    # (batch, *(grid + spare, stride)), the channels within the last
    split = [n for g, more, s in zip(grid, spare, strides) for n in (g + more, s)]
    order = (0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2))
    # (batch, *grid + spare, *stride)
    y = ops.transpose(_tensors.reshape(x, (batch, *split)), order)
    *outer, last = width
    if any(spare) or strides != [*outer, last * signal]:
        y = y[(slice(None), *map(slice, (*grid, *outer, last * signal)))]
    return _tensors.reshape(y, (batch, *grid, math.prod(width) * signal))
