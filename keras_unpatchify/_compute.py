"""Both directions, from checked arguments to the result: sizes, a lowering, mean, bias."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_unpatchify import _arguments, _auto
from keras_unpatchify._lowerings import LOWERINGS
from keras_unpatchify._sizes import Axis, Extent, Shape, Size
from keras_unpatchify._tensors import Tensor, add_bias, cast, device_of, shape_of


def tokens(
    x: Tensor, kernel: Tensor, bias: Tensor | None, axes: Sequence[Axis], implementation: str
) -> Tensor:
    """(batch, *size, signal) -> (batch, *grid, token)."""
    batch, *size, _ = shape_of(x)
    _arguments.grid_shape(axes, size)  # checks them
    extents = [axis.of_signal(n) for axis, n in zip(axes, size)]
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
    batch, *grid, _ = shape_of(x)
    size = _arguments.spatial_shape(axes, grid, output_spatial_shape)
    _arguments.check_elements("output", (x.shape[0], *size, kernel.shape[-2]))
    if output_spatial_shape is None:
        extents = [axis.of_grid(n) for axis, n in zip(axes, grid)]
    else:
        extents = [axis.of_grid(n, m) for axis, n, m in zip(axes, grid, size)]
        x = _compare_grid(x, axes, grid, size)
    averages = overlap == "mean" and any(axis.blocks > 1 for axis in extents)
    if averages and keras.backend.standardize_dtype(x.dtype) == "float16":
        implementation = "matmul"  # it alone adds up in float32, where no sum overflows
    name = _lowering(implementation, x, batch, kernel, extents, to_tokens=False)
    patch_bias = _patch_bias(bias, name, extents)
    y = LOWERINGS[name].signal(x, kernel, patch_bias, extents)
    if averages:
        y = y / cast(_coverage(extents), y.dtype)
    if bias is not None and patch_bias is None:
        y = add_bias(y, bias)
    return cast(y, x.dtype)


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
    expected = [axis.grid(n) for axis, n in zip(axes, size)]
    with keras.name_scope("output_spatial_shape_must_be_patched_into_this_grid"):
        # nothing is added, but only if the axes agree
        return ops.concatenate([x, ops.zeros((0, *expected, x.shape[-1]), x.dtype)], axis=0)


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
        # after the first patch begins, and some strides more, so that no number is negative
        more = axis.blocks + 1
        position = ops.arange(axis.size, dtype="int32") + axis.reach[0] + more * axis.stride
        last = ops.minimum(position // axis.stride - more, axis.grid - 1)
        before_first = ops.maximum((position - axis.patch) // axis.stride - more, -1)
        count = ops.cast(ops.maximum(last - before_first, 1), "float32")
        coverage = coverage * ops.reshape(count, (*(1,) * (1 + i), -1, *(1,) * (len(axes) - i)))
    return coverage
