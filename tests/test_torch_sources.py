"""Mappings and files as sources of PyTorch weights; a wrong one changes nothing."""

import ast
import pathlib
import pickle
import re
import sys

import keras
import numpy as np
import pytest
from cases import normal
from torch_cases import SMALL, bits, built, checkpoint, refusal

from keras_unpatchify import _torch_weights, load_torch_weights, to_torch_weights


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="writes the file")


@pytest.fixture(params=["unbuilt", "built"])
def unpatchify(request):
    layer = SMALL.unpatchify(name="head")
    return layer if request.param == "unbuilt" else built(layer)


# --- names ---


@pytest.mark.parametrize("module", ["", "deconv.", "conv."])
@pytest.mark.parametrize("prefix", ["", "head", "model.head."])
def test_the_module_is_found_under_the_prefix(module, prefix):
    path = prefix and prefix.rstrip(".") + "."
    others = {"header.weight": None, "encoder.bias": None} if prefix else {}
    layer = SMALL.unpatchify()
    load_torch_weights(layer, checkpoint(prefix=path + module) | others, prefix)
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


# --- wrong mappings ---


def test_one_error_lists_all_that_is_wrong(unpatchify):
    source = {
        "weight": normal((8, 3, 4, 3), 0),
        "scale": normal((3,), 0),
        "bias": normal((4,), 0).astype("float64"),
    }
    assert refusal(unpatchify, source) == (
        "`source` must hold the weights of the layer, and nothing else under the prefix: 'scale' "
        "is unexpected; 'weight' has the shape (8, 3, 4, 3) instead of (8, 3, 4, 2); 'bias' has "
        "the shape (4,) instead of (3,); 'bias' is float64 instead of float32 or a narrower "
        "float. Received: prefix='', names that begin with ['bias', 'scale', 'weight']. Name the "
        "module by `prefix`; construct the layer with its arguments, `bias` and `dtype`; cast "
        "arrays whose digits may be lost. It is unchanged."
    )


def test_a_wrong_prefix(unpatchify):
    source = checkpoint(prefix="decoder.head.") | checkpoint(prefix="encoder.")
    text = refusal(unpatchify, source, prefix="haed")
    assert (
        "prefix: 'haed.weight' is missing; 'haed.bias' is missing. Received: prefix='haed.'" in text
    )
    assert "names that begin with ['decoder', 'encoder']" in text


def test_a_bias_too_many_or_too_few(unpatchify):
    source = checkpoint()
    del source["bias"]
    assert "prefix: 'bias' is missing. Received" in refusal(unpatchify, source)
    text = refusal(SMALL.unpatchify(bias=False), checkpoint())
    assert "prefix: 'bias' is unexpected. Received" in text


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
    source = {"weight": normal((8, 24), 0), "bias": normal((24,), 0)}
    text = refusal(SMALL.unpatchify(bias="patch"), source)
    assert "'weight' has the shape (8, 24) instead of (24, 24)." in text
    source = {"weight": normal((25, 8), 0), "bias": normal((8,), 0)}
    text = refusal(SMALL.patchify(), source)
    assert "'weight' has the shape (25, 8) instead of (8, 8)." in text


@pytest.mark.parametrize("shape", [(), (24,), (8, 3, 4), (8, 3, 4, 2, 1)])
def test_a_weight_of_another_rank(shape):
    source = checkpoint() | {"weight": np.zeros(shape, "float32")}
    text = refusal(SMALL.unpatchify(), source)
    expected = "(None, 3, 4, 2) or (24, None) or (24, None, 1, 1)"
    assert f"'weight' has the shape {shape} instead of {expected}." in text
    text = refusal(SMALL.unpatchify(in_features=8), source)
    assert "instead of (8, 3, 4, 2) or (24, 8) or (24, 8, 1, 1)." in text


def test_a_weight_of_single_positions():
    source = checkpoint() | {"weight": normal((23, 8, 1, 1), 0)}
    text = refusal(SMALL.unpatchify(), source)
    assert "'weight' has the shape (23, 8, 1, 1) instead of (24, 8, 1, 1)" in text
    text = refusal(SMALL._replace(patch=(1, 1), stride=(1, 1)).unpatchify(), source)
    assert "'weight' has the shape (23, 8, 1, 1) instead of (23, 3, 1, 1)" in text


