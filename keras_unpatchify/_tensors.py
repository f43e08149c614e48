"""Tensors on every backend: their sizes, zeros and cuts at their ends, products and convolutions.

Tensors are channels last, `(batch, *size, channels)`. What differs between backends, in results or
in speed, is handled here. Only which lowering "auto" takes also depends on it (`_auto.py`).
"""

import functools
import itertools
import math
import sys
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from keras_unpatchify._sizes import Edge, Size, is_constant, is_static


class Tensor(Protocol):
    """A tensor of the backend, or what Keras converts to one, such as an array of NumPy."""

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __add__(self, other: Any, /) -> Any: ...
    def __radd__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __matmul__(self, other: Any, /) -> Any: ...
    def __neg__(self) -> Any: ...
    def __gt__(self, other: Any, /) -> Any: ...


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


def with_channels(x, channels):
    """The tensor with the size of its last axis known, which a graph of TensorFlow may not know."""
    return x if x.shape[-1] is not None else reshape(x, (*shape_of(x)[:-1], channels))


def device_of(x):
    """`"cpu"`, or `"gpu"` for any accelerator.

    On jax and TensorFlow it is where they put a tensor unless they are told otherwise.
    """
    if keras.backend.backend() != "torch":
        return _best_device()
    return "cpu" if x.device.type == "cpu" else "gpu"


@functools.cache
def _best_device():
    known = keras.backend.backend() in ("jax", "tensorflow")
    devices = keras.distribution.list_devices() if known else []
    return "cpu" if all(device.startswith("cpu") for device in devices) else "gpu"


def jax_compiles(*xs):
    """Whether jax is tracing with one of these tensors, as under `jax.jit`."""
    return keras.backend.backend() == "jax" and not all(map(_is_concrete, xs))


def jax_runs_each_operation(*xs):
    """Whether jax compiles each operation on these tensors by itself, as outside of `jax.jit`."""
    return keras.backend.backend() == "jax" and all(map(_is_concrete, xs))


def _is_concrete(x):
    """Whether an array of jax has values, also where it is differentiated or mapped."""
    for inner in ("primal", "val"):
        if hasattr(x, inner):
            return _is_concrete(getattr(x, inner))
    return isinstance(x, np.ndarray) or hasattr(x, "block_until_ready")


def reshape(x, shape):
    """The numbers of a tensor in another shape."""
    # Tensors of torch have a method that starts in less than a tenth of the time.
    return x.reshape(shape) if hasattr(x, "permute") else ops.reshape(x, shape)


def reshape_at(x, place, number, sizes):
    """The tensor with a number of its axes, from a place of the shape on, in other sizes."""
    shape = shape_of(x)
    return reshape(x, (batch_of(x), *shape[1:place], *sizes, *shape[place + number :]))


