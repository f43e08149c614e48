"""Weights of PyTorch modules: the way in and out is exact, and a folded weight is rounded once."""

import itertools

import numpy as np
import pytest
from backend import run, to_numpy
from cases import normal
from einops import rearrange
from torch_cases import (
    CASES,
    SMALL,
    TOLERANCE,
    bits,
    built,
    channels_first,
    channels_last,
    checkpoint,
    over_methods,
    refusal,
    state_of,
)

from keras_unpatchify import Unpatchify, _torch_sources, load_torch_weights, to_torch_weights

LAYOUTS = ("conv", "linear", "pixel_shuffle")
DTYPES = ("float32", "float16", "bfloat16")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the oracle is a PyTorch module")


def hard_numbers(shape, dtype):
    """Finite numbers of every magnitude that the dtype has, and a negative zero."""
    words = np.random.default_rng(7).integers(
        0, 2**16, (*shape, np.dtype(dtype).itemsize // 2), dtype="uint16"
    )
    numbers = words.view(dtype)[..., 0].copy()
    numbers[~np.isfinite(numbers.astype("float32"))] = 1
    numbers.flat[0] = -0.0
    return numbers


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *itertools.product(["1d-strided-0", "2d-tiling-0", "3d-strided-0"], ["conv", "linear"]),
        *itertools.product(["1d-tiling-0", "2d-tiling-0", "3d-tiling-0"], ["pixel_shuffle"]),
    ],
)
@over_methods
@pytest.mark.parametrize("order", [None, "channels_last", "channels_first", "reversed"])
def test_the_way_out_and_in_again_keeps_every_bit(name, method, layout, order):
    case = CASES[name]
    order = tuple(range(case.data_dim, -1, -1)) if order == "reversed" else order
    options = {"bias": "patch"} if method == "unpatchify" and layout != "conv" else {}
    first, second = getattr(case, method)(**options), getattr(case, method)(**options)
    channels = case.token if method == "unpatchify" else case.signal
    first.build((None, *[None] * case.data_dim, channels))
    for variable in first.weights:
        variable.assign(hard_numbers(variable.shape, "float32"))
    out = to_torch_weights(first, "head", layout, order)
    load_torch_weights(second, out, "head", order)
    assert set(out) == {"head.weight", "head.bias"}
    assert bits(to_torch_weights(second, "head.", layout, order)) == bits(out)
    for before, after in zip(first.weights, second.weights):
        assert to_numpy(before).tobytes() == to_numpy(after).tobytes()


@over_methods
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layer_of_half_precision_keeps_every_bit(method, dtype, layout):
    first = getattr(SMALL, method)(dtype=dtype, bias=False)
    second = getattr(SMALL, method)(dtype=dtype, bias=False)
    kernel = hard_numbers((*SMALL.patch, SMALL.signal, SMALL.token), dtype)
    first.build((None, None, None, SMALL.token if method == "unpatchify" else SMALL.signal))
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
@pytest.mark.parametrize("order", [None, "channels_last", "channels_first", (1, 0, 2)])
def test_a_module_gets_its_own_weights_back(torch, layout, order):
    module = {
        "conv": torch.nn.ConvTranspose2d(8, 3, SMALL.patch, SMALL.stride),
        "linear": torch.nn.Linear(8, 3 * 4 * 2),
        "pixel_shuffle": torch.nn.Conv2d(8, 3 * 4 * 2, 1),
    }[layout]
    layer = SMALL.unpatchify(bias=True if layout == "conv" else "patch")
    load_torch_weights(layer, module, patch_order=order)
    out = to_torch_weights(layer, layout=layout, patch_order=order)
    assert bits(out) == bits({x: tensor.numpy() for x, tensor in module.state_dict().items()})


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_half_precision_is_widened_without_loss(narrow):
    layer, source = SMALL.unpatchify(), checkpoint(dtype=narrow)
    load_torch_weights(layer, source)
    wide = {name: array.astype("float32") for name, array in source.items()}
    assert bits(to_torch_weights(layer)) == bits(wide)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_half_precision_of_pytorch_loads_without_loss(torch, narrow, dtype):
    layer, tensors = SMALL.unpatchify(dtype=dtype), {}
    for name, array in checkpoint().items():
        tensors[name] = torch.from_numpy(array).to(getattr(torch, narrow))
    if dtype in ("float32", narrow):
        load_torch_weights(layer, tensors)
        expected = checkpoint(dtype=narrow)
        wide = {name: array.astype(dtype) for name, array in expected.items()}
        assert bits(to_torch_weights(layer)) == bits(wide)
    else:
        text = refusal(layer, tensors)
        assert f"'weight' is {narrow} instead of {dtype} or a narrower float" in text


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_holds_float32(policy):
    layer = SMALL.unpatchify(dtype=policy)
    load_torch_weights(layer, checkpoint())
    assert bits(to_torch_weights(layer)) == bits(checkpoint())


