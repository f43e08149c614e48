"""Each backend's compiler computes what the layers compute eagerly, forward and backward."""

import keras
import numpy as np
import pytest
from backend import compiled, run, tensor
from cases import CASES, COMPACT, TOLERANCE, normal, over_cases, over_implementations
from keras import ops as K

from keras_unpatchify import Patchify, Unpatchify
from keras_unpatchify.ops import unpatchify


def pair(case, implementation):
    there = Patchify(
        case.signal, case.token, **case.arguments, padding="same", implementation=implementation
    )
    return there, Unpatchify.from_patchify(there, overlap="mean", implementation=implementation)


@pytest.mark.trains
@over_cases(["2d-overlap"])
@over_implementations
def test_both_layers_compiled(case, implementation):
    there, back = pair(case, implementation)
    x = case.signals((7, 9))
    tokens = run(there, x)
    expected = run(back, tokens, like=K.convert_to_tensor(x))
    np.testing.assert_allclose(compiled(there)(x), tokens, **TOLERANCE)
    actual = compiled(lambda tokens, x: back(tokens, like=x))(tokens, x)
    np.testing.assert_allclose(actual, expected, **TOLERANCE)


@pytest.mark.tensorflow_backend
@over_cases(COMPACT)
@over_implementations
def test_xla(case, implementation):
    import tensorflow as tf

    layer = Unpatchify(case.token, case.signal, **case.arguments, implementation=implementation)
    for size in (None, *case.sizes("valid")):
        expected = run(layer, case.tokens(), output_spatial_shape=size)
        function = tf.function(
            lambda x, size=size: layer(x, output_spatial_shape=size), jit_compile=True
        )
        np.testing.assert_allclose(function(case.tokens()), expected, **TOLERANCE)


@pytest.mark.tensorflow_backend
@over_cases(COMPACT)
@over_implementations
def test_graphs_of_unknown_sizes(case, implementation):
    import tensorflow as tf

    for padding in ("valid", "same"):
        layer = Unpatchify(
            case.token,
            case.signal,
            **case.arguments,
            implementation=implementation,
            padding=padding,
        )
        expected = run(layer, case.tokens())
        unknown = tf.TensorSpec((None,) * (case.data_dim + 1) + (case.token,))
        np.testing.assert_allclose(
            tf.function(layer, input_signature=[unknown])(case.tokens()), expected, **TOLERANCE
        )


@pytest.mark.torch_backend
@over_implementations
def test_torch_compile_backward(implementation):
    import torch

    case = CASES["2d-mixed"]
    layer = Unpatchify(case.token, case.signal, **case.arguments, implementation=implementation)
    x = tensor(case.tokens()).requires_grad_(True)

    def loss(x):
        return (layer(x) ** 2).sum()

    def gradients(function):
        layer.zero_grad()
        x.grad = None
        function(x).backward()
        return [x.grad.clone(), *(p.grad.clone() for p in layer.parameters())]

    layer(x)
    for a, b in zip(gradients(torch.compile(loss, fullgraph=True)), gradients(loss), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.torch_backend
def test_torch_compiles_for_any_sizes_but_for_these_arguments():
    """PyTorch takes the ints of a closure for variables, and arithmetic on those for a puzzle."""
    import torch

    case, variables = CASES["2d-mixed"], []

    def keep(graph, inputs):
        variables.extend(n for n in inputs if isinstance(n, torch.SymInt))
        return graph

    def function(x):
        return unpatchify(x, kernel, stride=case.stride, padding=((4, 1), (1, 0)))

    kernel = tensor(case.kernel())
    tokens = tensor(normal((5, 7, 8, case.token), 0))
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=keep)
    torch.testing.assert_close(compiled(tokens), function(tokens), rtol=1e-4, atol=1e-4)
    assert len(variables) == len(["batch", "height", "width"])


@pytest.mark.jax_backend
@over_implementations
def test_stateless_calls_differentiate_and_map(implementation):
    import jax

    case = CASES["2d-mixed"]
    layer = Unpatchify(case.token, case.signal, **case.arguments, implementation=implementation)
    layer.build((None, *case.grid, case.token))
    weights = [w.value for w in layer.trainable_variables]
    x = normal((3, 2, *case.grid, case.token), 0)

    def forward(weights, x):
        return layer.stateless_call(weights, [], x)[0]

    expected = np.stack([run(layer, part) for part in x])
    np.testing.assert_allclose(jax.vmap(forward, (None, 0))(weights, x), expected, **TOLERANCE)

    def loss(weights, forward=forward):
        return (forward(weights, x[0]) ** 2).sum()

    plain = jax.grad(loss)(weights)
    for gradient, again in zip(
        plain, jax.grad(lambda w: loss(w, jax.checkpoint(forward)))(weights), strict=True
    ):
        np.testing.assert_allclose(gradient, again, rtol=1e-5, atol=1e-5)


@pytest.mark.jax_backend
@over_implementations
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators_that_this_machine_lacks(platform, implementation):
    import jax
    from jax import export

    there, back = pair(CASES["2d-overlap"], implementation)
    x = CASES["2d-overlap"].signals((7, 9))
    run(back, run(there, x))
    exported = export.export(jax.jit(lambda x: back(there(x), like=x)), platforms=[platform])(x)
    assert exported.platforms == (platform,)
    assert exported.out_avals[0].shape == x.shape


def test_models_predict_what_layers_compute():
    case = CASES["2d-overlap"]
    for implementation in ("conv_transpose", "matmul"):
        there, back = pair(case, implementation)
        inputs = keras.Input((7, 9, case.signal))
        model = keras.Model(inputs, back(there(inputs), like=inputs))
        x = case.signals((7, 9))
        expected = run(back, run(there, x), like=K.convert_to_tensor(x))
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, **TOLERANCE)
