"""Values and gradients of the operations: against the oracle, and by the laws that define them."""

import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, TRAINABLE, gradients, run, value_and_gradients
from cases import (
    CASES,
    COMPACT,
    IMPLEMENTATIONS,
    PADDINGS,
    TOLERANCE,
    marks,
    normal,
    over_cases,
    over_implementations,
)

from keras_unpatchify.ops import patchify, unpatchify

SETTINGS = [
    pytest.param((CASES[name], padding, i), id=f"{name}-{padding}-{i}", marks=marks(CASES[name]))
    for name, padding, i in itertools.product(CASES, PADDINGS, IMPLEMENTATIONS)
]


def compute(function, arrays, weights):
    """Values, and their gradients; PyTorch and TensorFlow refuse some of an empty batch."""
    if BACKEND in TRAINABLE and all(a.size for a in arrays):
        return value_and_gradients(function, arrays, weights)
    return run(function, *arrays), None


@pytest.fixture(scope="module", params=SETTINGS)
def computed(request):
    """All that is asked of a setting: each operation is compiled once, for every size and bias."""
    case, padding, implementation = request.param
    options = {"stride": case.stride, "padding": case.padding(padding)}
    sizes = case.sizes(options["padding"])
    x, kernel, bias = case.tokens(), case.kernel(), normal((case.signal,), 3)
    patch_bias, token_bias = normal((*case.patch, case.signal), 3), normal((case.token,), 3)
    keys = [*itertools.product((None,), ("sum", "mean"), ("channel", "patch"))]
    # without overlaps the mean is the sum, of which one size is enough
    overlaps = ("sum", "mean") if any(k > s for k, s in zip(case.patch, case.stride)) else ("sum",)
    keys += itertools.product(sizes, overlaps, ("channel",))

    def signals(x, kernel, bias, patch_bias):
        choice, results = {"channel": bias, "patch": patch_bias}, []
        for size, overlap, kind in keys:
            asked = {"output_spatial_shape": size, "overlap": overlap, **options}
            asked["implementation"] = implementation
            results.append(unpatchify(x, kernel, choice[kind], **asked))
        return results

    def tokens(kernel, bias, *signals):
        asked = {"implementation": implementation, **options}
        return [patchify(x, kernel, bias, **asked) for x in signals]

    weights = [case.signals(size or case.default_size(options["padding"])) for size, *_ in keys]
    images, slopes = [case.signals(size) for size in sizes], [case.tokens(4)] * len(sizes)
    signal, signal_gradients = compute(signals, (x, kernel, bias, patch_bias), weights)
    token, token_gradients = compute(tokens, (kernel, token_bias, *images), slopes)
    return SimpleNamespace(
        case=case,
        options=options,
        arrays=(x, kernel, {"channel": bias, "patch": patch_bias}, token_bias),
        signals=dict(zip(keys, signal)),
        signal_weights=dict(zip(keys, weights)),
        signal_gradients=signal_gradients,
        images=dict(zip(sizes, images)),
        tokens=dict(zip(sizes, token)),
        token_gradients=token_gradients,
    )


def assert_signals(computed, overlap, kind):
    x, kernel, biases, _ = computed.arrays
    chosen = [key for key in computed.signals if key[1:] == (overlap, kind)]
    assert chosen
    for key in chosen:
        asked = {"size": key[0], "overlap": overlap, **computed.options}
        expected = reference.unpatchify(x, kernel, biases[kind], **asked)
        assert computed.signals[key].shape == expected.shape
        np.testing.assert_allclose(computed.signals[key], expected, **TOLERANCE)


def test_unpatchify_is_the_sum_of_the_patches(computed):
    assert_signals(computed, "sum", "channel")


def test_mean_divides_by_the_patches_that_cover(computed):
    assert_signals(computed, "mean", "channel")


@pytest.mark.parametrize("overlap", ["sum", "mean"])
def test_a_patch_bias_is_added_by_every_patch(computed, overlap):
    assert_signals(computed, overlap, "patch")


