"""What people met in the wild, kind by kind: how layers and functions are called by other code."""

import json

import keras
import numpy as np
import pytest
from backend import BACKEND, run, tensor, to_numpy, value_and_gradients

from keras_unpatchify import Patchify, Unpatchify, initializers, load_torch_weights, ops
from keras_unpatchify._lowerings import LOWERINGS

RNG = np.random.default_rng(0)


def numbers(*shape, dtype="float32"):
    return RNG.normal(size=shape).astype(dtype)


def pair(**options):
    """A layer of each kind and an input for it."""
    return [
        (Patchify(3, 8, 2, 4, 2, **options), numbers(2, 8, 10, 3)),
        (Unpatchify(8, 3, 2, 4, 2, **options), numbers(2, 3, 4, 8)),
    ]


@pytest.fixture
def policy():
    """Sets a dtype policy for a test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


# 1. A layer within another dtype policy, and functions of two dtypes.


class Around(keras.layers.Layer):
    """A layer that runs another one's `call`, as `TimeDistributed` does."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return self.inner.call(x)


@pytest.mark.parametrize("index", [0, 1], ids=["patchify", "unpatchify"])
@pytest.mark.parametrize(
    ("outer", "own"),
    [
        ("mixed_bfloat16", "float32"),
        ("mixed_float16", "float32"),
        ("float32", "mixed_bfloat16"),
        ("float32", "mixed_float16"),
    ],
)
def test_a_layer_keeps_its_dtype_within_another(outer, own, index, policy):
    policy(outer)
    layer, x = pair(dtype=own)[index]
    layer.build(x.shape)
    x = to_numpy(keras.ops.cast(x, layer.compute_dtype))  # as the outer layer would round it
    around = Around(layer, dtype="float32")  # which leaves the input as it is
    around.build(x.shape)
    for autocast in (around, Around(layer)):
        rounded = to_numpy(keras.ops.cast(x, autocast.compute_dtype))
        y = autocast(tensor(x))
        assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
        np.testing.assert_array_equal(to_numpy(y), to_numpy(layer(tensor(rounded))))


@pytest.mark.parametrize("to_tokens", [True, False])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("float32", "float16"),
        ("bfloat16", "float32"),
        ("float16", "bfloat16"),
        ("int32", "float16"),
    ],
)
def test_functions_of_two_dtypes_have_the_result_type(one, other, to_tokens):
    x = numbers(2, 6, 3 if to_tokens else 5).astype("int32" if one == "int32" else "float32")
    kernel, function = numbers(4, 3, 5), ops.patchify if to_tokens else ops.unpatchify
    x, kernel = keras.ops.cast(x, one), keras.ops.cast(kernel, other)
    expected = keras.backend.result_type(one, other)
    y = function(x, kernel, stride=2)
    again = function(keras.ops.cast(x, expected), keras.ops.cast(kernel, expected), stride=2)
    assert keras.backend.standardize_dtype(y.dtype) == expected
    np.testing.assert_array_equal(to_numpy(y), to_numpy(again))


# 2. A mean of large numbers in half precision.


@pytest.mark.parametrize("implementation", ["auto", *LOWERINGS])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_mean_is_finite_where_every_patch_is(implementation, padding):
    layer = Unpatchify(
        1,
        1,
        2,
        4,
        2,
        bias=False,
        weight_init=keras.initializers.Ones(),
        overlap="mean",
        padding=padding,
        implementation=implementation,
        dtype="mixed_float16",
    )
    y = run(layer, np.full((1, 3, 4, 1), 30000, "float16"))
    assert y.dtype == "float16"
    np.testing.assert_array_equal(y, 30000)


# 3. Integers.


def test_functions_convert_integers():
    x, kernel = np.full((1, 4, 4, 1), 200, "uint8"), np.full((2, 2, 1, 1), 0.5, "float32")
    np.testing.assert_array_equal(run(ops.patchify, x, kernel), 400)
    np.testing.assert_array_equal(run(ops.unpatchify, x, kernel), 100)


@pytest.mark.parametrize("function", [ops.patchify, ops.unpatchify])
def test_functions_refuse_two_arrays_of_integers(function):
    text = (
        "`x` or `kernel` must have a float dtype, and both must be real. "
        r"Received: x.dtype=uint8, kernel.dtype=int32. Cast one of them."
    )
    with pytest.raises(ValueError, match=text):
        function(tensor(np.ones((1, 4, 1), "uint8")), tensor(np.ones((2, 1, 1), "int32")))


