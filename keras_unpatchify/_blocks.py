"""Patches and the signal that they make: every patch of a signal, and the sum of all patches.

The two are each other's adjoint. Each computes block by block: block `n` of all patches fills the
beginning of each cell, from `n * width` positions after the first patch begins on. `axes` are
`Extent`s, which say what a block and a cell are.

Neither merges two axes of the grid, two of the signal, or one of these with the batch or the
channels. So a signal that is divided over devices along any axis stays divided.
"""

import numpy as np
from keras import ops

from keras_unpatchify import _tensors
from keras_unpatchify._sizes import Edge, is_constant


def patches_of(x, axes):
    """(batch, *size, signal) -> (batch, *grid, *patch, signal), along the longest axis first."""
    d, order = len(axes), longest_first(axes)
    each = _tensors.jax_runs_each_operation(x)
    for n, i in enumerate(order):
        windows = _gathered_windows if each and axes[i].blocks > 1 else _windows
        # of the axes before, those that are done are two by now
        x = windows(x, 1 + i + sum(j < i for j in order[:n]), axes[i])
    # (batch, *(grid, patch), signal)
    order = (0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 1 + 2 * d)
    return x if d == 1 else ops.transpose(x, order)


def _windows(x, place, axis):
    """(..., size, ...) -> (..., grid, patch, ...) at a place of the shape."""
    blocks = []
    for n, width in enumerate(axis.widths):
        # Whole cells divide over devices as the signal does, so those that no patch uses stay.
        edge = axis.to_patches(*axis.cells(n * axis.width, axis.spare))
        cells = _tensors.fit(x, {place: edge})
        cells = _tensors.reshape_at(cells, place, 1, (axis.grid + axis.spare, axis.stride))
        used = Edge((0, 0), (0, axis.spare), axis.grid)
        block = Edge((0, 0), (0, axis.stride - width), width)
        blocks.append(_tensors.fit(cells, {place: used, place + 1: block}))
    return _tensors.side_by_side(blocks, place + 1)


def _gathered_windows(x, place, axis):
    """The same in few operations, however many blocks there are."""
    start = np.arange(axis.grid)[:, None] * axis.stride - axis.reach[0]
    position = start + np.arange(axis.patch)
    if axis.circular:
        position = position % axis.size
    return _tensors.take(x, np.where(position < axis.size, position, -1), place)


def from_patches(patches, axes):
    """(batch, *grid, *patch, signal) -> (batch, *size, signal): `sum_of` all blocks."""
    if _tensors.jax_runs_each_operation(patches):
        return gathered_sum_of(patches, axes)
    return sum_of(in_blocks(patches, axes, 1 + len(axes)), axes)


def gathered_sum_of(patches, axes):
    """(batch, *grid, *patch, signal) -> (batch, *size, signal): `sum_of` in few operations."""
    for i, axis in enumerate(axes):
        # (batch, *size, grid, ..., patch, ..., signal): those of this axis become one
        y = ops.moveaxis(patches, 1 + len(axes), 2 + i)
        y = _tensors.reshape_at(y, 1 + i, 2, (axis.grid * axis.patch,))
        # the patches that may cover a position, and where it lies in each
        position = np.arange(axis.size)[:, None] + axis.reach[0]
        token = position // axis.stride - np.arange(axis.blocks)
        inside = position - token * axis.stride
        if axis.circular:
            token = token % axis.grid
        covers = (token >= 0) & (token < axis.grid) & (inside < axis.patch)
        y = _tensors.take(y, np.where(covers, token * axis.patch + inside, -1), 1 + i)
        patches = ops.sum(_tensors.cast(y, _tensors.dtype_of_sums(y)), 2 + i)
    return patches


def in_blocks(array, axes, place):
    """The blocks of an array that has the axes of the patch from a place of its shape on.

    Their order is that in which `sum_of` adds them up.
    """
    blocks = [array]
    for i in longest_first(axes):
        blocks = [part for x in blocks for part in _tensors.split(x, axes[i].widths, place + i)]
    return blocks


def sum_of(blocks, axes):
    """Blocks (batch, *grid, *width, signal) -> (batch, *size, signal), the longest axis last."""
    return _sum_along(iter(blocks), axes, longest_first(axes))


def _sum_along(blocks, axes, order):
    """The sum of the next blocks along the axes in order, the last first."""
    if not order:
        return _in_cells(next(blocks), axes)
    (i, *others), total = order, None
    axis = axes[i]
    for n in range(axis.blocks):
        piece = _sum_along(blocks, axes, others)
        piece = _tensors.fit(piece, {1 + i: axis.to_signal(*axis.cells(n * axis.width))})
        if axis.blocks > 1:
            piece = _tensors.cast(piece, _tensors.dtype_of_sums(piece))
        total = piece if total is None else total + piece
    return total


def _in_cells(block, axes):
    """(batch, *grid, *width, signal) -> (batch, *grid * stride, signal)."""
    d, width = len(axes), block.shape[1 + len(axes) : -1]
    gaps = [(0, axis.stride - n) for axis, n in zip(axes, width)]
    cells = _tensors.pad_from(block, 1 + d, [*gaps, (0, 0)])
    # (batch, *grid, *stride, signal)
    if d > 1:
        order = (k for i in range(1, 1 + d) for k in (i, d + i))
        cells = ops.transpose(cells, (0, *order, 1 + 2 * d))
    size = [axis.grid * axis.stride for axis in axes]
    return _tensors.reshape_at(cells, 1, 2 * d, size)


def longest_first(axes):
    """The axes, the longest first; in their own order where a size is not known.

    A signal is most often divided along its longest axis: what moves along it should be least.
    """
    known = all(is_constant(axis.grid) for axis in axes)
    return sorted(range(len(axes)), key=lambda i: -axes[i].grid if known else i)
