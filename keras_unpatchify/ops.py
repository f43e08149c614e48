"""The mathematics: `patchify` and its adjoint `unpatchify`, stateless, in `keras.ops` alone.

Both take the one kernel, `(*patch, signal, token)` with its numbers of signal and token channels last, and compute one
function by either of two lowerings: the backend's native convolution, or a matrix product and a rearrangement.
"""

import math

import keras
from keras import ops

from keras_unpatchify import geometry

IMPLEMENTATIONS = ("auto", "conv_transpose", "matmul")
OVERLAPS = ("sum", "mean")

# In these the matrix product is kept in float32 until overlapping patches are added: a sum is rounded once, as it is by
# a native convolution.
HALF_PRECISIONS = ("float16", "bfloat16")

# Where patches overlap, "auto" takes the native convolution on these backends if there are fewer token channels per
# signal channel than the number, but more than one (PyTorch refuses some gradients of one); else the matrix product.
NATIVE_BELOW = {"torch": 8, "tensorflow": 8}


def patchify(x, kernel, bias=None, *, stride=None, padding="valid", implementation="auto"):
    """Tokens of a signal: the strided convolution with `kernel`.

    Args:
        x: signal, `(batch, *size, signal)`.
        kernel: `(*patch, signal, token)` with one to three patch axes.
        bias: `(token,)`, or `None`.
        stride: positions from one patch to the next, an int or one per axis; `None` means the patch.
        padding: `"valid"` drops what fills no patch on the right; `"same"` pads with zeros, half of them (rounded down)
            before.
        implementation: `"auto"`, `"conv_transpose"` (here its adjoint, the backend's convolution) or `"matmul"`.

    Returns:
        Tokens, `(batch, *grid, token)`, each axis `(size - patch) // stride + 1` for `"valid"` and
        `ceil(size / stride)` for `"same"`.

    Raises:
        ValueError: if arguments and shapes do not fit, before anything is computed.
    """
    axes, signal, token = _read(kernel, stride, padding)
    _check_bias(bias, [(token,)])
    x, kernel, bias = _tensors(x, kernel, bias)
    geometry.check_input(x.shape, len(axes), signal)
    batch, *size, _ = ops.shape(x)
    grid = geometry.grid_shape(axes, size)
    native = _is_native(implementation, axes, signal, token)
    patched = [axis.natural(n) + axis.remainder * (not native) for axis, n in zip(axes, grid)]
    x = _fit(x, geometry.edges(axes, size, whole_blocks=not native, sign=-1), patched)
    if native:
        y = ops.conv(x, kernel, [axis.stride for axis in axes], padding="valid", data_format="channels_last")
    else:
        y = _matmul(_gather_patches(x, axes, batch, grid), ops.reshape(kernel, (-1, token)))
    y = ops.reshape(y, (_rows(batch, grid), *grid, token))
    return y if bias is None else y + bias


def unpatchify(
    x,
    kernel,
    bias=None,
    *,
    stride=None,
    padding="valid",
    output_spatial_shape=None,
    overlap="sum",
    implementation="auto",
):
    """The signal of tokens: the transposed convolution with `kernel`, the adjoint of `patchify`.

    Args:
        x: tokens, `(batch, *grid, token)`.
        kernel: `(*patch, signal, token)` with one to three patch axes.
        bias: `(signal,)`, added once to every position, or `(*patch, signal)`, added by every patch; or `None`.
        stride: positions from one patch to the next, an int or one per axis; `None` means the patch.
        padding: `"valid"`, or `"same"`, which crops what `patchify` pads.
        output_spatial_shape: which of the sizes that `patchify` turns into this grid to return, one number per axis.
            `None` means `(grid - 1) * stride + patch` for `"valid"` and `grid * stride` for `"same"`.
        overlap: `"sum"` adds what patches give to one position; `"mean"` divides the sum by their number, before a
            `(signal,)` bias is added.
        implementation: `"auto"`, `"conv_transpose"` or `"matmul"`.

    Returns:
        Signal, `(batch, *size, signal)`. Positions that no patch covers hold the `(signal,)` bias, or zero.

    Raises:
        ValueError: if arguments and shapes do not fit, before anything is computed.
    """
    axes, signal, token = _read(kernel, stride, padding)
    _check_bias(bias, [(signal,), tuple(kernel.shape[:-1])])
    x, kernel, bias = _tensors(x, kernel, bias)
    geometry.check_input(x.shape, len(axes), token)
    batch, *grid, _ = ops.shape(x)
    size = geometry.spatial_shape(axes, grid, output_spatial_shape)
    geometry.check_elements("output", (x.shape[0], *size, signal))
    geometry.one_of("overlap", overlap, OVERLAPS)
    native = _is_native(implementation, axes, signal, token)
    edges = geometry.edges(axes, output_spatial_shape, whole_blocks=not native, sign=1)
    if output_spatial_shape is not None:
        x = _compare_grid(x, axes, grid, size)
    dtype = x.dtype
    if not native and _overlapping(axes) and keras.backend.standardize_dtype(dtype) in HALF_PRECISIONS:
        x, kernel, bias = (None if a is None else ops.cast(a, "float32") for a in (x, kernel, bias))
    if bias is not None and not native and all(axis.tiles for axis in axes) and not any(map(any, next(zip(*edges)))):
        bias = ops.broadcast_to(bias, kernel.shape[:-1])  # each position lies in one patch: part of the product, then
    patch_bias, bias = (bias, None) if bias is not None and len(bias.shape) > 1 else (None, bias)
    if native:
        y = _transposed_convolution(x, kernel, patch_bias, axes)
    else:
        y = _sum_patches(_product(x, kernel, patch_bias), axes, batch, grid, signal)
    y = _fit(y, edges, size)
    if overlap == "mean" and _overlapping(axes):
        y = y / _coverage(axes, grid, size, y.dtype)
    return _cast(y if bias is None else y + bias, dtype)


