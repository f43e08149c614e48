"""The ways to compute the product with every patch, each in both directions.

A lowering is two functions, which are adjoint to each other without a bias:

    tokens(x, kernel, axes, grid)        (batch, *size, signal) -> (batch, *grid, token)
    signal(x, kernel, bias, axes, size)  (batch, *grid, token) -> (batch, *size, signal)

The kernel is `(*patch, signal, token)`. The bias is `None`, or what each patch adds,
`(*patch, signal)`. A size of `None` is the default size along its axis.

- `native` (`"conv_transpose"`) is the backend's convolution with the whole patch.
- `product` (`"matmul"`) is a matrix product with whole patches. For a signal, it cuts the patches
  into blocks, at most one stride wide, and adds them up at their places, axis by axis. On jax, it
  loops over blocks where they have many numbers.
- `subpixel` sees the signal as cells, one stride long. It is a convolution of stride 1 over cells,
  whose channels are the positions in a cell (Shi et al., "Is the deconvolution layer the same as a
  convolutional layer?", 2016).

None of them merges an axis of the grid or of the signal with another axis or with the batch, except
`product` on TensorFlow. If a signal is divided over devices along an axis, `product` therefore
keeps it divided. The backend's convolutions may gather it.
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

# jax loops over blocks where patches have more numbers than this times token and cell together.
LOOPS_ABOVE = 3


class Lowering(NamedTuple):
    """One way to compute, in both directions."""

    tokens: Callable
    signal: Callable


class Block(NamedTuple):
    """A part of a patch, at most one stride wide; one number per axis, in positions."""

    start: tuple[int, ...]
    width: tuple[int, ...]


def native_tokens(x, kernel, axes, grid):
    """The backend's strided convolution."""
    size = sizes_of(x)[1:-1]
    edges = [geometry.to_patches(axis, n) for axis, n in zip(axes, size)]
    x = _fit(x, edges, [axis.natural(n) for axis, n in zip(axes, grid)])
    return _convolution(x, kernel, [axis.stride for axis in axes], grid)


def native_signal(x, kernel, bias, axes, size):
    """The backend's transposed convolution, from the first patch to the last, then made to fit."""
    strides = [axis.stride for axis in axes]
    if all(map(_crops_itself, axes, size)):
        y = _transposed_convolution(x, kernel, strides, "same")
    else:
        edges = [geometry.to_signal(axis, n) for axis, n in zip(axes, size)]
        y = _fit(_transposed_convolution(x, kernel, strides), edges, size)
    return _add_patch_bias(y, x, bias, axes, size)


