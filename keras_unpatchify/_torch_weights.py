"""Takes weights from PyTorch to a layer, and back: the same numbers in another order."""

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import numpy as np

from keras_unpatchify import _arguments, _torch_layouts, _torch_modules, _torch_sources
from keras_unpatchify._torch_layouts import Layer, Layout, Order, Sizes

# The modules, below the prefix, that may hold the weight and the bias.
PATHS = ("", "deconv.", "conv.")


def load_torch_weights(
    layer: Layer,
    source: Mapping[str, Any] | str | os.PathLike[str] | Any,
    prefix: str = "",
    patch_order: Order = None,
    resize: Literal["nearest"] | None = None,
) -> None:
    """Loads the weights of a PyTorch module into a layer, which then computes the same function.

    The shape of the weight tells which module it is from. Below, `f = prod(patch_size)`:

    - `(in_features, out_features, *patch_size)`: a `ConvTranspose`, for Unpatchify.
    - `(out_features, in_features, *patch_size)`: a `Conv`, for Patchify.
    - `(f * out_features, in_features)`: a `Linear` whose output is rearranged to a signal, for
      Unpatchify.
    - `(out_features, f * in_features)`: a `Linear` of flattened patches, for Patchify.
    - `(prod(stride) * out_features, in_features, *k)`, `k = patch_size / stride`: a `Conv` before
      `PixelShuffle`, for Unpatchify. A padding of `p` is a layer with
      `padding=stride * (k - 1 - p)`.
    - `(out_features, prod(stride) * in_features, *k)`: a `Conv` after `PixelUnshuffle`, for
      Patchify. A padding of `p` is a layer with `padding=stride * p`.

    Where nothing is shuffled, the weight is that of a `ConvTranspose` or `Conv`. A square matrix is
    read as a `Linear` keeps it, `(out, in)`. The bias of a module that is rearranged to a signal is
    that of `bias="patch"` (if patches overlap, of one stride after the padding), every other one
    that of `bias=True`. Each loads into the other where what has a bias tiles and the bias is
    constant over it.

    Weight normalisation is folded: `weight_g` and `weight_v`, or `original0` and `original1` of
    `parametrizations.weight`. The product is computed in float64 and rounded once. Nothing else
    is rounded: narrower floats are widened, and any others are an error.

    Stride, padding, padding mode, dilation and groups are compared only if the source is a module,
    for names and shapes do not tell them. Nor do they tell a `Conv` from a `ConvTranspose` where
    both numbers of channels are equal. An activation around the module is never compared.

    Args:
        layer: a `Patchify` or `Unpatchify`. One that is not built is built, and `in_features=None`
            is read from the weight.
        source: one of

            - a mapping of names to arrays of any library. Nested mappings have dotted names;
            - the path of a file of such a mapping: `.safetensors`, or `.pt` or `.pth`, which is
              read with `weights_only=True` and never otherwise (safe from PyTorch 2.6 on:
              CVE-2025-32434);
            - a `torch.nn.Module` that is or holds exactly one `Conv`, `ConvTranspose` or `Linear`
              under the prefix.
        prefix: where to look, such as `"decoder_pred"`. Other names are ignored. Below the prefix,
            or below its `deconv.` or `conv.`, there must be the weight, a `bias` if the layer has
            one, and nothing else.
        patch_order: how a `Linear`, or a `Conv` beside a rearrangement, merges its axes:
            `"channels_last"`, (*patch, channel), `"channels_first"`, (channel, *patch), or a
            permutation of these axes, such as `(1, 0, 2)` for (width, height, channel). `None` is
            `"channels_last"` for a `Linear`, and for a `Conv` the order of `PixelShuffle`,
            `"channels_first"`.
        resize: `"nearest"` for a `Conv` of stride 1 behind a nearest `Upsample` by the stride, for
            Unpatchify: the weight is `(out_features, in_features, *(patch_size - stride + 1))`. It
            does not go back.

    Raises:
        ValueError: if anything is missing, unexpected or does not fit. The layer is unchanged.
        FileNotFoundError: if there is no such file.
        ImportError: if the package that reads the file is missing.

    Example:
        >>> head = Unpatchify(512, 3, data_dim=2, patch_size=16, bias="patch")
        >>> load_torch_weights(head, "mae_visualize_vit_base.pth", prefix="model.decoder_pred")
    """
    prefix = _checked(layer, prefix)
    layouts = _torch_layouts.layouts_of(layer, patch_order, resize)
    found = _torch_modules.find(source, prefix) if _torch_modules.is_module(source) else None
    state: Any = source
    if found:
        state = state.state_dict()
    paths = (found.path,) if found else tuple(prefix + path for path in PATHS)
    matching = {name: x for name, x in layouts.items() if not found or x.kind == found.kind}
    entries = _torch_sources.open_source(state, prefix)
    names = _torch_sources.names_of(entries, paths, layer.use_bias)
    present = [name for kind in names for name in names[kind] if name in entries]
    arrays = {name: _torch_sources.as_array(name, entries[name]) for name in present}

    weight = arrays.get(names["weight"][-1])
    layout = _torch_layouts.name_of(matching, weight, layer.data_dim)
    candidates = [layouts[layout]] if layout else list(layouts.values())
    sizes = [_torch_layouts.letter_sizes(layer, x, weight if layout else None) for x in candidates]
    dtype = _held_dtype(layer)
    problems = [
        *_torch_sources.wrong_names(entries, prefix, names),
        *_wrong_shapes(arrays, names, candidates, sizes),
        *_wrong_dtypes(layer, arrays, dtype),
        *_torch_layouts.unlike(layer, layout),
    ]
    if found:
        problems += _torch_modules.differences(found, layer, layout, candidates[0].taps)
    if problems:
        beginnings = {name.split(".")[0] for name in entries}
        raise ValueError(
            "`source` must hold the weights of the layer, and nothing else under the prefix: "
            f"{'; '.join(problems)}. Received: prefix={prefix!r}, names that begin with "
            f"{sorted(beginnings)}. Name the module by `prefix`; construct the layer with its "
            "arguments, `bias` and `dtype`; cast arrays whose digits may be lost. It is unchanged."
        )
    own = {}
    for kind, spelling in names.items():
        axes = getattr(candidates[0], kind)
        parts = [arrays[name] for name in spelling]
        array = _torch_sources.folded(parts[0], parts[1], dtype) if len(parts) == 2 else parts[0]
        own[kind] = _torch_layouts.rearrange(array, axes, _torch_layouts.own(axes), sizes[0])
    own["weight"] = _torch_layouts.tapped(layer, own["weight"], layout)
    _assign(layer, **own)


