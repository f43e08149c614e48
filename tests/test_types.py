"""A type checker sees the annotations of the installed package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_unpatchify

pytest.importorskip("mypy")

RIGHT = """
from keras_unpatchify import Patchify, Unpatchify, initializers, load_torch_weights, ops

patchify = Patchify(3, 64, data_dim=2, patch_size=(8, 8), stride=4, padding=((0, 7), 3))
unpatchify = Unpatchify(64, 3, 2, 8, bias="patch", overlap="mean", sequence=True)
mirror: Unpatchify = Unpatchify.from_patchify(patchify, overlap="mean")
patch: tuple[int, ...] = mirror.patch_size
tokens = ops.patchify([[[1.0]]], [[[1.0]]], padding="same", implementation="matmul")
load_torch_weights(mirror, {"weight": [1.0]}, prefix="head", patch_order=(1, 0, 2))
draw = Patchify(3, 64, 2, 8, weight_init=initializers.TorchUniform(seed=0))
"""
WRONG = {
    "Unpatchify('64', 3, 2, 8)": "arg-type",
    "Unpatchify(64, 3, 2, 8, overlap='average')": "arg-type",
    "Unpatchify(64, 3, 2, 8, padding='full')": "arg-type",
    "Unpatchify(64, 3)": "call-arg",
    "Patchify(3, 64, 2, patch_size=8.5)": "arg-type",
    "ops.unpatchify(1, 2, implementation='fast')": "arg-type",
    "to_torch_weights(Patchify(3, 64, 2, 8), layout=1)": "arg-type",
}


def errors_of(code, folder):
    """The codes of the errors that mypy finds in a file of a user."""
    script = folder / "snippet.py"
    script.write_text(code)
    options = ["--no-incremental", "--ignore-missing-imports", "--config-file="]
    command = [sys.executable, "-m", "mypy", *options, str(script)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not done.stderr
    return re.findall(r"snippet.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)


def test_the_package_says_that_it_is_typed():
    assert Path(keras_unpatchify.__file__).with_name("py.typed").exists()


def test_a_right_snippet_has_no_error_and_each_line_of_a_wrong_one_has_its_own(tmp_path):
    assert errors_of(RIGHT, tmp_path) == []
    beginning = "from keras_unpatchify import Patchify, Unpatchify, ops, to_torch_weights"
    expected = [(str(line), code) for line, code in enumerate(WRONG.values(), start=2)]
    assert errors_of("\n".join([beginning, *WRONG]), tmp_path) == expected


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert keras_unpatchify.__version__ == version("keras-unpatchify")
