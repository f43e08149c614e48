"""PyTorch's own modules as the second oracle: copied weights, every output size, gradients."""

import numpy as np
import pytest
from backend import gradients, run
from cases import FILLED, TOLERANCE, normal, over_cases, over_implementations
from keras import ops as K

from keras_unpatchify import Patchify, Unpatchify
from keras_unpatchify.ops import unpatchify

torch = pytest.importorskip("torch", reason="compares with torch.nn")


def channels_first(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def channels_last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def padding_of(case):
    """As much as PyTorch pads at both ends and leaves something of each patch."""
    return tuple((k - 1) // 2 for k in case.patch)


over_padding = pytest.mark.parametrize("padded", [False, True], ids=["valid", "padded"])


def module_of(case, transposed, padding=0):
    name = f"Conv{'Transpose' if transposed else ''}{case.data_dim}d"
    channels = (case.token, case.signal) if transposed else (case.signal, case.token)
    return getattr(torch.nn, name)(*channels, case.patch, case.stride, padding)


def with_weights_of(module, layer):
    """Both modules keep (token, signal, *patch)."""
    layer.build((*(None,) * (layer.data_dim + 1), layer.in_features))
    weight = np.moveaxis(module.weight.detach().numpy(), (0, 1), (-1, -2))
    layer.set_weights([weight, module.bias.detach().numpy()])
    return layer


@over_cases(FILLED)
@over_padding
@over_implementations
def test_unpatchify_is_conv_transpose(case, padded, implementation):
    padding = padding_of(case) if padded else 0
    module = module_of(case, True, padding)
    options = {**case.arguments, "padding": padding, "implementation": implementation}
    layer = with_weights_of(module, Unpatchify(case.token, case.signal, **options))
    x = case.tokens()
    for size in case.sizes(layer.padding):
        expected = channels_last(module(channels_first(x), output_size=size))
        actual = run(layer, x, output_spatial_shape=size)
        np.testing.assert_allclose(actual, expected, **TOLERANCE)


@over_cases(FILLED)
@over_padding
@over_implementations
def test_patchify_is_conv(case, padded, implementation):
    padding = padding_of(case) if padded else 0
    module = module_of(case, False, padding)
    options = {**case.arguments, "padding": padding, "implementation": implementation}
    layer = with_weights_of(module, Patchify(case.signal, case.token, **options))
    for size in case.sizes(layer.padding):
        expected = channels_last(module(channels_first(case.signals(size))))
        np.testing.assert_allclose(run(layer, case.signals(size)), expected, **TOLERANCE)


@pytest.mark.trains
@over_cases(FILLED)
@over_implementations
def test_gradients_are_those_of_conv_transpose(case, implementation):
    module = module_of(case, transposed=True)
    size = case.sizes("valid")[-1]
    weights = case.signals(size)
    x = channels_first(case.tokens()).requires_grad_(True)
    (module(x, output_size=size) * channels_first(weights)).sum().backward()
    kernel = np.moveaxis(module.weight.detach().numpy(), (0, 1), (-1, -2))

    def function(x, kernel):
        return unpatchify(
            x, kernel, stride=case.stride, output_spatial_shape=size, implementation=implementation
        )

    dx, dkernel = gradients(function, [case.tokens(), kernel], weights)
    np.testing.assert_allclose(dx, channels_last(x.grad), **TOLERANCE)
    expected = np.moveaxis(module.weight.grad.numpy(), (0, 1), (-1, -2))
    np.testing.assert_allclose(dkernel, expected, **TOLERANCE)


def test_an_uncovered_position_holds_the_bias():
    module = torch.nn.ConvTranspose1d(3, 2, 2, 4)
    layer = with_weights_of(module, Unpatchify(3, 2, 1, 2, 4))
    y = run(layer, normal((1, 2, 3), 0), output_spatial_shape=(9,))
    bias = K.convert_to_numpy(layer.bias)
    for position in (2, 3, 6, 7, 8):
        np.testing.assert_array_equal(y[0, position], bias)
