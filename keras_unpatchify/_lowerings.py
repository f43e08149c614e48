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
from keras_unpatchify._sizes import is_constant

# jax computes in rounds where patches have more than this many times the numbers of token and cell.
ROUNDS_FROM = 3


class Lowering(NamedTuple):
    """One way to compute, in both directions."""

    tokens: Callable
    signal: Callable


def conv_transpose_tokens(x, kernel, axes):
    """The backend's strided convolution."""
    strides, grid = [axis.stride for axis in axes], [axis.grid for axis in axes]
    if all(map(_tensors.pads_itself, axes)):
        return _tensors.convolution(x, kernel, strides, grid, "same")
    x = _tensors.fit(x, {1 + i: axis.to_patches() for i, axis in enumerate(axes)})
    return _tensors.convolution(x, kernel, strides, grid)


def conv_transpose_signal(x, kernel, bias, axes):
    """The backend's transposed convolution, from the first patch to the last, then made to fit."""
    strides = [axis.stride for axis in axes]
    if all(map(_tensors.crops_itself, axes)):  # which saves a pass
        y = _tensors.transposed_convolution(x, kernel, strides, "same")
    else:
        y = _tensors.transposed_convolution(x, kernel, strides)
        y = _tensors.fit(y, {1 + i: axis.to_signal() for i, axis in enumerate(axes)})
    return _add_patch_bias(y, x, bias, axes)


def matmul_tokens(x, kernel, axes):
    """The product with every patch, in rounds that add up."""
    rounds = _rounds(x, kernel, axes)
    if rounds == 1:
        return _tensors.tokens_of_patches(_blocks.patches_of(x, axes), kernel)

    def add(total, part):
        x, kernel = part
        tokens = _tensors.tokens_of_patches(_blocks.patches_of(x, axes), kernel)
        return total + _tensors.cast(tokens, total.dtype), None

    parts = [_tensors.in_rounds(x, rounds, -1), _tensors.in_rounds(kernel, rounds, -2)]
    shape = (x.shape[0], *(axis.grid for axis in axes), kernel.shape[-1])
    return ops.scan(add, ops.zeros(shape, _tensors.dtype_of_sums(x)), parts)[0]


def matmul_signal(x, kernel, bias, axes):
    """The sum of the patches that a product gives, in rounds side by side."""
    rounds = _rounds(x, kernel, axes)
    if rounds == 1:
        return _sum_of_patches(x, kernel, bias, axes)
    parts = {"kernel": _tensors.in_rounds(kernel, rounds, -2), "bias": None}
    if bias is not None:
        parts["bias"] = _tensors.in_rounds(bias, rounds, -1)

    def step(_, part):
        return None, _sum_of_patches(x, **part, axes=axes)

    y = ops.moveaxis(ops.scan(step, None, parts)[1], 0, -1)
    # (batch, *size, part, rounds)
    y = _tensors.reshape(y, (*y.shape[:-2], y.shape[-2] * y.shape[-1]))
    return y[..., : kernel.shape[-2]]


def _sum_of_patches(x, kernel, bias, axes):
    """The same in one round."""
    overlapping = any(axis.blocks > 1 for axis in axes)
    if overlapping and _tensors.jax_runs_each_operation(x, kernel):
        (patches,) = _tensors.blocks_of_tokens(x, [kernel], [] if bias is None else [bias])
        return _blocks.gathered_sum_of(patches, axes)
    kernels = _blocks.in_blocks(kernel, axes, 0)
    biases = [] if bias is None else _blocks.in_blocks(bias, axes, 0)
    return _blocks.sum_of(_tensors.blocks_of_tokens(x, kernels, biases), axes)


def subpixel_tokens(x, kernel, axes):
    """The convolution over the cells of the signal."""
    cells = _blocks.patches_of(x, [axis.of_cells for axis in axes])
    # (batch, *cells, *width, signal)
    taps = _taps(kernel, axes)
    cells = _tensors.reshape_at(cells, 1 + len(axes), len(axes) + 1, (taps.shape[-2],))
    return _tensors.convolution(cells, taps, [1] * len(axes), [axis.grid for axis in axes])


def subpixel_signal(x, kernel, bias, axes):
    """The transposed convolution to cells, whose channels are the signal."""
    cells = _tensors.transposed_convolution(x, _taps(kernel, axes), [1] * len(axes))
    width = [axis.width for axis in axes]
    cells = _tensors.reshape_at(cells, 1 + len(axes), 1, (*width, kernel.shape[-2]))
    y = _blocks.sum_of([cells], [axis.of_cells for axis in axes])
    return _add_patch_bias(y, x, bias, axes)


def _taps(kernel, axes):
    """(*patch, signal, token) -> (*blocks, prod(width) * signal, token), where all are as wide."""
    d, (signal, token) = len(axes), map(int, kernel.shape[-2:])  # torch.jit traces with tensors
    blocks, width = [axis.blocks for axis in axes], [axis.width for axis in axes]
    if math.prod(blocks) > 1:
        split = [n for pair in zip(blocks, width) for n in pair]
        kernel = _tensors.reshape(kernel, (*split, signal, token))
        order = (*range(0, 2 * d, 2), *range(1, 2 * d, 2), 2 * d, 2 * d + 1)
        kernel = ops.transpose(kernel, order)
    return _tensors.reshape(kernel, (*blocks, math.prod(width) * signal, token))


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
    biases = _sum_of_patches(ones, ops.expand_dims(bias, -1), None, axes)
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
    own, positions = token + signal * math.prod([axis.stride for axis in axes]), math.prod(patch)
    if positions * signal <= ROUNDS_FROM * own:
        return 1
    # the rounds together hold the result once more
    part = max(1, (ROUNDS_FROM - 1) * own // positions)
    enough = -(-signal // part)
    # a few more, if all have as many channels then
    return next((n for n in range(enough, 2 * enough) if signal % n == 0), enough)
