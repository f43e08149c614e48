"""What the lowerings owe beside values: sums that keep small terms, what is not a number in its own
patch, any size at run time, and the choice of one."""

import keras
import numpy as np
import pytest
import reference
from backend import run, to_numpy
from cases import (
    CASES,
    FILLED,
    TOLERANCE,
    normal,
    over_cases,
    over_implementations,
    over_paddings,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops as K

from keras_unpatchify import _arguments, _auto, _tensors
from keras_unpatchify.ops import patchify, unpatchify

# A sum of one large number and small ones, each of which is less than half a unit of the large one.
LARGE = {"float16": 2048, "bfloat16": 256}


@pytest.mark.parametrize("dtype", LARGE)
@pytest.mark.parametrize("signal", [1, 3])
def test_overlaps_add_up_in_single_precision(dtype, signal):
    """One block of a patch after another: added in half precision, every small number would be
    lost. With three channels, jax adds up tokens in rounds too."""
    kernel = np.ones((16, signal, 1), "float32")
    kernel[0, 0] = LARGE[dtype]
    options = {"stride": 1, "implementation": "matmul"}

    def pair(x, y, kernel):
        x, y, kernel = (K.cast(a, dtype) for a in (x, y, kernel))
        return patchify(x, kernel, **options), unpatchify(y, kernel, **options)

    x, y = np.ones((1, 31, signal), "float32"), np.ones((1, 31, 1), "float32")
    tokens, sums = pair(*map(K.convert_to_tensor, (x, y, kernel)))
    assert keras.backend.standardize_dtype(tokens.dtype) == dtype
    assert keras.backend.standardize_dtype(sums.dtype) == dtype
    tokens, sums = run(lambda *a: [K.cast(z, "float32") for z in pair(*a)], x, y, kernel)
    exact = LARGE[dtype] + 16 * signal - 1
    np.testing.assert_allclose(tokens, exact, atol=signal)
    np.testing.assert_allclose(sums[:, 15:31, 0], LARGE[dtype] + 15, atol=1)


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


def corners(shape):
    """The first and the last place of the axes between batch and channels."""
    return [(0, *(n * (size - 1) for size in shape[1:-1]), 0) for n in (0, 1)]


@over_cases(FILLED)
@over_paddings
@over_implementations
def test_a_token_that_is_not_a_number_spoils_its_own_patch_only(case, padding, implementation):
    options = {"stride": case.stride, "padding": case.padding(padding)}
    for place in corners(case.tokens().shape):
        x = case.tokens()
        x[place] = np.nan
        for size in case.sizes(options["padding"]):
            expected = reference.unpatchify(x, case.kernel(), size=size, **options)
            asked = {"output_spatial_shape": size, "implementation": implementation, **options}
            y = run(unpatchify, x, case.kernel(), **asked)
            np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))


@over_cases(FILLED)
@over_paddings
@over_implementations
def test_a_pixel_that_is_not_a_number_spoils_the_tokens_that_cover_it_only(
    case, padding, implementation
):
    """And none, where it lies behind the last patch."""
    options = {"stride": case.stride, "padding": case.padding(padding)}
    for size in case.sizes(options["padding"]):
        for place in corners((0, *size, 0)):
            x = case.signals(size)
            x[place] = np.nan
            expected = reference.patchify(x, case.kernel(), **options)
            y = run(patchify, x, case.kernel(), implementation=implementation, **options)
            np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))


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
    assert _tensors.batch_of(keras.KerasTensor(shape), *more) == batch