def test_pixels_are_shuffled_by_whole_strides():
    layer = built(SMALL._replace(stride=(3, 2)).unpatchify(bias="patch"))
    source = {"weight": normal((18, 8, 1, 1), 0), "bias": normal((18,), 0)}
    problem = (
        "PixelShuffle needs patches of whole strides, and the layer has patch_size=(4, 2), "
        "stride=(3, 2)"
    )
    assert f"under the prefix: {problem}. Received" in refusal(layer, source)
    with pytest.raises(ValueError) as info:
        to_torch_weights(layer, layout="pixel_shuffle")
    assert str(info.value) == f"{problem}. Received: layout='pixel_shuffle'. Use layout='conv'."


def test_a_patch_of_one_position_is_not_shuffled():
    layer = built(SMALL._replace(patch=(1, 1), stride=(1, 1)).unpatchify())
    with pytest.raises(ValueError) as info:
        to_torch_weights(layer, layout="pixel_shuffle")
    assert str(info.value) == (
        "`layout` must be one of 'conv', 'linear'. Received: layout='pixel_shuffle'"
    )


def test_an_empty_weight():
    source = checkpoint() | {"weight": np.zeros((0, 3, 4, 2), "float32")}
    text = refusal(SMALL.unpatchify(), source)
    assert "'weight' has the shape (0, 3, 4, 2) instead of (1, 3, 4, 2)." in text


def normalised(**changes):
    weight = checkpoint()["weight"]
    names = {"weight_g": normal((8, 1, 1, 1), 0), "weight_v": weight, "bias": normal((3,), 1)}
    return {name: x for name, x in (names | changes).items() if x is not None}


@pytest.mark.parametrize("shape", [(8,), (8, 3, 1, 1), (1, 1, 1, 1), (1, 8, 1, 1)])
def test_a_magnitude_of_another_shape(unpatchify, shape):
    assert (
        f"prefix: 'weight_g' has the shape {shape} instead of that of 'weight_v', (8, 3, 4, 2), "
        "with 1 for all axes but one. Received"
    ) in refusal(unpatchify, normalised(weight_g=np.zeros(shape, "float32")))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weight_g": None}, "'weight_g' is missing"),
        ({"weight_v": None}, "'weight_v' is missing"),
        ({"weight": normal((8, 3, 4, 2), 0)}, "'weight_g' is unexpected; 'weight_v' is unexpected"),
        ({"weight_g": np.zeros((), "float64")}, "'weight_g' is float64 instead of float32"),
        ({"weight_v": np.zeros((8, 3, 4, 3), "float32")}, "'weight_v' has the shape (8, 3, 4, 3)"),
        # of spectral normalisation
        ({"weight_g": None, "weight_orig": None, "weight_u": 0}, "'weight_u' is unexpected"),
    ],
)
def test_a_normalised_weight_that_is_not_whole(unpatchify, changes, problem):
    assert problem in refusal(unpatchify, normalised(**changes))


def test_what_is_no_array(unpatchify):
    text = refusal(unpatchify, {"weight": "zeros", "bias": None})
    assert "'weight' has the shape () instead of" in text
    assert "'bias' is object instead of float32 or a narrower float" in text


# --- wrong arguments ---


@pytest.mark.parametrize(
    "source", [None, 3, [("weight", 1)], "weights.h5", pathlib.Path("model.bin"), "pt"]
)
def test_what_is_no_source(unpatchify, source):
    assert refusal(unpatchify, source) == (
        "`source` must be a mapping of names to arrays, a PyTorch module, or the path of a "
        f".safetensors, .pt or .pth file. Received: source={source!r}"
    )


def test_what_is_no_prefix(unpatchify):
    text = "`prefix` must be a string. Received: prefix=None"
    assert refusal(unpatchify, checkpoint(), prefix=None) == text


