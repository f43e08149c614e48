"""Weights of PyTorch modules: loaded layers give their outputs, the way back is exact, wrong sources change nothing.

The oracles are PyTorch's own modules, and heads in the manner of published models, their rearrangements written here.
"""

import ast
import pathlib
import pickle
import re
import sys
from typing import NamedTuple

import keras
import numpy as np
import pytest
from backend import run, to_numpy
from cases import normal
from einops import rearrange

from keras_unpatchify import Patchify, Unpatchify, torch_weights
from keras_unpatchify.torch_weights import load_torch_weights, to_torch_weights

# Both sides sum at most 300 products of normal numbers in float32, in orders of their own.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}

LAYOUTS = ("conv", "linear")
PATCH_ORDERS = ("channels_last", "channels_first")
DTYPES = ("float32", "float16", "bfloat16")


class Case(NamedTuple):
    """A patching of a grid; no two sizes of a case are the same, so that no wrong order of axes goes unseen."""

    patch: tuple
    stride: tuple
    grid: tuple
    token: int
    signal: int
    bias: bool = True

    @property
    def data_dim(self):
        return len(self.patch)

    @property
    def size(self):
        return tuple((n - 1) * s + k for n, s, k in zip(self.grid, self.stride, self.patch))

    def unpatchify(self, in_features=None, **options):
        return self._layer(Unpatchify, in_features, self.signal, **options)

    def patchify(self, in_features=None, **options):
        return self._layer(Patchify, in_features, self.token, **options)

    def _layer(self, cls, in_features, out_features, **options):
        # zeros, because JAX takes half a second for the first random draw of each shape
        sizes = (in_features, out_features, self.data_dim, self.patch, self.stride)
        return cls(*sizes, weight_init="zeros", **options)


def draw(data_dim, tiling, seed):
    """A case; those of even seeds have a bias."""
    rng = np.random.default_rng(seed)
    patch = tuple(map(int, rng.permutation([2, 3, 4])[:data_dim]))
    stride = patch if tiling else tuple(int(k + d) for k, d in zip(patch, rng.choice([-1, 1], data_dim)))
    grid = tuple(map(int, rng.permutation([5, 6, 7])[:data_dim] - data_dim))
    return Case(patch, stride, grid, int(rng.integers(8, 12)), int(rng.integers(1, 6)), bias=seed % 2 == 0)


TILING = {f"{d}d-tiling-{i}": draw(d, True, seed=10 * d + i) for d in (1, 2, 3) for i in range(2)}
CASES = TILING | {f"{d}d-strided-{i}": draw(d, False, seed=10 * d + i) for d in (1, 2, 3) for i in range(2)}

over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
over_tiling_cases = pytest.mark.parametrize("case", TILING.values(), ids=TILING)
over_patch_orders = pytest.mark.parametrize("patch_order", PATCH_ORDERS)
over_layers = pytest.mark.parametrize("name", ["unpatchify", "patchify"])

SMALL = Case((4, 2), (4, 2), (3, 5), token=8, signal=3)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the oracle is a PyTorch module")


