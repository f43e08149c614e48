"""Periodic axes: the signal's ends meet."""

import itertools
import json

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, run, tensor, to_numpy, value_and_gradients
from cases import IMPLEMENTATIONS, TOLERANCE, normal

from keras_unpatchify import Patchify, Unpatchify, load_torch_weights, ops

# patch, stride, grid
GEOMETRIES = {
    "1d-tiling": ((4,), (4,), (3,)),
    "1d-overlap": ((3,), (2,), (4,)),
    "1d-whole-signal": ((7,), (2,), (4,)),
    "1d-deep": ((7,), (1,), (7,)),
    "1d-gap": ((3,), (5,), (3,)),
    "1d-one-token": ((4,), (6,), (1,)),
    "2d-overlap": ((4, 5), (2, 3), (3, 2)),
    "3d-mixed": ((2, 3, 1), (1, 2, 3), (3, 2, 2)),
}
over_geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
over_implementations = pytest.mark.parametrize("implementation", ["auto", *IMPLEMENTATIONS])


def places(patch, stride, grid):
    """For each token its index and the positions of its patch."""
    for index in itertools.product(*map(range, grid)):
        starts = [i * s - max(k - s, 0) // 2 for i, k, s in zip(index, patch, stride)]
        axes = zip(starts, patch, stride, grid)
        yield index, np.ix_(*((start + np.arange(k)) % (s * n) for start, k, s, n in axes))


def arrays(geometry):
    patch, stride, grid = geometry
    size = [s * n for s, n in zip(stride, grid)]
    return normal((2, *size, 2), 0), normal((*patch, 2, 3), 1), normal((2, *grid, 3), 2)


@over_geometries
@over_implementations
def test_patchify_sees_the_wrapped_signal(geometry, implementation):
    x, kernel, tokens = arrays(geometry)
    expected = np.zeros(tokens.shape)
    for index, place in places(*geometry):
        patch = np.stack([example[place] for example in x])
        axes = range(1, patch.ndim), range(kernel.ndim - 1)
        expected[(slice(None), *index)] = np.tensordot(patch, kernel, axes)
    options = {"stride": geometry[1], "padding": "circular", "implementation": implementation}
    np.testing.assert_allclose(run(ops.patchify, x, kernel, **options), expected, **TOLERANCE)


@over_geometries
@over_implementations
@pytest.mark.parametrize("overlap", ["sum", "mean"])
@pytest.mark.parametrize("bias", [(), (2,), "patch"])
def test_unpatchify_adds_what_leaves_one_end_at_the_other(geometry, implementation, overlap, bias):
    x, kernel, tokens = arrays(geometry)
    bias = normal(kernel.shape[:-1] if bias == "patch" else bias, 3) if bias else None
    total, count = np.zeros(x.shape), np.zeros((*x.shape[1:-1], 1))
    for index, place in places(*geometry):
        patches = np.einsum("bt,...t->b...", tokens[(slice(None), *index)], kernel)
        if bias is not None and bias.ndim > 1:
            patches = patches + bias
        for example, patch in zip(total, patches):
            np.add.at(example, place, patch)
        np.add.at(count, place, 1)
    expected = total / np.maximum(count, 1) if overlap == "mean" else total
    expected += bias if bias is not None and bias.ndim == 1 else 0
    given = [tokens, kernel] if bias is None else [tokens, kernel, bias]
    y = run(
        ops.unpatchify,
        *given,
        stride=geometry[1],
        padding="circular",
        overlap=overlap,
        implementation=implementation,
    )
    np.testing.assert_allclose(y, expected, **TOLERANCE)


@pytest.mark.trains
@over_geometries
@over_implementations
def test_each_is_the_gradient_of_the_other(geometry, implementation):
    if BACKEND == "jax" and len(geometry[0]) == 3 and implementation == "conv_transpose":
        return  # takes minutes to compile
    x, kernel, tokens = arrays(geometry)
    options = {"stride": geometry[1], "padding": "circular", "implementation": implementation}
    there = run(ops.patchify, x, kernel, **options)
    back = run(ops.unpatchify, tokens, kernel, **options)

    def patchify(x):
        return ops.patchify(x, tensor(kernel), **options)

    def unpatchify(x):
        return ops.unpatchify(x, tensor(kernel), **options)

    np.testing.assert_allclose(
        keras.tree.flatten(value_and_gradients(patchify, [x], tokens))[-1], back, **TOLERANCE
    )
    np.testing.assert_allclose(
        keras.tree.flatten(value_and_gradients(unpatchify, [tokens], x))[-1], there, **TOLERANCE
    )


@over_geometries
def test_rolling_the_signal_rolls_the_tokens(geometry):
    x, kernel, tokens = arrays(geometry)
    options = {"stride": geometry[1], "padding": "circular"}
    axes = tuple(range(1, x.ndim - 1))
    there, back = (
        run(f, a, kernel, **options) for f, a in ((ops.patchify, x), (ops.unpatchify, tokens))
    )
    rolled = run(ops.patchify, np.roll(x, geometry[1], axes), kernel, **options)
    np.testing.assert_allclose(rolled, np.roll(there, 1, axes), **TOLERANCE)
    rolled = run(ops.unpatchify, np.roll(tokens, 1, axes), kernel, **options)
    np.testing.assert_allclose(rolled, np.roll(back, geometry[1], axes), **TOLERANCE)


@over_implementations
@pytest.mark.parametrize("other", ["same", "valid", 1, (1, 2)])
def test_each_axis_has_a_padding_of_its_own(other, implementation):
    x, kernel = normal((2, 9, 8, 2), 0), normal((5, 4, 2, 3), 1)
    options = {"stride": (3, 2), "padding": (other, "circular"), "implementation": implementation}
    wrapped = np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)], mode="wrap")
    pair = (other, other) if isinstance(other, int) else other
    expected = reference.patchify(wrapped, kernel, stride=(3, 2), padding=[pair, "valid"])
    np.testing.assert_allclose(run(ops.patchify, x, kernel, **options), expected, **TOLERANCE)
    tokens = normal(expected.shape, 2)
    back = run(ops.unpatchify, tokens, kernel, output_spatial_shape=x.shape[1:-1], **options)
    np.testing.assert_allclose(np.vdot(expected, tokens), np.vdot(x, back), rtol=1e-4)


