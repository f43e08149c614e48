"""What the lowerings owe beside values: sums that keep small terms, sizes that are not guessed,
the choice of one."""

import math
import os
import types

import keras
import numpy as np
import pytest
import reference
from backend import run, tensor, to_numpy
from cases import (
    TOLERANCE,
    normal,
    over_cases,
    over_implementations,
    over_paddings,
)
from keras import ops as K

from keras_unpatchify import blocks, geometry, lowerings, ops, tensors
from keras_unpatchify.ops import patchify, unpatchify

# A sum of one large number and small ones, each of which is less than half a unit of the large one.
LARGE = {"float16": 2048, "bfloat16": 256}


@pytest.mark.parametrize("dtype", LARGE)
def test_overlaps_add_up_in_single_precision(dtype):
    """One block of a patch after another: added in half precision, every small number would be
    lost."""
    kernel = np.ones((16, 1, 1), "float32")
    kernel[0] = LARGE[dtype]
    x = np.ones((1, 31, 1), "float32")
    options = {"stride": 1, "implementation": "matmul"}
    arrays = [keras.ops.cast(a, dtype) for a in (x, kernel)]
    sums = {
        "tokens": patchify(*arrays, **options),
        "signal": unpatchify(*arrays, **options)[:, 15:31],
    }
    for name, y in sums.items():
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
        np.testing.assert_allclose(y, LARGE[dtype] + 15, atol=1, err_msg=name)


@pytest.mark.parametrize("dtype", LARGE)
def test_two_terms_and_a_bias_are_rounded_once(dtype):
    """In half precision each of two ones would be lost, one after the other."""
    x, kernel, bias = [[[LARGE[dtype]], [1]]], [[[1]], [[1]]], [1]
    arrays = [K.convert_to_tensor(a, dtype) for a in (x, kernel, bias)]
    y = unpatchify(*arrays, stride=1, implementation="matmul")
    assert float(y[0, 1, 0]) == LARGE[dtype] + 2


@over_implementations
@pytest.mark.parametrize("dtype", LARGE)
def test_a_mean_in_half_precision(implementation, dtype):
    """Of ones, wherever one patch or two cover a position."""
    arrays = [K.ones(shape, dtype) for shape in [(2, 5, 2), (4, 3, 2)]]
    y = unpatchify(*arrays, stride=2, overlap="mean", implementation=implementation)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    np.testing.assert_array_equal(to_numpy(K.cast(y, "float32")), np.full((2, 12, 3), 2))


@pytest.mark.parametrize(
    ("shape", "more", "batch"),
    [
        ((5, 3, 4), (), 5),
        ((5, None, 4), (), 5),
        ((None, 3, 4), (), -1),
        ((None, 3, 4), (2, 6), -1),
        ((None, 3, 4), (2, None), None),
        ((None, None, 4), (), None),
        ((1, 3, 4), (), -1),
        ((1, None, 4), (), 1),
        ((1, 3, 4), (None,), 1),
        ((0, 3, 4), (), 0),
    ],
)
def test_a_batch_is_inferred_where_it_alone_is_unknown(shape, more, batch):
    assert tensors.batch_of(keras.KerasTensor(shape), *more) == batch


