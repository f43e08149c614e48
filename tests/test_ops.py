"""Values and gradients of the operations: against the oracle, and by the laws that define them."""

import numpy as np
import pytest
import reference
from backend import apply, gradients
from cases import (
    CASES,
    COMPACT,
    FILLED,
    TOLERANCE,
    Case,
    normal,
    over_cases,
    over_implementations,
    over_paddings,
)

from keras_unpatchify.ops import patchify, unpatchify


def on_arrays(operation, *arrays, **options):
    return apply(lambda *tensors: operation(*tensors, **options), *arrays)


@over_cases()
@over_paddings
@over_implementations
def test_unpatchify_is_the_sum_of_the_patches(case, padding, implementation):
    padding = case.padding(padding)
    x, kernel, bias = case.tokens(), case.kernel(), normal((case.signal,), 3)
    for size in (None, *case.sizes(padding)):
        expected = reference.unpatchify(
            x, kernel, bias, stride=case.stride, padding=padding, size=size
        )
        options = {"stride": case.stride, "padding": padding, "implementation": implementation}
        actual = on_arrays(unpatchify, x, kernel, bias, output_spatial_shape=size, **options)
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, **TOLERANCE)


@over_cases()
@over_paddings
@over_implementations
def test_patchify_is_the_product_with_each_patch(case, padding, implementation):
    padding = case.padding(padding)
    kernel, bias = case.kernel(), normal((case.token,), 3)
    for size in case.sizes(padding):
        x = case.signals(size)
        expected = reference.patchify(x, kernel, bias, stride=case.stride, padding=padding)
        options = {"stride": case.stride, "padding": padding, "implementation": implementation}
        actual = on_arrays(patchify, x, kernel, bias, **options)
        assert actual.shape == expected.shape == case.tokens().shape
        np.testing.assert_allclose(actual, expected, **TOLERANCE)


@over_cases()
@over_paddings
@over_implementations
def test_mean_divides_by_the_patches_that_cover(case, padding, implementation):
    padding = case.padding(padding)
    x, kernel, bias = case.tokens(), case.kernel(), normal((case.signal,), 3)
    for size in case.sizes(padding):
        expected = reference.unpatchify(
            x, kernel, bias, stride=case.stride, padding=padding, size=size, overlap="mean"
        )
        options = {
            "stride": case.stride,
            "padding": padding,
            "implementation": implementation,
            "overlap": "mean",
        }
        actual = on_arrays(unpatchify, x, kernel, bias, output_spatial_shape=size, **options)
        np.testing.assert_allclose(actual, expected, **TOLERANCE)


@over_cases()
@pytest.mark.parametrize("overlap", ["sum", "mean"])
@over_implementations
def test_a_patch_bias_is_added_by_every_patch(case, overlap, implementation):
    x, kernel, bias = case.tokens(), case.kernel(), normal((*case.patch, case.signal), 3)
    expected = reference.unpatchify(x, kernel, bias, stride=case.stride, overlap=overlap)
    options = {"stride": case.stride, "overlap": overlap, "implementation": implementation}
    np.testing.assert_allclose(
        on_arrays(unpatchify, x, kernel, bias, **options), expected, **TOLERANCE
    )


@pytest.mark.trains
@over_cases(FILLED)
@over_paddings
@over_implementations
def test_gradients_of_unpatchify(case, padding, implementation):
    padding = case.padding(padding)
    options = {"stride": case.stride, "padding": padding, "implementation": implementation}
    for size in case.sizes(padding):

        def function(x, kernel, bias, size=size):
            return unpatchify(x, kernel, bias, output_spatial_shape=size, **options)

        arrays = case.tokens(), case.kernel(), normal((case.signal,), 3)
        weights = case.signals(size)
        expected = reference.unpatchify_gradients(
            *arrays[:2], weights, stride=case.stride, padding=padding
        )
        for a, e in zip(gradients(function, arrays, weights), expected):
            np.testing.assert_allclose(a, e, **TOLERANCE)


@pytest.mark.trains
@over_cases(FILLED)
@over_paddings
@over_implementations
def test_gradients_of_patchify(case, padding, implementation):
    padding = case.padding(padding)

    def function(x, kernel, bias):
        return patchify(
            x, kernel, bias, stride=case.stride, padding=padding, implementation=implementation
        )

    for size in case.sizes(padding):
        arrays = case.signals(size), case.kernel(), normal((case.token,), 3)
        weights = case.tokens(4)
        expected = reference.patchify_gradients(
            *arrays[:2], weights, stride=case.stride, padding=padding
        )
        for a, e in zip(gradients(function, arrays, weights), expected):
            np.testing.assert_allclose(a, e, **TOLERANCE)