# The argument.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("circular", "circular"),
        (["circular", "circular"], "circular"),
        (("same", 2), ("same", (2, 2))),
        (["same", [1, 2]], ("same", (1, 2))),
        (("valid", "circular"), ("valid", "circular")),
        ((1, 2), ((1, 1), (2, 2))),
    ],
)
def test_padding_per_axis(given, expected):
    for layer in (Patchify(3, 8, 2, 4, 2, padding=given), Unpatchify(8, 3, 2, 4, 2, padding=given)):
        assert layer.padding == expected
        config = json.loads(json.dumps(layer.get_config()["padding"]))
        assert (
            type(layer).from_config({**layer.get_config(), "padding": config}).padding == expected
        )


@pytest.mark.parametrize("size", [(9,), (2,)])
def test_the_ends_of_other_sizes_do_not_meet(size):
    text = (
        r"Along a circular axis, the signal must be a multiple of the stride long, and at least a "
        rf"patch. Received: spatial shape=\({size[0]},\), with patch=4 and stride=2. Resample it"
    )
    layer = Patchify(2, 3, 1, 4, 2, padding="circular")
    for shape in ((1, *size, 2), (None, *size, 2)):
        with pytest.raises(ValueError, match=text):
            layer.compute_output_shape(shape)
    with pytest.raises(ValueError, match=text):
        layer(normal((1, *size, 2), 0))


def test_the_size_of_a_circular_signal_is_that_of_its_grid():
    layer = Unpatchify(3, 2, 1, 4, 2, padding="circular")
    tokens = normal((1, 5, 3), 0)
    assert layer(tokens, output_spatial_shape=(10,)).shape == (1, 10, 2)
    with pytest.raises(ValueError, match="Along a circular axis"):
        layer(tokens, output_spatial_shape=(11,))
    with pytest.raises(ValueError, match=r"grid \(5,\): \(10 to 10\). Received: .*=\(12,\)"):
        layer(tokens, output_spatial_shape=(12,))
    with pytest.raises(ValueError, match=r"Along a circular axis.*patch=4"):
        layer(tokens[:, :1])


