"""Convolutions of Keras become layers of the same function, name, policy, settings and weights."""

import itertools
import re

import keras
import numpy as np
import pytest
import reference
from backend import run, to_numpy
from cases import TOLERANCE, normal

from keras_unpatchify import Patchify, Unpatchify

L = keras.layers
CONVERSIONS = pytest.mark.parametrize(
    ("keras_class", "convert"),
    [(L.Conv2D, Patchify.from_conv), (L.Conv2DTranspose, Unpatchify.from_conv_transpose)],
    ids=["conv", "conv-transpose"],
)


def row(*arguments):
    """One of a table; Keras has not always taken an `output_padding` of 0."""
    zero = arguments[-1] is not None and 0 in np.ravel(arguments[-1])
    return pytest.param(arguments, marks=[pytest.mark.output_padding_0] * zero, id=str(arguments))


# What does not run on tensorflow is compared with the reference instead.
TABLE = [
    row(kernel, stride, padding, output_padding)
    for kernel, stride, padding in itertools.product(range(1, 6), range(1, 5), ("valid", "same"))
    for output_padding in (None, *range(stride))
    if not (padding == "same" and kernel % 2 == 0 and output_padding == 0)
]
SEVERAL_AXES = [
    row((4, 3), (2, 3), "valid", None),
    row((2, 5), (3, 2), "same", None),
    row((5, 4), (2, 3), "same", (0, 1)),
    row((2, 4), (3, 2), "valid", None),
    row((2, 3, 4), (2, 1, 3), "valid", (1, 0, 2)),
    row((3, 5, 4), (1, 2, 2), "same", None),
]


def with_random_weights(layer, *shape):
    layer.build((None, *shape))
    layer.set_weights([normal(weight.shape, i) for i, weight in enumerate(layer.get_weights())])
    return layer


def assert_same_function(layer, converted, shape):
    """Values, and the shape of tensors of this size and of one that is not known."""
    x = normal((2, *shape), 5)
    expected = run(layer, x)
    np.testing.assert_allclose(run(converted, x), expected, **TOLERANCE)
    assert tuple(layer.compute_output_shape(x.shape)) == expected.shape
    assert converted.compute_output_shape(x.shape) == expected.shape
    unknown = (None,) * len(shape)
    output = converted.compute_output_shape((*unknown, shape[-1]))
    assert output == (*unknown, expected.shape[-1])


@pytest.mark.parametrize("arguments", TABLE)
def test_the_table_of_transposed_convolutions(arguments):
    kernel, stride, padding, output_padding = arguments
    layer = L.Conv1DTranspose(2, kernel, stride, padding, output_padding=output_padding)
    with_random_weights(layer, 4, 3)
    assert_same_function(layer, Unpatchify.from_conv_transpose(layer), (4, 3))


@pytest.mark.parametrize("arguments", SEVERAL_AXES)
def test_transposed_convolutions_of_several_axes(arguments):
    kernel, stride, padding, output_padding = arguments
    keras_class = {2: L.Conv2DTranspose, 3: L.Conv3DTranspose}[len(kernel)]
    layer = keras_class(2, kernel, stride, padding, output_padding=output_padding)
    shape = (3, 2, 4)[: len(kernel)]
    with_random_weights(layer, *shape, 3)
    assert_same_function(layer, Unpatchify.from_conv_transpose(layer), (*shape, 3))


