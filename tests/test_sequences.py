"""Tokens as a sequence: the same values as on a grid, whose sizes are never guessed."""

import re

import keras
import numpy as np
import pytest
import reference
from backend import run, to_numpy
from cases import (
    COMPACT,
    TOLERANCE,
    normal,
    over_cases,
    over_implementations,
    over_layers,
    over_paddings,
)
from keras import ops as K

from keras_unpatchify import Patchify, Unpatchify


def pair(case, **options):
    """Both layers on sequences, with the weights of the case."""
    options |= {**case.arguments, "sequence": True}
    there = Patchify(case.signal, case.token, **options)
    back = Unpatchify(case.token, case.signal, **options)
    there.build((None, *(None,) * case.data_dim, case.signal))
    back.build((None, None, case.token))
    there.set_weights([case.kernel(), normal((case.token,), 3)])
    back.set_weights([case.kernel(), normal((case.signal,), 3)])
    return there, back


def as_sequence(tokens):
    return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])


@over_cases(COMPACT)
@over_paddings
@over_implementations
def test_a_sequence_is_the_grid_row_by_row(case, padding, implementation):
    padding = case.padding(padding)
    there, back = pair(case, padding=padding, implementation=implementation)
    for size in case.sizes(padding):
        x, options = case.signals(size), {"stride": case.stride, "padding": padding}
        kernel, bias = map(to_numpy, there.weights)
        expected = as_sequence(reference.patchify(x, kernel, bias, **options))
        np.testing.assert_allclose(run(there, x), expected, **TOLERANCE)
        tokens = case.tokens()
        kernel, bias = map(to_numpy, back.weights)
        expected = reference.unpatchify(tokens, kernel, bias, size=size, **options)
        y = run(back, as_sequence(tokens), output_spatial_shape=size)
        np.testing.assert_allclose(y, expected, **TOLERANCE)
        like = K.convert_to_tensor(x)
        np.testing.assert_array_equal(run(back, as_sequence(tokens), like=like), y)


@over_cases(COMPACT)
def test_symbolic_shapes(case):
    there, back = pair(case)
    size = case.default_size("valid")
    number = int(np.prod(case.grid))
    image = keras.Input((*size, case.signal))
    assert there(image).shape == (None, number, case.token)
    assert there.compute_output_shape((2, *size, case.signal)) == (2, number, case.token)
    open_image = keras.Input((*(None,) * case.data_dim, case.signal))
    assert there(open_image).shape == (None, None, case.token)
    tokens = keras.Input((number, case.token))
    assert back(tokens, output_spatial_shape=size).shape == (None, *size, case.signal)
    assert back(tokens, like=image).shape == (None, *size, case.signal)
    known = size if case.data_dim == 1 else (None,) * case.data_dim
    assert back.compute_output_shape(tokens.shape) == (None, *known, case.signal)


def test_a_series_needs_no_size():
    layer = Unpatchify(3, 2, 1, 4, 2, sequence=True)
    assert run(layer, normal((2, 5, 3), 0)).shape == (2, 12, 2)
    assert layer(keras.Input((None, 3))).shape == (None, None, 2)


def eagerly(layer, shape, **arguments):
    return layer(K.zeros(shape), **arguments)


def symbolically(layer, shape, **arguments):
    return layer(keras.Input(shape[1:], batch_size=shape[0]), **arguments)


EITHER_WAY = pytest.mark.parametrize("call", [eagerly, symbolically])


@EITHER_WAY
def test_the_grid_is_not_guessed(call):
    text = (
        "The grid of a sequence must be known, and the number of tokens does not tell it. "
        "Received: neither `output_spatial_shape` nor `like`. "
        "Pass one of them to the call."
    )
    with pytest.raises(ValueError, match=re.escape(text) + r"(\x1b|$)"):  # Keras colours it
        call(Unpatchify(3, 2, 2, 4, sequence=True), (2, 9, 3))


