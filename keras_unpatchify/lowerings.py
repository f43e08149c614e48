"""The ways to compute the product with every patch, each in both directions.

A lowering is two functions, which are adjoint to each other without a bias:

    tokens(x, kernel, axes, grid)        (batch, *size, signal) -> (batch, *grid, token)
    signal(x, kernel, bias, axes, size)  (batch, *grid, token) -> (batch, *size, signal)

The kernel is `(*patch, signal, token)`. The bias is `None`, or what each patch adds,
`(*patch, signal)`. A size of `None` is the default size along its axis.

- `conv_transpose` is the backend's convolution with the whole patch.
- `matmul` is a matrix product with whole patches. For a signal, it cuts the patches into blocks, at
  most one stride wide, and adds them up at their places, axis by axis. On jax, it loops over blocks
  where they have many numbers, and adds up some positions apart where a signal grows.
- `subpixel` sees the signal as cells, one stride long. It is a convolution of stride 1 over cells,
  whose channels are the positions in a cell (Shi et al., "Is the deconvolution layer the same as a
  convolutional layer?", 2016).

None of them merges two axes of the grid, two of the signal, or one of these with the batch, except
`matmul` on TensorFlow. If a signal is divided over devices along an axis, `matmul` therefore keeps
it divided. The backend's convolutions may gather it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from keras_unpatchify import blocks, geometry, tensors

# jax loops over blocks where patches have this many times the numbers of token and cell, or more.
LOOPS_FROM = 3


class Lowering(NamedTuple):
    """One way to compute, in both directions."""

    tokens: Callable
    signal: Callable


def conv_transpose_tokens(x, kernel, axes, grid):
    """The backend's strided convolution."""
    size = tensors.shape_of(x)[1:-1]
    edges = [geometry.to_patches(axis, n) for axis, n in zip(axes, size)]
    x = tensors.fit(x, edges, [axis.natural(n) for axis, n in zip(axes, grid)])
    return tensors.convolution(x, kernel, [axis.stride for axis in axes], grid)


def conv_transpose_signal(x, kernel, bias, axes, size):
    """The backend's transposed convolution, from the first patch to the last, then made to fit."""
    strides = [axis.stride for axis in axes]
    if all(map(_crops_itself, axes, size)):
        y = tensors.transposed_convolution(x, kernel, strides, "same")
    else:
        edges = [geometry.to_signal(axis, n) for axis, n in zip(axes, size)]
        y = tensors.fit(tensors.transposed_convolution(x, kernel, strides), edges, size)
    return _add_patch_bias(y, x, bias, axes, size)


def matmul_tokens(x, kernel, axes, grid):
    """The product with all blocks of a patch."""
    loops = _loops(x, kernel, axes, grid)
    if loops:
        return _tokens_by_loops(x, kernel, axes, grid, loops)
    return product_of_patches(x, kernel, axes, grid)


def product_of_patches(x, kernel, axes, grid):
    """The same, where all blocks exist at once, side by side."""
    size, spare = tensors.shape_of(x)[1:-1], _spare(x, axes, grid)
    length = [(g + more) * axis.stride for axis, g, more in zip(axes, grid, spare)]
    columns, order = [], tuple(range(len(axes)))
    for start, width in blocks.of_patch(axes, order):
        edges = [
            blocks.cell_edge(geometry.to_patches, *args) for args in zip(axes, size, spare, start)
        ]
        cells = tensors.fit(x, edges, length)
        columns.append(blocks.space_to_depth(cells, axes, grid, spare, width))
    return tensors.product_side_by_side(columns, blocks.matrix(kernel, axes, order))


def matmul_signal(x, kernel, bias, axes, size):
    """The sum of all blocks of all patches, each moved to its place."""
    loops = _loops(x, kernel, axes, tensors.shape_of(x)[1:-1])
    if loops:
        return _signal_by_loops(x, kernel, bias, axes, size, loops)
    return sum_of_patches(x, kernel, bias, axes, size, _apart(x, axes, size))


