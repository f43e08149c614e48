"""How PyTorch's modules keep the weights of a layer: the same axes, permuted and merged.

Each axis has a letter: `a`, `b`, `c` for the patch, `s` for the channels of the signal, `t` for
those of a token. Where a module convolves beside a rearrangement or a resize, `A`, `B`, `C` are the
taps of its kernel. A layer keeps the axes of its kernel and of its bias in alphabetical order, and
merges `A` and `a`.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_unpatchify import _arguments, _kernels
from keras_unpatchify._patchify import Patchify
from keras_unpatchify._sizes import Shape, Size
from keras_unpatchify._unpatchify import Unpatchify

Layer = Patchify | Unpatchify
Order = str | Sequence[int] | None
Sizes = dict[str, Size]


class Layout(NamedTuple):
    """The axes of a module's weight and bias, each as the letters that are merged into it."""

    kind: str
    weight: tuple[str, ...]
    bias: tuple[str, ...]
    taps: tuple[int, ...] = ()  # of a convolution beside a rearrangement or a resize


def layouts_of(layer: Layer, patch_order: Order, resize: str | None = None) -> dict[str, Layout]:
    """How the modules that do the same as the layer keep its weights; with a resize, which one."""
    d, taps = layer.data_dim, "ABC"[: layer.data_dim]
    # at least 1, also where `unlike` says that there is no such module
    per_stride = tuple(max(1, axis.patch // axis.stride) for axis in layer.axes)
    if resize is not None:
        _arguments.one_of("resize", resize, ("nearest",))
        if layer.to_tokens:
            raise ValueError(
                "`resize` is for an Unpatchify, which enlarges. Received: "
                f"resize={resize!r}, layer={layer!r}"
            )
        between = tuple(max(1, axis.patch - axis.stride + 1) for axis in layer.axes)
        return {resize: Layout(f"Conv{d}d", ("s", "t", *taps), ("s",), between)}
    linear = _merged(d, "channels_last" if patch_order is None else patch_order)
    shuffled = _merged(d, "channels_first" if patch_order is None else patch_order)
    conv = ("t", "s", *"abc"[:d])
    if isinstance(layer, Unpatchify):
        layouts = {
            "conv": Layout(f"ConvTranspose{d}d", conv, ("s",)),
            "linear": Layout("Linear", (linear, "t"), (linear,)),
            "pixel_shuffle": Layout(f"Conv{d}d", (shuffled, "t", *taps), (shuffled,), per_stride),
        }
    else:
        layouts = {
            "conv": Layout(f"Conv{d}d", conv, ("t",)),
            "linear": Layout("Linear", ("t", linear), ("t",)),
            "pixel_shuffle": Layout(f"Conv{d}d", ("t", shuffled, *taps), ("t",), per_stride),
        }
    if per_stride == layer.patch_size:  # nothing is shuffled, and the shape would not tell the two
        del layouts["pixel_shuffle"]
    return layouts


def unlike(layer: Layer, layout: str | None) -> Iterator[str]:
    """Why no module of the layout does the same as the layer."""
    sizes = f"and the layer has patch_size={layer.patch_size}, stride={layer.stride}"
    if layout == "pixel_shuffle" and any(axis.patch % axis.stride for axis in layer.axes):
        yield f"PixelShuffle needs patches of whole strides, {sizes}"
    if layout == "nearest" and any(axis.patch < axis.stride for axis in layer.axes):
        yield f"a resize needs patches of at least a stride, {sizes}"
    overlapping = any(axis.patch > axis.stride for axis in layer.axes)
    if layout in ("pixel_shuffle", "nearest") and layer.overlap == "mean" and overlapping:
        yield "a convolution sums where patches overlap, and the layer has overlap='mean'"


def name_of(layouts: dict[str, Layout], weight: np.ndarray | None, data_dim: int) -> str | None:
    """Which of the layouts a weight has, by its shape; None if that is none of them."""
    if len(layouts) == 1:
        (only,) = layouts
        return only
    shape = () if weight is None else weight.shape
    name = "linear" if len(shape) == 2 else None
    if len(shape) == data_dim + 2:
        shuffled = layouts.get("pixel_shuffle")
        name = "pixel_shuffle" if shuffled and shape[2:] == shuffled.taps else "conv"
    return name if name in layouts else None


def own(axes: tuple[str, ...]) -> tuple[str, ...]:
    """The axes as a layer keeps them."""
    letters = sorted("".join(axes), key=lambda letter: (letter.lower(), letter))
    return tuple("".join(axis) for _, axis in itertools.groupby(letters, str.lower))


def letter_sizes(layer: Layer, layout: Layout, weight: np.ndarray | None = None) -> Sizes:
    """The size of each letter; `in_features`, where the layer leaves it open, is the weight's."""
    sizes = dict(zip("abc"[: layer.data_dim] + "st", layer._kernel_shape(layer.channels)))
    for letter, taps, stride in zip("abc", layout.taps, layer.stride):
        sizes |= {letter.upper(): taps, letter: stride}
    for axis, entries in zip(layout.weight, () if weight is None else weight.shape):
        for letter in axis:
            if sizes[letter] is None:
                rest = math.prod(sizes[other] for other in axis if other != letter)
                sizes[letter] = max(entries // rest, 1)
    return sizes


def merged_shape(axes: tuple[str, ...], sizes: Sizes) -> Shape:
    """The shape of an array of these axes; None where the size of a letter is not known."""
    numbers = [[sizes[letter] for letter in axis] for axis in axes]
    return tuple(None if None in n else math.prod(n) for n in numbers)


def rearrange(
    array: np.ndarray, before: tuple[str, ...], after: tuple[str, ...], sizes: Sizes
) -> np.ndarray:
    """The array with the axes `before` as one with the axes `after`, of the same letters."""
    letters = "".join(before)
    split = array.reshape([sizes[letter] for letter in letters])
    permuted = split.transpose([letters.index(letter) for letter in "".join(after)])
    return permuted.reshape(merged_shape(after, sizes))


def tapped(layer: Layer, kernel: np.ndarray, layout: str | None) -> np.ndarray:
    """The kernel of a layer from the taps of a convolution, or back.

    What enlarges convolves with reversed taps.
    """
    if layer.to_tokens or layout not in ("pixel_shuffle", "nearest"):
        return kernel
    d = layer.data_dim
    if layout == "nearest":
        return _kernels.folded(kernel, layer.stride)
    split = [n for axis in layer.axes for n in (axis.patch // axis.stride, axis.stride)]
    cells = kernel.reshape(*split, *kernel.shape[d:])
    return np.flip(cells, tuple(range(0, 2 * d, 2))).reshape(kernel.shape)


def _merged(data_dim: int, patch_order: str | Sequence[int]) -> str:
    """The letters of the patch and of the channel in the order in which a module merges them."""
    last = tuple(range(data_dim + 1))
    named = {"channels_last": last, "channels_first": (data_dim, *range(data_dim))}
    order = named.get(patch_order) if isinstance(patch_order, str) else patch_order
    if not isinstance(order, (tuple, list)) or tuple(order) not in itertools.permutations(last):
        raise ValueError(
            "`patch_order` must be 'channels_last', 'channels_first', or a permutation of "
            f"{last}, the axes of the patch and the channel. Received: patch_order={patch_order!r}"
        )
    letters = "abc"[:data_dim] + "s"
    return "".join(letters[axis] for axis in order)