@EITHER_WAY
def test_the_number_of_tokens_is_checked(call):
    text = (
        "The sequence must have 6 tokens, which fill the grid (2, 3) of the requested signal. "
        "Received: 7 tokens. Slice off class and register tokens, request another size, or use "
        "the patch, stride and padding of the `Patchify`."
    )
    layer = Unpatchify(3, 2, 2, 4, sequence=True)
    with pytest.raises(ValueError, match=re.escape(text)):
        call(layer, (2, 7, 3), output_spatial_shape=(8, 12))


@EITHER_WAY
def test_a_layer_for_grids_names_the_argument(call):
    text = "`data_dim`. For a sequence of tokens, pass `sequence=True` to the layer."
    with pytest.raises(ValueError, match=re.escape(text) + "$"):
        call(Unpatchify(3, 2, 2, 4), (2, 9, 3))
    text = (
        "The input must have 3 axes: batch, 1 of the grid or signal, channels. Received: "
        "shape=(2, 3, 3, 3). Pass a sequence, or drop `sequence=True` for a grid."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        call(Unpatchify(3, 2, 2, 4, sequence=True), (2, 3, 3, 3), output_spatial_shape=(12, 12))


@over_layers
@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_the_choices(layer_class, value):
    text = f"`sequence` must be one of True, False. Received: sequence={value!r}"
    with pytest.raises(ValueError, match=re.escape(text)):
        layer_class(3, 2, 2, 4, sequence=value)


def transformer():
    """From images of any size to images as large, through a standard block on a sequence."""
    image = keras.Input((None, None, 3))
    there = Patchify(3, 8, data_dim=2, patch_size=4, padding="same", sequence=True)
    tokens = there(image)
    tokens = tokens + keras.layers.MultiHeadAttention(2, 4)(tokens, tokens)
    return keras.Model(image, Unpatchify.from_patchify(there)(tokens, like=image))


def test_a_transformer_takes_images_of_any_size(tmp_path):
    model = transformer()
    assert model.layers[-1].sequence
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for size in [(8, 12), (9, 5), (1, 17)]:
        x = normal((2, *size, 3), 0)
        y = model.predict(x, verbose=0)
        assert y.shape == x.shape
        np.testing.assert_allclose(again.predict(x, verbose=0), y, rtol=1e-5, atol=1e-5)


@pytest.mark.trains
def test_a_transformer_trains_on_batches_of_several_sizes():
    model = transformer()
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    batches = [normal((2, *size, 3), i) for i, size in enumerate([(8, 12), (9, 5), (12, 4)])]
    before = sum(model.test_on_batch(x, x) for x in batches)
    for _ in range(4):
        for x in batches:
            model.train_on_batch(x, x)
    assert sum(model.test_on_batch(x, x) for x in batches) < before


def test_attention_over_a_grid_is_that_over_its_sequence():
    attention = keras.layers.MultiHeadAttention(2, 4, attention_axes=(1, 2))
    over_sequence = keras.layers.MultiHeadAttention(2, 4)
    grid = normal((2, 3, 5, 8), 0)
    y = to_numpy(attention(grid, grid))
    sequence = as_sequence(grid)
    over_sequence.build(sequence.shape, sequence.shape)
    over_sequence.set_weights(attention.get_weights())
    expected = to_numpy(over_sequence(sequence, sequence))
    np.testing.assert_allclose(as_sequence(y), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.tensorflow_backend
@pytest.mark.parametrize("tokens", [5, 8])
def test_a_number_of_tokens_known_only_at_run_time_is_checked_then(tokens):
    import tensorflow as tf

    layer = Unpatchify(3, 2, 2, 4, padding="same", sequence=True)
    layer.build((None, None, 3))

    @tf.function(input_signature=[tf.TensorSpec((None, None, 3)), tf.TensorSpec((None,) * 4)])
    def function(x, image):
        return layer(x, like=image)

    assert function(tf.ones((2, 6, 3)), tf.ones((2, 7, 12, 1))).shape == (2, 7, 12, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must_fill_the_grid"):
        function(tf.ones((2, tokens, 3)), tf.ones((2, 7, 12, 1)))
