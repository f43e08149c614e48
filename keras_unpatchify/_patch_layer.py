"""What both layers share: their arguments, checks, weights and config."""

from collections.abc import Callable
from typing import Any, Literal, Self

import keras

from keras_unpatchify import _arguments, initializers
from keras_unpatchify._arguments import Implementation, Padding, PerAxis
from keras_unpatchify._kernels import INTERPOLATIONS, Interpolation, resampled
from keras_unpatchify._sizes import Shape, Size
from keras_unpatchify._tensors import Tensor, as_tensor

REQUIRED = ("in_features", "out_features", "data_dim", "patch_size")
# Arguments that a config has as they are.
PLAIN = (*REQUIRED, "stride", "padding", "sequence", "implementation")
REGULARIZERS = ("kernel_regularizer", "bias_regularizer", "activity_regularizer")
CONSTRAINTS = ("kernel_constraint", "bias_constraint")

# What other layers call the arguments, those of Keras and of PyTorch.
OTHER_NAMES = {
    "filters": "is called `out_features` here",
    "units": "is called `out_features` here",
    "kernel_size": "is called `patch_size` here",
    "strides": "is called `stride` here",
    "use_bias": "is called `bias` here",
    "kernel_initializer": "is called `weight_init` here",
    "in_channels": "is called `in_features` here",
    "out_channels": "is called `out_features` here",
    "data_format": "is 'channels_last' here: move the channels with `keras.ops.moveaxis`",
    "dilation_rate": "is 1 here: use a convolution of Keras",
    "groups": "is 1 here: use a convolution of Keras",
    "output_padding": "is a part of `padding` here: padding=((n, n - output_padding), ...)",
}


