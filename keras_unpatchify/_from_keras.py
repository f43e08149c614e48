"""Convolutions of Keras as arguments and weights of `Patchify` and `Unpatchify`.

A transposed convolution of Keras returns a window of the natural size, `(grid - 1) * stride +
kernel`. With Keras 3.15 it is, per axis and on all backends:

| padding | output_padding | before the window | size of the window |
|---|---|---|---|
| `"valid"` | `None` | 0 | `(grid - 1) * stride + max(kernel, stride)` |
| `"valid"` | `n` | 0 | `(grid - 1) * stride + kernel + n` |
| `"same"` | `None` | `max(kernel - stride, 0) // 2` | `grid * stride` |
| `"same"` | `n` | `max(kernel - kernel % 2 - n, 0) // 2` | `(grid - 1) * stride + kernel % 2 + n` |

Two backends differ. On torch, earlier versions of Keras begin some windows of `"same"` one
position later. On tensorflow, `"same"` with an even kernel and `output_padding=0` does not run.
"""

from typing import Any

import keras
import numpy as np

from keras_unpatchify._arguments import per_axis
from keras_unpatchify._kernels import folded
from keras_unpatchify._patch_layer import CONSTRAINTS, REGULARIZERS

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)

# What a converted layer has its own of.
COPIED = ("activation", *REGULARIZERS, *CONSTRAINTS)


def conv_arguments(layer: keras.layers.Layer) -> dict[str, Any]:
    """The arguments of the `Patchify` that computes what a convolution does."""
    _check(layer, CONVOLUTIONS)
    causal = [(n - 1, 0) for n in layer.kernel_size]
    padding = causal if layer.padding == "causal" else layer.padding
    return {**_arguments(layer, input_axis=-2), "padding": padding}


def conv_transpose_arguments(layer: keras.layers.Layer) -> dict[str, Any]:
    """The arguments of the `Unpatchify` that computes what a transposed convolution does."""
    _check(layer, TRANSPOSED)
    return {**_arguments(layer, input_axis=-1), "padding": _crops(layer)}


def folded_arguments(layer: keras.layers.Layer, size: Any) -> tuple[dict[str, Any], np.ndarray]:
    """The arguments and the kernel of the `Unpatchify` that resizes, then convolves."""
    _check(layer, CONVOLUTIONS)
    _check_setting(layer, "strides", (1,) * layer.rank)
    if not layer.built:
        _refuse(layer, "built", "True", "Build it, or call it, first.")
    for name in ("kernel_regularizer", "kernel_constraint"):
        _check_setting(layer, name, None)  # it would act on another kernel
    size = per_axis("size", size, layer.rank)
    before = [n - 1 if layer.padding == "causal" else (n - 1) // 2 for n in layer.kernel_size]
    crops = [
        (n - 1, n - 1) if layer.padding == "valid" else (n - 1 - start, start)
        for n, start in zip(layer.kernel_size, before)
    ]
    arguments = {
        **_arguments(layer, input_axis=-2),
        "patch_size": tuple(n + more - 1 for n, more in zip(layer.kernel_size, size)),
        "stride": size,
        "padding": crops,
    }
    kernel = keras.ops.convert_to_numpy(layer.kernel)  # (*k, token, signal)
    return arguments, folded(kernel.swapaxes(-1, -2), size)


def with_weights(converted: keras.layers.Layer, layer: keras.layers.Layer) -> keras.layers.Layer:
    """The converted layer; if the original is built, so is this, with its weights."""
    if layer.built:
        converted._build_with(converted.in_features)
        converted.set_weights(layer.get_weights())
    return converted


def _check(layer, classes):
    """Refuses a layer of another class, or with a setting that cannot be converted."""
    if type(layer) not in classes:
        names = ", ".join(cls.__name__ for cls in classes)
        raise ValueError(
            f"`layer` must be one of Keras's {names}, not a subclass, which may compute "
            f"something else. Received: layer={layer!r}"
        )
    _check_setting(layer, "data_format", "channels_last")
    _check_setting(layer, "dilation_rate", (1,) * layer.rank)
    _check_setting(layer, "groups", 1)
    _check_setting(layer, "lora_rank", None)


def _check_setting(layer, name, needed):
    if getattr(layer, name, needed) != needed:
        _refuse(layer, name, repr(needed))


def _refuse(layer, name, needed, remedy="Leave this layer as it is."):
    raise ValueError(
        f"To be converted, a layer must have {name}={needed}. "
        f"Received: {name}={getattr(layer, name)!r}, in the layer {layer.name!r}. {remedy}"
    )


def _arguments(layer, input_axis):
    return {
        "in_features": layer.kernel.shape[input_axis] if layer.built else None,
        "out_features": layer.filters,
        "data_dim": layer.rank,
        "patch_size": layer.kernel_size,
        "stride": layer.strides,
        "bias": layer.use_bias,
        "weight_init": layer.kernel_initializer,
        "bias_initializer": layer.bias_initializer,
        **{name: _copy(getattr(layer, name)) for name in COPIED},
        "name": layer.name,
        "dtype": layer.dtype_policy,
        "trainable": layer.trainable,
    }


def _copy(x):
    """The same anew, with weights of its own, if its config says how to make it."""
    bases = (keras.regularizers.Regularizer, keras.constraints.Constraint)
    config = getattr(type(x), "get_config", None)
    if config in (None, *(base.get_config for base in bases)):
        return x  # such as a function
    copy = type(x).from_config(x.get_config())
    if getattr(x, "built", False):  # a layer as activation
        copy.build_from_config(x.get_build_config())
        copy.set_weights(x.get_weights())
    return copy


def _crops(layer):
    """What is cropped from the natural size, as the argument `padding`; negative, what is added."""
    if layer.padding == "same" and layer.output_padding is None:
        return "same"
    outputs = layer.output_padding or (None,) * layer.rank
    if any(n is not None and not 0 <= n < stride for n, stride in zip(outputs, layer.strides)):
        _refuse(layer, "output_padding", f"None, or at least 0 and less than {layer.strides}")
    crops = [_crop(*axis, layer.padding) for axis in zip(layer.kernel_size, layer.strides, outputs)]
    return crops if any(map(any, crops)) else "valid"


def _crop(kernel, stride, output_padding, padding):
    """Positions before and after the window; negative where it ends beyond the natural size."""
    if padding == "valid":
        return 0, -(max(stride - kernel, 0) if output_padding is None else output_padding)
    total = kernel - kernel % 2 - output_padding
    before = max(total, 0) // 2
    return before, total - before
