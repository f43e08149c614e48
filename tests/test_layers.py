"""What a Keras user expects of a layer: shapes, configs, policies, training, and its weights."""

import inspect
import itertools
import json

import keras
import numpy as np
import pytest
import reference
from backend import run, to_numpy
from cases import (
    CASES,
    COMPACT,
    TOLERANCE,
    normal,
    over_cases,
    over_implementations,
    over_layers,
    over_paddings,
)

from keras_unpatchify import Patchify, Unpatchify


@over_cases()
@over_paddings
def test_layers_compute_what_their_weights_say_in_the_shape_that_they_said(case, padding):
    """Eagerly and symbolically; on jax every size is compiled at once."""
    padding = case.padding(padding)
    options = {"stride": case.stride, "padding": padding}
    back, there = case.unpatchify(padding=padding), case.patchify(padding=padding)
    back.build((None, *case.grid, case.token))
    there.build((None, *case.size, case.signal))
    sizes = [None, *case.sizes(padding)]
    tokens, images = case.tokens(), [case.signals(size) for size in sizes[1:]]

    def layers(tokens, *images):
        signals = [back(tokens, output_spatial_shape=size) for size in sizes]
        return [*signals, *(there(image) for image in images)]

    actual = run(layers, tokens, *images)
    weights = [to_numpy(weight) for weight in back.weights]
    expected = [reference.unpatchify(tokens, *weights, size=n, **options) for n in sizes]
    weights = [to_numpy(weight) for weight in there.weights]
    expected += [reference.patchify(image, *weights, **options) for image in images]
    symbolic = layers(*(keras.Input(a.shape[1:], batch_size=case.batch) for a in (tokens, *images)))
    for a, e, s in zip(actual, expected, symbolic, strict=True):
        assert s.shape == a.shape == e.shape
        np.testing.assert_allclose(a, e, **TOLERANCE)
    assert back.compute_output_shape(tokens.shape) == actual[0].shape
    for image in images:
        assert there.compute_output_shape(image.shape) == tokens.shape


