"""Where the tests run: the backend, its device, and which tests it skips."""

import contextlib
import functools
import importlib.metadata
import os

import hypothesis
import pytest

# Keras, and with it a backend, is imported where tests run: the process that hands tests out to
# others needs neither.

# The machine may be busy, and a failure must come again.
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True)
hypothesis.settings.load_profile("quick")

DEVICE = os.environ.get("KERAS_UNPATCHIFY_DEVICE", "cpu")


def hands_out(config):
    """Whether this process hands tests out to others, and runs none itself."""
    return bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")


def pytest_configure(config):
    if hands_out(config):
        return
    from capabilities import CAPABILITIES

    for name, (_, reason) in CAPABILITIES.items():
        config.addinivalue_line("markers", f"{name}: skipped where {reason}")


def pytest_sessionstart(session):
    """Single precision means single precision on every device: no TF32, no bfloat16."""
    if hands_out(session.config):
        return
    from backend import BACKEND

    if DEVICE == "gpu" and not _sees_accelerator(BACKEND):
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
    from backend import BACKEND
    from capabilities import CAPABILITIES

    for item in items:
        for name, (present, reason) in CAPABILITIES.items():
            if item.get_closest_marker(name) and not present:
                item.add_marker(pytest.mark.skip(reason=f"{BACKEND}: {reason}"))


def pytest_report_header():
    name, *_ = importlib.metadata.packages_distributions()["keras"]  # keras, or keras-nightly
    backend = os.environ.get("KERAS_BACKEND", "Keras's default")
    return f"{name} {importlib.metadata.version(name)}, backend {backend}, device {DEVICE}"


def _sees_accelerator(backend):
    if backend == "torch":
        import torch

        return torch.cuda.is_available()
    if backend == "jax":
        import jax

        return jax.default_backend() == "gpu"
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return False


@pytest.fixture(autouse=True)
def same_draws():
    """Every test starts from the same random state."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def double():
    """A context in which the backend really computes in float64."""
    from backend import BACKEND

    if BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    try:
        return jax.enable_x64(True)
    except AttributeError:  # before jax 0.8
        from jax.experimental import enable_x64

        return enable_x64()
