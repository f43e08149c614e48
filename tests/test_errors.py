"""Bad input gets a clear error before any work is done: every text, eagerly, symbolically and
from a config."""

import re
import types

import keras
import numpy as np
import pytest
from cases import over_layers

from keras_unpatchify import Patchify, Unpatchify, load_torch_weights
from keras_unpatchify.ops import patchify, unpatchify

GOOD = {"in_features": 8, "out_features": 3, "data_dim": 2, "patch_size": 4}

BAD_ARGUMENTS = [
    ({"data_dim": value}, f"`data_dim` must be one of 1, 2, 3. Received: data_dim={value!r}")
    for value in (0, 4, True, "2", 2.0, None)
]
BAD_ARGUMENTS += [
    (
        {name: value},
        f"`{name}` must be a positive integer, or 2 of them, one per axis. Received: "
        f"{name}={value!r}",
    )
    for name in ("patch_size", "stride")
    for value in (
        0,
        -1,
        1.5,
        "4",
        True,
        (4,),
        (4, 4, 4),
        (4, 0),
        (4, None),
        (4, True),
        [4, "4"],
        {4, 5},
    )
]
BAD_ARGUMENTS += [
    ({"patch_size": None}, "`patch_size` must be a positive integer, or 2 of them, one per axis.")
]
BAD_ARGUMENTS += [
    ({name: value}, f"`{name}` must be a positive integer. Received: {name}={value!r}")
    for name in ("in_features", "out_features")
    for value in (0, -3, 2.0, "3", True, (3,))
]
BAD_ARGUMENTS += [
    (
        {"out_features": None},
        "`out_features` must be a positive integer. Received: out_features=None",
    )
]
BAD_ARGUMENTS += [
    ({"bias": value}, f"Received: bias={value!r}")
    for value in (1, 0, None, "yes", "Patch", np.bool_(True))
]
BAD_ARGUMENTS += [
    (
        {"implementation": value},
        "`implementation` must be one of 'auto', 'conv_transpose', 'matmul', 'subpixel'. "
        + f"Received: implementation={value!r}",
    )
    for value in ("fast", None, 1, True)
]
BAD_ARGUMENTS += [
    (
        {"padding": value},
        "`padding` must be 'valid', 'same', 'circular' or an integer, or for each axis one of "
        "these or a pair (before, after), where 0 <= before < patch and -stride < after < patch. "
        "In 1D, 4 before and 0 after are ((4, 0),); in 2D, (4, 0) is 4 and 4, then 0 and 0. "
        f"Received: padding={value!r}, with patch_size=(4, 4) and stride=(4, 4)",
    )
    for value in (
        "SAME",
        "causal",
        None,
        4,
        -1,
        1.5,
        True,
        (1,),
        (1, 2, 3),
        ((0, 1), (2, 4)),
        ((0, 1), (2, -4)),
        ((-1, 1), 0),
        ((4, 1), 0),
        ((1, 4), 0),
        ((1, 2, 3), 1),
    )
]
BAD_ARGUMENTS += [
    (
        {"weight_init": value},
        "`weight_init` must be one of 'zeros', 'default', 'fan_in', 'glorot', 'unit_variance', "
        "'smooth', or a Keras initializer or its name. "
        f"Received: weight_init={value!r}",
    )
    for value in ("Default", "no such draw", None, 3, {"class_name": "none"})
]


BAD_ARGUMENTS += [
    (
        {"weight_init": None},
        "Received: weight_init=None (None does not name an initializer)",
    )
]


def arguments_id(value):
    return "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else ""


