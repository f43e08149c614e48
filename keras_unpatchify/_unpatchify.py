"""The layer Unpatchify."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from keras_unpatchify import _arguments, _compute, _from_keras, ops
from keras_unpatchify._arguments import Implementation, Overlap, Padding, PerAxis
from keras_unpatchify._patch_layer import PatchLayer
from keras_unpatchify._patchify import Patchify
from keras_unpatchify._sizes import Shape, StaticShape
from keras_unpatchify._tensors import Tensor, with_channels


@keras.saving.register_keras_serializable("keras_unpatchify")
class Unpatchify(PatchLayer):
    """Turns a grid of token embeddings back into a signal by one learned transposed convolution.

    Each token becomes a patch. Patches lie `stride` apart, and are summed where they overlap. With
    the same kernel the layer is the adjoint of `Patchify`. It replaces the linear head of a masked
    autoencoder (He et al., 2022) or a diffusion transformer (Peebles & Xie, 2023), and PyTorch's
    `ConvTransposeNd`. Channels are last; values are the same on every backend.

    Args:
        in_features: int, channels of a token. `None` reads it from the input.
        out_features: int, channels of the signal.
        data_dim: int, the number of axes of the grid: 1, 2 or 3.
        patch_size: int or one per axis, the positions that a token becomes.
        stride: int or one per axis, the positions from one patch to the next: less than the patch
            for patches that overlap, more for gaps. Defaults to `None`, the patch: they tile.
        bias: `True` for one number per channel, `False` for none, or `"patch"` for `(*patch_size,
            out_features)`, as a linear head has: each patch adds it. Defaults to `True`.
        weight_init: `"default"` (PyTorch's draw for `ConvTransposeNd`), `"zeros"` (the output is
            zero), `"fan_in"`, `"glorot"` (that of the equivalent linear head, as in MAE and DiT),
            `"unit_variance"`, `"smooth"` (constant tokens give a constant signal), or a Keras
            initializer for the kernel. Defaults to `"default"`.
            `keras_unpatchify.initializers` says what they draw. It has each as a class with a seed.
        padding: the positions that `Patchify` pads and this layer crops: `"valid"`, `"same"`,
            `"circular"`, an int or a pair `(before, after)`, for all axes or one for each, as
            `Patchify` explains. With `"circular"`, what leaves one end of the signal is added at
            the other. PyTorch's `padding=n, output_padding=p` is the pair `(n, n - p)`. Defaults
            to `"valid"`.
        sequence: bool, whether tokens come as a sequence, `(batch, tokens, in_features)`, row by
            row. With more than one axis, the layer or the call must then be told the size of the
            signal, which says what the grid is. Defaults to `False`.
        overlap: `"sum"`, or `"mean"` to divide each position by the number of patches that cover
            it, before the bias (one of `"patch"` is averaged, too). Defaults to `"sum"`.
        output_spatial_shape: the size to return where the call does not say another, one int per
            axis. Defaults to `None`, the size below.
        activation: a name or callable, applied to the signal. Defaults to `None`.
        implementation: how to compute the signal. The choice changes speed and memory, and values
            only by rounding. It does not change the weights. Defaults to `"auto"`.

            - `"conv_transpose"`: the backend's transposed convolution.
            - `"matmul"`: one matrix product; then the patches are put in their places.
            - `"subpixel"`: a convolution of stride 1 over cells, one stride long. It needs little
              memory where patches overlap much. Where the stride does not divide the patch,
              `"matmul"` takes its place.
            - `"auto"`: the one that was measured to be the fastest.
        bias_initializer: a Keras initializer for the bias. `None`, the default, is what
            `weight_init` says.
        kernel_regularizer: regularizer of the kernel, like `bias_regularizer` of the bias and
            `activity_regularizer` of the output. Default to `None`.
        kernel_constraint: constraint on the kernel, like `bias_constraint` on the bias.
        **kwargs: `name`, `dtype`, `trainable`, as for every Keras layer.

    Call arguments:
        x: tokens. Integers are converted to the dtype that the layer computes in.
        output_spatial_shape: the size to return, one int per axis. `Patchify` must turn a signal
            of this size into this grid: each int is from `n` to `n + stride - 1`, where `n =
            (grid - 1) * stride + patch_size - before - after`, or `n = (grid - 1) * stride + 1` for
            `"same"`. Positions that no patch covers hold the bias, or zero.
        like: a tensor of `data_dim + 2` axes whose spatial size the output takes. A size that is
            known only at run time is checked then, by the backend; TensorFlow's error names the
            operation `output_spatial_shape_must_be_patched_into_this_grid`.

    Input shape:
        `(batch, *grid, in_features)`, or `(batch, tokens, in_features)` with `sequence=True`.

    Output shape:
        `(batch, *size, out_features)`. Unless the call says otherwise, each axis is `(grid - 1) *
        stride + patch_size - before - after` long, or `grid * stride` for `"same"`.

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

    to_tokens = False
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
        output_spatial_shape: Sequence[int] | None = None,
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
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.overlap = _arguments.one_of("overlap", overlap, _arguments.OVERLAPS)
        if output_spatial_shape is not None:
            output_spatial_shape = _arguments.spatial_ints(output_spatial_shape, self.data_dim)
            _arguments.grid_shape(self.axes, output_spatial_shape)  # checks it
        self.output_spatial_shape = output_spatial_shape

    @classmethod
    def from_patchify(cls, patchify: Patchify, **overrides: Any) -> "Unpatchify":
        """The mirror of a `Patchify` layer.

        Features are swapped. Patch, stride, padding, `sequence`, `bias`, `implementation` and the
        dtype policy are the same. Weights, `weight_init`, `activation`, regularizers and
        constraints are the mirror's own.

        Args:
            patchify: the layer, built or with `in_features`.
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
    def from_conv(cls, layer: keras.layers.Layer, size: PerAxis) -> "Unpatchify":
        """What a nearest `UpSampling` by `size` and a convolution of stride 1 compute, in one.

        It is one transposed convolution, whose kernel is the sum of the convolution's at `size`
        places along each axis. Settings and weights are those of the convolution.

        Args:
            layer: a `Conv1D`, `Conv2D` or `Conv3D` of Keras that is built.
            size: of `UpSampling1D`, `2D` or `3D`: an int or one per axis.

        Raises:
            ValueError: if it is something else, or not built, or has strides, dilation, groups,
                channels first, LoRA, or a regularizer or constraint of the kernel.

        Example:
            >>> conv = keras.layers.Conv2D(64, 3, padding="same")
            >>> conv.build((None, None, None, 128))
            >>> Unpatchify.from_conv(conv, size=2).patch_size
            (4, 4)
        """
        arguments, kernel = _from_keras.folded_arguments(layer, size)
        unpatchify = cls(**arguments)
        unpatchify._build_with(unpatchify.in_features)
        unpatchify.set_weights([kernel, *layer.get_weights()[1:]])
        return unpatchify

    @classmethod
    def from_conv_transpose(cls, layer: keras.layers.Layer) -> "Unpatchify":
        """The same function as a transposed convolution of Keras, with its settings and weights.

        What `Patchify.from_conv` says of settings and weights holds here, too. The output has the
        positions that Keras 3.15 computes.

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

    def build(self, x_shape: StaticShape, like_shape: StaticShape | None = None) -> None:
        """Creates the kernel and the bias."""
        self.compute_output_shape(x_shape)  # checks it; a call checks `like`
        self._create_weights(self.channels or x_shape[-1])

    def _kernel_shape(self, in_features: int | None) -> Shape:
        return (*self.patch_size, self.out_features, in_features)

    def _bias_shape(self) -> Shape:
        patch = self.patch_size if self.use_bias == "patch" else ()
        return (*patch, *super()._bias_shape())

    def compute_output_shape(
        self,
        x_shape: StaticShape | None = None,
        like_shape: StaticShape | None = None,
        input_shape: StaticShape | None = None,
    ) -> StaticShape:
        """The shape of the signal of tokens, of the default size or that of `like`.

        `input_shape` is another name of `x_shape`, that of Keras's layers.
        """
        x_shape = _arguments.as_shape(input_shape if x_shape is None else x_shape)
        size = self.output_spatial_shape if like_shape is None else tuple(like_shape)[1:-1]
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
        self._check_tensor(x)
        size = self._requested(output_spatial_shape, like, lambda tensor: tensor.shape)
        return keras.KerasTensor(self._output_shape(x.shape, size), dtype=self.compute_dtype)

    def _output_shape(self, x_shape: Shape, output_spatial_shape: Shape | None) -> Shape:
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
                return self.output_spatial_shape
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
        x = with_channels(x, self.channels)
        kernel, bias = self._weights()
        y = _compute.signal(x, kernel, bias, self.axes, size, self.overlap, self.implementation)
        return self.activation(y)

    def patches(self, tokens: Tensor) -> Tensor:
        """The patches of single tokens, placed nowhere: `(..., token)` to `(..., *patch, signal)`.

        Each is what the layer with padding `"valid"` returns for that token alone, bias and
        activation included. Where patches overlap, they do not add up to the signal.

        Raises:
            ValueError: if the layer is not built, or tokens are symbolic or have other channels.
        """
        if isinstance(tokens, keras.KerasTensor) or not self.built:
            raise ValueError(
                "`patches` is for the `call` of a layer or model of your own, and for a layer that "
                f"is built. Received: tokens={_arguments.described(tokens)}, built={self.built}"
            )
        x = self._as_input(keras.ops.convert_to_tensor(tokens))
        *leading, channels = keras.ops.shape(x)
        ones = (1,) * self.data_dim
        _arguments.check_input((1, *ones, channels), self.data_dim, self.channels)
        axes = [axis._replace(padding="valid") for axis in self.axes]
        x = keras.ops.reshape(x, (-1, *ones, channels))
        y = _compute.signal(x, *self._weights(), axes, None, self.overlap, "matmul")
        shape = (*leading, *self.patch_size, self.out_features)
        return keras.ops.reshape(self.activation(y), shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {"overlap": self.overlap, "output_spatial_shape": self.output_spatial_shape}
        return {**super().get_config(), **own}