# 4. Not a number.


@pytest.mark.parametrize("implementation", LOWERINGS)
def test_not_a_number_stays_in_its_patch(implementation):
    x, kernel = np.ones((1, 4, 1), "float32"), np.ones((5, 1, 1), "float32")
    x[0, 1] = np.nan
    y = run(ops.unpatchify, x, kernel, stride=3, implementation=implementation)
    assert np.isnan(y[0, :, 0]).nonzero()[0].tolist() == [3, 4, 5, 6, 7]
    x = np.ones((1, 10, 1), "float32")
    x[0, -2:] = np.nan  # of no patch
    y = run(ops.patchify, x, kernel, stride=3, implementation=implementation)
    np.testing.assert_array_equal(y, 5)


# 5. Channels that a graph of TensorFlow does not know.


@pytest.mark.tensorflow_backend
def test_images_of_unknown_shapes_train():
    import tensorflow as tf

    encoded = [tf.io.encode_png(RNG.integers(0, 255, (8, 8, 3), "uint8")) for _ in range(4)]
    images = tf.data.Dataset.from_tensor_slices(encoded).map(tf.io.decode_png).batch(2)
    pairs = images.map(lambda x: (x, x))
    assert pairs.element_spec[0].shape.as_list() == [None] * 4
    model = keras.Sequential([Patchify(3, 16, 2, 4), Unpatchify(16, 3, 2, 4)])
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(pairs, verbose=0).history["loss"]).all()


