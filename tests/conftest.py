"""Where the tests run: the backend, its capabilities and its device. Every skip of a test by
capability stands here."""

import contextlib
import functools
import os

import hypothesis
import keras
import pytest
from backend import BACKEND, TRAINABLE

# The machine may be busy, and a failure must come again.
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True)
hypothesis.settings.load_profile("quick")

DEVICE = os.environ.get("KERAS_UNPATCHIFY_DEVICE", "cpu")


def convolves_an_empty_batch():
    """Openvino's runtime can abort the process on one; Keras 3.13 refuses it on tensorflow."""
    if BACKEND == "openvino":
        return False
    try:
        keras.ops.conv(keras.ops.zeros((0, 2, 1)), keras.ops.ones((1, 1, 1)))
    except ValueError:
        return False
    return True


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
        tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 12),
        "this Keras finds a class that was not imported, or says less",
    ),
    "output_padding_0": (takes_no_output_padding(), "this Keras refuses output_padding=0"),
    "torch_backend": (BACKEND == "torch", "about the torch backend"),
    "jax_backend": (BACKEND == "jax", "about the jax backend"),
    "tensorflow_backend": (BACKEND == "tensorflow", "about the tensorflow backend"),
}


def pytest_configure(config):
    for name, (_, reason) in CAPABILITIES.items():
        config.addinivalue_line("markers", f"{name}: skipped where {reason}")


def pytest_sessionstart(session):
    """Single precision means single precision on every device: no TF32, no bfloat16."""
    if DEVICE == "gpu" and not _sees_accelerator():
        pytest.exit(
            f"KERAS_UNPATCHIFY_DEVICE=gpu, but the {BACKEND} backend sees no accelerator",
            returncode=1,
        )
    if BACKEND == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    elif BACKEND == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
    elif BACKEND == "openvino":
        import openvino

        openvino.compile_model = functools.partial(
            openvino.compile_model, config={"INFERENCE_PRECISION_HINT": "f32"}
        )


def pytest_collection_modifyitems(items):
    for item in items:
        for name, (present, reason) in CAPABILITIES.items():
            if item.get_closest_marker(name) and not present:
                item.add_marker(pytest.mark.skip(reason=f"{BACKEND}: {reason}"))


def pytest_report_header():
    return f"keras {keras.__version__}, backend {BACKEND}, device {DEVICE}"


def _sees_accelerator():
    if BACKEND == "torch":
        import torch

        return torch.cuda.is_available()
    if BACKEND == "jax":
        import jax

        return jax.default_backend() == "gpu"
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return False


@pytest.fixture(autouse=True)
def same_draws():
    """Every test starts from the same random state."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def double():
    """A context in which the backend really computes in float64."""
    if BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    try:
        return jax.enable_x64(True)
    except AttributeError:  # before jax 0.8
        from jax.experimental import enable_x64

        return enable_x64()
