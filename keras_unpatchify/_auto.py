"""Which lowering `"auto"` takes: a problem, and a table of rules."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras

from keras_unpatchify._sizes import Extent, Shape, Size, is_constant
from keras_unpatchify._tensors import tokens_are_wide


class Problem(NamedTuple):
    """What `"auto"` looks at."""

    to_tokens: bool  # `patchify`, rather than `unpatchify`
    overlapping: bool
    whole: bool  # patches overlap, and the stride divides them
    gaps: bool  # whether a stride is longer than its patch
    unit: bool  # whether every stride is 1
    signal: int  # channels
    token: int  # channels
    positions: int  # of a patch
    work: int | None  # multiplications; `None` where a size is not known
    rank: int  # axes of the grid
    accelerated: bool  # whether tensors are on an accelerator

    @property
    def small(self) -> bool:
        """Whether a call takes longer to start than to compute."""
        return self.work is not None and 0 < self.work < 2**18

    @property
    def ratio(self) -> float:
        """Token channels per signal channel."""
        return self.token / self.signal

    @property
    def cells_pay(self) -> bool:
        """Whether a convolution over cells has enough to do that is not moving numbers."""
        if self.small or not self.whole or self.token >= 8 * self.positions * self.signal:
            return False
        if self.accelerated:  # it computes most in less time than a call takes to start
            return self.ratio >= 64 and self.work is not None and self.work >= 2**33
        return self.ratio >= (64 if self.to_tokens else 8)

    @property
    def native_pays(self) -> bool:
        """Whether one native convolution beats many operations, of which few multiply."""
        few = self.ratio < (8 if self.whole else 64)
        return self.overlapping and (self.small or self.accelerated or self.to_tokens or few)

    @property
    def tensorflow_convolves(self) -> bool:
        """Whether TensorFlow's native convolution beats the product also where patches tile."""
        return self.ratio < 8 and (self.to_tokens or self.rank < 3)

    @property
    def xla_convolves(self) -> bool:
        """Whether XLA computes and differentiates the native convolution fast on a CPU."""
        if self.accelerated or self.rank == 3 or self.gaps:
            return False  # in 3D, the gradient takes minutes to compile
        if not self.overlapping:
            return self.to_tokens and tokens_are_wide(self.positions * self.signal, self.token)
        return self.positions * self.token < 60_000 if self.to_tokens else self.unit


# What "auto" takes: the first lowering whose backends and condition fit, or else "matmul".
# benchmarks/README.md says what was measured.
TENSORFLOW, JAX, BOTH = ("tensorflow",), ("jax",), ("torch", "tensorflow")
AUTO: tuple[tuple[str, tuple[str, ...], Callable[[Problem], bool]], ...] = (
    # TensorFlow leaves some gradients unset where there are gaps.
    ("matmul", BOTH, lambda p: p.gaps),
    ("conv_transpose", TENSORFLOW, lambda p: p.small or p.tensorflow_convolves),
    ("subpixel", TENSORFLOW, lambda p: p.to_tokens and not p.overlapping),
    ("subpixel", BOTH, lambda p: p.cells_pay),
    ("conv_transpose", BOTH, lambda p: p.native_pays),
    ("conv_transpose", JAX, lambda p: p.xla_convolves),
)


def problem(
    axes: Sequence[Extent], batch: Size, kernel: Shape, to_tokens: bool, device: str
) -> Problem:
    """The problem of a call with a kernel of this shape."""
    *patch, signal, token = kernel
    overlapping, positions = any(axis.blocks > 1 for axis in axes), math.prod(patch)
    sizes = (batch, *(axis.grid for axis in axes))
    known = all(map(is_constant, sizes))
    return Problem(
        to_tokens=to_tokens,
        overlapping=overlapping,
        whole=overlapping and all(axis.whole for axis in axes),
        gaps=any(axis.stride > axis.patch for axis in axes),
        unit=all(axis.stride == 1 for axis in axes),
        signal=signal,
        token=token,
        positions=positions,
        work=math.prod(sizes) * positions * signal * token if known else None,
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
