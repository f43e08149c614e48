"""How PyTorch's modules keep the weights of a layer: the same axes, permuted and merged.

Each axis has a letter: `a`, `b`, `c` for the patch, `s` for the channels of the signal, `t` for
those of a token. A layer keeps the axes of its kernel and of its bias in alphabetical order.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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


def layouts_of(layer: Layer, patch_order: Order) -> dict[str, Layout]:
    """How the modules that do the same as the layer keep its weights."""
    d = layer.data_dim
    linear = _merged(d, "channels_last" if patch_order is None else patch_order)
    shuffled = _merged(d, "channels_first" if patch_order is None else patch_order)
    conv, ones = ("t", "s", *"abc"[:d]), ("",) * d
    if isinstance(layer, Unpatchify):
        layouts = {
            "conv": Layout(f"ConvTranspose{d}d", conv, ("s",)),
            "linear": Layout("Linear", (linear, "t"), (linear,)),
            "pixel_shuffle": Layout(f"Conv{d}d", (shuffled, "t", *ones), (shuffled,)),
        }
    else:
        layouts = {
            "conv": Layout(f"Conv{d}d", conv, ("t",)),
            "linear": Layout("Linear", ("t", linear), ("t",)),
            "pixel_shuffle": Layout(f"Conv{d}d", ("t", shuffled, *ones), ("t",)),
        }
    if set(layer.patch_size) == {1}:  # nothing is shuffled, and the shape would not tell the two
        del layouts["pixel_shuffle"]
    return layouts


def name_of(layouts: dict[str, Layout], weight: np.ndarray | None, data_dim: int) -> str | None:
    """Which of the layouts a weight has, by its shape; None if that is none of them."""
    if len(layouts) == 1:
        (only,) = layouts
        return only
    shape = () if weight is None else weight.shape
    name = "linear" if len(shape) == 2 else None
    if len(shape) == data_dim + 2:
        ends_in_ones = set(shape[2:]) == {1}
        name = "pixel_shuffle" if ends_in_ones and "pixel_shuffle" in layouts else "conv"
    return name if name in layouts else None


def own(axes: tuple[str, ...]) -> tuple[str, ...]:
    """The axes as a layer keeps them."""
    return tuple(sorted("".join(axes)))


def letter_sizes(layer: Layer, axes: tuple[str, ...], weight: np.ndarray | None = None) -> Sizes:
    """The size of each letter; `in_features`, where the layer leaves it open, is the weight's."""
    sizes = dict(zip(own(axes), layer._kernel_shape(layer.channels)))
    for axis, entries in zip(axes, () if weight is None else weight.shape):
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
