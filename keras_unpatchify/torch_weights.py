"""The weights of a PyTorch checkpoint in a layer, and back: the same numbers, their axes in another order.

Each axis has a letter: `a`, `b`, `c` for the patch, `s` for the channels of the signal, `t` for those of a token. A
layer keeps the axes of its kernel and of its bias in alphabetical order; PyTorch's modules permute and merge them.
"""

import importlib
import math
import os
from collections.abc import Mapping

import keras
import numpy as np

from keras_unpatchify import geometry
from keras_unpatchify.patchify import Patchify
from keras_unpatchify.unpatchify import Unpatchify

PATCH_ORDERS = ("channels_last", "channels_first")

# The modules, below the prefix, that may hold the weight and the bias.
MODULES = ("", "deconv.", "conv.")


def load_torch_weights(layer, source, prefix="", patch_order="channels_last"):
    """Loads the weights of a PyTorch module into a layer, which then computes the same function.

    The number of the weight's axes tells the module, with `f = prod(patch_size)`:

    - `data_dim + 2`: for Unpatchify a `ConvTransposeNd`, `(in_features, out_features, *patch_size)`; for Patchify a
      `ConvNd`, `(out_features, in_features, *patch_size)`.
    - 2: a `Linear`; for Unpatchify `(f * out_features, in_features)`, its output rearranged to a signal (DiT, MAE); for
      Patchify `(out_features, f * in_features)`, of flattened patches.

    The bias of a linear head, `(f * out_features,)`, is that of `bias="patch"`; the bias of a transposed convolution,
    `(out_features,)`, that of `bias=True`. Each loads into the other only where patches tile (`stride` is `patch_size`)
    and the bias is constant over the patch: the signal of the default size is then the same.

    Nothing is rounded: narrower floats are widened, and any others are an error.

    Args:
        layer: a `Patchify` or `Unpatchify`; one that is not built is built, `in_features=None` read from the weight.
        source: a mapping of names to arrays (of NumPy, of PyTorch, anything with `__array__`), with dotted names for
            mappings in it; or the path of a file of one, `.safetensors`, or `.pt` or `.pth`, which is read with
            `weights_only=True` and never otherwise (safe from PyTorch 2.6 on: CVE-2025-32434).
        prefix: where to look, such as `"decoder_pred"`; other names are ignored. There must be `weight`, and `bias` if
            the layer has one, as they are or in `deconv.` or `conv.`, and nothing else.
        patch_order: how a `Linear` merges its axes: `"channels_last"`, (*patch, channel), or `"channels_first"`.

    Raises:
        ValueError: for all that is missing, unexpected or does not fit; the layer is then unchanged.
        ImportError: if the package that reads the file is missing.

    Example:
        >>> head = Unpatchify(512, 3, data_dim=2, patch_size=16, bias="patch")
        >>> load_torch_weights(head, "mae_visualize_vit_base.pth", prefix="model.decoder_pred")
    """
    layouts, prefix = _layouts(layer, patch_order), _dotted(prefix)
    source = _open(source, prefix)
    names = _names(layer, source, prefix)
    arrays = {kind: _as_array(source[name]) for kind, name in names.items() if name in source}
    layouts = [x for x in layouts.values() if len(x["weight"]) == np.ndim(arrays.get("weight"))] or [*layouts.values()]
    sizes = _sizes(layer, layouts, arrays.get("weight"))
    problems = [*_wrong_names(source, prefix, names), *_wrong_arrays(layer, arrays, names, layouts, sizes)]
    if problems:
        raise ValueError(
            f"`source` must hold the weights of the layer, and nothing else under the prefix: {'; '.join(problems)}. "
            f"Received: prefix={prefix!r}, names that begin with {sorted({name.split('.')[0] for name in source})}. "
            "Name the module by `prefix`; construct the layer with its sizes, `bias` and `dtype`. It is unchanged."
        )
    axes = layouts[0]
    _assign(layer, **{kind: _rearrange(x, axes[kind], _own(axes[kind]), sizes) for kind, x in arrays.items()})


