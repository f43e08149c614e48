"""What `weight_init` draws: ranges, variances, seeds and configs."""

import math
import re

import keras
import numpy as np
import pytest
from backend import run, to_numpy
from cases import normal, over_layers
from scipy import stats

from keras_unpatchify import Patchify, Unpatchify
from keras_unpatchify.initializers import (
    FanInUniform,
    LinearGlorotUniform,
    TorchUniform,
    UnitVarianceUniform,
)

CLASSES = {
    "default": TorchUniform,
    "fan_in": FanInUniform,
    "glorot": LinearGlorotUniform,
    "unit_variance": UnitVarianceUniform,
}
GRID, PATCH, IN, OUT = (5, 6), (4, 3), 48, 7


def weights(layer_class, weight_init, **arguments):
    layer = layer_class(IN, OUT, 2, PATCH, weight_init=weight_init, **arguments)
    layer.build((None, None, None, IN))
    return to_numpy(layer.kernel), to_numpy(layer.bias)


def assert_uniform(values, bound):
    """Within the bound, and uniform there: one seed in 10,000 would fail."""
    assert np.abs(values).max() <= bound
    assert stats.kstest(values.ravel(), "uniform", args=(-bound, 2 * bound)).pvalue > 1e-4


@over_layers
def test_default_draws_kernel_and_bias_in_the_range_of_pytorch(layer_class):
    kernel, bias = weights(layer_class, "default")
    bound = 1 / math.sqrt(math.prod(PATCH) * (OUT if layer_class is Unpatchify else IN))
    assert_uniform(kernel, bound)
    assert_uniform(bias, bound)


def test_default_draws_a_patch_bias_too():
    _, bias = weights(Unpatchify, "default", bias="patch")
    assert bias.shape == (*PATCH, OUT)
    assert_uniform(bias, 1 / math.sqrt(math.prod(PATCH) * OUT))


@pytest.mark.parametrize(
    ("layer_class", "name"), [(Unpatchify, "ConvTranspose2d"), (Patchify, "Conv2d")]
)
def test_default_is_the_distribution_of_a_pytorch_layer(layer_class, name):
    torch = pytest.importorskip("torch", reason="compares with torch.nn")
    torch.manual_seed(0)
    module = getattr(torch.nn, name)(IN, OUT, PATCH)
    kernel, _ = weights(layer_class, "default")
    theirs = module.weight.detach().numpy()
    assert stats.ks_2samp(kernel.ravel(), theirs.ravel()).pvalue > 1e-4
    assert np.abs(kernel).max() == pytest.approx(np.abs(theirs).max(), rel=0.01)


@over_layers
def test_zeros_gives_exactly_zero(layer_class):
    kernel, bias = weights(layer_class, "zeros")
    assert not kernel.any()
    assert not bias.any()
    layer = layer_class(IN, OUT, 2, PATCH, weight_init="zeros")
    assert not run(layer, normal((2, *GRID, IN), 0)).any()


@over_layers
def test_fan_in_counts_the_inputs_of_a_patch(layer_class):
    kernel, bias = weights(layer_class, "fan_in")
    assert_uniform(kernel, math.sqrt(6 / (IN * math.prod(PATCH))))
    assert not bias.any()


@pytest.mark.parametrize("in_features", [64, 1024])
@pytest.mark.parametrize("stride", [(4, 3), (2, 3)])
def test_fan_in_gives_a_pixel_the_variance_two_over_the_stride(in_features, stride):
    """On average over the positions inside; four standard errors of these draws are below 10%."""
    layer = Unpatchify(in_features, 16, 2, PATCH, stride, weight_init="fan_in")
    y = run(layer, normal((16, 6, 6, in_features), 0))[:, 4:-4, 4:-4]
    assert y.var() == pytest.approx(2 / math.prod(stride), rel=0.1)


@over_layers
def test_glorot_is_the_draw_of_the_linear_map(layer_class):
    """Keras's own rule is right for the two axes of a matrix."""
    kernel, bias = weights(layer_class, "glorot", stride=2)
    signal, token = kernel.shape[-2:]
    assert_uniform(kernel, math.sqrt(6 / (math.prod(PATCH) * signal + token)))
    matrix = keras.initializers.GlorotUniform(seed=1)((math.prod(PATCH) * signal, token))
    assert stats.ks_2samp(kernel.ravel(), to_numpy(matrix).ravel()).pvalue > 1e-4
    assert not bias.any()


