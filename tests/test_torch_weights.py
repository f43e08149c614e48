"""Weights of PyTorch modules: a loaded layer gives the module's outputs.

The oracles are PyTorch's own modules, and heads in the manner of published models, their
rearrangements written here.
"""

import itertools

import keras
import numpy as np
import pytest
from backend import run, to_numpy
from cases import normal
from einops import rearrange
from torch_cases import (
    SMALL,
    TILING,
    TOLERANCE,
    Case,
    bits,
    channels_first,
    channels_last,
    checkpoint,
    over_cases,
    refusal,
)

from keras_unpatchify import Patchify, Unpatchify, load_torch_weights, to_torch_weights


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the oracle is a PyTorch module")


@over_cases
def test_a_transposed_convolution_gives_the_same_signal(torch, case):
    module = getattr(torch.nn, f"ConvTranspose{case.data_dim}d")
    module = module(case.token, case.signal, case.patch, case.stride, bias=case.bias)
    layer = case.unpatchify(bias=case.bias)
    load_torch_weights(layer, module.state_dict())
    tokens = normal((2, *case.grid, case.token), 0)
    expected = channels_last(module(channels_first(torch, tokens)))
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


@over_cases
def test_a_convolution_gives_the_same_tokens(torch, case):
    module = getattr(torch.nn, f"Conv{case.data_dim}d")(
        case.signal, case.token, case.patch, case.stride, bias=case.bias
    )
    layer = case.patchify(bias=case.bias)
    load_torch_weights(layer, dict(module.named_parameters()))
    signal = normal((2, *case.size, case.signal), 0)
    expected = channels_last(module(channels_first(torch, signal)))
    np.testing.assert_allclose(run(layer, signal), expected, **TOLERANCE)


# How a module merges the axes of a patch and the channel, by the number of those axes.
ORDERS = {
    1: ("channels_last", "channels_first", (0, 1), (1, 0)),
    2: (None, "channels_last", "channels_first", *itertools.permutations(range(3))),
    3: ("channels_last", "channels_first", (2, 1, 0, 3), [1, 3, 2, 0]),
}
over_orders = pytest.mark.parametrize(
    ("case", "order"),
    [
        pytest.param(case, order, id=f"{name}-{order}")
        for name, case in TILING.items()
        for order in ORDERS[case.data_dim]
    ],
)


def merged_and_split(case, order, default):
    """Patterns of tokens whose channels are merged in an order, and of the signal."""
    axes = [*"pqr"[: case.data_dim], "c"]
    named = {"channels_last": range(len(axes)), "channels_first": (-1, *range(case.data_dim))}
    order = default if order is None else order
    positions = named[order] if isinstance(order, str) else order
    grid = "ijk"[: case.data_dim]
    merged = " ".join(axes[position] for position in positions)
    split = " ".join(f"({g} {p})" for g, p in zip(grid, axes))
    return f"b {' '.join(grid)} ({merged})", f"b {split} c", dict(zip(axes, case.patch))


@over_orders
def test_a_linear_head_gives_the_same_signal(torch, case, order):
    head = torch.nn.Linear(case.token, int(np.prod(case.patch)) * case.signal, bias=case.bias)
    layer = case.unpatchify(bias=case.bias and "patch")
    load_torch_weights(layer, head.state_dict(), patch_order=order)
    tokens = normal((2, *case.grid, case.token), 0)
    merged, split, sizes = merged_and_split(case, order, "channels_last")
    patches = head(torch.from_numpy(tokens)).detach().numpy()
    expected = rearrange(patches, f"{merged} -> {split}", **sizes)
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


@pytest.mark.parametrize("data_dim", [1, 2, 3])
def test_a_layer_of_sequences_that_is_not_built(data_dim):
    weight = normal((2**data_dim * 3, 5), 0)
    for in_features in (5, None):
        head = Unpatchify(in_features, 3, data_dim, 2, bias=False, sequence=True)
        load_torch_weights(head, {"weight": weight})
        assert head.kernel.shape == (*(2,) * data_dim, 3, 5)
    embedding = Patchify(None, 5, data_dim, 2, bias=False, sequence=True)
    load_torch_weights(embedding, {"weight": weight.T})
    np.testing.assert_array_equal(to_numpy(embedding.kernel), to_numpy(head.kernel))


