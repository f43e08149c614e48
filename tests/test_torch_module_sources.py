"""A PyTorch module as a source: it loads if and only if the layer then does the same."""

import itertools

import numpy as np
import pytest
from backend import run
from cases import normal
from torch_cases import SMALL, TOLERANCE, bits, built, channels_last, refusal

from keras_unpatchify import Patchify, Unpatchify, load_torch_weights, to_torch_weights

torch = pytest.importorskip("torch", reason="the source is a PyTorch module")
nn = torch.nn


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads of PyTorch wait for each other where another framework keeps the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def outputs(function, inputs):
    """The outputs for inputs of several sizes; None for those that are refused."""
    result = []
    for x in inputs:
        try:
            result.append(function(x))
        except RuntimeError:
            result.append(None)
    return result


def same(first, second):
    for a, b in zip(first, second, strict=True):
        if a is None or b is None or a.shape != b.shape or not np.allclose(a, b, **TOLERANCE):
            return False
    return True


def loads(layer, module):
    try:
        load_torch_weights(layer, module)
    except ValueError:
        return False
    return True


def of_one_axis(kind, patch, stride, **options):
    """A square convolution along one axis, whose weights are the same at every call."""
    module = kind(2, 2, patch, stride, **options)
    state = {"weight": normal((2, 2, patch), patch), "bias": normal((2,), 0)}
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return module


def transposed_convolutions(patch):
    for stride, padding, more in itertools.product((1, 2, 3), (0, 1, 2), (0, 1, 2)):
        for dilation in (1, 2) if patch > 1 else (1,):
            if more < max(stride, dilation):
                options = {"padding": padding, "output_padding": more, "dilation": dilation}
                yield of_one_axis(nn.ConvTranspose1d, patch, stride, **options)


def convolutions(patch):
    for stride, padding in itertools.product((1, 2, 3), (0, 1, 2, "valid", "same")):
        modes = ("zeros", "reflect", "circular") if padding != "valid" else ("zeros",)
        for dilation, mode in itertools.product((1, 2) if patch > 1 else (1,), modes):
            if padding != "same" or stride == 1:
                options = {"padding": padding, "dilation": dilation, "padding_mode": mode}
                yield of_one_axis(nn.Conv1d, patch, stride, **options)


def run_module(module, x):
    with torch.no_grad():
        return channels_last(module(torch.from_numpy(np.moveaxis(x, -1, 1).copy())))


def verdicts(layer, modules, inputs):
    """For each module whether it loads and whether it does the same as the layer."""
    values = None
    for module in modules:
        if values is None:  # of any module, for all have the same weights
            load_torch_weights(layer, module.state_dict())
            values = run(lambda *inputs: [layer(x) for x in inputs], *inputs)
        expected = outputs(lambda x, module=module: run_module(module, x), inputs)
        yield repr(module), loads(layer, module), same(values, expected)


@pytest.mark.parametrize("patch", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("padding", "overlap"), [("valid", "sum"), ("same", "sum"), ("valid", "mean"), ("same", "mean")]
)
def test_a_transposed_convolution_loads_if_it_gives_the_same_signals(
    patch, stride, padding, overlap
):
    layer = Unpatchify(2, 2, 1, patch, stride, padding=padding, overlap=overlap)
    inputs = [normal((1, grid, 2), grid) for grid in (1, 2, 3)]
    for module, is_loaded, is_same in verdicts(layer, transposed_convolutions(patch), inputs):
        assert is_loaded == is_same, module


@pytest.mark.parametrize("patch", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_convolution_loads_if_it_gives_the_same_tokens(patch, stride, padding):
    layer = Patchify(2, 2, 1, patch, stride, padding=padding)
    inputs = [normal((1, size, 2), size) for size in (7, 8, 9, 10)]
    for module, is_loaded, is_same in verdicts(layer, convolutions(patch), inputs):
        assert is_loaded == is_same, module


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (Unpatchify(2, 2, 1, 4, 2, padding="same"), nn.ConvTranspose1d(2, 2, 4, 2, padding=1)),
        (Unpatchify(2, 2, 1, 2, 3, padding="same"), nn.ConvTranspose1d(2, 2, 2, 3, 0, 1)),
        (Patchify(2, 2, 1, 3, 1, padding="same"), nn.Conv1d(2, 2, 3, padding=1)),
        (Patchify(2, 2, 1, 4, 1, padding="same"), nn.Conv1d(2, 2, 4, padding="same")),
        (Patchify(2, 2, 1, 1, 3, padding="same"), nn.Conv1d(2, 2, 1, 3)),
    ],
    ids=str,
)
def test_same_padding_that_pytorch_has_too(layer, module):
    """The tests above could not tell if nothing loaded."""
    load_torch_weights(layer, module)
    expected = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert bits(to_torch_weights(layer)) == bits(expected)