@pytest.mark.parametrize(
    ("wide", "dtype"),
    [("float32", "float16"), ("float32", "bfloat16"), ("float64", "float32"), ("int8", "float32")],
)
def test_nothing_is_rounded(wide, dtype):
    text = refusal(SMALL.unpatchify(dtype=dtype), checkpoint(dtype=wide))
    assert f"'weight' is {wide} instead of {dtype} or a narrower float; 'bias' is" in text


@pytest.mark.float64
def test_float64_is_kept_where_the_backend_holds_it(double):
    with double:
        layer, source = SMALL.unpatchify(dtype="float64"), checkpoint(dtype="float64")
        source["weight"] += 1e-12
        load_torch_weights(layer, source)
        assert bits(to_torch_weights(layer)) == bits(source)


@pytest.mark.jax_backend
@pytest.mark.parametrize("is_built", [False, True])
def test_float64_is_refused_where_jax_holds_float32(is_built):
    layer = SMALL.unpatchify(dtype="float64")
    if is_built:
        layer.build((None, None, None, 8))
    assert (
        "'weight' is float64 instead of float32 or a narrower float (the layer's dtype is "
        "float64, but its variables hold float32; on jax, enable x64); 'bias' is float64 instead"
    ) in refusal(layer, checkpoint(dtype="float64"))
    load_torch_weights(layer, checkpoint())
    assert bits(to_torch_weights(layer)) == bits(checkpoint())


@pytest.mark.torch_backend
def test_a_layer_that_was_moved_to_half_precision_holds_that():
    layer = SMALL.unpatchify()
    layer.build((None, None, None, 8))
    layer.half()
    assert (
        "'weight' is float32 instead of float16 or a narrower float (the layer's dtype is "
        "float32, but its variables hold float16; on jax, enable x64)"
    ) in refusal(layer, checkpoint())


# --- weight normalisation ---

SPELLINGS = {
    "parametrized": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    "hooked": ("weight_g", "weight_v"),
}
over_spellings = pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)


def normalised(torch, module, spelling, dim):
    """The module with weight normalisation, whose magnitude is not what it was made from."""
    if spelling == SPELLINGS["hooked"]:
        with pytest.warns(FutureWarning):
            module = torch.nn.utils.weight_norm(module, dim=dim)
    else:
        module = torch.nn.utils.parametrizations.weight_norm(module, dim=dim)
    with torch.no_grad():
        module.get_parameter(spelling[0]).mul_(1.5)
    return module


@over_spellings
@pytest.mark.parametrize("dim", [0, 1, 3, None])
@pytest.mark.parametrize("as_module", [True, False])
def test_a_normalised_convolution_gives_the_same_signal(torch, spelling, dim, as_module):
    module = torch.nn.ConvTranspose2d(8, 3, SMALL.patch, SMALL.stride)
    module = normalised(torch, module, spelling, dim)
    layer, tokens = SMALL.unpatchify(), normal((2, *SMALL.grid, 8), 0)
    load_torch_weights(layer, module if as_module else module.state_dict())
    expected = channels_last(module(channels_first(torch, tokens)))
    np.testing.assert_allclose(run(layer, tokens), expected, **TOLERANCE)


