"""What a pair starts with: smooth kernels, a bias, and a size of its own."""

import keras
import numpy as np
import pytest
from backend import run, tensor, to_numpy
from cases import normal

from keras_unpatchify import Patchify, Unpatchify, initializers

# patch, stride
GEOMETRIES = [
    ((4,), (4,)),
    ((4,), (2,)),
    ((7,), (3,)),
    ((8,), (2,)),
    ((5, 4), (2, 3)),
    ((2,), (3,)),
]
GEOMETRIES += [((4, 3, 2), (2, 2, 1))]


def constant_signal(patch, stride, **options):
    """The signal of constant tokens, and how many positions of each axis are at an end."""
    d = len(patch)
    layer = Unpatchify(5, 2, d, patch, stride, weight_init="smooth", **options)
    grid = [8 if d < 3 else 5] * d
    y = run(layer, np.broadcast_to(normal((5,), 0), (1, *grid, 5)))
    return y, [max(k - s, 0) for k, s in zip(patch, stride)], layer


@pytest.mark.parametrize(("patch", "stride"), GEOMETRIES)
def test_constant_tokens_give_a_constant_signal(patch, stride):
    y, ends, layer = constant_signal(patch, stride)
    assert np.abs(y).max() > 0.01
    np.testing.assert_array_equal(to_numpy(layer.bias), 0)
    inner = y[(0, *(slice(end, n - end) for end, n in zip(ends, y.shape[1:-1])))]
    covered = inner[np.abs(inner).max(-1) > 0]  # not in a gap
    np.testing.assert_allclose(covered, np.broadcast_to(covered[0], covered.shape), atol=1e-5)


@pytest.mark.parametrize(("patch", "stride"), GEOMETRIES[:-2])
@pytest.mark.parametrize("options", [{"overlap": "mean"}, {"padding": "circular"}])
def test_up_to_the_edge_with_the_mean_and_on_a_circle(patch, stride, options):
    y, _, _ = constant_signal(patch, stride, **options)
    np.testing.assert_allclose(y, np.broadcast_to(y.reshape(-1, 2)[0], y.shape), atol=1e-5)


def test_the_kernel_is_a_window_times_a_draw():
    """At twice the stride it is nearly linear interpolation, and where patches tile it is ICNR."""
    kernel = to_numpy(initializers.SmoothUniform(2, seed=1)((4, 3, 400)))
    draw = kernel[1]
    np.testing.assert_allclose(
        kernel / draw,
        np.broadcast_to([[[1 / 3]], [[2 / 3]], [[2 / 3]], [[1 / 3]]], kernel.shape) * 1.5,
        rtol=1e-5,
    )
    bound = np.sqrt(3 / 400) * 2 / 3
    assert 0.95 * bound < np.abs(draw).max() <= bound
    tiling = to_numpy(initializers.SmoothUniform(seed=1)((4, 3, 400)))
    np.testing.assert_array_equal(tiling, np.broadcast_to(tiling[:1], tiling.shape))


def test_a_smooth_layer_is_saved(tmp_path):
    for weight_init in ("smooth", initializers.SmoothUniform((2, 3), seed=5)):
        layer = Unpatchify(4, 2, 2, 4, (2, 3), weight_init=weight_init)
        again = Unpatchify.from_config(layer.get_config())
        for each in (layer, again):
            each.build((None, None, None, 4))
        if weight_init != "smooth":
            np.testing.assert_array_equal(to_numpy(again.kernel), to_numpy(layer.kernel))
    config = keras.initializers.serialize(initializers.SmoothUniform(3, seed=2))
    again = keras.initializers.deserialize(config)
    assert (again.stride, again.seed) == (3, 2)


@pytest.mark.parametrize("weight_init", ["smooth", initializers.SmoothUniform()])
def test_patchify_refuses_a_smooth_start(weight_init):
    text = (
        r"`weight_init` must draw a kernel for tokens, which do not overlap: .*Received: weight_in"
    )
    with pytest.raises(ValueError, match=text):
        Patchify(3, 8, 2, 4, weight_init=weight_init)