@pytest.mark.parametrize(
    ("pads", "options"),
    [
        (((1, 1), (0, 0)), {"padding": (1, 0)}),
        (((1, 0), (1, 0)), {"padding": 1, "output_padding": 1}),
    ],
)
def test_pairs_of_padding_are_compared(pads, options):
    layer = SMALL.unpatchify(padding=pads)
    assert f"where the layer has padding={pads!r}" in refusal(layer, head())
    load_torch_weights(layer, head((4, 2), (4, 2), **options))


# --- what differs ---


def unpatchify(**options):
    return SMALL.unpatchify(name="head", **options)


def head(*sizes, **options):
    return nn.ConvTranspose2d(8, 3, *(sizes or ((4, 2), (4, 2))), **options)


def own_forward(base):
    class Own(base):
        def forward(self, x):
            return 2 * super().forward(x)

    return Own


def own_convolution(base):
    class Own(base):
        def _conv_forward(self, x, weight, bias):
            return 2 * super()._conv_forward(x, weight, bias)

    return Own


def clamped(module):
    class Clamp(nn.Module):
        def forward(self, weight):
            return weight.clamp(0)

    nn.utils.parametrizations.weight_norm(module)
    nn.utils.parametrize.register_parametrization(module, "weight", Clamp())
    return module


HEAD = "the ConvTranspose2d has "
PLAIN = "a convolution beside PixelShuffle or Upsample has"

DIFFERENT = {
    "stride": (
        unpatchify(),
        head((4, 2), (2, 2)),
        HEAD + "stride=(2, 2) where the layer has (4, 2)",
    ),
    "dilation": (
        unpatchify(),
        head((4, 2), (4, 2), dilation=2),
        HEAD + "dilation=(2, 2) where the layer has (1, 1)",
    ),
    "groups": (
        SMALL.patchify(),
        nn.Conv2d(4, 8, (4, 2), (4, 2), groups=2),
        "the Conv2d has groups=2 where the layer has 1",
    ),
    "padding mode": (
        SMALL.patchify(padding="same"),
        nn.Conv2d(3, 8, (4, 2), (4, 2), padding=1, padding_mode="reflect"),
        "the Conv2d has padding_mode='reflect' where the layer has 'zeros'; "
        "the Conv2d has padding=(1, 1) where the layer has padding='same'",
    ),
    "padding": (
        unpatchify(),
        head((4, 2), (4, 2), padding=(1, 0)),
        HEAD + "padding=(1, 0) where the layer has padding='valid' (it is padding=((1, 1), (0, 0)) "
        "of a layer)",
    ),
    "padding and output padding": (
        unpatchify(),
        head((4, 2), (4, 2), padding=1, output_padding=1),
        HEAD + "padding=(1, 1) and output_padding=(1, 1) where the layer has padding='valid' "
        "(it is padding=((1, 0), (1, 0)) of a layer)",
    ),
    "output padding": (
        unpatchify(),
        head((4, 2), (4, 2), output_padding=(2, 0)),
        HEAD + "padding=(0, 0) and output_padding=(2, 0) where the layer has padding='valid' "
        "(load its `state_dict()`, and ask for its size by `output_spatial_shape`)",
    ),
    "overlap": (
        Unpatchify(8, 3, 2, (4, 2), (4, 1), overlap="mean"),
        head((4, 2), (4, 1)),
        "the ConvTranspose2d sums where patches overlap, the layer has overlap='mean'",
    ),
    "square convolution": (
        Unpatchify(8, 8, 2, (4, 2)),
        nn.Conv2d(8, 8, (4, 2), (4, 2)),
        "'weight' has the shape (8, 8, 4, 2) instead of (64, 8, 1, 1)",
    ),
    "kernel size": (
        Unpatchify(8, 8, 2, (4, 2)),
        nn.Conv2d(8, 8, (4, 2), (4, 2)),
        f"the Conv2d has kernel_size=(4, 2) where {PLAIN} (1, 1); "
        f"the Conv2d has stride=(4, 2) where {PLAIN} (1, 1)",
    ),
    "square transposed convolution": (
        Patchify(8, 8, 2, (4, 2)),
        nn.ConvTranspose2d(8, 8, (4, 2), (4, 2)),
        "the ConvTranspose2d does not compute what Patchify(data_dim=2) computes",
    ),
    "axes": (
        unpatchify(),
        nn.ConvTranspose1d(8, 3, 4, 4),
        "the ConvTranspose1d does not compute what Unpatchify(data_dim=2) computes",
    ),
    "square convolution for a patch of one": (
        Unpatchify(8, 8, 2, 1),
        nn.Conv2d(8, 8, 1),
        "the Conv2d does not compute what Unpatchify(data_dim=2) computes",
    ),
    "transposed convolution before PixelShuffle": (
        Unpatchify(8, 1, 2, (4, 2), bias="patch"),
        nn.ConvTranspose2d(8, 8, 1),
        "'weight' has the shape (8, 8, 1, 1) instead of (8, 1, 4, 2)",
    ),
    "factor": (
        Unpatchify(8, 3, 2, 4, bias="patch"),
        nn.Sequential(nn.Conv2d(8, 48, 1), nn.PixelShuffle(2)),
        "a PixelShuffle or Upsample has the factor or mode 2 where the layer has stride=(4, 4)",
    ),
    "factor of PixelUnshuffle": (
        Patchify(3, 8, 2, 4),
        nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(48, 8, 1)),
        "a PixelShuffle or Upsample has the factor or mode 2 where the layer has stride=(4, 4)",
    ),
    "padding before PixelShuffle": (
        Unpatchify(8, 3, 2, 2, bias="patch"),
        nn.Conv2d(8, 12, 1, padding=1),
        "the Conv2d has padding=(1, 1) where the layer has padding='valid'",
    ),
    "padding of a wide convolution before PixelShuffle": (
        Unpatchify(8, 3, 2, 6, 2, bias="patch", padding="same"),
        nn.Conv2d(8, 12, 3, padding=0),
        "the Conv2d has padding=(0, 0) where the layer has padding='same' (it is padding=((4, 4), "
        "(4, 4)) of a layer)",
    ),
    "own forward": (
        unpatchify(),
        own_forward(nn.ConvTranspose2d)(8, 3, (4, 2), (4, 2)),
        HEAD + "a `forward` of its own, that of Own",
    ),
    "own convolution": (
        Patchify(3, 8, 2, 4),
        own_convolution(nn.Conv2d)(3, 8, 4, 4),
        "the Conv2d has a `_conv_forward` of its own, that of Own",
    ),
    "parametrization": (
        unpatchify(),
        clamped(head()),
        HEAD
        + "a weight that is parametrized by ['_WeightNorm', 'Clamp'], not by weight_norm alone",
    ),
    "spectral norm": (
        unpatchify(),
        nn.utils.parametrizations.spectral_norm(head()),
        "'weight' is missing; 'parametrizations.weight.original' is unexpected",
    ),
}