@pytest.mark.tensorflow_backend
def test_a_size_that_is_known_at_run_time_is_checked_then():
    import tensorflow as tf

    layer = Patchify(2, 3, 1, 4, 2, padding="circular")
    back = Unpatchify(3, 2, 1, 4, 2, padding="circular")
    open_signal = tf.TensorSpec([None, None, 2])
    graph = tf.function(layer, input_signature=[open_signal])
    x = normal((1, 8, 2), 0)
    np.testing.assert_allclose(graph(x), layer(x), **TOLERANCE)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a_circular_axis_must_be_a_multiple"):
        graph(normal((1, 9, 2), 0))
    with pytest.raises(tf.errors.InvalidArgumentError):
        graph(normal((1, 2, 2), 0))
    signature = [tf.TensorSpec([None, None, 3]), open_signal]
    graph = tf.function(lambda tokens, like: back(tokens, like=like), input_signature=signature)
    tokens = normal((1, 4, 3), 1)
    np.testing.assert_allclose(graph(tokens, x), back(tokens), **TOLERANCE)
    for size in (9, 10):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            graph(tokens, normal((1, size, 2), 0))


def test_a_model_of_open_sizes_is_saved(tmp_path):
    image = keras.Input((None, None, 2))
    options = {"data_dim": 2, "patch_size": 4, "stride": 2, "padding": ("same", "circular")}
    tokens = Patchify(2, 3, **options)(image)
    model = keras.Model(image, Unpatchify(3, 2, **options)(tokens, like=image))
    x = tensor(normal((1, 7, 8, 2), 0))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(again(x)), to_numpy(model(x)), **TOLERANCE)
    assert again.layers[1].padding == ("same", "circular")


@pytest.mark.jax_backend
@over_implementations
def test_jax_exports_open_sizes(implementation):
    import jax
    from jax import export

    options = {"data_dim": 2, "patch_size": (4, 3), "stride": 2, "padding": ("same", "circular")}
    options["implementation"] = implementation
    there, back = Patchify(2, 3, **options), Unpatchify(3, 2, **options)
    there.build((None, None, None, 2))
    back.build((None, None, None, 3))
    h, w = export.symbolic_shape("h,w")
    shape = jax.ShapeDtypeStruct((1, h, w, 2), "float32")
    exported = export.export(jax.jit(lambda x: back(there(x), like=x)))(shape)
    x = normal((1, 7, 8, 2), 0)
    np.testing.assert_allclose(exported.call(x), back(there(x), like=x), **TOLERANCE)


# Other libraries.


@pytest.mark.torch_backend
@pytest.mark.parametrize(("patch", "stride"), [(4, 2), (3, 1), (5, 1), (2, 2), (3, 5)])
def test_circular_convolutions_of_pytorch_load(patch, stride):
    import torch

    padding = max(patch - stride, 0) // 2
    module = torch.nn.Conv2d(2, 3, patch, stride, padding=padding, padding_mode="circular")
    layer = Patchify(2, 3, 2, patch, stride, padding="circular")
    load_torch_weights(layer, module)
    x = torch.randn(2, 2 * stride * patch, 3 * stride * patch, 2)
    expected = module(x.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.torch_backend
def test_a_circular_convolution_that_begins_elsewhere_names_the_roll():
    import torch

    module = torch.nn.Conv1d(2, 3, 3, 2, padding=1, padding_mode="circular")
    layer = Patchify(2, 3, 1, 3, 2, padding="circular")
    text = r"its patches begin elsewhere \(load its `state_dict\(\)`, and roll the signal by \(1,\)"
    with pytest.raises(ValueError, match=text):
        load_torch_weights(layer, module)
    load_torch_weights(layer, module.state_dict())
    x = torch.randn(2, 8, 2)
    expected = module(x.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(layer(x.roll((1,), (1,))), expected, rtol=1e-4, atol=1e-4)
    short = torch.nn.Conv1d(2, 3, 4, 1, padding=1, padding_mode="circular")
    layer = Patchify(2, 3, 1, 4, 1, padding="circular")
    with pytest.raises(ValueError, match="with which it drops tokens that the layer has"):
        load_torch_weights(layer, short)
    layer = Patchify(2, 3, 1, 4, 1, padding=1)
    with pytest.raises(ValueError, match="padding_mode='circular' where the layer has 'zeros'"):
        load_torch_weights(layer, short)


def test_a_causal_convolution_of_keras_converts():
    conv = keras.layers.Conv1D(3, 4, strides=2, padding="causal")
    x = tensor(normal((2, 9, 2), 0))
    expected = conv(x)
    layer = Patchify.from_conv(conv)
    assert layer.padding == ((3, 0),)
    np.testing.assert_allclose(to_numpy(layer(x)), to_numpy(expected), **TOLERANCE)
