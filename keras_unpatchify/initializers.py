"""Initial kernels and biases: what `weight_init` names.

Both layers keep a kernel `(*patch, signal, token)`. Below, `f = prod(patch)`. The shape does not
tell which of the last two axes is the input. The generic rules guess the fan-in: Keras multiplies
the patch by the last axis but one of any kernel (`compute_fans` in its `random_initializers.py`),
PyTorch by the second axis of its `(token, signal, *patch)` (`_calculate_fan_in_and_fan_out` in
`torch.nn.init`). Both arrive at `f * signal`. That is the fan-in of a convolution. A transposed
convolution sums over the token channels of each patch instead.

Each name but `"zeros"` has a class here. Kernels are uniform in `[-b, b]`, `b = sqrt(gain / fan)`:

| name | class | gain | fan | bias |
|---|---|---|---|---|
| `"default"` | `TorchUniform` | 1 | `f * signal` | as the kernel |
| `"fan_in"` | `FanInUniform` | 6 | `f *` the channels of the layer's input | 0 |
| `"glorot"` | `LinearGlorotUniform` | 6 | `f * signal + token` | 0 |
| `"unit_variance"` | `UnitVarianceUniform` | 3 | an output's variance (`Kernel.variance`) | 0 |
| `"smooth"` | `SmoothUniform` | 3 | `token`, times a smooth window | 0 |

`"zeros"` is Keras's initializer. In `Patchify` and `Unpatchify` a class draws exactly what its name
draws, because the layer tells it how the kernel is used. Other layers do not tell it. For them, a
class assumes the kernel of an `Unpatchify` with tiling patches, unless it is given a `fan`. The
other argument is `seed`: an int, a `keras.random.SeedGenerator`, or `None` to draw anew each time.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_unpatchify._arguments import per_axis, positive_number
from keras_unpatchify._sizes import Axis


class Kernel(NamedTuple):
    """What a layer does with a kernel: the shape `(*patch, signal, token)`, and how patches meet.

    `overlap` is `"sum"` or `"mean"` for the kernel of an `Unpatchify`, and `None` for that of a
    `Patchify`, whose patches meet nowhere.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    overlap: str | None

    @property
    def positions(self) -> int:
        """The positions of a patch."""
        return math.prod(self.shape[:-2])

    @property
    def inputs(self) -> int:
        """The channels of the input."""
        return self.shape[-2 if self.overlap is None else -1]

    @property
    def variance(self) -> float:
        """The variance of an output where input and kernel have variance 1.

        For a token, that is the number of products that it sums. For a position of the signal, it
        is the mean of that number, or less with `overlap="mean"`.
        """
        if self.overlap is None:
            return self.inputs * self.positions
        return self.inputs * math.prod(_mean_variance(axis, self.overlap) for axis in self.axes)


def _mean_variance(axis, overlap):
    """The variance of a position of the signal where patches hold numbers of variance 1.

    It is the mean over a period of the stride, gaps included: away from the edges the variance of a
    position picked at random. `overlap` is `"sum"` or `"mean"`.
    """
    if overlap == "sum":
        return axis.patch / axis.stride
    # `more` positions of a period are covered by `least + 1` patches, the others by `least`
    least, more = divmod(axis.patch, axis.stride)
    others = (axis.stride - more) / least if least else 0
    return (more / (least + 1) + others) / axis.stride


def _tiling(shape):
    """The kernel as that of an `Unpatchify` whose patches tile, the best guess from its shape."""
    return Kernel(tuple(shape), tuple(Axis(n, n, "valid") for n in shape[:-2]), "sum")


