"""The ways to compute the product with every patch, each in both directions.

A lowering is two functions, which are adjoint to each other without a bias:

    tokens(x, kernel, axes)        (batch, *size, signal) -> (batch, *grid, token)
    signal(x, kernel, bias, axes)  (batch, *grid, token) -> (batch, *size, signal)

The kernel is `(*patch, signal, token)`. The bias is `None`, or what each patch adds,
`(*patch, signal)`. The axes are `Extent`s, which know all sizes.

- `conv_transpose` is the backend's convolution with the whole patch.
- `matmul` is a matrix product with whole patches. For a signal, it cuts the patches into blocks, at
  most one stride wide, and adds them up at their places, axis by axis. Where patches have many
  numbers, jax computes it in rounds, each for some channels of the signal.
- `subpixel` sees the signal as cells, one stride long. It is a convolution of stride 1 over cells,
  whose channels are the positions in a cell (Shi et al., "Is the deconvolution layer the same as a
  convolutional layer?", 2016). The stride must divide the patch.

None of them merges two axes of the grid, two of the signal, or one of these with the batch, except
`matmul` on TensorFlow. If a signal is divided over devices along an axis, `matmul` therefore keeps
it divided. The backend's convolutions may gather it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_unpatchify import _blocks, _tensors
from keras_unpatchify._sizes import NO_EDGE, is_constant

# jax computes in rounds where patches have more than this many times the numbers of token and cell.
ROUNDS_FROM = 3


class Lowering(NamedTuple):
    """One way to compute, in both directions."""

    tokens: Callable
    signal: Callable


def conv_transpose_tokens(x, kernel, axes):
    """The backend's strided convolution."""
    strides, grid = [axis.stride for axis in axes], [axis.grid for axis in axes]
    if all(axis.same for axis in axes):
        return _tensors.convolution(x, kernel, strides, grid, "same")
    x = _tensors.fit(x, [axis.to_patches() for axis in axes])
    return _tensors.convolution(x, kernel, strides, grid)


def conv_transpose_signal(x, kernel, bias, axes):
    """The backend's transposed convolution, from the first patch to the last, then made to fit."""
    strides = [axis.stride for axis in axes]
    if all(axis.same for axis in axes):  # which saves a pass
        y = _tensors.transposed_convolution(x, kernel, strides, "same")
    else:
        y = _tensors.transposed_convolution(x, kernel, strides)
        y = _tensors.fit(y, [axis.to_signal() for axis in axes])
    return _add_patch_bias(y, x, bias, axes)


def matmul_tokens(x, kernel, axes):
    """The product with all blocks of a patch, in rounds that add up."""
    rounds = _rounds(x, kernel, axes)
    if rounds == 1:
        return product_of_patches(x, kernel, axes)

    def add(total, part):
        x, kernel = part
        tokens = product_of_patches(x, kernel, axes)
        return total + _tensors.cast(tokens, total.dtype), None

    parts = [_tensors.in_rounds(x, rounds, -1), _tensors.in_rounds(kernel, rounds, -2)]
    shape = (x.shape[0], *(axis.grid for axis in axes), kernel.shape[-1])
    return ops.scan(add, ops.zeros(shape, _tensors.dtype_of_sums(x)), parts)[0]


def product_of_patches(x, kernel, axes):
    """The same in one round."""
    grid, spare, order = [a.grid for a in axes], [a.spare for a in axes], range(len(axes))
    columns = []
    for start, width in _blocks.of_patch(axes, order):
        # Whole cells divide over devices as the signal does, so those that no patch uses stay.
        pieces = [a.cells(n, more) for a, n, more in zip(axes, start, spare)]
        cells = _tensors.fit(x, [a.to_patches(*piece) for a, piece in zip(axes, pieces)])
        columns.append(_blocks.space_to_depth(cells, axes, grid, spare, width))
    return _tensors.product_side_by_side(columns, _blocks.matrix(kernel, axes, order))


def matmul_signal(x, kernel, bias, axes):
    """The sum of all blocks of all patches, each moved to its place, in rounds side by side."""
    rounds = _rounds(x, kernel, axes)
    if rounds == 1:
        return sum_of_patches(x, kernel, bias, axes)
    parts = {"kernel": _tensors.in_rounds(kernel, rounds, -2), "bias": None}
    if bias is not None:
        parts["bias"] = _tensors.in_rounds(bias, rounds, -1)

    def step(_, part):
        return None, sum_of_patches(x, part["kernel"], part["bias"], axes)

    y = ops.moveaxis(ops.scan(step, None, parts)[1], 0, -2)
    # (batch, *size, rounds, part)
    y = _tensors.reshape(y, (*y.shape[:-2], y.shape[-2] * y.shape[-1]))
    return y[..., : kernel.shape[-2]]