class PatchLayer(keras.layers.Layer):
    """The base of `Patchify` and `Unpatchify`: a layer with a kernel and a bias.

    The kernel has the shape `(*patch, signal, token)`, with the numbers of channels last.
    """

    to_tokens = True
    BIASES: tuple[bool | str, ...] = (True, False)
    # How what patches give to one position is combined; tokens have no such positions.
    overlap: Any = None

    def __init__(
        self,
        in_features: int | None,
        out_features: int,
        data_dim: int,
        patch_size: PerAxis,
        stride: PerAxis | None = None,
        bias: bool | Literal["patch"] = True,
        weight_init: Any = "default",
        *,
        padding: Padding = "valid",
        sequence: bool = False,
        activation: str | Callable | None = None,
        implementation: Implementation = "auto",
        bias_initializer: Any = None,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ):
        for name in OTHER_NAMES.keys() & kwargs.keys():
            raise ValueError(f"`{name}` {OTHER_NAMES[name]}. Received: {name}={kwargs[name]!r}")
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if in_features is not None:
            in_features = _arguments.positive_int("in_features", in_features)
        self.in_features = in_features
        self.out_features = _arguments.positive_int("out_features", out_features)
        self.data_dim = _arguments.one_of("data_dim", data_dim, (1, 2, 3))
        self.axes = _arguments.make_axes(patch_size, stride, padding, self.data_dim)
        self.sequence = _arguments.one_of("sequence", sequence, (True, False))
        self.use_bias = _arguments.one_of("bias", bias, self.BIASES)
        self.weight_init = initializers.check(weight_init, not self.to_tokens)
        self.bias_initializer = None
        if bias_initializer is not None:
            self.bias_initializer = initializers.get("bias_initializer", bias_initializer)
        self.activation = keras.activations.get(activation)
        self.implementation = _arguments.one_of(
            "implementation", implementation, _arguments.IMPLEMENTATIONS
        )
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        # Channels of the input. If `in_features` is None, they are known once the layer is built.
        self.channels = self.in_features
        self.kernel: Any = None
        self.bias: Any = None

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Positions of a patch, one number per axis."""
        return tuple(axis.patch for axis in self.axes)

    @property
    def stride(self) -> tuple[int, ...]:
        """Positions from one patch to the next, one number per axis."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def padding(self) -> str | tuple[str | tuple[int, int], ...]:
        """A word for all axes, or for each axis a word or a pair `(before, after)`."""
        paddings: Any = tuple(axis.padding for axis in self.axes)
        first, *others = paddings
        alike = isinstance(first, str) and all(other == first for other in others)
        return first if alike else paddings

    def _build_with(self, channels: int | None) -> None:
        """Builds the layer for an input of so many channels, of any size."""
        as_sequence = self.sequence and not self.to_tokens
        self.build((*(None,) * (2 if as_sequence else 1 + self.data_dim), channels))

    def _create_weights(self, in_features: Size) -> None:
        kernel_shape = self._kernel_shape(in_features)
        _arguments.check_elements("kernel", kernel_shape, _arguments.MAX_KERNEL_ELEMENTS)
        self.channels = in_features
        kernel_initializer, bias_initializer = initializers.kernel_and_bias(
            self.weight_init, initializers.Kernel(kernel_shape, self.axes, self.overlap)
        )
        self.kernel = self.add_weight(
            name="kernel",
            shape=kernel_shape,
            initializer=kernel_initializer,
            autocast=False,  # to another layer's dtype, if that calls `call`
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=self._bias_shape(),
                initializer=self.bias_initializer or bias_initializer,
                autocast=False,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def _kernel_shape(self, in_features: int | None) -> Shape:
        raise NotImplementedError

    def _bias_shape(self) -> Shape:
        return (self.out_features,)

    def _check_tensor(self, x: Tensor) -> None:
        if "Ragged" in type(x).__name__:
            raise ValueError(
                f"The input must be dense. Received: a {type(x).__name__}. Call its `to_tensor()`, "
                "or batch signals of one size."
            )
        if "complex" in str(x.dtype):
            raise ValueError(
                f"The input must be real. Received: dtype={x.dtype}. Pass the two parts as "
                "channels."
            )

    def _as_input(self, x: Tensor) -> Tensor:
        """The input in the dtype to compute in; integers, such as pixels, are converted."""
        self._check_tensor(x)
        return keras.ops.cast(x, self.compute_dtype)

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        """The kernel and the bias as tensors in the dtype to compute in."""
        bias = None if self.bias is None else as_tensor(self.bias, self.compute_dtype)
        return as_tensor(self.kernel, self.compute_dtype), bias

    def resampled(
        self,
        patch_size: PerAxis,
        stride: PerAxis | None = None,
        padding: Padding | None = None,
        interpolation: Interpolation = "cubic",
    ) -> Self:
        """A new, built layer with the same name and settings, for patches of another size.

        The patches of an `Unpatchify` are resized, its bias of `"patch"` too. A `Patchify` gives to
        a resized patch the token that it gave to the patch: exactly if patches grow, by least
        squares if they shrink (Beyer et al., "FlexiViT", 2023). A pair that is resampled like this
        is no longer each other's adjoint. (With the rule of `Patchify`, the patches of a head would
        be `(old / new) ** data_dim` times as bright: it divides by the area over which it sums.)

        Args:
            patch_size: int or one per axis.
            stride: int or one per axis. `None` scales the stride with the patch.
            padding: as for the layer. `None` keeps words, and scales numbers with the patch.
            interpolation: `"cubic"` or `"linear"`, both antialiased.

        Raises:
            ValueError: if the layer is not built, or stride or padding would not be whole numbers.
        """
        if not self.built:
            raise ValueError(
                f"The layer must be built to be resampled. Received: built={self.built}. Call it, "
                "or load its weights, first."
            )
        _arguments.one_of("interpolation", interpolation, INTERPOLATIONS)
        patch = _arguments.per_axis("patch_size", patch_size, self.data_dim)
        ratios = list(zip(patch, self.patch_size))
        if stride is None:
            stride = [_scaled("stride", n, *ratio) for n, ratio in zip(self.stride, ratios)]
        if padding is None:
            padding = [
                axis.padding
                if isinstance(axis.padding, str)
                else [_scaled("padding", n, *ratio) for n in axis.padding]
                for axis, ratio in zip(self.axes, ratios)
            ]
        config = {**self.get_config(), "patch_size": patch, "stride": stride, "padding": padding}
        layer = type(self).from_config(config)
        layer._build_with(self.channels)
        layer.kernel.assign(resampled(self.kernel, patch, self.to_tokens, interpolation))
        if self.use_bias:
            bias = self.bias
            if self.use_bias == "patch":
                bias = keras.ops.expand_dims(bias, -1)
                bias = resampled(bias, patch, False, interpolation)[..., 0]
            layer.bias.assign(bias)
        return layer

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        weight_init = self.weight_init
        if not isinstance(weight_init, str):
            weight_init = keras.initializers.serialize(weight_init)
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in PLAIN},
            "bias": self.use_bias,
            "weight_init": weight_init,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "activation": keras.activations.serialize(self.activation),
            **{x: keras.regularizers.serialize(getattr(self, x)) for x in REGULARIZERS},
            **{x: keras.constraints.serialize(getattr(self, x)) for x in CONSTRAINTS},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A layer with these arguments; raises a ValueError for what the constructor refuses."""
        missing = [name for name in REQUIRED if name not in config]
        if missing:
            raise ValueError(
                f"The config of {cls.__name__} must have {', '.join(REQUIRED)}. "
                f"Missing: {', '.join(missing)}. Received: {config!r}"
            )
        return cls(**config)


def _scaled(name: str, number: int, new: int, old: int) -> int:
    """A number of positions, scaled with the patch."""
    scaled, rest = divmod(number * new, old)
    if rest:
        raise ValueError(
            f"`{name}` must be a whole number of positions. Received: {name}={number} of patches "
            f"of {old}, which become {new}. Pass `{name}`."
        )
    return scaled
