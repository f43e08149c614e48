"""Type checkers see the annotations of the installed package, as a user's editor does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_unpatchify

RIGHT = """
import keras
import numpy as np

from keras_unpatchify import Patchify, Unpatchify, initializers, load_torch_weights, ops

patchify = Patchify(3, 64, data_dim=2, patch_size=(8, 8), stride=4, padding=((0, 7), 3))
unpatchify = Unpatchify(64, 3, 2, 8, bias="patch", overlap="mean", sequence=True)
mirror: Unpatchify = Unpatchify.from_patchify(patchify, overlap="mean")
patch: tuple[int, ...] = mirror.resampled(16).patch_size
load_torch_weights(mirror, {"weight": [1.0]}, prefix="head", patch_order=(1, 0, 2))
draw = Patchify(3, 64, 2, 8, weight_init=initializers.TorchUniform(seed=0))
size: tuple[int | None, ...] = patchify.compute_output_shape((None, 64, 64, 3))

array = np.ones((2, 8, 3), "float32")
tokens = ops.patchify(array, np.ones((2, 3, 5)), padding="same", implementation="matmul")
doubled = (2 * tokens[..., 0] + 1) / tokens.shape[-1] - tokens


class Model(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.patchify = Patchify(3, 64, 2, 8)
        self.unpatchify = Unpatchify.from_patchify(self.patchify)

    def call(self, image: np.ndarray) -> object:
        tokens = self.patchify.call(image)
        return self.unpatchify.call(tokens * 2 + 1, like=image) - image


image = keras.Input((None, None, 3))
model = keras.Model(image, mirror(patchify(image), like=image))
"""
WRONG = {
    "Unpatchify('64', 3, 2, 8)": "argument",
    "Unpatchify(64, 3, 2, 8, overlap='average')": "argument",
    "Unpatchify(64, 3, 2, 8, padding='full')": "argument",
    "Unpatchify(64, 3)": "call",
    "Patchify(3, 64, 2, patch_size=8.5)": "argument",
    "Patchify(3, 64, 2, 8).call('an image')": "argument",
    "ops.unpatchify(ones, ones, implementation='fast')": "argument",
    "to_torch_weights(Patchify(3, 64, 2, 8), layout=1)": "argument",
}


def by_mypy(script):
    """The lines in which mypy finds an error, and its code."""
    options = ["--no-incremental", "--ignore-missing-imports", "--config-file="]
    command = [sys.executable, "-m", "mypy", *options, str(script)]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True)
    assert not done.stderr
    found = re.findall(r"snippet.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)
    return [(int(line), code) for line, code in found]


def by_pyright(script):
    """The lines in which pyright finds an error, and its rule."""
    (script.parent / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    command = [sys.executable, "-m", "basedpyright", "--outputjson", str(script)]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [x for x in found if x["severity"] == "error"]
    return [(x["range"]["start"]["line"] + 1, x["rule"]) for x in errors]


# what each calls a wrong argument, and a wrong call
CHECKERS = {
    "mypy": (by_mypy, {"argument": "arg-type", "call": "call-arg"}),
    "basedpyright": (
        by_pyright,
        {"argument": "reportArgumentType", "call": "reportCallIssue"},
    ),
}


def test_the_package_says_that_it_is_typed():
    assert Path(keras_unpatchify.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_model_has_no_error_and_each_line_of_a_wrong_snippet_has_one(checker, tmp_path):
    pytest.importorskip(checker)
    errors_of, codes = CHECKERS[checker]
    script = tmp_path / "snippet.py"
    script.write_text(RIGHT)
    assert errors_of(script) == []
    beginning = (
        "import numpy as np",
        "from keras_unpatchify import Patchify, Unpatchify, ops, to_torch_weights",
        "ones = np.ones((1, 2, 2, 3))",
    )
    script.write_text("\n".join([*beginning, *WRONG]))
    kinds = enumerate(WRONG.values(), start=len(beginning) + 1)
    assert errors_of(script) == [(line, codes[kind]) for line, kind in kinds]


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert keras_unpatchify.__version__ == version("keras-unpatchify")