def channels_last(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def channels_first(torch, array):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def state_of(layer):
    return [(w.path, to_numpy(w).tobytes()) for w in layer.weights], layer.built


def refusal(layer, source, error=ValueError, **options):
    """The text of the error, after a look at the layer: it is as it was."""
    before = state_of(layer)
    with pytest.raises(error) as info:
        load_torch_weights(layer, source, **options)
    assert state_of(layer) == before
    return str(info.value)


def checkpoint(case=SMALL, dtype="float32", prefix=""):
    """That of a transposed convolution."""
    weight = normal((case.token, case.signal, *case.patch), 5).astype(dtype)
    return {f"{prefix}weight": weight, f"{prefix}bias": normal((case.signal,), 6).astype(dtype)}


# --- outputs ---


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


# How a linear head's output becomes a signal, and a signal the input of a linear embedding.
PATTERNS = {
    (1, "channels_last"): "b i (p c) -> b (i p) c",
    (2, "channels_last"): "b i j (p q c) -> b (i p) (j q) c",
    (3, "channels_last"): "b i j k (p q r c) -> b (i p) (j q) (k r) c",
    (1, "channels_first"): "b i (c p) -> b (i p) c",
    (2, "channels_first"): "b i j (c p q) -> b (i p) (j q) c",
    (3, "channels_first"): "b i j k (c p q r) -> b (i p) (j q) (k r) c",
}


@over_tiling_cases
@over_patch_orders
def test_a_linear_head_gives_the_same_signal(torch, case, patch_order):
    head = torch.nn.Linear(case.token, int(np.prod(case.patch)) * case.signal, bias=case.bias)
    layer = case.unpatchify(bias=case.bias and "patch")
    load_torch_weights(layer, head.state_dict(), patch_order=patch_order)
    tokens = normal((2, *case.grid, case.token), 0)
    pattern, sizes = PATTERNS[case.data_dim, patch_order], dict(zip("pqr", case.patch))
    expected = rearrange(head(torch.from_numpy(tokens)).detach().numpy(), pattern, **sizes)
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


@over_tiling_cases
@over_patch_orders
def test_a_linear_embedding_gives_the_same_tokens(torch, case, patch_order):
    embedding = torch.nn.Linear(int(np.prod(case.patch)) * case.signal, case.token)
    layer = case.patchify()
    load_torch_weights(layer, embedding.state_dict(), patch_order=patch_order)
    signal = normal((2, *case.size, case.signal), 0)
    merged, split = PATTERNS[case.data_dim, patch_order].split(" -> ")
    patches = rearrange(signal, f"{split} -> {merged}", **dict(zip("pqr", case.patch)))
    expected = embedding(torch.from_numpy(patches)).detach().numpy()
    np.testing.assert_allclose(run(layer, signal), expected, **TOLERANCE)


@pytest.mark.parametrize("stride", [(2, 1), (4, 3), (5, 3)], ids=["overlap", "tiling", "gap"])
def test_a_linear_head_whose_patches_are_folded_gives_the_same_signal(torch, stride):
    case = Case((4, 3), stride, (3, 5), token=8, signal=2)
    head = torch.nn.Linear(case.token, 2 * 4 * 3)
    layer = case.unpatchify(bias="patch")
    load_torch_weights(layer, head.state_dict(), patch_order="channels_first")
    tokens = normal((2, *case.grid, case.token), 0)
    columns = rearrange(head(torch.from_numpy(tokens)), "b i j x -> b x (i j)")
    expected = channels_last(torch.nn.functional.fold(columns, case.size, case.patch, stride=stride))
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


def test_the_final_layer_of_a_diffusion_transformer_gives_the_same_image(torch):
    class FinalLayer(torch.nn.Module):
        def __init__(self, hidden, patch, channels):
            super().__init__()
            self.norm_final = torch.nn.LayerNorm(hidden, elementwise_affine=False, eps=1e-6)
            self.linear = torch.nn.Linear(hidden, patch * patch * channels)
            self.adaLN_modulation = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(hidden, 2 * hidden))

        def tokens(self, x, c):
            shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
            return self.norm_final(x) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)

        def forward(self, x, c):
            return self.linear(self.tokens(x, c))

    batch, height, width, patch, channels = 2, 3, 5, 2, 4
    final = FinalLayer(24, patch, channels)
    x, c = torch.from_numpy(normal((batch, height * width, 24), 0)), torch.from_numpy(normal((batch, 24), 1))
    patches = final(x, c).reshape(batch, height, width, patch, patch, channels)
    image = torch.einsum("nhwpqc->nchpwq", patches).reshape(batch, channels, height * patch, width * patch)

    state = {f"final_layer.{name}": tensor for name, tensor in final.state_dict().items()}
    layer = Unpatchify(24, channels, data_dim=2, patch_size=patch, bias="patch", weight_init="zeros")
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
    expected = np.einsum("bijt,tspq->bipjqs", tokens, source["weight"]).reshape(1, 12, 10, 3) + source["bias"]
    np.testing.assert_allclose(run(model, tokens), expected, **TOLERANCE)


