"""What compilers and function transformations make of the layers is what they compute eagerly."""

import functools

import keras
import numpy as np
import pytest
import reference
from backend import gradients, to_numpy
from cases import CASES, COMPACT, TOLERANCE, normal, over_cases, over_implementations

from keras_unpatchify import Patchify, Unpatchify
from keras_unpatchify.ops import patchify, unpatchify


def pair(case, implementation):
    """A signal, and a function of it and a kernel that goes to tokens and back with both layers'
    options."""
    image = case.signals(case.sizes("same")[-1])

    def function(x, kernel):
        options = {"stride": case.stride, "padding": "same", "implementation": implementation}
        tokens = patchify(x, kernel, **options)
        size = keras.ops.shape(x)[1:-1]
        return unpatchify(tokens, kernel, output_spatial_shape=size, overlap="mean", **options)

    return function, image, case.kernel()


def expected(case, image, kernel):
    options = {"stride": case.stride, "padding": "same"}
    tokens = reference.patchify(image, kernel, **options)
    return reference.unpatchify(tokens, kernel, size=image.shape[1:-1], overlap="mean", **options)


def expected_gradients(case, image, kernel, weights):
    """By the chain rule, from the oracle's gradients of each layer."""
    options = {"stride": case.stride, "padding": "same"}
    tokens = reference.patchify(image, kernel, **options)
    back = reference.unpatchify_gradients(tokens, kernel, weights, overlap="mean", **options)
    dtokens, dkernel, *_ = back
    dimage, dkernel_too, _ = reference.patchify_gradients(image, kernel, dtokens, **options)
    return dimage, dkernel + dkernel_too


def close(actual, expected):
    """Two layers add up to 100 times 100 products: some units of 1e-7 for each."""
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=1e-3, atol=1e-3)


def model_and_weights(case, implementation):
    """A functional model with open sizes that goes to tokens and back, and its weights."""
    shape = (*(None,) * case.data_dim, case.signal)
    image = keras.Input(shape)
    options = {**case.arguments, "padding": "same", "implementation": implementation}
    tokens = Patchify(case.signal, case.token, **options)(image)
    again = Unpatchify(case.token, case.signal, overlap="mean", bias="patch", **options)(
        tokens, like=image
    )
    model = keras.Model(image, again)
    return model, [v.value for v in model.trainable_variables]


