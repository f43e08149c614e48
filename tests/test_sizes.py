"""Sizes along an axis: laws over generated patchings, each size checked by its inverse and by
counting."""

import numpy as np
import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_unpatchify import _arguments
from keras_unpatchify._arguments import make_axes
from keras_unpatchify._sizes import Axis


@st.composite
def an_axis(draw):
    patch, stride = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    pads = st.tuples(st.integers(0, patch - 1), st.integers(1 - stride, patch - 1))
    return Axis(patch, stride, draw(st.one_of(st.sampled_from(["valid", "same"]), pads)))


axes = an_axis()
grids = st.integers(1, 9)


def a_size(data, axis, grid):
    assume(axis.smallest(grid) <= axis.largest(grid))
    return data.draw(st.integers(axis.smallest(grid), axis.largest(grid)))


@given(axes, st.integers(1, 60))
def test_the_grid_counts_the_patches(axis, size):
    count = reference.tokens_along(size, *axis)
    assert (axis.grid(size) if size >= axis.shortest else 0) == count


@given(axes, grids)
def test_the_sizes_of_a_grid_are_those_that_are_patched_into_it(axis, grid):
    assert list(range(axis.smallest(grid), axis.largest(grid) + 1)) == reference.sizes_of(
        grid, *axis
    )


@given(axes, grids)
def test_the_default_size_is_one_of_them(axis, grid):
    assert axis.size(grid) == reference.default_size(grid, *axis)
    assume(axis.size(grid) > 0)
    assert axis.grid(axis.size(grid)) == grid