def _tensors(*arrays):
    return [None if array is None else ops.convert_to_tensor(array) for array in arrays]


def _matmul(a, b):
    # `ops.matmul`, like `ops.add`, rounds float64 to float32 on torch and numpy; NumPy widens bfloat16 to float32.
    return _cast(a @ b, a.dtype)


def _cast(x, dtype):
    return x if x.dtype == dtype else ops.cast(x, dtype)


def _read(kernel, stride, padding):
    """The axes and the numbers of signal and token channels of a kernel."""
    shape = tuple(getattr(kernel, "shape", ()))
    if not 3 <= len(shape) <= 5:
        raise ValueError(
            "The kernel must have the shape (*patch, signal channels, token channels) with one to three patch axes. "
            f"Received: kernel.shape={shape}"
        )
    *patch, signal, token = shape
    return geometry.make_axes(patch, stride, padding, len(patch)), signal, token


def _check_bias(bias, shapes):
    if bias is not None and tuple(bias.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"The bias must have the shape {expected}. Received: bias.shape={tuple(bias.shape)}")


def _overlapping(axes):
    return any(axis.blocks > 1 for axis in axes)


def _is_native(implementation, axes, signal, token):
    """Whether to compute with the backend's convolution rather than with a matrix product."""
    if geometry.one_of("implementation", implementation, IMPLEMENTATIONS) != "auto":
        return implementation == "conv_transpose"
    return _overlapping(axes) and 1 < token < signal * NATIVE_BELOW.get(keras.backend.backend(), 0)


def _transposed_convolution(x, kernel, patch_bias, axes):
    """(batch, *grid, token) -> (batch, *natural size, signal)."""
    if patch_bias is not None:  # one more token channel, of ones
        x = ops.concatenate([x, ops.ones_like(x[..., :1])], axis=-1)
        kernel = ops.concatenate([kernel, ops.expand_dims(patch_bias, -1)], axis=-1)
    strides = [axis.stride for axis in axes]
    return ops.conv_transpose(x, kernel, strides, padding="valid", output_padding=0, data_format="channels_last")


def _product(x, kernel, patch_bias):
    """(batch, *grid, token) -> (tokens, prod(patch) * signal)."""
    token = kernel.shape[-1]
    y = _matmul(ops.reshape(x, (-1, token)), ops.transpose(ops.reshape(kernel, (-1, token))))
    return y if patch_bias is None else y + ops.reshape(patch_bias, (-1,))


def _sum_patches(y, axes, batch, grid, signal):
    """(tokens, prod(patch) * signal) -> (batch, *blocked size, signal).

    Adds the blocks of `stride` positions in which patches overlap, axis by axis, then moves each block to its place.
    """
    blocked = _blocked(axes, grid)
    for i, axis in enumerate(axes):
        if not axis.tiles:
            before, between, inner = _around(axes, batch, grid, signal, i)
            y = ops.reshape(y, (before, grid[i], between, axis.patch * inner))
            if axis.remainder:
                y = ops.pad(y, [(0, 0), (0, 0), (0, 0), (0, axis.remainder * inner)])
            blocks = enumerate(ops.split(y, axis.blocks, axis=-1))
            first, *others = [ops.pad(b, [(0, 0), (j, axis.blocks - 1 - j), (0, 0), (0, 0)]) for j, b in blocks]
            y = sum(others, first)
    order = [k for i in range(len(axes)) for k in (i, len(axes) + i)]
    y = ops.reshape(y, (_rows(batch, grid, blocked[0]), *blocked[1:], *_strides(axes, signal)))
    size = [n * axis.stride for axis, n in zip(axes, blocked)]
    return ops.reshape(ops.transpose(y, order), (_rows(batch, grid), *size, signal))


