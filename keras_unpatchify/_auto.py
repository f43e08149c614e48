"""Which lowering `"auto"` takes: a problem, and a table of rules."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras

from keras_unpatchify._sizes import Extent, Shape, is_constant
from keras_unpatchify._tensors import tokens_are_wide


class Problem(NamedTuple):
    """What `"auto"` looks at."""

    to_tokens: bool  # `patchify`, rather than `unpatchify`
    overlapping: bool
    whole: bool  # patches overlap, and fill each of their cells to the same width
    gaps: bool  # whether a stride is longer than its patch
    signal: int  # channels
    token: int  # channels
    columns: int  # numbers in a patch: its positions times the signal channels
    work: int | None  # multiplications; `None` where a size is not known
    rank: int  # axes of the grid
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


def problem(
    axes: Sequence[Extent], batch: Shape, kernel: Shape, to_tokens: bool, device: str
) -> Problem:
    """The problem of a call with a kernel of this shape."""
    *patch, signal, token = kernel
    overlapping = any(axis.blocks > 1 for axis in axes)
    sizes = (batch, *(axis.grid for axis in axes))
    columns = signal * math.prod(patch)
    return Problem(
        to_tokens=to_tokens,
        overlapping=overlapping,
        whole=overlapping and all(axis.whole for axis in axes),
        gaps=any(axis.stride > axis.patch for axis in axes),
        signal=signal,
        token=token,
        columns=columns,
        work=math.prod(sizes) * columns * token if all(map(is_constant, sizes)) else None,
        rank=len(axes),
        accelerated=device != "cpu",
    )


def choose(problem: Problem) -> str:
    """The name of the lowering that `"auto"` takes."""
    backend = keras.backend.backend()
    for name, backends, fits in AUTO:
        if backend in backends and fits(problem):
            return name
    return "matmul"