@over_spellings
@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_normalised_linear_embedding_gives_the_same_tokens(torch, spelling, dim):
    model = torch.nn.ModuleDict({"embed": torch.nn.Linear(24, 8)})
    model["embed"] = normalised(torch, model["embed"], spelling, dim)
    layer, signal = SMALL.patchify(), normal((2, *SMALL.size, 3), 0)
    load_torch_weights(layer, model.state_dict(), "embed")
    patches = rearrange(signal, "b (i p) (j q) c -> b i j (p q c)", p=4, q=2)
    expected = model["embed"](torch.from_numpy(patches)).detach().numpy()
    np.testing.assert_allclose(run(layer, signal), expected, **TOLERANCE)


def to_nearest(numbers, dtype):
    """The nearest of all the dtype's numbers, one by one."""
    result = numbers.astype("float32").astype(dtype)
    for index, number in np.ndenumerate(numbers):
        near = result[index]
        around = [np.nextafter(near, near.dtype.type(x)) for x in (-np.inf, np.inf)]
        result[index] = min([near, *around], key=lambda x: abs(np.longdouble(x) - number))
    return result


@over_spellings
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_normalised_weight_is_rounded_once(spelling, dtype, axis):
    direction = normal((8, 3, 4, 2), 0).astype(dtype)
    others = tuple(i for i in range(4) if i != axis)
    shape = tuple(1 if i in others else n for i, n in enumerate(direction.shape))
    magnitude = normal(shape, 1).astype(dtype)
    layer = SMALL.unpatchify(bias=False, dtype=dtype)
    load_torch_weights(layer, {spelling[0]: magnitude, spelling[1]: direction})
    long = direction.astype("longdouble")
    exact = magnitude * (long / np.sqrt((long**2).sum(others, keepdims=True)))
    assert bits(to_torch_weights(layer)) == bits({"weight": to_nearest(exact, dtype)})


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("above", [-1, 1])
@pytest.mark.parametrize("distance", [2**-40, 0.75 * 2**-23], ids=["near", "nearer the next"])
def test_bfloat16_is_not_rounded_by_way_of_float32(sign, above, distance):
    # half way between 1 and the next bfloat16, and less than a unit of float32 to one side of it
    number = np.float64(sign * (1 + 2**-8 + above * distance))
    weight = _torch_sources.folded(number[None], np.ones(1, "float32"), "bfloat16")
    assert float(weight[0]) == sign * (1 + 2**-7 if above > 0 else 1)


# --- the bias of a linear head and that of a convolution ---


def linear_checkpoint(bias):
    return {"weight": normal((4 * 2 * 3, 8), 0), "bias": np.asarray(bias, "float32")}


@pytest.mark.parametrize(
    ("patch_order", "bias"),
    [("channels_last", [1, 2, 3] * 8), ("channels_first", [1] * 8 + [2] * 8 + [3] * 8)],
)
def test_a_bias_that_is_constant_over_the_patch_is_one_per_channel(patch_order, bias):
    layer, source = SMALL.unpatchify(bias=True), linear_checkpoint(bias)
    load_torch_weights(layer, source, patch_order=patch_order)
    np.testing.assert_array_equal(to_numpy(layer.bias), [1, 2, 3])
    assert bits(to_torch_weights(layer, layout="linear", patch_order=patch_order)) == bits(source)


def test_a_bias_that_is_not_constant_over_the_patch_asks_for_the_argument():
    text = refusal(SMALL.unpatchify(bias=True), linear_checkpoint(range(24)))
    assert text == (
        "A bias per channel does the same as one per position of the patch only where patches "
        "tile and the latter is constant over the patch. Received: a bias of shape (4, 2, 3) for "
        "the shape (3,), patch_size=(4, 2), stride=(4, 2), padding='valid'. Construct the layer "
        "with bias='patch'. It is unchanged."
    )