@pytest.mark.jax_backend
class TestJax:
    @over_cases(COMPACT)
    @over_implementations
    def test_jit_and_grad(self, case, implementation):
        import jax

        function, *arrays = pair(case, implementation)
        close(jax.jit(function)(*arrays), expected(case, *arrays))
        weights = normal(arrays[0].shape, 4)
        computed = gradients(jax.jit(function), arrays, weights)
        for a, e in zip(computed, expected_gradients(case, *arrays, weights)):
            close(a, e)

    @over_cases(COMPACT)
    @over_implementations
    def test_vmap_over_signals_and_over_kernels(self, case, implementation):
        import jax

        function, image, kernel = pair(case, implementation)
        kernels = np.stack([kernel, 2 * kernel, -kernel])
        single = jax.vmap(lambda x, k: function(x[None], k)[0], (0, None))
        close(jax.jit(single)(image, kernel), expected(case, image, kernel))
        several = jax.jit(jax.vmap(function, (None, 0)))(image, kernels)
        for y, k in zip(several, kernels):
            close(y, expected(case, image, k))

    @over_cases(COMPACT)
    @over_implementations
    def test_checkpoint_and_both_directions_of_differentiation(self, case, implementation):
        import jax

        function, image, kernel = pair(case, implementation)
        weights = normal(image.shape, 4)

        def total(f, x, k):
            return (weights * f(x, k)).sum()

        plain = jax.jit(jax.grad(functools.partial(total, function), argnums=(0, 1)))(image, kernel)
        again = jax.jit(
            jax.grad(functools.partial(total, jax.checkpoint(function)), argnums=(0, 1))
        )(image, kernel)
        for a, e in zip(again, plain):
            close(a, np.asarray(e))
        tangent = normal(image.shape, 5)
        _, derivative = jax.jit(
            lambda x, t: jax.jvp(lambda x: total(function, x, kernel), (x,), (t,))
        )(image, tangent)
        np.testing.assert_allclose(derivative, np.vdot(plain[0], tangent), rtol=1e-3, atol=1e-2)

    @over_cases(COMPACT)
    @over_implementations
    def test_grad_through_stateless_call_of_a_model(self, case, implementation):
        import jax

        model, weights = model_and_weights(case, implementation)
        image = case.signals(case.sizes("same")[-1])

        def loss(weights, x):
            y, _ = model.stateless_call(weights, [], x)
            return (y**2).sum()

        slopes = jax.jit(jax.grad(loss))(weights, image)
        step = [normal(w.shape, i) for i, w in enumerate(weights)]
        along = sum(float(np.vdot(g, s)) for g, s in zip(slopes, step))
        # The loss is a quadratic of its size in the last weights and of 4th degree in the first:
        # a central difference
        # in float32 with steps of 1e-2 is right to about a hundredth.
        beyond = [loss([w + t * s for w, s in zip(weights, step)], image) for t in (-1e-2, 1e-2)]
        np.testing.assert_allclose((beyond[1] - beyond[0]) / 2e-2, along, rtol=2e-2, atol=1e-1)

    @over_cases(COMPACT)
    @over_implementations
    @pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
    def test_lowering_for_a_platform_that_is_not_here(self, case, implementation, platform):
        import jax
        from jax import export

        function, *arrays = pair(case, implementation)

        def training(x, k):
            return jax.value_and_grad(lambda k: (function(x, k) ** 2).sum())(k)

        exported = export.export(jax.jit(training), platforms=[platform])(*arrays)
        assert exported.platforms == (platform,)
        # where the stride does not divide the patch, a product takes the place of cells
        whole = all(k < s or k % s == 0 for k, s in zip(case.patch, case.stride))
        convolves = implementation == "conv_transpose" or (implementation == "subpixel" and whole)
        assert ("convolution" in exported.mlir_module()) == convolves
        if platform == "cpu":
            value, _ = exported.call(*arrays)
            np.testing.assert_allclose(value, (expected(case, *arrays) ** 2).sum(), rtol=1e-3)

    @over_implementations
    def test_symbolic_sizes(self, implementation):
        import jax
        from jax import export

        case = CASES["2d-tiling"]
        options = {"stride": case.stride, "implementation": implementation}
        batch, height, width = export.symbolic_shape("b, h, w")
        x = jax.ShapeDtypeStruct((batch, height, width, case.token), "float32")
        exported = export.export(jax.jit(functools.partial(unpatchify, **options)))(
            x, jax.ShapeDtypeStruct(case.kernel().shape, "float32")
        )
        for grid in [(2, 3), (4, 1)]:
            tokens, kernel = normal((2, *grid, case.token), 0), case.kernel()
            close(
                exported.call(tokens, kernel),
                reference.unpatchify(tokens, kernel, stride=case.stride),
            )


@pytest.mark.tensorflow_backend
class TestTensorFlow:
    @over_cases(COMPACT)
    @over_implementations
    @pytest.mark.parametrize("xla", [False, True])
    @pytest.mark.parametrize("sizes", ["known", "open"])
    def test_function_and_its_gradients(self, case, implementation, xla, sizes):
        import tensorflow as tf

        function, *arrays = pair(case, implementation)
        image, kernel = map(tf.constant, arrays)
        weights = normal(image.shape, 4)
        shape = image.shape if sizes == "known" else (None, *(None,) * case.data_dim, case.signal)

        @tf.function(
            jit_compile=xla,
            input_signature=[tf.TensorSpec(s, tf.float32) for s in (shape, kernel.shape, shape)],
        )
        def training(x, k, w):
            with tf.GradientTape() as tape:
                tape.watch((x, k))
                y = function(x, k)
                total = tf.reduce_sum(w * y)
            return y, tape.gradient(total, (x, k))

        y, computed = training(image, kernel, tf.constant(weights))
        close(y, expected(case, *arrays))
        for a, e in zip(computed, expected_gradients(case, *arrays, weights)):
            close(a, e)

    @over_implementations
    @pytest.mark.parametrize("xla", [False, True])
    def test_one_graph_for_every_size(self, implementation, xla):
        import tensorflow as tf

        case = CASES["2d-mixed"]
        model, _ = model_and_weights(case, implementation)
        graph = tf.function(
            model, jit_compile=xla, input_signature=[tf.TensorSpec((None, None, None, case.signal))]
        )
        for size in [(7, 8), (9, 5), (1, 1)]:
            x = tf.constant(normal((2, *size, case.signal), 0))
            np.testing.assert_allclose(graph(x), model(x), **TOLERANCE)