@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
@over_cases(["1d-overlap", "2d-wide-token", "2d-mixed", "2d-many-channels", "2d-wide-blocks"])
def test_what_is_written_for_one_backend_computes_the_same_on_any(monkeypatch, backend, case):
    """But for what jax does only where it compiles, which has its own tests below."""
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(tensors, "jax_compiles", lambda *xs: False)
    options = {"stride": case.stride, "padding": case.padding("pairs")}
    for size in case.sizes(options["padding"]):
        x, image, kernel = case.tokens(), case.signals(size), case.kernel()
        expected = reference.unpatchify(x, kernel, size=size, **options)
        asked = {"output_spatial_shape": size, "implementation": "matmul", **options}
        np.testing.assert_allclose(run(unpatchify, x, kernel, **asked), expected, **TOLERANCE)
        expected = reference.patchify(image, kernel, **options)
        actual = run(patchify, image, kernel, implementation="matmul", **options)
        np.testing.assert_allclose(actual, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("backend", "token", "taken"),
    [
        ("torch", 24, set()),
        ("jax", 24, {"conv"}),
        ("jax", 23, set()),
        ("tensorflow", 24, {"slice", "rows"}),
    ],
)
def test_each_backend_computes_the_product_in_its_fastest_way(monkeypatch, backend, token, taken):
    """The signal is cut by one position; on jax a row of the product is four times as wide."""
    found, conv, cut, reshape = set(), K.conv, K.slice, tensors.reshape
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(K, "conv", lambda *a, **b: found.add("conv") or conv(*a, **b))
    monkeypatch.setattr(K, "slice", lambda *a: found.add("slice") or cut(*a))
    monkeypatch.setattr(
        tensors, "reshape", lambda x, to: found.update(["rows"] * (to == (-1, 6))) or reshape(x, to)
    )
    x, kernel = np.ones((1, 5, 3), "float32"), np.ones((2, 3, token), "float32")
    patchify(x, kernel, implementation="matmul")
    assert found == taken


@pytest.fixture
def apart(monkeypatch):
    """The axes and lengths of what is added up apart, on every backend as if jax traced."""
    found, with_first = [], tensors.with_first
    if keras.backend.backend() != "jax":

        def with_first(x, i, positions):
            rest = K.split(x, [positions.shape[1 + i]], axis=1 + i)[1]
            return K.concatenate([positions, rest], axis=1 + i)

    def spied(x, i, positions):
        found.append((i, positions.shape[1 + i]))
        return with_first(x, i, positions)

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(tensors, "jax_compiles", lambda *xs: keras.backend.backend() == "jax")
    monkeypatch.setattr(tensors, "with_first", spied)
    return found


@pytest.fixture
def loops_of_jax(monkeypatch, apart):
    """The numbers of steps of loops, which run step by step."""
    found = []

    def scan(step, carry, parts):
        found.append(parts[0].shape[0])
        for n in range(found[-1]):
            carry, _ = step(carry, [part[n] for part in parts])
        return carry, None

    monkeypatch.setattr(K, "scan", scan)
    return found


@pytest.mark.parametrize(
    ("grid", "patch", "stride", "token", "loops"),
    [
        ((3, 2), (6, 6), (3, 1), 9, [2]),  # 36 numbers are 3 * (9 + 3)
        ((3, 2), (5, 7), (3, 1), 9, []),
        ((2, 3), (6, 6), (3, 1), 8, [6]),
        ((2, 2, 2), (8, 8, 4), (4, 1, 1), 1, [2, 8, 4]),
        ((2, 2, 2), (8, 8, 2), (4, 1, 1), 1, [2, 8]),  # 8 are less than 3 * (1 + 4) - 4
        ((2, 3, 4), (2, 8, 8), (1, 2, 1), 1, [8, 4]),
        ((2, 2, 2), (8, 8, 2), (4, 1, 1), 19, [2]),  # 64 are less than 3 * (19 + 4) - 4
        ((2, 2, 2), (8, 8, 2), (4, 1, 1), 18, [2, 8]),
        ((2, 2, 2), (4, 8, 8), (4, 2, 1), 1, [4, 8]),  # the first axis has one block
        ((2,), (64,), (4,), 1, [16]),
        ((2, 2), (7, 4), (4, 1), 1, [2, 4]),
        ((2, 2), (4, 7), (1, 4), 1, [4]),
    ],
)
def test_jax_loops_over_blocks_that_are_many_for_their_token_and_cell(
    loops_of_jax, grid, patch, stride, token, loops
):
    """Those along the longest axis, and in each of its steps those along the next."""
    found, expected, times = loops_of_jax, [], 1
    x, kernel = np.ones((1, *grid, token), "float32"), np.ones((*patch, 1, token), "float32")
    signal = unpatchify(x, kernel, stride=stride, implementation="matmul")
    for number in loops:
        expected += [number] * times
        times *= number
    assert sorted(found) == sorted(expected)
    assert found[: len(loops)] == loops
    found.clear()
    patchify(signal, kernel, stride=stride, implementation="matmul")
    assert sorted(found) == sorted(expected)
    assert found[: len(loops)] == loops


