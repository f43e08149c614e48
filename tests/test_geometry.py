"""Sizes along an axis: laws over generated patchings, each size checked by its inverse and by counting."""

import pytest
import reference
from cases import PADDINGS
from hypothesis import given
from hypothesis import strategies as st

from keras_unpatchify import geometry
from keras_unpatchify.geometry import Axis

axes = st.builds(Axis, st.integers(1, 9), st.integers(1, 9), st.sampled_from(PADDINGS))
grids = st.integers(1, 9)


@given(axes, st.integers(1, 60))
def test_the_grid_counts_the_patches(axis, size):
    count = reference.tokens_along(size, *axis)
    assert (axis.grid(size) if size >= axis.shortest else 0) == count


@given(axes, grids)
def test_the_sizes_of_a_grid_are_those_that_are_patched_into_it(axis, grid):
    assert list(range(axis.lowest(grid), axis.highest(grid) + 1)) == reference.sizes_of(grid, *axis)


@given(axes, grids)
def test_the_default_size_is_one_of_them(axis, grid):
    assert axis.size(grid) == reference.default_size(grid, *axis)
    assert axis.grid(axis.size(grid)) == grid


@given(axes, grids, st.data())
def test_a_signal_and_what_patches_reach_beyond_it_are_the_natural_size(axis, grid, data):
    size = data.draw(st.integers(axis.lowest(grid), axis.highest(grid)))
    before, after = axis.reach(size)
    assert before + size + after == axis.natural(grid)
    assert before == (max(before + after, 0) // 2 if axis.padding == "same" else 0)


@given(axes, grids)
def test_what_patches_reach_beyond_the_default_size_is_the_same_for_every_grid(axis, grid):
    assert axis.reach() == axis.reach(axis.size(grid))


@given(axes)
def test_blocks_hold_a_patch_and_no_block_more(axis):
    assert axis.blocks * axis.stride == axis.patch + axis.remainder
    assert 0 <= axis.remainder < axis.stride


@given(st.lists(axes, min_size=1, max_size=3), st.data(), st.booleans(), st.sampled_from([1, -1]))
def test_edges_add_and_take_what_the_reach_says(axes, data, whole_blocks, sign):
    grid = [data.draw(grids) for _ in axes]
    size = [data.draw(st.integers(a.lowest(n), a.highest(n))) for a, n in zip(axes, grid)]
    edges = geometry.edges(axes, size, whole_blocks=whole_blocks, sign=sign)
    for axis, n, positions, (zeros, cuts) in zip(axes, grid, size, edges):
        patched = axis.natural(n) + (axis.remainder if whole_blocks else 0)
        taken = sum(cuts) - sum(zeros)
        assert taken == (patched - positions if sign > 0 else positions - patched)
        assert all(n >= 0 for n in (*zeros, *cuts))


class Unknown:
    """A size that cannot be compared, as a backend has while it traces; it takes part in arithmetic only."""

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


@given(axes, grids, st.data(), st.booleans(), st.sampled_from([1, -1]))
def test_edges_of_sizes_known_only_at_run_time(axis, grid, data, whole_blocks, sign):
    """Zeros are added in numbers known before, enough for any size, and more is taken off instead."""
    size = data.draw(st.integers(axis.lowest(grid), axis.highest(grid)))
    [(zeros, cuts)] = geometry.edges([axis], [Unknown(size)], whole_blocks=whole_blocks, sign=sign)
    cuts = [getattr(cut, "value", cut) for cut in cuts]
    patched = axis.natural(grid) + (axis.remainder if whole_blocks else 0)
    assert all(isinstance(zero, int) for zero in zeros)
    assert all(n >= 0 for n in (*zeros, *cuts))
    assert sum(cuts) - sum(zeros) == (patched - size if sign > 0 else size - patched)


def test_unknown_sizes_stay_unknown():
    axes = geometry.make_axes((4, 4), None, "valid", 2)
    assert geometry.grid_shape(axes, (None, 12)) == (None, 3)
    assert geometry.spatial_shape(axes, (None, 3)) == (None, 12)
    assert geometry.spatial_shape(axes, (None, 3), (None, 13)) == (None, 13)


def test_one_number_stands_for_every_axis():
    assert geometry.make_axes(4, 2, "same", 3) == (Axis(4, 2, "same"),) * 3
    assert geometry.make_axes((2, 3), None, "valid", 2) == (Axis(2, 2, "valid"), Axis(3, 3, "valid"))


@pytest.mark.parametrize("sizes", [(4, None, 2**40), (None, 2**31)])
def test_elements_are_counted_without_the_unknown(sizes):
    geometry.check_elements("output", sizes)
    with pytest.raises(ValueError, match="The kernel must have at most 2147483647 elements"):
        geometry.check_elements("kernel", sizes, geometry.MAX_KERNEL_ELEMENTS)
