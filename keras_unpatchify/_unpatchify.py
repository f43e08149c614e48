"""The layer Unpatchify."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from keras_unpatchify import _arguments, _compute, _from_keras, ops
from keras_unpatchify._arguments import Implementation, Overlap, Padding, PerAxis
from keras_unpatchify._patch_layer import PatchLayer
from keras_unpatchify._patchify import Patchify
from keras_unpatchify._sizes import Shape
from keras_unpatchify._tensors import Tensor


@keras.saving.register_keras_serializable("keras_unpatchify")
class Unpatchify(PatchLayer):
    """Turns a grid of token embeddings back into a signal by one learned transposed convolution.

    Channels are last. Each token becomes a patch. Patches lie `stride` apart, and where they
    overlap, they are summed. The values are those of a transposed convolution plus a bias, the same
    on every backend. With the same kernel the layer is the adjoint of `Patchify`. It replaces the
    linear head of a masked autoencoder (He et al., 2022) or a diffusion transformer (Peebles & Xie,
    2023), and PyTorch's `ConvTransposeNd`.

    Args:
        in_features: int, channels of a token. `None` reads it from the input.
        out_features: int, channels of the signal.
        data_dim: int, the number of axes of the grid: 1, 2 or 3.
        patch_size: int or one per axis, the positions that a token becomes.
        stride: int or one per axis, the positions from one patch to the next. With a smaller
            stride than the patch, patches overlap; with a larger one, they leave gaps. Defaults
            to `None`: the size of the patch, so that patches tile.
        bias: `True` for one number per channel, `False` for none, or `"patch"` for a bias of the
            shape `(*patch_size, out_features)`, as a linear head has. It is added to each
            patch, before overlapping patches are summed. Defaults to `True`.
        weight_init: a name, or a Keras initializer for the kernel (the bias is then zero).
            Defaults to `"default"`. With `f = prod(patch_size)`:

            - `"default"`: PyTorch's draw for `ConvTransposeNd`. Kernel and bias are uniform in
              `[-b, b]`, `b = 1 / sqrt(out_features * f)`.
            - `"zeros"`: kernel and bias are zero, and so is the output.
            - `"fan_in"`: the kernel is uniform in `[-b, b]`, `b = sqrt(6 / (in_features * f))`.
              The bias is zero. For tokens of variance 1 and tiling patches, a position has the
              variance `2 / prod(stride)`, whatever `in_features` is.
            - `"glorot"`: the kernel is uniform in `[-b, b]`, `b = sqrt(6 / (in_features +
              out_features * f))`: the Glorot draw of the equivalent linear head, as in MAE and
              DiT. The bias is zero.
            - `"unit_variance"`: the kernel is uniform in `[-b, b]`, `b = sqrt(3 * prod(stride) /
              (in_features * f))`; with `overlap="mean"` it accounts for the division too. The
              bias is zero. Tokens of variance 1 give a signal of variance 1, on average over
              its positions. Within a patch of the border fewer patches overlap: there it is less,
              or more with `overlap="mean"`.

            `keras_unpatchify.initializers` explains the draws, and has each as an initializer that
            takes a seed.
        padding: the positions that `Patchify` pads with zeros and this layer crops. Defaults to
            `"valid"`.

            - `"valid"`: nothing.
            - `"same"`: what `Patchify` pads with `"same"`.
            - an int, or for each axis an int or a pair `(before, after)`: that many positions. Each
              number must be less than the patch. This is the padding of PyTorch's
              `ConvTransposeNd`. A negative `after`, greater than `-stride`, adds positions at the
              end. PyTorch's `padding=n, output_padding=p` is the pair `(n, n - p)` here.
        sequence: bool, whether tokens come as a sequence, `(batch, tokens, in_features)`, row by
            row, instead of a grid. The grid is then that of `output_spatial_shape` or `like`,
            which must be passed if `data_dim` is more than 1. Defaults to `False`.
        overlap: `"sum"`, or `"mean"` to divide each position by the number of patches that cover
            it, before the bias. (A bias of `"patch"` is part of what is averaged.) Defaults to
            `"sum"`.
        activation: a name or callable, applied to the signal. Defaults to `None`.
        implementation: how to compute the signal. The choice changes speed and memory, and values
            only by rounding. It does not change the weights. Defaults to `"auto"`.

            - `"conv_transpose"`: the backend's transposed convolution.
            - `"matmul"`: one matrix product; then the patches are put in their places.
            - `"subpixel"`: a convolution of stride 1 over cells, one stride long. It needs little
              memory where patches overlap much. On jax it is slow to train.
            - `"auto"`: the fastest that was measured (`keras_unpatchify.ops.AUTO` has the rule).
        kernel_regularizer: regularizer of the kernel. Defaults to `None`, as do the next four.
        bias_regularizer: regularizer of the bias.
        activity_regularizer: regularizer of the output.
        kernel_constraint: constraint on the kernel.
        bias_constraint: constraint on the bias.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        x: tokens. Integers are converted to the dtype that the layer computes in.
        output_spatial_shape: the size to return, one int per axis. `Patchify` must turn a signal
            of this size into this grid: each int is from `n` to `n + stride - 1`, where `n =
            (grid - 1) * stride + patch_size - before - after`, or `n = (grid - 1) * stride + 1` if
            `padding="same"`. Positions that no patch covers hold the bias, or zero.
        like: a tensor of `data_dim + 2` axes. The output takes the spatial size of this tensor.
            The values of the tensor are not read. A size that is known only at run time is checked
            then. The error is the backend's own; on TensorFlow, it names the operation
            `output_spatial_shape_must_be_patched_into_this_grid`.

    Input shape:
        `(batch, *grid, in_features)`, or `(batch, tokens, in_features)` with `sequence=True`.

    Output shape:
        `(batch, *size, out_features)`. Each axis is as long as `output_spatial_shape` or `like`
        asks, else `grid * stride` for `"same"` and `(grid - 1) * stride + patch_size - before -
        after` otherwise.

    Raises:
        ValueError: if an argument or an input does not fit, before any work is done. If an input
            has the wrong rank, the `ValueError` is also an `AssertionError`.

    A Keras mask is not passed on, and `quantize` is not supported. `TimeDistributed` passes on
    neither `output_spatial_shape` nor `like`.

    Example:
        >>> tokens = keras.Input((14, 14, 512))
        >>> Unpatchify(512, 3, data_dim=2, patch_size=16)(tokens).shape
        (None, 224, 224, 3)
    """

    BIASES = (True, False, "patch")

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
        overlap: Overlap = "sum",
        activation: str | Callable | None = None,
        implementation: Implementation = "auto",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ):
        super().__init__(
            in_features,
            out_features,
            data_dim,
            patch_size,
            stride,
            bias,
            weight_init,
            padding=padding,
            sequence=sequence,
            activation=activation,
            implementation=implementation,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.overlap = _arguments.one_of("overlap", overlap, _arguments.OVERLAPS)

    @classmethod
    def from_patchify(cls, patchify: Patchify, **overrides: Any) -> "Unpatchify":
        """The mirror of a `Patchify` layer.

        Features are swapped. Patch, stride, padding, `sequence`, `bias`, `implementation` and the
        dtype policy are the same. What belongs to one direction is not carried over: `weight_init`,
        `activation`, regularizers and constraints. The mirror has weights of its own.

        Args:
            patchify: the layer. Its number of channels must be known, by `in_features` or because
                it is built.
            **overrides: arguments of `Unpatchify` to add or replace. With another `patch_size`, a
                layer whose patches tile is mirrored by one whose patches tile too.

        Raises:
            ValueError: if it is not a `Patchify`, or its number of channels is not known.
        """
        if not isinstance(patchify, Patchify):
            raise ValueError(f"`patchify` must be a Patchify. Received: patchify={patchify!r}")
        config = {
            "in_features": patchify.out_features,
            "out_features": patchify.channels,
            "data_dim": patchify.data_dim,
            "patch_size": patchify.patch_size,
            "stride": None if patchify.stride == patchify.patch_size else patchify.stride,
            "bias": patchify.use_bias,
            "padding": patchify.padding,
            "sequence": patchify.sequence,
            "implementation": patchify.implementation,
            "dtype": patchify.dtype_policy,
            **overrides,
        }
        if config["out_features"] is None:
            raise ValueError(
                "The channels of the signal must be known. Received: a Patchify layer that is not "
                "built, with in_features=None. Build it first, give it `in_features`, or pass "
                "`out_features` here."
            )
        return cls(**config)

    @classmethod
    def from_conv_transpose(cls, layer: keras.layers.Layer) -> "Unpatchify":
        """The same function as a transposed convolution of Keras, with its settings and weights.

        Name, dtype policy, activation, regularizers, constraints and the trainable flag are the
        layer's, and so are the weights if it is built. If it is not, `in_features` is `None`, the
        layer's own initializer will draw the kernel, and the bias will be zero, whatever
        `bias_initializer` is. The output has the positions that Keras 3.15 computes.

        Args:
            layer: a `Conv1DTranspose`, `Conv2DTranspose` or `Conv3DTranspose` of Keras.

        Raises:
            ValueError: if it is something else, a subclass included, or if it has dilation,
                channels first, or an `output_padding` that is not less than the stride.

        Example:
            >>> conv = keras.layers.Conv2DTranspose(64, 4, strides=2, padding="same")
            >>> Unpatchify.from_conv_transpose(conv).patch_size
            (4, 4)
        """
        return _from_keras.with_weights(cls(**_from_keras.conv_transpose_arguments(layer)), layer)

    def build(self, x_shape: Shape, like_shape: Shape | None = None) -> None:
        """Creates the kernel and the bias."""
        self.compute_output_shape(x_shape, like_shape)  # checks them
        self._create_weights(x_shape[-1])

    def _kernel_shape(self, in_features: int | None) -> Shape:
        return (*self.patch_size, self.out_features, in_features)

    def _bias_shape(self) -> Shape:
        patch = self.patch_size if self.use_bias == "patch" else ()
        return (*patch, *super()._bias_shape())

    def compute_output_shape(self, x_shape: Shape, like_shape: Shape | None = None) -> Shape:
        """The shape of the signal of tokens, of the default size or that of `like`."""
        size: Shape | None = None if like_shape is None else tuple(like_shape)[1:-1]
        if self.sequence and self.data_dim > 1 and size is None:
            size = (None,) * self.data_dim  # not known before the layer is called
        return self._output_shape(x_shape, size)

    def compute_output_spec(
        self,
        x: keras.KerasTensor,
        output_spatial_shape: Sequence[int] | None = None,
        like: keras.KerasTensor | None = None,
    ) -> keras.KerasTensor:
        """The symbolic output of a symbolic input."""
        self._check_dtype(x.dtype)
        size = self._requested(output_spatial_shape, like, lambda tensor: tensor.shape)
        return keras.KerasTensor(self._output_shape(x.shape, size), dtype=self.compute_dtype)

    def _output_shape(self, x_shape: Shape, output_spatial_shape: Shape | None) -> Shape:
        x_shape = _arguments.as_shape(x_shape)
        grid = self._grid(x_shape, output_spatial_shape)
        size = _arguments.spatial_shape(self.axes, grid, output_spatial_shape)
        shape = (x_shape[0], *size, self.out_features)
        _arguments.check_elements("output", shape)
        return shape

    def _grid(self, x_shape: Shape, output_spatial_shape: Shape | None) -> Shape:
        """The grid of the tokens; if they are a sequence, that of the signal."""
        if not self.sequence:
            _arguments.check_input(
                x_shape,
                self.data_dim,
                self.channels,
                "Reshape the input, or change `data_dim`. For a sequence of tokens, pass "
                "`sequence=True` to the layer.",
            )
            return x_shape[1:-1]
        remedy = "Pass a sequence, or drop `sequence=True` for a grid."
        _arguments.check_input(x_shape, 1, self.channels, remedy)
        if self.data_dim == 1:
            return x_shape[1:-1]
        if output_spatial_shape is None:
            raise ValueError(
                "The grid of a sequence must be known, and the number of tokens does not tell it. "
                "Received: neither `output_spatial_shape` nor `like`. "
                "Pass one of them to the call."
            )
        grid = _arguments.grid_shape(self.axes, output_spatial_shape)
        _arguments.check_token_count(grid, x_shape[1])
        return grid

    def _requested(
        self,
        output_spatial_shape: Sequence[int] | None,
        like: Tensor | None,
        shape_of: Callable[[Tensor], Shape],
    ) -> Shape | None:
        """The size that the call asks for, or `None`; `shape_of` reads the shape of a tensor."""
        if like is None:
            if output_spatial_shape is None:
                return None
            return _arguments.spatial_ints(output_spatial_shape, self.data_dim)
        if output_spatial_shape is not None:
            raise ValueError(
                "`like` and `output_spatial_shape` both say the size of the output: pass one of "
                "them. Received: output_spatial_shape="
                f"{_arguments.described(output_spatial_shape)} and a `like`"
            )
        if len(getattr(like, "shape", ())) != self.data_dim + 2:
            raise ValueError(
                f"`like` must be a tensor with {self.data_dim + 2} axes: "
                f"batch, {self.data_dim} of the signal, channels. "
                f"Received: like={_arguments.described(like)}. "
                "For a size in numbers, pass `output_spatial_shape`."
            )
        return tuple(shape_of(like))[1:-1]

    def call(
        self,
        x: Tensor,
        output_spatial_shape: Sequence[int] | None = None,
        like: Tensor | None = None,
    ) -> Tensor:
        """The signal of the tokens `x`."""
        size = self._requested(output_spatial_shape, like, keras.ops.shape)
        x = self._as_input(x)
        grid = self._grid(keras.ops.shape(x), size)
        if self.sequence:
            x = ops.to_grid(x, grid)
        kernel, bias = self._weights()
        y = _compute.signal(x, kernel, bias, self.axes, size, self.overlap, self.implementation)
        return self.activation(y)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "overlap": self.overlap}