@pytest.mark.parametrize("padding", ["valid", "same", ((2, 2), (2, 2)), ((1, -1), (0, 2))])
@pytest.mark.parametrize(
    ("patch", "stride", "depth"),
    [
        ((6, 6), (2, 2), 1),
        ((7, 4), (2, 3), 1),
        ((5, 8), (2, 3), 1),
        ((7, 4), (3, 1), 1),
        ((9, 8), (2, 2), 2),
        ((3, 4, 6), (2, 1, 2), 2),
        ((5, 4, 8), (2, 1, 2), 3),
    ],
)
def test_loops_compute_the_same(loops_of_jax, patch, stride, depth, padding):
    """With a bias, blocks of other widths, positions at the end that no patch covers, and loops
    within loops."""
    found, size = loops_of_jax, (11, 13, 9)[: len(patch)]
    if not isinstance(padding, str):
        padding = (*padding, (1, 2))[: len(patch)]
    options = {"stride": stride, "padding": padding}
    x, kernel, bias = normal((2, *size, 2), 0), normal((*patch, 2, 3), 1), normal((*patch, 2), 2)
    tokens = patchify(tensor(x), tensor(kernel), implementation="matmul", **options)
    expected = reference.patchify(x, kernel, **options)
    np.testing.assert_allclose(to_numpy(tokens), expected, **TOLERANCE)
    assert len(found) == sum(math.prod(found[:level]) for level in range(depth))
    found.clear()
    signal = unpatchify(
        tokens,
        tensor(kernel),
        tensor(bias),
        output_spatial_shape=size,
        implementation="matmul",
        **options,
    )
    expected = reference.unpatchify(to_numpy(tokens), kernel, bias, size=size, **options)
    np.testing.assert_allclose(to_numpy(signal), expected, **TOLERANCE)
    assert len(found) == sum(math.prod(found[:level]) for level in range(depth))


@pytest.mark.parametrize("backend", ["torch", "tensorflow", "numpy", "openvino"])
def test_only_jax_loops(loops_of_jax, monkeypatch, backend):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    x, kernel = np.ones((1, 8, 1), "float32"), np.ones((64, 1, 1), "float32")
    options = {"stride": 4, "implementation": "matmul"}
    patchify(unpatchify(x, kernel, **options), kernel, **options)
    assert loops_of_jax == []


@pytest.mark.jax_backend
@pytest.mark.parametrize("traced", ["tokens", "kernel"])
def test_jax_does_not_loop_where_it_would_compile_at_every_call(monkeypatch, traced):
    """But where it traces, to compile or to differentiate."""
    import jax

    found, scan = [], K.scan
    monkeypatch.setattr(K, "scan", lambda *args, **kwargs: found.append(1) or scan(*args, **kwargs))
    arrays = {"tokens": normal((1, 8, 1), 0), "kernel": normal((64, 1, 1), 1)}

    def total(array):
        x, kernel = (arrays | {traced: array}).values()
        return K.sum(unpatchify(x, kernel, stride=4, implementation="matmul"))

    eager = total(arrays[traced])
    assert found == []
    np.testing.assert_allclose(jax.jit(total)(arrays[traced]), eager, **TOLERANCE)
    assert found == [1]
    jax.grad(total)(arrays[traced])
    assert found == [1, 1]


