"""Tensors on every backend: their sizes, zeros and cuts at their ends, products and convolutions.

Tensors are channels last, `(batch, *size, channels)`. What differs between backends, in results or
in speed, is handled here. Only which lowering "auto" takes also depends on it (`_auto.py`).
"""

import functools
import itertools
from typing import Any

import keras
from keras import ops

from keras_unpatchify._sizes import Size, is_constant, is_static

# A tensor of the backend, or what Keras converts to one.
Tensor = Any

# What is in these is added in float32, and the sum is rounded to them at the end.
HALF_PRECISIONS = ("float16", "bfloat16")


def shape_of(x):
    """The shape of a tensor; sizes that are known only at run time are scalars of the backend."""
    shape = tuple(x.shape)
    return ops.shape(x) if None in shape else shape


def batch_of(x: Any, *more: Size) -> Size:
    """The size of the batch for a reshape: -1 if it is the only unknown size, of `x` and `more`.

    A batch of 1 counts as unknown, because exporters trace with it and mean any batch. Where
    another size is unknown, none is inferred: PyTorch's symbolic shapes would make it a quotient.
    """
    batch, *others = shape_of(x)
    others_known = all(map(is_static, (*others, *more)))
    return -1 if others_known and (not is_static(batch) or batch == 1) else batch


def device_of(x):
    """`"cpu"`, or `"gpu"` for any accelerator.

    On jax and TensorFlow it is where they put a tensor unless they are told otherwise.
    """
    if keras.backend.backend() != "torch":
        return _best_device()
    device = getattr(x, "device", None)  # symbolic tensors have none
    return "cpu" if device is None or device.type == "cpu" else "gpu"


@functools.cache
def _best_device():
    if keras.backend.backend() not in ("jax", "tensorflow"):
        return "cpu"
    devices = keras.distribution.list_devices()
    return "cpu" if all(device.startswith("cpu") for device in devices) else "gpu"


def jax_compiles(*xs):
    """Whether jax is tracing with one of these tensors, as under `jax.jit`."""
    if any(isinstance(x, keras.KerasTensor) for x in xs):
        return False  # they have shapes only
    return keras.backend.backend() == "jax" and not all(hasattr(x, "block_until_ready") for x in xs)


def reshape(x, shape):
    """The numbers of a tensor in another shape."""
    # Tensors of torch have a method that starts in less than a tenth of the time.
    return x.reshape(shape) if hasattr(x, "permute") else ops.reshape(x, shape)


def cast(x: Any, dtype: Any) -> Any:
    """The tensor in the dtype."""
    return x if x.dtype == dtype else ops.cast(x, dtype)


def dtype_of_sums(x):
    """The dtype in which tensors like this one are added up."""
    half = keras.backend.standardize_dtype(x.dtype) in HALF_PRECISIONS
    return "float32" if half else x.dtype


def tokens_are_wide(columns: int, token: int) -> bool:
    """Whether a patch has few numbers, and its token at least four times as many channels."""
    return columns < 256 and 4 * columns <= token


def product(x, matrix, transposed=False):
    """(batch, *grid, channels) times (channels, others), which may be transposed."""
    backend = keras.backend.backend()
    if backend == "jax":
        if not transposed and tokens_are_wide(*matrix.shape):
            # The same product. Its gradient for the matrix transposes `x`, not the wider tokens.
            tap = reshape(matrix, (*(1,) * (len(x.shape) - 2), *matrix.shape))
            return ops.conv(x, tap, 1, padding="valid", data_format="channels_last")
        # If the matrix were transposed first, the gradient of a loop would keep a copy of it.
        return cast(ops.tensordot(x, matrix, axes=([-1], [int(transposed)])), x.dtype)
    if transposed:
        matrix = ops.transpose(matrix)
    if backend == "tensorflow":
        # TensorFlow's gradient of a batched product has a matrix for each example and row.
        y = reshape(x, (-1, x.shape[-1])) @ matrix
        return reshape(y, (batch_of(x), *shape_of(x)[1:-1], matrix.shape[-1]))
    # `ops.matmul` rounds float64 on torch and numpy; NumPy widens bfloat16.
    return cast(x @ matrix, x.dtype)


