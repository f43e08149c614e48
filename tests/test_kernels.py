"""Trained kernels for other patches: resampled, and folded with a resize."""

import keras
import numpy as np
import pytest
from backend import BACKEND, run, tensor, to_numpy, value_and_gradients
from cases import TOLERANCE, normal

from keras_unpatchify import Patchify, Unpatchify, ops

SIZES = [(4, 8), (8, 4), (5, 7), (7, 3), (6, 6), (1, 4)]
over_interpolations = pytest.mark.parametrize("interpolation", ["cubic", "linear"])


def trained(layer, channels):
    """The layer with weights that are not initial ones."""
    axes = 1 if layer.sequence and isinstance(layer, Unpatchify) else layer.data_dim
    layer.build((*(None,) * (1 + axes), channels))
    layer.set_weights([normal(w.shape, i) for i, w in enumerate(layer.get_weights())])
    return layer


def resized(x, size, interpolation):
    """A 1D signal `(size,)` by PyTorch, which knows antialiasing in 2D only."""
    import torch

    image = torch.from_numpy(x)[None, None, :, None].expand(1, 1, len(x), 2)
    mode = {"cubic": "bicubic", "linear": "bilinear"}[interpolation]
    y = torch.nn.functional.interpolate(image, (size, 2), mode=mode, antialias=True)
    return y[0, 0, :, 0].numpy()


@pytest.mark.torch_backend
@pytest.mark.parametrize(("old", "new"), SIZES)
@over_interpolations
def test_the_patches_of_a_head_are_resized(old, new, interpolation):
    kernel = normal((old, 2, 3), 0)
    found = run(
        ops.resample_kernel, kernel, patch_size=new, layer="unpatchify", interpolation=interpolation
    )
    for signal in range(2):
        for token in range(3):
            expected = resized(kernel[:, signal, token], new, interpolation)
            np.testing.assert_allclose(found[:, signal, token], expected, **TOLERANCE)


@pytest.mark.torch_backend
@pytest.mark.parametrize(("old", "new"), [(4, 8), (5, 7), (1, 4)])
@over_interpolations
def test_a_resized_patch_that_grew_gives_the_same_token(old, new, interpolation):
    kernel, patch = normal((old, 2, 3), 0), normal((old, 2), 1)
    found = run(
        ops.resample_kernel, kernel, patch_size=new, layer="patchify", interpolation=interpolation
    )
    larger = np.stack([resized(patch[:, i], new, interpolation) for i in range(2)], axis=-1)
    expected = np.einsum("ps,pst->t", patch, kernel)
    np.testing.assert_allclose(np.einsum("ps,pst->t", larger, found), expected, **TOLERANCE)


@over_interpolations
@pytest.mark.parametrize("layer", ["patchify", "unpatchify"])
def test_axes_are_resampled_one_by_one(layer, interpolation):
    kernel = normal((4, 3, 2, 2, 3), 0)
    options = {"layer": layer, "interpolation": interpolation}
    found = run(ops.resample_kernel, kernel, patch_size=(6, 3, 5), **options)
    by_axis = kernel
    for axis, size in ((2, 5), (0, 6)):
        line = np.moveaxis(by_axis, axis, 0)
        flat = line.reshape(line.shape[0], -1, 1)
        flat = run(ops.resample_kernel, flat, patch_size=size, **options)
        by_axis = np.moveaxis(flat.reshape(size, *line.shape[1:]), 0, axis)
    np.testing.assert_allclose(found, by_axis, **TOLERANCE)


def test_a_constant_patch_stays_constant():
    """The embedding's rule on a head would scale it by a quarter."""
    kernel = np.ones((8, 8, 1, 1), "float32")
    head = run(ops.resample_kernel, kernel, patch_size=16, layer="unpatchify")
    np.testing.assert_allclose(head, 1, atol=1e-5)
    embedding = run(ops.resample_kernel, kernel, patch_size=16, layer="patchify")
    np.testing.assert_allclose(embedding.mean(), 0.25, atol=1e-5)


@pytest.mark.trains
def test_training_reaches_the_kernel():
    kernel, weights = normal((4, 2, 3), 0), normal((7, 2, 3), 1)

    def resample(kernel):
        return ops.resample_kernel(kernel, 7, "unpatchify")

    gradient = keras.tree.flatten(value_and_gradients(resample, [kernel], weights))[-1]
    # linear: <B k, w> = <k, B^T w>
    expected = np.vdot(run(resample, kernel), weights)
    np.testing.assert_allclose(np.vdot(kernel, gradient), expected, rtol=1e-4)


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("padding", ["same", "valid", ((2, 0), (0, 2))])
def test_a_resampled_layer_is_a_layer_of_its_own(padding, sequence):
    options = {"padding": padding, "sequence": sequence, "name": "layer"}
    there = trained(Patchify(3, 5, 2, 4, 2, **options), 3)
    back = trained(Unpatchify(5, 3, 2, 4, 2, bias="patch", **options), 5)
    for layer, function in ((there, "patchify"), (back, "unpatchify")):
        before = layer.get_weights()
        other = layer.resampled(8)
        assert (other.built, other.name, type(other)) == (True, "layer", type(layer))
        assert (other.patch_size, other.stride) == ((8, 8), (4, 4))
        doubled = ((4, 0), (0, 4)) if isinstance(padding, tuple) else padding
        assert other.padding == doubled
        kernel = run(ops.resample_kernel, before[0], patch_size=8, layer=function)
        np.testing.assert_allclose(to_numpy(other.kernel), kernel, **TOLERANCE)
        for old, new in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(new, old)
        again = layer.resampled(4)
        for old, new in zip(before, again.get_weights(), strict=True):
            np.testing.assert_array_equal(new, old)


