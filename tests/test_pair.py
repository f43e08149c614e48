"""The pair loses no pixel: laws of `padding`, `like` and `overlap`, over generated sizes, patches
and strides."""

import itertools

import keras
import numpy as np
import pytest
import reference
from backend import run, to_numpy
from cases import PADDINGS, Drawn, normal, over_implementations
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops as K

from keras_unpatchify import Patchify, Unpatchify
from keras_unpatchify.ops import patchify, unpatchify

few = settings(max_examples=15)


@st.composite
def patchings(draw):
    """Per axis: a patch, a stride, a size that yields a token."""
    data_dim = draw(st.integers(1, 3))
    largest = {1: 17, 2: 9, 3: 6}[data_dim]
    patch = draw(st.tuples(*[st.integers(1, 5)] * data_dim))
    stride = draw(st.tuples(*[st.integers(1, 6)] * data_dim))
    size = draw(st.tuples(*[st.integers(1, largest)] * data_dim))
    return patch, stride, size


def identity_kernel(patch, channels):
    """A token is the pixels of its patch: (*patch, channels, prod(patch) * channels)."""
    width = int(np.prod(patch)) * channels
    return np.eye(width, dtype="float32").reshape(*patch, channels, width)


@over_implementations
@given(patchings())
@few
def test_mean_of_what_patchify_took_apart_is_the_signal(implementation, patching):
    patch, stride, size = patching
    stride = tuple(map(min, stride, patch))
    options = {"stride": stride, "padding": "same", "implementation": implementation}
    x = normal((2, *size, 2), 0)

    def there_and_back(x, kernel):
        tokens = patchify(x, kernel, **options)
        return unpatchify(tokens, kernel, output_spatial_shape=size, overlap="mean", **options)

    np.testing.assert_allclose(
        run(there_and_back, x, identity_kernel(patch, 2)), x, rtol=1e-5, atol=1e-5
    )


@over_implementations
@given(patchings())
@few
def test_the_sum_of_tiling_patches_is_the_signal(implementation, patching):
    patch, _, size = patching
    x = normal((2, *size, 2), 0)

    def there_and_back(x, kernel):
        tokens = patchify(x, kernel, padding="same", implementation=implementation)
        return unpatchify(
            tokens, kernel, padding="same", output_spatial_shape=size, implementation=implementation
        )

    np.testing.assert_allclose(
        run(there_and_back, x, identity_kernel(patch, 2)), x, rtol=1e-5, atol=1e-5
    )


@given(patchings(), st.sampled_from(PADDINGS), st.sampled_from(("sum", "mean")))
@few
def test_the_output_size_of_one_layer_is_an_input_size_of_the_other(patching, padding, overlap):
    patch, stride, size = patching
    if padding == "pairs":
        padding = tuple((k // 2, (k - 1) // 3) for k in patch)
    size = size if padding == "same" else tuple(map(max, size, patch))
    arguments = {"data_dim": len(patch), "patch_size": patch, "stride": stride, "padding": padding}
    there = Patchify(2, 3, **arguments)
    back = Unpatchify.from_patchify(there, overlap=overlap, weight_init=Drawn())
    tokens = there.compute_output_shape((2, *size, 2))
    assert back(keras.Input(tokens[1:]), like=keras.Input((*size, 2))).shape == (None, *size, 2)
    default = back.compute_output_shape(tokens)
    assert there.compute_output_shape(default) == tokens
    for signal in itertools.product(
        *(range(a.smallest(n), a.largest(n) + 1) for a, n in zip(back.axes, tokens[1:-1]))
    ):
        assert there.compute_output_shape((2, *signal, 2)) == tokens


@given(patchings())
@few
def test_same_patches_every_image_of_at_least_one_pixel(patching):
    patch, stride, size = patching
    there = Patchify(2, 3, len(patch), patch, stride, padding="same", weight_init=Drawn())
    back = Unpatchify.from_patchify(there, weight_init=Drawn())
    x, grid = normal((1, *size, 2), 0), tuple(-(-n // s) for n, s in zip(size, stride))
    there.build(x.shape)
    back.build((1, *grid, 3))
    tokens, again = run(lambda x: (there(x), back(there(x), like=x)), x)
    assert (tokens.shape, again.shape) == ((1, *grid, 3), x.shape)


@over_implementations
@pytest.mark.parametrize("overlap", ["sum", "mean"])
@pytest.mark.parametrize(
    ("patch", "stride"), [((4, 3), (4, 3)), ((5, 4), (2, 3)), ((2, 3), (3, 4))]
)
def test_a_model_with_open_sizes_returns_the_size_of_its_input(
    patch, stride, overlap, implementation
):
    image = keras.Input((None, None, 3))
    options = {"implementation": implementation, "weight_init": Drawn()}
    there = Patchify(3, 5, 2, patch, stride, padding="same", **options)
    back = Unpatchify.from_patchify(there, overlap=overlap, **options)
    model = keras.Model(image, back(there(image), like=image))
    first, second = ([to_numpy(weight) for weight in layer.weights] for layer in (there, back))
    asked = {"stride": stride, "padding": "same"}
    for size in [(13, 17), (8, 12), (1, 30), (9, 1)]:
        x = normal((2, *size, 3), 0)
        tokens = reference.patchify(x, *first, **asked)
        expected = reference.unpatchify(tokens, *second, size=size, overlap=overlap, **asked)
        y = model.predict(x, verbose=0)
        assert y.shape == x.shape
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-3)


def test_the_values_of_like_are_not_read():
    layer = Unpatchify(3, 2, 2, 4)
    tokens = normal((2, 2, 3, 3), 0)
    like = np.full((1, 9, 14, 1), np.nan, "float32")
    y = run(layer, tokens, like=K.convert_to_tensor(like))
    np.testing.assert_array_equal(y, run(layer, tokens, output_spatial_shape=(9, 14)))
    assert np.isfinite(y).all()
    pixels = K.convert_to_tensor(np.zeros((2, 9, 14, 3), "uint8"))
    np.testing.assert_array_equal(y, run(layer, tokens, like=pixels))


@pytest.mark.tensorflow_backend
@over_implementations
@pytest.mark.parametrize("size", [(9, 12), (24, 16), (15, 24), (16, 28)])
def test_sizes_known_only_at_run_time_are_checked_then(implementation, size):
    """In the graph nothing is known of the sizes; (24, 16) has as many tokens as the grid (4, 6),
    but another grid."""
    import tensorflow as tf

    layer = Unpatchify(3, 2, 2, 4, implementation=implementation)
    layer.build((None, None, None, 3))

    @tf.function(
        input_signature=[tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, None, None, 1))]
    )
    def function(tokens, image):
        return layer(tokens, like=image)

    assert function(tf.ones((2, 4, 6, 3)), tf.ones((2, 18, 24, 1))).shape == (2, 18, 24, 2)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="output_spatial_shape_must_be_patched_into_this_grid"
    ):
        function(tf.ones((2, 4, 6, 3)), tf.ones((2, *size, 1)))