@given(axes, grids, st.data())
def test_a_signal_and_what_patches_reach_beyond_it_are_the_natural_size(axis, grid, data):
    size = a_size(data, axis, grid)
    extent = axis.of_signal(size)
    assert (extent.grid, extent.size) == (grid, size)
    before, after = extent.reach
    assert before + size + after == extent.natural == (grid - 1) * axis.stride + axis.patch
    pads = {"valid": 0, "same": max(before + after, 0) // 2}
    assert before == (pads[axis.padding] if axis.padding in pads else axis.padding[0])


@given(axes, grids, st.data())
def test_both_directions_have_the_same_sizes(axis, grid, data):
    size = a_size(data, axis, grid)
    assert axis.of_grid(grid, size)._replace(same=None) == axis.of_signal(size)._replace(same=None)
    default = axis.of_grid(grid)
    assert default.size == axis.size(grid)
    assume(default.size > 0)
    assert default._replace(same=None) == axis.of_signal(default.size)._replace(same=None)


@given(axes, grids)
def test_blocks_hold_a_patch_and_no_block_more(axis, grid):
    extent = axis.of_grid(grid)
    blocks, width = extent.blocks, extent.width
    assert width <= axis.stride
    assert (blocks - 1) * width < axis.patch <= blocks * width
    assert blocks == 1 or (blocks - 1) * axis.stride < axis.patch
    assert extent.whole == (blocks * width == axis.patch and (blocks == 1 or width == axis.stride))
    assert extent.spare == max(0, extent.size // axis.stride - grid)


@given(axes, grids, st.data(), st.integers(0, 5), st.integers(0, 2))
def test_cells_are_a_piece_of_the_patched_positions(axis, grid, data, start, extra):
    extent = axis.of_signal(a_size(data, axis, grid))
    piece = extent.cells(start, extra)
    assert piece[0] == start
    assert extent.natural - sum(piece) == (grid + extra) * axis.stride


@given(axes, grids, st.data(), st.integers(0, 5), st.integers(-5, 5))
def test_edges_turn_a_piece_into_the_signal_and_back(axis, grid, data, start, end):
    extent = axis.of_signal(a_size(data, axis, grid))
    piece = extent.natural - start - end
    there, back = extent.to_signal(start, end), extent.to_patches(start, end)
    for edge, before, after in [(there, piece, extent.size), (back, extent.size, piece)]:
        assert all(n >= 0 for n in (*edge.zeros, *edge.cuts))
        assert all(zero == 0 or cut == 0 for zero, cut in zip(edge.zeros, edge.cuts))
        assert before + sum(edge.zeros) - sum(edge.cuts) == after == edge.length
    at_start = there.zeros[0] - there.cuts[0]
    assert at_start == start - extent.reach[0] == back.cuts[0] - back.zeros[0]


class Unknown:
    """A size that cannot be compared, as a backend has while it traces; it takes part in
    arithmetic only."""

    def __init__(self, value):
        self.value = value

    def __add__(self, other):
        return Unknown(self.value + getattr(other, "value", other))

    def __sub__(self, other):
        return Unknown(self.value - getattr(other, "value", other))

    def __mul__(self, other):
        return Unknown(self.value * getattr(other, "value", other))

    def __floordiv__(self, other):
        return Unknown(self.value // other)

    def __mod__(self, other):
        return Unknown(self.value % other)

    def __rsub__(self, other):
        return Unknown(other - self.value)

    def __abs__(self):
        return Unknown(abs(self.value))

    __radd__, __rmul__ = __add__, __mul__


@given(axes, grids, st.data(), st.integers(0, 5), st.integers(-5, 5))
def test_edges_of_sizes_known_only_at_run_time(axis, grid, data, start, end):
    """Zeros are added in numbers known before, just enough for any size, and more is cut instead.

    The sizes of one period of the stride are all that differ.
    """
    size = a_size(data, axis, grid)

    def edges(size):
        extent = axis.of_signal(size)
        return extent.to_signal(start, end), extent.to_patches(start, end)

    every = [edges(n) for n in range(99, 99 + axis.stride)]
    for i, (edge, known) in enumerate(zip(edges(Unknown(size)), edges(size))):
        cuts = [getattr(cut, "value", cut) for cut in edge.cuts]
        assert getattr(edge.length, "value", edge.length) == known.length
        assert all(isinstance(zero, int) for zero in edge.zeros)
        assert all(n >= 0 for n in (*edge.zeros, *cuts))
        for zero, cut, known_zero, known_cut in zip(edge.zeros, cuts, known.zeros, known.cuts):
            assert zero - cut == known_zero - known_cut
        assert edge.zeros == tuple(map(max, zip(*(both[i].zeros for both in every))))


@given(axes, grids)
def test_the_default_size_has_known_edges_where_the_grid_is_not_known(axis, grid):
    unknown, known = axis.of_grid(Unknown(grid)), axis.of_grid(grid)
    for edge, other in zip(
        (unknown.to_signal(), unknown.to_signal(*unknown.cells(1))),
        (known.to_signal(), known.to_signal(*known.cells(1))),
    ):
        assert (edge.zeros, edge.cuts) == (other.zeros, other.cuts)
        assert edge.length.value == other.length


def test_unknown_sizes_stay_unknown():
    axes = make_axes((4, 4), None, "valid", 2)
    assert _arguments.grid_shape(axes, (None, 12)) == (None, 3)
    assert _arguments.spatial_shape(axes, (None, 3)) == (None, 12)
    assert _arguments.spatial_shape(axes, (None, 3), (None, 13)) == (None, 13)


def test_one_number_stands_for_every_axis():
    assert make_axes(4, 2, "same", 3) == (Axis(4, 2, "same"),) * 3
    assert make_axes((2, 3), None, "valid", 2) == (
        Axis(2, 2, "valid"),
        Axis(3, 3, "valid"),
    )
    assert make_axes(4, 2, 1, 2) == (Axis(4, 2, (1, 1)),) * 2
    array = np.array([[1, 1], [0, 3]])
    assert make_axes(np.array([4, 4]), np.int64(2), array, 2) == make_axes(
        4, 2, ((1, 1), (0, 3)), 2
    )
    assert make_axes(4, 2, (1, (0, 3)), 2) == (Axis(4, 2, (1, 1)), Axis(4, 2, (0, 3)))


@pytest.mark.parametrize("sizes", [(4, None, 2**40), (None, 2**31)])
def test_elements_are_counted_without_the_unknown(sizes):
    _arguments.check_elements("output", sizes)
    with pytest.raises(ValueError, match="The kernel must have at most 2147483647 elements"):
        _arguments.check_elements("kernel", sizes, _arguments.MAX_KERNEL_ELEMENTS)