@over_cases(COMPACT)
@over_implementations
def test_a_negative_padding_adds_to_the_signal_what_patchify_leaves_out(case, implementation):
    padding = tuple((k // 2, 1 - s) for k, s in zip(case.patch, case.stride))
    options = {"padding": padding, "implementation": implementation}
    there, back = case.patchify(**options), case.unpatchify(**options)
    y = run(back, case.tokens())
    x = case.signals(y.shape[1:-1])
    weights = [to_numpy(weight) for weight in back.weights]
    expected = reference.unpatchify(case.tokens(), *weights, stride=case.stride, padding=padding)
    np.testing.assert_allclose(y, expected, **TOLERANCE)
    tokens = run(there, x)
    weights = [to_numpy(weight) for weight in there.weights]
    expected = reference.patchify(x, *weights, stride=case.stride, padding=padding)
    assert tokens.shape == case.tokens().shape
    np.testing.assert_allclose(tokens, expected, **TOLERANCE)


def test_axes_that_are_unknown_stay_unknown():
    layer = Unpatchify(8, 3, 2, 4)
    assert layer.compute_output_shape((None, None, 5, 8)) == (None, None, 20, 3)
    assert layer(keras.Input((None, 5, 8)), output_spatial_shape=(9, 21)).shape == (None, 9, 21, 3)
    assert Patchify(3, 8, 2, 4).compute_output_shape((2, None, 22, 3)) == (2, None, 5, 8)


@over_cases(COMPACT)
@over_implementations
def test_a_functional_model_with_open_sizes_takes_several(case, implementation):
    tokens = keras.Input((*(None,) * case.data_dim, case.token))
    layer = case.unpatchify(implementation=implementation)
    model = keras.Model(tokens, layer(tokens))
    weights = to_numpy(layer.kernel), to_numpy(layer.bias)
    for larger in (0, 2, 5):
        x = normal((2, *(n + larger for n in case.grid), case.token), larger)
        expected = reference.unpatchify(x, *weights, stride=case.stride)
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, **TOLERANCE)


@over_cases(COMPACT)
@over_implementations
def test_patchify_in_a_functional_model_with_open_sizes(case, implementation):
    signal = keras.Input((*(None,) * case.data_dim, case.signal))
    for padding in ("valid", "same"):
        layer = case.patchify(implementation=implementation, padding=padding)
        model = keras.Model(signal, layer(signal))
        weights = to_numpy(layer.kernel), to_numpy(layer.bias)
        for larger in (0, 1, 5):
            x = normal((2, *(n + larger for n in case.default_size("valid")), case.signal), larger)
            expected = reference.patchify(x, *weights, stride=case.stride, padding=padding)
            np.testing.assert_allclose(model.predict(x, verbose=0), expected, **TOLERANCE)


@over_layers
def test_one_kernel_shape_for_the_pair(layer_class):
    layer = layer_class(6, 4, 2, (3, 5))
    layer.build((None, 9, 10, 6))
    signal, token = (4, 6) if layer_class is Unpatchify else (6, 4)
    assert tuple(layer.kernel.shape) == (3, 5, signal, token)
    assert tuple(layer.bias.shape) == (4,)
    assert [weight.path.split("/")[-1] for weight in layer.weights] == ["kernel", "bias"]
    assert layer.count_params() == 3 * 5 * 6 * 4 + 4


@over_layers
def test_none_reads_the_channels_from_the_input(layer_class):
    layer = layer_class(None, 4, 1, 2)
    assert run(layer, normal((2, 4, 5), 0)).shape[-1] == 4
    assert 5 in layer.kernel.shape
    assert layer.get_config()["in_features"] is None


@over_layers
def test_without_bias_there_is_none(layer_class):
    layer = layer_class(3, 4, 1, 2, bias=False)
    layer.build((None, 6, 3))
    assert layer.bias is None
    assert len(layer.weights) == 1


@over_layers
def test_numpy_integers_are_integers(layer_class):
    one, two = np.int64(1), np.int32(2)
    layer = layer_class(two, two, one, [two], (one,))
    assert layer.get_config() | {"name": ""} == layer_class(2, 2, 1, 2, 1).get_config() | {
        "name": ""
    }


@over_layers
def test_whole_numbers_are_converted(layer_class):
    """The pixels of a photograph come as bytes."""
    layer = layer_class(3, 4, 1, 2)
    pixels = np.arange(24, dtype="uint8").reshape(2, 4, 3)
    np.testing.assert_allclose(run(layer, pixels), run(layer, pixels.astype("float32")), rtol=1e-6)


@over_layers
def test_channels_first_in_the_configuration_changes_nothing(layer_class):
    x = normal((2, 4, 4, 3), 0)
    layer = layer_class(3, 5, 2, 3, 1)
    expected = run(layer, x)
    before = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        for implementation in ("conv_transpose", "matmul"):
            again = layer_class.from_config(layer.get_config() | {"implementation": implementation})
            again.build(x.shape)
            again.set_weights(layer.get_weights())
            np.testing.assert_allclose(run(again, x), expected, **TOLERANCE)
    finally:
        keras.config.set_image_data_format(before)


CONFIG = {
    "bias": False,
    "weight_init": "fan_in",
    "padding": ((1, 0), (0, 2)),
    "sequence": True,
    "activation": "gelu",
    "implementation": "matmul",
    "kernel_regularizer": "l2",
    "bias_regularizer": "l1",
    "activity_regularizer": "l2",
    "kernel_constraint": "non_neg",
    "bias_constraint": "max_norm",
    "name": "other",
    "dtype": "mixed_bfloat16",
    "trainable": False,
}


@over_layers
def test_every_argument_is_in_the_config_and_comes_back(layer_class):
    names = set(inspect.signature(layer_class).parameters) - {"kwargs"}
    assert set(CONFIG) - {"name", "dtype", "trainable"} < names
    layer = layer_class(6, 4, 2, (3, 5), 2, **CONFIG)
    config = layer.get_config()
    assert names <= set(config)
    plain = layer_class(6, 4, 2, (3, 5)).get_config()
    assert all(config[name] != plain[name] for name in CONFIG)
    assert layer_class.from_config(config).get_config() == config


@over_layers
@pytest.mark.parametrize("padding", ["valid", "same", 1, (1, 0), ((1, 0), (0, 2)), [[1, 0], 2]])
def test_padding_is_in_the_config(layer_class, padding, tmp_path):
    layer = layer_class(3, 2, 2, 3, padding=padding)
    expected = {"1": ((1, 1), (1, 1)), "(1, 0)": ((1, 1), (0, 0)), "[[1, 0], 2]": ((1, 0), (2, 2))}
    assert layer.padding == expected.get(str(padding), padding)
    model = keras.Sequential([keras.Input((5, 6, 3)), layer])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").layers[0]
    assert again.get_config() == layer.get_config()


@over_layers
@pytest.mark.parametrize("activation", ["gelu", keras.activations.tanh, None])
def test_an_activation_follows(layer_class, activation):
    x = normal((2, 4, 5, 3), 0)
    plain = layer_class(3, 2, 2, (2, 3))
    layer = layer_class(3, 2, 2, (2, 3), activation=activation)
    y = run(plain, x)
    layer.build(x.shape)
    layer.set_weights(plain.get_weights())
    expected = to_numpy(keras.activations.get(activation)(keras.ops.convert_to_tensor(y)))
    np.testing.assert_allclose(run(layer, x), expected, rtol=1e-5, atol=1e-6)
    again = layer_class.from_config(layer.get_config())
    assert again.activation is layer.activation
    with pytest.raises(ValueError, match="no such thing"):
        layer_class(3, 2, 2, 3, activation="no such thing")


@over_layers
@pytest.mark.parametrize(
    ("other", "name"),
    [
        ("filters", "out_features"),
        ("kernel_size", "patch_size"),
        ("strides", "stride"),
        ("use_bias", "bias"),
        ("kernel_initializer", "weight_init"),
        ("in_channels", "in_features"),
        ("out_channels", "out_features"),
    ],
)
def test_the_words_of_other_layers_are_answered(layer_class, other, name):
    text = f"`{other}` is called `{name}` here. Received: {other}=2"
    with pytest.raises(ValueError, match=text):
        layer_class(3, 2, 2, 3, **{other: 2})


def test_a_summary_shows_the_size_of_like(capsys):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.there = Patchify(3, 4, 2, 4, padding="same")
            self.back = Unpatchify.from_patchify(self.there, out_features=3)

        def call(self, x):
            return self.back(self.there(x), like=x)

    model = Model()
    model(normal((2, 9, 7, 3), 0))
    model.summary()
    assert "(2, 9, 7, 3)" in capsys.readouterr().out


def test_overlap_is_in_the_config():
    layer = Unpatchify(6, 4, 2, 3, overlap="mean", bias="patch")
    config = layer.get_config()
    assert (config["overlap"], config["bias"]) == ("mean", "patch")
    assert Unpatchify.from_config(config).get_config() == config


@over_layers
def test_an_initializer_comes_back_from_the_config(layer_class):
    layer = layer_class(6, 4, 2, 3, weight_init=keras.initializers.RandomNormal(stddev=0.2, seed=3))
    config = json.loads(json.dumps(layer.get_config()))
    again = layer_class.from_config(config)
    assert again.weight_init.get_config() == layer.weight_init.get_config()


@over_layers
def test_the_summary_and_the_repr_name_the_layer(layer_class, capsys):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layer_class(3, 4, 2, 4)(inputs))
    model.summary()
    assert layer_class.__name__ in capsys.readouterr().out
    assert layer_class.__name__ in repr(model.layers[1])