def sum_of_patches(x, kernel, bias, axes, size, apart=()):
    """The same, where all blocks exist at once; `apart` is what `_apart` finds."""
    order = _longest_first(tensors.shape_of(x)[1:-1])
    columns = tensors.product(x, blocks.matrix(kernel, axes, order), transposed=True)
    if bias is not None:
        columns = columns + blocks.matrix(bias, axes, order)
    return _add_up_in_parts(blocks.split(columns, axes, order), axes, size, order, apart)


def subpixel_tokens(x, kernel, axes, grid):
    """The convolution over the cells of the signal."""
    size = tensors.shape_of(x)[1:-1]
    extra = [axis.blocks - 1 for axis in axes]
    length = [g + n for g, n in zip(grid, extra)]
    edges = [blocks.cell_edge(geometry.to_patches, *args) for args in zip(axes, size, extra)]
    x = tensors.fit(x, edges, [n * axis.stride for axis, n in zip(axes, length)])
    cells = blocks.space_to_depth(x, axes, length, [0] * len(axes), _cell(axes))
    return tensors.convolution(cells, blocks.taps(kernel, axes, _cell(axes)), 1, grid)


def subpixel_signal(x, kernel, bias, axes, size):
    """The transposed convolution to cells, whose channels are the signal."""
    cells = tensors.transposed_convolution(x, blocks.taps(kernel, axes, _cell(axes)), 1)
    extra = [axis.blocks - 1 for axis in axes]
    edges = [blocks.cell_edge(geometry.to_signal, *args) for args in zip(axes, size, extra)]
    y = tensors.fit(blocks.depth_to_space(cells, axes, _cell(axes)), edges, size)
    return _add_patch_bias(y, x, bias, axes, size)


# By the names of the argument `implementation`.
LOWERINGS = {
    "conv_transpose": Lowering(conv_transpose_tokens, conv_transpose_signal),
    "matmul": Lowering(matmul_tokens, matmul_signal),
    "subpixel": Lowering(subpixel_tokens, subpixel_signal),
}


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
    ones = ops.ones((1, *tensors.shape_of(x)[1:-1], 1), x.dtype)
    biases = sum_of_patches(ones, ops.expand_dims(bias, -1), None, axes, size)
    return y + tensors.cast(biases, y.dtype)


def _cell(axes):
    return [axis.in_cell for axis in axes]