@over_orders
def test_a_linear_embedding_gives_the_same_tokens(torch, case, order):
    embedding = torch.nn.Linear(int(np.prod(case.patch)) * case.signal, case.token)
    layer = case.patchify()
    load_torch_weights(layer, embedding.state_dict(), patch_order=order)
    signal = normal((2, *case.size, case.signal), 0)
    merged, split, sizes = merged_and_split(case, order, "channels_last")
    patches = rearrange(signal, f"{split} -> {merged}", **sizes)
    expected = embedding(torch.from_numpy(patches)).detach().numpy()
    np.testing.assert_allclose(run(layer, signal), expected, **TOLERANCE)


@over_orders
def test_a_convolution_of_single_positions_gives_the_same_signal(torch, case, order):
    conv = getattr(torch.nn, f"Conv{case.data_dim}d")
    head = conv(case.token, int(np.prod(case.patch)) * case.signal, 1, bias=case.bias)
    layer = case.unpatchify(bias=case.bias and "patch")
    load_torch_weights(layer, head.state_dict(), patch_order=order)
    tokens = normal((2, *case.grid, case.token), 0)
    merged, split, sizes = merged_and_split(case, order, "channels_first")
    patches = channels_last(head(channels_first(torch, tokens)))
    expected = rearrange(patches, f"{merged} -> {split}", **sizes)
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


@pytest.mark.parametrize("as_module", [True, False])
def test_a_convolution_before_pixel_shuffle_gives_the_same_image(torch, as_module):
    head = torch.nn.Sequential(torch.nn.Conv2d(8, 3 * 4 * 4, 1), torch.nn.PixelShuffle(4))
    layer = Unpatchify(None, 3, data_dim=2, patch_size=4, bias="patch", weight_init="zeros")
    load_torch_weights(layer, head if as_module else head.state_dict(), "" if as_module else "0")
    tokens = normal((2, 3, 5, 8), 0)
    expected = channels_last(head(channels_first(torch, tokens)))
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


@pytest.mark.parametrize("as_module", [True, False])
def test_a_convolution_after_pixel_unshuffle_gives_the_same_tokens(torch, as_module):
    stem = torch.nn.Sequential(torch.nn.PixelUnshuffle(4), torch.nn.Conv2d(3 * 4 * 4, 8, 1))
    layer = Patchify(None, 8, data_dim=2, patch_size=4, weight_init="zeros")
    load_torch_weights(layer, stem if as_module else stem.state_dict(), "" if as_module else "1")
    image = normal((2, 12, 20, 3), 0)
    expected = channels_last(stem(channels_first(torch, image)))
    np.testing.assert_allclose(run(layer, image), expected, **TOLERANCE)


def shuffled(x, data_dim, factor, order):
    """(batch, *grid, factor**data_dim * channels) -> (batch, *grid * factor, channels)."""
    grid, cell = "hwd"[:data_dim], "abc"[:data_dim]
    parts = ["s", *cell] if order == "channels_first" else [*cell, "s"]
    axes = " ".join(f"({g} {c})" for g, c in zip(grid, cell))
    names = " ".join(grid)
    sizes = dict.fromkeys(cell, factor)
    return rearrange(x, f"n {names} ({' '.join(parts)}) -> n {axes} s", **sizes)


@pytest.mark.parametrize("order", ["channels_first", "channels_last"])
@pytest.mark.parametrize(("k", "p"), [(1, 0), (3, 1), (5, 2), (2, 0), (3, 0), (5, 1)])
@pytest.mark.parametrize("data_dim", [1, 2, 3])
def test_a_wide_convolution_before_pixel_shuffle_gives_the_same_signal(
    torch, data_dim, k, p, order
):
    conv = getattr(torch.nn, f"Conv{data_dim}d")(4, 3 * 2**data_dim, k, padding=p)
    layer = Unpatchify(None, 3, data_dim, 2 * k, 2, bias="patch", padding=2 * (k - 1 - p))
    load_torch_weights(layer, conv, patch_order=order)
    x = normal((2, *(5, 4, 3)[:data_dim], 4), 0)
    expected = shuffled(channels_last(conv(channels_first(torch, x))), data_dim, 2, order)
    np.testing.assert_allclose(run(layer, x), expected, **TOLERANCE)


@pytest.mark.parametrize(("k", "p"), [(1, 0), (2, 0), (2, 1), (3, 1), (3, 0), (5, 2)])
def test_a_wide_convolution_after_pixel_unshuffle_gives_the_same_tokens(torch, k, p):
    stem = torch.nn.Sequential(torch.nn.PixelUnshuffle(2), torch.nn.Conv2d(12, 8, k, padding=p))
    layer = Patchify(None, 8, 2, 2 * k, stride=2, padding=2 * p)
    load_torch_weights(layer, stem)
    image = normal((2, 12, 20, 3), 0)
    expected = channels_last(stem(channels_first(torch, image)))
    np.testing.assert_allclose(run(layer, image), expected, **TOLERANCE)
    out = to_torch_weights(layer, layout="pixel_shuffle", prefix="1")
    assert bits(out) == bits({name: x.numpy() for name, x in stem.state_dict().items()})