@over_layers
@pytest.mark.parametrize(("bad", "text"), BAD_ARGUMENTS, ids=arguments_id)
def test_arguments(layer_class, bad, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        layer_class(**(GOOD | bad))


@over_layers
@pytest.mark.parametrize(("bad", "text"), BAD_ARGUMENTS, ids=arguments_id)
def test_arguments_in_a_config(layer_class, bad, text):
    config = layer_class(**GOOD).get_config() | bad
    with pytest.raises(ValueError, match=re.escape(text)):
        layer_class.from_config(config)


def test_the_choices_of_bias():
    with pytest.raises(
        ValueError, match=re.escape("`bias` must be one of True, False. Received: bias='patch'")
    ):
        Patchify(**GOOD, bias="patch")
    with pytest.raises(
        ValueError, match=re.escape("`bias` must be one of True, False, 'patch'. Received: bias=1")
    ):
        Unpatchify(**GOOD, bias=1)


def test_the_choices_of_overlap():
    text = re.escape("`overlap` must be one of 'sum', 'mean'. Received: overlap='max'")
    with pytest.raises(ValueError, match=text):
        Unpatchify(**GOOD, overlap="max")
    with pytest.raises(ValueError, match=text):
        unpatchify(np.ones((1, 2, 3), "float32"), np.ones((2, 1, 3), "float32"), overlap="max")


@over_layers
@pytest.mark.parametrize("name", ["in_features", "out_features", "data_dim", "patch_size"])
def test_a_config_without_a_required_argument(layer_class, name):
    config = layer_class(**GOOD).get_config()
    del config[name]
    text = (
        f"The config of {layer_class.__name__} must have in_features, out_features, data_dim, "
        f"patch_size. Missing: {name}. Received: "
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        layer_class.from_config(config)


@over_layers
def test_an_argument_that_does_not_exist(layer_class):
    config = layer_class(**GOOD).get_config() | {"dilation": 2}
    with pytest.raises(ValueError, match="dilation"):
        layer_class.from_config(config)
    with pytest.raises(ValueError, match="dilation"):
        layer_class(**GOOD, dilation=2)


def eagerly(layer, shape, **arguments):
    return layer(keras.ops.zeros(shape), **arguments)


def symbolically(layer, shape, **arguments):
    return layer(keras.Input(shape[1:], batch_size=shape[0]), **arguments)


EITHER_WAY = pytest.mark.parametrize("call", [eagerly, symbolically])


@EITHER_WAY
@over_layers
@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8, 8, 8, 8), (2, 8)])
def test_rank(layer_class, shape, call):
    text = (
        "The input must have 4 axes: batch, 2 of the grid or signal, channels. "
        f"Received: shape={shape}. Reshape the input, or change `data_dim`."
    )
    for error in (ValueError, AssertionError):
        with pytest.raises(error, match=re.escape(text)):
            call(layer_class(**GOOD), shape)


@over_layers
@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_shape_of_too_few_axes(layer_class, shape):
    with pytest.raises(ValueError, match=re.escape(f"Received: shape={shape}. Reshape the input")):
        layer_class(**GOOD).compute_output_shape(shape)


@EITHER_WAY
@over_layers
def test_channels(layer_class, call):
    text = (
        "The input must have 8 channels on its last axis. "
        "Received: shape=(2, 8, 8, 7). Put the channels last, or change `in_features`."
    )
    layer = layer_class(**GOOD)
    with pytest.raises(ValueError, match=re.escape(text)):
        call(layer, (2, 8, 8, 7))
    assert not layer.built
    open_layer = layer_class(**(GOOD | {"in_features": None}))
    call(open_layer, (2, 8, 8, 5))
    with pytest.raises(ValueError, match=re.escape("Received: shape=(2, 8, 8, 7)")):
        call(open_layer, (2, 8, 8, 7))


