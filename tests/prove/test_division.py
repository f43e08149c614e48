"""A signal that is divided over devices stays divided: what crosses them is its borders."""

import json
import pathlib
import subprocess
import sys

import pytest

WORKER = pathlib.Path(__file__).parent / "division_worker.py"


@pytest.fixture(scope="module")
def rows():
    done = subprocess.run([sys.executable, WORKER], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.jax_backend
def test_nothing_is_gathered(rows):
    """No collective but the exchange of borders, and the sum that makes the test's scalar."""
    assert len(rows) > 100
    for row in rows:
        kinds, _ = row[5]
        assert set(kinds) <= {"collective-permute", "all-reduce"}, row


@pytest.mark.jax_backend
def test_tiling_moves_nothing(rows):
    """Neither by blocks nor by the native operator, which "auto" takes for wide tokens."""
    tiling = [row[5:] for row in rows if "tiling" in row[0]]
    assert tiling
    assert all(moved == 0 for lowerings in tiling for _, moved in lowerings)


def compared(rows, padding, first_axis):
    """Settings with what both lowerings move, for tokens of more channels than a cell has numbers.

    The native operator moves tokens, the other one parts of patches.
    """
    found = [
        (row[:5], row[5][1], row[6][1])
        for row in rows
        if len(row) == 7
        and "narrow" not in row[0]
        and row[1] == padding
        and (row[3] == 1) == first_axis
    ]
    assert found
    return found


@pytest.mark.jax_backend
@pytest.mark.parametrize(
    ("padding", "first_axis"), [("same", True), ("same", False), ("valid", True)]
)
def test_no_more_is_moved_than_by_the_native_operator(rows, padding, first_axis):
    for setting, ours, native in compared(rows, padding, first_axis):
        assert ours <= native, (setting, ours, native)


@pytest.mark.jax_backend
def test_valid_moves_at_most_twice_as_much_along_a_later_axis(rows):
    """An axis that grows is divided anew, once for each block along the axes before."""
    for setting, ours, native in compared(rows, "valid", first_axis=False):
        assert ours <= 2 * native, (setting, ours, native)


@pytest.mark.jax_backend
def test_the_native_operator_moves_something(rows):
    """The comparison above could not fail if nothing was counted."""
    overlapping = [row for row in rows if row[0] == "2d overlap" and row[1] == "same"]
    assert all(native > 0 for *_, (_, native) in overlapping)
