"""What the layers and the functions take: checks of arguments and shapes, and their errors."""

import math
import operator
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal, get_args

from keras_unpatchify._sizes import Axis, Shape, Size, is_static

PerAxis = int | Sequence[int]  # an int, or one per axis
Word = Literal["valid", "same", "circular"]
Padding = Word | int | Sequence[Word | int | Sequence[int]]
Implementation = Literal["auto", "conv_transpose", "matmul", "subpixel"]
Overlap = Literal["sum", "mean"]

IMPLEMENTATIONS, OVERLAPS = get_args(Implementation), get_args(Overlap)
WORDS = get_args(Word)  # of padding

# Backends index a kernel with 32 bits and a tensor with 64.
MAX_KERNEL_ELEMENTS = 2**31 - 1
MAX_TENSOR_ELEMENTS = 2**63 - 1


class RankError(ValueError, AssertionError):
    """An input has the wrong number of axes; also an `AssertionError`, for code that catches it."""


def make_axes(
    patch_size: PerAxis,
    stride: PerAxis | None,
    padding: Padding,
    data_dim: int,
) -> tuple[Axis, ...]:
    """The axes of a patching.

    `stride=None` is the patch. An int, here or for the patch, holds for each of the `data_dim`
    axes. `padding` is a word or an int for all axes, or for each an int or a pair.
    """
    patch = per_axis("patch_size", patch_size, data_dim)
    strides = patch if stride is None else per_axis("stride", stride, data_dim)
    return tuple(map(Axis, patch, strides, _paddings(padding, patch, strides)))


def per_axis(name: str, value: PerAxis, data_dim: int) -> tuple[int, ...]:
    """A positive int, or one per axis, as a tuple with one int per axis."""
    entries = _listed(value, data_dim)
    if len(entries) != data_dim or not all(map(_is_positive, entries)):
        raise ValueError(
            f"`{name}` must be a positive integer, or {data_dim} of them, one per axis. "
            f"Received: {name}={value!r}"
        )
    return tuple(map(_constant, entries))


def _paddings(padding: Any, patch: Sequence[int], stride: Sequence[int]) -> tuple[Any, ...]:
    """The padding of each axis: a word, or a pair `(before, after)`."""
    entries = _listed(padding, len(patch))
    paddings = [(entry, entry) if _is_int(entry) else entry for entry in entries]
    if len(paddings) != len(patch) or not all(map(_is_padding, paddings, patch, stride)):
        raise ValueError(
            "`padding` must be 'valid', 'same', 'circular' or an integer, or for each axis one of "
            "these or a pair (before, after), where 0 <= before < patch and -stride < after < "
            "patch. In 1D, 4 before and 0 after are ((4, 0),); in 2D, (4, 0) is 4 and 4, then 0 "
            "and 0. "
            f"Received: padding={padding!r}, with patch_size={tuple(patch)} and "
            f"stride={tuple(stride)}"
        )
    return tuple(x if isinstance(x, str) else tuple(map(_constant, x)) for x in paddings)


def _listed(value: Any, data_dim: int) -> tuple[Any, ...]:
    """One entry per axis: those of a sequence, an array or a shape, or the same for each axis."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(value) if _is_sequence(value) else (value,) * data_dim


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (tuple, list)) or hasattr(value, "as_list")  # a TensorShape


def _is_padding(padding: Any, patch: int, stride: int) -> bool:
    if isinstance(padding, str):
        return padding in WORDS
    if not _is_sequence(padding) or len(padding) != 2 or not all(map(_is_int, padding)):
        return False
    before, after = padding
    return 0 <= before < patch and -stride < after < patch


def positive_int(name: str, value: int) -> int:
    """A positive int."""
    if not _is_positive(value):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return _constant(value)


def positive_number(name: str, value: float) -> float:
    """A positive finite number; an int stays one."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a positive number. Received: {name}={value!r}")
    return int(value) if _is_int(value) else float(value)


def one_of(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """One of a few values, of the same type."""
    value = int(value) if _is_int(value) else value
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"`{name}` must be one of {expected}. Received: {name}={value!r}")
    return value


def spatial_ints(output_spatial_shape: Sequence[int], data_dim: int) -> tuple[int, ...]:
    """The argument `output_spatial_shape` as a tuple of ints, one per axis."""
    sizes = tuple(output_spatial_shape) if _is_sequence(output_spatial_shape) else ()
    if len(sizes) != data_dim or not all(map(_is_int, sizes)):
        raise ValueError(
            f"`output_spatial_shape` must hold {data_dim} Python integers, one per axis. "
            f"Received: output_spatial_shape={described(output_spatial_shape)}. "
            "Pass a tuple of ints, or `like=tensor` for the size of a tensor. (Within a "
            "`keras.RematScope`, ints arrive as tensors: pass `like` there.)"
        )
    return tuple(map(int, sizes))


def grid_shape(axes: Sequence[Axis], size: Sequence[Size]) -> Shape:
    """The grid of a signal; raises a ValueError if an axis is too short for one token."""
    shortest = tuple(max(axis.shortest, 1) for axis in axes)
    if any(is_static(n) and n < least for n, least in zip(size, shortest)):
        raise ValueError(
            f"The signal must be at least {shortest} long, one patch along each axis. "
            f"Received: spatial shape={as_text(size)}. "
            "Put the channels last, use a smaller `patch_size`, or `padding='same'`, which pads it."
        )
    _check_circular(axes, size)
    return tuple(None if n is None else axis.grid(n) for axis, n in zip(axes, size))


