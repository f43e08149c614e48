"""What importing the package loads: the backend in use and no other, and of PyTorch's readers
none."""

import collections
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

HEAVY = ("torch", "jax", "tensorflow", "openvino", "safetensors")
# What Keras itself imports, whatever the backend, is found before the package is.
REPORT = f"""
import sys
for name in sys.argv[1:]:
    __import__(name)
    print(*(heavy for heavy in {HEAVY} if heavy in sys.modules))
"""


@pytest.fixture(scope="module")
def loaded():
    """What is loaded after each import, in one process: it takes TensorFlow many seconds."""
    names = ["keras", "keras_unpatchify"]
    names += ["safetensors"] * bool(importlib.util.find_spec("safetensors"))
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *names], capture_output=True, text=True, check=True
    )
    return dict(zip(names, map(str.split, done.stdout.splitlines()), strict=True))


def test_the_package_loads_what_keras_loads(loaded):
    assert loaded["keras_unpatchify"] == loaded["keras"]


def test_the_report_can_fail(loaded):
    if "safetensors" not in loaded:
        pytest.skip("safetensors stands for a package that Keras does not load")
    assert {*loaded["safetensors"]} - {*loaded["keras"]} == {"safetensors"}


def test_the_installed_package_is_tested():
    """Not the checkout, where the environment says that it installed a wheel."""
    import keras_unpatchify

    if os.environ.get("TOX_ENV_NAME"):
        assert "site-packages" in keras_unpatchify.__file__


def test_no_two_files_share_a_name():
    """Without packages among them, pytest imports them all as modules at the top."""
    here = pathlib.Path(__file__).parent
    names = collections.Counter(path.name for path in here.rglob("*.py"))
    assert {name for name, number in names.items() if number > 1} <= {"conftest.py"}
