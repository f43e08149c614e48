"""PyTorch's own modules as the second oracle: copied weights, every output size, gradients."""

import numpy as np
import pytest
from backend import BACKEND, TRAINABLE, run, value_and_gradients
from cases import FILLED, TOLERANCE, normal, over_cases, over_implementations
from keras import ops as K

from keras_unpatchify import Unpatchify
from keras_unpatchify.ops import unpatchify

torch = pytest.importorskip("torch", reason="compares with torch.nn")


def channels_first(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def channels_last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def padding_of(case):
    """As much as PyTorch pads at both ends and leaves something of each patch."""
    return tuple((k - 1) // 2 for k in case.patch)


def pairs(padding):
    return "valid" if padding == 0 else tuple((n, n) for n in padding)


over_padding = pytest.mark.parametrize("padding_of", [lambda case: 0, padding_of], ids=["0", "odd"])


def module_of(case, transposed, padding=0):
    name = f"Conv{'Transpose' if transposed else ''}{case.data_dim}d"
    channels = (case.token, case.signal) if transposed else (case.signal, case.token)
    return getattr(torch.nn, name)(*channels, case.patch, case.stride, padding)


def with_weights_of(module, layer):
    """Both modules keep (token, signal, *patch)."""
    layer.build((*(None,) * (layer.data_dim + 1), layer.in_features))
    layer.set_weights([own_axes(module.weight), module.bias.detach().numpy()])
    return layer


def own_axes(weight):
    return np.moveaxis(weight.detach().numpy(), (0, 1), (-1, -2))


@over_cases(FILLED)
@over_padding
@over_implementations
def test_unpatchify_and_its_gradients_are_those_of_conv_transpose(case, padding_of, implementation):
    padding = padding_of(case)
    module, sizes = module_of(case, True, padding), case.sizes(pairs(padding))
    x, weights = channels_first(case.tokens()).requires_grad_(True), [*map(case.signals, sizes)]
    expected = [module(x, output_size=size) for size in sizes]
    sum((y * channels_first(w)).sum() for y, w in zip(expected, weights)).backward()

    def function(x, kernel, bias):
        options = {"stride": case.stride, "implementation": implementation, "padding": padding}
        return [unpatchify(x, kernel, bias, output_spatial_shape=n, **options) for n in sizes]

    arrays = case.tokens(), own_axes(module.weight), module.bias.detach().numpy()
    actual, slopes = value_and_gradients(function, arrays, weights)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, channels_last(e), **TOLERANCE)
    if BACKEND in TRAINABLE:
        theirs = channels_last(x.grad), own_axes(module.weight.grad), module.bias.grad.numpy()
        for a, e in zip(slopes, theirs, strict=True):
            np.testing.assert_allclose(a, e, **TOLERANCE)


@over_cases(FILLED)
@over_padding
@over_implementations
def test_patchify_is_conv(case, padding_of, implementation):
    padding = padding_of(case)
    module = module_of(case, False, padding)
    layer = case.patchify(case.signal, implementation=implementation, padding=padding)
    with_weights_of(module, layer)
    images = [case.signals(size) for size in case.sizes(pairs(padding))]
    actual = run(lambda *images: [layer(image) for image in images], *images)
    for a, image in zip(actual, images, strict=True):
        np.testing.assert_allclose(a, channels_last(module(channels_first(image))), **TOLERANCE)


def test_an_uncovered_position_holds_the_bias():
    module = torch.nn.ConvTranspose1d(3, 2, 2, 4)
    layer = with_weights_of(module, Unpatchify(3, 2, 1, 2, 4))
    y = run(layer, normal((1, 2, 3), 0), output_spatial_shape=(9,))
    bias = K.convert_to_numpy(layer.bias)
    for position in (2, 3, 6, 7, 8):
        np.testing.assert_array_equal(y[0, position], bias)
