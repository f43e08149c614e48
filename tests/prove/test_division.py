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


@pytest.mark.jax_backend
def test_same_moves_no_more_than_the_native_operator(rows):
    compared = [row for row in rows if row[1] == "same" and len(row) == 7]
    assert compared
    for *setting, (_, ours), (_, native) in compared:
        assert ours <= native, (setting, ours, native)


@pytest.mark.jax_backend
def test_valid_moves_no_more_along_the_first_axis(rows):
    compared = [row for row in rows if row[1] == "valid" and row[3] == 1 and len(row) == 7]
    assert compared
    for *setting, (_, ours), (_, native) in compared:
        assert ours <= native, (setting, ours, native)


@pytest.mark.jax_backend
def test_valid_moves_at_most_twice_as_much_along_the_others(rows):
    """An axis that grows is divided anew, once for each block along the axes before."""
    for *setting, (_, ours), (_, native) in [row for row in rows if len(row) == 7]:
        assert ours <= 2 * native, (setting, ours, native)


@pytest.mark.jax_backend
def test_the_native_operator_moves_something(rows):
    """The comparison above could not fail if nothing was counted."""
    overlapping = [row for row in rows if row[0] == "2d overlap" and row[1] == "same"]
    assert all(native > 0 for *_, (_, native) in overlapping)
