"""Initial kernels and biases: what `weight_init` names.

An output position of a transposed convolution sums over the `in_features` of each patch that covers it. The generic
rules for the fan-in of its kernel `(*patch, out_features, in_features)` count something else: Keras multiplies the
patch by the last axis but one of any kernel (`compute_fans` in its `random_initializers.py`), PyTorch by the second
axis of its `(in, out, *patch)` (`_calculate_fan_in_and_fan_out` in `torch.nn.init`); both arrive at `out_features *
prod(patch)`. `TorchUniform` keeps that number, in order to draw what PyTorch draws; `FanInUniform` takes `in_features *
prod(patch)`.
"""

import math

import keras

from keras_unpatchify import geometry

NAMES = ("default", "zeros", "fan_in")


class _FanUniform(keras.initializers.Initializer):
    """Uniform in `[-b, b]`, `b = sqrt(gain / fan)`; without a seed every call draws anew."""

    gain = None

    def __init__(self, fan=None, seed=None):
        if not (seed is None or isinstance(seed, (int, keras.random.SeedGenerator))):
            raise ValueError(
                f"`seed` must be an integer, a `keras.random.SeedGenerator`, or None. Received: seed={seed!r}"
            )
        self.fan = None if fan is None else geometry.positive_int("fan", fan)
        self.seed = seed

    def __call__(self, shape, dtype=None):
        bound = math.sqrt(self.gain / (self.fan or self.kernel_fan(shape)))
        return keras.initializers.RandomUniform(-bound, bound, seed=self.seed)(shape, dtype=dtype)

    def get_config(self):
        return {"fan": self.fan, "seed": keras.saving.serialize_keras_object(self.seed)}

    @classmethod
    def from_config(cls, config):
        return cls(config["fan"], keras.saving.deserialize_keras_object(config["seed"]))


@keras.saving.register_keras_serializable("keras_unpatchify")
class TorchUniform(_FanUniform):
    """PyTorch's default draw for a convolution or transposed convolution: `b = 1 / sqrt(fan)`.

    PyTorch writes it as a Kaiming-uniform draw with `a = sqrt(5)`, which is this bound (`_ConvNd.reset_parameters`).

    Args:
        fan: `None` reads it from a kernel `(*patch, signal, token)`, as `prod(patch) * signal`.
        seed: int or `keras.random.SeedGenerator`, or `None`.
    """

    gain = 1

    @staticmethod
    def kernel_fan(shape):
        """`prod(patch) * signal`."""
        return math.prod(shape[:-1])


@keras.saving.register_keras_serializable("keras_unpatchify")
class FanInUniform(_FanUniform):
    """The Kaiming-uniform draw with a transposed convolution's own fan-in: `b = sqrt(6 / fan)`.

    Args:
        fan: `None` reads it from a kernel `(*patch, out_features, in_features)`, as `prod(patch) * in_features`.
        seed: int or `keras.random.SeedGenerator`, or `None`.
    """

    gain = 6

    @staticmethod
    def kernel_fan(shape):
        """`prod(patch) * in_features`."""
        return math.prod(shape[:-2]) * shape[-1]


def check(weight_init):
    """`weight_init` as one of `NAMES` or an initializer of its own seed."""
    if isinstance(weight_init, str) and weight_init in NAMES:
        return weight_init
    try:
        initializer = keras.initializers.get(weight_init)
        if initializer is None:
            raise ValueError("None names no initializer")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`weight_init` must be one of {', '.join(map(repr, NAMES))}, or a Keras initializer or its name. "
            f"Received: weight_init={weight_init!r} ({error})"
        ) from error
    return (
        initializer.clone()
        if isinstance(initializer, keras.initializers.Initializer)
        else initializer
    )


def kernel_and_bias(weight_init, kernel_shape, in_features):
    """The initializers of a kernel `(*patch, signal, token)` and its bias."""
    if weight_init == "default":
        weight_init = TorchUniform()
    elif weight_init == "fan_in":
        weight_init = FanInUniform(math.prod(kernel_shape[:-2]) * in_features)
    if not isinstance(weight_init, TorchUniform):
        return weight_init, "zeros"
    seed = weight_init.seed
    next_seed = seed + 1 if isinstance(seed, int) else seed
    return weight_init, TorchUniform(
        weight_init.fan or weight_init.kernel_fan(kernel_shape), next_seed
    )