# A size of its own.


def test_a_layer_has_a_size_of_its_own():
    layer = Unpatchify(3, 2, 2, 4, 2, padding="same", output_spatial_shape=(7, 9))
    tokens = tensor(normal((2, 4, 5, 3), 0))
    assert layer(tokens).shape == (2, 7, 9, 2)
    assert layer.compute_output_shape((None, 4, 5, 3)) == (None, 7, 9, 2)
    assert layer(keras.Input((4, 5, 3))).shape == (None, 7, 9, 2)
    assert layer(tokens, output_spatial_shape=(8, 10)).shape == (2, 8, 10, 2)
    assert layer(tokens, like=np.ones((1, 8, 9, 1), "float32")).shape == (2, 8, 9, 2)
    again = Unpatchify.from_config(layer.get_config())
    assert again.output_spatial_shape == (7, 9)
    with pytest.raises(ValueError, match="turns into the grid"):
        layer(tensor(normal((2, 5, 5, 3), 0)))


@pytest.mark.parametrize("size", [(7,), "same", (0, 9)])
def test_a_size_that_is_none_is_refused(size):
    text = "`output_spatial_shape` must hold 2|The signal must be at least"
    with pytest.raises(ValueError, match=text):
        Unpatchify(3, 2, 2, 4, 2, output_spatial_shape=size)


def test_a_sequence_in_a_sequential_model(tmp_path):
    options = {"data_dim": 2, "patch_size": 4, "padding": "same", "sequence": True}
    model = keras.Sequential(
        [
            keras.Input((7, 9, 2)),
            Patchify(2, 8, **options),
            keras.layers.Dense(8),
            Unpatchify(8, 2, output_spatial_shape=(7, 9), **options),
        ]
    )
    assert model.output_shape == (None, 7, 9, 2)
    model.save(tmp_path / "model.keras")
    x = tensor(normal((1, 7, 9, 2), 0))
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(again(x)), to_numpy(model(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.trains
def test_every_frame_has_the_size_of_the_layer():
    layer = Unpatchify(3, 2, 1, 4, padding="same", output_spatial_shape=(7,))
    frames = tensor(normal((2, 5, 2, 3), 0))
    assert keras.layers.TimeDistributed(layer)(frames).shape == (2, 5, 7, 2)


@pytest.mark.remat
@pytest.mark.trains
def test_a_rematerialised_layer_has_a_size_of_its_own():
    """Keras passes neither `like` nor a size on, in a graph of TensorFlow."""
    options = {"data_dim": 1, "patch_size": 4, "padding": "same"}
    with keras.RematScope(mode="full"):
        signal = keras.Input((7, 2))
        tokens = Patchify(2, 3, **options)(signal)
        layer = Unpatchify(3, 2, output_spatial_shape=(7,), **options)
        output = layer(tokens)
    model = keras.Model(signal, output)
    model.compile("sgd", "mse")
    x = normal((2, 7, 2), 0)
    assert np.isfinite(model.fit(x, x, verbose=0).history["loss"]).all()


# A bias of its own.


@pytest.mark.parametrize("layer_class", [Patchify, Unpatchify])
@pytest.mark.parametrize("weight_init", ["default", "zeros"])
def test_a_bias_has_an_initializer_of_its_own(layer_class, weight_init):
    layer = layer_class(3, 8, 2, 4, weight_init=weight_init, bias_initializer="ones")
    again = layer_class.from_config(layer.get_config())
    for each in (layer, again):
        each.build((None, None, None, 3))
        np.testing.assert_array_equal(to_numpy(each.bias), 1)
    with pytest.raises(ValueError, match="`bias_initializer` must be a Keras initializer or its"):
        layer_class(3, 8, 2, 4, bias_initializer="nothing")


def test_a_converted_layer_keeps_the_initializer_of_the_bias():
    conv = keras.layers.Conv2D(8, 4, bias_initializer="ones")
    layer = Patchify.from_conv(conv)
    layer.build((None, None, None, 3))
    np.testing.assert_array_equal(to_numpy(layer.bias), 1)