def product_side_by_side(xs, matrix):
    """The product of several tensors whose channels lie side by side."""
    if len(xs) == 1:
        return product(xs[0], matrix)
    widths = {x.shape[-1] for x in xs}
    if keras.backend.backend() == "jax" and len(widths) == 1 and min(widths) >= 256:
        # XLA copies wide tensors faster one after another than side by side.
        rows = reshape(matrix, (len(xs), -1, matrix.shape[-1]))
        return ops.tensordot(ops.stack(xs), rows, axes=((0, -1), (0, 1)))
    return product(ops.concatenate(xs, axis=-1), matrix)


def convolution(x, kernel, strides, grid, padding="valid"):
    """(batch, *size, signal) -> (batch, *grid, token)."""
    y = ops.conv(x, kernel, strides, padding, data_format="channels_last")
    if x.shape[0]:
        return y
    # TensorFlow returns an empty batch unchanged.
    return reshape(y, (batch_of(y, *grid), *grid, kernel.shape[-1]))


def transposed_convolution(x, kernel, strides, padding="valid"):
    """(batch, *grid, token) -> (batch, *size, signal): the natural size, or that of "same"."""
    output_padding = 0 if padding == "valid" else None
    return ops.conv_transpose(x, kernel, strides, padding, output_padding, "channels_last")


def split(x, widths):
    """The last axis, split into pieces of these widths."""
    if len(widths) == 1:
        return [x]
    if len(set(widths)) == 1:
        return ops.split(x, len(widths), axis=-1)
    ends = list(itertools.accumulate(widths))
    if keras.backend.backend() == "torch":
        # PyTorch's compiler treats the places of `ops.split` as unknown data.
        return [x[..., start:end] for start, end in itertools.pairwise([0, *ends])]
    return ops.split(x, ends[:-1], axis=-1)


def in_rounds(x, rounds, axis):
    """(..., channels, ...) -> (rounds, ..., part, ...); zeros fill up the last part."""
    before, channels, after = x.shape[:axis], x.shape[axis], x.shape[axis:][1:]
    part = -(-channels // rounds)
    x = pad(x, [*((0, 0) for _ in before), (0, rounds * part - channels), *((0, 0) for _ in after)])
    return ops.moveaxis(reshape(x, (*before, rounds, part, *after)), len(before), 0)


def fit(x, edges):
    """(batch, *size, channels) -> (batch, *length, channels): the zeros and cuts of each edge."""
    constant = all(is_constant(cut) for edge in edges for cut in edge.cuts)
    # Positions that are cut before zeros are added are neither stored nor moved between devices.
    cut_first = constant and all(
        is_static(n) and sum(edge.cuts) <= n for n, edge in zip(x.shape[1:-1], edges)
    )
    zeros = [(0, 0), *(edge.zeros for edge in edges), (0, 0)]
    if not cut_first:
        x = pad(x, zeros)
    if not constant or any(any(edge.cuts) for edge in edges):
        x = _cut(x, edges, constant, cut_first)
    return pad(x, zeros) if cut_first else x


def _cut(x, edges, constant, zeros_follow):
    if constant and keras.backend.backend() != "tensorflow":
        # The gradient of `ops.slice` on jax gathers a divided axis.
        cuts = [edge.cuts for edge in edges]
        return x[(slice(None), *(slice(front, -back or None) for front, back in cuts))]
    # TensorFlow's gradient of a plain slice takes as long as the rest of a training step.
    batch, *size, channels = shape_of(x)
    length = [
        n if edge.length is None else edge.length - zeros_follow * sum(edge.zeros)
        for n, edge in zip(size, edges)
    ]
    return ops.slice(x, (0, *(edge.cuts[0] for edge in edges), 0), (batch, *length, channels))


def pad(x, zeros):
    """The tensor with zeros at its ends; `zeros` has a pair `(before, after)` for each axis."""
    if not any(map(any, zeros)):
        return x
    if keras.backend.backend() != "torch":
        return ops.pad(x, zeros)
    # `ops.pad` numbers its calls, and PyTorch's compiler compiles again for each number.
    for axis, ends in enumerate(zeros):
        if any(ends):
            shape = shape_of(x)
            before, after = (
                [ops.zeros((*shape[:axis], n, *shape[axis + 1 :]), x.dtype)] if n else []
                for n in ends
            )
            x = ops.concatenate([*before, x, *after], axis)
    return x