def to_torch_weights(
    layer: Layer,
    prefix: str = "",
    layout: str = "conv",
    patch_order: Order = None,
) -> dict[str, np.ndarray]:
    """The weights of a layer as a PyTorch module keeps them; `load_torch_weights` is the inverse.

    They are the same bit for bit. Weight normalisation is not undone.

    Args:
        layer: a `Patchify` or `Unpatchify` that is built.
        prefix: the module's name, such as `"decoder_pred"`.
        layout: `"conv"` for a `Conv` or `ConvTranspose`, `"linear"` for a `Linear`, and
            `"pixel_shuffle"` for a `Conv` before `PixelShuffle` or after `PixelUnshuffle`.
        patch_order: how the module merges its axes, as `load_torch_weights` says.

    Returns:
        `weight` and, if the layer has one, `bias`, under the prefix: new NumPy arrays of the
        layer's dtype. `torch.from_numpy` makes tensors of them, but not of bfloat16.

    Raises:
        ValueError: if the layer is not built, or no module of the layout computes the same. A
            `Conv` beside a rearrangement or a resize sums where patches overlap, and its bias fills
            one stride of each patch.

    Example:
        >>> head = Unpatchify(512, 3, data_dim=2, patch_size=16)
        >>> head.build((None, None, None, 512))
        >>> to_torch_weights(head, prefix="head")["head.weight"].shape
        (512, 3, 16, 16)
    """
    prefix = _checked(layer, prefix)
    layouts = _torch_layouts.layouts_of(layer, patch_order)
    if layout == "nearest":
        raise ValueError(
            "Weights do not go back to a resize and a convolution: a layer that was trained may "
            "have left what these can express. Received: layout='nearest'. Use layout='conv'."
        )
    chosen = layouts[_arguments.one_of("layout", layout, tuple(layouts))]
    if not layer.built:
        raise ValueError(
            f"`layer` must be built. Received: layer={layer!r}. "
            "Call it, or load weights into it, first."
        )
    for problem in _torch_layouts.unlike(layer, layout):
        raise ValueError(f"{problem}. Received: layout={layout!r}. Use layout='conv'.")
    sizes = _torch_layouts.letter_sizes(layer, chosen)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    arrays = {"weight": _torch_layouts.tapped(layer, kernel, layout)}
    if layer.use_bias:
        remedy = f"Use layout={'conv' if layer.use_bias is True else 'linear'!r}."
        shape = _torch_layouts.merged_shape(_torch_layouts.own(chosen.bias), sizes)
        bias = keras.ops.convert_to_numpy(layer.bias)
        arrays["bias"] = _fit_bias(layer, bias, shape, remedy)
    result = {}
    for kind, array in arrays.items():
        axes = getattr(chosen, kind)
        moved = _torch_layouts.rearrange(array, _torch_layouts.own(axes), axes, sizes)
        result[prefix + kind] = np.array(moved, order="C")
    return result


