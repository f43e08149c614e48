"""Single patches: out of a signal, into a signal, and of tokens that are placed nowhere."""

import keras
import numpy as np
import pytest
import reference
from backend import run, tensor, to_numpy
from cases import CASES, TOLERANCE, normal, over_cases

from keras_unpatchify import Patchify, Unpatchify, ops

NAMES = ("1d-overlap", "1d-gap", "2d-tiling", "2d-mixed", "3d-overlap")
over_paddings = pytest.mark.parametrize("padding", ["valid", "same", "pairs", "circular"])


def signal_of(case, padding):
    """A signal with positions to spare, if it may have some."""
    patch, stride, grid = case.patch, case.stride, case.grid
    if padding == "circular":
        size = [s * max(g, -(-k // s)) for k, s, g in zip(patch, stride, grid)]
    else:
        size = case.sizes(case.padding(padding))[-1]
    return case.signals(size)


@over_cases(NAMES)
@over_paddings
def test_patches_are_what_patchify_sees(case, padding):
    x, kernel, padding = signal_of(case, padding), case.kernel(), case.padding(padding)
    patches = run(ops.patches, x, patch_size=case.patch, stride=case.stride, padding=padding)
    axes = range(1 + case.data_dim, patches.ndim), range(kernel.ndim - 1)
    tokens = run(ops.patchify, x, kernel, stride=case.stride, padding=padding)
    np.testing.assert_allclose(np.tensordot(patches, kernel, axes), tokens, **TOLERANCE)


@over_cases(NAMES)
@over_paddings
def test_from_patches_is_the_adjoint_and_with_the_mean_the_inverse(case, padding):
    x, padding = signal_of(case, padding), case.padding(padding)
    size, options = x.shape[1:-1], {"stride": case.stride, "padding": padding}
    patches = run(ops.patches, x, patch_size=case.patch, **options)
    others = normal(patches.shape, 3)
    options["output_spatial_shape"] = size
    total = run(ops.from_patches, others, **options)
    np.testing.assert_allclose(np.vdot(patches, others), np.vdot(x, total), rtol=1e-4, atol=1e-3)
    covered = run(ops.from_patches, np.ones_like(patches), **options) > 0
    mean = run(ops.from_patches, patches, overlap="mean", **options)
    np.testing.assert_allclose(mean, np.where(covered, x, 0), **TOLERANCE)


def test_patches_keep_their_dtype_and_integers_become_floats():
    image = np.arange(2 * 6 * 6).reshape(1, 6, 6, 2).astype("uint8")
    patches = run(ops.patches, image, patch_size=4, stride=2)
    assert patches.dtype == "uint8"
    assert patches.shape == (1, 2, 2, 4, 4, 2)
    np.testing.assert_array_equal(patches[0, 1, 0], image[0, 2:6, :4])
    mean = run(ops.from_patches, patches, stride=2, overlap="mean")
    assert mean.dtype == "float32"
    np.testing.assert_array_equal(mean, image)
    mask = run(ops.from_patches, np.ones((1, 2, 2, 4, 4, 1), "bool"))
    np.testing.assert_array_equal(mask, np.ones((1, 8, 8, 1)))


@pytest.mark.parametrize("size", [(8, 9), (None, None)])
def test_both_are_nodes_of_a_functional_model(size, tmp_path):
    image = keras.Input((*size, 2))
    patches = ops.patches(image, 4, 2, "same")
    assert patches.shape == (None, *(n and -(-n // 2) for n in size), 4, 4, 2)
    model = keras.Model(image, ops.from_patches(patches, 2, "same", overlap="mean"))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert [node.name for node in again.operations] == [node.name for node in model.operations]
    x = normal((1, 8, 10, 2), 0) if size[0] is None else normal((1, 8, 9, 2), 0)
    y = to_numpy(again(tensor(x)))
    np.testing.assert_allclose(y[:, :8, : x.shape[2]], x, **TOLERANCE)


def test_a_functional_model_knows_the_size_of_patches():
    patches = keras.Input((2, 3, 4, 4, 1))
    assert ops.from_patches(patches, 3, output_spatial_shape=(8, 12)).shape == (None, 8, 12, 1)
    with pytest.raises(ValueError, match="must be a size that `Patchify` turns into the grid"):
        ops.from_patches(patches, 3, output_spatial_shape=(8, 14))
    text = "In a functional model, `output_spatial_shape` must hold integers"
    with pytest.raises(ValueError, match=text):
        ops.from_patches(patches, 3, output_spatial_shape=(8, None))


def test_shapes_that_hold_no_patches_are_refused():
    with pytest.raises(ValueError, match=r"The signal must be at least \(4, 4\) long"):
        ops.patches(np.ones((1, 8, 3, 1), "float32"), 4)
    with pytest.raises(ValueError, match=r"The input must have 5 axes"):
        ops.patches(np.ones((1, 2, 2, 2, 2, 3), "float32"), 2)
    with pytest.raises(ValueError, match=r"The input must have 3 axes"):
        ops.patches(np.ones((2, 3), "float32"), 2)
    text = r"`x` must have the shape \(batch, \*grid, \*patch, signal channels\).*\(1, 2, 2, 2, 1\)"
    with pytest.raises(ValueError, match=text):
        ops.from_patches(np.ones((1, 2, 2, 2, 1), "float32"))
    with pytest.raises(ValueError, match="`overlap` must be one of 'sum', 'mean'"):
        ops.from_patches(np.ones((1, 2, 2, 1), "float32"), overlap="max")


# Unpatchify.patches


@over_cases(NAMES)
@pytest.mark.parametrize("bias", [True, "patch"])
@pytest.mark.parametrize("padding", ["valid", "circular"])
@pytest.mark.parametrize("overlap", ["sum", "mean"])
def test_the_patch_of_a_token_is_what_the_layer_returns_for_it_alone(case, bias, padding, overlap):
    options = {"bias": bias, "activation": "tanh", "overlap": overlap}
    layer = case.unpatchify(case.token, padding=padding, **options)
    alone = case.unpatchify(case.token, padding="valid", **options)
    for each in (layer, alone):
        each.build((None, *(None,) * case.data_dim, case.token))
    alone.set_weights([normal(w.shape, 5) for w in alone.get_weights()])
    layer.set_weights(alone.get_weights())
    tokens = normal((2, 3, case.token), 0)
    patches = to_numpy(layer.patches(tensor(tokens)))
    assert patches.shape == (2, 3, *case.patch, case.signal)
    one_by_one = tokens.reshape(6, *(1,) * case.data_dim, case.token)
    expected = run(alone, one_by_one).reshape(patches.shape)
    np.testing.assert_allclose(patches, expected, **TOLERANCE)
    single = to_numpy(layer.patches(tensor(tokens[0, 0])))
    np.testing.assert_allclose(single, expected[0, 0], **TOLERANCE)


def test_patches_are_for_calls_of_ones_own():
    layer = Unpatchify(3, 2, 1, 4)
    text = r"`patches` is for the `call` of a layer or model of your own, and for a layer that is"
    with pytest.raises(ValueError, match=text + r" built. Received: .*, built=False"):
        layer.patches(np.ones((1, 3), "float32"))
    layer.build((None, None, 3))
    with pytest.raises(ValueError, match=text):
        layer.patches(keras.Input((5, 3)))
    with pytest.raises(ValueError, match="must have 3 channels on its last axis"):
        layer.patches(np.ones((1, 4), "float32"))


@pytest.mark.trains
def test_a_loss_on_hidden_patches():
    class Masked(keras.Model):
        """Learns the patches whose tokens it does not see."""

        def __init__(self):
            super().__init__()
            self.there, self.back = Patchify(2, 8, 1, 4), Unpatchify(8, 2, 1, 4)
            self.back.build((None, None, 8))

        def call(self, x):
            tokens = self.there(x)
            hidden = self.back.patches(tokens[:, ::2])
            target = ops.patches(x, 4)[:, ::2]
            self.add_loss(keras.ops.mean(keras.ops.square(hidden - target)))
            return hidden

    model = Masked()
    model.compile("sgd")
    x = normal((4, 16, 2), 0)
    losses = model.fit(x, batch_size=4, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_the_oracle_agrees():
    """`patches` beside loops that share no code with it."""
    case = CASES["2d-mixed"]
    x = case.signals(case.size)
    eye = np.eye(np.prod(case.patch) * 2).reshape(*case.patch, 2, -1)
    expected = reference.patchify(x, eye, stride=case.stride)
    patches = run(ops.patches, x, patch_size=case.patch, stride=case.stride)
    np.testing.assert_array_equal(patches.reshape(expected.shape), expected.astype("float32"))
