"""Sizes along each axis of a patching: the grid of a signal, the signals of a grid, and where the edges go.

A size is an int, or `None` where it is not known yet; the arithmetic of `Axis` also takes the scalars by which a
backend stands for a size that it learns at run time. All that the package says or checks about a shape comes from here.
"""

import math
from numbers import Integral
from typing import NamedTuple

PADDINGS = ("valid", "same")

# Backends index a kernel with 32 bits and a tensor with 64.
MAX_KERNEL_ELEMENTS = 2**31 - 1
MAX_TENSOR_ELEMENTS = 2**63 - 1


class RankError(ValueError, AssertionError):
    """An input with the wrong number of axes; also an `AssertionError`, for callers who catch that."""


class Axis(NamedTuple):
    """One axis of a patching: patches of `patch` positions, one every `stride`.

    `padding="valid"` lays patches inside the signal only. `"same"` lays `ceil(size / stride)` of them, half of what
    they reach beyond the signal (rounded down) before it, as Keras does. The two differ in one number: the shortest
    signal that yields a token.
    """

    patch: int
    stride: int
    padding: str

    @property
    def shortest(self):
        """The shortest signal that yields a token."""
        return self.patch if self.padding == "valid" else 1

    @property
    def blocks(self):
        """How many blocks of `stride` positions a patch reaches into; more than 1 where patches overlap."""
        return -(-self.patch // self.stride)

    @property
    def remainder(self):
        """Positions by which the blocks of a patch exceed it."""
        return self.blocks * self.stride - self.patch

    @property
    def tiles(self):
        """Whether patches lie edge to edge."""
        return self.patch == self.stride

    def grid(self, size):
        """Tokens of a signal."""
        return (size + self.stride - self.shortest) // self.stride

    def natural(self, grid):
        """Positions from the start of the first patch to the end of the last."""
        return (grid - 1) * self.stride + self.patch

    def lowest(self, grid):
        """The smallest signal of a grid."""
        return (grid - 1) * self.stride + self.shortest

    def highest(self, grid):
        """The largest signal of a grid."""
        return self.lowest(grid) + self.stride - 1

    def size(self, grid):
        """The signal of a grid where no other is asked for: the natural one if "valid", `grid * stride` if "same"."""
        return self.lowest(grid) if self.padding == "valid" else self.highest(grid)

    def reach(self, size=None):
        """How far the patches reach before and beyond a signal, `(before, after)`; negative where they fall short.

        `size=None` stands for the default size, for which the answer is the same for every grid.
        """
        unused = ((self.size(1) if size is None else size) - self.shortest) % self.stride
        excess = self.patch - self.shortest - unused
        if self.padding == "valid":
            return 0, excess
        # max(excess, 0), in operations that every kind of size has; without gaps it is never negative
        padded = excess if self.patch >= self.stride else (excess + abs(excess)) // 2
        return padded // 2, excess - padded // 2


def make_axes(patch_size, stride=None, padding="valid", data_dim=None):
    """The axes of a patching; `stride=None` means the patch, an int means the same on each of the `data_dim` axes."""
    patch = per_axis("patch_size", patch_size, data_dim)
    strides = patch if stride is None else per_axis("stride", stride, len(patch))
    one_of("padding", padding, PADDINGS)
    return tuple(Axis(*sizes, padding) for sizes in zip(patch, strides, strict=True))


def per_axis(name, value, data_dim):
    """A positive int, or one per axis, as a tuple with one int per axis."""
    entries = tuple(value) if isinstance(value, (tuple, list)) else (value,) * data_dim
    if len(entries) != data_dim or not all(map(_is_positive, entries)):
        raise ValueError(
            f"`{name}` must be a positive integer, or {data_dim} of them, one per axis. Received: {name}={value!r}"
        )
    return tuple(map(int, entries))


def positive_int(name, value):
    """A positive int."""
    if not _is_positive(value):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return int(value)


def one_of(name, value, choices):
    """One of a few values, of the same type."""
    value = int(value) if _is_int(value) else value
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}. Received: {name}={value!r}")
    return value


def target_shape(output_spatial_shape, data_dim):
    """The argument `output_spatial_shape` as a tuple of ints, one per axis."""
    is_sequence = isinstance(output_spatial_shape, (tuple, list))
    if not is_sequence or len(output_spatial_shape) != data_dim or not all(map(_is_int, output_spatial_shape)):
        raise ValueError(
            f"`output_spatial_shape` must hold {data_dim} of Python's integers, one per axis. "
            f"Received: output_spatial_shape={output_spatial_shape!r}. For the size of a tensor, pass `like=tensor`."
        )
    return tuple(map(int, output_spatial_shape))


