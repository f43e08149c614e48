"""Both directions, from checked arguments to the result: sizes, a lowering, mean, bias."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_unpatchify import _arguments, _auto, _blocks
from keras_unpatchify._lowerings import LOWERINGS
from keras_unpatchify._sizes import Axis, Extent, Shape, Size, is_constant
from keras_unpatchify._tensors import Tensor, add_bias, cast, device_of, in_whole_strides, shape_of


def tokens(
    x: Tensor, kernel: Tensor, bias: Tensor | None, axes: Sequence[Axis], implementation: str
) -> Tensor:
    """(batch, *size, signal) -> (batch, *grid, token)."""
    batch, *_ = shape_of(x)
    x, extents = _on_signal(x, axes)
    name = _lowering(implementation, x, batch, kernel, extents, to_tokens=True)
    y = LOWERINGS[name].tokens(x, kernel, extents)
    return cast(y if bias is None else add_bias(y, bias), x.dtype)


def signal(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    axes: Sequence[Axis],
    output_spatial_shape: Sequence | None,
    overlap: str,
    implementation: str,
) -> Tensor:
    """(batch, *grid, token) -> (batch, *size, signal)."""
    batch, *_ = shape_of(x)
    x, extents = _on_grid(x, axes, output_spatial_shape, kernel.shape[-2])
    if overlap == "mean" and keras.backend.standardize_dtype(x.dtype) == "float16":
        implementation = "matmul"  # it alone adds up in float32, where no sum overflows
    name = _lowering(implementation, x, batch, kernel, extents, to_tokens=False)
    patch_bias = _patch_bias(bias, name, extents)
    y = _combined(LOWERINGS[name].signal(x, kernel, patch_bias, extents), extents, overlap)
    if bias is not None and patch_bias is None:
        y = add_bias(y, bias)
    return cast(y, x.dtype)


def patches(x: Tensor, axes: Sequence[Axis]) -> Tensor:
    """(batch, *size, signal) -> (batch, *grid, *patch, signal)."""
    return _blocks.patches_of(*_on_signal(x, axes))


def from_patches(
    x: Tensor, axes: Sequence[Axis], output_spatial_shape: Sequence | None, overlap: str
) -> Tensor:
    """(batch, *grid, *patch, signal) -> (batch, *size, signal)."""
    y, extents = _on_grid(x, axes, output_spatial_shape, x.shape[-1])
    return cast(_combined(_blocks.from_patches(y, extents), extents, overlap), x.dtype)


def _on_signal(x: Tensor, axes: Sequence[Axis]) -> tuple[Tensor, list[Extent]]:
    """The signal, checked, and its sizes."""
    size = shape_of(x)[1:-1]
    _arguments.grid_shape(axes, size)  # checks them
    for place, (axis, n) in enumerate(zip(axes, size), 1):
        if axis.circular and not is_constant(n):
            x = in_whole_strides(x, place, axis.patch, axis.stride)
    return x, [axis.of_signal(n) for axis, n in zip(axes, shape_of(x)[1:-1])]


def _on_grid(
    x: Tensor, axes: Sequence[Axis], output_spatial_shape: Sequence | None, channels: int
) -> tuple[Tensor, list[Extent]]:
    """The tokens or patches of a grid, checked, and the sizes of their signal."""
    grid = shape_of(x)[1 : 1 + len(axes)]
    size = _arguments.spatial_shape(axes, grid, output_spatial_shape)
    _arguments.check_elements("output", (x.shape[0], *size, channels))
    if output_spatial_shape is None:
        return x, [axis.of_grid(n) for axis, n in zip(axes, grid)]
    x = _compare_grid(x, axes, grid, size)
    return x, [axis.of_grid(n, m) for axis, n, m in zip(axes, grid, size)]


def _combined(y: Tensor, axes: Sequence[Extent], overlap: str) -> Tensor:
    """The sum of all patches, or their mean."""
    if overlap == "sum" or all(axis.blocks == 1 for axis in axes):
        return y
    return y / cast(_coverage(axes), y.dtype)


def _lowering(
    implementation: str,
    x: Tensor,
    batch: Size,
    kernel: Tensor,
    axes: Sequence[Extent],
    to_tokens: bool,
) -> str:
    """The name of the lowering that computes what is asked for."""
    if implementation == "auto":
        problem = _auto.problem(axes, batch, kernel.shape, to_tokens, device_of(x))
        return _auto.choose(problem)
    if implementation == "subpixel" and not all(axis.whole for axis in axes):
        return "matmul"  # zeros that fill up cells would spread what is not a number
    return implementation


def _compare_grid(x: Tensor, axes: Sequence[Axis], grid: Shape, size: Shape) -> Tensor:
    """Lets the backend compare the grid with that of the size at run time, if one is unknown."""
    if not any(map(keras.ops.is_tensor, (*grid, *size))):
        return x
    expected = [axis.whole_grid(n) for axis, n in zip(axes, size)]
    with keras.name_scope("output_spatial_shape_must_be_patched_into_this_grid"):
        # nothing is added, but only if the axes agree
        nothing = ops.zeros((0, *expected, *x.shape[1 + len(axes) :]), x.dtype)
        return ops.concatenate([x, nothing], axis=0)


def _patch_bias(bias: Tensor | None, name: str, axes: Sequence[Extent]) -> Tensor | None:
    """What each patch adds, `(*patch, signal)`; `None` if the bias is added at the end."""
    if bias is None or len(bias.shape) > 1:
        return bias
    tiling = all(axis.patch == axis.stride for axis in axes)
    if name != "matmul" or not tiling or any(any(axis.to_signal().zeros) for axis in axes):
        return None
    # each position lies in one patch, and adding to the wider rows of the product is faster
    return ops.broadcast_to(bias, (*(axis.patch for axis in axes), bias.shape[0]))


def _coverage(axes: Sequence[Extent]) -> Tensor:
    """How many patches cover each position, at least 1: (1, *size, 1)."""
    coverage = ops.ones((1,) * (len(axes) + 2), "float32")
    for i, axis in enumerate(axes):
        # jax2onnx takes no range without a start
        position = ops.arange(0, axis.size, dtype="int32") + axis.reach[0]
        count = _patches_over(position, axis)
        if axis.circular:
            count += sum(_patches_over(position + n, axis) for n in (axis.size, -axis.size))
        count = ops.cast(ops.maximum(count, 1), "float32")
        coverage = coverage * ops.reshape(count, (*(1,) * (1 + i), -1, *(1,) * (len(axes) - i)))
    return coverage


def _patches_over(position: Any, axis: Extent) -> Any:
    """How many patches cover positions that are counted from the beginning of the first patch."""
    # of patches that begin after a number, as if there were others, and of no negative number
    more = axis.blocks + axis.grid + 1
    position = position + more * axis.stride
    last, end = position // axis.stride - more, axis.grid - 1
    # the smaller of both; Keras's minimum asks sizes that PyTorch's compiler traces for a dtype
    last = end - ops.maximum(end - last, 0)
    before_first = ops.maximum((position - axis.patch) // axis.stride - more, -1)
    return ops.maximum(last - before_first, 0)