@pytest.mark.parametrize(
    "order", ["hwc", "", 0, (0, 1), (0, 1, 3), (0, 0, 1), (0, 1, 2, 3), ("h", "w", "c"), {0, 1, 2}]
)
def test_what_is_no_patch_order(unpatchify, order):
    text = (
        "`patch_order` must be 'channels_last', 'channels_first', or a permutation of (0, 1, 2), "
        f"the axes of the patch and the channel. Received: patch_order={order!r}"
    )
    assert refusal(unpatchify, checkpoint(), patch_order=order) == text
    with pytest.raises(ValueError) as info:
        to_torch_weights(unpatchify, patch_order=order)
    assert str(info.value) == text


def test_what_is_no_layout(unpatchify):
    with pytest.raises(ValueError) as info:
        to_torch_weights(unpatchify, layout="fold")
    assert str(info.value) == (
        "`layout` must be one of 'conv', 'linear', 'pixel_shuffle'. Received: layout='fold'"
    )


def test_other_layers():
    layer = keras.layers.Dense(3, name="dense")
    text = f"`layer` must be a Patchify or an Unpatchify. Received: layer={layer!r}"
    assert refusal(layer, {}) == text
    with pytest.raises(ValueError) as info:
        to_torch_weights(layer)
    assert str(info.value) == text


def test_a_layer_that_has_no_weights_yet():
    layer = SMALL.unpatchify(name="head")
    with pytest.raises(ValueError) as info:
        to_torch_weights(layer)
    assert str(info.value) == (
        "`layer` must be built. Received: layer=<Unpatchify name=head, built=False>. "
        "Call it, or load weights into it, first."
    )


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
    text = re.escape(
        "`source` must be a complete file that holds only named tensors. "
        f"Received: source={str(path)!r} (). Fetch it again. If it holds other objects and you "
        "trust it, load it yourself, and pass a mapping of names to arrays."
    )
    assert re.fullmatch(text.replace(r"\(\)", r"\(\w+\)"), refusal(unpatchify, path))


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
    assert "must be a complete file that holds only named tensors" in refusal(unpatchify, path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(harmful["bias"]))
    assert trace.exists()  # the code would have worked


def test_every_pytorch_is_asked_for_weights_only_and_on_the_cpu(torch, monkeypatch):
    """Before 2.6 it does not do so by itself."""
    asked = {}
    monkeypatch.setattr(torch, "load", lambda path, **options: asked.update(options) or {})
    refusal(SMALL.unpatchify(), "a.pt")
    assert asked == {"map_location": "cpu", "weights_only": True}


def test_a_file_of_something_else(unpatchify, torch, tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "a.pt")
    text = refusal(unpatchify, tmp_path / "a.pt")
    assert "must be a complete file that holds only named tensors" in text


@pytest.mark.parametrize(
    ("suffix", "package"), [(".safetensors", "safetensors"), (".pt", "torch"), (".pth", "torch")]
)
def test_a_file_that_is_not_there(unpatchify, tmp_path, suffix, package):
    pytest.importorskip(package, reason="reads the file")
    refusal(unpatchify, tmp_path / f"a{suffix}", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("suffix", "package"), [(".safetensors", "safetensors"), (".pt", "torch"), (".pth", "torch")]
)
def test_a_reader_that_is_not_installed(unpatchify, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(unpatchify, f"a{suffix}", error=ImportError) == (
        f"The package {package} reads {suffix} files. Received: source='a{suffix}'. "
        f"Install it with `pip install {package}`, or pass a mapping of names to arrays."
    )


def imported_at_once(text):
    """The packages that a module imports when it is imported itself."""
    nodes = [
        node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    modules = [
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in nodes
        for alias in node.names
    ]
    return {module.split(".")[0] for module in modules}


def test_neither_pytorch_nor_safetensors_is_imported_before_a_file_asks_for_it():
    rooms = pathlib.Path(_torch_weights.__file__).parent.glob("_torch_*.py")
    packages = set().union(*(imported_at_once(room.read_text()) for room in rooms))
    assert packages - sys.stdlib_module_names == {"keras", "keras_unpatchify", "numpy"}
    assert imported_at_once("import os, torch.nn\nfrom safetensors.numpy import load_file") >= {
        "torch",
        "safetensors",
    }