def test_the_bias_of_a_patch_is_resized_with_it():
    layer = trained(Unpatchify(5, 3, 1, 4, bias="patch"), 5)
    layer.bias.assign(np.ones((4, 3), "float32"))
    np.testing.assert_allclose(to_numpy(layer.resampled(7).bias), np.ones((7, 3)), atol=1e-5)
    assert trained(Unpatchify(5, 3, 1, 4, bias=False), 5).resampled(7).bias is None


def test_what_cannot_be_resampled_says_what_to_pass():
    with pytest.raises(ValueError, match=r"must be built to be resampled. Received: built=False"):
        Unpatchify(5, 3, 1, 4).resampled(8)
    layer = trained(Unpatchify(5, 3, 1, 4, 2, padding=1), 5)
    with pytest.raises(ValueError, match=r"`stride` must be a whole .*stride=2 of patches of 4"):
        layer.resampled(5)
    with pytest.raises(ValueError, match=r"`padding` must be a whole .* Pass `padding`."):
        layer.resampled(6)
    assert layer.resampled(6, padding="same").padding == "same"
    assert layer.resampled(5, stride=3, padding=2).stride == (3,)
    with pytest.raises(ValueError, match="`interpolation` must be one of 'cubic', 'linear'"):
        layer.resampled(8, interpolation="nearest")
    with pytest.raises(ValueError, match="`patch_size` must be a positive integer"):
        layer.resampled((8, 8))
    kernel = np.ones((4, 3, 2), "float32")
    with pytest.raises(ValueError, match="`layer` must be one of 'patchify', 'unpatchify'"):
        ops.resample_kernel(kernel, 8, "conv")
    with pytest.raises(ValueError, match="The kernel must have the shape"):
        ops.resample_kernel(kernel[0], 8, "patchify")


# A resize and a convolution in one.

L = keras.layers
UPSAMPLING = {1: L.UpSampling1D, 2: L.UpSampling2D, 3: L.UpSampling3D}
CONVOLUTION = {1: L.Conv1D, 2: L.Conv2D, 3: L.Conv3D}


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        ((3,), (2,)),
        ((4,), (3,)),
        ((1,), (4,)),
        ((3, 5), (2, 4)),
        ((2, 3), (1, 2)),
        ((3, 2, 1), (2, 1, 3)),
    ],
)
def test_a_resize_and_a_convolution_are_one_layer(kernel, size, padding):
    d = len(kernel)
    if BACKEND == "openvino" and d == 3:
        pytest.skip("Keras has no UpSampling3D there")
    conv = CONVOLUTION[d](4, kernel, padding=padding, activation="tanh", name="up")
    resize = UPSAMPLING[d](size[0] if d == 1 else size)
    x = tensor(normal((2, *(5, 4, 3)[:d], 3), 0))
    expected = to_numpy(conv(resize(x)))
    conv.bias.assign(normal((4,), 1))
    expected = to_numpy(conv(resize(x)))
    layer = Unpatchify.from_conv(conv, size)
    assert (layer.name, layer.stride) == ("up", size)
    np.testing.assert_allclose(to_numpy(layer(x)), expected, **TOLERANCE)


def test_convolutions_that_do_not_fold_are_refused():
    def built(layer):
        layer.build((None, 8, 8, 4))
        return layer

    with pytest.raises(ValueError, match=r"built=True. Received: built=False, .* call it, first"):
        Unpatchify.from_conv(L.Conv2D(4, 3), 2)
    for conv, text in (
        (built(L.Conv2D(4, 3, strides=2)), r"strides=\(1, 1\). Received: strides=\(2, 2\)"),
        (built(L.Conv2D(4, 3, dilation_rate=2)), r"dilation_rate=\(1, 1\). Received"),
        (
            built(L.Conv2D(4, 3, data_format="channels_first")),
            "data_format='channels_last'. Received: data_format='channels_first'",
        ),
        (built(L.Conv2D(4, 3, groups=2)), "groups=1. Received: groups=2"),
        (built(L.Conv2D(4, 3, kernel_regularizer="l2")), "kernel_regularizer=None. Received:"),
        (built(L.Conv2D(4, 3, kernel_constraint="non_neg")), "kernel_constraint=None. Received:"),
        (L.Dense(4), "`layer` must be one of Keras's Conv1D, Conv2D, Conv3D"),
    ):
        with pytest.raises(ValueError, match=text):
            Unpatchify.from_conv(conv, 2)
    with pytest.raises(ValueError, match="`size` must be a positive integer, or 2 of them"):
        Unpatchify.from_conv(built(L.Conv2D(4, 3)), (2, 2, 2))
