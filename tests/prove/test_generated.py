"""Both layers over generated arguments, sizes and dtypes: values and gradients are the oracle's,
errors our own."""

import math
import pathlib
import tempfile
import traceback

import keras
import numpy as np
import pytest
from backend import BACKEND, run
from cases import IMPLEMENTATIONS
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    assert_computes,
    cases,
    count,
    of_layer,
    patchings,
    precision,
)

import keras_unpatchify
from keras_unpatchify import Patchify, Unpatchify

DTYPES = ("float32", "float32", "float32", "float64", "float16", "bfloat16")
if BACKEND in ("numpy", "openvino"):  # they compute convolutions in single precision or less
    DTYPES = ("float32",)
PACKAGE = str(pathlib.Path(keras_unpatchify.__file__).parent)

biases = st.sampled_from([True, False, "patch"])
overlaps = st.sampled_from(["sum", "mean"])
hidden_sizes = st.lists(st.booleans(), min_size=4, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """XLA compiles thousands of little functions here; what it optimises is not what is tested."""
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
    else:
        yield


def fails_upstream(p):
    """What backends get wrong themselves, in their native convolutions; `test_transformations`
    and the last test watch it.

    PyTorch refuses its own gradient on the CPU, for one example or in float64: "grad_weight must be
    contiguous". TensorFlow's gradient for an empty batch has the shape of the signal; in bfloat16,
    on a CPU, now and then it holds 1e28 or so, another at each run; so does that of a volume with
    gaps between its patches.
    """
    if BACKEND == "torch":
        alone = p.token == 1 and (p.batch == 1 or p.dtype == "float64")
        return alone and p.implementation in ("conv_transpose", "subpixel")
    return (
        BACKEND == "tensorflow"
        and p.implementation != "matmul"
        and (p.batch == 0 or p.dtype == "bfloat16" or (len(p.patch) == 3 and p.gaps))
    )


def symbol(shape, hidden, dtype):
    """A symbolic tensor of the shape, with some of its sizes unknown, but for its channels."""
    sizes = [None if hide else n for n, hide in zip(shape[:-1], hidden, strict=False)]
    return keras.KerasTensor((*sizes, shape[-1]), dtype)


def assert_stands_for(symbolic, array, dtype):
    assert symbolic.dtype == dtype
    assert len(symbolic.shape) == array.ndim
    assert all(n is None or n == m for n, m in zip(symbolic.shape, array.shape))


@cases(750)
@given(
    patchings(DTYPES),
    biases,
    overlaps,
    st.sampled_from([None, "output_spatial_shape", "like"]),
    hidden_sizes,
)
def test_unpatchify_computes_what_the_oracle_does(p, bias, overlap, target, hidden):
    assume(not fails_upstream(p))
    size = p.size if target else p.default_size
    arrays = [p.tokens(), p.kernel()]
    if bias:
        arrays.append(p.normal(*(p.patch if bias == "patch" else ()), p.signal, seed=3))
    weights, like = p.signals(size, 4), p.signals(size, 5)
    layer = Unpatchify(p.token, p.signal, bias=bias, overlap=overlap, **p.options)
    with precision(p.dtype):
        layer.build(arrays[0].shape)
        arguments = {"output_spatial_shape": size} if target == "output_spatial_shape" else {}
        arguments |= {"like": keras.ops.convert_to_tensor(like)} if target == "like" else {}
        y, gradients = of_layer(layer, arrays, weights, **arguments)
    sums = (p.token + 2) * int(p.covers(size).max())
    assert_computes(
        y, lambda *a: p.unpatchify(*a, overlap=overlap, size=size), arrays, sums, p.dtype
    )

    arguments |= {"like": symbol(like.shape, hidden, p.dtype)} if target == "like" else {}
    symbolic = layer(symbol(arrays[0].shape, hidden, p.dtype), **arguments)
    assert_stands_for(symbolic, y, p.dtype)
    for i, gradient in enumerate(gradients):
        sums = math.prod(weights.shape)

        def oracle(*a, i=i):
            return p.unpatchify_gradients(*a[:-1], weights=a[-1], overlap=overlap)[i]

        assert_computes(gradient, oracle, [*arrays, weights], sums, p.dtype)
    count("values and gradients of unpatchify")


@cases(750)
@given(patchings(DTYPES), st.booleans(), hidden_sizes)
def test_patchify_computes_what_the_oracle_does(p, bias, hidden):
    assume(not fails_upstream(p))
    arrays = [p.signals(), p.kernel()] + ([p.normal(p.token, seed=3)] if bias else [])
    weights = p.tokens(4)
    layer = Patchify(p.signal, p.token, bias=bias, **p.options)
    with precision(p.dtype):
        layer.build(arrays[0].shape)
        y, gradients = of_layer(layer, arrays, weights)
    sums = math.prod(p.patch) * p.signal + 1
    assert_computes(y, p.patchify, arrays, sums, p.dtype)
    assert_stands_for(layer(symbol(arrays[0].shape, hidden, p.dtype)), y, p.dtype)
    for i, gradient in enumerate(gradients):
        sums = max(math.prod(weights.shape), 1)

        def oracle(*a, i=i):
            return p.patchify_gradients(*a[:-1], weights=a[-1])[i]

        assert_computes(gradient, oracle, [*arrays, weights], sums, p.dtype)
    count("values and gradients of patchify")


@cases(100)
@given(patchings(smallest_batch=1), biases, overlaps, hidden_sizes, st.booleans())
def test_a_saved_model_is_the_same_model(p, bias, overlap, hidden, sequence):
    x = keras.Input(batch_shape=symbol((p.batch, *p.size, p.signal), hidden, p.dtype).shape)
    options = {**p.options, "sequence": sequence, "activation": "tanh"}
    tokens = Patchify(p.signal, p.token, **options)(x)
    head = Unpatchify(p.token, p.signal, bias=bias, overlap=overlap, **options)
    model = keras.Model(x, head(tokens, like=x))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)
    assert [layer.get_config() for layer in loaded.layers] == [
        layer.get_config() for layer in model.layers
    ]
    np.testing.assert_array_equal(run(loaded, p.signals()), run(model, p.signals()))
    count("saved models")


