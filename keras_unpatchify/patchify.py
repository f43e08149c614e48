"""The layer Patchify."""

import keras

from keras_unpatchify import geometry, ops
from keras_unpatchify.patch_layer import PatchLayer


@keras.saving.register_keras_serializable("keras_unpatchify")
class Patchify(PatchLayer):
    """Turns a signal into a grid of token embeddings by one learned strided convolution, channels last.

    Each patch becomes a token; patches lie `stride` apart. With the same kernel the layer is the adjoint of
    `Unpatchify`: without biases `<Patchify(x), t> = <x, Unpatchify(t)>`.

    Args:
        in_features: channels of the signal; `None` reads it from the input.
        out_features: embedding size of a token.
        data_dim: number of spatial axes: 1, 2 or 3.
        patch_size: positions that become a token, an int or one per axis.
        stride: positions from one patch to the next, an int or one per axis. `None` means `patch_size`, where patches
            tile; smaller strides overlap, larger ones leave gaps.
        bias: whether to add one number per embedding channel.
        weight_init: a name, or for the kernel any Keras initializer (the bias is then zero). With
            `f = prod(patch_size)`:

            - `"default"`: PyTorch's draw for `ConvNd`: kernel and bias uniform in `[-b, b]`,
              `b = 1 / sqrt(in_features * f)`.
            - `"zeros"`: kernel and bias zero.
            - `"fan_in"`: kernel uniform in `[-b, b]`, `b = sqrt(6 / (in_features * f))`, bias zero.
        padding: `"valid"` drops what fills no patch on the right, as every framework does; `"same"` pads with zeros,
            half of them (rounded down) before, so that nothing is dropped.
        implementation: how to compute it; the weights and values are the same. `"conv_transpose"` is the backend's
            native operator (here its adjoint, the convolution), `"matmul"` a rearrangement and a matrix product,
            `"auto"` the faster one (`keras_unpatchify.ops.NATIVE_BELOW`).
        kernel_regularizer: regularizer of the kernel.
        bias_regularizer: regularizer of the bias.
        activity_regularizer: regularizer of the output.
        kernel_constraint: constraint on the kernel.
        bias_constraint: constraint on the bias.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        x: signal; integers, such as the pixels of a photograph, are converted to the dtype that the layer computes in.

    Input shape:
        `(batch, *size, in_features)`

    Output shape:
        `(batch, *grid, out_features)`, each axis `(size - patch_size) // stride + 1` for `"valid"` or
        `ceil(size / stride)` for `"same"`.

    Raises:
        ValueError: for an argument, or an input, that does not fit, before any work is done. An input of the wrong rank
            raises a `ValueError` that is also an `AssertionError`.

    Example:
        >>> image = keras.Input((224, 224, 3))
        >>> Patchify(3, 512, data_dim=2, patch_size=16)(image).shape
        (None, 14, 14, 512)
    """

    def _kernel_shape(self, in_features):
        return (*self.patch_size, in_features, self.out_features)

    def compute_output_shape(self, input_shape):
        """`(batch, *grid, out_features)` of an input `(batch, *size, in_features)`."""
        input_shape = geometry.as_shape(input_shape)
        geometry.check_input(input_shape, self.data_dim, self.channels)
        return (input_shape[0], *geometry.grid_shape(self.axes, input_shape[1:-1]), self.out_features)

    def compute_output_spec(self, x):
        """The symbolic output of a symbolic input."""
        self._check_dtype(x.dtype)
        return keras.KerasTensor(self.compute_output_shape(x.shape), dtype=self.compute_dtype)

    def call(self, x):
        """Tokens of the signal `x`."""
        return ops.patchify(
            self._as_input(x),
            self.kernel,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            implementation=self.implementation,
        )