def _spare(x, axes, grid):
    """The cells that no patch uses. They stay, because all cells divide over devices evenly."""
    sizes = zip(axes, tensors.shape_of(x)[1:-1], grid)
    return [max(0, n // a.stride - g) if geometry.is_constant(n) else 0 for a, n, g in sizes]


def _loops(x, kernel, axes, grid):
    """The axes along which jax loops over blocks; none where all blocks may exist at once.

    XLA makes all blocks of all patches before it multiplies or adds them. A loop makes those of one
    block along an axis at a time, and holds a sum. Loops within it add to the same sum. Outside of
    a trace there are no loops, because jax would compile them again at every call.
    """
    if not tensors.jax_compiles(x, kernel) or not all(map(geometry.is_constant, grid)):
        return []
    *_, signal, token = kernel.shape
    cell = signal * math.prod([axis.stride for axis in axes])
    numbers, loops = math.prod(kernel.shape[:-1]), list[int]()
    for i in _longest_first(grid):
        most = LOOPS_FROM * (token + cell) - (cell if loops else 0)
        if axes[i].blocks > 1 and numbers >= most:
            loops.append(i)
            numbers = numbers // axes[i].patch * axes[i].width
    return loops


def _tokens_by_loops(x, kernel, axes, grid, loops):
    """The product with one block along each axis of `loops` after another, added up."""
    spare = _spare(x, axes, grid)
    axes_of_block = blocks.axes_of_one(axes, loops, spare)
    length = [(g + more) * axis.stride for axis, g, more in zip(axes, grid, spare)]
    around, before = _rings(axes, x.shape[1:-1], length, loops)

    def add(carry, kernel, loops, masks):
        """The ring, rolled on, and the sum with the blocks of the kernel."""
        if not loops:
            ring, total = carry
            piece = ring
            for i, inside in masks.items():
                piece = tensors.to_length(tensors.zero_outside(inside, piece), i, length[i])
            tokens = product_of_patches(piece, kernel, axes_of_block, grid)
            return ring, total + tensors.cast(tokens, total.dtype)
        i, *others = loops

        def step(carry, block):
            n, part = block
            inside = _inside(n, axes[i], before[i], around[i], len(axes) - i)
            ring, total = add(carry, part, others, masks | {i: inside})
            for j in others[:1]:  # back to where it was before the loop within
                ring = tensors.roll(ring, j, axes[j].blocks * axes[j].width)
            return (tensors.roll(ring, i, -axes[i].width), total), None

        parts = ops.stack(blocks.along(kernel, i, axes[i]))
        return ops.scan(step, carry, [ops.arange(0, axes[i].blocks), parts])[0]

    ring = x
    for i in loops:
        ring = tensors.roll(tensors.to_length(ring, i, around[i]), i, before[i])
    zeros = ops.zeros((x.shape[0], *grid, kernel.shape[-1]), tensors.dtype_of_sums(x))
    return add((ring, zeros), kernel, loops, {})[1]


def _signal_by_loops(x, kernel, bias, axes, size, loops):
    """The sum of one block along each axis of `loops` after another, from the last to the first."""
    batch, *grid, _ = x.shape
    size = [axis.size(n) if m is None else m for axis, n, m in zip(axes, grid, size)]
    axes_of_block = blocks.axes_of_one(axes, loops, [0] * len(axes))
    size_of_block = [None if i in loops else n for i, n in enumerate(size)]
    length = [g * axis.stride for axis, g in zip(axes, grid)]
    around, before = _rings(axes, size, length, loops)

    def add(total, arrays, loops, masks):
        """The sum with the blocks of the arrays, a kernel and perhaps a bias."""
        if not loops:
            kernel, bias = (*arrays, None)[:2]
            piece = sum_of_patches(x, kernel, bias, axes_of_block, size_of_block)
            for i, inside in masks.items():
                piece = tensors.zero_outside(inside, tensors.to_length(piece, i, around[i]))
            return total + tensors.cast(piece, total.dtype)
        i, *others = loops

        def step(total, block):
            n, *parts = block
            inside = _inside(n, axes[i], before[i], around[i], len(axes) - i)
            total = tensors.roll(total, i, axes[i].width)
            for j in others[:1]:  # where the loop within rolls it on from
                total = tensors.roll(total, j, -axes[j].blocks * axes[j].width)
            return add(total, parts, others, masks | {i: inside}), None

        # Exporters lack loops in reverse, and `ops.flip` moves more of a divided signal.
        parts = [ops.stack(blocks.along(array, i, axes[i])[::-1]) for array in arrays]
        return ops.scan(step, total, [ops.arange(axes[i].blocks - 1, -1, -1), *parts])[0]

    zeros = ops.zeros((batch, *around, kernel.shape[-2]), tensors.dtype_of_sums(x))
    total = add(zeros, [kernel] if bias is None else [kernel, bias], loops, {})
    for i in loops:
        total = tensors.to_length(tensors.roll(total, i, -before[i]), i, size[i])
    return total


def _rings(axes, size, length, loops):
    """The length of the ring along each axis, and how far patches reach before the signal.

    A ring is a signal whose ends meet, as long as the cells at least. Along an axis without a loop
    it is the signal.
    """
    around = [max(n, m) if i in loops else n for i, (n, m) in enumerate(zip(size, length))]
    return around, [axis.reach(axis.unused(n))[0] for axis, n in zip(axes, size)]


def _inside(n, axis, before, around, after):
    """Where a ring that holds block `n` of all patches is inside of the patches and of the signal.

    What lies outside would come in again at the other end. The shape is `(around, 1, ..., 1)`, with
    `after` axes of 1.
    """
    position = ops.arange(0, around)
    in_patch = n * axis.width + position % axis.stride
    in_signal = n * axis.width + position - before
    inside = (in_patch < axis.patch) & (in_signal >= 0) & (in_signal < around)
    return ops.reshape(inside, (around, *(1,) * after))


def _longest_first(grid):
    """The axes, the longest first; in their own order where a size is not known.

    A signal is most often divided along its longest axis, which is then added up last: what is
    summed along the others moves along it as a whole.
    """
    known = all(map(geometry.is_constant, grid))
    return tuple(sorted(range(len(grid)), key=lambda i: -grid[i] if known else i))


def _apart(x, axes, size):
    """How many positions at the beginning of each axis jax adds up apart from the rest.

    They are as many as the signal has more than the cells. If a divided axis grows, it is divided
    anew, which moves more than all else. So the rest is added up in the length of the cells, and
    grows once. Zeros at the beginning move a little less than zeros at the end.
    """
    found = [0] * len(axes)
    # A series moves little, and takes up to a fifth longer with it.
    if len(axes) == 1 or not tensors.jax_compiles(x):
        return found
    for i, (axis, tokens, positions) in enumerate(zip(axes, x.shape[1:-1], size)):
        positions = axis.size(tokens) if positions is None else positions
        if axis.blocks > 1 and geometry.is_constant(tokens) and geometry.is_constant(positions):
            cells = tokens * axis.stride
            if 0 < positions - cells <= cells - axis.padding[0]:
                found[i] = positions - cells
    return found


def _add_up_in_parts(columns, axes, size, order, apart):
    """The signal of `(block, columns)`, with some positions at its beginning added up apart."""
    if not any(apart):
        return _add_up(columns, axes, size, order)
    columns = list(columns)
    rest = [axis.without_first(n) for axis, n in zip(axes, apart)]
    size_of_rest = [m and m - n for m, n in zip(size, apart)]
    y = _add_up(iter(columns), rest, size_of_rest, order)
    y = tensors.pad(y, [(0, 0), *((n, 0) for n in apart), (0, 0)])
    for i, number in enumerate(apart):
        if number:
            first = axes[i].only_first(number)
            tokens = first.grid(number)
            some = ((block, tensors.first(cells, i, tokens)) for block, cells in columns)
            changed = (_with(axes, i, first), _with(size, i, number), order, _with(apart, i, 0))
            y = tensors.with_first(y, i, _add_up_in_parts(some, *changed))
    return y


def _with(values, i, value):
    """The values, with another one at `i`."""
    return [*values[:i], value, *values[i + 1 :]]


def _add_up(columns, axes, size, order):
    """The signal of the next `(block, columns)`, added up along the last axis in order first."""
    if not order:
        (_, width), cells = next(columns)
        return blocks.depth_to_space(cells, axes, width)
    i, *others = order
    pieces = (_add_up(columns, axes, size, others) for _ in range(axes[i].blocks))
    return _add_along(i, pieces, axes, size)


def _add_along(i, pieces, axes, size):
    """The sum of the pieces of a signal, one per block along an axis, each moved to its place."""
    axis, total = axes[i], None
    for n, piece in enumerate(pieces):
        edge = blocks.cell_edge(geometry.to_signal, axis, size[i], 0, n * axis.width)
        piece = tensors.fit_along(piece, i, edge, size[i])
        if axis.blocks > 1:
            piece = tensors.cast(piece, tensors.dtype_of_sums(piece))
        total = piece if total is None else total + piece
    return total