@pytest.mark.trains
def test_gradients_of_an_empty_batch_are_zero():
    case = CASES["2d-batch-zero"]
    arrays = case.tokens(), case.kernel()
    weights = case.signals(case.default_size("valid"))

    def function(x, kernel):
        return unpatchify(x, kernel, stride=case.stride, implementation="matmul")

    for gradient, array in zip(gradients(function, arrays, weights), arrays):
        np.testing.assert_array_equal(gradient, np.zeros_like(array))


@over_cases()
@over_paddings
@over_implementations
def test_the_two_operations_are_adjoint(case, padding, implementation):
    padding = case.padding(padding)
    options = {"stride": case.stride, "padding": padding, "implementation": implementation}
    for size in case.sizes(padding):
        x, t, kernel = case.signals(size), case.tokens(), case.kernel()
        left = np.vdot(on_arrays(patchify, x, kernel, **options), t)
        right = np.vdot(x, on_arrays(unpatchify, t, kernel, output_spatial_shape=size, **options))
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-3)


@over_cases(COMPACT)
@over_implementations
def test_unpatchify_is_linear_in_tokens_and_in_the_kernel(case, implementation):
    options = {"stride": case.stride, "implementation": implementation}
    x1, x2, k1, k2 = case.tokens(0), case.tokens(1), case.kernel(2), case.kernel(3)

    def value(x, kernel):
        return on_arrays(unpatchify, x, kernel, **options)

    np.testing.assert_allclose(
        value(2 * x1 - x2, k1), 2 * value(x1, k1) - value(x2, k1), **TOLERANCE
    )
    np.testing.assert_allclose(
        value(x1, 2 * k1 - k2), 2 * value(x1, k1) - value(x1, k2), **TOLERANCE
    )


@over_cases(COMPACT)
@over_implementations
def test_moving_tokens_by_one_moves_the_signal_by_one_stride(case, implementation):
    options = {"stride": case.stride, "implementation": implementation}
    x, kernel = case.tokens(), case.kernel()
    moved = np.pad(x, [(0, 0)] + [(1, 0)] * case.data_dim + [(0, 0)])
    inner = (slice(None), *(slice(s, None) for s in case.stride))
    actual = on_arrays(unpatchify, moved, kernel, **options)[inner]
    np.testing.assert_allclose(actual, on_arrays(unpatchify, x, kernel, **options), **TOLERANCE)


@over_cases(FILLED)
@over_implementations
def test_a_token_that_is_not_a_number_spoils_its_own_patch_only(case, implementation):
    x = case.tokens()
    first = (0, *(0,) * case.data_dim)
    x[first] = np.nan
    y = on_arrays(unpatchify, x, case.kernel(), stride=case.stride, implementation=implementation)
    expected = np.zeros(y.shape, bool)
    expected[(0, *(slice(0, k) for k in case.patch))] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


@over_cases(COMPACT)
@over_implementations
def test_a_pixel_that_is_not_a_number_spoils_the_tokens_that_cover_it_only(case, implementation):
    x = case.signals(case.default_size("valid"))
    last = tuple(n - 1 for n in x.shape[1:-1])
    x[(0, *last)] = np.nan
    y = on_arrays(patchify, x, case.kernel(), stride=case.stride, implementation=implementation)
    covers = [
        [i * s <= n < i * s + k for i in range(g)]
        for g, k, s, n in zip(case.grid, case.patch, case.stride, last)
    ]
    expected = np.zeros(y.shape, bool)
    expected[0][np.ix_(*map(np.array, covers))] = True
    np.testing.assert_array_equal(np.isnan(y), expected)


def test_auto_is_one_of_the_lowerings():
    """Values of "auto" are checked on both sides of its rule: many and few token channels for each signal channel."""
    for token, signal in [(24, 1), (2, 4)]:
        case = Case((4, 4), (2, 2), (3, 3), token, signal)
        x, kernel = case.tokens(), case.kernel()
        expected = reference.unpatchify(x, kernel, stride=case.stride)
        np.testing.assert_allclose(
            on_arrays(unpatchify, x, kernel, stride=case.stride), expected, **TOLERANCE
        )
        image = case.signals(case.default_size("valid"))
        expected = reference.patchify(image, kernel, stride=case.stride)
        np.testing.assert_allclose(
            on_arrays(patchify, image, kernel, stride=case.stride), expected, **TOLERANCE
        )
