"""Sizes along an axis: laws over generated patchings, each size checked by its inverse and by
counting."""

import numpy as np
import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st

from keras_unpatchify import geometry
from keras_unpatchify.geometry import Axis


@st.composite
def an_axis(draw):
    patch, stride = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    pads = st.tuples(st.integers(0, patch - 1), st.integers(1 - stride, patch - 1))
    return Axis(patch, stride, draw(st.one_of(st.just("same"), st.just((0, 0)), pads)))


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
    before, after = axis.reach(axis.unused(size))
    assert before + size + after == axis.natural(grid)
    assert before == (max(before + after, 0) // 2 if axis.padding == "same" else axis.padding[0])


@given(axes, grids)
def test_what_patches_reach_beyond_the_default_size_is_the_same_for_every_grid(axis, grid):
    assert axis.unused(None) == axis.unused(axis.size(grid))


@given(axes)
def test_blocks_hold_a_patch_and_no_block_more(axis):
    assert axis.width <= axis.stride
    assert (axis.blocks - 1) * axis.width < axis.patch <= axis.blocks * axis.width
    assert axis.blocks == 1 or (axis.blocks - 1) * axis.stride < axis.patch
    assert axis.in_cell <= axis.stride
    assert axis.whole == (axis.patch < axis.stride or axis.patch % axis.stride == 0)


@given(axes, grids, st.data(), st.integers(0, 5), st.integers(-5, 5))
def test_edges_turn_a_piece_into_the_signal_and_back(axis, grid, data, start, end):
    size = a_size(data, axis, grid)
    piece = axis.natural(grid) - start - end
    for edge, before, after in [
        (geometry.to_signal(axis, size, start, end), piece, size),
        (geometry.to_patches(axis, size, start, end), size, piece),
    ]:
        assert all(n >= 0 for n in (*edge.zeros, *edge.cuts))
        assert all(zero == 0 or cut == 0 for zero, cut in zip(edge.zeros, edge.cuts))
        assert before + sum(edge.zeros) - sum(edge.cuts) == after
    reach = axis.reach(axis.unused(size))
    there, back = (f(axis, size, start, end) for f in (geometry.to_signal, geometry.to_patches))
    assert there.zeros[0] - there.cuts[0] == start - reach[0] == back.cuts[0] - back.zeros[0]


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
    for direction in (geometry.to_signal, geometry.to_patches):
        edge = direction(axis, Unknown(size), start, end)
        cuts = [getattr(cut, "value", cut) for cut in edge.cuts]
        known = direction(axis, size, start, end)
        assert all(isinstance(zero, int) for zero in edge.zeros)
        assert all(n >= 0 for n in (*edge.zeros, *cuts))
        for zero, cut, known_zero, known_cut in zip(edge.zeros, cuts, known.zeros, known.cuts):
            assert zero - cut == known_zero - known_cut
        each = [direction(axis, n, start, end).zeros for n in range(99, 99 + axis.stride)]
        assert edge.zeros == tuple(map(max, zip(*each)))


def test_what_is_plain_is_computed_once():
    calls = []
    recall = geometry.remembered(lambda *arguments: calls.append(arguments) or object())
    axes, size = (Axis(4, 2, "same"), Axis(3, 1, (0, -1))), (5, None)
    assert recall(axes, size, "text") is recall(tuple(axes), tuple(size), "text")
    assert recall(axes, (6, None), "text") is not recall(axes, size, "text")
    assert len(calls) == 2


@pytest.mark.parametrize("value", [True, 4.0, np.int64(4), Unknown(4), [4], (4, (4, True))])
def test_what_is_not_plain_is_computed_each_time(value):
    """Some of these equal ints, and the results, or errors, of ints are not theirs."""
    recall = geometry.remembered(lambda value: object())
    assert recall(value) is not recall(value)


def test_an_error_comes_each_time():
    for _ in range(2):
        with pytest.raises(ValueError, match="at least one token"):
            geometry.spatial_shape((Axis(4, 2, "same"),), (0,))


def test_unknown_sizes_stay_unknown():
    axes = geometry.make_axes((4, 4), None, "valid", 2)
    assert geometry.grid_shape(axes, (None, 12)) == (None, 3)
    assert geometry.spatial_shape(axes, (None, 3)) == (None, 12)
    assert geometry.spatial_shape(axes, (None, 3), (None, 13)) == (None, 13)


def test_one_number_stands_for_every_axis():
    assert geometry.make_axes(4, 2, "same", 3) == (Axis(4, 2, "same"),) * 3
    assert geometry.make_axes((2, 3), None, "valid", 2) == (
        Axis(2, 2, (0, 0)),
        Axis(3, 3, (0, 0)),
    )
    assert geometry.make_axes(4, 2, 1, 2) == (Axis(4, 2, (1, 1)),) * 2
    array = np.array([[1, 1], [0, 3]])
    assert geometry.make_axes(np.array([4, 4]), np.int64(2), array, 2) == geometry.make_axes(
        4, 2, ((1, 1), (0, 3)), 2
    )
    assert geometry.make_axes(4, 2, (1, (0, 3)), 2) == (Axis(4, 2, (1, 1)), Axis(4, 2, (0, 3)))


@pytest.mark.parametrize("sizes", [(4, None, 2**40), (None, 2**31)])
def test_elements_are_counted_without_the_unknown(sizes):
    geometry.check_elements("output", sizes)
    with pytest.raises(ValueError, match="The kernel must have at most 2147483647 elements"):
        geometry.check_elements("kernel", sizes, geometry.MAX_KERNEL_ELEMENTS)