@pytest.mark.torch_backend
class TestTorch:
    @pytest.fixture(autouse=True)
    def fresh_compiler(self):
        import torch

        torch._dynamo.reset()

    @over_cases(COMPACT)
    @over_implementations
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiled_whole_forward_and_backward(self, case, implementation, dynamic):
        import torch

        function, *arrays = pair(case, implementation)
        graph = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        image = torch.tensor(arrays[0], requires_grad=True)
        kernel = torch.nn.Parameter(
            torch.tensor(arrays[1])
        )  # parameters keep their sizes; those of images vary
        y = graph(image, kernel)
        close(y, expected(case, *arrays))
        weights = normal(image.shape, 4)
        (torch.tensor(weights) * y).sum().backward()
        for a, e in zip((image.grad, kernel.grad), expected_gradients(case, *arrays, weights)):
            close(a, e)

    @over_implementations
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiled_by_inductor(self, implementation, dynamic):
        import torch

        case = CASES["2d-mixed"]
        function, *arrays = pair(case, implementation)
        image, kernel = (torch.tensor(a, requires_grad=True) for a in arrays)
        y = torch.compile(function, fullgraph=True, dynamic=dynamic)(image, kernel)
        close(y, expected(case, *arrays))
        weights = normal(arrays[0].shape, 4)
        (torch.tensor(weights) * y).sum().backward()
        for a, e in zip((image.grad, kernel.grad), expected_gradients(case, *arrays, weights)):
            close(a, e)

    @over_implementations
    def test_several_sizes(self, implementation):
        import torch

        case = CASES["2d-mixed"]
        function, _, kernel = pair(case, implementation)
        kernel = torch.nn.Parameter(torch.tensor(kernel))
        compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
        for size in [(7, 8), (9, 5), (12, 11)]:
            x = torch.tensor(normal((2, *size, case.signal), 0))
            np.testing.assert_allclose(
                to_numpy(compiled(x, kernel)), to_numpy(function(x, kernel)), **TOLERANCE
            )

    def test_auto_trains_one_token_channel_and_one_example(self):
        """Patches overlap and there are few token channels, where "auto" would take the native
        convolution."""
        import torch

        x, kernel = torch.ones(1, 3, 1), torch.ones(2, 2, 1, requires_grad=True)
        unpatchify(x, kernel, stride=1).sum().backward()
        np.testing.assert_array_equal(to_numpy(kernel.grad), np.full((2, 2, 1), 3))


@pytest.mark.trains
@over_implementations
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("sizes", ["known", "open"])
def test_fit_learns_with_and_without_compilation(implementation, jit, sizes):
    shape = (8, 9, 2) if sizes == "known" else (None, None, 2)
    image = keras.Input(shape)
    options = {"data_dim": 2, "patch_size": (4, 3), "stride": (2, 3), "padding": "same"}
    tokens = Patchify(2, 12, implementation=implementation, **options)(image)
    again = Unpatchify(12, 2, overlap="mean", implementation=implementation, **options)(
        tokens, like=image
    )
    model = keras.Model(image, again)
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=jit)
    x = np.cumsum(normal((8, 8, 9, 2), 0), axis=1)
    history = model.fit(x, x, batch_size=8, epochs=10, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