@pytest.mark.parametrize(
    ("patch", "stride", "padding", "size", "expected"),
    [
        ((4,), (2,), "valid", (8,), []),
        ((4, 1), (2, 1), "valid", (8, 3), [(0, 2)]),
        ((6, 1), (2, 1), ((1, 1), (0, 0)), (8, 3), [(0, 2)]),
        ((6, 1), (2, 1), ((0, 3), (0, 0)), (7, 3), [(0, 1)]),
        ((6, 1), (2, 1), ((0, -1), (0, 0)), (11, 3), [(0, 5)]),
        ((7, 1), (3, 1), "valid", (14, 3), [(0, 5)]),
        ((8, 1), (2, 1), "valid", (12, 3), [(0, 6)]),
        ((8, 1), (2, 1), "valid", (10, 3), []),  # two cells, and six positions more
        ((8, 1), (2, 1), ((2, 0), (0, 0)), (10, 3), [(0, 4)]),
        ((8, 1), (2, 1), ((2, 0), (0, 0)), (8, 3), []),  # three cells, of two tokens
        ((4, 1), (4, 1), "valid", (9, 3), []),  # patches do not overlap
        ((4, 1), (2, 1), "same", (8, 3), []),
        ((4, 1), (2, 1), ((1, 1), (0, 0)), (8, 3), []),
        ((4, 1), (2, 1), ((3, 1), (0, 0)), (6, 3), []),
        ((4, 4), (2, 2), "valid", (8, 12), [(0, 2), (1, 2)]),
        ((4, 4), (4, 2), "valid", (9, 12), [(1, 2)]),
        ((4, 6), (2, 2), ((1, 1), (0, 1)), (8, 12), [(1, 4)]),
        ((4, 4, 4), (2, 2, 2), "valid", (8, 6, 12), [(0, 2), (1, 2), (2, 2)]),
        ((4, 4, 4), (2, 2, 2), ((0, 0), (1, 1), (0, 0)), (8, 6, 12), [(0, 2), (2, 2)]),
    ],
)
def test_what_jax_adds_up_apart(apart, patch, stride, padding, size, expected):
    """The first positions along an axis that is longer than its cells, but for a series."""
    options = {"stride": stride, "padding": padding}
    x, kernel, bias = normal((2, *size, 2), 0), normal((*patch, 2, 30), 1), normal((*patch, 2), 2)
    tokens = reference.patchify(x, kernel, **options).astype("float32")
    signal = unpatchify(
        *map(tensor, (tokens, kernel, bias)),
        output_spatial_shape=size,
        implementation="matmul",
        **options,
    )
    oracle = reference.unpatchify(tokens, kernel, bias, size=size, **options)
    np.testing.assert_allclose(to_numpy(signal), oracle, **TOLERANCE)
    assert sorted(set(apart)) == expected


@pytest.mark.jax_backend
def test_jax_adds_up_nothing_apart_outside_of_a_trace(monkeypatch):
    """A call takes twice as long with it."""
    import jax

    found, ours = [], tensors.with_first
    monkeypatch.setattr(tensors, "with_first", lambda *args: found.append(1) or ours(*args))
    x, kernel = normal((1, 4, 4, 30), 0), normal((4, 1, 1, 30), 1)

    def signal(x):
        return unpatchify(x, kernel, stride=(2, 1), implementation="matmul")

    eager = signal(x)
    assert found == []
    np.testing.assert_allclose(jax.jit(signal)(x), eager, **TOLERANCE)
    assert found == [1]


@pytest.mark.parametrize("dtype", LARGE)
def test_what_is_added_up_apart_is_added_in_single_precision(apart, dtype):
    """Three positions apart, of which the last has the large number and two small ones."""
    kernel = np.zeros((4, 1, 1, 4), "float32")
    kernel[..., 0] = 1
    kernel[0, ..., 0] = LARGE[dtype]
    arrays = [K.cast(a, dtype) for a in (np.ones((1, 4, 5, 4), "float32"), kernel)]
    y = unpatchify(*arrays, stride=1, implementation="matmul")
    assert set(apart) == {(0, 3)}
    y = to_numpy(K.cast(y, "float32"))[0, 2:4]
    np.testing.assert_allclose(y[0], LARGE[dtype] + 2)
    np.testing.assert_allclose(y[1], LARGE[dtype] + 3, atol=1)


@pytest.mark.parametrize("place", [(0, 0), (1, 0), (1, 3), (2, 4), (0, 4)])
def test_what_is_added_up_apart_keeps_what_is_not_a_number_in_its_patch(apart, place):
    x, kernel = normal((1, 3, 5, 30), 0), normal((5, 4, 2, 30), 1)
    x[(0, *place, 0)] = np.nan
    options = {"stride": (2, 2)}
    signal = unpatchify(tensor(x), tensor(kernel), implementation="matmul", **options)
    np.testing.assert_allclose(
        to_numpy(signal), reference.unpatchify(x, kernel, **options), **TOLERANCE
    )
    assert set(apart) == {(0, 3), (1, 2)}