@over_layers
@pytest.mark.parametrize("data_dim", [1, 3])
@pytest.mark.parametrize("name", CLASSES)
def test_the_range_along_one_axis_and_along_three(name, data_dim, layer_class):
    layer = layer_class(IN, OUT, data_dim, 3, weight_init=name)
    layer.build((*(None,) * (data_dim + 1), IN))
    f, signal, token = 3**data_dim, IN, OUT
    if layer_class is Unpatchify:
        signal, token = OUT, IN
    squares = {
        "default": 1 / (f * signal),
        "fan_in": 6 / (f * IN),
        "glorot": 6 / (f * signal + token),
        "unit_variance": 3 / (IN if layer_class is Unpatchify else f * IN),
    }
    assert_uniform(to_numpy(layer.kernel), math.sqrt(squares[name]))


PATCHINGS = pytest.mark.parametrize(
    ("patch", "stride"),
    [
        ((4, 3), (4, 3)),
        ((4, 4), (2, 2)),
        ((3, 3), (2, 2)),
        ((5, 2), (2, 3)),
        ((2, 3), (5, 1)),
        ((1, 1), (2, 2)),
    ],
    ids=str,
)


@PATCHINGS
@pytest.mark.parametrize("overlap", ["sum", "mean"])
def test_unit_tokens_give_a_signal_of_unit_variance(overlap, patch, stride):
    """Over whole periods of the stride; four standard errors of so many draws are below 10%."""
    layer = Unpatchify(64, 96, 2, patch, stride, weight_init="unit_variance", overlap=overlap)
    y = run(layer, normal((8, 9, 9, 64), 0))
    inside = tuple(slice(k + s - k % s, -k - s) for k, s in zip(patch, stride))
    y = y[(slice(None), *inside)]
    y = y[:, : y.shape[1] // stride[0] * stride[0], : y.shape[2] // stride[1] * stride[1]]
    assert y.var() == pytest.approx(1, rel=0.1)
    assert not to_numpy(layer.bias).any()


@PATCHINGS
def test_unit_signals_give_tokens_of_unit_variance(patch, stride):
    layer = Patchify(24, 256, 2, patch, stride, weight_init="unit_variance")
    assert run(layer, normal((8, 20, 20, 24), 0)).var() == pytest.approx(1, rel=0.1)
    assert not to_numpy(layer.bias).any()


@over_layers
@pytest.mark.parametrize("stride", [None, 2])
@pytest.mark.parametrize("name", CLASSES)
def test_a_name_and_its_class_draw_from_one_distribution(name, stride, layer_class):
    options = [{"overlap": "sum"}, {"overlap": "mean"}] if layer_class is Unpatchify else [{}]
    for option in options:
        ours = weights(layer_class, name, stride=stride, **option)
        theirs = weights(layer_class, CLASSES[name](seed=1), stride=stride, **option)
        assert np.abs(ours[0]).max() == pytest.approx(np.abs(theirs[0]).max(), rel=0.05)
        for one, two in zip(ours, theirs):
            assert stats.ks_2samp(one.ravel(), two.ravel()).pvalue > 1e-4


@over_layers
@pytest.mark.parametrize("name", CLASSES)
def test_a_given_fan_stays(name, layer_class):
    kernel, _ = weights(layer_class, CLASSES[name](fan=0.5, seed=1), stride=2)
    gain = {"default": 1, "fan_in": 6, "glorot": 6, "unit_variance": 3}[name]
    assert_uniform(kernel, math.sqrt(gain / 0.5))


@over_layers
@pytest.mark.parametrize(
    "weight_init", ["glorot_normal", keras.initializers.RandomNormal(stddev=0.1), "ones"]
)
def test_any_keras_initializer_draws_the_kernel_and_the_bias_is_zero(layer_class, weight_init):
    kernel, bias = weights(layer_class, weight_init)
    assert kernel.any()
    assert not bias.any()


@over_layers
def test_a_function_may_draw_the_kernel(layer_class):
    kernel, bias = weights(layer_class, lambda shape, dtype: keras.ops.full(shape, 0.5, dtype))
    assert (kernel == 0.5).all()
    assert not bias.any()


@over_layers
@pytest.mark.parametrize(
    "weight_init",
    [
        *CLASSES,
        *(draw() for draw in CLASSES.values()),
        "glorot_uniform",
        keras.initializers.RandomNormal(),
    ],
    ids=lambda draw: draw if isinstance(draw, str) else type(draw).__name__,
)
def test_two_layers_draw_different_numbers(layer_class, weight_init):
    one, two = (weights(layer_class, weight_init)[0] for _ in range(2))
    assert np.abs(one - two).min() > 0


def test_kernel_and_bias_are_drawn_apart():
    for weight_init in ("default", TorchUniform(seed=1)):
        layer = Unpatchify(1, 12, 1, 1, weight_init=weight_init)
        layer.build((None, None, 1))
        kernel, bias = to_numpy(layer.kernel).ravel(), to_numpy(layer.bias)
        assert np.abs(kernel - bias).min() > 0


@over_layers
@pytest.mark.parametrize("draw", CLASSES.values())
def test_a_seed_repeats_the_draw(draw, layer_class):
    for one, two in zip(*(weights(layer_class, draw(seed=5)) for _ in range(2))):
        np.testing.assert_array_equal(one, two)
    keras.utils.set_random_seed(3)
    one = weights(layer_class, "default")
    keras.utils.set_random_seed(3)
    two = weights(layer_class, "default")
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


@over_layers
def test_a_seeded_named_draw_is_the_named_draw(layer_class):
    """An instance stands for the name, with the bias that belongs to it."""
    kernel, bias = weights(layer_class, TorchUniform(seed=5))
    bound = 1 / math.sqrt(math.prod(PATCH) * (OUT if layer_class is Unpatchify else IN))
    assert_uniform(kernel, bound)
    assert_uniform(bias, bound)
    np.testing.assert_array_equal(kernel, to_numpy(TorchUniform(1 / bound**2, 5)(kernel.shape)))
    np.testing.assert_array_equal(bias, to_numpy(TorchUniform(1 / bound**2, 6)(bias.shape)))


@pytest.mark.parametrize(
    "initializer",
    [FanInUniform(fan=9, seed=4), *(draw(seed=4) for draw in CLASSES.values())],
)
def test_initializers_come_back_from_their_config(initializer):
    config = keras.initializers.serialize(initializer)
    again = keras.initializers.deserialize(config)
    assert again.get_config() == initializer.get_config()
    np.testing.assert_array_equal(to_numpy(again((3, 2, 4))), to_numpy(initializer((3, 2, 4))))
    assert config["registered_name"].startswith("keras_unpatchify>")


@over_layers
@pytest.mark.parametrize("name", CLASSES)
def test_a_layer_keeps_an_initializer_without_the_fan_of_its_kernel(name, layer_class):
    """So that a copy with another patch has its own fan."""
    layer = layer_class(IN, OUT, 2, PATCH, weight_init=CLASSES[name](seed=4))
    layer.build((None, 8, 9, IN))
    again = layer_class.from_config(layer.get_config())
    assert again.weight_init.get_config() == {"fan": None, "seed": 4}
    again.build((None, 8, 9, IN))
    np.testing.assert_array_equal(to_numpy(again.kernel), to_numpy(layer.kernel))


@pytest.mark.parametrize(
    ("draw", "variance"),
    [
        (TorchUniform, 1 / (16 * 8) / 3),
        (FanInUniform, 2 / (16 * 32)),
        (LinearGlorotUniform, 2 / (16 * 8 + 32)),
        (UnitVarianceUniform, 1 / 32),
    ],
)
def test_initializers_serve_the_transposed_convolutions_of_keras(draw, variance):
    layer = keras.layers.Conv2DTranspose(8, 4, strides=4, kernel_initializer=draw(seed=1))
    layer.build((None, 3, 3, 32))
    assert_uniform(to_numpy(layer.kernel), math.sqrt(3 * variance))


@pytest.mark.parametrize("draw", CLASSES.values())
def test_a_draw_has_the_dtype_that_is_asked_for(draw):
    for dtype in ("float16", "float32"):
        numbers = draw(seed=1)((4, 3, 2), dtype)
        assert keras.backend.standardize_dtype(numbers.dtype) == dtype
    assert keras.backend.standardize_dtype(draw(seed=1)((4, 3, 2)).dtype) == "float32"


@pytest.mark.parametrize("seed", ["one", 1.5])
def test_a_seed_of_another_kind_is_refused(seed):
    text = (
        "`seed` must be an integer, a `keras.random.SeedGenerator`, or None. "
        f"Received: seed={seed!r}"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        TorchUniform(seed=seed)


@pytest.mark.parametrize("fan", [0, -1.5, "2", True, math.inf, math.nan])
def test_a_fan_of_another_kind_is_refused(fan):
    text = f"`fan` must be a positive number. Received: fan={fan!r}"
    with pytest.raises(ValueError, match=re.escape(text)):
        FanInUniform(fan=fan)


def test_a_seed_generator_moves_on_and_is_saved():
    generator = keras.random.SeedGenerator(3)
    initializer = TorchUniform(fan=4, seed=generator)
    one, two = to_numpy(initializer((50,))), to_numpy(initializer((50,)))
    assert np.abs(one - two).min() > 0
    config = keras.initializers.serialize(initializer)
    assert keras.initializers.deserialize(config).seed.get_config()["seed"] == 3