def as_tensor(x: Any, dtype: Any) -> Any:
    """A tensor, an array or a variable as a tensor of the dtype."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.standardize_dtype(x.dtype) == dtype else ops.cast(x, dtype)


def add_bias(y, bias):
    """The tensor plus a bias for each channel."""
    bias = cast(bias, y.dtype)
    if keras.backend.backend() == "tensorflow":
        return ops.add(y, bias)  # in the same pass as a convolution
    # `ops.add` rounds float64 on torch; jax may be told to add equal ranks only
    return y + reshape(bias, (*(1,) * (len(y.shape) - 1), -1))


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


def blocks_of_tokens(x, kernels, biases):
    """(batch, *grid, token), each (*width, signal, token) -> each (batch, *grid, *width, signal).

    It is one product for all. There may be no biases.
    """
    d, token = len(x.shape) - 2, kernels[0].shape[-1]
    matrix = side_by_side([reshape(kernel, (-1, token)) for kernel in kernels], 0)
    y = _product(x, matrix, transposed=True)
    if biases:
        row = side_by_side([reshape(bias, (-1,)) for bias in biases], 0)
        y = y + reshape(row, (*(1,) * (1 + d), -1))
    shapes = [kernel.shape[:-1] for kernel in kernels]
    blocks = split(y, [math.prod(shape) for shape in shapes], 1 + d)
    return [reshape_at(block, 1 + d, 1, shape) for block, shape in zip(blocks, shapes)]


def tokens_of_patches(x, kernel):
    """(batch, *grid, *patch, signal), (*patch, signal, token) -> (batch, *grid, token)."""
    *patch, signal, token = kernel.shape
    columns, d = math.prod(patch) * signal, len(patch)
    if keras.backend.backend() == "jax" and not tokens_are_wide(columns, token):
        inner = range(1 + d)
        y = ops.tensordot(x, kernel, axes=([1 + d + i for i in inner], [*inner]))
        return cast(y, x.dtype)
    matrix = reshape(kernel, (columns, token))
    return _product(reshape_at(x, 1 + d, 1 + d, (columns,)), matrix)


def _product(x, matrix, transposed=False):
    """(batch, *grid, channels) times (channels, others), which may be transposed."""
    backend = keras.backend.backend()
    if backend == "jax" and transposed:
        # If the matrix were transposed first, the gradient of a loop would keep a copy of it.
        return cast(ops.tensordot(x, matrix, axes=([-1], [-1])), x.dtype)
    if backend == "jax":
        # The same product. Its gradient for the matrix transposes `x`, not the wider tokens.
        tap = reshape(matrix, (*(1,) * (len(x.shape) - 2), *matrix.shape))
        return ops.conv(x, tap, 1, padding="valid", data_format="channels_last")
    if transposed:
        matrix = ops.transpose(matrix)
    if backend == "tensorflow":
        # TensorFlow's gradient of a batched product has a matrix for each example and row.
        y = reshape(x, (-1, x.shape[-1])) @ matrix
        return reshape(y, (batch_of(x), *shape_of(x)[1:-1], matrix.shape[-1]))
    # `ops.matmul` rounds float64 on torch and numpy; NumPy widens bfloat16.
    return cast(x @ matrix, x.dtype)


def convolution(x, kernel, strides, grid, padding="valid"):
    """(batch, *size, signal) -> (batch, *grid, token)."""
    token = kernel.shape[-1]
    y = _native(ops.conv, x, _two_tokens(kernel), strides, padding)
    if y.shape[-1] != token:
        y = y[..., :token]
    if x.shape[0]:
        return y
    # TensorFlow returns an empty batch unchanged.
    return reshape(y, (batch_of(y, *grid), *grid, token))


def pads_itself(axis):
    """Whether the backend's convolution pads where `Patchify` does with "same".

    jax's export differentiates no padding of unknown sizes.
    """
    return axis.same and (keras.backend.backend() != "jax" or is_constant(axis.size))


def crops_itself(axis):
    """Whether the backend's transposed convolution crops where `Patchify` pads with "same".

    With any version of Keras, torch does so only where the same is cropped at both ends.
    """
    even = (axis.patch - axis.stride) % 2 == 0
    return axis.same and (even or keras.backend.backend() == "tensorflow")


def transposed_convolution(x, kernel, strides, padding="valid"):
    """(batch, *grid, token) -> (batch, *size, signal): the natural size, or that of "same"."""
    if keras.backend.backend() == "jax" and padding == "valid" and set(strides) == {1}:
        # The same; XLA differentiates it 10 to 30 times as fast on a CPU.
        ends = [((n - 1) // 2, n // 2) for n in kernel.shape[:-2]]
        x, padding = pad(x, [(0, 0), *ends, (0, 0)]), "same"
    output_padding = 0 if padding == "valid" else None
    x, kernel = _two_tokens(x), _two_tokens(kernel)
    return _native(ops.conv_transpose, x, kernel, strides, padding, output_padding)


def _native(convolve, x, *arguments):
    """A convolution of the backend."""
    # PyTorch's compiler differentiates no such view where a size stands for several.
    if keras.backend.backend() != "torch" or not all(map(is_constant, x.shape[1:-1])):
        return convolve(x, *arguments, data_format="channels_last")
    # Of a view with the channels first, Keras copies nothing, and `torch.vmap` maps it. (ONNX knows
    # no negative axes.)
    last = len(x.shape) - 1
    y = convolve(x.movedim(last, 1), *arguments, data_format="channels_first")
    return y.movedim(1, last)


def _two_tokens(x):
    """A second token channel, of zeros: without it, torch refuses some gradients of the kernel."""
    if keras.backend.backend() != "torch" or x.shape[-1] > 1:
        return x
    return pad(x, [*((0, 0) for _ in x.shape[1:]), (0, 1)])


def side_by_side(xs, axis):
    """The tensors one after another along an axis."""
    return xs[0] if len(xs) == 1 else ops.concatenate(xs, axis)


def split(x, widths, axis):
    """An axis, split into pieces of these widths."""
    if len(widths) == 1:
        return [x]
    if len(set(widths)) == 1:
        return ops.split(x, len(widths), axis)
    ends = list(itertools.accumulate(widths))
    if keras.backend.backend() == "torch":
        # PyTorch's compiler treats the places of `ops.split` as unknown data.
        before = (slice(None),) * axis
        return [x[(*before, slice(*ends))] for ends in itertools.pairwise([0, *ends])]
    return ops.split(x, ends[:-1], axis)


def in_rounds(x, rounds, axis):
    """(..., channels, ...) -> (rounds, ..., part, ...): every round-th channel, filled up by zeros.

    Channels that are divided over devices stay divided.
    """
    before, channels, after = x.shape[:axis], x.shape[axis], x.shape[axis:][1:]
    part = -(-channels // rounds)
    x = pad(x, [*((0, 0) for _ in before), (0, rounds * part - channels), *((0, 0) for _ in after)])
    return ops.moveaxis(reshape(x, (*before, part, rounds, *after)), len(before) + 1, 0)


def take(x, places, axis):
    """The numbers at these places along an axis, which becomes the axes of `places`; -1 is zero."""
    zero = [(0, 0)] * len(x.shape)
    zero[axis] = 0, 1
    return ops.take(pad(x, zero), np.where(places < 0, x.shape[axis], places), axis)


def fit(x, edges):
    """The tensor with the zeros and cuts of `edges`, which has an `Edge` for some of its axes."""
    if any(edge.mode != "plain" for edge in edges.values()):
        for i, edge in edges.items():
            x = fit(x, {i: edge}) if edge.mode == "plain" else _meet(x, i, edge)
        return x
    zeros = [edges[i].zeros if i in edges else (0, 0) for i in range(len(x.shape))]
    constant = all(is_constant(cut) for edge in edges.values() for cut in edge.cuts)
    sizes = [x.shape[i] for i in edges]
    # Positions that are cut before zeros are added are neither stored nor moved between devices.
    if constant and all(is_static(n) and sum(e.cuts) <= n for n, e in zip(sizes, edges.values())):
        lengths = {i: x.shape[i] - sum(edge.cuts) for i, edge in edges.items()}
        return pad(_cut(x, edges, lengths), zeros)
    return _cut(pad(x, zeros), edges, {i: edge.length for i, edge in edges.items()}, constant)


def _cut(x, edges, lengths, constant=True):
    """Cuts off what each edge says; what is left has the lengths."""
    if constant and not any(any(edge.cuts) for edge in edges.values()):
        return x
    axes = range(len(x.shape))
    if constant and keras.backend.backend() != "tensorflow":
        # The gradient of `ops.slice` on jax gathers a divided axis.
        cuts = [edges[i].cuts if i in edges else (0, 0) for i in axes]
        return x[tuple(slice(front, -back or None) for front, back in cuts)]
    if not all(_fits(length, x.shape[i]) for i, length in lengths.items()):
        for i, length in lengths.items():
            x = ops.take(x, ops.arange(0, length, dtype="int32") + edges[i].cuts[0], i)
        return x
    # TensorFlow's gradient of a plain slice takes as long as the rest of a training step.
    start = [edges[i].cuts[0] if i in edges else 0 for i in axes]
    return ops.slice(x, start, [lengths.get(i, n) for i, n in enumerate(shape_of(x))])


def _fits(length, size):
    """Whether a slice is known to fit, which jax's export may be unable to decide."""
    try:
        return keras.backend.backend() != "jax" or length <= size
    except Exception:  # its name differs between versions of jax
        return False