@pytest.mark.output_padding_0
@pytest.mark.parametrize("kernel", [2, 4, 6])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_an_even_kernel_loses_half_of_it_at_both_ends(kernel, stride):
    """With "same" and `output_padding=0`: it runs here where Keras leaves it to the backend."""
    layer = L.Conv1DTranspose(2, kernel, stride, "same", output_padding=0)
    with_random_weights(layer, 4, 3)
    x = normal((2, 4, 3), 5)
    weights = [to_numpy(weight) for weight in layer.weights]
    natural = reference.unpatchify(x, *weights, stride=(stride,))
    expected = natural[:, kernel // 2 : -(kernel // 2)]
    actual = run(Unpatchify.from_conv_transpose(layer), x)
    np.testing.assert_allclose(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", range(1, 5))
@pytest.mark.parametrize("kernel", range(1, 6))
def test_the_table_of_convolutions(kernel, stride, padding):
    layer = with_random_weights(L.Conv1D(2, kernel, stride, padding), 12, 3)
    converted = Patchify.from_conv(layer)
    for size in (10, 11):
        assert_same_function(layer, converted, (size, 3))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("keras_class", "kernel", "stride"),
    [(L.Conv2D, (3, 4), (2, 3)), (L.Conv3D, (2, 3, 2), (1, 2, 3))],
)
def test_convolutions_of_several_axes(keras_class, kernel, stride, padding):
    shape = (5, 7, 6)[: len(kernel)]
    layer = with_random_weights(keras_class(2, kernel, stride, padding), *shape, 3)
    assert_same_function(layer, Patchify.from_conv(layer), (*shape, 3))


SETTINGS = {
    "name": "other",
    "dtype": "mixed_bfloat16",
    "trainable": False,
    "activation": "relu",
    "kernel_regularizer": "l2",
    "bias_regularizer": "l1",
    "activity_regularizer": "l2",
    "kernel_constraint": "non_neg",
    "bias_constraint": "max_norm",
}


@CONVERSIONS
def test_every_setting_is_carried_over(keras_class, convert):
    layer = with_random_weights(keras_class(5, 3, 2, **SETTINGS), 9, 9, 4)
    plain = convert(keras_class(5, 3, 2)).get_config()
    config = convert(layer).get_config()
    kept = layer.get_config()
    for name in SETTINGS:
        assert config[name] == kept[name] != plain[name]
    assert config["in_features"] == 4


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_padding_keeps_its_name(padding):
    assert Patchify.from_conv(L.Conv2D(5, 3, 2, padding)).padding == padding
    layer = L.Conv2DTranspose(5, 3, 2, padding)
    assert Unpatchify.from_conv_transpose(layer).padding == padding


@CONVERSIONS
def test_weights_are_copies(keras_class, convert):
    layer = with_random_weights(keras_class(5, 3, 2), 9, 9, 4)
    converted = convert(layer)
    before = layer.get_weights()
    for one, two in zip(before, converted.get_weights()):
        np.testing.assert_array_equal(one, two)
    converted.set_weights([0 * weight for weight in before])
    for one, two in zip(before, layer.get_weights()):
        np.testing.assert_array_equal(one, two)


@CONVERSIONS
def test_without_bias_there_is_none(keras_class, convert):
    assert (
        len(convert(with_random_weights(keras_class(5, 3, use_bias=False), 9, 9, 4)).weights) == 1
    )


@CONVERSIONS
def test_a_layer_that_is_not_built_keeps_its_initializer(keras_class, convert):
    """A seed draws the same kernel, and the bias has an initializer of its own."""
    draw = keras.initializers.RandomNormal(seed=3)
    layer = keras_class(5, 3, 2, kernel_initializer=draw, bias_initializer="ones")
    converted = convert(layer)
    assert not converted.built
    assert converted.get_config()["in_features"] is None
    layer.build((None, 9, 9, 4))
    converted.build((None, 9, 9, 4))
    np.testing.assert_array_equal(to_numpy(converted.kernel), to_numpy(layer.kernel))
    np.testing.assert_array_equal(to_numpy(converted.bias), 1)


def lora(layer):
    layer.build((None, 9, 9, 4))
    layer.enable_lora(2)
    return layer


def out_of_range(layer):
    """As a layer of a Keras that did not check it."""
    layer.output_padding = (0, 2)
    return layer


MISFITS = [
    (
        Unpatchify.from_conv_transpose,
        out_of_range(L.Conv2DTranspose(4, 3, (3, 2))),
        "output_padding=None, or at least 0 and less than (3, 2)",
        "(0, 2)",
    ),
    (Patchify.from_conv, L.Conv2D(4, 3, dilation_rate=2), "dilation_rate=(1, 1)", "(2, 2)"),
    (Patchify.from_conv, L.Conv2D(4, 3, groups=2), "groups=1", "2"),
    (
        Patchify.from_conv,
        L.Conv2D(4, 3, data_format="channels_first"),
        "data_format='channels_last'",
        "'channels_first'",
    ),
    (Patchify.from_conv, lora(L.Conv2D(4, 3)), "lora_rank=None", "2"),
    (
        Unpatchify.from_conv_transpose,
        L.Conv1DTranspose(4, 3, dilation_rate=2),
        "dilation_rate=(1,)",
        "(2,)",
    ),
    (
        Unpatchify.from_conv_transpose,
        L.Conv3DTranspose(4, 3, data_format="channels_first"),
        "data_format='channels_last'",
        "'channels_first'",
    ),
]


@pytest.mark.parametrize(("convert", "layer", "needed", "received"), MISFITS)
def test_what_does_not_fit_is_refused(convert, layer, needed, received):
    text = (
        f"To be converted, a layer must have {needed}. Received: {needed.split('=')[0]}={received},"
        f" in the layer {layer.name!r}. Leave this layer as it is."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        convert(layer)


class Other(L.Conv2D):
    """A subclass, which may compute anything."""


@pytest.mark.parametrize(
    ("convert", "layer", "names"),
    [
        (Patchify.from_conv, Other(4, 3), "Conv1D, Conv2D, Conv3D"),
        (Patchify.from_conv, L.Conv2DTranspose(4, 3), "Conv1D, Conv2D, Conv3D"),
        (Patchify.from_conv, L.DepthwiseConv2D(3), "Conv1D, Conv2D, Conv3D"),
        (
            Unpatchify.from_conv_transpose,
            L.Conv2D(4, 3),
            "Conv1DTranspose, Conv2DTranspose, Conv3DTranspose",
        ),
        (
            Unpatchify.from_conv_transpose,
            None,
            "Conv1DTranspose, Conv2DTranspose, Conv3DTranspose",
        ),
    ],
)
def test_other_layers_are_refused(convert, layer, names):
    text = (
        f"`layer` must be one of Keras's {names}, not a subclass, which may compute something "
        f"else. Received: layer={layer!r}"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        convert(layer)


def unet():
    """One step down and up, with normalization and a skip: what is converted and what is not."""
    image = keras.Input((None, None, 3))
    x = L.Conv2D(4, 4, 2, "same", activation="relu", name="down")(image)
    x = L.BatchNormalization()(x)
    x = L.Conv2DTranspose(3, 4, 2, "same", name="up")(x)
    return keras.Model(image, L.Conv2D(3, 1)(L.Concatenate()([x, image])))


def converted(layer):
    if isinstance(layer, L.Conv2DTranspose):
        return Unpatchify.from_conv_transpose(layer)
    if isinstance(layer, L.Conv2D):
        return Patchify.from_conv(layer)
    return layer.from_config(layer.get_config())


def test_a_cloned_model_computes_the_same(tmp_path):
    model = unet()
    clone = keras.models.clone_model(model, clone_function=converted)
    assert isinstance(clone.get_layer("down"), Patchify)
    assert isinstance(clone.get_layer("up"), Unpatchify)
    clone.set_weights(model.get_weights())
    clone.save(tmp_path / "clone.keras")
    again = keras.saving.load_model(tmp_path / "clone.keras")
    for size in [(6, 8), (4, 10)]:
        x = normal((2, *size, 3), 0)
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(clone.predict(x, verbose=0), expected, **TOLERANCE)
        np.testing.assert_allclose(again.predict(x, verbose=0), expected, **TOLERANCE)


@pytest.mark.trains
def test_a_cloned_model_trains_as_the_original_and_leaves_it_alone():
    """Three steps of SGD on the same batch; the original trains after its clone has."""
    model = unet()
    clone = keras.models.clone_model(model, clone_function=converted)
    clone.set_weights(model.get_weights())
    x, y = normal((4, 6, 8, 3), 0), normal((4, 6, 8, 3), 1)
    losses = []
    for one in (clone, model):
        one.compile(keras.optimizers.SGD(0.01), "mse")
        losses.append(one.fit(x, y, batch_size=4, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