# --- exactness ---


def bits(arrays):
    return {
        name: (array.dtype.name, array.shape, np.ascontiguousarray(array).tobytes()) for name, array in arrays.items()
    }


def hard_numbers(shape, dtype):
    """Finite numbers of every magnitude that the dtype has, and a negative zero."""
    words = np.random.default_rng(7).integers(0, 2**16, (*shape, np.dtype(dtype).itemsize // 2), dtype="uint16")
    numbers = words.view(dtype)[..., 0].copy()
    numbers[~np.isfinite(numbers.astype("float32"))] = 1
    numbers.flat[0] = -0.0
    return numbers


@pytest.mark.parametrize(
    "case", [CASES["1d-strided-0"], CASES["2d-tiling-0"], CASES["3d-strided-0"]], ids=["1d", "2d", "3d"]
)
@over_layers
@over_patch_orders
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_way_out_and_in_again_keeps_every_bit(case, name, layout, patch_order):
    options = {"bias": "patch"} if (name, layout) == ("unpatchify", "linear") else {}
    first, second = getattr(case, name)(**options), getattr(case, name)(**options)
    channels = case.token if name == "unpatchify" else case.signal
    first.build((None, *[None] * case.data_dim, channels))
    for variable in first.weights:
        variable.assign(hard_numbers(variable.shape, "float32"))
    out = to_torch_weights(first, "head", layout, patch_order)
    load_torch_weights(second, out, "head", patch_order)
    assert bits(to_torch_weights(second, "head.", layout, patch_order)) == bits(out)
    assert [to_numpy(w).tobytes() for w in first.weights] == [to_numpy(w).tobytes() for w in second.weights]
    assert set(out) == {"head.weight", "head.bias"}


@over_layers
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_of_half_precision_keeps_every_bit(name, dtype, layout):
    first, second = getattr(SMALL, name)(dtype=dtype, bias=False), getattr(SMALL, name)(dtype=dtype, bias=False)
    kernel = hard_numbers((*SMALL.patch, SMALL.signal, SMALL.token), dtype)
    first.build((None, None, None, SMALL.token if name == "unpatchify" else SMALL.signal))
    first.kernel.assign(kernel)
    out = to_torch_weights(first, layout=layout)
    assert out["weight"].dtype.name == dtype
    load_torch_weights(second, out)
    assert to_numpy(second.kernel).tobytes() == kernel.tobytes()


def test_what_comes_out_is_the_callers_own():
    layer = SMALL.unpatchify()
    load_torch_weights(layer, checkpoint())
    before, out = state_of(layer), to_torch_weights(layer)
    for array in out.values():
        assert array.flags.c_contiguous
        array += 1
    assert state_of(layer) == before


@pytest.mark.parametrize("layout", LAYOUTS)
@over_patch_orders
def test_a_module_gets_its_own_weights_back(torch, layout, patch_order):
    if layout == "conv":
        module, bias = torch.nn.ConvTranspose2d(8, 3, SMALL.patch, SMALL.stride), True
    else:
        module, bias = torch.nn.Linear(8, 3 * 4 * 2), "patch"
    layer = SMALL.unpatchify(bias=bias)
    load_torch_weights(layer, module.state_dict(), patch_order=patch_order)
    out = to_torch_weights(layer, layout=layout, patch_order=patch_order)
    assert out.keys() == module.state_dict().keys()
    assert all(torch.equal(torch.from_numpy(out[name]), tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_half_precision_is_widened_without_loss(narrow):
    layer, source = SMALL.unpatchify(), checkpoint(dtype=narrow)
    load_torch_weights(layer, source)
    assert bits(to_torch_weights(layer)) == bits({name: array.astype("float32") for name, array in source.items()})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_half_precision_of_pytorch_loads_without_loss(torch, narrow, dtype):
    layer, source = SMALL.unpatchify(dtype=dtype), checkpoint()
    tensors = {name: torch.from_numpy(array).to(getattr(torch, narrow)) for name, array in source.items()}
    if dtype in ("float32", narrow):
        load_torch_weights(layer, tensors)
        expected = {name: array.astype(narrow).astype(dtype) for name, array in source.items()}
        assert bits(to_torch_weights(layer)) == bits(expected)
    else:
        assert f"'weight' is {narrow}, which {dtype} does not hold without loss" in refusal(layer, tensors)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_holds_float32(policy):
    layer = SMALL.unpatchify(dtype=policy)
    load_torch_weights(layer, checkpoint())
    assert bits(to_torch_weights(layer)) == bits(checkpoint())


@pytest.mark.parametrize(
    ("wide", "dtype"), [("float32", "float16"), ("float32", "bfloat16"), ("float64", "float32"), ("int8", "float32")]
)
def test_nothing_is_rounded(wide, dtype):
    text = refusal(SMALL.unpatchify(dtype=dtype), checkpoint(dtype=wide))
    assert f"'weight' is {wide}, which {dtype} does not hold without loss; 'bias' is {wide}, which" in text


# --- the bias of a linear head and that of a convolution ---


def linear_checkpoint(bias):
    return {"weight": normal((4 * 2 * 3, 8), 0), "bias": np.asarray(bias, "float32")}


@pytest.mark.parametrize(
    ("patch_order", "bias"), [("channels_last", [1, 2, 3] * 8), ("channels_first", [1] * 8 + [2] * 8 + [3] * 8)]
)
def test_a_bias_that_is_constant_over_the_patch_is_one_per_channel(patch_order, bias):
    layer, source = SMALL.unpatchify(bias=True), linear_checkpoint(bias)
    load_torch_weights(layer, source, patch_order=patch_order)
    np.testing.assert_array_equal(to_numpy(layer.bias), [1, 2, 3])
    assert bits(to_torch_weights(layer, layout="linear", patch_order=patch_order)) == bits(source)


def test_a_bias_that_is_not_constant_over_the_patch_asks_for_the_argument():
    text = refusal(SMALL.unpatchify(bias=True), linear_checkpoint(range(24)))
    assert text == (
        "A bias per channel does the same as one per position of the patch only where patches tile and the latter is "
        "constant over the patch. Received: a bias of shape (4, 2, 3) for the shape (3,), patch_size=(4, 2), "
        "stride=(4, 2). Construct the layer with bias='patch'. It is unchanged."
    )


@pytest.mark.parametrize("stride", [(2, 2), (5, 2)], ids=["overlap", "gap"])
def test_the_two_kinds_of_bias_differ_where_patches_do_not_tile(stride):
    case = SMALL._replace(stride=stride)
    text = refusal(case.unpatchify(bias=True), linear_checkpoint([1, 2, 3] * 8))
    assert text.endswith(f"stride={stride}. Construct the layer with bias='patch'. It is unchanged.")
    text = refusal(case.unpatchify(bias="patch"), checkpoint())
    assert text.endswith(f"stride={stride}. Construct the layer with bias=True. It is unchanged.")


def test_the_bias_of_a_convolution_fills_that_of_a_patch_where_patches_tile():
    layer = SMALL.unpatchify(bias="patch")
    load_torch_weights(layer, checkpoint())
    np.testing.assert_array_equal(to_numpy(layer.bias), np.broadcast_to(checkpoint()["bias"], (4, 2, 3)))
    assert bits(to_torch_weights(layer, layout="conv")) == bits(checkpoint())


@pytest.mark.parametrize(
    ("bias", "stride", "layout", "remedy"),
    [("patch", (4, 2), "conv", "linear"), ("patch", (2, 2), "conv", "linear"), (True, (2, 2), "linear", "conv")],
)
def test_no_module_gets_a_bias_that_it_cannot_have(bias, stride, layout, remedy):
    layer = SMALL._replace(stride=stride).unpatchify(in_features=8, bias=bias)
    layer.build((None, None, None, 8))
    layer.bias.assign(normal(layer.bias.shape, 0))
    with pytest.raises(ValueError, match=f"only where patches tile.* Use layout='{remedy}'.$"):
        to_torch_weights(layer, layout=layout)


# --- names ---


@pytest.mark.parametrize("module", ["", "deconv.", "conv."])
@pytest.mark.parametrize("prefix", ["", "head", "model.head."])
def test_the_module_is_found_under_the_prefix(module, prefix):
    path = prefix and prefix.rstrip(".") + "."
    source = checkpoint(prefix=path + module) | ({"header.weight": None, "encoder.bias": None} if prefix else {})
    layer = SMALL.unpatchify()
    load_torch_weights(layer, source, prefix)
    assert bits(to_torch_weights(layer)) == bits(checkpoint())


def test_mappings_in_a_mapping_have_dotted_names():
    layer = SMALL.unpatchify()
    load_torch_weights(layer, {"model": {"head": checkpoint(), 7: {}}, "epoch": 3}, "model.head")
    assert bits(to_torch_weights(layer)) == bits(checkpoint())


def test_anything_that_turns_into_an_array_is_an_array():
    class Lazy:
        def __init__(self, array):
            self.array = array

        def __array__(self, dtype=None, copy=None):
            return self.array

    layer = SMALL.unpatchify()
    load_torch_weights(layer, {name: Lazy(array) for name, array in checkpoint().items()})
    assert bits(to_torch_weights(layer)) == bits(checkpoint())


# --- wrong sources ---


def built(layer, channels=8):
    layer.build((None, None, None, channels))
    return layer


@pytest.fixture(params=["unbuilt", "built"])
def unpatchify(request):
    return SMALL.unpatchify(name="head") if request.param == "unbuilt" else built(SMALL.unpatchify(name="head"))


def test_one_error_lists_all_that_is_wrong(unpatchify):
    source = {"weight": normal((8, 3, 4, 3), 0), "scale": normal((3,), 0), "bias": normal((4,), 0).astype("float64")}
    assert refusal(unpatchify, source) == (
        "`source` must hold the weights of the layer, and nothing else under the prefix: 'scale' is unexpected; "
        "'weight' has the shape (8, 3, 4, 3) instead of (8, 3, 4, 2); 'bias' has the shape (4,) instead of (3,); "
        "'bias' is float64, which float32 does not hold without loss. Received: prefix='', names that begin with "
        "['bias', 'scale', 'weight']. Name the module by `prefix`; construct the layer with its sizes, `bias` and "
        "`dtype`. It is unchanged."
    )


def test_a_wrong_prefix(unpatchify):
    text = refusal(unpatchify, checkpoint(prefix="decoder.head.") | checkpoint(prefix="encoder."), prefix="haed")
    assert (
        "prefix: 'haed.weight' is missing; 'haed.bias' is missing. Received: prefix='haed.', names that begin" in text
    )
    assert "begin with ['decoder', 'encoder']" in text


def test_a_bias_too_many_or_too_few(unpatchify):
    source = checkpoint()
    del source["bias"]
    assert "prefix: 'bias' is missing. Received" in refusal(unpatchify, source)
    assert "prefix: 'bias' is unexpected. Received" in refusal(SMALL.unpatchify(bias=False), checkpoint())


def test_a_module_beside_the_one_that_is_found(unpatchify):
    text = refusal(unpatchify, checkpoint() | checkpoint(prefix="conv."))
    assert "prefix: 'conv.weight' is unexpected; 'conv.bias' is unexpected. Received" in text


@pytest.mark.parametrize("axes", [(1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 1, 0)])
def test_a_transposed_weight(unpatchify, axes):
    source = checkpoint()
    source["weight"] = source["weight"].transpose(axes)
    found = source["weight"].shape
    expected = (found[0] if not unpatchify.built else 8, 3, 4, 2)
    assert f"'weight' has the shape {found} instead of {expected}." in refusal(unpatchify, source)


def test_a_transposed_linear_weight():
    source = linear_checkpoint(range(24)) | {"weight": normal((8, 24), 0)}
    text = refusal(SMALL.unpatchify(bias="patch"), source)
    assert "'weight' has the shape (8, 24) instead of (24, 24)." in text
    text = refusal(SMALL.patchify(), {"weight": normal((25, 8), 0), "bias": normal((8,), 0)})
    assert "'weight' has the shape (25, 8) instead of (8, 8)." in text


@pytest.mark.parametrize("shape", [(), (24,), (8, 3, 4), (8, 3, 4, 2, 1)])
def test_a_weight_of_another_rank(shape):
    source = checkpoint() | {"weight": np.zeros(shape, "float32")}
    text = refusal(SMALL.unpatchify(), source)
    assert f"'weight' has the shape {shape} instead of (None, 3, 4, 2) or (24, None)." in text
    assert "instead of (8, 3, 4, 2) or (24, 8)." in refusal(SMALL.unpatchify(in_features=8), source)


def test_an_empty_weight():
    source = checkpoint() | {"weight": np.zeros((0, 3, 4, 2), "float32")}
    assert "'weight' has the shape (0, 3, 4, 2) instead of (1, 3, 4, 2)." in refusal(SMALL.unpatchify(), source)


def test_what_is_no_array(unpatchify):
    text = refusal(unpatchify, {"weight": "zeros", "bias": None})
    assert "'weight' has the shape () instead of" in text
    assert "'bias' is object, which float32 does not hold without loss" in text


@pytest.mark.parametrize("source", [None, 3, [("weight", 1)], "weights.h5", pathlib.Path("model.bin"), "pt"])
def test_what_is_no_source(unpatchify, source):
    assert refusal(unpatchify, source) == (
        "`source` must be a mapping of names to arrays, or the path of a .safetensors, .pt or .pth file. "
        f"Received: source={source!r}"
    )


def test_wrong_arguments(unpatchify):
    assert refusal(unpatchify, checkpoint(), prefix=None) == "`prefix` must be a string. Received: prefix=None"
    assert refusal(unpatchify, checkpoint(), patch_order="hwc") == (
        "`patch_order` must be one of 'channels_last', 'channels_first'. Received: patch_order='hwc'"
    )
    with pytest.raises(ValueError, match=r"^`layout` must be one of 'conv', 'linear'. Received: layout='fold'$"):
        to_torch_weights(unpatchify, layout="fold")


def test_other_layers():
    layer = keras.layers.Dense(3, name="dense")
    assert refusal(layer, {}) == f"`layer` must be a Patchify or an Unpatchify. Received: layer={layer!r}"
    with pytest.raises(ValueError, match=r"^`layer` must be a Patchify or an Unpatchify. Received: layer=<Dense"):
        to_torch_weights(layer)


def test_a_layer_that_has_no_weights_yet():
    with pytest.raises(
        ValueError, match=r"^`layer` must be built. Received: layer=<Unpatchify name=head, built=False>."
    ):
        to_torch_weights(SMALL.unpatchify(name="head"))


# --- files ---


def save_safetensors(arrays, path):
    pytest.importorskip("safetensors.numpy", reason="writes the file").save_file(arrays, path)


def save_torch(arrays, path):
    torch = pytest.importorskip("torch", reason="writes the file")
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


SAVERS = {"a.safetensors": save_safetensors, "a.pt": save_torch, "a.pth": save_torch}
over_files = pytest.mark.parametrize(("file", "save"), SAVERS.items(), ids=SAVERS)


@over_files
@pytest.mark.parametrize("as_path", [str, pathlib.Path])
def test_a_file(tmp_path, file, save, as_path):
    save(checkpoint(prefix="head.deconv.") | checkpoint(prefix="other."), tmp_path / file)
    layer = SMALL.unpatchify()
    load_torch_weights(layer, as_path(tmp_path / file), "head")
    assert bits(to_torch_weights(layer)) == bits(checkpoint())


def test_bfloat16_in_files(torch, tmp_path):
    save = pytest.importorskip("safetensors.torch", reason="writes the file").save_file
    tensors = {name: torch.from_numpy(array).bfloat16() for name, array in checkpoint().items()}
    save(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pt")
    for file in ("a.safetensors", "a.pt"):
        layer = SMALL.unpatchify(dtype="bfloat16")
        load_torch_weights(layer, tmp_path / file)
        assert bits(to_torch_weights(layer)) == bits(checkpoint(dtype="bfloat16"))


@over_files
@pytest.mark.parametrize("part", [0, 0.02, 0.5, 0.99])
def test_a_file_that_is_cut_short(unpatchify, tmp_path, file, save, part):
    path = tmp_path / file
    save(checkpoint(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    text = refusal(unpatchify, path)
    assert re.fullmatch(
        rf"`source` must be a whole file, of named tensors alone. Received: source={re.escape(repr(str(path)))} "
        r"\(\w+\). "
        "Fetch it again, or pass a mapping of names to arrays.",
        text,
    )


class Code:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["archive", "pickle", "safetensors"])
def test_a_pickle_with_code_in_it_is_refused_and_nothing_runs(unpatchify, torch, tmp_path, form):
    trace, path = tmp_path / "trace", tmp_path / "a.pt"
    harmful = {"weight": torch.zeros(8, 3, 4, 2), "bias": Code(trace)}
    if form == "archive":
        torch.save(harmful, path)
    else:
        path.write_bytes(pickle.dumps(harmful))
    if form == "safetensors":
        pytest.importorskip("safetensors", reason="reads the file")
        path = path.rename(tmp_path / "a.safetensors")
    assert "must be a whole file, of named tensors alone" in refusal(unpatchify, path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(harmful["bias"]))
    assert trace.exists()  # the code would have worked


def test_a_file_of_something_else(unpatchify, torch, tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "a.pt")
    assert "must be a whole file, of named tensors alone" in refusal(unpatchify, tmp_path / "a.pt")


@pytest.mark.parametrize(("suffix", "package"), [(".safetensors", "safetensors"), (".pt", "torch"), (".pth", "torch")])
def test_a_file_that_is_not_there(unpatchify, tmp_path, suffix, package):
    pytest.importorskip(package, reason="reads the file")
    refusal(unpatchify, tmp_path / f"a{suffix}", error=FileNotFoundError)


@pytest.mark.parametrize(("suffix", "package"), [(".safetensors", "safetensors"), (".pt", "torch"), (".pth", "torch")])
def test_a_reader_that_is_not_installed(unpatchify, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(unpatchify, f"a{suffix}", error=ImportError) == (
        f"The package {package} reads {suffix} files. Received: source='a{suffix}'. Install it with "
        f"`pip install {package}`, or pass a mapping of names to arrays."
    )


def imported_at_once(text):
    """The packages that a module imports when it is imported itself."""
    nodes = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = [
        node.module if isinstance(node, ast.ImportFrom) else alias.name for node in nodes for alias in node.names
    ]
    return {module.split(".")[0] for module in modules}


def test_neither_pytorch_nor_safetensors_is_imported_before_a_file_asks_for_it():
    packages = imported_at_once(pathlib.Path(torch_weights.__file__).read_text())
    assert packages - sys.stdlib_module_names == {"keras", "keras_unpatchify", "numpy"}
    assert imported_at_once("import os, torch.nn\nfrom safetensors.numpy import load_file") >= {"torch", "safetensors"}