@pytest.mark.tensorflow_backend
@pytest.mark.parametrize("index", [0, 1], ids=["patchify", "unpatchify"])
def test_a_layer_that_knows_its_channels_needs_no_others(index):
    import tensorflow as tf

    layer, x = pair()[index]
    graph = tf.function(layer, input_signature=[tf.TensorSpec([None] * 4)])
    np.testing.assert_allclose(graph(x), layer(x), rtol=1e-5, atol=1e-5)
    function = ops.patchify if index == 0 else ops.unpatchify
    graph = tf.function(
        lambda x: function(x, layer.kernel, layer.bias, stride=2),
        input_signature=[tf.TensorSpec([None] * 4)],
    )
    np.testing.assert_allclose(graph(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.tensorflow_backend
@pytest.mark.parametrize("index", [0, 1], ids=["patchify", "unpatchify"])
def test_a_ragged_tensor_is_refused(index):
    import tensorflow as tf

    layer, x = pair()[index]
    ragged = tf.RaggedTensor.from_tensor(x)
    with pytest.raises(ValueError, match=r"must be dense. Received: .*Ragged.*to_tensor\(\)"):
        layer(ragged)


# 6. One token channel.


@pytest.mark.trains
@pytest.mark.parametrize("implementation", ["auto", *LOWERINGS])
@pytest.mark.parametrize("data_dim", [1, 2, 3])
@pytest.mark.parametrize("to_tokens", [True, False])
def test_one_token_channel_trains_in_a_batch_of_one(to_tokens, data_dim, implementation):
    function = ops.patchify if to_tokens else ops.unpatchify
    x, kernel = numbers(1, *(6,) * data_dim, 2 if to_tokens else 1), numbers(*(4,) * data_dim, 2, 1)

    def gradients(name):
        def compute(x, kernel):
            return function(x, kernel, stride=2, implementation=name)

        weights = np.ones_like(run(compute, x, kernel))
        return value_and_gradients(compute, [x, kernel], weights)

    if BACKEND == "jax" and data_dim == 3 and implementation == "conv_transpose":
        return  # takes minutes to compile
    expected, found = gradients("matmul"), gradients(implementation)
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# 7. Calls of which jax runs each operation by itself.


@pytest.mark.jax_backend
@pytest.mark.parametrize("bias", [True, "patch"])
@pytest.mark.parametrize("overlap", ["sum", "mean"])
@pytest.mark.parametrize("padding", ["valid", "same", ((1, 2), (2, -1))])
def test_an_eager_call_and_its_gradient_are_those_of_a_compiled_one(padding, overlap, bias):
    import jax

    back = Unpatchify(3, 2, 2, (5, 4), (2, 3), bias, padding=padding, overlap=overlap)
    layer = Patchify(2, 3, 2, (5, 4), (2, 3), padding=padding)

    def loss(kernel, x):
        layer.kernel.assign(kernel)
        tokens = layer.stateless_call([kernel, layer.bias.value], [], x)[0]
        signal = back.stateless_call([kernel, back.bias.value], [], tokens)[0]
        return (signal**2).sum()

    x = numbers(1, 9, 10, 2)
    layer.build(x.shape)
    back.build((1, 4, 4, 3))

    def stateless(kernel, x):
        tokens, _ = layer.stateless_call([kernel, layer.bias.value], [], x)
        signal, _ = back.stateless_call([kernel, back.bias.value], [], tokens)
        return (signal**2).sum()

    gradient = jax.value_and_grad(stateless, (0, 1))
    eager = gradient(layer.kernel.value, x)
    compiled = jax.jit(gradient)(layer.kernel.value, x)
    for a, b in zip(keras.tree.flatten(eager), keras.tree.flatten(compiled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


# 8. Functions on symbolic tensors.


def chain(x, implementation):
    """Both functions and both rearrangements, as a user of functional models writes them."""
    kernel = np.linspace(-1, 1, 4 * 4 * 3 * 8, dtype="float32").reshape(4, 4, 3, 8)
    tokens = ops.patchify(x, kernel, stride=2, padding="same", implementation=implementation)
    return ops.unpatchify(
        tokens, kernel, np.ones(3, "float32"), stride=2, padding="same", overlap="mean",
        implementation=implementation,
    )  # fmt: skip


@pytest.mark.parametrize("implementation", ["auto", *LOWERINGS])
@pytest.mark.parametrize("size", [(8, 10), (None, None)])
def test_functions_are_nodes_of_a_functional_model(size, implementation, tmp_path):
    image = keras.Input((*size, 3))
    model = keras.Model(image, chain(image, implementation))
    assert model.output_shape == (None, *size, 3)
    x = numbers(2, 8, 10, 3)
    expected = to_numpy(chain(tensor(x), implementation))
    np.testing.assert_allclose(to_numpy(model(tensor(x))), expected, rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "model.keras")
    for again in (
        keras.saving.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    ):
        assert again.output_shape == model.output_shape
        np.testing.assert_allclose(to_numpy(again(tensor(x))), expected, rtol=1e-5, atol=1e-5)


def test_rearrangements_are_nodes_of_a_functional_model(tmp_path):
    grid = keras.Input((2, 3, 4))
    sequence = ops.to_sequence(grid)
    assert sequence.shape == (None, 6, 4)
    assert ops.to_sequence(keras.Input((None, 3, 4))).shape == (None, None, 4)
    model = keras.Model(grid, ops.to_grid(sequence, (2, 3)))
    assert model.output_shape == grid.shape
    model.save(tmp_path / "model.keras")
    x = numbers(2, 2, 3, 4)
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(again(tensor(x))), x)


def test_a_functional_model_knows_the_size_that_is_asked_for():
    kernel = np.ones((4, 3, 8), "float32")
    tokens = keras.Input((5, 8))
    assert ops.unpatchify(tokens, kernel, output_spatial_shape=(21,)).shape == (None, 21, 3)
    with pytest.raises(ValueError, match=r"`output_spatial_shape`, or the spatial shape of `like`"):
        ops.unpatchify(tokens, kernel, output_spatial_shape=(24,))
    text = (
        r"In a functional model, `output_spatial_shape` must hold integers. "
        r"Received: output_spatial_shape=\(None,\). Use the layer Unpatchify and its argument"
    )
    with pytest.raises(ValueError, match=text):
        ops.unpatchify(tokens, kernel, output_spatial_shape=(None,))
    with pytest.raises(ValueError, match=r"In a functional model, `grid` must hold integers"):
        ops.to_grid(keras.Input((6, 4)), (None, 3))
    with pytest.raises(ValueError, match=r"The sequence must have 4 tokens"):
        ops.to_grid(keras.Input((6, 4)), (2, 2))


@pytest.mark.parametrize("function", [ops.patchify, ops.unpatchify])
def test_a_functional_model_refuses_a_variable(function):
    kernel = keras.Variable(np.ones((4, 3, 3), "float32"))
    text = (
        r"In a functional model, kernel and bias must be constants: a variable would be neither "
        r"trained nor saved. Received: a variable of shape \(4, 3, 3\). Use the layers Patchify "
        r"and Unpatchify, or call the function in a layer of your own."
    )
    with pytest.raises(ValueError, match=text):
        function(keras.Input((8, 3)), kernel)


@keras.saving.register_keras_serializable("test_wild")
class Tied(keras.layers.Layer):
    """Both functions with one kernel."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, shape[-1], 8), initializer="glorot_uniform")

    def call(self, x):
        return ops.unpatchify(ops.patchify(x, self.kernel), self.kernel)


@pytest.mark.parametrize("size", [8, None])
def test_a_layer_with_tied_weights(size, tmp_path):
    x = keras.Input((size, 3))
    model = keras.Model(x, Tied()(x))
    assert len(model.weights) == 1
    model.save(tmp_path / "model.keras")
    array = tensor(numbers(2, 8, 3))
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(again(array)), to_numpy(model(array)), rtol=1e-6)


# 9. Sizes that come from several inputs.


@pytest.mark.jax_backend
def test_jax_exports_sizes_that_it_cannot_compare():
    import jax
    from jax import export

    down, up = Patchify(3, 4, 2, 4, padding="same"), Unpatchify(4, 3, 2, 4, padding="same")
    half = Patchify(3, 3, 2, 2, padding="same")
    for layer, channels in ((down, 3), (up, 4), (half, 3)):
        layer.build((None, None, None, channels))

    def model(image, other):
        pyramid = half(half(image))
        return up(down(image), like=other), up(down(pyramid), like=pyramid)

    a, b, c, d = export.symbolic_shape("a,b,c,d")
    shapes = [jax.ShapeDtypeStruct((1, *s, 3), "float32") for s in ((a, b), (c, d))]
    exported = export.export(jax.jit(model))(*shapes)
    image, other = numbers(1, 9, 13, 3), numbers(1, 10, 15, 3)
    for y, expected in zip(exported.call(image, other), model(image, other), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.jax_backend
@pytest.mark.parametrize("implementation", LOWERINGS)
def test_jax_exports_the_gradient_of_open_sizes(implementation):
    """A SavedModel has one."""
    import jax
    from jax import export

    options = {"stride": 2, "padding": "same", "implementation": implementation}
    layer = Patchify(3, 4, 2, (4, 3), **options)
    layer.build((None, None, None, 3))
    shape = jax.ShapeDtypeStruct((1, *export.symbolic_shape("a,b"), 3), "float32")
    gradient = export.export(jax.jit(layer))(shape).vjp()
    x = numbers(1, 9, 13, 3)
    y, back = jax.vjp(layer, x)
    np.testing.assert_allclose(gradient.call(x, y)[0], back(y)[0], rtol=1e-4, atol=1e-5)


# 10. Sizes that Keras's own tools pass on as tensors.


@pytest.mark.remat
@pytest.mark.jax_backend
def test_rematerialised_calls_take_like():
    layer, x = pair()[1]
    signal = numbers(2, 9, 10, 3)
    expected = layer(x, like=signal)
    with keras.RematScope(mode="full"):
        layer = layer.from_config(layer.get_config())
        layer.build(x.shape)
        np.testing.assert_array_equal(layer(x, like=signal).shape, expected.shape)
        text = r"Within a `keras.RematScope`, ints arrive as tensors: pass `like` there"
        with pytest.raises(ValueError, match=text):
            layer(x, output_spatial_shape=(9, 10))


# 11. Texts.


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "units": "is called `out_features` here",
        "data_format": "is 'channels_last' here: move the channels with `keras.ops.moveaxis`",
        "dilation_rate": "is 1 here: use a convolution of Keras",
        "groups": "is 1 here: use a convolution of Keras",
        "output_padding": r"is a part of `padding` here: padding=\(\(n, n - output_padding\),",
    }.items(),
)
@pytest.mark.parametrize("layer", [Patchify, Unpatchify])
def test_names_of_other_libraries_are_translated(layer, name, text):
    with pytest.raises(ValueError, match=f"`{name}` .*{text}.*. Received: {name}=1"):
        layer(3, 8, 2, 4, **{name: 1})


def test_the_text_about_padding_shows_both_meanings_of_two_numbers():
    text = r"4 before and 0 after are \(\(4, 0\),\); in 2D, \(4, 0\) is 4 and 4, then 0 and 0"
    with pytest.raises(ValueError, match=text):
        Patchify(3, 8, 1, 8, padding=(4, 0))
    assert Patchify(3, 8, 2, 8, padding=(4, 0)).padding == ((4, 4), (0, 0))


def test_the_output_shape_has_the_name_that_keras_gives_the_input_shape():
    for layer, x in pair():
        expected = layer.compute_output_shape(x.shape)
        assert layer.compute_output_shape(input_shape=x.shape) == expected


def test_the_recipe_of_the_readme_looks_into_wrappers():
    def convert(layer):
        if isinstance(layer, keras.layers.Conv2DTranspose):
            return Unpatchify.from_conv_transpose(layer)
        if isinstance(layer, keras.layers.TimeDistributed):
            return keras.layers.TimeDistributed(convert(layer.layer), name=layer.name)
        return layer.from_config(layer.get_config())

    frames = keras.layers.TimeDistributed(keras.layers.Conv2DTranspose(3, 4, 4))
    old = keras.Sequential([keras.Input((2, 3, 4, 8)), frames])
    new = keras.models.clone_model(old, clone_function=convert, recursive=True)
    new.set_weights(old.get_weights())
    assert isinstance(new.layers[0].layer, Unpatchify)
    if BACKEND != "openvino":  # where the wrapper of Keras does not run
        x = tensor(numbers(1, 2, 3, 4, 8))
        np.testing.assert_allclose(to_numpy(new(x)), to_numpy(old(x)), rtol=1e-4, atol=1e-4)


# 12. Where Keras's convolutions fail.


@pytest.mark.torch_backend
@pytest.mark.parametrize("implementation", ["auto", *LOWERINGS])
@pytest.mark.parametrize("data_dim", [1, 2, 3])
def test_torch_maps_both_functions_over_an_axis(data_dim, implementation):
    import torch

    kernel = tensor(numbers(*(4,) * data_dim, 3, 8))
    for function, channels in ((ops.patchify, 3), (ops.unpatchify, 8)):
        x = tensor(numbers(2, 5, *(6,) * data_dim, channels))

        def compute(x, function=function):
            return function(x, kernel, stride=2, padding="same", implementation=implementation)

        expected = torch.stack([compute(part) for part in x])
        torch.testing.assert_close(torch.vmap(compute)(x), expected, rtol=1e-4, atol=1e-4)


# 13. What is passed as an initializer is what draws.


@pytest.mark.parametrize(
    "make",
    [keras.initializers.TruncatedNormal, initializers.FanInUniform, initializers.TorchUniform],
)
@pytest.mark.parametrize("seeded", [True, False])
def test_two_layers_that_share_an_initializer_draw_differently(make, seeded):
    shared = make(seed=keras.random.SeedGenerator(3)) if seeded else make()
    layers = [Unpatchify(8, 3, 1, 4, weight_init=shared) for _ in range(2)]
    for layer in layers:
        layer.build((None, None, 8))
    one, other = (to_numpy(layer.kernel) for layer in layers)
    assert (one != other).all()


class Scaled(keras.initializers.Initializer):
    """An initializer of a user's, without a config."""

    def __init__(self, value=1.0):
        self.value = value

    def __call__(self, shape, dtype=None):
        return keras.ops.full(shape, self.value, dtype)


def test_an_initializer_without_a_config_keeps_its_arguments():
    layer = Unpatchify(8, 3, 1, 4, weight_init=Scaled(0.5))
    layer.build((None, None, 8))
    np.testing.assert_array_equal(to_numpy(layer.kernel), 0.5)
    conv = keras.layers.Conv1D(8, 4, kernel_initializer=Scaled(0.25))
    assert Patchify.from_conv(conv).weight_init is conv.kernel_initializer


# 15. Sizes as TensorFlow has them.


@pytest.mark.tensorflow_backend
def test_shapes_of_tensorflow_are_sizes():
    import tensorflow as tf

    layer, x = pair()[1]
    shape = tf.TensorShape([9, 10])
    assert layer(x, output_spatial_shape=shape).shape == (2, 9, 10, 3)
    assert ops.unpatchify(x, layer.kernel, stride=2, output_spatial_shape=shape).shape[1] == 9
    other = Unpatchify(8, 3, 2, tf.TensorShape([4, 4]), tf.TensorShape([2, 2]))
    assert (other.patch_size, other.stride) == (layer.patch_size, layer.stride)


def test_a_function_needs_a_size_for_each_axis():
    text = r"turns into the grid \(2,\): \(4 to 5\). Received: output_spatial_shape=\(4, 4\)"
    with pytest.raises(ValueError, match=text):
        ops.unpatchify(numbers(1, 2, 8), numbers(2, 3, 8), output_spatial_shape=(4, 4))


# 16. jax without broadcasting between ranks.


@pytest.mark.jax_backend
@pytest.mark.parametrize("overlap", ["sum", "mean"])
@pytest.mark.parametrize("implementation", ["auto", "matmul", "conv_transpose"])
def test_ranks_are_not_promoted(implementation, overlap):
    import jax

    with jax.numpy_rank_promotion("raise"):
        for bias in (True, "patch"):
            layer = Unpatchify(8, 3, 2, 4, 2, bias, overlap=overlap, implementation=implementation)
            run(layer, numbers(2, 3, 4, 8))
        run(Patchify(3, 8, 2, 4, 2, implementation=implementation), numbers(2, 8, 10, 3))


# 17. A converted layer shares nothing that has weights.


def test_a_converted_layer_has_an_activation_of_its_own():
    conv = keras.layers.Conv2D(
        4, 3, activation=keras.layers.PReLU(), kernel_regularizer="l2", bias_constraint="non_neg"
    )
    x = tensor(numbers(1, 6, 6, 3))
    conv(x)
    conv.activation.set_weights([np.full((4, 4, 4), 0.25)])
    layer = Patchify.from_conv(conv)
    np.testing.assert_allclose(to_numpy(layer(x)), to_numpy(conv(x)), rtol=1e-4, atol=1e-5)
    assert layer.activation is not conv.activation
    assert layer.kernel_regularizer is not conv.kernel_regularizer
    conv.activation.set_weights([np.zeros((4, 4, 4))])
    np.testing.assert_array_equal(to_numpy(layer.activation.weights[0]), 0.25)


# 18. Sources of weights.


def test_a_file_of_float8_says_how_to_load_it(tmp_path):
    weight = np.arange(-12, 12).reshape(2, 3, 4).astype("float8_e4m3fn")
    entry = {"dtype": "F8_E4M3", "shape": [2, 3, 4], "data_offsets": [0, 24]}
    header = json.dumps({"head.weight": entry}).encode()
    path = tmp_path / "float8.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + weight.tobytes())
    layer = Unpatchify(2, 3, 1, 4, bias=False)
    text = r"If it holds numbers that NumPy has no dtype for, such as float8, load it yourself"
    with pytest.raises(ValueError, match=text):
        load_torch_weights(layer, path, prefix="head")
    load_torch_weights(layer, {"head.weight": weight}, prefix="head")
    expected = np.transpose(weight.astype("float32"), (2, 1, 0))
    np.testing.assert_array_equal(to_numpy(layer.kernel), expected)


@pytest.mark.parametrize("entry", ["weight_mask", "weight_u", "parametrizations.weight.original"])
def test_a_weight_that_is_computed_is_named(entry):
    source = {"weight_orig": numbers(2, 3, 4), entry: numbers(2, 3, 4)}
    text = "the weight is computed from others: call `prune.remove`, `remove_spectral_norm` or "
    with pytest.raises(ValueError, match=text):
        load_torch_weights(Unpatchify(2, 3, 1, 4, bias=False), source)


@pytest.mark.torch_backend
def test_modules_without_values_are_named():
    import torch

    layer = Unpatchify(2, 3, 1, 4, bias=False)
    text = "The tensors of `source` must have values. Received: 'weight' on the meta device"
    module = torch.nn.ConvTranspose1d(2, 3, 4, stride=4, bias=False)
    with pytest.raises(ValueError, match=text):
        load_torch_weights(layer, module.to("meta"))
    lazy = torch.nn.LazyConvTranspose1d(3, 4, stride=4, bias=False)
    with pytest.raises(ValueError, match="Received: 'weight' of a lazy module"):
        load_torch_weights(layer, lazy)
    scripted = torch.jit.script(torch.nn.ConvTranspose1d(2, 3, 4, stride=4, bias=False))
    with pytest.raises(ValueError, match=r"Received: a scripted module, .* `state_dict\(\)`"):
        load_torch_weights(layer, scripted)
    load_torch_weights(layer, scripted.state_dict())