def grid_shape(axes, size):
    """The grid of a signal; raises a ValueError if an axis is too short for one token."""
    if any(is_static(n) and n < axis.shortest for axis, n in zip(axes, size, strict=True)):
        raise ValueError(
            f"The signal must be at least {tuple(axis.shortest for axis in axes)} long, one patch along each axis. "
            f"Received: spatial shape={as_text(size)}. Use a smaller `patch_size`, or `padding='same'`, which pads it."
        )
    return tuple(None if n is None else axis.grid(n) for axis, n in zip(axes, size, strict=True))


def spatial_shape(axes, grid, target=None):
    """The signal of a grid: its default size, or the `target`, which must be patched into this very grid."""
    if any(is_static(n) and n < 1 for n in grid):
        raise ValueError(f"The grid must have at least one token along each axis. Received: grid shape={as_text(grid)}")
    if target is None:
        return tuple(None if n is None else axis.size(n) for axis, n in zip(axes, grid, strict=True))
    ranges = [(a.lowest(n), a.highest(n)) if is_static(n) else (1, math.inf) for a, n in zip(axes, grid, strict=True)]
    if any(is_static(n) and not low <= n <= high for n, (low, high) in zip(target, ranges, strict=True)):
        allowed = ", ".join(f"{low} to {high}" for low, high in ranges)
        raise ValueError(
            f"`output_spatial_shape`, or the spatial shape of `like`, must be a size that is patched into the grid "
            f"{as_text(grid)}: ({allowed}). Received: output_spatial_shape={as_text(target)}"
        )
    return tuple(target)


def edges(axes, size, *, whole_blocks, sign):
    """What turns patched positions into a signal (`sign=1`), or a signal into patched positions (`sign=-1`).

    For each axis the zeros to add, always ints, and the positions then to take off, `(before, after)` each. Patched
    positions run from the first patch to the end of the last, or with `whole_blocks` to the end of its last block.
    `size=None` stands for the default size.
    """
    result = []
    for axis, positions in zip(axes, size or (None,) * len(axes), strict=True):
        cuts = _cuts(axis, positions, whole_blocks, sign)
        if all(map(is_static, cuts)):
            least = cuts
        else:
            least = _cuts(axis, axis.highest(1) if sign > 0 else axis.lowest(1), whole_blocks, sign)
        zeros = tuple(max(-cut, 0) for cut in least)
        result.append((zeros, tuple(cut + zero for cut, zero in zip(cuts, zeros))))
    return result


def _cuts(axis, size, whole_blocks, sign):
    before, after = axis.reach(size)
    return sign * before, sign * (after + axis.remainder * whole_blocks)


def check_input(shape, data_dim, features):
    """Checks the shape of an input, `(batch, *axes, channels)`; `features=None` takes any number of channels."""
    if len(shape) != data_dim + 2:
        raise RankError(
            f"The input must have {data_dim + 2} axes: batch, {data_dim} of the grid or signal, channels. "
            f"Received: shape={as_text(shape)}. Reshape the input, or change `data_dim`."
        )
    if features is None and not _is_positive(shape[-1]):
        raise ValueError(
            f"The input's channels, its last axis, must be known and at least 1. Received: shape={as_text(shape)}"
        )
    if features is not None and shape[-1] != features:
        raise ValueError(
            f"The input must have {features} channels on its last axis, as `in_features` says. "
            f"Received: shape={as_text(shape)}. Put the channels last, or change `in_features`."
        )


def as_shape(shape):
    """A shape as a tuple of ints and `None`."""
    sizes = [""] if isinstance(shape, (str, dict)) or not hasattr(shape, "__iter__") else list(shape)
    if not all(n is None or (_is_int(n) and n >= 0) for n in sizes):
        raise ValueError(f"A shape must be a tuple of sizes, each an integer or None. Received: shape={shape!r}")
    return tuple(sizes)


def check_elements(name, shape, limit=MAX_TENSOR_ELEMENTS):
    """Refuses a shape of more than `limit` elements; an axis that is not known counts as 1."""
    if math.prod([int(n) for n in shape if is_static(n)]) > limit:
        raise ValueError(
            f"The {name} must have at most {limit} elements. Received: shape={as_text(shape)}. Use smaller sizes."
        )


def is_static(size):
    """Whether a size is an int, rather than unknown or known at run time only."""
    return isinstance(size, Integral)


def as_text(shape):
    """A shape as it stands in an error."""
    return tuple(int(n) if is_static(n) else None for n in shape)


def _is_int(value):
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_positive(value):
    return _is_int(value) and value > 0