def to_torch_weights(layer, prefix="", layout="conv", patch_order="channels_last"):
    """The weights of a layer as a PyTorch module keeps them, bit for bit; `load_torch_weights` is the inverse.

    Args:
        layer: a `Patchify` or `Unpatchify` that is built.
        prefix: the module's name, such as `"decoder_pred"`.
        layout: `"conv"` for a `ConvNd` or `ConvTransposeNd`, `"linear"` for a `Linear`, in the shapes given there.
        patch_order: how a `Linear` merges its axes: `"channels_last"`, (*patch, channel), or `"channels_first"`.

    Returns:
        A dict of new NumPy arrays of the layer's dtype: `weight` and, if the layer has one, `bias`, under the prefix.

    Raises:
        ValueError: if the layer is not built, or the module has no bias that does the same as the layer's.
    """
    layouts, prefix = _layouts(layer, patch_order), _dotted(prefix)
    axes = layouts[geometry.one_of("layout", layout, tuple(layouts))]
    if not layer.built:
        raise ValueError(f"`layer` must be built. Received: layer={layer!r}. Call it, or load weights into it, first.")
    sizes = _sizes(layer, [axes])
    arrays = {"weight": keras.ops.convert_to_numpy(layer.kernel)}
    if layer.use_bias:
        bias = keras.ops.convert_to_numpy(layer.bias)
        remedy = f"Use layout={'conv' if layer.use_bias is True else 'linear'!r}."
        arrays["bias"] = _fit_bias(layer, bias, _shape(_own(axes["bias"]), sizes), remedy)
    arrays = {kind: _rearrange(x, _own(axes[kind]), axes[kind], sizes) for kind, x in arrays.items()}
    return {prefix + kind: np.array(x, order="C") for kind, x in arrays.items()}


def _layouts(layer, patch_order):
    """How PyTorch's modules keep the weights of the layer: each axis as the letters that are merged into it."""
    if not isinstance(layer, (Patchify, Unpatchify)):
        raise ValueError(f"`layer` must be a Patchify or an Unpatchify. Received: layer={layer!r}")
    geometry.one_of("patch_order", patch_order, PATCH_ORDERS)
    patch = "abc"[: layer.data_dim]
    position = patch + "s" if patch_order == "channels_last" else "s" + patch
    conv = ("t", "s", *patch)
    if isinstance(layer, Unpatchify):
        return {"conv": {"weight": conv, "bias": ("s",)}, "linear": {"weight": (position, "t"), "bias": (position,)}}
    return {"conv": {"weight": conv, "bias": ("t",)}, "linear": {"weight": ("t", position), "bias": ("t",)}}


def _own(axes):
    """The axes as a layer keeps them."""
    return tuple(sorted("".join(axes)))


def _shape(axes, sizes):
    """The sizes of axes; `None` where that of a letter is not known."""
    numbers = [[sizes[letter] for letter in axis] for axis in axes]
    return tuple(None if None in n else math.prod(n) for n in numbers)


def _rearrange(array, before, after, sizes):
    """The array with the axes `before` as one with the axes `after`, of the same letters."""
    letters = "".join(before)
    array = array.reshape([sizes[letter] for letter in letters])
    return array.transpose([letters.index(letter) for letter in "".join(after)]).reshape(_shape(after, sizes))