@over_layers
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
@over_implementations
def test_half_precision(layer_class, policy, implementation):
    """Products of three numbers each in at most 9 overlapping patches; bfloat16 keeps 8 bits of
    each."""
    layer = layer_class(
        3, 4, 2, 3, 1, dtype=policy, implementation=implementation, weight_init="fan_in"
    )
    x = normal((2, 5, 6, 3), 0)
    y = layer(keras.ops.convert_to_tensor(x))
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    assert layer(keras.Input((5, 6, 3))).dtype == layer.compute_dtype
    exact = layer_class.from_config(layer.get_config() | {"dtype": "float32"})
    exact.build(x.shape)
    exact.set_weights([np.asarray(w, "float32") for w in layer.get_weights()])
    np.testing.assert_allclose(to_numpy(y).astype("float32"), run(exact, x), rtol=0.05, atol=0.1)


@pytest.mark.float64
@over_layers
@over_implementations
def test_double_precision(layer_class, implementation, double):
    with double:
        layer = layer_class(3, 4, 2, 3, 2, dtype="float64", implementation=implementation)
        x = normal((2, 5, 6, 3), 0).astype("float64")
        y = run(layer, x)
        weights = [to_numpy(w) for w in layer.get_weights()]
    oracle = reference.unpatchify if layer_class is Unpatchify else reference.patchify
    assert y.dtype == weights[0].dtype == "float64"
    np.testing.assert_allclose(y, oracle(x, *weights, stride=(2, 2)), rtol=1e-12, atol=1e-12)


@over_layers
def test_frozen_weights_are_not_trainable(layer_class):
    layer = layer_class(3, 4, 1, 2)
    layer.build((None, 4, 3))
    layer.trainable = False
    assert not layer.trainable_weights
    assert len(layer.non_trainable_weights) == 2


