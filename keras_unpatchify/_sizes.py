"""Sizes along an axis of a patching: the grid of a signal, the signal of a grid, and their ends.

A size is an int, `None` where it is not known yet, or a backend's scalar where it is known only at
run time. No size of a signal or a grid is computed anywhere else.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal, NamedTuple

Size = Any  # an int, `None`, or a backend's scalar
Shape = tuple[Size, ...]
StaticShape = tuple[int | None, ...]  # as Keras tells it a layer
Pair = tuple[Size, Size]  # of the two ends of an axis


class Axis(NamedTuple):
    """One axis of a patching: patches of `patch` positions, one every `stride`.

    `padding` is a word of `KINDS`, or how many zeros the signal is padded with before it is
    patched, `(before, after)`. A negative `after` drops positions at the end instead.
    """

    patch: int
    stride: int
    padding: Literal["valid", "same", "circular"] | tuple[int, int]

    @property
    def kind(self) -> "Kind":
        """What the padding says."""
        return KINDS.get(self.padding, NUMBERS)

    @property
    def shortest(self) -> int:
        """The shortest signal that gives one token; 0 or less if padding alone fills a patch."""
        return self.kind.shortest(self)

    def grid(self, size: Size) -> Size:
        """The number of tokens of a signal."""
        return (size + self.stride - self.shortest) // self.stride

    def largest(self, grid: int) -> int:
        """The size of the largest signal of a grid."""
        more = 0 if self.circular else self.stride - 1
        return (grid - 1) * self.stride + self.shortest + more

    def smallest(self, grid: int) -> int:
        """The size of the smallest signal of a grid, at least 1."""
        return max((grid - 1) * self.stride + self.shortest, 1)

    def size(self, grid: Size) -> Size:
        """The size of a grid's signal where no other is asked for."""
        return (grid - 1) * self.stride + self.shortest + self.kind.unused(self)

    def reach(self, unused: Size) -> Pair:
        """How far patches reach before and beyond a signal; negative where they fall short.

        `unused` is the number of positions after the last patch of an unpadded signal.
        """
        before = self.kind.before(self, unused)
        return before, self.patch - self.shortest - unused - before

    @property
    def circular(self) -> bool:
        """Whether the ends of the signal meet."""
        return self.padding == "circular"

    def whole_grid(self, size: Size) -> Size:
        """The same, but below 1 where a circular axis does not have a whole number of strides."""
        return self.grid(size) - size % self.stride * size if self.circular else self.grid(size)

    def of_signal(self, size: Size) -> "Extent":
        """The sizes of a call that patches a signal."""
        return self._extent(self.grid(size), size, self._unused(size), self.padding == "same")

    def of_grid(self, grid: Size, size: Size | None = None) -> "Extent":
        """The sizes of a call that makes the signal of a grid; `None` is its default size."""
        if size is not None:
            return self._extent(grid, size, self._unused(size), False)
        same = self.padding == "same"
        return self._extent(grid, self.size(grid), self.kind.unused(self), same)

    def _unused(self, size: Size) -> Size:
        # a remainder, not a difference from the grid's size: compilers see that it is bounded
        return 0 if self.circular else (size - self.shortest) % self.stride

    def _extent(self, grid: Size, size: Size, unused: Size, same: bool) -> "Extent":
        bounds = (unused,) if is_constant(unused) else (0, self.stride - 1)
        reaches = tuple(map(self.reach, bounds))
        reach = reaches[0] if is_constant(unused) else self.reach(unused)
        same = same and self.patch >= self.stride  # TensorFlow's convolution fails at gaps in 3D
        return Extent(self.patch, self.stride, grid, size, reach, reaches, same, self.circular)


class Kind(NamedTuple):
    """A kind of padding: what it says of an axis."""

    shortest: Callable[[Axis], int]
    unused: Callable[[Axis], int]  # of a signal of the default size
    before: Callable[[Axis, Size], Size]  # how far the first patch reaches before the signal


def _half(axis: Axis, unused: Size) -> Size:
    """Half of how far patches reach beyond a signal, rounded down, or 0 if they fall short.

    It takes operations that every kind of size has.
    """
    full = axis.patch - axis.shortest
    # min(unused, full), which without gaps is `unused`
    filled = unused if axis.patch >= axis.stride else (unused + full - abs(unused - full)) // 2
    # (full - filled) // 2 without a negative dividend, of which PyTorch's compiler rounds the half
    # towards zero
    return full // 2 - (filled + 1 - full % 2) // 2