def test_from_patchify_mirrors_the_layer():
    there = Patchify(3, 8, 2, (5, 4), (2, 3), padding="same", dtype="mixed_bfloat16")
    back = Unpatchify.from_patchify(there, overlap="mean", name="back")
    assert (back.in_features, back.out_features, back.data_dim) == (8, 3, 2)
    assert (back.patch_size, back.stride, back.padding) == ((5, 4), (2, 3), "same")
    assert (back.overlap, back.name, back.dtype_policy.name) == ("mean", "back", "mixed_bfloat16")
    assert Unpatchify.from_patchify(there, out_features=1).out_features == 1


def test_from_patchify_carries_over_what_belongs_to_both_directions():
    options = {"padding": 1, "sequence": True, "implementation": "matmul"}
    there = Patchify(3, 8, 2, 4, bias=False, activation="gelu", weight_init="zeros", **options)
    back = Unpatchify.from_patchify(there)
    assert {name: getattr(back, name) for name in options} == {**options, "padding": ((1, 1),) * 2}
    assert not back.use_bias
    assert back.activation is keras.activations.linear
    assert back.weight_init == "default"


def test_the_mirror_of_a_layer_that_tiles_tiles_with_another_patch_too():
    there = Patchify(3, 8, 2, 16)
    assert Unpatchify.from_patchify(there, patch_size=8).stride == (8, 8)
    overlapping = Patchify(3, 8, 2, 16, 4)
    assert Unpatchify.from_patchify(overlapping, patch_size=8).stride == (4, 4)


def test_from_patchify_takes_a_patchify_only():
    layer = keras.layers.Conv2D(3, 4)
    with pytest.raises(
        ValueError, match=r"`patchify` must be a Patchify. Received: " r"patchify=<Conv"
    ):
        Unpatchify.from_patchify(layer)


def test_from_patchify_reads_the_channels_of_a_built_layer():
    there = Patchify(None, 8, 1, 4, weight_init="zeros")
    there.build((None, None, 5))
    assert Unpatchify.from_patchify(there).out_features == 5


def test_the_kernel_of_one_layer_is_a_kernel_of_its_mirror():
    there = Patchify(3, 8, 2, (3, 4), (2, 4), weight_init=Drawn())
    back = Unpatchify.from_patchify(there, bias=False, weight_init="zeros")
    x, t = normal((2, 7, 8, 3), 0), normal((2, 3, 2, 8), 1)
    run(there, x)
    run(back, t)
    back.kernel.assign(there.kernel)
    there.bias.assign(np.zeros(8))
    left = np.vdot(run(there, x), t)
    np.testing.assert_allclose(left, np.vdot(x, run(back, t)), rtol=1e-4)