def product_tokens(x, kernel, axes, grid, sums=0):
    """The product with all blocks of a patch, side by side."""
    size = sizes_of(x)[1:-1]
    # Cells that no patch uses stay until the end, because all cells divide over devices evenly.
    spare = [
        max(0, n // axis.stride - g) if geometry.is_constant(n) else 0
        for axis, n, g in zip(axes, size, grid)
    ]
    i = _axis_of_loop(kernel, axes, grid, sums)
    if i is not None:
        return _tokens_by_loop(x, kernel, axes, grid, i, spare[i], sums + 1)
    length = [(g + more) * axis.stride for axis, g, more in zip(axes, grid, spare)]
    columns, order = [], range(len(axes))
    for block in _blocks(axes, order):
        edges = [_cell_edge(geometry.to_patches, *of) for of in zip(axes, size, spare, block.start)]
        cells = _space_to_depth(_fit(x, edges, length), axes, grid, spare, block.width)
        columns.append(cells)
    return _product_of_blocks(columns, _matrix(kernel, axes, order))


def product_signal(x, kernel, bias, axes, size, sums=0):
    """The sum of all blocks of all patches, each moved to its place."""
    i = _axis_of_loop(kernel, axes, sizes_of(x)[1:-1], sums)
    if i is not None:
        return _signal_by_loop(x, kernel, bias, axes, size, i, sums + 1)
    return sum_of_patches(x, kernel, bias, axes, size)


def sum_of_patches(x, kernel, bias, axes, size):
    """The same, where all blocks may exist at once."""
    order = _longest_first(sizes_of(x)[1:-1])
    columns = _product(x, _matrix(kernel, axes, order), transposed=True)
    if bias is not None:
        # (*patch, signal, 1) -> (prod(patch) * signal,)
        columns = columns + ops.reshape(_matrix(ops.expand_dims(bias, -1), axes, order), (-1,))
    blocks = _blocks(axes, order)
    return _add_up(iter(zip(blocks, _split(columns, blocks))), axes, size, order)


def subpixel_tokens(x, kernel, axes, grid):
    """The convolution over the cells of the signal."""
    size = sizes_of(x)[1:-1]
    more = [axis.blocks - 1 for axis in axes]
    length = [g + n for g, n in zip(grid, more)]
    edges = [_cell_edge(geometry.to_patches, *of) for of in zip(axes, size, more)]
    x = _fit(x, edges, [n * axis.stride for axis, n in zip(axes, length)])
    cells = _space_to_depth(x, axes, length, [0] * len(axes), _cell(axes))
    return _convolution(cells, _taps(kernel, axes, _cell(axes)), 1, grid)


def subpixel_signal(x, kernel, bias, axes, size):
    """The transposed convolution to cells, whose channels are the signal."""
    cells = _transposed_convolution(x, _taps(kernel, axes, _cell(axes)), 1)
    more = [axis.blocks - 1 for axis in axes]
    edges = [_cell_edge(geometry.to_signal, *of) for of in zip(axes, size, more)]
    y = _fit(_depth_to_space(cells, axes, _cell(axes)), edges, size)
    return _add_patch_bias(y, x, bias, axes, size)


# By the names of the argument `implementation`.
LOWERINGS = {
    "conv_transpose": Lowering(native_tokens, native_signal),
    "matmul": Lowering(product_tokens, product_signal),
    "subpixel": Lowering(subpixel_tokens, subpixel_signal),
}


def _convolution(x, kernel, strides, grid):
    """(batch, *size, signal) -> (batch, *grid, token)."""
    y = ops.conv(x, kernel, strides, padding="valid", data_format="channels_last")
    if x.shape[0]:
        return y
    # TensorFlow returns an empty batch unchanged.
    return ops.reshape(y, (batch_of(y, *grid), *grid, kernel.shape[-1]))


def _transposed_convolution(x, kernel, strides, padding="valid"):
    """(batch, *grid, token) -> (batch, *natural size, signal), or *grid * stride for "same"."""
    more = 0 if padding == "valid" else None
    return ops.conv_transpose(
        x, kernel, strides, padding=padding, output_padding=more, data_format="channels_last"
    )


def _crops_itself(axis, size):
    """Whether the transposed convolution can crop to the default size itself, which saves a pass.

    The backends agree on "same" only where it crops equally at both ends.
    """
    crop = axis.patch - axis.stride
    return axis.padding == "same" and size is None and crop >= 0 and crop % 2 == 0


def _add_patch_bias(y, x, bias, axes, size):
    """Adds to the signal `y` of the tokens `x` what each patch adds."""
    if bias is None:
        return y
    ones = ops.ones((1, *sizes_of(x)[1:-1], 1), x.dtype)
    return y + cast(sum_of_patches(ones, ops.expand_dims(bias, -1), None, axes, size), y.dtype)


def _product(x, matrix, transposed=False):
    """(batch, *grid, channels) times (channels, others), which may be transposed."""
    backend = keras.backend.backend()
    if backend == "jax":
        if not transposed and is_narrow(*matrix.shape):
            # The same, but for the gradient of the matrix XLA transposes `x`, not the wider tokens.
            tap = ops.reshape(matrix, (*(1,) * (len(x.shape) - 2), *matrix.shape))
            return ops.conv(x, tap, 1, padding="valid", data_format="channels_last")
        # The gradient of a loop would keep a copy of a matrix that is transposed before.
        return cast(ops.tensordot(x, matrix, axes=(-1, int(transposed))), x.dtype)
    if transposed:
        matrix = ops.transpose(matrix)
    if backend == "tensorflow":
        # TensorFlow's gradient of a batched product has a matrix for each example and row.
        y = ops.reshape(x, (-1, x.shape[-1])) @ matrix
        return ops.reshape(y, (batch_of(x), *sizes_of(x)[1:-1], matrix.shape[-1]))
    # `ops.matmul` rounds float64 on torch and numpy; NumPy widens bfloat16.
    return cast(x @ matrix, x.dtype)


def _product_of_blocks(columns, matrix):
    """The product with all blocks of a patch, `(batch, *grid, width)` each, side by side."""
    if len(columns) == 1:
        return _product(columns[0], matrix)
    widths = {block.shape[-1] for block in columns}
    if keras.backend.backend() == "jax" and len(widths) == 1 and min(widths) >= 256:
        # XLA copies wide blocks faster one after another than side by side.
        rows = ops.reshape(matrix, (len(columns), -1, matrix.shape[-1]))
        return ops.tensordot(ops.stack(columns), rows, axes=((0, -1), (0, 1)))
    return _product(ops.concatenate(columns, axis=-1), matrix)


def _axis_of_loop(kernel, axes, grid, sums):
    """The axis along which jax loops over blocks; `None` where all blocks may exist at once.

    XLA makes all blocks of all patches before it multiplies or adds them. A loop makes those of one
    block along an axis at a time. `sums` is the number of loops around this one, each of which
    holds a sum of the size of the result.
    """
    if keras.backend.backend() != "jax" or not all(map(geometry.is_constant, grid)):
        return None
    *_, signal, token = kernel.shape
    cell = signal * math.prod([axis.stride for axis in axes])
    if math.prod(kernel.shape[:-1]) <= LOOPS_ABOVE * (token + cell) - sums * cell:
        return None
    return next((i for i in _longest_first(grid) if axes[i].blocks > 1), None)


def _tokens_by_loop(x, kernel, axes, grid, i, spare, sums):
    """The product with one block along axis `i` after another, added up."""
    axis, size, length = axes[i], x.shape[1 + i], (grid[i] + spare) * axes[i].stride
    around, (before, _) = max(size, length), axis.reach(axis.unused(size))

    def step(carry, block):
        (ring, total), (n, part) = carry, block
        inside = _inside(n, axis, before, around, len(axes) - i)
        piece = _to_length(ops.where(inside, ring, 0), i, length)
        tokens = product_tokens(piece, part, _axes_of_block(axes, i, spare), grid, sums)
        return (_roll(ring, i, -axis.width), total + cast(tokens, total.dtype)), None

    ring = _roll(_to_length(x, i, around), i, before)
    zeros = ops.zeros((x.shape[0], *grid, kernel.shape[-1]), _dtype_of_sums(x))
    blocks = ops.arange(axis.blocks), _blocks_along(kernel, i, axis)
    (_, total), _ = ops.scan(step, (ring, zeros), blocks)
    return total


def _signal_by_loop(x, kernel, bias, axes, size, i, sums):
    """The sum of one block along axis `i` after another, from the last to the first."""
    batch, *grid, _ = x.shape
    axis, arrays = axes[i], [kernel] if bias is None else [kernel, bias]
    size = [axis.size(n) if m is None else m for axis, n, m in zip(axes, grid, size)]
    size_of_block = [None if j == i else n for j, n in enumerate(size)]
    around, (before, _) = max(size[i], grid[i] * axis.stride), axis.reach(axis.unused(size[i]))

    def step(total, block):
        n, part, *biases = block
        bias = biases[0] if biases else None
        piece = product_signal(x, part, bias, _axes_of_block(axes, i), size_of_block, sums)
        inside = _inside(n, axis, before, around, len(axes) - i)
        piece = ops.where(inside, cast(_to_length(piece, i, around), total.dtype), 0)
        return _roll(total, i, axis.width) + piece, None

    shape = [around if j == i else n for j, n in enumerate(size)]
    zeros = ops.zeros((batch, *shape, kernel.shape[-2]), _dtype_of_sums(x))
    blocks = ops.arange(axis.blocks), *(_blocks_along(array, i, axis) for array in arrays)
    total, _ = ops.scan(step, zeros, blocks, reverse=True)
    return _to_length(_roll(total, i, -before), i, size[i])


def _inside(n, axis, before, around, after):
    """Where a ring that holds block `n` of all patches is inside of the patches and of the signal.

    A ring is a signal whose ends meet. What lies outside would come in again at the other end. The
    shape is `(around, 1, ..., 1)`, with `after` axes of 1.
    """
    position = ops.arange(around)
    in_patch = n * axis.width + position % axis.stride
    in_signal = n * axis.width + position - before
    inside = (in_patch < axis.patch) & (in_signal >= 0) & (in_signal < around)
    return ops.reshape(inside, (around, *(1,) * after))


def _axes_of_block(axes, i, spare=0):
    """The axes of one block along axis `i`, with a cell for each token, and spare ones."""
    patch, stride = axes[i].width, axes[i].stride
    block = geometry.Axis(patch, stride, (0, patch - (1 + spare) * stride))
    return [block if j == i else axis for j, axis in enumerate(axes)]


def _blocks_along(array, i, axis):
    """(*patch, ...) -> (blocks, *patch of one block, ...); zeros fill up the last block."""
    shape, zeros = array.shape, [(0, 0)] * len(array.shape)
    zeros[i] = 0, axis.blocks * axis.width - axis.patch
    split = (*shape[:i], axis.blocks, axis.width, *shape[i + 1 :])
    return ops.moveaxis(ops.reshape(_pad(array, zeros), split), i, 0)


def _roll(x, i, by):
    """The tensor moved along an axis; what leaves it at one end comes in at the other."""
    # The gradient of `ops.roll` moves more of a divided axis.
    ends = ops.split(x, [-by % x.shape[1 + i]], axis=1 + i)
    return ops.concatenate(ends[::-1], axis=1 + i)


def _to_length(x, i, length):
    """The tensor cut, or filled up with zeros, at the end of an axis."""
    more = length - x.shape[1 + i]
    return _fit_along(i, x, geometry.Edge((0, max(0, more)), (0, max(0, -more))), length)


def _dtype_of_sums(x):
    return "float32" if is_half(x.dtype) else x.dtype


def _cut(x, edges):
    """Cuts off what each edge says; the cuts are ints."""
    if not any(any(edge.cuts) for edge in edges):
        return x
    cuts = [edge.cuts for edge in edges]
    if keras.backend.backend() == "tensorflow":
        # TensorFlow's gradient of a plain slice takes as long as the rest of a training step.
        size = [n - sum(cut) for n, cut in zip(sizes_of(x)[1:-1], cuts)]
        start = [front for front, _ in cuts]
        return ops.slice(x, (0, *start, 0), (sizes_of(x)[0], *size, x.shape[-1]))
    # The gradient of `ops.slice` on jax gathers a divided axis.
    return x[(slice(None), *(slice(front, -back or None) for front, back in cuts))]


def _blocks(axes, order):
    """The blocks of a patch, sorted by their starts along the axes in order."""
    starts = itertools.product(*(range(0, axis.patch, axis.width) for axis in axes))
    blocks = [
        Block(start, tuple(min(axis.width, axis.patch - n) for axis, n in zip(axes, start)))
        for start in starts
    ]
    return sorted(blocks, key=lambda block: [block.start[i] for i in order])


def _cell(axes):
    return [axis.cell for axis in axes]


def _taps(kernel, axes, width, order=None):
    """(*patch, signal, token) -> (*blocks, prod(width) * signal, token); zeros fill up blocks.

    `order` is the order of the axes in `*blocks`, by default their own.
    """
    d, (signal, token) = len(axes), map(int, kernel.shape[-2:])  # torch.jit traces with tensors
    number = [axis.blocks for axis in axes]
    missing = [n * w - axis.patch for n, w, axis in zip(number, width, axes)]
    kernel = _pad(kernel, [*((0, n) for n in missing), (0, 0), (0, 0)])
    order = range(d) if order is None else order
    if math.prod(number) > 1:
        split = [n for pair in zip(number, width) for n in pair]
        moved = (*(2 * i for i in order), *range(1, 2 * d, 2), 2 * d, 2 * d + 1)
        kernel = ops.transpose(ops.reshape(kernel, (*split, signal, token)), moved)
    return ops.reshape(kernel, (*(number[i] for i in order), math.prod(width) * signal, token))


def _matrix(kernel, axes, order):
    """(*patch, signal, token) -> (prod(patch) * signal, token), one of `_blocks` after another."""
    token = kernel.shape[-1]
    if all(axis.even for axis in axes):
        return ops.reshape(_taps(kernel, axes, [axis.width for axis in axes], order), (-1, token))
    rows = []
    for start, width in _blocks(axes, order):
        place = tuple(slice(n, n + m) for n, m in zip(start, width))
        rows.append(ops.reshape(kernel[place], (-1, token)))
    return ops.concatenate(rows)


def _split(columns, blocks):
    """(..., prod(patch) * signal) -> one tensor for each block."""
    if len(blocks) == 1:
        return [columns]
    positions = [math.prod(block.width) for block in blocks]
    if len(set(positions)) == 1:
        return ops.split(columns, len(blocks), axis=-1)
    signal = columns.shape[-1] // sum(positions)
    ends = [signal * n for n in itertools.accumulate(positions)]
    if keras.backend.backend() == "torch":
        # PyTorch's compiler takes the places of `ops.split` for data that it does not know.
        return [columns[..., start:end] for start, end in itertools.pairwise([0, *ends])]
    return ops.split(columns, ends[:-1], axis=-1)


def _depth_to_space(cells, axes, width):
    """(batch, *grid, prod(width) * signal) -> (batch, *grid * stride, signal)."""
    d, batch, grid = len(axes), batch_of(cells), sizes_of(cells)[1:-1]
    *outer, last = width
    signal = cells.shape[-1] // (math.prod(outer) * last)
    y = ops.reshape(cells, (batch, *grid, *outer, last * signal))
    # (batch, *grid, *stride), the channels within the last
    gaps = [axis.stride - n for axis, n in zip(axes, width)]
    gaps[-1] *= signal
    y = _pad(y, [(0, 0)] * (1 + d) + [(0, n) for n in gaps])
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


def _cell_edge(direction, axis, size, more, start=0):
    """The edge of one cell per token and `more`, from `start` positions into the first patch on."""
    return direction(axis, size, start, axis.patch - start - (1 + more) * axis.stride)


def _fit(x, edges, size):
    """Adds the zeros of each edge and makes its cuts; `size` is the size of the result."""
    if not all(geometry.is_constant(cut) for edge in edges for cut in edge.cuts):
        x = _pad_edges(x, edges)
        front = [edge.cuts[0] for edge in edges]
        return ops.slice(x, (0, *front, 0), (sizes_of(x)[0], *size, x.shape[-1]))
    # Positions that are cut before zeros are added are neither stored nor moved between devices.
    long = [geometry.is_static(n) and sum(e.cuts) <= n for n, e in zip(x.shape[1:-1], edges)]
    return _pad_edges(_cut(x, edges), edges) if all(long) else _cut(_pad_edges(x, edges), edges)


def _fit_along(i, x, edge, size):
    """The same along one axis alone."""
    edges, sizes = [geometry.NO_EDGE] * (len(x.shape) - 2), list(sizes_of(x)[1:-1])
    edges[i], sizes[i] = edge, size
    return _fit(x, edges, sizes)


def _pad_edges(x, edges):
    return _pad(x, [(0, 0), *(edge.zeros for edge in edges), (0, 0)])


def _pad(x, zeros):
    """Adds as many zeros `(before, after)` each axis as `zeros` says."""
    if not any(map(any, zeros)):
        return x
    if keras.backend.backend() != "torch":
        return ops.pad(x, zeros)
    # `ops.pad` counts its calls, and PyTorch compiles a function again for every count.
    for axis, ends in enumerate(zeros):
        if any(ends):
            shape = sizes_of(x)
            before, after = (
                [ops.zeros((*shape[:axis], n, *shape[axis + 1 :]), x.dtype)] if n else []
                for n in ends
            )
            x = ops.concatenate([*before, x, *after], axis)
    return x


def _longest_first(grid):
    """The axes, the longest first; in their own order where a size is not known.

    A signal is most often divided along its longest axis, which is then added up last: what is
    summed along the others moves along it as a whole.
    """
    known = all(map(geometry.is_constant, grid))
    return sorted(range(len(grid)), key=lambda i: -grid[i] if known else i)


def _add_up(columns, axes, size, order):
    """The signal of the next `(block, columns)`, added up along the last axis in order first."""
    if not order:
        block, cells = next(columns)
        return _depth_to_space(cells, axes, block.width)
    i, *others = order
    pieces = (_add_up(columns, axes, size, others) for _ in range(axes[i].blocks))
    return _add_along(i, pieces, axes, size)


def _add_along(i, pieces, axes, size):
    """The sum of the pieces of a signal, one per block along an axis, each moved to its place."""
    axis, total = axes[i], None
    for n, piece in enumerate(pieces):
        edge = _cell_edge(geometry.to_signal, axis, size[i], 0, n * axis.width)
        piece = _fit_along(i, piece, edge, size[i])
        if axis.blocks > 1:
            piece = cast(piece, _dtype_of_sums(piece))
        total = piece if total is None else total + piece
    return total


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


def is_narrow(columns: int, token: int) -> bool:
    """Whether patches of so many numbers are small, and their tokens much wider."""
    return columns < 256 and 4 * columns <= token


def is_half(dtype: Any) -> bool:
    """Whether numbers are in half precision."""
    return keras.backend.standardize_dtype(dtype) in HALF_PRECISIONS


def cast(x: Any, dtype: Any) -> Any:
    """The tensor in the dtype."""
    return x if x.dtype == dtype else ops.cast(x, dtype)
