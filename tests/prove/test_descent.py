"""Fifty steps of gradient descent follow the curve that the oracle's gradients draw, by every
lowering."""

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND
from cases import CASES, COMPACT, normal, over_cases, over_implementations

from keras_unpatchify import Patchify, Unpatchify

STEPS, RATE = 50, 0.02

# Rounding by 6e-8 at each step, of a descent whose steps contract: no error grows.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def kernel_of(case):
    return 0.1 * case.kernel()


def descend(x, kernel, bias, y, forward, gradients):
    """Losses and weights of gradient descent on the mean squared error, in loops over patches and
    float64."""
    losses = []
    for _ in range(STEPS):
        error = forward(x, kernel, bias) - y
        losses.append(np.mean(error**2))
        _, dkernel, dbias = gradients(x, kernel, 2 * error / error.size)
        kernel, bias = kernel - RATE * dkernel, bias - RATE * dbias
    return losses, kernel, bias


def fit(layer, x, kernel, y, jit):
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    layer.set_weights([kernel, np.zeros(layer.bias.shape)])
    model.compile(keras.optimizers.SGD(RATE), "mse", jit_compile=jit)
    history = model.fit(x, y, batch_size=len(x), epochs=STEPS, shuffle=False, verbose=0)
    return history.history["loss"], *layer.get_weights()


def assert_same_descent(actual, expected):
    assert expected[0][-1] < expected[0][0]
    for a, e in zip(actual, expected):
        np.testing.assert_allclose(a, e, **TOLERANCE)


@pytest.mark.trains
@over_cases(COMPACT)
@over_implementations
def test_unpatchify_descends_as_the_oracle_does(case, implementation):
    layer = Unpatchify(case.token, case.signal, implementation=implementation, **case.arguments)
    x, kernel, y = case.tokens(), kernel_of(case), case.signals(case.default_size("valid"))

    def forward(x, kernel, bias):
        return reference.unpatchify(x, kernel, bias, stride=case.stride)

    def gradients(x, kernel, weights):
        return reference.unpatchify_gradients(x, kernel, weights, stride=case.stride)[:3]

    expected = descend(x, kernel, np.zeros(case.signal), y, forward, gradients)
    assert_same_descent(fit(layer, x, kernel, y, jit=BACKEND == "jax"), expected)


@pytest.mark.trains
@over_cases(COMPACT)
@over_implementations
def test_patchify_descends_as_the_oracle_does(case, implementation):
    layer = Patchify(case.signal, case.token, implementation=implementation, **case.arguments)
    x, kernel, y = case.signals(case.default_size("valid")), kernel_of(case), case.tokens()

    def forward(x, kernel, bias):
        return reference.patchify(x, kernel, bias, stride=case.stride)

    def gradients(x, kernel, weights):
        return reference.patchify_gradients(x, kernel, weights, stride=case.stride)

    expected = descend(x, kernel, np.zeros(case.token), y, forward, gradients)
    assert_same_descent(fit(layer, x, kernel, y, jit=BACKEND == "jax"), expected)


@pytest.mark.trains
@over_implementations
def test_a_frozen_layer_stays_and_a_regularised_one_shrinks(implementation):
    case = CASES["2d-tiling"]
    x, y = case.tokens(), case.signals(case.default_size("valid"))
    options = {"implementation": implementation, **case.arguments}
    frozen = Unpatchify(case.token, case.signal, trainable=False, **options)
    losses, kernel, _ = fit(frozen, x, kernel_of(case), y, jit=False)
    np.testing.assert_array_equal(kernel, kernel_of(case))
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)
    shrunk = Unpatchify(
        case.token, case.signal, kernel_regularizer=keras.regularizers.L2(1.0), **options
    )
    _, kernel, _ = fit(shrunk, x, kernel_of(case), np.zeros_like(normal(y.shape, 0)), jit=False)
    assert np.abs(kernel).max() < 0.2 * np.abs(kernel_of(case)).max()
