"""A PyTorch module as a source of weights: which one holds them, how it differs from a layer.

Of PyTorch nothing is imported: whoever has a module has imported it.
"""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from keras_unpatchify._sizes import Axis
from keras_unpatchify._torch_layouts import Layer
from keras_unpatchify._unpatchify import Unpatchify

CONVOLUTIONS = tuple(f"Conv{kind}{d}d" for kind in ("", "Transpose") for d in (1, 2, 3))
KINDS = ("Linear", *CONVOLUTIONS)


class Found(NamedTuple):
    """The module that holds the weights."""

    path: str  # ends with a dot, or is empty
    kind: str  # one of KINDS
    module: Any
    factors: tuple[Any, ...]  # of the PixelShuffle, PixelUnshuffle and Upsample modules beside it

    def __str__(self) -> str:
        return f"the {self.kind} {self.path[:-1]!r}" if self.path else f"the {self.kind}"


def is_module(source: Any) -> bool:
    """Whether a source is a PyTorch module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)


def find(source: Any, prefix: str) -> Found:
    """The only convolution or Linear of a PyTorch module under the prefix."""
    torch, modules, factors = sys.modules["torch"], [], []
    if isinstance(source, torch.jit.ScriptModule):
        raise ValueError(
            "`source` must be a module whose classes are known. Received: a scripted module, which "
            "hides them. Pass its `state_dict()`."
        )
    nn = torch.nn
    for name, module in source.named_modules():
        path = f"{name}." if name else ""
        if not path.startswith(prefix):
            continue
        modules += [(path, x, module) for x in KINDS if isinstance(module, getattr(nn, x))]
        if isinstance(module, nn.PixelShuffle):
            factors.append(module.upscale_factor)
        if isinstance(module, nn.PixelUnshuffle):
            factors.append(module.downscale_factor)
        if isinstance(module, nn.Upsample):
            factors.append(module.scale_factor if "nearest" in module.mode else module.mode)
    if len(modules) != 1:
        raise ValueError(
            "`source` must hold exactly one Conv, ConvTranspose or Linear under the prefix. "
            f"Received: prefix={prefix!r}, under which are {[path for path, _, _ in modules]}. "
            "Name the one to load by `prefix`."
        )
    return Found(*modules[0], tuple(factors))


def differences(
    found: Found, layer: Layer, layout: str | None, taps: tuple[int, ...]
) -> Iterator[str]:
    """What the module does otherwise than the layer.

    `layout` is that of the weight, if known. `taps` are those of a convolution beside others.
    """
    if layout is None:
        what = f"{type(layer).__name__}(data_dim={layer.data_dim})"
        yield f"{found} does not compute what {what} computes"
    yield from _own_code(found)
    for factor in found.factors:
        if layer.stride != (factor if isinstance(factor, tuple) else (factor,) * layer.data_dim):
            yield (
                f"a PixelShuffle or Upsample has the factor or mode {factor} where the layer has "
                f"stride={layer.stride}"
            )
    overlapping = any(axis.patch > axis.stride for axis in layer.axes)
    if layout == "conv" and layer.overlap == "mean" and overlapping:
        yield f"{found} sums where patches overlap, the layer has overlap='mean'"
    if layout not in (None, "linear") and found.kind in CONVOLUTIONS:
        yield from _arguments(found, layer, layout, taps)


def _own_code(found: Found) -> Iterator[str]:
    """Code of the module's own, which may compute anything."""
    base = getattr(sys.modules["torch"].nn, found.kind)
    for method in ("forward", "_conv_forward"):
        if getattr(type(found.module), method, None) is not getattr(base, method, None):
            yield f"{found} has a `{method}` of its own, that of {type(found.module).__name__}"
    for name, chain in getattr(found.module, "parametrizations", {}).items():
        steps = [type(step).__name__ for step in chain]
        if (name, steps) != ("weight", ["_WeightNorm"]):
            yield f"{found} has a {name} that is parametrized by {steps}, not by weight_norm alone"


def _arguments(found: Found, layer: Layer, layout: str, taps: tuple[int, ...]) -> Iterator[str]:
    """Arguments of a convolution that are not those of the layer."""
    module, ones = found.module, (1,) * layer.data_dim
    if layout == "conv":
        owner, patch, stride = "the layer", layer.patch_size, layer.stride
    else:
        owner, patch, stride = "a convolution beside PixelShuffle or Upsample", taps, ones
    pads = _pads_of_module(module, layer, layout)
    expected = {"kernel_size": patch, "stride": stride, "dilation": ones, "groups": 1}
    if any(map(any, pads)):
        expected["padding_mode"] = "circular" if layer.padding == "circular" else "zeros"
    for name, value in expected.items():
        if getattr(module, name) != value:
            yield f"{found} has {name}={getattr(module, name)!r} where {owner} has {value!r}"
    if layer.padding == "circular" and layer.to_tokens and layout == "conv":
        yield from _other_start(found, layer, [before for before, _ in pads])
    elif pads != _pads_of_layer(layer):
        yield _padding_text(found, layer, pads)


def _other_start(found: Found, layer: Layer, starts: list[int]) -> Iterator[str]:
    """How a circular convolution begins elsewhere, or has fewer tokens."""
    text = f"{found} has padding={found.module.padding!r}"
    if any(2 * n < axis.patch - axis.stride for n, axis in zip(starts, layer.axes)):
        yield f"{text}, with which it drops tokens that the layer has"
        return
    shift = tuple(n - axis.reach(0)[0] for n, axis in zip(starts, layer.axes))
    if any(shift):
        yield (
            f"{text}, so that its patches begin elsewhere (load its `state_dict()`, and roll the "
            f"signal by {shift} before the layer)"
        )


def _padding_text(found: Found, layer: Layer, pads: tuple) -> str:
    """How the padding differs, and what to do about it."""
    module = found.module
    text = f"{found} has padding={module.padding!r}"
    if any(module.output_padding):
        text += f" and output_padding={module.output_padding!r}"
    text += f" where the layer has padding={layer.padding!r}"
    if min(map(min, pads)) >= 0:
        return f"{text} (it is padding={pads!r} of a layer)"
    return f"{text} (load its `state_dict()`, and ask for its size by `output_spatial_shape`)"


def _pads_of_module(module: Any, layer: Layer, layout: str) -> tuple[tuple[int, int], ...]:
    """What a convolution pads, and a transposed one crops, as the layer's `padding`."""
    if module.padding == "valid":
        pads = ((0, 0),) * layer.data_dim
    elif module.padding == "same":  # of stride 1 only
        pads = tuple(Axis(k, 1, "same").reach(0) for k in module.kernel_size)
    else:
        pads = tuple((p, p - more) for p, more in zip(module.padding, module.output_padding))
    if layout != "conv" and not layer.to_tokens:
        pads = tuple((k - 1 - a, k - 1 - b) for k, (a, b) in zip(module.kernel_size, pads))
    if layout != "pixel_shuffle":
        return pads
    return tuple((s * a, s * b) for s, (a, b) in zip(layer.stride, pads))


def _pads_of_layer(layer: Layer) -> tuple[tuple[int, int] | None, ...]:
    """What the layer pads or crops at its default size; None where that depends on the size.

    That is a Patchify with "same", unless the patch or the stride is 1.
    """
    return tuple(
        axis.of_grid(1).reach
        if isinstance(layer, Unpatchify) or axis.padding != "same"
        else (axis.reach(0) if 1 in (axis.patch, axis.stride) else None)
        for axis in layer.axes
    )
