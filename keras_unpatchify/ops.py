"""The functions behind the layers: `patchify` and its adjoint `unpatchify`, stateless.

Both take a kernel of the same shape, `(*patch, signal, token)`: the axes of the patch, then the
number of channels of the signal, then that of a token. `to_sequence` and `to_grid` turn tokens on a
grid into a sequence and back.
"""

import math
from collections.abc import Sequence

import keras

from keras_unpatchify import _arguments, _compute
from keras_unpatchify._arguments import Implementation, Overlap, Padding, PerAxis
from keras_unpatchify._sizes import Axis, Shape, Size
from keras_unpatchify._tensors import Tensor, batch_of, shape_of

__all__ = ["patchify", "to_grid", "to_sequence", "unpatchify"]


def patchify(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "valid",
    implementation: Implementation = "auto",
) -> Tensor:
    """Tokens of a signal: the strided convolution with `kernel`.

    Args:
        x: signal, `(batch, *size, signal)`.
        kernel: `(*patch, signal, token)` with one to three patch axes.
        bias: `(token,)`, or `None`.
        stride: as for the layer `Patchify`.
        padding: as for the layer.
        implementation: as for the layer.

    Returns:
        Tokens, `(batch, *grid, token)`. Each axis is `(size + before + after - patch) // stride
        + 1` long, or `ceil(size / stride)` for `"same"`.

    Raises:
        ValueError: if arguments and shapes do not fit, before anything is computed.
    """
    axes = _axes(kernel, stride, padding, implementation)
    *_, signal, token = kernel.shape
    _check_bias(bias, [(token,)])
    x, kernel, bias = _tensors(x, kernel, bias)
    _check_input(x, kernel, signal)
    return _compute.tokens(x, kernel, bias, axes, implementation)


def unpatchify(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    *,
    stride: PerAxis | None = None,
    padding: Padding = "valid",
    output_spatial_shape: Sequence[Size] | None = None,
    overlap: Overlap = "sum",
    implementation: Implementation = "auto",
) -> Tensor:
    """The signal of tokens: the transposed convolution with `kernel`, the adjoint of `patchify`.

    Args:
        x: tokens, `(batch, *grid, token)`.
        kernel: `(*patch, signal, token)` with one to three patch axes.
        bias: `(signal,)`, added once to every position; or `(*patch, signal)`, added by every
            patch; or `None`.
        stride: as for the layer `Unpatchify`.
        padding: as for the layer.
        output_spatial_shape: the size to return, one number per axis. `patchify` must turn a
            signal of this size into this grid. `None` is `(grid - 1) * stride + patch - before -
            after`, or `grid * stride` for `"same"`.
        overlap: as for the layer.
        implementation: as for the layer.

    Returns:
        Signal, `(batch, *size, signal)`. Positions that no patch covers hold the `(signal,)`
        bias, or zero.

    Raises:
        ValueError: if arguments and shapes do not fit, before anything is computed.
    """
    axes = _axes(kernel, stride, padding, implementation)
    *patch, signal, token = kernel.shape
    _check_bias(bias, [(signal,), (*patch, signal)])
    _arguments.one_of("overlap", overlap, _arguments.OVERLAPS)
    x, kernel, bias = _tensors(x, kernel, bias)
    _check_input(x, kernel, token)
    return _compute.signal(x, kernel, bias, axes, output_spatial_shape, overlap, implementation)


def to_sequence(x: Tensor) -> Tensor:
    """Tokens of a grid as a sequence, row by row: (batch, tokens, token)."""
    *_, channels = x.shape
    return keras.ops.reshape(x, (batch_of(x), math.prod(shape_of(x)[1:-1]), channels))


def to_grid(x: Tensor, grid: Shape) -> Tensor:
    """Tokens of a sequence as a grid; a number of tokens that does not fit fails at run time."""
    with keras.name_scope("the_tokens_of_a_sequence_must_fill_the_grid"):
        return keras.ops.reshape(x, (batch_of(x, *grid), *grid, x.shape[-1]))


def _axes(
    kernel: Tensor, stride: PerAxis | None, padding: Padding, implementation: str
) -> tuple[Axis, ...]:
    """The axes of a kernel, `(*patch, signal, token)`."""
    shape = tuple(getattr(kernel, "shape", ()))
    if not 3 <= len(shape) <= 5:
        raise ValueError(
            "The kernel must have the shape (*patch, signal channels, token channels) with one to "
            f"three patch axes. Received: kernel.shape={shape}"
        )
    _arguments.one_of("implementation", implementation, _arguments.IMPLEMENTATIONS)
    return _arguments.make_axes(shape[:-2], stride, padding, len(shape) - 2)


def _tensors(*arrays: Tensor) -> list[Tensor]:
    return [None if array is None else keras.ops.convert_to_tensor(array) for array in arrays]


def _check_input(x, kernel, channels):
    remedy = (
        f"The kernel has the shape {tuple(kernel.shape)}, which stands for (*patch, signal "
        "channels, token channels)."
    )
    _arguments.check_input(x.shape, len(kernel.shape) - 2, channels, remedy, remedy)


def _check_bias(bias, shapes):
    if bias is not None and tuple(bias.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(
            f"The bias must have the shape {expected}. Received: bias.shape={tuple(bias.shape)}"
        )