KINDS: dict[Any, Kind] = {
    "valid": Kind(lambda axis: axis.patch, lambda axis: 0, lambda axis, unused: 0),
    # As much as `ceil(size / stride)` patches need, half of it (rounded down) before, as in Keras.
    "same": Kind(lambda axis: 1, lambda axis: axis.stride - 1, _half),
    # As with "same", of a signal of whole strides whose ends meet.
    "circular": Kind(lambda axis: axis.stride, lambda axis: 0, _half),
}
NUMBERS = Kind(
    lambda axis: axis.patch - sum(axis.padding),  # type: ignore[arg-type]  # it is a pair
    lambda axis: 0,
    lambda axis, unused: axis.padding[0],
)


class Edge(NamedTuple):
    """How one axis of a tensor gets another length: zeros to add at its ends, positions to cut off.

    Zeros are ints. Cuts and length may be known only at run time.
    """

    zeros: tuple[int, int]
    cuts: Pair
    length: Size
    # Instead of zeros, "wrap" adds what lies at the other end. Instead of cutting off, "fold" adds
    # it at the other end.
    mode: Literal["plain", "wrap", "fold"] = "plain"


class Extent(NamedTuple):
    """One axis of a patching, with the sizes that it has in a call.

    A patch is cut into blocks: parts that are at most one stride wide, so that no block of a patch
    overlaps the same block of the next. A cell is a part of the signal, one stride long.
    """

    patch: int
    stride: int
    grid: Size  # tokens
    size: Size  # positions of the signal
    reach: Pair  # how far patches reach before and beyond the signal
    reaches: tuple[Pair, ...]  # the bounds of `reach`
    same: bool  # whether `padding="same"` of the backend's convolution finds the same patches
    circular: bool  # whether the ends of the signal meet

    @property
    def blocks(self) -> int:
        """How many blocks make a patch: more than 1 if patches overlap."""
        return -(-self.patch // self.stride)

    @property
    def width(self) -> int:
        """The positions in a block. Blocks are as even as possible; the last may have fewer."""
        return -(-self.patch // self.blocks)

    @property
    def widths(self) -> tuple[int, ...]:
        """The positions in each block."""
        return tuple(min(self.width, self.patch - n) for n in range(0, self.patch, self.width))

    @property
    def whole(self) -> bool:
        """Whether a patch fills all of its cells, or only one, to the same width."""
        return self.patch < self.stride or self.patch % self.stride == 0

    @property
    def spare(self) -> int:
        """The cells that no patch uses, where their number is known."""
        return max(0, self.size // self.stride - self.grid) if is_constant(self.size) else 0

    @property
    def natural(self) -> Size:
        """The positions from the start of the first patch to the end of the last."""
        return (self.grid - 1) * self.stride + self.patch

    @property
    def of_cells(self) -> "Extent":
        """The same positions as cells, one block wide, which tile; for patches that are whole."""
        return self._replace(patch=self.width, grid=self.grid + self.blocks - 1)

    def cells(self, start: int = 0, extra: int = 0) -> tuple[int, int]:
        """A piece of the patched positions: a cell for each token and `extra` more, from `start`.

        A piece is where it starts after the first patch does, and where it ends before the last
        patch does (negative: after it).
        """
        return start, self.patch - start - (1 + extra) * self.stride

    def to_signal(self, start: int = 0, end: int = 0) -> Edge:
        """The edge that turns a piece of the patched positions into the signal."""
        edge = _edge([(start - a, end - b) for a, b in (self.reach, *self.reaches)], self.size)
        return edge._replace(mode="fold") if self.circular else edge

    def to_patches(self, start: int = 0, end: int = 0) -> Edge:
        """The edge that turns the signal into a piece of the patched positions."""
        length = self.natural - start - end
        edge = _edge([(a - start, b - end) for a, b in (self.reach, *self.reaches)], length)
        return edge._replace(mode="wrap") if self.circular else edge


def _edge(added: list[Pair], length: Size) -> Edge:
    """The edge that adds the first pair to the ends; the others are its bounds."""
    (before, after), *bounds = added
    zeros = tuple(max(0, *ends) for ends in zip(*bounds))
    return Edge(zeros, (zeros[0] - before, zeros[1] - after), length)


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