# Sizes are small, or so large that nothing could hold them.
integers = st.one_of(st.integers(-2, 5), st.sampled_from([2**31, 2**63, 10**30]))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.sampled_from(
        [
            np.int64(3),
            np.float32(2),
            np.bool_(True),
            np.array(2),
            np.ones(2),
            object(),
            len,
            int,
            {1: 2},
            1j,
        ]
    ),
)
junk = st.one_of(scalars, st.lists(scalars, max_size=4), st.lists(scalars, max_size=4).map(tuple))
shapes = st.lists(st.integers(0, 4), max_size=6).map(tuple)
kinds = ("float32", "float16", "float64", "int32", "uint8", "bool")
kinds += ("complex64",) * (BACKEND != "openvino")  # which has no such tensors


def nearly(sensible):
    """Sensible four times of five."""
    return st.integers(0, 4).flatmap(lambda n: sensible if n else junk)


small = st.integers(1, 4)
pairs = st.lists(st.tuples(st.integers(-2, 3), st.integers(-2, 3)), min_size=1, max_size=3)
calls = st.fixed_dictionaries(
    {
        "in_features": nearly(st.one_of(st.none(), st.integers(1, 3))),
        "out_features": nearly(small),
        "data_dim": nearly(st.integers(1, 3)),
        "patch_size": nearly(st.one_of(small, st.lists(small, min_size=1, max_size=3))),
    },
    optional={
        "stride": nearly(st.one_of(st.none(), small, st.lists(small, min_size=1, max_size=3))),
        "bias": nearly(biases),
        "weight_init": nearly(st.sampled_from(["default", "zeros", "fan_in", "ones"])),
        "padding": nearly(st.one_of(st.sampled_from(["valid", "same"]), st.integers(0, 2), pairs)),
        "sequence": nearly(st.booleans()),
        "activation": st.sampled_from([None, "tanh"]),
        "overlap": nearly(overlaps),
        "implementation": nearly(st.sampled_from(["auto", *IMPLEMENTATIONS])),
    },
)
targets = st.fixed_dictionaries(
    {}, optional={"output_spatial_shape": junk, "like": st.one_of(junk, shapes.map(np.zeros))}
)


def assert_our_error(error):
    """A ValueError that the package itself raised, and that says what it received.

    Keras makes tensors of NumPy's numbers before it calls a layer, and refuses to mix them with
    others.
    """
    assert isinstance(error, ValueError), repr(error)
    if "you cannot mix tensors and non-tensors" in str(error):
        return
    assert traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE), repr(error)
    assert "Received: " in str(error)


@cases(800)
@given(calls, shapes, st.sampled_from(kinds), targets, st.booleans(), st.data())
def test_a_call_works_or_raises_an_error_of_the_package(
    arguments, shape, dtype, target, symbolic, data
):
    cls = Unpatchify if "overlap" in arguments or target else Patchify
    count("calls with junk")
    try:
        layer = cls(**arguments)
    except Exception as error:
        assert_our_error(error)
        return
    of_signal, of_tokens = layer.data_dim, 1 if layer.sequence else layer.data_dim
    axes = (of_tokens, of_signal) if cls is Unpatchify else (of_signal, of_tokens)
    if data.draw(st.booleans(), "of the right rank"):
        sizes = st.lists(st.integers(BACKEND == "openvino", 4), min_size=1 + axes[0])
        channels = layer.in_features or 3  # which no array may be able to hold
        shape = (*data.draw(sizes, "sizes")[: 1 + axes[0]], channels if channels < 2**31 else 3)
    elif BACKEND == "openvino" and 0 in shape:
        return
    x = (
        keras.KerasTensor(shape, dtype)
        if symbolic
        else keras.ops.convert_to_tensor(np.ones(shape, dtype))
    )
    try:
        y = layer(x, **target)
    except Exception as error:
        assert_our_error(error)
        return
    assert len(y.shape) == axes[1] + 2


@pytest.mark.tensorflow_backend
def test_upstream_gradients_of_an_empty_batch():
    """On some processors they have the shape of the signal."""
    import tensorflow as tf

    x, kernel = tf.zeros((0, 1, 1, 1)), tf.ones((1, 2, 1, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = keras.ops.conv_transpose(
            x, kernel, (1, 2), output_padding=0, data_format="channels_last"
        )
        total = tf.reduce_sum(y)
    assert tape.gradient(total, x).shape in (x.shape, y.shape)