class _FanUniform(keras.initializers.Initializer):
    """Uniform in `[-b, b]`, `b = sqrt(gain / fan)`.

    `fan=None` reads it from the kernel. `seed` is an int, a `keras.random.SeedGenerator`, or `None`
    to draw anew at every call.
    """

    gain: float

    def __init__(
        self, fan: float | None = None, seed: int | keras.random.SeedGenerator | None = None
    ):
        if not (seed is None or isinstance(seed, (int, keras.random.SeedGenerator))):
            raise ValueError(
                "`seed` must be an integer, a `keras.random.SeedGenerator`, or None. "
                f"Received: seed={seed!r}"
            )
        self.fan = None if fan is None else positive_number("fan", fan)
        self.seed = seed

    def __call__(self, shape, dtype=None):
        bound = math.sqrt(self.gain / (self.fan or self._fan(_tiling(shape))))
        return keras.initializers.RandomUniform(-bound, bound, seed=self.seed)(shape, dtype=dtype)

    def serving(self, kernel: Kernel) -> "_FanUniform":
        """The same draw with the fan of this kernel, where none was given."""
        return type(self)(self.fan or self._fan(kernel), self.seed)

    def get_config(self):
        return {"fan": self.fan, "seed": keras.saving.serialize_keras_object(self.seed)}

    @classmethod
    def from_config(cls, config):
        seed = keras.saving.deserialize_keras_object(config["seed"])
        return cls(**{**config, "seed": seed})


@keras.saving.register_keras_serializable("keras_unpatchify")
class TorchUniform(_FanUniform):
    """PyTorch's default draw for a convolution or transposed convolution: `b = 1 / sqrt(fan)`.

    PyTorch writes it as a Kaiming-uniform draw with `a = sqrt(5)`, which is this bound
    (`_ConvNd.reset_parameters`). A layer draws its bias from the same range, with the next seed.
    The fan of a kernel is `prod(patch) * signal`.
    """

    gain = 1

    @staticmethod
    def _fan(kernel: Kernel) -> int:
        return kernel.positions * kernel.shape[-2]


@keras.saving.register_keras_serializable("keras_unpatchify")
class FanInUniform(_FanUniform):
    """The Kaiming-uniform draw with the layer's own input channels: `b = sqrt(6 / fan)`.

    The fan is `prod(patch) * in_features`. These are signal channels for `Patchify`, token channels
    for `Unpatchify` and for a layer of Keras.
    """

    gain = 6

    @staticmethod
    def _fan(kernel: Kernel) -> int:
        return kernel.positions * kernel.inputs


@keras.saving.register_keras_serializable("keras_unpatchify")
class LinearGlorotUniform(_FanUniform):
    """The Glorot-uniform draw of the equivalent linear map: `b = sqrt(6 / fan)`.

    The linear map has `prod(patch) * signal` channels on one side and `token` on the other. ViT,
    MAE and DiT draw their patch embedding from it, and MAE and DiT their linear head. Keras's
    `"glorot_uniform"` multiplies both numbers of channels by the patch.
    """

    gain = 6

    @staticmethod
    def _fan(kernel: Kernel) -> int:
        return kernel.positions * kernel.shape[-2] + kernel.shape[-1]


@keras.saving.register_keras_serializable("keras_unpatchify")
class UnitVarianceUniform(_FanUniform):
    """Unit variance in, unit variance out: `b = sqrt(3 / fan)`. The kernel has variance `1 / fan`.

    If the numbers of the input are independent, of mean 0 and variance 1, those of the output have
    variance 1, away from padding. Where patches overlap unevenly or leave gaps, positions of a
    signal differ in variance. Then 1 is the mean over a period of the stride, gaps included.

    The fan is `prod(patch) * signal` for a token, and `token * prod(patch) / prod(stride)` for a
    signal. With `overlap="mean"` the quotient is replaced by the mean over positions of `1 / n`,
    for the `n` patches that cover one, or 0 in a gap.
    """

    gain = 3

    @staticmethod
    def _fan(kernel: Kernel) -> float:
        return kernel.variance