@pytest.mark.parametrize("dtype", LARGE)
def test_loops_add_up_in_single_precision(loops_of_jax, dtype):
    test_overlaps_add_up_in_single_precision(dtype)
    assert loops_of_jax == [16, 16]


def test_loops_keep_what_is_not_a_number_in_its_patch(loops_of_jax):
    """Zeros that fill up a block would spread it, and so would the other end of a ring."""
    kernel, options = normal((5, 8, 2, 3), 1), {"stride": (2, 3), "padding": "same"}
    for lowering, oracle, shape in [
        (patchify, reference.patchify, (1, 12, 15, 2)),
        (unpatchify, reference.unpatchify, (1, 6, 5, 3)),
    ]:
        for place in [(0, 0), (2, 3), (5, 4)]:
            x = normal(shape, 0)
            x[0, place[0], place[1], 0] = np.nan
            y = lowering(tensor(x), tensor(kernel), implementation="matmul", **options)
            expected = oracle(x, kernel, **options)
            np.testing.assert_array_equal(np.isnan(to_numpy(y)), np.isnan(expected))
    assert loops_of_jax == [3] * 6


@pytest.mark.parametrize(
    ("grid", "order"),
    [((3, 5, 4), (1, 2, 0)), ((4, 4), (0, 1)), ((None, 4, 5), (0, 1, 2))],
)
def test_the_longest_axis_is_added_up_last(grid, order):
    assert lowerings._longest_first(grid) == order


@pytest.mark.parametrize(
    ("backend", "patch", "signal", "stacks"),
    [
        ("jax", 4, 128, [2]),
        ("jax", 4, 127, []),
        ("jax", 5, 256, []),  # the last block has half of the numbers
        ("jax", 2, 128, []),  # one block
        ("torch", 4, 128, []),
    ],
)
def test_blocks_of_at_least_256_numbers_are_stacked_on_jax(
    monkeypatch, backend, patch, signal, stacks
):
    found, stack = [], K.stack
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(K, "stack", lambda blocks: found.append(len(blocks)) or stack(blocks))
    x, kernel = np.ones((1, 7, signal), "float32"), np.ones((patch, signal, 3), "float32")
    patchify(x, kernel, stride=2, implementation="matmul")
    assert found == stacks


@pytest.mark.parametrize(
    ("name", "stride", "size", "to_rows"),
    [
        ("matmul", 3, None, True),
        ("matmul", 3, (7,), False),
        ("matmul", 2, None, False),
        ("matmul", 4, None, False),
        ("conv_transpose", 3, None, False),
    ],
)
def test_a_bias_is_added_to_the_rows_of_a_product_where_patches_tile(
    monkeypatch, name, stride, size, to_rows
):
    """And where no position is added at the end, which holds the bias too."""
    found, lowering = [], lowerings.LOWERINGS[name]

    def signal(x, kernel, bias, *rest):
        found.append(bias is not None)
        return lowering.signal(x, kernel, bias, *rest)

    monkeypatch.setitem(lowerings.LOWERINGS, name, lowering._replace(signal=signal))
    x, kernel, bias = (np.ones(shape, "float32") for shape in [(1, 2, 4), (3, 5, 4), (5,)])
    options = {"output_spatial_shape": size, "implementation": name}
    unpatchify(x, kernel, bias, stride=stride, **options)
    assert found == [to_rows]