@over_layers
def test_channels_that_are_not_known(layer_class):
    layer = layer_class(**(GOOD | {"in_features": None}))
    text = (
        "The input's channels, its last axis, must be known and at least 1. Received: "
        "shape=(None, 8, 8, None)"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        layer(keras.Input((8, 8, None)))
    with pytest.raises(ValueError, match=re.escape("Received: shape=(None, 8, 8, 0)")):
        layer.compute_output_shape((None, 8, 8, 0))


@EITHER_WAY
def test_a_signal_shorter_than_a_patch(call):
    text = (
        "The signal must be at least (4, 4) long, one patch along each axis. Received: "
        "spatial shape=(8, 3). "
        "Put the channels last, use a smaller `patch_size`, or `padding='same'`, which pads it."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        call(Patchify(**GOOD), (2, 8, 3, 8))
    assert call(Patchify(**GOOD, padding="same"), (2, 8, 3, 8)).shape == (2, 2, 1, 3)


@EITHER_WAY
def test_an_empty_grid(call):
    text = "The grid must have at least one token along each axis. Received: grid shape=(2, 0)"
    with pytest.raises(ValueError, match=re.escape(text)):
        call(Unpatchify(**GOOD), (2, 2, 0, 8))


@EITHER_WAY
def test_a_padding_that_crops_all(call):
    text = (
        "The padding must leave at least one position of the signal. Received: "
        "grid shape=(2, 1), padding=[(2, 2), (3, 2)]. Use a smaller `padding`, or more tokens."
    )
    layer = Unpatchify(**GOOD, stride=1, padding=(2, (3, 2)))
    with pytest.raises(ValueError, match=re.escape(text)):
        call(layer, (2, 2, 1, 8))
    assert call(layer, (2, 2, 3, 8)).shape == (2, 1, 1, 3)


@EITHER_WAY
@pytest.mark.parametrize(
    "size", [8, (8,), (8, 8, 8), "88", (8.0, 8), (8, None), (True, 8), (), {8: 8}]
)
def test_the_form_of_output_spatial_shape(size, call):
    text = (
        "`output_spatial_shape` must hold 2 Python integers, one per axis. "
        f"Received: output_spatial_shape={size!r}. "
        "Pass a tuple of ints, or `like=tensor` for the size of a tensor."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        call(Unpatchify(**GOOD), (2, 2, 3, 8), output_spatial_shape=size)


@EITHER_WAY
@pytest.mark.parametrize(
    ("padding", "size", "allowed"),
    [
        ("valid", (7, 12), "(8 to 11, 12 to 15)"),
        ("valid", (8, 16), "(8 to 11, 12 to 15)"),
        ("valid", (0, -1), "(8 to 11, 12 to 15)"),
        ("same", (4, 12), "(5 to 8, 9 to 12)"),
        ("same", (8, 13), "(5 to 8, 9 to 12)"),
    ],
)
def test_the_range_of_output_spatial_shape(padding, size, allowed, call):
    text = (
        "`output_spatial_shape`, or the spatial shape of `like`, must be a size that "
        f"`Patchify` turns into the grid (2, 3): {allowed}. Received: output_spatial_shape={size}, "
        f"with axes [(4, 4, {padding!r}), (4, 4, {padding!r})] (patch, stride, padding). "
        "Use those of your `Patchify`, as `from_patchify` does."
    )
    layer = Unpatchify(**GOOD, padding=padding)
    with pytest.raises(ValueError, match=re.escape(text)):
        call(layer, (2, 2, 3, 8), output_spatial_shape=size)


@EITHER_WAY
def test_the_range_of_like(call):
    like = keras.Input((8, 16, 3)) if call is symbolically else keras.ops.zeros((2, 8, 16, 3))
    text = (
        "that `Patchify` turns into the grid (2, 3): (8 to 11, 12 to 15). Received: "
        "output_spatial_shape=(8, 16)"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        call(Unpatchify(**GOOD), (2, 2, 3, 8), like=like)


@EITHER_WAY
def test_like_and_output_spatial_shape_together(call):
    like = keras.Input((8, 12, 3)) if call is symbolically else keras.ops.zeros((2, 8, 12, 3))
    text = (
        "`like` and `output_spatial_shape` both say the size of the output: pass one of "
        "them. Received: "
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        call(Unpatchify(**GOOD), (2, 2, 3, 8), output_spatial_shape=(8, 12), like=like)


@EITHER_WAY
def test_like_of_the_wrong_rank(call):
    like = keras.Input((8, 12)) if call is symbolically else keras.ops.zeros((2, 8, 12))
    text = "`like` must be a tensor with 4 axes: batch, 2 of the signal, channels. Received: like="
    known = f"{type(like).__name__} of shape {tuple(like.shape)}. For a size in numbers, pass"
    with pytest.raises(ValueError, match=re.escape(text + known)):
        call(Unpatchify(**GOOD), (2, 2, 3, 8), like=like)
    with pytest.raises(ValueError, match=re.escape(text + "(8, 12). For a size in numbers, pass")):
        call(Unpatchify(**GOOD), (2, 2, 3, 8), like=(8, 12))


def test_the_values_of_tensors_stand_in_no_error():
    layer, tokens = Unpatchify(**GOOD), keras.ops.zeros((2, 2, 3, 8))
    with pytest.raises(ValueError, match=r"`output_spatial_shape` must hold .* of shape \(2, 12\)"):
        layer(tokens, keras.ops.zeros((2, 12)))
    with pytest.raises(ValueError, match=r"Received: output_spatial_shape=\w+ of shape \(2,\) and"):
        layer(tokens, keras.ops.zeros(2), tokens)
    with pytest.raises(ValueError, match=r"Received: layer=\w+ of shape \(2, 2, 3, 8\)"):
        load_torch_weights(tokens, {})
    with pytest.raises(ValueError, match=r"Received: source=\w+ of shape \(2, 2, 3, 8\)"):
        load_torch_weights(layer, tokens)


@over_layers
def test_complex_input(layer_class):
    text = "The input must be real. Received: dtype=complex64. Pass the two parts as channels."
    with pytest.raises(ValueError, match=re.escape(text)):
        layer_class(**GOOD).compute_output_spec(
            types.SimpleNamespace(shape=(2, 8, 8, 8), dtype="complex64")
        )
    layer = layer_class(**GOOD)
    layer.build((2, 8, 8, 8))
    with pytest.raises(ValueError, match=re.escape(text)):
        layer.call(types.SimpleNamespace(shape=(2, 8, 8, 8), dtype="complex64"))


@over_layers
@pytest.mark.parametrize(
    "shape", ["abc", None, 3, {"a": 1}, (None, 8, "8", 8), (None, 8, -8, 8), (None, 8, 8.0, 8)]
)
def test_a_shape_to_build_with(layer_class, shape):
    text = f"A shape must be a tuple of sizes, each an integer or None. Received: shape={shape!r}"
    with pytest.raises(ValueError, match=re.escape(text)):
        layer_class(**GOOD).compute_output_shape(shape)
    with pytest.raises(ValueError, match=re.escape(text)):
        layer_class(**GOOD).build(shape)


@over_layers
def test_a_kernel_beyond_all_memory(layer_class):
    layer = layer_class(3, 4, 3, 10**6, padding="same")
    text = (
        "The kernel must have at most 2147483647 elements. Received: shape=(1000000, "
        "1000000, 1000000, "
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        layer.build((None, None, None, None, 3))


@EITHER_WAY
def test_an_output_beyond_all_memory(call):
    text = f"The output must have at most {2**63 - 1} elements. Received: shape=(2, "
    with pytest.raises(ValueError, match=re.escape(text)):
        call(Unpatchify(8, 3, 2, 1, stride=2**40), (2, 2, 3, 8))


def test_the_batch_counts_among_the_elements():
    x, kernel = np.ones((4, 1, 1), "float32"), np.ones((1, 1, 1), "float32")
    text = f"The output must have at most {2**63 - 1} elements. Received: shape=(4, {2**61}, 1)."
    with pytest.raises(ValueError, match=re.escape(text)):
        unpatchify(x, kernel, stride=2**61, output_spatial_shape=(2**61,))


def test_a_patchify_layer_of_unknown_channels_has_no_mirror():
    text = (
        "The channels of the signal must be known. Received: a Patchify layer that is not "
        "built, with "
        "in_features=None. Build it first, give it `in_features`, or pass `out_features` here."
    )
    with pytest.raises(ValueError, match=re.escape(text) + "$"):
        Unpatchify.from_patchify(Patchify(None, 8, 2, 4))


@pytest.mark.parametrize("operation", [patchify, unpatchify])
def test_the_operations_check_as_the_layers_do(operation):
    x, kernel = np.ones((1, 4, 4, 3), "float32"), np.ones((2, 2, 3, 3), "float32")
    known = (
        "The kernel has the shape (2, 2, 3, 3), which stands for (*patch, signal channels, token "
        "channels)."
    )
    text = (
        "The input must have 4 axes: batch, 2 of the grid or signal, channels. Received: "
        f"shape=(4, 4, 3). {known}"
    )
    with pytest.raises(AssertionError, match=re.escape(text)):
        operation(x[0], kernel)
    text = f"The input must have 3 channels on its last axis. Received: shape=(1, 4, 4, 2). {known}"
    with pytest.raises(ValueError, match=re.escape(text)):
        operation(x[..., :2], kernel)
    with pytest.raises(ValueError, match="`stride` must be a positive integer, or 2 of them"):
        operation(x, kernel, stride=(1, 2, 3))
    with pytest.raises(
        ValueError, match="`padding` must be 'valid', 'same', 'circular' or an integer"
    ):
        operation(x, kernel, padding="full")
    with pytest.raises(
        ValueError,
        match="`implementation` must be one of 'auto', 'conv_transpose', 'matmul', 'subpixel'",
    ):
        operation(x, kernel, implementation="conv")
    text = (
        "The kernel must have the shape (*patch, signal channels, token channels) with one "
        "to three patch axes. "
        "Received: kernel.shape=(3, 3)"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        operation(x, kernel[0, 0])


def test_the_operations_check_the_bias():
    x, kernel = np.ones((1, 4, 4, 3), "float32"), np.ones((2, 2, 3, 3), "float32")
    with pytest.raises(
        ValueError, match=re.escape("The bias must have the shape (3,). Received: bias.shape=(1,)")
    ):
        patchify(x, kernel, np.ones(1, "float32"))
    text = "The bias must have the shape (3,) or (2, 2, 3). Received: bias.shape=(2, 3)"
    with pytest.raises(ValueError, match=re.escape(text)):
        unpatchify(x, kernel, np.ones((2, 3), "float32"))