def in_whole_strides(x, place, patch, stride):
    """The tensor, whose axis of unknown size the backend finds to be a whole number of strides."""
    size = shape_of(x)[place]
    whole = size // stride * stride
    if keras.backend.backend() == "jax":  # whose export cannot compare them
        return fit(x, {place: Edge((0, 0), (0, size - whole), whole)})
    missing = (size - patch - abs(size - patch)) // 2  # 0, if a patch fits
    with keras.name_scope("a_circular_axis_must_be_a_multiple_of_the_stride_and_at_least_a_patch"):
        return reshape_at(x, place, 1, (whole + missing,))


def _meet(x, place, edge):
    """The tensor with an edge of a circular axis, whose ends meet."""
    front, back = (added - cut for added, cut in zip(edge.zeros, edge.cuts))
    if keras.backend.backend() == "jax" and not is_constant(edge.length):
        return _meet_by_gathering(x, place, front, edge)
    if front + back == 0 and is_constant(edge.length):
        return _rolled(x, place, front)
    body = _ends_cut(x, place, max(0, -front), max(0, -back))
    if edge.mode == "wrap":
        last, first = _end(x, place, front, False), _end(x, place, back, True)
        return ops.concatenate([*last, body, *first], place)
    zeros = [(0, 0)] * len(x.shape)
    zeros[place] = max(0, front), max(0, back)
    body = pad(body, zeros)
    head, tail = _end(x, place, -front, True), _end(x, place, -back, False)
    # what was cut off at one end is added at the other
    at_start = [_end(body, place, -back, True)[0] + end for end in tail]
    at_end = [_end(body, place, -front, False)[0] + end for end in head]
    middle = _ends_cut(body, place, max(0, -back), max(0, -front))
    return ops.concatenate([*at_start, middle, *at_end], place)