def _sizes(layer, layouts, weight=None):
    """The size of each letter; `in_features`, where the layer leaves it open, as a weight of the only layout has it."""
    sizes = dict(zip(_own(layouts[0]["weight"]), layer._kernel_shape(layer.channels)))
    for letter in [letter for letter, size in sizes.items() if size is None and len(layouts) == 1]:
        entries, axis = next((n, axis) for n, axis in zip(weight.shape, layouts[0]["weight"]) if letter in axis)
        sizes[letter] = max(entries // math.prod(sizes[other] for other in axis if other != letter), 1)
    return sizes


def _fit_bias(layer, bias, shape, remedy):
    """A bias `(channel,)` or `(*patch, channel)` in the other shape, if it then does the same at every position."""
    if bias.ndim == len(shape):
        return bias
    per_channel = bias.reshape(-1, bias.shape[-1])[0]
    if layer.stride != layer.patch_size or (bias != per_channel).any():
        raise ValueError(
            "A bias per channel does the same as one per position of the patch only where patches tile and the latter "
            f"is constant over the patch. Received: a bias of shape {bias.shape} for the shape {tuple(shape)}, "
            f"patch_size={layer.patch_size}, stride={layer.stride}. {remedy}"
        )
    return np.broadcast_to(per_channel, shape)


def _assign(layer, weight, bias=None):
    """Assigns arrays of the layer's own axes; the last check comes before the first change."""
    if layer.use_bias:
        remedy = f"Construct the layer with bias={'patch' if layer.use_bias is True else True!r}. It is unchanged."
        bias = _fit_bias(layer, bias, layer._bias_shape(), remedy)
    if not layer.built:
        in_features = weight.shape[-1] if isinstance(layer, Unpatchify) else weight.shape[-2]
        layer.build((*(None,) * (layer.data_dim + 1), in_features))
    layer.kernel.assign(weight.astype(layer.variable_dtype, order="C"))
    if layer.use_bias:
        layer.bias.assign(bias.astype(layer.variable_dtype, order="C"))


def _dotted(prefix):
    if not isinstance(prefix, str):
        raise ValueError(f"`prefix` must be a string. Received: prefix={prefix!r}")
    return prefix if prefix.endswith(".") or not prefix else prefix + "."


def _names(layer, source, prefix):
    """What the weight and the bias are called."""
    module = next((module for module in MODULES if f"{prefix}{module}weight" in source), "")
    return {kind: f"{prefix}{module}{kind}" for kind in ("weight", "bias") if kind == "weight" or layer.use_bias}


def _wrong_names(source, prefix, names):
    yield from (f"{name!r} is missing" for name in names.values() if name not in source)
    yield from (f"{x!r} is unexpected" for x in source if x.startswith(prefix) and x not in names.values())


def _wrong_arrays(layer, arrays, names, layouts, sizes):
    for kind, array in arrays.items():
        shapes = {_shape(layout[kind], sizes): None for layout in layouts}
        if array.shape not in shapes:
            yield f"{names[kind]!r} has the shape {array.shape} instead of {' or '.join(map(str, shapes))}"
        if "float" not in array.dtype.name or not np.can_cast(array.dtype, layer.variable_dtype):
            yield f"{names[kind]!r} is {array.dtype.name}, which {layer.variable_dtype} does not hold without loss"


def _as_array(x):
    """The array of the same dtype."""
    x = x.detach().cpu() if hasattr(x, "detach") else x
    try:
        return np.asarray(x)
    except TypeError:  # PyTorch's, for floats that Keras adds to NumPy's; float32 holds them all
        return np.asarray(x.float()).astype(str(x.dtype).removeprefix("torch."))


def _open(source, prefix):
    """A dict of dotted names and arrays; what is outside the prefix may be left unread."""
    if isinstance(source, Mapping):
        return dict(_flatten(source))
    suffix = os.path.splitext(source)[1] if isinstance(source, (str, os.PathLike)) else None
    if suffix not in READERS:
        raise ValueError(
            "`source` must be a mapping of names to arrays, or the path of a .safetensors, .pt or .pth file. "
            f"Received: source={source!r:.200}"
        )
    package, read = READERS[suffix]
    try:
        return read(importlib.import_module(package), os.fspath(source), prefix)
    except ImportError as error:
        raise ImportError(
            f"The package {package} reads {suffix} files. Received: source={str(source)!r}. Install it with "
            f"`pip install {package}`, or pass a mapping of names to arrays."
        ) from error
    except FileNotFoundError:
        raise
    except Exception as error:  # of a dozen kinds, for a file that is cut short or holds more than tensors
        raise ValueError(
            f"`source` must be a whole file, of named tensors alone. Received: source={str(source)!r} "
            f"({type(error).__name__}). Fetch it again, or pass a mapping of names to arrays."
        ) from error


def _flatten(arrays, prefix=""):
    for name, array in arrays.items():
        yield from _flatten(array, f"{prefix}{name}.") if isinstance(array, Mapping) else [(f"{prefix}{name}", array)]


def _read_safetensors(safetensors, path, prefix):
    with safetensors.safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) if name.startswith(prefix) else None for name in file.keys()}  # noqa: SIM118


def _read_torch(torch, path, prefix):
    return dict(_flatten(torch.load(path, map_location="cpu", weights_only=True)))


READERS = {".safetensors": ("safetensors", _read_safetensors)} | dict.fromkeys((".pt", ".pth"), ("torch", _read_torch))