@pytest.mark.parametrize(
    ("padding", "size", "cells"),
    [("valid", 24, 12), ("valid", 9, 4), ("same", 9, 5), (((0, -1),), 9, 4), (1, 10, 5)],
)
def test_a_product_for_tokens_sees_the_whole_cells_of_the_signal(monkeypatch, padding, size, cells):
    """And a cell for each token: whole cells divide over devices as the signal does."""
    moved, found = blocks.space_to_depth, []
    monkeypatch.setattr(
        blocks, "space_to_depth", lambda x, *rest: found.append(x.shape[1]) or moved(x, *rest)
    )
    options = {"stride": 2, "padding": padding, "implementation": "matmul"}
    patchify(np.ones((1, size, 1), "float32"), np.ones((4, 1, 1), "float32"), **options)
    assert found == [2 * cells, 2 * cells]


@pytest.fixture(params=["every axis", "the first axis"])
def traced(request, monkeypatch):
    """Sizes of axes are scalars of the backend, as in a graph."""

    def sizes(x):
        batch, *axes, channels = x.shape
        number = len(axes) if request.param == "every axis" else 1
        return batch, *map(K.convert_to_tensor, axes[:number]), *axes[number:], channels

    monkeypatch.setattr(tensors, "shape_of", sizes)
    monkeypatch.setattr(ops, "shape_of", sizes)


@pytest.mark.graphs
@over_cases(["2d-mixed", "2d-batch-one"])
@over_paddings
@over_implementations
def test_sizes_known_only_at_run_time_give_the_same(traced, case, padding, implementation):
    options = {"stride": case.stride, "padding": case.padding(padding)}
    asked = {"implementation": implementation, **options}
    x, kernel, bias = case.tokens(), case.kernel(), normal((*case.patch, case.signal), 3)
    for size in (None, *case.sizes(options["padding"])):
        expected = reference.unpatchify(x, kernel, bias, size=size, overlap="mean", **options)
        scalars = None if size is None else [K.convert_to_tensor(n) for n in size]
        actual = unpatchify(
            *map(tensor, (x, kernel, bias)), output_spatial_shape=scalars, overlap="mean", **asked
        )
        np.testing.assert_allclose(to_numpy(actual), expected, **TOLERANCE)
    for size in case.sizes(options["padding"]):
        image = case.signals(size)
        expected = reference.patchify(image, kernel, **options)
        actual = to_numpy(patchify(tensor(image), tensor(kernel), **asked))
        np.testing.assert_allclose(actual, expected, **TOLERANCE)


@pytest.mark.graphs
def test_a_size_known_only_at_run_time_is_compared_with_the_grid():
    x, kernel = tensor(normal((2, 4, 6, 3), 0)), tensor(normal((4, 4, 2, 3), 1))
    for size in [(20, 24), (16, 28), (15, 24), (24, 16)]:
        scalars = [K.convert_to_tensor(n) for n in size]
        with pytest.raises(Exception, match=r"(?i)size|dimension|shape"):
            unpatchify(x, kernel, output_spatial_shape=scalars)


def test_a_size_that_is_known_is_not_compared_again():
    x, axes = np.ones((2, 4, 6, 3)), geometry.make_axes(4, None, "valid", 2)
    assert ops._compare_grid(x, axes, (4, 6), (16, 24)) is x


def problem(operation, overlapping, whole, token, signal, columns, work=2**31, rank=2, **others):
    to_tokens, others = operation == "patchify", {"gaps": False, "accelerated": False} | others
    return ops.Problem(to_tokens, overlapping, whole, signal, token, columns, work, rank, **others)


GPU = {"accelerated": True}