def _rolled(x, place, number):
    """The tensor with so many of its last positions first, along an axis of known size."""
    if keras.backend.backend() == "torch":  # which differentiates pieces more slowly
        return ops.roll(x, number, place)
    # LiteRT has no roll, and jax makes of its gradient a sum of padded tensors, which are not
    # divided over devices as it is.
    cut = -number % x.shape[place]
    first, last = split(x, [cut, x.shape[place] - cut], place)
    return ops.concatenate([last, first], place)


def _meet_by_gathering(x, place, front, edge):
    """The same for jax's export, which cannot compare the sizes that slices have."""
    size, position = x.shape[place], ops.arange(0, edge.length, dtype="int32") - front
    x = pad(x, [(0, int(i == place)) for i in range(len(x.shape))])
    if edge.mode == "wrap":
        return ops.take(x, position % size, place)
    turns = (position + turn * edge.length for turn in (-1, 0, 1))
    return sum(ops.take(x, ops.where((p >= 0) & (p < size), p, size), place) for p in turns)


def _ends_cut(x, place, front, back):
    length = shape_of(x)[place] - front - back
    return fit(x, {place: Edge((0, 0), (front, back), length)})


def _end(x, place, number, first):
    """So many of the first positions, or of the last; nothing, if the number is not positive."""
    if number <= 0:
        return []
    rest = shape_of(x)[place] - number
    return [_ends_cut(x, place, 0, rest) if first else _ends_cut(x, place, rest, 0)]


def pad(x, zeros):
    """The tensor with zeros at its ends; `zeros` has a pair `(before, after)` for each axis."""
    if not any(map(any, zeros)):
        return x
    if keras.backend.backend() != "torch":
        return ops.pad(x, zeros)
    # `ops.pad` numbers its calls, and PyTorch's compiler compiles again for each number.
    ends = [n for pair in reversed(zeros) for n in pair]
    return sys.modules["torch"].nn.functional.pad(x, ends)


def pad_from(x, place, zeros):
    """The tensor with zeros at the ends of its axes from a place of the shape on.

    LiteRT pads at most 5 axes. So those between the batch and the place become one, but on jax,
    where one of them may be divided over devices.
    """
    if keras.backend.backend() == "jax" or not any(map(any, zeros)):
        return pad(x, [*((0, 0),) * place, *zeros])
    between = shape_of(x)[1:place]
    x = reshape_at(x, 1, len(between), (math.prod(between),))
    return reshape_at(pad(x, [(0, 0), (0, 0), *zeros]), 1, 1, between)
