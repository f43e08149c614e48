"""The functions behind the layers: `patchify` and its adjoint `unpatchify`, stateless.

Both take a kernel of the same shape, `(*patch, signal, token)`: the axes of the patch, then the
number of channels of the signal, then that of a token. `to_sequence` and `to_grid` turn tokens on a
grid into a sequence and back.

All but `resample_kernel` take symbolic tensors, as nodes of a functional model. A constant kernel
is saved with the model, in its config: about 20 bytes for each number. Of different dtypes, `x` and
`kernel` give the `result_type` of Keras.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from keras_unpatchify import _arguments, _compute
from keras_unpatchify._arguments import Implementation, Overlap, Padding, PerAxis
from keras_unpatchify._kernels import INTERPOLATIONS, Interpolation, resampled
from keras_unpatchify._sizes import Axis, Shape, Size, is_static
from keras_unpatchify._tensors import Tensor, as_tensor, batch_of, shape_of, with_channels

__all__ = [
    "from_patches",
    "patches",
    "patchify",
    "resample_kernel",
    "to_grid",
    "to_sequence",
    "unpatchify",
]


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
    arguments: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "implementation": implementation,
    }
    if _are_symbolic(x, kernel, bias):
        return _Function("patchify", arguments)(x, kernel, bias)
    x, kernel, bias, axes = _checked(x, kernel, bias, True, **arguments)
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
    _arguments.one_of("overlap", overlap, _arguments.OVERLAPS)
    arguments: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "implementation": implementation,
    }
    if _are_symbolic(x, kernel, bias):
        arguments |= {"output_spatial_shape": output_spatial_shape, "overlap": overlap}
        return _Function("unpatchify", arguments)(x, kernel, bias)
    x, kernel, bias, axes = _checked(x, kernel, bias, False, **arguments)
    return _compute.signal(x, kernel, bias, axes, output_spatial_shape, overlap, implementation)


def patches(
    x: Tensor, patch_size: PerAxis, stride: PerAxis | None = None, padding: Padding = "valid"
) -> Tensor:
    """The patches that `patchify` sees, in the order of its kernel.

    Args:
        x: signal, `(batch, *size, signal)`.
        patch_size: as for the layer `Patchify`.
        stride: as for the layer.
        padding: as for the layer. A padded position is zero.

    Returns:
        Patches, `(batch, *grid, *patch, signal)`.

    Raises:
        ValueError: if arguments and shapes do not fit, before anything is computed.
    """
    if _are_symbolic(x):
        arguments = {"patch_size": patch_size, "stride": stride, "padding": padding}
        return _Function("patches", arguments)(x)
    return _compute.patches(*_patched(x, patch_size, stride, padding))


def from_patches(
    x: Tensor,
    stride: PerAxis | None = None,
    padding: Padding = "valid",
    output_spatial_shape: Sequence[Size] | None = None,
    overlap: Overlap = "sum",
) -> Tensor:
    """The signal of patches: the adjoint of `patches`, and with the mean its inverse.

    Args:
        x: patches, `(batch, *grid, *patch, signal)`. Integers become floats.
        stride: as for the layer `Unpatchify`.
        padding: as for the layer.
        output_spatial_shape: as for `unpatchify`.
        overlap: as for the layer.

    Returns:
        Signal, `(batch, *size, signal)`. Positions that no patch covers are zero.

    Raises:
        ValueError: if arguments and shapes do not fit, before anything is computed.
    """
    arguments = {"stride": stride, "padding": padding, "overlap": overlap}
    if _are_symbolic(x):
        arguments["output_spatial_shape"] = output_spatial_shape
        return _Function("from_patches", arguments)(x)
    x, axes = _placed(x, **arguments)
    return _compute.from_patches(x, axes, output_spatial_shape, overlap)


def resample_kernel(
    kernel: Tensor,
    patch_size: PerAxis,
    layer: Literal["patchify", "unpatchify"],
    interpolation: Interpolation = "cubic",
) -> Tensor:
    """The kernel for patches of another size, differentiable: for training at many sizes.

    Args:
        kernel: `(*patch, signal, token)` with one to three patch axes.
        patch_size: int or one per axis.
        layer: whose kernel it is. The two have different rules, as their method `resampled` says.
        interpolation: `"cubic"` or `"linear"`, both antialiased.

    Returns:
        Kernel, `(*patch, signal, token)`.

    Raises:
        ValueError: if an argument does not fit, before anything is computed.
    """
    data_dim = len(_kernel_shape(kernel)) - 2
    patch = _arguments.per_axis("patch_size", patch_size, data_dim)
    _arguments.one_of("layer", layer, ("patchify", "unpatchify"))
    _arguments.one_of("interpolation", interpolation, INTERPOLATIONS)
    return resampled(keras.ops.convert_to_tensor(kernel), patch, layer == "patchify", interpolation)


def to_sequence(x: Tensor) -> Tensor:
    """Tokens of a grid as a sequence, row by row: (batch, tokens, token)."""
    if _are_symbolic(x):
        return _Function("to_sequence")(x)
    *_, channels = x.shape
    return keras.ops.reshape(x, (batch_of(x), math.prod(shape_of(x)[1:-1]), channels))


def to_grid(x: Tensor, grid: Shape) -> Tensor:
    """Tokens of a sequence as a grid: (batch, *grid, token).

    A number of tokens that does not fill it is a ValueError, or where one of them is not known, an
    error of the backend at run time.
    """
    if _are_symbolic(x):
        return _Function("to_grid", {"grid": tuple(grid)})(x)
    _arguments.check_token_count(grid, x.shape[1])
    with keras.name_scope("the_tokens_of_a_sequence_must_fill_the_grid"):
        return keras.ops.reshape(x, (batch_of(x, *grid), *grid, x.shape[-1]))


def _checked(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    to_tokens: bool,
    stride: PerAxis | None,
    padding: Padding,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Axis, ...]]:
    """Tensors of one dtype, that of the input and the kernel, and the axes of a patching."""
    shape = _kernel_shape(kernel)
    *patch, signal, token = shape
    _arguments.one_of("implementation", implementation, _arguments.IMPLEMENTATIONS)
    axes = _arguments.make_axes(patch, stride, padding, len(patch))
    shapes = [(token,)] if to_tokens else [(signal,), shape[:-1]]
    if bias is not None and tuple(bias.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(
            f"The bias must have the shape {expected}. Received: bias.shape={tuple(bias.shape)}"
        )
    arrays: list[Any] = [x, kernel, bias]
    x, kernel, bias = [
        a if a is None or _are_symbolic(a) else keras.ops.convert_to_tensor(a) for a in arrays
    ]
    dtypes = [keras.backend.standardize_dtype(a.dtype) for a in (x, kernel)]
    dtype = keras.backend.result_type(*dtypes)
    if "float" not in dtype:
        raise ValueError(
            "`x` or `kernel` must have a float dtype, and both must be real. "
            f"Received: x.dtype={dtypes[0]}, kernel.dtype={dtypes[1]}. Cast one of them."
        )
    remedy = (
        f"The kernel has the shape {shape}, which stands for (*patch, signal channels, token "
        "channels)."
    )
    channels = signal if to_tokens else token
    _arguments.check_input(x.shape, len(patch), channels, remedy, remedy)
    if _are_symbolic(x, kernel, bias):
        return keras.KerasTensor(x.shape, dtype), kernel, bias, axes
    bias = None if bias is None else as_tensor(bias, dtype)
    return with_channels(as_tensor(x, dtype), channels), as_tensor(kernel, dtype), bias, axes


def _kernel_shape(kernel: Tensor) -> Shape:
    shape = tuple(getattr(kernel, "shape", ()))
    if not 3 <= len(shape) <= 5:
        raise ValueError(
            "The kernel must have the shape (*patch, signal channels, token channels) with one to "
            f"three patch axes. Received: kernel.shape={shape}"
        )
    return shape


def _patched(x, patch_size, stride, padding):
    """The signal and the axes of `patches`."""
    x = x if _are_symbolic(x) else keras.ops.convert_to_tensor(x)
    data_dim = min(max(len(x.shape) - 2, 1), 3)
    _arguments.check_input(x.shape, data_dim, None)
    return x, _arguments.make_axes(patch_size, stride, padding, data_dim)


def _placed(x, stride, padding, overlap):
    """The patches and the axes of `from_patches`."""
    x = x if _are_symbolic(x) else keras.ops.convert_to_tensor(x)
    data_dim, odd = divmod(len(x.shape) - 2, 2)
    if odd or not 1 <= data_dim <= 3 or None in x.shape[1 + data_dim :]:
        raise ValueError(
            "`x` must have the shape (batch, *grid, *patch, signal channels) with one to three "
            f"patch axes, and a known patch. Received: x.shape={tuple(x.shape)}"
        )
    _arguments.one_of("overlap", overlap, _arguments.OVERLAPS)
    dtype = keras.backend.result_type(x.dtype, float)
    x = keras.KerasTensor(x.shape, dtype) if _are_symbolic(x) else as_tensor(x, dtype)
    return x, _arguments.make_axes(x.shape[1 + data_dim : -1], stride, padding, data_dim)


def _are_symbolic(*xs: Any) -> bool:
    """Whether one of the tensors is that of a functional model, which has a shape only."""
    return any(isinstance(x, keras.KerasTensor) for x in xs)


def _patchify_spec(x, kernel, bias=None, **arguments):
    _refuse_variables(kernel, bias)
    x, kernel, _, axes = _checked(x, kernel, bias, True, **arguments)
    batch, *size, _ = x.shape
    return keras.KerasTensor((batch, *_arguments.grid_shape(axes, size), kernel.shape[-1]), x.dtype)


def _unpatchify_spec(x, kernel, bias=None, *, output_spatial_shape, overlap, **arguments):
    _refuse_variables(kernel, bias)
    x, kernel, _, axes = _checked(x, kernel, bias, False, **arguments)
    batch, *grid, _ = x.shape
    _refuse_unknown("output_spatial_shape", output_spatial_shape)
    size = _arguments.spatial_shape(axes, grid, output_spatial_shape)
    return keras.KerasTensor((batch, *size, kernel.shape[-2]), x.dtype)


def _patches_spec(x, **arguments):
    x, axes = _patched(x, **arguments)
    batch, *size, signal = x.shape
    patch = (axis.patch for axis in axes)
    return keras.KerasTensor((batch, *_arguments.grid_shape(axes, size), *patch, signal), x.dtype)


def _from_patches_spec(x, *, output_spatial_shape, **arguments):
    x, axes = _placed(x, **arguments)
    _refuse_unknown("output_spatial_shape", output_spatial_shape)
    size = _arguments.spatial_shape(axes, x.shape[1 : 1 + len(axes)], output_spatial_shape)
    return keras.KerasTensor((x.shape[0], *size, x.shape[-1]), x.dtype)


def _to_sequence_spec(x):
    batch, *grid, token = x.shape
    return keras.KerasTensor((batch, None if None in grid else math.prod(grid), token), x.dtype)


def _to_grid_spec(x, grid):
    _refuse_unknown("grid", grid)
    batch, tokens, token = x.shape
    _arguments.check_token_count(grid, tokens)
    return keras.KerasTensor((batch, *grid, token), x.dtype)


def _refuse_variables(*arrays: Any) -> None:
    for array in arrays:
        if getattr(array, "trainable", False) or getattr(array, "requires_grad", False):
            raise ValueError(
                "In a functional model, kernel and bias must be constants: a variable would be "
                "neither trained nor saved. "
                f"Received: a variable of shape {tuple(array.shape)}. Use the layers Patchify and "
                "Unpatchify, or call the function in a layer of your own."
            )


def _refuse_unknown(name: str, sizes: Shape | None) -> None:
    if sizes is not None and not all(map(is_static, sizes)):
        raise ValueError(
            f"In a functional model, `{name}` must hold integers. Received: {name}={sizes!r}. "
            "Use the layer Unpatchify and its argument `like`."
        )


FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "patchify": (patchify, _patchify_spec),
    "unpatchify": (unpatchify, _unpatchify_spec),
    "patches": (patches, _patches_spec),
    "from_patches": (from_patches, _from_patches_spec),
    "to_sequence": (to_sequence, _to_sequence_spec),
    "to_grid": (to_grid, _to_grid_spec),
}


@keras.saving.register_keras_serializable("keras_unpatchify")
class _Function(keras.Operation):
    """A function of this module as a node of a functional model."""

    def __init__(self, function: str, arguments: dict | None = None, name: str | None = None):
        super().__init__(name=name)
        self.function, self.arguments = function, arguments or {}

    def call(self, *tensors):
        return FUNCTIONS[self.function][0](*tensors, **self.arguments)

    def compute_output_spec(self, *tensors):
        return FUNCTIONS[self.function][1](*tensors, **self.arguments)

    def get_config(self):
        return {"function": self.function, "arguments": self.arguments, "name": self.name}
