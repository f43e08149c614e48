"""The layer Unpatchify."""

import keras

from keras_unpatchify import geometry, ops
from keras_unpatchify.patch_layer import PatchLayer


@keras.saving.register_keras_serializable("keras_unpatchify")
class Unpatchify(PatchLayer):
    """Turns a grid of token embeddings back into a signal by one learned transposed convolution, channels last.

    See the README.
    """

    BIASES = (True, False, "patch")

    def __init__(
        self,
        in_features,
        out_features,
        data_dim,
        patch_size,
        stride=None,
        bias=True,
        weight_init="default",
        *,
        overlap="sum",
        **kwargs,
    ):
        super().__init__(in_features, out_features, data_dim, patch_size, stride, bias, weight_init, **kwargs)
        self.overlap = geometry.one_of("overlap", overlap, ops.OVERLAPS)

    @classmethod
    def from_patchify(cls, patchify, **overrides):
        """The mirror of a `Patchify` layer: features swapped, the same patch, stride, padding and dtype policy.

        Args:
            patchify: the layer; its number of channels must be known, by `in_features` or by being built.
            **overrides: further or other arguments of `Unpatchify`.

        Raises:
            ValueError: if the number of channels is not known.
        """
        out_features = patchify.kernel.shape[-2] if patchify.built else patchify.in_features
        config = {
            "in_features": patchify.out_features,
            "out_features": out_features,
            "data_dim": patchify.data_dim,
            "patch_size": patchify.patch_size,
            "stride": patchify.stride,
            "padding": patchify.padding,
            "dtype": patchify.dtype_policy,
            **overrides,
        }
        if config["out_features"] is None:
            raise ValueError(
                "The channels of the signal must be known. Received: a Patchify layer with in_features=None that is not "
                "built. Give it `in_features`, build it first, or pass `out_features` here."
            )
        return cls(**config)

    def _kernel_shape(self, in_features):
        return (*self.patch_size, self.out_features, in_features)

    def _bias_shape(self):
        return (*self.patch_size, self.out_features) if self.use_bias == "patch" else (self.out_features,)

    def compute_output_shape(self, input_shape):
        """`(batch, *size, out_features)` of an input `(batch, *grid, in_features)`, at the default size."""
        return self._output_shape(input_shape, None)

    def compute_output_spec(self, x, output_spatial_shape=None, like=None):
        """The symbolic output of a symbolic input."""
        self._check_dtype(x.dtype)
        target = self._target(output_spatial_shape, like, lambda tensor: tensor.shape)
        return keras.KerasTensor(self._output_shape(x.shape, target), dtype=self.compute_dtype)

    def _output_shape(self, input_shape, target):
        input_shape = geometry.as_shape(input_shape)
        geometry.check_input(input_shape, self.data_dim, self.in_features)
        size = geometry.spatial_shape(self.axes, input_shape[1:-1], target)
        shape = (input_shape[0], *size, self.out_features)
        geometry.check_elements("output", shape)
        return shape

    def _target(self, output_spatial_shape, like, shape_of):
        """The size that was asked for, or `None`; `shape_of` reads the shape of a tensor."""
        if like is None:
            return None if output_spatial_shape is None else geometry.target_shape(output_spatial_shape, self.data_dim)
        if output_spatial_shape is not None:
            raise ValueError(
                "`like` and `output_spatial_shape` both say the size of the output: pass one of them. "
                f"Received: output_spatial_shape={output_spatial_shape!r} and a `like`"
            )
        if len(getattr(like, "shape", ())) != self.data_dim + 2:
            raise ValueError(
                f"`like` must be a tensor with {self.data_dim + 2} axes: batch, {self.data_dim} of the signal, channels. "
                f"Received: like={like!r}. For a size in numbers, pass `output_spatial_shape`."
            )
        return shape_of(like)[1:-1]

    def call(self, x, output_spatial_shape=None, like=None):
        """The signal of the tokens `x`."""
        return ops.unpatchify(
            self._as_input(x),
            self.kernel,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_spatial_shape=self._target(output_spatial_shape, like, keras.ops.shape),
            overlap=self.overlap,
            implementation=self.implementation,
        )

    def get_config(self):
        """The arguments of the constructor."""
        return {**super().get_config(), "overlap": self.overlap}