@pytest.mark.parametrize("stride", [(2, 2), (5, 2)], ids=["overlap", "gap"])
def test_the_two_kinds_of_bias_differ_where_patches_do_not_tile(stride):
    case = SMALL._replace(stride=stride)
    text = refusal(case.unpatchify(bias=True), linear_checkpoint([1, 2, 3] * 8))
    assert f"stride={stride}, padding='valid'. Construct the layer with bias='patch'." in text
    text = refusal(case.unpatchify(bias="patch"), checkpoint())
    assert f"stride={stride}, padding='valid'. Construct the layer with bias=True." in text


@pytest.mark.parametrize("bias", [True, "patch", False])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_convolution_before_pixel_shuffle_keeps_every_bit(bias, k):
    source = {"weight": hard_numbers((6, 8, k), "float32")}
    if bias:
        constant = bias is True
        source["bias"] = np.repeat(normal((3,), 1), 2) if constant else normal((6,), 1)
    layer = Unpatchify(8, 3, 1, 2 * k, 2, bias=bias, padding="same")
    load_torch_weights(layer, source)
    assert bits(to_torch_weights(layer, layout="pixel_shuffle")) == bits(source)


def test_the_bias_of_a_convolution_fills_that_of_a_patch_where_patches_tile():
    layer = SMALL.unpatchify(bias="patch")
    load_torch_weights(layer, checkpoint())
    expected = np.broadcast_to(checkpoint()["bias"], (4, 2, 3))
    np.testing.assert_array_equal(to_numpy(layer.bias), expected)
    assert bits(to_torch_weights(layer, layout="conv")) == bits(checkpoint())


@pytest.mark.parametrize(
    ("bias", "stride", "layout", "remedy"),
    [
        ("patch", (4, 2), "conv", "linear"),
        ("patch", (2, 2), "conv", "linear"),
        (True, (2, 2), "linear", "conv"),
    ],
)
def test_no_module_gets_a_bias_that_it_cannot_have(bias, stride, layout, remedy):
    layer = SMALL._replace(stride=stride).unpatchify(in_features=8, bias=bias)
    layer.build((None, None, None, 8))
    layer.bias.assign(normal(layer.bias.shape, 0))
    with pytest.raises(ValueError, match=f"only where patches tile.* Use layout='{remedy}'.$"):
        to_torch_weights(layer, layout=layout)


def test_what_a_trained_layer_left_does_not_go_back_to_pixel_shuffle():
    layer = built(Unpatchify(8, 3, 1, 6, 2, "patch", "zeros", padding="same"))
    out = to_torch_weights(layer, layout="pixel_shuffle")  # its bias is zero outside the middle
    assert (out["weight"].shape, out["bias"].shape) == ((6, 8, 3), (6,))
    rule = (
        "The bias of a convolution before PixelShuffle fills one stride of each patch, after the "
        "padding. It does the same as one of 'patch' only where `before <= patch_size - stride <= "
        "before + after` and the latter is zero elsewhere. Received: a bias of shape (6, 3) for "
        "the shape (2, 3), patch_size=(6,), "
    )
    layer.bias.assign(normal((6, 3), 0))
    with pytest.raises(ValueError) as info:
        to_torch_weights(layer, layout="pixel_shuffle")
    assert str(info.value) == f"{rule}stride=(2,), padding='same'. Use layout='linear'."
    layer = built(Unpatchify(8, 3, 1, 6, 2, "patch", "zeros"))
    with pytest.raises(ValueError) as info:
        to_torch_weights(layer, layout="pixel_shuffle")
    assert str(info.value) == f"{rule}stride=(2,), padding='valid'. Use layout='linear'."
    layer = built(Unpatchify(8, 3, 1, 6, 2, padding="same", overlap="mean"))
    with pytest.raises(ValueError) as info:
        to_torch_weights(layer, layout="pixel_shuffle")
    assert str(info.value) == (
        "a convolution sums where patches overlap, and the layer has overlap='mean'. "
        "Received: layout='pixel_shuffle'. Use layout='conv'."
    )
    with pytest.raises(ValueError) as info:
        to_torch_weights(layer, layout="nearest")
    assert str(info.value) == (
        "Weights do not go back to a resize and a convolution: a layer that was trained may have "
        "left what these can express. Received: layout='nearest'. Use layout='conv'."
    )