@over_layers
def test_regularizers_add_to_the_losses(layer_class):
    options = {"kernel_regularizer": "l2", "bias_regularizer": "l2", "activity_regularizer": "l2"}
    layer = layer_class(3, 4, 1, 2, **options)
    layer(keras.ops.convert_to_tensor(normal((2, 4, 3), 0)))
    assert len(layer.losses) == 3
    kernel = to_numpy(layer.kernel)
    assert min(float(to_numpy(loss)) for loss in layer.losses) > 0
    assert any(
        float(to_numpy(loss)) == pytest.approx(0.01 * (kernel**2).sum(), rel=1e-5)
        for loss in layer.losses
    )


@pytest.mark.trains
@pytest.mark.parametrize(
    ("jit_compile", "implementation"),
    [("auto", "auto"), (False, "matmul"), (False, "conv_transpose")],
)
def test_fit_learns(jit_compile, implementation):
    """Learning from layers of the same kind: the loss falls at every epoch."""

    def model(**options):
        inputs = keras.Input((6, 6, 3))
        there, back = Patchify(3, 4, 2, 3, 2, **options), Unpatchify(4, 2, 2, 3, 2, **options)
        return keras.Model(inputs, back(there(inputs)))

    x, student = normal((32, 6, 6, 3), 0), model(implementation=implementation)
    student.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=jit_compile)
    y = model().predict(x, verbose=0)
    history = student.fit(x, y, epochs=4, batch_size=8, verbose=0).history["loss"]
    assert all(later < earlier for earlier, later in itertools.pairwise(history))


@pytest.mark.trains
def test_constraints_hold_after_a_step():
    inputs = keras.Input((4, 3))
    layer = Unpatchify(3, 2, 1, 2, kernel_constraint="non_neg", bias_constraint="non_neg")
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(normal((8, 4, 3), 0), normal((8, 8, 2), 1) - 10, verbose=0)
    assert to_numpy(layer.kernel).min() >= 0
    assert to_numpy(layer.bias).min() >= 0


def test_the_start_of_a_residual_stream():
    """With zeros a block adds nothing at first, and its gradient is not zero."""
    inputs = keras.Input((4, 4, 3))
    branch = Unpatchify(8, 3, 2, 2, weight_init="zeros")(Patchify(3, 8, 2, 2)(inputs))
    model = keras.Model(inputs, inputs + branch)
    x = normal((2, 4, 4, 3), 0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), x)


@over_cases(["2d-overlap"])
def test_saved_models_come_back_without_custom_objects(case, tmp_path):
    signal = keras.Input((*(None,) * case.data_dim, case.signal))
    weight_init = keras.initializers.RandomNormal(seed=1)
    patchify = case.patchify(case.signal, padding="same", weight_init=weight_init)
    unpatchify = Unpatchify.from_patchify(patchify, overlap="mean")
    model = keras.Model(signal, unpatchify(patchify(signal), like=signal))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for size in [(7, 9), (12, 5)]:
        x = normal((2, *size, case.signal), 0)
        y = again.predict(x, verbose=0)
        assert y.shape == x.shape
        np.testing.assert_allclose(y, model.predict(x, verbose=0), rtol=1e-6, atol=1e-6)


def test_the_output_shape_is_saved_with_the_model(tmp_path):
    case = CASES["2d-mixed"]
    size = case.sizes("valid")[-1]
    tokens = keras.Input((*case.grid, case.token))
    model = keras.Model(tokens, case.unpatchify()(tokens, output_spatial_shape=size))
    assert model.output_shape == (None, *size, case.signal)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.output_shape == model.output_shape
    y = again.predict(case.tokens(), verbose=0)
    np.testing.assert_allclose(y, model.predict(case.tokens(), verbose=0), rtol=1e-6, atol=1e-6)


@over_layers
def test_weights_files_and_lists_come_back(layer_class, tmp_path):
    def model():
        inputs = keras.Input((4, 4, 3))
        return keras.Model(inputs, layer_class(3, 4, 2, 2)(inputs))

    one, two, three = model(), model(), model()
    one.save_weights(tmp_path / "some.weights.h5")
    two.load_weights(tmp_path / "some.weights.h5")
    three.set_weights(one.get_weights())
    for a, b, c in zip(one.get_weights(), two.get_weights(), three.get_weights()):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.tensorflow_backend
def test_a_shape_of_tensorflow_builds():
    import tensorflow as tf

    layer = Unpatchify(8, 3, 2, 4)
    layer.build(tf.TensorShape((None, None, 5, 8)))
    assert layer.kernel.shape == (4, 4, 3, 8)
