"""What importing the package loads: the backend in use and no other, and of PyTorch's readers none."""

import os
import subprocess
import sys

import keras
import pytest

BACKEND = keras.backend.backend()
HEAVY = ("torch", "jax", "tensorflow", "openvino", "safetensors")
# Keras itself imports these whatever the backend: found by importing Keras alone.
REPORT = "import sys, {}; print(*(m for m in ('torch', 'jax', 'tensorflow', 'openvino', 'safetensors') if m in sys.modules))"


def loaded_by(statement):
    command = [sys.executable, "-c", REPORT.format(statement)]
    environment = {**os.environ, "KERAS_BACKEND": BACKEND}
    return set(
        subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_the_package_loads_what_keras_loads():
    assert loaded_by("keras_unpatchify") == loaded_by("keras")


def test_the_report_can_fail():
    pytest.importorskip("safetensors", reason="stands for a package that Keras does not load")
    assert loaded_by("keras, safetensors") > loaded_by("keras")


def test_the_installed_package_is_tested():
    """Not the checkout, where the environment says that it installed a wheel."""
    import keras_unpatchify

    if os.environ.get("TOX_ENV_NAME"):
        assert "site-packages" in keras_unpatchify.__file__