def _check_circular(axes: Sequence[Axis], size: Sequence[Size]) -> None:
    """Checks the size of a signal whose ends meet, where it is known."""
    for axis, n in zip(axes, size):
        if axis.circular and is_static(n) and (n % axis.stride or n < axis.patch):
            raise ValueError(
                "Along a circular axis, the signal must be a multiple of the stride long, and at "
                f"least a patch. Received: spatial shape={as_text(size)}, with patch={axis.patch} "
                f"and stride={axis.stride}. Resample it, or use `padding='same'`."
            )


def spatial_shape(
    axes: Sequence[Axis], grid: Shape, output_spatial_shape: Sequence[Size] | None = None
) -> Shape:
    """The signal's size: the default one of the grid, or the one asked for, if it has this grid."""
    if any(is_static(n) and n < 1 for n in grid):
        raise ValueError(
            "The grid must have at least one token along each axis. "
            f"Received: grid shape={as_text(grid)}"
        )
    ranges = [_size_range(axis, n) for axis, n in zip(axes, grid)]
    if any(low > high for low, high in ranges):
        raise ValueError(
            "The padding must leave at least one position of the signal. "
            f"Received: grid shape={as_text(grid)}, padding={[axis.padding for axis in axes]}. "
            "Use a smaller `padding`, or more tokens."
        )
    if output_spatial_shape is None:
        size = tuple(None if n is None else axis.size(n) for axis, n in zip(axes, grid))
    else:
        size = tuple(output_spatial_shape)
    _check_circular(axes, size)
    if len(size) != len(axes) or any(map(_differs, axes, grid, size)):
        allowed = ", ".join(f"{low} to {high}" for low, high in ranges)
        raise ValueError(
            "`output_spatial_shape`, or the spatial shape of `like`, must be a size that "
            f"`Patchify` turns into the grid {as_text(grid)}: ({allowed}). "
            f"Received: output_spatial_shape={as_text(size)}, with axes {[tuple(a) for a in axes]} "
            "(patch, stride, padding). Use those of your `Patchify`, as `from_patchify` does."
        )
    return size


def _differs(axis: Axis, grid: Size, size: Size) -> bool:
    """Whether a signal is known to have another grid."""
    if grid is None or size is None:
        return False
    difference = axis.grid(size) - grid
    return (is_static(size) and size < 1) or (is_static(difference) and difference != 0)


def _size_range(axis: Axis, grid: Size) -> tuple[int | float, int | float]:
    """The smallest and the largest signal of a grid."""
    return (axis.smallest(grid), axis.largest(grid)) if is_static(grid) else (1, math.inf)


def check_token_count(grid: Shape, tokens: Size) -> None:
    """Checks the number of tokens of a sequence, where it and its grid are known."""
    if all(map(is_static, (*grid, tokens))) and tokens != math.prod(grid):
        raise ValueError(
            f"The sequence must have {math.prod(grid)} tokens, which fill the grid {as_text(grid)} "
            f"of the requested signal. Received: {tokens} tokens. "
            "Slice off class and register tokens, request another size, or use the patch, stride "
            "and padding of the `Patchify`."
        )


def check_input(
    shape: Shape,
    axes: int,
    features: int | None,
    rank_remedy: str = "Reshape the input, or change `data_dim`.",
    channels_remedy: str = "Put the channels last, or change `in_features`.",
) -> None:
    """Checks the shape of an input, `(batch, *axes, channels)`.

    `features=None` takes any number of channels, if it is known; with a number, it need not be.
    The remedies end the errors for a wrong number of axes and of channels.
    """
    if len(shape) != axes + 2:
        raise RankError(
            f"The input must have {axes + 2} axes: batch, {axes} of the grid or signal, channels. "
            f"Received: shape={as_text(shape)}. {rank_remedy}"
        )
    if features is None and not _is_positive(shape[-1]):
        raise ValueError(
            "The input's channels, its last axis, must be known and at least 1. "
            f"Received: shape={as_text(shape)}"
        )
    if features is not None and is_static(shape[-1]) and shape[-1] != features:
        raise ValueError(
            f"The input must have {features} channels on its last axis. "
            f"Received: shape={as_text(shape)}. {channels_remedy}"
        )


def as_shape(shape: Any) -> Shape:
    """A shape as a tuple of ints and `None`."""
    readable = hasattr(shape, "__iter__") and not isinstance(shape, (str, dict))
    if not readable or not all(n is None or (_is_int(n) and n >= 0) for n in shape):
        raise ValueError(
            f"A shape must be a tuple of sizes, each an integer or None. Received: shape={shape!r}"
        )
    return tuple(shape)


def check_elements(name: str, shape: Shape, limit: int = MAX_TENSOR_ELEMENTS) -> None:
    """Refuses a shape of more than `limit` elements; an axis that is not known counts as 1."""
    if math.prod([int(n) for n in shape if is_static(n)]) > limit:
        raise ValueError(
            f"The {name} must have at most {limit} elements. "
            f"Received: shape={as_text(shape)}. Use smaller sizes."
        )


def described(value: Any) -> str:
    """A value as it stands in an error; of a tensor, its type and shape."""
    shape = getattr(value, "shape", None)
    return f"{value!r:.200}" if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"


def as_text(shape: Sequence[Size]) -> tuple[int | None, ...]:
    """A shape as it stands in an error."""
    return tuple(int(n) if is_static(n) else None for n in shape)


def _constant(value: int) -> int:
    """The int as a constant, also where PyTorch's compiler takes it for a variable."""
    return operator.index(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_int(value) and value > 0
