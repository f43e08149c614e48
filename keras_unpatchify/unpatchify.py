"""The layer Unpatchify."""

import keras

from keras_unpatchify import geometry, ops
from keras_unpatchify.patch_layer import PatchLayer


@keras.saving.register_keras_serializable("keras_unpatchify")
class Unpatchify(PatchLayer):
    """Turns a grid of token embeddings back into a signal by one learned transposed convolution, channels last.

    Each token becomes a patch; patches lie `stride` apart, and what they give to one position is summed. The value is
    that of `keras.ops.conv_transpose` plus a bias, on every backend; with the same kernel the layer is the adjoint of
    `Patchify`.

    Args:
        in_features: embedding size of a token; `None` reads it from the input.
        out_features: channels of the signal.
        data_dim: number of grid axes: 1, 2 or 3.
        patch_size: positions that a token becomes, an int or one per axis.
        stride: positions from one patch to the next, an int or one per axis. `None` means `patch_size`, where patches
            tile; smaller strides overlap, larger ones leave gaps.
        bias: `True` for one number per channel, `False` for none, or `"patch"` for a bias of the shape
            `(*patch_size, out_features)` that each patch adds before overlaps are summed, as a linear head has it.
        weight_init: a name, or for the kernel any Keras initializer (the bias is then zero). With
            `f = prod(patch_size)`:

            - `"default"`: PyTorch's draw for `ConvTransposeNd`: kernel and bias uniform in `[-b, b]`,
              `b = 1 / sqrt(out_features * f)`.
            - `"zeros"`: kernel and bias zero: the output is exactly zero.
            - `"fan_in"`: kernel uniform in `[-b, b]`, `b = sqrt(6 / (in_features * f))`, bias zero: for unit inputs and
              tiling patches a pixel has the variance `2 / prod(stride)`, whatever `in_features` is.

            `keras_unpatchify.initializers` says why PyTorch's and Keras's own fans are not these, and has both draws as
            initializers that take a seed.
        padding: `"valid"`, or `"same"` for the adjoint of Patchify's `"same"`, which crops what that pads.
        overlap: `"sum"`, or `"mean"` to divide each position by the number of patches that cover it, before the bias
            (a bias of `"patch"` is part of what is averaged).
        implementation: how to compute it; the weights and values are the same. `"conv_transpose"` is the backend's
            native operator, `"matmul"` a matrix product and a rearrangement, `"auto"` the faster one
            (`keras_unpatchify.ops.NATIVE_BELOW`).
        kernel_regularizer: regularizer of the kernel.
        bias_regularizer: regularizer of the bias.
        activity_regularizer: regularizer of the output.
        kernel_constraint: constraint on the kernel.
        bias_constraint: constraint on the bias.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        x: tokens; integers are converted to the dtype that the layer computes in.
        output_spatial_shape: which of the sizes that are patched into this grid to return, one int per axis: from `n`
            to `n + stride - 1`, with `n = (grid - 1) * stride + patch_size`, or `n = (grid - 1) * stride + 1` if
            `padding="same"`. Positions that no patch covers hold the bias, or zero.
        like: a tensor of `data_dim + 2` axes whose spatial size is the one to return; its values are not read. Where
            sizes are known only at run time they are checked then.

    Input shape:
        `(batch, *grid, in_features)`

    Output shape:
        `(batch, *size, out_features)`, each axis `(grid - 1) * stride + patch_size` for `"valid"`, `grid * stride` for
        `"same"`, or what `output_spatial_shape` or `like` asks for.

    Raises:
        ValueError: for an argument, or an input, that does not fit, before any work is done. An input of the wrong rank
            raises a `ValueError` that is also an `AssertionError`.

    Example:
        >>> tokens = keras.Input((14, 14, 512))
        >>> Unpatchify(512, 3, data_dim=2, patch_size=16)(tokens).shape
        (None, 224, 224, 3)
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
        config = {
            "in_features": patchify.out_features,
            "out_features": patchify.channels,
            "data_dim": patchify.data_dim,
            "patch_size": patchify.patch_size,
            "stride": patchify.stride,
            "padding": patchify.padding,
            "dtype": patchify.dtype_policy,
            **overrides,
        }
        if config["out_features"] is None:
            raise ValueError(
                "The channels of the signal must be known. Received: a Patchify layer that is not built, with "
                "in_features=None. Build it first, give it `in_features`, or pass `out_features` here."
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
        geometry.check_input(input_shape, self.data_dim, self.channels)
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
                f"`like` must be a tensor with {self.data_dim + 2} axes: "
                f"batch, {self.data_dim} of the signal, channels. "
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
