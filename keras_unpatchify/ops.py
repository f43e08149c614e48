"""The mathematics: `patchify` and its adjoint `unpatchify`, stateless, in `keras.ops` alone.

Both take a kernel of the same shape, `(*patch, signal, token)`: the axes of the patch, then the
number of channels of the signal, then that of a token. A lowering is one way to compute the
product with the kernel. The choice changes the speed, and values only by rounding.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import keras
from keras import ops

from keras_unpatchify import geometry
from keras_unpatchify.geometry import Axis, Padding, PerAxis, Shape, Size
from keras_unpatchify.lowerings import LOWERINGS, Lowering, sum_of_patches
from keras_unpatchify.tensors import batch_of, cast, device_of, shape_of, tokens_are_wide

# A tensor of the backend, or what Keras converts to one.
Tensor = Any
Implementation = Literal["auto", "conv_transpose", "matmul", "subpixel"]
Overlap = Literal["sum", "mean"]

IMPLEMENTATIONS = ("auto", *LOWERINGS)
OVERLAPS = ("sum", "mean")


class Problem(NamedTuple):
    """What "auto" looks at."""

    to_tokens: bool  # `patchify`, rather than `unpatchify`
    overlapping: bool
    whole: bool  # patches overlap, and fill each of their cells to the same width
    signal: int  # channels
    token: int  # channels
    columns: int  # numbers in a patch: its positions times the signal channels
    work: int | None  # multiplications; `None` where a size is not known
    rank: int  # axes of the grid
    gaps: bool  # whether a stride is longer than its patch
    accelerated: bool  # whether tensors are on an accelerator

    @property
    def small(self) -> bool:
        """Whether a call takes longer to start than to compute."""
        return self.work is not None and 0 < self.work < 2**18

    @property
    def large(self) -> bool:
        """Whether an accelerator takes much longer to compute than a call to start."""
        return self.work is not None and self.work >= 2**33

    @property
    def wide_tokens_on_cpu(self) -> bool:
        """Whether patches tile, and tokens are much wider than they are, on a CPU."""
        elsewhere = self.overlapping or self.gaps or self.accelerated
        return not elsewhere and tokens_are_wide(self.columns, self.token)

    @property
    def ratio(self) -> float:
        """Token channels per signal channel."""
        return self.token / self.signal


# What "auto" takes: the first lowering whose backends and condition fit, or else "matmul".
# benchmarks/README.md says what was measured.
TORCH, TENSORFLOW, JAX, BOTH = ("torch",), ("tensorflow",), ("jax",), ("torch", "tensorflow")
AUTO: tuple[tuple[str, tuple[str, ...], Callable[[Problem], bool]], ...] = (
    # PyTorch refuses some gradients of convolutions of one token channel.
    # TensorFlow leaves some gradients unset where there are gaps.
    ("matmul", BOTH, lambda p: p.token == 1 or p.gaps),
    ("conv_transpose", TENSORFLOW, lambda p: p.small),
    ("conv_transpose", TORCH, lambda p: p.small and p.overlapping),
    ("subpixel", BOTH, lambda p: p.accelerated and p.whole and p.ratio >= 64 and p.large),
    ("conv_transpose", BOTH, lambda p: p.accelerated and p.overlapping),
    ("conv_transpose", BOTH, lambda p: p.overlapping and p.ratio < 8),
    ("subpixel", BOTH, lambda p: p.to_tokens and p.whole and p.ratio >= 64 and p.columns >= 192),
    ("conv_transpose", BOTH, lambda p: p.to_tokens and p.overlapping),
    ("subpixel", TORCH, lambda p: p.whole and p.token < 8 * p.columns),
    ("subpixel", TENSORFLOW, lambda p: p.whole and p.token < p.columns),
    # The gradient of a native 3D convolution takes minutes to compile for a CPU.
    ("conv_transpose", JAX, lambda p: p.to_tokens and p.wide_tokens_on_cpu and p.rank < 3),
)


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
        stride: positions from one patch to the next, an int or one per axis. `None` takes the
            size of the patch.
        padding: `"valid"` drops positions at the end that fill no patch. `"same"` pads with zeros,
            half of them (rounded down) before. An int, or per axis an int or a pair `(before,
            after)`, is the number of zeros at the ends. Each must be less than the patch. A
            negative `after`, greater than `-stride`, drops positions at the end.
        implementation: `"conv_transpose"` (the backend's strided convolution, the adjoint of its
            transposed one), `"matmul"` (one product), `"subpixel"` (a convolution of stride 1 over
            cells of one stride), or `"auto"`, the first of `AUTO` that fits.

    Returns:
        Tokens, `(batch, *grid, token)`. Each axis is `(size + before + after - patch) // stride
        + 1` long, or `ceil(size / stride)` for `"same"`.

    Raises:
        ValueError: if arguments and shapes do not fit, before anything is computed.
    """
    axes, signal, token = _read(kernel, stride, padding)
    _check_bias(bias, [(token,)])
    x, kernel, bias = _tensors(x, kernel, bias)
    _check_input(x, kernel, signal)
    shape = shape_of(x)
    grid = geometry.grid_shape(axes, tuple(shape[1:-1]))
    tokens = (shape[0], *grid, token)
    lowering = _lowering(implementation, x, axes, signal, tokens, "tokens")
    y = lowering.tokens(x, kernel, axes, grid)
    return cast(y if bias is None else _add_bias(y, bias), x.dtype)


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
        stride: positions from one patch to the next, an int or one per axis. `None` takes the
            size of the patch.
        padding: the positions that `patchify` pads and this function crops.
        output_spatial_shape: the size to return, one number per axis. `patchify` must turn a
            signal of this size into this grid. `None` is `(grid - 1) * stride + patch - before -
            after`, or `grid * stride` for `"same"`.
        overlap: `"sum"` adds what the patches give to a position. `"mean"` divides this sum by the
            number of patches, before a `(signal,)` bias is added.
        implementation: as for `patchify`.

    Returns:
        Signal, `(batch, *size, signal)`. Positions that no patch covers hold the `(signal,)`
        bias, or zero.

    Raises:
        ValueError: if arguments and shapes do not fit, before anything is computed.
    """
    axes, signal, token = _read(kernel, stride, padding)
    _check_bias(bias, [(signal,), tuple(kernel.shape[:-1])])
    geometry.one_of("overlap", overlap, OVERLAPS)
    x, kernel, bias = _tensors(x, kernel, bias)
    _check_input(x, kernel, token)
    tokens = tuple(shape_of(x))
    grid = tokens[1:-1]
    size = geometry.spatial_shape(axes, grid, output_spatial_shape)
    geometry.check_elements("output", (x.shape[0], *size, signal))
    lowering = _lowering(implementation, x, axes, signal, tokens, "signal")
    if output_spatial_shape is None:
        asked = (None,) * len(axes)
    else:
        asked, x = size, _compare_grid(x, axes, grid, size)
    patch_bias = _patch_bias(bias, lowering, axes, asked, signal)
    y = lowering.signal(x, kernel, patch_bias, axes, asked)
    if overlap == "mean" and geometry.overlapping(axes):
        y = y / _coverage(axes, grid, size, y.dtype)
    if bias is not None and patch_bias is None:
        y = _add_bias(y, bias)
    return cast(y, x.dtype)


def to_sequence(x: Tensor) -> Tensor:
    """Tokens of a grid as a sequence, row by row: (batch, tokens, token)."""
    *_, channels = x.shape
    return ops.reshape(x, (batch_of(x), math.prod(shape_of(x)[1:-1]), channels))


def to_grid(x: Tensor, grid: Shape) -> Tensor:
    """Tokens of a sequence as a grid; a number of tokens that does not fit fails at run time."""
    with keras.name_scope("the_tokens_of_a_sequence_must_fill_the_grid"):
        return ops.reshape(x, (batch_of(x, *grid), *grid, x.shape[-1]))


def _tensors(*arrays: Tensor) -> list[Tensor]:
    return [None if array is None else ops.convert_to_tensor(array) for array in arrays]


def _read(
    kernel: Tensor, stride: PerAxis | None, padding: Padding
) -> tuple[tuple[Axis, ...], int, int]:
    """The axes and the numbers of signal and token channels of a kernel."""
    shape = tuple(getattr(kernel, "shape", ()))
    if not 3 <= len(shape) <= 5:
        raise ValueError(
            "The kernel must have the shape (*patch, signal channels, token channels) with one to "
            f"three patch axes. Received: kernel.shape={shape}"
        )
    patch, (signal, token) = shape[:-2], shape[-2:]
    return geometry.make_axes(patch, stride, padding, len(patch)), signal, token


def _check_input(x, kernel, channels):
    remedy = (
        f"The kernel has the shape {tuple(kernel.shape)}, which stands for (*patch, signal "
        "channels, token channels)."
    )
    geometry.check_input(x.shape, len(kernel.shape) - 2, channels, remedy, remedy)


def _check_bias(bias, shapes):
    if bias is not None and tuple(bias.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(
            f"The bias must have the shape {expected}. Received: bias.shape={tuple(bias.shape)}"
        )


def _lowering(
    implementation: str,
    x: Tensor,
    axes: tuple[Axis, ...],
    signal: int,
    tokens: Shape,
    direction: Literal["tokens", "signal"],
) -> Lowering:
    """The lowering with that name; `tokens` is `(batch, *grid, token)`."""
    geometry.one_of("implementation", implementation, IMPLEMENTATIONS)
    if implementation == "auto":
        implementation = choose(_problem(axes, signal, tokens, direction, device_of(x)))
    return LOWERINGS[implementation]


@geometry.remembered
def _problem(axes, signal, tokens, direction, device):
    overlapping = geometry.overlapping(axes)
    columns = signal * math.prod([axis.patch for axis in axes])
    known = all(map(geometry.is_constant, tokens))
    return Problem(
        to_tokens=direction == "tokens",
        overlapping=overlapping,
        whole=overlapping and all(axis.whole for axis in axes),
        signal=signal,
        token=tokens[-1],
        columns=columns,
        work=math.prod((*tokens, columns)) if known else None,
        rank=len(axes),
        gaps=any(axis.stride > axis.patch for axis in axes),
        accelerated=device != "cpu",
    )


def choose(problem: Problem) -> str:
    """The lowering that "auto" takes."""
    backend = keras.backend.backend()
    for name, backends, fits in AUTO:
        if backend in backends and fits(problem):
            return name
    return "matmul"


def _compare_grid(x, axes, grid, size):
    """Lets the backend compare the grid with that of the size at run time, if one is unknown."""
    if all(map(geometry.is_static, (*grid, *size))):
        return x
    expected = [axis.grid(n) for axis, n in zip(axes, size)]
    with keras.name_scope("output_spatial_shape_must_be_patched_into_this_grid"):
        # nothing is added, but only if the axes agree
        return ops.concatenate([x, ops.zeros((0, *expected, x.shape[-1]), x.dtype)], axis=0)


def _add_bias(y, bias):
    # Unlike `+`, this lets TensorFlow add the bias in the same pass as the convolution.
    return ops.add(y, cast(bias, y.dtype))


def _patch_bias(bias, lowering, axes, size, signal):
    """What each patch adds, `(*patch, signal)`; `None` if the bias is added at the end."""
    if bias is None or len(bias.shape) > 1:
        return bias
    if lowering is not LOWERINGS["matmul"] or not geometry.tiling(axes):
        return None
    edges = [geometry.to_signal(axis, n) for axis, n in zip(axes, size)]
    if any(any(edge.zeros) for edge in edges):
        return None
    # each position lies in one patch, and adding to the wider rows of the product is faster
    return ops.broadcast_to(bias, (*(axis.patch for axis in axes), signal))


def _coverage(axes, grid, size, dtype):
    """How many patches cover each position, at least 1: (*size, 1)."""
    coverage = ops.ones((), "float32")
    for axis, n, positions in zip(axes, grid, size):
        ones = ops.ones((1, n, 1), "float32"), ops.ones((axis.patch, 1, 1), "float32")
        count = sum_of_patches(*ones, None, [axis], [positions])[0, :, 0]
        coverage = ops.expand_dims(coverage, -1) * ops.maximum(count, 1)
    return cast(ops.expand_dims(coverage, -1), dtype)
