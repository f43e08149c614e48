"""The layer Patchify."""

import math

import keras

from keras_unpatchify import _arguments, _compute, _from_keras, ops
from keras_unpatchify._patch_layer import PatchLayer
from keras_unpatchify._sizes import Shape, StaticShape
from keras_unpatchify._tensors import Tensor, with_channels


@keras.saving.register_keras_serializable("keras_unpatchify")
class Patchify(PatchLayer):
    """Turns a signal into a grid of token embeddings by one learned strided convolution.

    Each patch becomes a token. Patches lie `stride` apart. With the same kernel the layer is the
    adjoint of `Unpatchify`: without biases `<Patchify(x), t> = <x, Unpatchify(t)>`. The sizes are
    those of Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016).
    Channels are last.

    Args:
        in_features: int, channels of the signal. `None` reads it from the input.
        out_features: int, channels of a token.
        data_dim: int, the number of spatial axes: 1, 2 or 3.
        patch_size: int or one per axis, the positions that become a token.
        stride: int or one per axis, the positions from one patch to the next: less than the patch
            for patches that overlap, more for gaps. Defaults to `None`, the patch: they tile.
        bias: bool, whether to add one number to each channel of a token. Defaults to `True`.
        weight_init: `"default"` (PyTorch's draw for `ConvNd`), `"zeros"`, `"fan_in"`, `"glorot"`
            (that of the equivalent linear map, as in ViT, MAE and DiT), `"unit_variance"`, or a
            Keras initializer for the kernel. Defaults to `"default"`.
            `keras_unpatchify.initializers` says what they draw. It has each as a class with a seed.
        padding: how the signal is padded before it is patched: one of these for all axes, or one
            for each. Defaults to `"valid"`.

            - `"valid"`: not at all. Positions at the end that fill no patch are dropped.
            - `"same"`: with as many zeros as `ceil(size / stride)` patches need, half of them
              (rounded down) before. Nothing is dropped.
            - `"circular"`: the ends of the signal meet, as those of longitude. Its size must be a
              multiple of the stride, and at least a patch. Patches begin where those of `"same"`
              do.
            - an int, or a pair `(before, after)`: with that many zeros, each number less than the
              patch, as in PyTorch's `ConvNd`. A negative `after`, greater than `-stride`, drops
              positions. In 2D, `(1, 2)` is 1 and 1, then 2 and 2; in 1D, a pair is `((1, 2),)`.
        sequence: bool, whether to return tokens as a sequence, `(batch, tokens, out_features)`,
            row by row. Defaults to `False`.
        activation: a name or callable, applied to the tokens. Defaults to `None`.
        implementation: how to compute the tokens, as for `Unpatchify`, where `"conv_transpose"` is
            the backend's strided convolution. Defaults to `"auto"`.
        bias_initializer: a Keras initializer for the bias. `None`, the default, is what
            `weight_init` says.
        kernel_regularizer: regularizer of the kernel, like `bias_regularizer` of the bias and
            `activity_regularizer` of the output. Default to `None`.
        kernel_constraint: constraint on the kernel, like `bias_constraint` on the bias.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        x: signal. Integers, such as pixels, are converted to the dtype that the layer computes in.

    Input shape:
        `(batch, *size, in_features)`

    Output shape:
        `(batch, *grid, out_features)`, or `(batch, prod(grid), out_features)` with `sequence=True`.
        Each axis of the grid is `(size + before + after - patch_size) // stride + 1` long, or
        `ceil(size / stride)` for `"same"`.

    Raises:
        ValueError: if an argument or an input does not fit, before any work is done. If an input
            has the wrong rank, the `ValueError` is also an `AssertionError`.

    A Keras mask is not passed on, and `quantize` is not supported.

    Example:
        >>> image = keras.Input((224, 224, 3))
        >>> Patchify(3, 512, data_dim=2, patch_size=16)(image).shape
        (None, 14, 14, 512)
    """

    @classmethod
    def from_conv(cls, layer: keras.layers.Layer) -> "Patchify":
        """The same function as a convolution of Keras, with its settings and weights.

        Name, dtype policy, activation, regularizers, constraints and the trainable flag are the
        layer's, and so are the weights if it is built. If it is not, `in_features` is `None`, and
        the layer's own initializers will draw the weights. What has weights, as an activation may,
        is copied.

        Args:
            layer: a `Conv1D`, `Conv2D` or `Conv3D` of Keras.

        Raises:
            ValueError: if it is something else, a subclass included, or if it has dilation,
                groups, channels first, or LoRA.

        Example:
            >>> conv = keras.layers.Conv2D(512, 16, strides=16)
            >>> Patchify.from_conv(conv).patch_size
            (16, 16)
        """
        return _from_keras.with_weights(cls(**_from_keras.conv_arguments(layer)), layer)

    def build(self, input_shape: StaticShape) -> None:
        """Creates the kernel and the bias."""
        self.compute_output_shape(input_shape)  # checks it
        self._create_weights(self.channels or input_shape[-1])

    def _kernel_shape(self, in_features: int | None) -> Shape:
        return (*self.patch_size, in_features, self.out_features)

    def compute_output_shape(self, input_shape: StaticShape) -> StaticShape:
        """The shape of the tokens of a signal `(batch, *size, in_features)`."""
        shape = _arguments.as_shape(input_shape)
        _arguments.check_input(shape, self.data_dim, self.channels)
        batch, *size, _ = shape
        grid = _arguments.grid_shape(self.axes, size)
        if self.sequence:
            grid = (None if None in grid else math.prod(grid),)
        return (batch, *grid, self.out_features)

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """The symbolic output of a symbolic input."""
        self._check_tensor(x)
        return keras.KerasTensor(self.compute_output_shape(x.shape), dtype=self.compute_dtype)

    def call(self, x: Tensor) -> Tensor:
        """Tokens of the signal `x`."""
        x = self._as_input(x)
        _arguments.check_input(x.shape, self.data_dim, self.channels)
        x = with_channels(x, self.channels)
        y = _compute.tokens(x, *self._weights(), self.axes, self.implementation)
        return self.activation(ops.to_sequence(y) if self.sequence else y)