@keras.saving.register_keras_serializable("keras_unpatchify")
class SmoothUniform(_FanUniform):
    """A start without seams or checkerboards: constant tokens give a constant signal.

    The kernel is `prod(h) * W`, with `W` `(signal, token)` uniform in `[-b, b]`, `b = sqrt(3 /
    token)`. Along each axis `h` is the convolution of `ones(stride)` and `ones(patch - stride +
    1)`, divided by `patch - stride + 1`: a box spline, whose copies at the stride add up to 1 (de
    Boor et al., "Box Splines", 1993). Where patches tile, it is ICNR (Aitken et al., 2017). Where
    they are averaged, or leave gaps, `h` is 1.

    Args:
        stride: int or one per axis. `None` is that of the layer, or else that of tiling patches.
        seed: as for the others.
    """

    gain = 3

    def __init__(self, stride: int | Sequence[int] | None = None, seed: Any = None):
        super().__init__(None, seed)
        self.stride = stride

    @staticmethod
    def _fan(kernel: Kernel) -> int:
        return kernel.shape[-1]

    def __call__(self, shape, dtype=None):
        """A kernel of the shape `(*patch, signal, token)`."""
        *patch, signal, token = shape
        strides = per_axis("stride", patch if self.stride is None else self.stride, len(patch))
        window = functools.reduce(np.multiply.outer, map(_smooth, patch, strides))
        draw = super().__call__((*(1,) * len(patch), signal, token), dtype)
        return draw * keras.ops.convert_to_tensor(window[..., None, None], draw.dtype)

    def serving(self, kernel: Kernel) -> "SmoothUniform":
        """The same draw for this kernel, where no stride was given."""
        tiles = kernel.overlap == "mean"
        stride = tuple(axis.patch if tiles else axis.stride for axis in kernel.axes)
        return SmoothUniform(stride if self.stride is None else self.stride, self.seed)

    def get_config(self):
        """The arguments of the constructor."""
        return {"stride": self.stride, "seed": super().get_config()["seed"]}


def _smooth(patch: int, stride: int) -> np.ndarray:
    if patch < stride:
        return np.ones(patch)
    more = patch - stride + 1
    return np.convolve(np.ones(stride), np.ones(more)) / more


DRAWS = {
    "default": TorchUniform,
    "fan_in": FanInUniform,
    "glorot": LinearGlorotUniform,
    "unit_variance": UnitVarianceUniform,
    "smooth": SmoothUniform,
}
NAMES = ("zeros", *DRAWS)


def check(weight_init: Any, overlaps: bool) -> Any:
    """`weight_init` as one of `NAMES`, or as an initializer; `overlaps` is whether patches may."""
    if not overlaps and (weight_init == "smooth" or isinstance(weight_init, SmoothUniform)):
        raise ValueError(
            "`weight_init` must draw a kernel for tokens, which do not overlap: nothing of theirs "
            f"is smoothed. Received: weight_init={weight_init!r}. Use it for the Unpatchify, and "
            "'unit_variance' here."
        )
    if isinstance(weight_init, str) and weight_init in NAMES:
        return weight_init
    return get("weight_init", weight_init, f"one of {', '.join(map(repr, NAMES))}, or ")


def get(name: str, value: Any, others: str = "") -> Any:
    """An initializer of Keras, by itself, its name or its config.

    Keras's initializers without a seed would draw the same for two layers, so each gets a copy.
    """
    try:
        initializer = keras.initializers.get(value)
        if initializer is None:
            raise ValueError("None does not name an initializer")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}` must be {others}a Keras initializer or its name. "
            f"Received: {name}={value!r} ({error})"
        ) from error
    of_keras = type(initializer).__module__.startswith("keras.")
    if of_keras and hasattr(initializer, "seed") and initializer.get_config()["seed"] is None:
        return initializer.clone()
    return initializer


def kernel_and_bias(weight_init: Any, kernel: Kernel) -> tuple[Any, Any]:
    """The initializers of a kernel and of its bias, for what `check` returned."""
    if isinstance(weight_init, str) and weight_init in DRAWS:
        weight_init = DRAWS[weight_init]()
    if not isinstance(weight_init, _FanUniform):
        return weight_init, "zeros"
    draw = weight_init.serving(kernel)
    if not isinstance(draw, TorchUniform):
        return draw, "zeros"
    next_seed = draw.seed + 1 if isinstance(draw.seed, int) else draw.seed
    return draw, TorchUniform(draw.fan, next_seed)