@pytest.mark.parametrize(
    ("backends", "problem", "name"),
    [
        # one token channel
        ("torch tensorflow jax", problem("unpatchify", True, True, 1, 1, 16, 2**10), "matmul"),
        ("torch tensorflow", problem("unpatchify", True, True, 2, 1, 16), "conv_transpose"),
        # small
        ("tensorflow", problem("unpatchify", False, False, 9, 1, 4, 2**18 - 1), "conv_transpose"),
        ("tensorflow", problem("patchify", False, False, 9, 1, 4, 1, **GPU), "conv_transpose"),
        ("torch", problem("unpatchify", False, False, 9, 1, 4, 2**18 - 1), "matmul"),
        ("torch", problem("unpatchify", True, False, 9, 1, 4, 2**18 - 1), "conv_transpose"),
        ("torch", problem("unpatchify", True, False, 9, 1, 4, 2**18), "matmul"),
        ("torch tensorflow", problem("patchify", False, False, 9, 1, 4, 1, gaps=True), "matmul"),
        ("torch tensorflow", problem("patchify", True, True, 512, 1, 16, gaps=True), "matmul"),
        ("torch tensorflow", problem("unpatchify", True, True, 2, 1, 16, gaps=True), "matmul"),
        ("torch tensorflow", problem("unpatchify", False, False, 9, 1, 4, 2**18), "matmul"),
        ("torch tensorflow", problem("unpatchify", False, False, 9, 1, 4, 0), "matmul"),
        ("torch tensorflow", problem("unpatchify", False, False, 9, 1, 4, None), "matmul"),
        ("jax numpy openvino", problem("unpatchify", False, False, 9, 1, 4, 1), "matmul"),
        # overlapping
        ("torch tensorflow", problem("patchify", True, False, 512, 3, 768), "conv_transpose"),
        ("torch tensorflow", problem("patchify", True, True, 512, 8, 191), "conv_transpose"),
        ("torch tensorflow", problem("patchify", True, True, 511, 8, 192), "conv_transpose"),
        ("torch tensorflow", problem("patchify", True, True, 512, 8, 192), "subpixel"),
        ("torch tensorflow", problem("patchify", True, True, 255, 32, 512), "conv_transpose"),
        ("torch tensorflow", problem("unpatchify", True, True, 255, 32, 512), "conv_transpose"),
        ("torch tensorflow", problem("unpatchify", True, True, 256, 32, 512), "subpixel"),
        ("torch tensorflow", problem("unpatchify", True, False, 256, 32, 512), "matmul"),
        ("torch", problem("unpatchify", True, True, 511, 4, 64), "subpixel"),
        ("torch", problem("unpatchify", True, True, 512, 4, 64), "matmul"),
        ("tensorflow", problem("unpatchify", True, True, 63, 4, 64), "subpixel"),
        ("tensorflow", problem("unpatchify", True, True, 64, 4, 64), "matmul"),
        ("jax numpy openvino", problem("unpatchify", True, True, 2, 64, 512), "matmul"),
        ("jax numpy openvino", problem("patchify", True, True, 512, 1, 16), "matmul"),
        # tiling
        ("torch tensorflow jax", problem("unpatchify", False, False, 8, 64, 256), "matmul"),
        ("torch tensorflow jax", problem("patchify", False, False, 512, 3, 768), "matmul"),
        # tiling, with wide tokens
        ("jax", problem("patchify", False, False, 1020, 15, 255), "conv_transpose"),
        ("jax", problem("patchify", False, False, 1019, 15, 255), "matmul"),
        ("jax", problem("patchify", False, False, 1024, 16, 256), "matmul"),
        ("jax", problem("patchify", False, False, 1020, 15, 255, rank=3), "matmul"),
        ("jax", problem("patchify", False, False, 1020, 15, 255, gaps=True), "matmul"),
        ("jax", problem("patchify", True, True, 1020, 15, 255), "matmul"),
        ("jax", problem("unpatchify", False, False, 1020, 15, 255), "matmul"),
        ("torch tensorflow", problem("patchify", False, False, 1020, 15, 255), "matmul"),
        # on an accelerator
        ("torch tensorflow", problem("patchify", True, True, 512, 8, 192, **GPU), "conv_transpose"),
        ("torch tensorflow", problem("patchify", True, True, 512, 8, 9, 2**33, **GPU), "subpixel"),
        ("torch tensorflow", problem("unpatchify", True, True, 64, 1, 9, 2**33, **GPU), "subpixel"),
        (
            "torch tensorflow",
            problem("unpatchify", True, True, 64, 1, 9, 2**33 - 1, **GPU),
            "conv_transpose",
        ),
        (
            "torch tensorflow",
            problem("unpatchify", True, True, 63, 1, 9, 2**33, **GPU),
            "conv_transpose",
        ),
        (
            "torch tensorflow",
            problem("unpatchify", True, False, 64, 1, 9, 2**33, **GPU),
            "conv_transpose",
        ),
        ("torch tensorflow", problem("unpatchify", True, False, 9, 1, 9, **GPU), "conv_transpose"),
        ("torch tensorflow", problem("unpatchify", True, True, 1, 1, 16, **GPU), "matmul"),
        ("torch tensorflow", problem("unpatchify", False, False, 9, 1, 4, **GPU), "matmul"),
        ("jax", problem("patchify", False, False, 1020, 15, 255, **GPU), "matmul"),
        ("jax", problem("unpatchify", True, True, 2, 64, 512, **GPU), "matmul"),
    ],
)
def test_the_rule_of_auto(monkeypatch, backends, problem, name):
    for backend in backends.split():
        monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
        assert ops.choose(problem) == name


