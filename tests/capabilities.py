"""What the backend and Keras can do. Every skip of a test by capability stands here."""

import keras
from backend import BACKEND, TRAINABLE


def convolves_an_empty_batch():
    """Openvino's runtime can abort the process on one; Keras 3.13 refuses it on tensorflow."""
    if BACKEND == "openvino":
        return False
    try:
        keras.ops.conv(keras.ops.zeros((0, 2, 1)), keras.ops.ones((1, 1, 1)))
    except ValueError:
        return False
    return True


def version():
    """Major and minor version of Keras."""
    return tuple(map(int, keras.__version__.split(".")[:2]))


def takes_no_output_padding():
    """Whether Keras's transposed convolutions take `output_padding=0`, as later versions do."""
    try:
        return bool(keras.layers.Conv1DTranspose(1, 1, output_padding=0))
    except ValueError:
        return False


CAPABILITIES = {
    "trains": (BACKEND in TRAINABLE, "this backend only infers"),
    "graphs": (
        BACKEND in ("torch", "tensorflow"),
        "this backend knows every size before it computes",
    ),
    "empty_batch": (convolves_an_empty_batch(), "convolutions of an empty batch are refused"),
    "float64": (
        BACKEND not in ("numpy", "openvino"),
        "this backend computes convolutions in single precision at most",
    ),
    "masks": (
        hasattr(keras.layers.Masking()(keras.Input((1, 1))), "_keras_mask"),
        "this Keras sets no mask",
    ),
    "asks_for_imports": (
        version() >= (3, 12),
        "this Keras finds a class that was not imported, or says less",
    ),
    "newest_files": (
        version() >= (3, 15),
        "this Keras is older than the one that wrote the files, and refuses its own layers",
    ),
    "remat": (hasattr(keras, "RematScope"), "this Keras has no RematScope"),
    "output_padding_0": (takes_no_output_padding(), "this Keras refuses output_padding=0"),
    "torch_backend": (BACKEND == "torch", "about the torch backend"),
    "jax_backend": (BACKEND == "jax", "about the jax backend"),
    "tensorflow_backend": (BACKEND == "tensorflow", "about the tensorflow backend"),
}