@pytest.mark.tensorflow_backend
@over_cases(["1d-gap", "2d-mixed", "2d-batch-one"])
@over_paddings
@over_implementations
def test_sizes_known_only_at_run_time_give_the_same(case, padding, implementation):
    """In one graph for all of them."""
    import tensorflow as tf

    options = {"stride": case.stride, "padding": case.padding(padding)}
    kernel, bias = case.kernel(), normal((*case.patch, case.signal), 3)
    open_tokens = tf.TensorSpec((None,) * (case.data_dim + 1) + (case.token,))
    open_signal = tf.TensorSpec((None,) * (case.data_dim + 1) + (case.signal,))

    @tf.function(input_signature=[open_tokens, open_signal])
    def graph(tokens, image):
        asked = {"implementation": implementation, **options}
        size = tf.unstack(tf.shape(image)[1:-1])
        return (
            unpatchify(tokens, kernel, bias, overlap="mean", **asked),
            unpatchify(tokens, kernel, bias, output_spatial_shape=size, overlap="mean", **asked),
            patchify(image, kernel, **asked),
        )

    x = case.tokens()
    default = reference.unpatchify(x, kernel, bias, overlap="mean", **options)
    for size in case.sizes(options["padding"]):
        image = case.signals(size)
        signal = reference.unpatchify(x, kernel, bias, size=size, overlap="mean", **options)
        tokens = reference.patchify(image, kernel, **options)
        for actual, expected in zip(graph(x, image), (default, signal, tokens), strict=True):
            np.testing.assert_allclose(actual, expected, **TOLERANCE)


@pytest.mark.tensorflow_backend
def test_a_size_known_only_at_run_time_is_compared_with_the_grid():
    import tensorflow as tf

    kernel, unknown = normal((4, 4, 2, 3), 1), tf.TensorSpec((None, None, None, 3))

    @tf.function(input_signature=[unknown, unknown])
    def graph(tokens, image):
        return unpatchify(tokens, kernel, output_spatial_shape=tf.unstack(tf.shape(image)[1:-1]))

    x = normal((2, 4, 6, 3), 0)
    assert graph(x, tf.ones((2, 19, 24, 3))).shape == (2, 19, 24, 2)
    for size in [(20, 24), (16, 28), (15, 24), (24, 16)]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"must_be_patched_into_this_grid"):
            graph(x, tf.ones((2, *size, 3)))


CHANNELS = st.sampled_from([1, 3, 64, 768])


@given(
    st.builds(
        _auto.Problem,
        to_tokens=st.booleans(),
        overlapping=st.booleans(),
        whole=st.booleans(),
        unit=st.booleans(),
        gaps=st.booleans(),
        signal=CHANNELS,
        token=CHANNELS,
        positions=st.sampled_from([4, 64, 256, 4096]),
        work=st.sampled_from([None, 0, 2**10, 2**34]),
        rank=st.integers(1, 3),
        accelerated=st.booleans(),
    )
)
def test_auto_takes_a_lowering_whatever_the_problem(problem):
    assert _auto.choose(problem) in set(_arguments.IMPLEMENTATIONS) - {"auto"}


@given(st.data())
@settings(max_examples=20)
def test_auto_computes_the_same(data):
    """Few and many channels, tokens and overlaps."""
    case = CASES[data.draw(st.sampled_from(["2d-tiling", "2d-overlap", "2d-mixed", "1d-gap"]))]
    channels = st.sampled_from([1, 2, 24, 200])
    case = case._replace(token=data.draw(channels), signal=data.draw(channels))
    options = {"stride": case.stride, "padding": data.draw(st.sampled_from(["valid", "same"]))}
    x, kernel = case.tokens(), case.kernel()
    expected = reference.unpatchify(x, kernel, **options)
    tolerance = {"rtol": 1e-4, "atol": 1e-3}  # up to 2400 products
    np.testing.assert_allclose(run(unpatchify, x, kernel, **options), expected, **tolerance)
    image = case.signals(case.default_size(options["padding"]))
    expected = reference.patchify(image, kernel, **options)
    np.testing.assert_allclose(run(patchify, image, kernel, **options), expected, **tolerance)


@pytest.mark.torch_backend
@over_implementations
def test_no_zeros_are_added_to_more_axes_than_litert_pads(implementation, monkeypatch):
    """In 2D, with a bias of the patch, whose second axis has blocks of two widths."""
    from torch.nn import functional

    pad, ranks = functional.pad, []

    def watched(x, *arguments, **options):
        ranks.append(x.ndim)
        return pad(x, *arguments, **options)

    monkeypatch.setattr(functional, "pad", watched)
    kernel, bias = normal((4, 3, 2, 5), 0), normal((4, 3, 2), 1)
    options = {"stride": 2, "padding": "same", "implementation": implementation}
    tokens = run(patchify, normal((2, 9, 7, 2), 2), kernel, **options)
    run(unpatchify, tokens, kernel, bias, **options)
    assert ranks
    assert max(ranks) <= 5