@pytest.mark.parametrize("as_module", [True, False])
@pytest.mark.parametrize(
    ("data_dim", "k", "p", "scale"), [(1, 3, 1, 2), (2, 5, 2, 2), (2, 3, 0, 3), (3, 2, 0, 2)]
)
def test_a_convolution_behind_a_nearest_resize_gives_the_same_signal(
    torch, data_dim, k, p, scale, as_module
):
    conv = getattr(torch.nn, f"Conv{data_dim}d")(4, 3, k, padding=p)
    model = torch.nn.Sequential(torch.nn.Upsample(scale_factor=scale), conv)
    layer = Unpatchify(None, 3, data_dim, k + scale - 1, scale, padding=k - 1 - p)
    load_torch_weights(layer, model if as_module else conv.state_dict(), resize="nearest")
    x = normal((2, *(4, 3, 2)[:data_dim], 4), 0)
    expected = channels_last(model(channels_first(torch, x)))
    np.testing.assert_allclose(run(layer, x), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"scale_factor": 2, "mode": "bilinear"}, "bilinear"),
        ({"scale_factor": 3}, "3.0"),
        ({"scale_factor": (2, 3)}, "(2.0, 3.0)"),
    ],
)
def test_a_resize_of_a_module_is_nearest_and_by_the_stride(torch, options, factor):
    model = torch.nn.Sequential(torch.nn.Upsample(**options), torch.nn.Conv2d(4, 3, 3, padding=1))
    text = refusal(Unpatchify(4, 3, 2, 4, 2, padding=1), model, resize="nearest")
    assert (
        f"a PixelShuffle or Upsample has the factor or mode {factor} where the layer has "
        "stride=(2, 2)"
    ) in text


def test_a_resize_is_named_where_it_fits():
    source = {"weight": normal((3, 8, 3), 0), "bias": normal((3,), 1)}
    layer = Unpatchify(8, 3, 1, 4, 2, padding=1)
    assert "'weight' has the shape (3, 8, 3) instead of" in refusal(layer, source)
    assert "`resize` must be one of 'nearest'. Received: resize='linear'" in refusal(
        layer, source, resize="linear"
    )
    text = refusal(Patchify(8, 3, 1, 4, 2), source, resize="nearest")
    assert text.startswith("`resize` is for an Unpatchify, which enlarges. Received: resize=")
    text = refusal(Unpatchify(8, 3, 1, 2, 3), source, resize="nearest")
    assert "a resize needs patches of at least a stride, and the layer has patch_size=(2,)" in text
    text = refusal(Unpatchify(8, 3, 1, 4, 2, overlap="mean"), source, resize="nearest")
    assert "a convolution sums where patches overlap, and the layer has overlap='mean'" in text


@pytest.mark.parametrize("as_module", [True, False])
@pytest.mark.parametrize("patch", [(4, 2), (1, 1)])
def test_a_square_transposed_convolution_gives_the_same_signal(torch, patch, as_module):
    module = torch.nn.ConvTranspose2d(8, 8, patch, patch)
    layer = Unpatchify(None, 8, data_dim=2, patch_size=patch, weight_init="zeros")
    load_torch_weights(layer, module if as_module else module.state_dict())
    tokens = normal((2, 3, 5, 8), 0)
    expected = channels_last(module(channels_first(torch, tokens)))
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


@pytest.mark.parametrize("as_module", [True, False])
def test_a_square_linear_head_gives_the_same_signal(torch, as_module):
    module = torch.nn.Linear(8, 8)
    layer = Unpatchify(None, 1, data_dim=2, patch_size=(4, 2), bias="patch", weight_init="zeros")
    load_torch_weights(layer, module if as_module else module.state_dict())
    tokens = normal((2, 3, 5, 8), 0)
    patches = module(torch.from_numpy(tokens)).detach().numpy()
    expected = rearrange(patches, "b i j (p q c) -> b (i p) (j q) c", p=4, q=2)
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