def sum_of_patches(x, kernel, bias, axes):
    """The same in one round."""
    order = _longest_first(axes)
    columns = _tensors.product(x, _blocks.matrix(kernel, axes, order), transposed=True)
    if bias is not None:
        columns = columns + _blocks.matrix(bias, axes, order)
    # (batch, *grid, prod(patch) * signal)
    pieces = (
        _blocks.depth_to_space(cells, axes, width)
        for (_, width), cells in _blocks.of_columns(columns, axes, order)
    )
    return _add_up(pieces, axes, order)


def _add_up(pieces, axes, order):
    """The sum of the next pieces, one per block, each moved to its place: (batch, *size, signal).

    They are added along the last axis in order first. Along the other axes, sums are moved.
    """
    if not order:
        return next(pieces)
    (i, *others), total = order, None
    for n in range(axes[i].blocks):
        edges = [NO_EDGE] * len(axes)
        edges[i] = axes[i].to_signal(*axes[i].cells(n * axes[i].width))
        piece = _tensors.fit(_add_up(pieces, axes, others), edges)
        if axes[i].blocks > 1:
            piece = _tensors.cast(piece, _tensors.dtype_of_sums(piece))
        total = piece if total is None else total + piece
    return total


def subpixel_tokens(x, kernel, axes):
    """The convolution over the cells of the signal."""
    extra = [axis.blocks - 1 for axis in axes]
    x = _tensors.fit(x, [a.to_patches(*a.cells(0, more)) for a, more in zip(axes, extra)])
    grid, width = [axis.grid for axis in axes], [axis.width for axis in axes]
    length = [n + more for n, more in zip(grid, extra)]
    cells = _blocks.space_to_depth(x, axes, length, [0] * len(axes), width)
    return _tensors.convolution(cells, _blocks.taps(kernel, axes), [1] * len(axes), grid)


def subpixel_signal(x, kernel, bias, axes):
    """The transposed convolution to cells, whose channels are the signal."""
    cells = _tensors.transposed_convolution(x, _blocks.taps(kernel, axes), [1] * len(axes))
    y = _blocks.depth_to_space(cells, axes, [axis.width for axis in axes])
    y = _tensors.fit(y, [axis.to_signal(*axis.cells(0, axis.blocks - 1)) for axis in axes])
    return _add_patch_bias(y, x, bias, axes)


# By the names of the argument `implementation`.
LOWERINGS = {
    "conv_transpose": Lowering(conv_transpose_tokens, conv_transpose_signal),
    "matmul": Lowering(matmul_tokens, matmul_signal),
    "subpixel": Lowering(subpixel_tokens, subpixel_signal),
}


def _add_patch_bias(y, x, bias, axes):
    """Adds to the signal `y` of the tokens `x` what each patch adds."""
    if bias is None:
        return y
    ones = ops.ones((1, *_tensors.shape_of(x)[1:-1], 1), x.dtype)
    biases = sum_of_patches(ones, ops.expand_dims(bias, -1), None, axes)
    return y + _tensors.cast(biases, y.dtype)


def _rounds(x, kernel, axes):
    """In how many rounds jax computes, each for some channels of the signal.

    XLA makes all blocks of all patches before it multiplies or adds them: in rounds, those of a few
    channels at a time. Outside of a trace there is one round, because jax would compile the loop
    again at every call.
    """
    if not _tensors.jax_compiles(x, kernel) or not all(is_constant(axis.grid) for axis in axes):
        return 1
    *patch, signal, token = kernel.shape
    most = ROUNDS_FROM * (token + signal * math.prod([axis.stride for axis in axes]))
    part = max(1, most // math.prod(patch))
    return -(-signal // part)


def _longest_first(axes):
    """The axes, the longest first; in their own order where a size is not known.

    A signal is most often divided along its longest axis, which is then added up last: what is
    summed along the others moves along it as a whole.
    """
    known = all(is_constant(axis.grid) for axis in axes)
    return sorted(range(len(axes)), key=lambda i: -axes[i].grid if known else i)