def _checked(layer: Layer, prefix: str) -> str:
    """The prefix with a dot at its end."""
    if not isinstance(layer, Layer):
        raise ValueError(
            "`layer` must be a Patchify or an Unpatchify. "
            f"Received: layer={_arguments.described(layer)}"
        )
    if not isinstance(prefix, str):
        raise ValueError(f"`prefix` must be a string. Received: prefix={prefix!r}")
    return prefix if prefix.endswith(".") or not prefix else f"{prefix}."


def _held_dtype(layer: Layer) -> str:
    """The dtype that variables really have: on jax without x64 it is float32 for float64."""
    probe = keras.ops.convert_to_tensor(np.zeros((), layer.variable_dtype), layer.variable_dtype)
    held = [layer.kernel.value, probe] if layer.built else [probe]
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in held]
    return min(dtypes, key=lambda dtype: np.dtype(dtype).itemsize)


def _fit_bias(layer: Layer, bias: np.ndarray, shape: tuple[int, ...], remedy: str) -> np.ndarray:
    """A bias in another shape, if it then does the same.

    It is `(channel,)`, `(*patch, channel)`, or `(*stride, channel)` for one stride of the patch.
    """
    if bias.shape == shape:
        return bias
    if 1 in (bias.ndim, len(shape)):
        rule = (
            "A bias per channel does the same as one per position of the patch only where patches "
            "tile and the latter is constant over the patch"
        )
        per_channel = bias.reshape(-1, bias.shape[-1])[0]
        if layer.stride in (bias.shape[:-1], shape[:-1]) and (bias == per_channel).all():
            return np.broadcast_to(per_channel, shape)
    else:
        rule = (
            "The bias of a convolution before PixelShuffle fills one stride of each patch, after "
            "the padding. It does the same as one of 'patch' only where `before <= patch_size - "
            "stride <= before + after` and the latter is zero elsewhere"
        )
        rests = [axis.patch - axis.stride for axis in layer.axes]
        crops = [axis.of_grid(1).reach for axis in layer.axes]
        if all(before <= n <= before + after for n, (before, after) in zip(rests, crops)):
            ends = [*((before, n - before) for n, (before, _) in zip(rests, crops)), (0, 0)]
            if bias.size < math.prod(shape):
                return np.pad(bias, ends)
            part = bias[tuple(slice(front, -back or None) for front, back in ends)]
            if (np.pad(part, ends) == bias).all():
                return part
    raise ValueError(
        f"{rule}. Received: a bias of shape {bias.shape} for the shape {shape}, "
        f"patch_size={layer.patch_size}, stride={layer.stride}, padding={layer.padding!r}. {remedy}"
    )


def _assign(layer: Layer, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
    """Assigns arrays of the layer's own axes; the last check comes before the first change."""
    if bias is not None:
        other = "patch" if layer.use_bias is True else True
        remedy = f"Construct the layer with bias={other!r}. It is unchanged."
        bias = _fit_bias(layer, bias, layer._bias_shape(), remedy)
    if not layer.built:
        layer._build_with(weight.shape[-2 if layer.to_tokens else -1])
    layer.kernel.assign(weight.astype(layer.variable_dtype, order="C"))
    if bias is not None:
        layer.bias.assign(bias.astype(layer.variable_dtype, order="C"))


def _wrong_shapes(
    arrays: dict[str, np.ndarray],
    names: _torch_sources.Names,
    candidates: list[Layout],
    sizes: list[Sizes],
) -> Iterator[str]:
    for kind, spelling in names.items():
        name = spelling[-1]
        shapes = [
            _torch_layouts.merged_shape(getattr(x, kind), n) for x, n in zip(candidates, sizes)
        ]
        if name in arrays and arrays[name].shape not in shapes:
            text = " or ".join(dict.fromkeys(map(str, shapes)))
            yield f"{name!r} has the shape {arrays[name].shape} instead of {text}"
        if len(spelling) == 2 and all(part in arrays for part in spelling):
            yield from _torch_sources.wrong_magnitude(spelling, arrays)


def _wrong_dtypes(layer: Layer, arrays: dict[str, np.ndarray], dtype: str) -> Iterator[str]:
    why = ""
    if dtype != layer.variable_dtype:
        why = (
            f" (the layer's dtype is {layer.variable_dtype}, but its variables hold {dtype}; "
            "on jax, enable x64)"
        )
    for name, array in arrays.items():
        if "float" not in array.dtype.name or not np.can_cast(array.dtype, dtype):
            yield f"{name!r} is {array.dtype.name} instead of {dtype} or a narrower float{why}"
