"""Sizes along each axis of a patching, from the signal to the grid and back, and their checks.

A size is an int, `None` where it is not known yet, or a backend's scalar where it is known only at
run time. No size of a signal or a grid is computed anywhere else. What follows from ints alone is
remembered.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, TypeVar

Function = TypeVar("Function", bound=Callable)
Size = Any  # an int, `None`, or a backend's scalar
Shape = tuple[Size, ...]
# The positions at the two ends of an axis.
Pair = tuple[Size, Size]
# What the arguments take: an int, or one entry per axis.
PerAxis = int | Sequence[int]
Padding = Literal["valid", "same"] | int | Sequence[int | Sequence[int]]

# Backends index a kernel with 32 bits and a tensor with 64.
MAX_KERNEL_ELEMENTS = 2**31 - 1
MAX_TENSOR_ELEMENTS = 2**63 - 1
# Results of each function: more than a model has, in all of the sizes that it is given.
REMEMBERED = 4096


class RankError(ValueError, AssertionError):
    """An input has the wrong number of axes; also an `AssertionError`, for code that catches it."""


class Axis(NamedTuple):
    """One axis of a patching: patches of `patch` positions, one every `stride`.

    `padding` is how many zeros the signal is padded with before it is patched, `(before, after)`.
    A negative `after` drops positions at the end instead. `"same"` pads as much as
    `ceil(size / stride)` patches need, half of it (rounded down) before, as Keras does.
    """

    patch: int
    stride: int
    padding: tuple[int, int] | Literal["same"]

    @property
    def shortest(self) -> int:
        """The shortest signal that gives one token; 0 or less if padding alone fills a patch."""
        return 1 if self.padding == "same" else self.patch - sum(self.padding)

    @property
    def blocks(self) -> int:
        """How many blocks of at most `stride` positions make a patch: over 1 if patches overlap."""
        return -(-self.patch // self.stride)

    @property
    def width(self) -> int:
        """The positions in a block. Blocks are as even as possible; the last may have fewer."""
        return -(-self.patch // self.blocks)

    @property
    def even(self) -> bool:
        """Whether all blocks are equally wide."""
        return self.patch % self.width == 0

    @property
    def in_cell(self) -> int:
        """The positions of a patch that lie in its first cell, which is one stride long."""
        return min(self.patch, self.stride)

    @property
    def whole(self) -> bool:
        """Whether a patch fills each of its cells to the same width."""
        return self.patch == self.blocks * self.in_cell

    @property
    def tiles(self) -> bool:
        """Whether patches lie side by side, without overlaps and gaps."""
        return self.patch == self.stride

    def grid(self, size: Size) -> Size:
        """The number of tokens of a signal."""
        return (size + self.stride - self.shortest) // self.stride

    def natural(self, grid: Size) -> Size:
        """The positions from the start of the first patch to the end of the last."""
        return (grid - 1) * self.stride + self.patch

    def largest(self, grid: int) -> int:
        """The size of the largest signal of a grid."""
        return grid * self.stride + self.shortest - 1

    def smallest(self, grid: int) -> int:
        """The size of the smallest signal of a grid, at least 1."""
        return max(self.largest(grid) - self.stride + 1, 1)

    def size(self, grid: Size) -> Size:
        """The size of a grid's signal where no other is asked for."""
        return (grid - 1) * self.stride + self.shortest + self.unused(None)

    def only_first(self, number: int) -> "Axis":
        """The axis of the first positions of a signal, and of the patches that reach them.

        This and the next take padding that is a pair.
        """
        before: Any = self.padding[0]
        patches = -(-(before + number) // self.stride)
        return self._replace(padding=(before, self.natural(patches) - before - number))

    def without_first(self, number: int) -> "Axis":
        """The axis of the same patches, and of the signal without its first positions."""
        pair: Any = self.padding
        return self._replace(padding=(pair[0] + number, pair[1]))

    def unused(self, size: Size | None) -> Size:
        """The positions of a signal after its last patch; `None` is the default size."""
        if size is None:
            return self.stride - 1 if self.padding == "same" else 0
        # a remainder, not a difference from the grid's size: compilers see that it is bounded
        return (size - self.shortest) % self.stride

    def mean_variance(self, overlap: str) -> float:
        """The variance of a position of the signal where patches hold numbers of variance 1.

        It is the mean over a period of the stride, gaps included: away from the edges the variance
        of a position picked at random. `overlap` is `"sum"` or `"mean"`.
        """
        if overlap == "sum":
            return self.patch / self.stride
        # `more` positions of a period are covered by `least + 1` patches, the others by `least`
        least, more = divmod(self.patch, self.stride)
        others = (self.stride - more) / least if least else 0
        return (more / (least + 1) + others) / self.stride

    def reach(self, unused: Size) -> Pair:
        """How far patches reach before and beyond a signal; negative where they fall short."""
        full = self.patch - self.shortest
        if self.padding != "same":
            return self.padding[0], full - unused - self.padding[0]
        # min(unused, full), in operations that every kind of size has; without gaps it is `unused`
        filled = unused
        if self.patch < self.stride:
            filled = (unused + full - abs(unused - full)) // 2
        # (full - filled) // 2 without a negative dividend, of which PyTorch's compiler rounds the
        # half towards zero
        before = full // 2 - (filled + 1 - full % 2) // 2
        return before, full - unused - before


def remembered(function: Function) -> Function:
    """The function, which computes each result once where all arguments are plain.

    Plain are ints, strings, `None`, axes, and tuples of these. Sizes that stand for several are
    not, nor are numbers that only equal an int.
    """
    memory = functools.lru_cache(REMEMBERED)(function)

    @functools.wraps(function)
    def recall(*arguments: Any) -> Any:
        return (memory if _are_plain(arguments) else function)(*arguments)

    # what PyTorch's compiler traces in its place; it would warn of the memory
    recall._torchdynamo_inline = function  # type: ignore[attr-defined]
    return recall  # type: ignore[return-value]


def _are_plain(values: tuple) -> bool:
    for value in values:
        if value.__class__ is tuple:
            if not _are_plain(value):
                return False
        elif value.__class__ not in (int, str, Axis, type(None)):
            return False
    return True


class Edge(NamedTuple):
    """How one axis of a tensor gets another size: zeros to add at its ends, positions to cut off.

    Zeros are ints. A cut may be a size that is known only at run time.
    """

    zeros: tuple[int, int]
    cuts: Pair


NO_EDGE = Edge((0, 0), (0, 0))


@remembered
def to_signal(axis: Axis, size: Size | None, start: int = 0, end: int = 0) -> Edge:
    """The edge that turns a piece of the patched positions into a signal.

    The piece begins `start` positions after the first patch does, and ends `end` positions before
    the last patch does (negative: after it). `size=None` is the default size of the grid.
    """
    return _edge(axis, size, lambda before, after: (start - before, end - after))


@remembered
def to_patches(axis: Axis, size: Size, start: int = 0, end: int = 0) -> Edge:
    """The edge that turns a signal into a piece of the patched positions, against `to_signal`."""
    return _edge(axis, size, lambda before, after: (before - start, after - end))


def _edge(axis: Axis, size: Size | None, added: Callable[[Size, Size], Pair]) -> Edge:
    """The edge that adds positions at both ends; `added` computes them from the patches' reach."""
    unused = axis.unused(size)
    positions = added(*axis.reach(unused))
    # the reach shrinks or grows with `unused`: one of its bounds needs the most zeros
    bounds = [unused] if is_constant(unused) else [0, axis.stride - 1]
    most = [added(*axis.reach(bound)) for bound in bounds]
    zeros = tuple(max(0, *ends) for ends in zip(*most))
    return Edge(zeros, (zeros[0] - positions[0], zeros[1] - positions[1]))


@remembered
def overlapping(axes: Sequence[Axis]) -> bool:
    """Whether patches overlap."""
    return any(axis.blocks > 1 for axis in axes)


@remembered
def tiling(axes: Sequence[Axis]) -> bool:
    """Whether patches lie side by side, without overlaps and gaps."""
    return all(axis.tiles for axis in axes)


@remembered
def make_axes(
    patch_size: PerAxis,
    stride: PerAxis | None,
    padding: Padding,
    data_dim: int,
) -> tuple[Axis, ...]:
    """The axes of a patching.

    `stride=None` is the patch. An int, here or for the patch, holds for each of the `data_dim`
    axes. `padding` is what `as_padding` takes.
    """
    patch = per_axis("patch_size", patch_size, data_dim)
    strides = patch if stride is None else per_axis("stride", stride, len(patch))
    pads: Any = as_padding(padding, patch, strides)
    if pads == "valid":
        pads = ((0, 0),) * len(patch)
    elif pads == "same":
        pads = ("same",) * len(patch)
    return tuple(map(Axis, patch, strides, pads))


def per_axis(name: str, value: PerAxis, data_dim: int) -> tuple[int, ...]:
    """A positive int, or one per axis, as a tuple with one int per axis."""
    entries = _entries(value, data_dim)
    if len(entries) != data_dim or not all(map(_is_positive, entries)):
        raise ValueError(
            f"`{name}` must be a positive integer, or {data_dim} of them, one per axis. "
            f"Received: {name}={value!r}"
        )
    return tuple(map(_constant, entries))


def as_padding(
    padding: Any, patch: Sequence[int], stride: Sequence[int]
) -> Literal["valid", "same"] | tuple[tuple[int, int], ...]:
    """`"valid"`, `"same"`, or a pair `(before, after)` for each axis of the patch.

    Takes those, an int, or an int or a pair per axis, each less than the patch. `after` may be
    negative, and is then more than `-stride`.
    """
    if isinstance(padding, str) and padding in ("valid", "same"):
        return padding  # type: ignore[return-value]  # it is one of the two
    entries = _entries(padding, len(patch))
    pairs = [entry if isinstance(entry, (tuple, list)) else (entry, entry) for entry in entries]
    if len(pairs) != len(patch) or not all(map(_is_padding, pairs, patch, stride)):
        raise ValueError(
            "`padding` must be 'valid', 'same', an integer, or for each axis an integer or a pair "
            "(before, after), where 0 <= before < patch and -stride < after < patch. "
            f"Received: padding={padding!r}, with patch_size={tuple(patch)} and "
            f"stride={tuple(stride)}"
        )
    return tuple((_constant(before), _constant(after)) for before, after in pairs)


def _entries(value: Any, data_dim: int) -> tuple[Any, ...]:
    """One entry per axis: those of a sequence or an array, or the same for each axis."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * data_dim


def _is_padding(pair: Sequence[Any], patch: int, stride: int) -> bool:
    if len(pair) != 2 or not all(map(_is_int, pair)):
        return False
    before, after = pair
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


def target_shape(output_spatial_shape: Sequence[int], data_dim: int) -> tuple[int, ...]:
    """The argument `output_spatial_shape` as a tuple of ints, one per axis."""
    is_sequence = isinstance(output_spatial_shape, (tuple, list))
    entries = output_spatial_shape if is_sequence else ()
    if len(entries) != data_dim or not all(map(_is_int, entries)):
        raise ValueError(
            f"`output_spatial_shape` must hold {data_dim} Python integers, one per axis. "
            f"Received: output_spatial_shape={described(output_spatial_shape)}. "
            "Pass a tuple of ints, or `like=tensor` for the size of a tensor."
        )
    return tuple(map(int, entries))


@remembered
def grid_shape(axes: Sequence[Axis], size: Sequence[Size]) -> Shape:
    """The grid of a signal; raises a ValueError if an axis is too short for one token."""
    shortest = tuple(max(axis.shortest, 1) for axis in axes)
    if any(is_static(n) and n < least for n, least in zip(size, shortest)):
        raise ValueError(
            f"The signal must be at least {shortest} long, one patch along each axis. "
            f"Received: spatial shape={as_text(size)}. "
            "Use a smaller `patch_size`, or `padding='same'`, which pads it."
        )
    return tuple(None if n is None else axis.grid(n) for axis, n in zip(axes, size))


@remembered
def spatial_shape(axes: Sequence[Axis], grid: Shape, target: Sequence[Size] | None = None) -> Shape:
    """The signal of a grid: its default size, or the `target`, which must have this very grid."""
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
    if target is None:
        size: Shape = tuple(None if n is None else axis.size(n) for axis, n in zip(axes, grid))
    else:
        size = tuple(target)
    if any(is_static(n) and not low <= n <= high for n, (low, high) in zip(size, ranges)):
        allowed = ", ".join(f"{low} to {high}" for low, high in ranges)
        raise ValueError(
            "`output_spatial_shape`, or the spatial shape of `like`, must be a size that "
            f"`Patchify` turns into the grid {as_text(grid)}: ({allowed}). "
            f"Received: output_spatial_shape={as_text(size)}, with axes {[tuple(a) for a in axes]} "
            "(patch, stride, padding). Use those of your `Patchify`, as `from_patchify` does."
        )
    return size


def _size_range(axis: Axis, grid: Size) -> tuple[int | float, int | float]:
    """The smallest and the largest signal of a grid."""
    return (axis.smallest(grid), axis.largest(grid)) if is_static(grid) else (1, math.inf)


def token_count(grid: Shape) -> Size:
    """The number of tokens of a grid; `None` where one of its sizes is `None`."""
    return None if None in grid else math.prod(grid)


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

    `features=None` takes any number of channels, if it is known. The remedies end the errors for
    a wrong number of axes and of channels.
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
    if features is not None and shape[-1] != features:
        raise ValueError(
            f"The input must have {features} channels on its last axis. "
            f"Received: shape={as_text(shape)}. {channels_remedy}"
        )


def as_shape(shape: Sequence[int | None]) -> Shape:
    """A shape as a tuple of ints and `None`."""
    readable = hasattr(shape, "__iter__") and not isinstance(shape, (str, dict))
    if not readable or not all(n is None or (_is_int(n) and n >= 0) for n in shape):
        raise ValueError(
            f"A shape must be a tuple of sizes, each an integer or None. Received: shape={shape!r}"
        )
    return tuple(shape)


@remembered
def check_elements(name: str, shape: Shape, limit: int = MAX_TENSOR_ELEMENTS) -> None:
    """Refuses a shape of more than `limit` elements; an axis that is not known counts as 1."""
    if math.prod([int(n) for n in shape if is_static(n)]) > limit:
        raise ValueError(
            f"The {name} must have at most {limit} elements. "
            f"Received: shape={as_text(shape)}. Use smaller sizes."
        )


def is_static(size: Size) -> bool:
    """Whether a size is an int, rather than unknown or known only at run time."""
    return is_constant(size) or isinstance(size, Integral)  # which takes longer


def is_constant(size: Size) -> bool:
    """Whether a size is a plain int, the same in every call of a compiled function.

    PyTorch's compiler traces with symbolic ints, which stand for several sizes. They are instances
    of `int`, but not of this class alone. Arithmetic that branches on them takes minutes to trace,
    and is compiled again for each branch.
    """
    # PyTorch 2.11 hides the class of constants too while it compiles, but not which they are
    return size.__class__ is int or (isinstance(size, int) and max(size, size) is size)


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
