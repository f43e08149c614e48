"""A signal that is divided over devices stays divided: what crosses them is its borders, and what
a device holds is its part."""

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
        kinds, _, _ = row[6]
        assert set(kinds) <= {"collective-permute", "all-reduce"}, row


@pytest.mark.jax_backend
def test_tiling_moves_nothing(rows):
    """Neither by blocks nor by the native operator, which "auto" takes for wide tokens."""
    tiling = [row[6:] for row in rows if "tiling" in row[0]]
    assert tiling
    assert all(moved == 0 for lowerings in tiling for _, moved, _ in lowerings)


def kinds(row):
    """What a geometry is named for; nothing, where a token has more channels than a cell has
    numbers, and a patch at most two blocks along an axis."""
    return [kind for kind in ("narrow", "deep") if kind in row[0]]


def compared(rows, padding, *kind):
    """Settings of a kind, or of none, with what both lowerings move.

    The native operator moves tokens, the other one parts of patches.
    """
    found = [
        (row[:6], row[6][1], row[7][1])
        for row in rows
        if len(row) == 8 and kinds(row) == [*kind] and row[1] == padding
    ]
    assert found
    return found


# How many times as much as the native operator, at most. Where a signal grows ("valid"), each block
# along a divided axis is divided anew. Where the native operator pads a signal itself ("same"), it
# moves the halo alone.
LIMITS = {
    ("valid", "unpatchify"): 2,
    ("valid", "patchify"): 0.5,  # the native operator gathers
    ("same", "unpatchify"): 1,
    ("same", "patchify"): 4,
    # The native operator sees a signal that is longer than its part, and moves all of it.
    ("circular", "unpatchify"): 0.5,
    ("circular", "patchify"): 0.5,
}


@pytest.mark.jax_backend
@pytest.mark.parametrize(("padding", "layer"), LIMITS)
def test_about_as_much_is_moved_as_by_the_native_operator(rows, padding, layer):
    """Along any axis."""
    found = [row for row in compared(rows, padding) if row[0][2] == layer]
    assert found
    for setting, ours, native in found:
        assert ours <= LIMITS[padding, layer] * native, (setting, ours, native)


@pytest.mark.jax_backend
@pytest.mark.parametrize(("padding", "most"), [("same", 2), ("valid", 5.3)])
def test_the_parts_of_patches_of_narrow_tokens_that_move(rows, padding, most):
    """More than by the native operator: a cell has twice as many numbers as its token."""
    for setting, ours, native in compared(rows, padding, "narrow"):
        assert ours <= most * native, (setting, ours, native)


@pytest.mark.jax_backend
def test_a_ring_moves_what_a_line_does(rows):
    """In both directions."""
    moved = {(*row[:1], *row[2:6], row[1]): row[6][1] for row in rows}
    ring = {key[:-1]: n for key, n in moved.items() if key[-1] == "circular"}
    assert ring
    for key, n in ring.items():
        assert n <= moved[(*key, "same")], key


@pytest.mark.jax_backend
def test_the_parts_of_a_deep_overlap_that_move(rows):
    """Each of four blocks along an axis moves."""
    for setting, ours, native in compared(rows, "same", "deep") + compared(rows, "valid", "deep"):
        assert ours <= 6 * native, (setting, ours, native)


@pytest.mark.jax_backend
def test_the_native_operator_moves_something(rows):
    """The comparison above could not fail if nothing was counted."""
    overlapping = [row for row in rows if row[0] == "2d overlap" and row[1] == "same"]
    assert all(native > 0 for *_, (_, native, _) in overlapping)


@pytest.mark.jax_backend
def test_a_device_holds_a_few_times_its_own_part(rows):
    """Of the tokens and the signal, of which it has an eighth: if it gathered them, it would hold
    eight times as much."""
    found = [row for row in rows if kinds(row) == []]
    assert found
    for row in found:
        _, _, held = row[6]
        assert held <= 4.3, row
