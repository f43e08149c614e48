"""What both layers share: their arguments, checks, weights and config."""

import keras

from keras_unpatchify import geometry, initializers, ops

REQUIRED = ("in_features", "out_features", "data_dim", "patch_size")


class PatchLayer(keras.layers.Layer):
    """The base of `Patchify` and `Unpatchify`: a layer of one kernel, `(*patch, signal, token)`, and a bias."""

    BIASES = (True, False)

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
        padding="valid",
        implementation="auto",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.in_features = None if in_features is None else geometry.positive_int("in_features", in_features)
        self.out_features = geometry.positive_int("out_features", out_features)
        self.data_dim = geometry.one_of("data_dim", data_dim, (1, 2, 3))
        self.axes = geometry.make_axes(patch_size, stride, padding, self.data_dim)
        self.use_bias = geometry.one_of("bias", bias, self.BIASES)
        self.weight_init = initializers.check(weight_init)
        self.implementation = geometry.one_of("implementation", implementation, ops.IMPLEMENTATIONS)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.channels = self.in_features  # of the input: where `in_features` is None, known once the layer is built
        self.kernel = self.bias = None

    @property
    def patch_size(self):
        """Positions of a patch, one number per axis."""
        return tuple(axis.patch for axis in self.axes)

    @property
    def stride(self):
        """Positions from one patch to the next, one number per axis."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def padding(self):
        """`"valid"` or `"same"`."""
        return self.axes[0].padding

    def build(self, input_shape):
        """Creates the kernel and the bias."""
        self.compute_output_shape(input_shape)  # checks it
        kernel_shape = self._kernel_shape(input_shape[-1])
        geometry.check_elements("kernel", kernel_shape, geometry.MAX_KERNEL_ELEMENTS)
        self.channels = input_shape[-1]
        kernel_initializer, bias_initializer = initializers.kernel_and_bias(
            self.weight_init, kernel_shape, self.channels
        )
        self.kernel = self.add_weight(
            name="kernel",
            shape=kernel_shape,
            initializer=kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=self._bias_shape(),
                initializer=bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def _kernel_shape(self, in_features):
        raise NotImplementedError

    def _bias_shape(self):
        return (self.out_features,)

    def _check_dtype(self, dtype):
        if "complex" in str(dtype):
            raise ValueError(f"The input must be real. Received: dtype={dtype}. Pass the two parts as channels.")

    def _as_input(self, x):
        """The input in the dtype to compute in; integers, such as the pixels of a photograph, are converted."""
        self._check_dtype(x.dtype)
        return keras.ops.cast(x, self.compute_dtype)

    def get_config(self):
        """The arguments of the constructor."""
        weight_init = self.weight_init
        return {
            **super().get_config(),
            "in_features": self.in_features,
            "out_features": self.out_features,
            "data_dim": self.data_dim,
            "patch_size": self.patch_size,
            "stride": self.stride,
            "bias": self.use_bias,
            "weight_init": weight_init if isinstance(weight_init, str) else keras.initializers.serialize(weight_init),
            "padding": self.padding,
            "implementation": self.implementation,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    @classmethod
    def from_config(cls, config):
        """A layer of these arguments; raises a ValueError for what the constructor would refuse."""
        missing = [name for name in REQUIRED if name not in config]
        if missing:
            raise ValueError(f"The config of {cls.__name__} must have {', '.join(REQUIRED)}. Received: {config!r}")
        return cls(**config)
