"""Patches in blocks: parts of a patch, at most one stride wide, so none overlaps the next patch's.

A signal is seen as cells, one stride long, one for each token and perhaps a few more. A block of
all patches fills the beginning of each cell.
"""

import itertools
import math
from typing import NamedTuple

from keras import ops

from keras_unpatchify import geometry, tensors


class Block(NamedTuple):
    """A part of a patch; one number per axis, in positions."""

    start: tuple[int, ...]
    width: tuple[int, ...]


@geometry.remembered
def of_patch(axes, order):
    """The blocks of a patch, sorted by their starts along the axes in order."""
    starts = itertools.product(*(range(0, axis.patch, axis.width) for axis in axes))
    blocks = [
        Block(start, tuple(min(axis.width, axis.patch - n) for axis, n in zip(axes, start)))
        for start in starts
    ]
    return tuple(sorted(blocks, key=lambda block: [block.start[i] for i in order]))


def matrix(array, axes, order):
    """(*patch, signal, ...) -> (prod(patch) * signal, ...), one block after another."""
    more = array.shape[len(axes) + 1 :]
    if all(axis.even for axis in axes):
        array = _sorted(array, axes, [axis.width for axis in axes], order)
        return tensors.reshape(array, (-1, *more))
    rows = []
    for start, width in of_patch(axes, order):
        place = tuple(slice(n, n + m) for n, m in zip(start, width))
        rows.append(tensors.reshape(array[place], (-1, *more)))
    return ops.concatenate(rows)


def taps(kernel, axes, width):
    """(*patch, signal, token) -> (*blocks, prod(width) * signal, token); zeros fill up blocks."""
    signal, token = map(int, kernel.shape[-2:])  # torch.jit traces with tensors
    kernel = _sorted(kernel, axes, width, range(len(axes)))
    number = [axis.blocks for axis in axes]
    return tensors.reshape(kernel, (*number, math.prod(width) * signal, token))


def _sorted(array, axes, width, order):
    """(*patch, ...) -> (*blocks in order, *width, ...), or as it is where there is one block."""
    d, more = len(axes), tuple(map(int, array.shape[len(axes) :]))
    number = [axis.blocks for axis in axes]
    missing = [n * w - axis.patch for n, w, axis in zip(number, width, axes)]
    array = tensors.pad(array, [*((0, n) for n in missing), *((0, 0) for _ in more)])
    if math.prod(number) == 1:
        return array
    split = [n for pair in zip(number, width) for n in pair]
    moved = (*(2 * i for i in order), *range(1, 2 * d, 2), *range(2 * d, 2 * d + len(more)))
    return ops.transpose(tensors.reshape(array, (*split, *more)), moved)


def along(array, i, axis):
    """The blocks along axis `i` of a kernel or a bias; zeros fill up the last one."""
    zeros = [(0, 0)] * len(array.shape)
    zeros[i] = 0, axis.blocks * axis.width - axis.patch
    return ops.split(tensors.pad(array, zeros), axis.blocks, axis=i)


def axes_of_one(axes, loops, spare):
    """The axes of one block along those of `loops`, with a cell for each token, and spare ones."""
    found = list(axes)
    for i in loops:
        patch, stride = axes[i].width, axes[i].stride
        found[i] = geometry.Axis(patch, stride, (0, patch - (1 + spare[i]) * stride))
    return found


def cell_edge(direction, axis, size, extra, start=0):
    """The edge of cells, one per token and `extra` ones, from `start` into the first patch on."""
    return direction(axis, size, start, axis.patch - start - (1 + extra) * axis.stride)


def split(columns, axes, order):
    """(..., prod(patch) * signal) -> one tensor for each block, with it."""
    blocks = of_patch(axes, order)
    signal = columns.shape[-1] // math.prod([axis.patch for axis in axes])
    return zip(blocks, tensors.split(columns, [math.prod(b.width) * signal for b in blocks]))


def depth_to_space(cells, axes, width):
    """(batch, *grid, prod(width) * signal) -> (batch, *grid * stride, signal)."""
    d, batch, grid = len(axes), tensors.batch_of(cells), tensors.shape_of(cells)[1:-1]
    *outer, last = width
    signal = cells.shape[-1] // (math.prod(outer) * last)
    y = tensors.reshape(cells, (batch, *grid, *outer, last * signal))
    # (batch, *grid, *stride), the channels within the last
    gaps = [axis.stride - n for axis, n in zip(axes, width)]
    gaps[-1] *= signal
    y = tensors.pad(y, [(0, 0)] * (1 + d) + [(0, n) for n in gaps])
    order = (0, *(k for i in range(1, 1 + d) for k in (i, d + i)))
    size = [n * axis.stride for axis, n in zip(axes, grid)]
    return tensors.reshape(ops.transpose(y, order), (batch, *size, signal))


def space_to_depth(x, axes, grid, spare, width):
    """(batch, *(grid + spare) * stride, signal) -> (batch, *grid, prod(width) * signal)."""
    d, batch, signal = len(axes), tensors.batch_of(x), x.shape[-1]
    strides = [axis.stride for axis in axes]
    strides[-1] *= signal
    split = [n for g, more, s in zip(grid, spare, strides) for n in (g + more, s)]
    order = (0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2))
    y = ops.transpose(tensors.reshape(x, (batch, *split)), order)
    # (batch, *grid, *stride), the channels within the last
    *outer, last = width
    if any(spare) or strides != [*outer, last * signal]:
        y = y[(slice(None), *map(slice, (*grid, *outer, last * signal)))]
    return tensors.reshape(y, (batch, *grid, math.prod(width) * signal))