def test_patchify_is_the_product_with_each_patch(computed):
    _, kernel, _, bias = computed.arrays
    for size, image in computed.images.items():
        expected = reference.patchify(image, kernel, bias, **computed.options)
        assert computed.tokens[size].shape == expected.shape == computed.case.tokens().shape
        np.testing.assert_allclose(computed.tokens[size], expected, **TOLERANCE)


@pytest.mark.trains
def test_gradients_of_unpatchify(computed):
    """Those of the sum over all sizes, overlaps and biases, each with weights of its own."""
    if computed.signal_gradients is None:
        return
    x, kernel, _, _ = computed.arrays
    expected = [0, 0, 0, 0]
    for (_, overlap, kind), weights in computed.signal_weights.items():
        parts = reference.unpatchify_gradients(
            x, kernel, weights, overlap=overlap, **computed.options
        )
        wanted = (True, True, kind == "channel", kind == "patch")
        expected = [e + part * use for e, part, use in zip(expected, parts, wanted)]
    for a, e in zip(computed.signal_gradients, expected, strict=True):
        np.testing.assert_allclose(a, e, **TOLERANCE)


@pytest.mark.trains
def test_gradients_of_patchify(computed):
    """Those of the sum over all sizes: the gradient for each signal is its own."""
    if computed.token_gradients is None:
        return
    _, kernel, _, _ = computed.arrays
    weights = computed.case.tokens(4)
    parts = [
        reference.patchify_gradients(image, kernel, weights, **computed.options)
        for image in computed.images.values()
    ]
    expected = [sum(dkernel for _, dkernel, _ in parts), sum(dbias for _, _, dbias in parts)]
    expected += [dx for dx, _, _ in parts]
    for a, e in zip(computed.token_gradients, expected, strict=True):
        np.testing.assert_allclose(a, e, **TOLERANCE)


def test_the_two_operations_are_adjoint(computed):
    """Without their biases, which are taken off again."""
    x, _, biases, token_bias = computed.arrays
    for size, image in computed.images.items():
        left = np.vdot(computed.tokens[size] - token_bias, x)
        right = np.vdot(image, computed.signals[size, "sum", "channel"] - biases["channel"])
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-3)


@pytest.mark.trains
def test_gradients_of_an_empty_batch_are_zero():
    case = CASES["2d-batch-zero"]
    arrays = case.tokens(), case.kernel()
    weights = case.signals(case.default_size("valid"))

    def function(x, kernel):
        return unpatchify(x, kernel, stride=case.stride, implementation="matmul")

    for gradient, array in zip(gradients(function, arrays, weights), arrays):
        np.testing.assert_array_equal(gradient, np.zeros_like(array))


@over_cases(COMPACT)
@over_implementations
def test_unpatchify_is_linear_in_tokens_and_in_the_kernel(case, implementation):
    options = {"stride": case.stride, "implementation": implementation}
    x1, x2, k1, k2 = case.tokens(0), case.tokens(1), case.kernel(2), case.kernel(3)

    def value(x, kernel):
        return run(unpatchify, x, kernel, **options)

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
    actual = run(unpatchify, moved, kernel, **options)[inner]
    np.testing.assert_allclose(actual, run(unpatchify, x, kernel, **options), **TOLERANCE)


@pytest.mark.parametrize("implementation", ["auto", *IMPLEMENTATIONS])
@pytest.mark.parametrize(
    ("padding", "grid", "size"), [("same", (4, 3), (8, 9)), ("valid", (3, 2), (7, 7))]
)
def test_symbolic_tensors_give_symbolic_tensors(implementation, padding, grid, size):
    options = {"stride": (2, 3), "padding": padding, "implementation": implementation}
    tokens = patchify(keras.KerasTensor((2, 8, 9, 3)), np.ones((3, 4, 3, 5), "float32"), **options)
    signal = unpatchify(tokens, np.ones((3, 4, 3, 5), "float32"), overlap="mean", **options)
    assert (tokens.shape, signal.shape) == ((2, *grid, 5), (2, *size, 3))
    assert isinstance(signal, keras.KerasTensor)
