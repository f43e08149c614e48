"""The layer Patchify."""

import keras

from keras_unpatchify import geometry, ops
from keras_unpatchify.patch_layer import PatchLayer


@keras.saving.register_keras_serializable("keras_unpatchify")
class Patchify(PatchLayer):
    """Turns a signal into a grid of token embeddings by one learned strided convolution, channels last.

    See the README.
    """

    def _kernel_shape(self, in_features):
        return (*self.patch_size, in_features, self.out_features)

    def compute_output_shape(self, input_shape):
        """`(batch, *grid, out_features)` of an input `(batch, *size, in_features)`."""
        input_shape = geometry.as_shape(input_shape)
        geometry.check_input(input_shape, self.data_dim, self.in_features)
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