def test_a_dense_head_needs_a_transposition_only():
    dense = keras.layers.Dense(4 * 2 * 3, bias_initializer="normal")
    tokens = normal((2, *SMALL.grid, 8), 0)
    expected = rearrange(run(dense, tokens), "b i j (p q c) -> b (i p) (j q) c", p=4, q=2)
    head = SMALL.unpatchify(bias="patch")
    kernel, bias = dense.get_weights()
    load_torch_weights(head, {"weight": kernel.T, "bias": bias})
    np.testing.assert_allclose(run(head, tokens), expected, **TOLERANCE)


@pytest.mark.parametrize("stride", [(2, 1), (4, 3), (5, 3)], ids=["overlap", "tiling", "gap"])
def test_a_linear_head_whose_patches_are_folded_gives_the_same_signal(torch, stride):
    case = Case((4, 3), stride, (3, 5), token=8, signal=2)
    head = torch.nn.Linear(case.token, 2 * 4 * 3)
    layer = case.unpatchify(bias="patch")
    load_torch_weights(layer, head.state_dict(), patch_order="channels_first")
    tokens = normal((2, *case.grid, case.token), 0)
    columns = rearrange(head(torch.from_numpy(tokens)), "b i j x -> b x (i j)")
    expected = channels_last(
        torch.nn.functional.fold(columns, case.size, case.patch, stride=stride)
    )
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


def test_the_final_layer_of_a_diffusion_transformer_gives_the_same_image(torch):
    class FinalLayer(torch.nn.Module):
        def __init__(self, hidden, patch, channels):
            super().__init__()
            self.norm_final = torch.nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
            self.linear = torch.nn.Linear(hidden, patch * patch * channels)
            self.adaLN_modulation = torch.nn.Sequential(
                torch.nn.SiLU(), torch.nn.Linear(hidden, 2 * hidden)
            )

        def tokens(self, x, c):
            shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
            return self.norm_final(x) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)

        def forward(self, x, c):
            return self.linear(self.tokens(x, c))

    batch, height, width, patch, channels = 2, 3, 5, 2, 4
    final = FinalLayer(24, patch, channels)
    x, c = (
        torch.from_numpy(normal((batch, height * width, 24), 0)),
        torch.from_numpy(normal((batch, 24), 1)),
    )
    patches = final(x, c).reshape(batch, height, width, patch, patch, channels)
    image = torch.einsum("nhwpqc->nchpwq", patches).reshape(
        batch, channels, height * patch, width * patch
    )

    state = {f"final_layer.{name}": tensor for name, tensor in final.state_dict().items()}
    layer = Unpatchify(
        24, channels, data_dim=2, patch_size=patch, bias="patch", weight_init="zeros"
    )
    load_torch_weights(layer, state, prefix="final_layer.linear")
    tokens = final.tokens(x, c).detach().numpy().reshape(batch, height, width, 24)
    np.testing.assert_allclose(run(layer, tokens), channels_last(image), **TOLERANCE)


def test_the_prediction_of_a_masked_autoencoder_gives_the_same_image(torch, tmp_path):
    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder_norm = torch.nn.LayerNorm(24)
            self.decoder_pred = torch.nn.Linear(24, 4 * 4 * 3)

        def forward(self, x):
            return self.decoder_pred(self.decoder_norm(x))

    decoder, tokens = Decoder(), normal((2, 3 * 5, 24), 0)
    patches = decoder(torch.from_numpy(tokens)).reshape(2, 3, 5, 4, 4, 3)
    image = torch.einsum("nhwpqc->nchpwq", patches).reshape(2, 3, 12, 20)

    torch.save({"model": decoder.state_dict()}, tmp_path / "mae.pth")
    layer = Unpatchify(24, 3, data_dim=2, patch_size=4, bias="patch", weight_init="zeros")
    load_torch_weights(layer, tmp_path / "mae.pth", prefix="model.decoder_pred")
    normed = decoder.decoder_norm(torch.from_numpy(tokens)).detach().numpy().reshape(2, 3, 5, 24)
    np.testing.assert_allclose(run(layer, normed), channels_last(image), **TOLERANCE)


def test_a_model_that_was_built_before_computes_with_what_is_loaded():
    layer = SMALL.unpatchify()
    inputs = keras.Input((None, None, SMALL.token))
    model = keras.Model(inputs, layer(inputs))
    load_torch_weights(layer, checkpoint())
    source = checkpoint()
    tokens = normal((1, *SMALL.grid, SMALL.token), 0)
    expected = (
        np.einsum("bijt,tspq->bipjqs", tokens, source["weight"]).reshape(1, 12, 10, 3)
        + source["bias"]
    )
    np.testing.assert_allclose(run(model, tokens), expected, **TOLERANCE)