def _gather_patches(x, axes, batch, grid):
    """(batch, *blocked size, signal) -> (tokens, prod(patch) * signal): the adjoint of `_sum_patches`, step by step."""
    signal = x.shape[-1]
    blocks, *interleaved = [n for pair in zip(_blocked(axes, grid), _strides(axes, signal)) for n in pair]
    order = (*range(0, 2 * len(axes), 2), *range(1, 2 * len(axes), 2))
    x = ops.transpose(ops.reshape(x, (_rows(batch, grid, blocks), *interleaved)), order)
    for i, axis in reversed(list(enumerate(axes))):
        if not axis.tiles:
            before, between, inner = _around(axes, batch, grid, signal, i)
            x = ops.reshape(x, (before, grid[i] + axis.blocks - 1, between, axis.stride * inner))
            widths = [axis.stride * inner] * (axis.blocks - 1) + [(axis.stride - axis.remainder) * inner]
            rows = ops.shape(x)[0], grid[i], between
            x = ops.concatenate([ops.slice(x, (0, j, 0, 0), (*rows, n)) for j, n in enumerate(widths)], axis=-1)
    return ops.reshape(x, (-1, math.prod([axis.patch for axis in axes]) * signal))


def _rows(batch, grid, *sizes):
    """A batch and sizes, merged; where nothing but the batch is unknown -1, which a reshape infers.

    A batch of 1 counts as unknown: exporters trace with it for any.
    """
    only_batch = (not geometry.is_static(batch) or batch == 1) and all(map(geometry.is_static, grid))
    return -1 if only_batch else math.prod((batch, *sizes))


def _blocked(axes, grid):
    """Blocks of `stride` positions along each axis."""
    return [n + axis.blocks - 1 for axis, n in zip(axes, grid)]


def _strides(axes, signal):
    """Positions of a block along each axis, the channels merged into the last."""
    *outer, last = [axis.stride for axis in axes]
    return *outer, last * signal


def _around(axes, batch, grid, signal, i):
    """Sizes before token axis i, between it and its positions, and inside those, merged; axes before i are done."""
    before = _rows(batch, grid, *_blocked(axes, grid)[:i])
    between = math.prod(grid[i + 1 :]) * math.prod([axis.stride for axis in axes[:i]])
    return before, between, math.prod([axis.patch for axis in axes[i + 1 :]]) * signal


def _fit(x, edges, size):
    """Adds zeros to each axis between the first and the last, then takes off what is not of the size.

    `edges` are those of `geometry.edges`.
    """
    zeros, cuts = zip(*edges)
    if any(map(any, zeros)):
        x = ops.pad(x, [(0, 0), *zeros, (0, 0)])
    if not all(geometry.is_static(n) and n == 0 for cut in cuts for n in cut):
        x = ops.slice(x, (0, *(front for front, _ in cuts), 0), (ops.shape(x)[0], *size, x.shape[-1]))
    return x


def _compare_grid(x, axes, grid, size):
    """Lets the backend compare, when it runs, the grid with that of a size where it knows them no sooner."""
    if all(map(geometry.is_static, (*grid, *size))):
        return x
    expected = [axis.grid(n) for axis, n in zip(axes, size)]
    with keras.name_scope("output_spatial_shape_must_be_patched_into_this_grid"):
        return ops.concatenate([x, ops.zeros((0, *expected, x.shape[-1]), x.dtype)], axis=0)


def _coverage(axes, grid, size, dtype):
    """How many patches cover each position, at least 1: (*size, 1)."""
    coverage = ops.ones((), dtype)
    for axis, n, positions in zip(axes, grid, size):
        count = _sum_patches(ops.ones((n, axis.patch), dtype), [axis], 1, [n], signal=1)
        edges = geometry.edges([axis], [positions], whole_blocks=True, sign=1)
        coverage = ops.expand_dims(coverage, -1) * ops.maximum(_fit(count, edges, [positions])[0, :, 0], 1)
    return ops.expand_dims(coverage, -1)