@pytest.mark.parametrize(("layer", "module", "problem"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_is_an_error(layer, module, problem):
    assert problem in refusal(layer, module)


# --- where the module is ---


def test_the_only_module_under_the_prefix_is_found():
    embed = nn.Sequential(nn.Identity(), nn.ModuleDict({"proj": nn.Conv2d(3, 8, (4, 2), (4, 2))}))
    model = nn.ModuleDict({"embed": embed, "head": nn.Linear(8, 5)})
    layer = SMALL.patchify()
    load_torch_weights(layer, model, "embed")
    expected = {name: tensor.numpy() for name, tensor in embed[1]["proj"].state_dict().items()}
    assert bits(to_torch_weights(layer)) == bits(expected)


def test_an_error_names_the_module_and_the_values():
    model = nn.ModuleDict({"decoder": nn.ModuleDict({"up": head((4, 2), (2, 2))})})
    assert refusal(built(unpatchify()), model, prefix="decoder") == (
        "`source` must hold the weights of the layer, and nothing else under the prefix: the "
        "ConvTranspose2d 'decoder.up' has stride=(2, 2) where the layer has (4, 2). Received: "
        "prefix='decoder.', names that begin with ['decoder']. Name the module by `prefix`; "
        "construct the layer with its arguments, `bias` and `dtype`; cast arrays whose digits may "
        "be lost. It is unchanged."
    )


@pytest.mark.parametrize("prefix", ["", "up"])
def test_one_module_among_several_is_not_guessed(prefix):
    model = nn.ModuleDict({"up": nn.Sequential(head(), nn.GELU(), nn.Linear(3, 3))})
    dotted = prefix and "up."
    assert refusal(unpatchify(), model, prefix=prefix) == (
        "`source` must hold exactly one Conv, ConvTranspose or Linear under the prefix. Received: "
        f"prefix={dotted!r}, under which are ['up.0.', 'up.2.']. "
        "Name the one to load by `prefix`."
    )


def test_a_module_without_any():
    text = refusal(unpatchify(), nn.Sequential(nn.LayerNorm(3)), prefix="head")
    assert "Received: prefix='head.', under which are []. Name" in text


def test_weights_beside_the_module_are_an_error():
    text = refusal(unpatchify(), nn.Sequential(head(), nn.LayerNorm(3)))
    assert "prefix: '1.weight' is unexpected; '1.bias' is unexpected. Received" in text


def test_a_linear_module_has_a_shape_only():
    layer = Unpatchify(8, 3, 2, (4, 2), (2, 2), bias="patch", padding="same", overlap="mean")
    load_torch_weights(layer, nn.Linear(8, 24))
    text = refusal(layer, nn.Linear(8, 23))
    assert "'weight' has the shape (23, 8) instead of (24, 8)" in text
