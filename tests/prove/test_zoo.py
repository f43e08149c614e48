"""Heads of published models: a layer with their weights returns what their library does."""

import pathlib

import keras
import numpy as np
import pytest
from backend import run, to_numpy
from cases import normal

from keras_unpatchify import Patchify, Unpatchify, load_torch_weights, ops

torch = pytest.importorskip("torch", reason="the models are PyTorch's")

import zoo  # noqa: E402
from zoo import in_diffusers, in_monai, in_timm, in_transformers  # noqa: E402, F401

# Largest difference over the largest value. Both sides sum up to 4096 products in float32, each in
# its own order. Where there are that many (UNETR, 16 x 16 x 16 voxels), PyTorch's convolution is
# itself 2.3e-6 from the sums in float64, and 2.8e-6 is the largest difference that was seen;
# elsewhere it is at most 1.6e-6.
TOLERANCE = 4e-6

over_heads = pytest.mark.parametrize(
    "head", zoo.HEADS, ids=lambda head: f"{head.library}-{head.model}"
)
PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "heads.md"


@pytest.mark.trains
@over_heads
def test_a_head_returns_what_its_library_does(head):
    pytest.importorskip(head.library, reason=f"the head is of {head.library}")
    y, expected = head.outputs(run)
    assert np.abs(expected).max() > 0
    assert zoo.difference(y, expected) < TOLERANCE


@pytest.mark.trains
@over_heads
def test_the_module_of_a_head_says_the_same_arguments(head):
    pytest.importorskip(head.library, reason=f"the head is of {head.library}")
    model, _, expected = head.example()
    layer, of_names = head.new_layer(expected.shape[-1]), head.new_layer(expected.shape[-1])
    if head.edges == "model":
        with pytest.raises(ValueError, match="padding"):
            load_torch_weights(layer, model, prefix=head.prefix, **head.load)
        return
    load_torch_weights(layer, model, prefix=head.prefix, **head.load)
    load_torch_weights(of_names, model.state_dict(), prefix=head.prefix, **head.load)
    for weight, same in zip(layer.get_weights(), of_names.get_weights()):
        np.testing.assert_array_equal(weight, same)


def test_the_page_shows_every_head():
    lines = PAGE.read_text().partition("<!-- tables -->")[2].splitlines()
    cells = [line.rpartition(" | ") for line in lines if line.startswith("| ") and "`" in line]
    rows = [f"{row} |" for row, _, _ in cells]
    assert rows == [zoo.row(head) for heads in zoo.tables().values() for head in heads]
    assert all(float(difference.strip("| ")) <= TOLERANCE for _, _, difference in cells)


def test_the_page_names_every_model_whose_order_is_not_the_default():
    prose = PAGE.read_text().partition("<!-- tables -->")[0].replace("\n", " ")
    for head in zoo.HEADS:
        assert "patch_order" not in head.load or head.model.partition(",")[0] in prose
    orders = {head.model: head.load.get("patch_order", "channels_last") for head in zoo.HEADS}
    for model in ("AuraFlow", "Lumina-Next", "Kandinsky 5", "Kandinsky 6", "Cosmos"):
        assert orders[f"{model}, in"] != orders[f"{model}, out"]


def test_there_are_heads_of_every_library_and_kind():
    assert len(zoo.HEADS) >= 40
    libraries = {"diffusers", "monai", "segmentation_models_pytorch", "timm", "transformers"}
    assert {head.library for head in zoo.HEADS} == libraries
    names = [(head.library, head.model) for head in zoo.HEADS]
    assert len(set(names)) == len(names)


@pytest.mark.trains
@pytest.mark.parametrize(
    ("old", "new"), [((8, 8), (16, 16)), ((16, 16), (12, 20)), ((14, 14), (7, 7))]
)
@pytest.mark.parametrize("interpolation", ["cubic", "linear"])
def test_an_embedding_is_resampled_as_timm_does(old, new, interpolation):
    patch_embed = pytest.importorskip("timm.layers.patch_embed", reason="the rule is timm's")
    kernel = normal((*old, 3, 8), 0)
    mode = {"cubic": "bicubic", "linear": "bilinear"}[interpolation]
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    expected = patch_embed.resample_patch_embed(weight, list(new), interpolation=mode)
    found = run(
        ops.resample_kernel, kernel, patch_size=new, layer="patchify", interpolation=interpolation
    )
    assert zoo.difference(found, expected.numpy().transpose(2, 3, 1, 0)) < 1e-4


@pytest.mark.trains
def test_a_decoder_of_keras_hub_whose_resizes_are_folded():
    reason = "the model is KerasHub's"
    vae = pytest.importorskip(
        "keras_hub.src.models.vae.vae_layers", reason=reason, exc_type=ImportError
    )
    decoder = vae.VAEDecoder([64, 32, 32], [1, 1, 1])
    decoder.build((None, 8, 12, 4))
    latent = normal((2, 8, 12, 4), 0)
    expected = run(decoder, latent)
    for i in range(0, len(decoder.upsamples), 2):
        resize, convolution = decoder.upsamples[i : i + 2]
        decoder.upsamples[i] = keras.layers.Identity()
        decoder.upsamples[i + 1] = Unpatchify.from_conv(convolution, resize.size)
    y = run(decoder, latent)
    assert y.shape == (2, 32, 48, 3)
    assert zoo.difference(y, expected) < 1e-5  # each step rounds anew


@pytest.mark.trains
def test_a_transformer_of_keras_hub_with_these_layers_in_it():
    reason = "the model is KerasHub's"
    mmdit = pytest.importorskip(
        "keras_hub.src.models.stable_diffusion_3.mmdit", reason=reason, exc_type=ImportError
    )
    shapes = {"context_shape": (3, 8), "pooled_projection_shape": (6,)}
    model = mmdit.MMDiT(2, 16, 2, 2, position_size=8, latent_shape=(8, 12, 4), **shapes)
    for i, weight in enumerate(model.weights):
        weight.assign(0.2 * normal(weight.shape, i))
    convolution, dense = model.patch_embedding.patch_embedding, model.output_dense

    patchify = Patchify(4, 16, data_dim=2, patch_size=2)
    patchify.build((None, 8, 12, 4))
    patchify.set_weights(convolution.get_weights())
    unpatchify = Unpatchify(16, 4, data_dim=2, patch_size=2, bias="patch")
    kernel, bias = dense.get_weights()
    load_torch_weights(unpatchify, {"weight": kernel.T, "bias": bias})

    def layer_of(layer):
        return {"patch_embedding": patchify, "unpatch": unpatchify}.get(layer.name, layer)

    def call(layer, x, *args, **kwargs):
        if layer is patchify:
            return keras.layers.Reshape((4 * 6, 16))(patchify(x))
        if layer is unpatchify:
            return unpatchify(keras.layers.Reshape((4, 6, 16))(x))
        return x if layer is dense else layer(x, *args, **kwargs)

    ours = keras.models.clone_model(model, clone_function=layer_of, call_function=call)
    assert ours.count_params() == model.count_params()
    names = ("latent", "context", "pooled_projection", "timestep")
    shapes = ((2, 8, 12, 4), (2, 3, 8), (2, 6), (2, 1))
    inputs = {name: normal(shape, 0) for name, shape in zip(names, shapes)}
    y, expected = to_numpy(ours(inputs)), to_numpy(model(inputs))
    assert y.shape == (2, 8, 12, 4)
    assert zoo.difference(y, expected) < TOLERANCE