@pytest.fixture
def posed(monkeypatch):
    """The problems that calls pose to the rule."""
    found = []
    monkeypatch.setattr(ops, "choose", lambda problem: found.append(problem) or "matmul")
    return found


def test_a_call_poses_its_problem(posed):
    x = np.ones((3, 5, 6, 7), "float32")
    unpatchify(x, np.ones((4, 3, 2, 7), "float32"), stride=(2, 3))
    patchify(x, np.ones((2, 3, 7, 8), "float32"), stride=(2, 2))
    patchify(x, np.ones((2, 3, 7, 8), "float32"))
    patchify(x, np.ones((2, 3, 7, 8), "float32"), stride=(2, 4))
    here = {"accelerated": os.environ.get("KERAS_UNPATCHIFY_DEVICE") == "gpu"}
    assert posed == [
        problem("unpatchify", True, True, 7, 2, 24, 3 * 5 * 6 * 24 * 7, **here),
        problem("patchify", True, False, 8, 7, 42, 3 * 2 * 2 * 42 * 8, **here),
        problem("patchify", False, False, 8, 7, 42, 3 * 2 * 2 * 42 * 8, **here),
        problem("patchify", False, False, 8, 7, 42, 3 * 2 * 1 * 42 * 8, gaps=True, **here),
    ]


@pytest.mark.parametrize(("name", "device"), [("cpu", "cpu"), ("cuda", "gpu"), ("mps", "gpu")])
def test_a_tensor_of_torch_knows_its_device(monkeypatch, name, device):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    x = types.SimpleNamespace(device=types.SimpleNamespace(type=name))
    assert tensors.device_of(x) == device


@pytest.mark.parametrize(
    ("backend", "names", "device"),
    [
        ("jax", ["cpu:0", "cpu:1"], "cpu"),
        ("jax", ["tpu:0"], "gpu"),
        ("tensorflow", ["cpu:0", "gpu:0"], "gpu"),
        ("numpy", None, "cpu"),
        ("openvino", None, "cpu"),
    ],
)
def test_elsewhere_the_best_device_computes(monkeypatch, backend, names, device):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: names)
    tensors._best_device.cache_clear()
    assert tensors.device_of(np.ones(1)) == device
    tensors._best_device.cache_clear()


def test_a_size_that_is_not_known_is_not_small(monkeypatch):
    """The batch of a traced call is not known on TensorFlow; everywhere a None stays a None."""
    axes = geometry.make_axes((4,), None, "valid", 1)
    posed = []
    monkeypatch.setattr(ops, "choose", lambda problem: posed.append(problem) or "matmul")
    ops._lowering("auto", tensor(np.ones(1)), axes, 2, (None, 5, 7), "signal")
    assert posed[0].work is None


@pytest.mark.parametrize("name", lowerings.LOWERINGS)
def test_a_lowering_that_is_named_is_taken(posed, monkeypatch, name):
    taken = []
    lowering = lowerings.LOWERINGS[name]
    monkeypatch.setitem(
        lowerings.LOWERINGS, name, lowering._replace(tokens=lambda *a: taken.append(name))
    )
    with pytest.raises(AttributeError):  # of the tokens that are None
        patchify(np.ones((1, 4, 1)), np.ones((2, 1, 1)), implementation=name)
    assert taken == [name]
    assert not posed
