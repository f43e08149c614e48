"""Every script in examples/ runs, in a short form."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "examples"
SCRIPTS = {
    "first_steps.py": (["--epochs", "1"], "skimage", ["first_steps.png", "first_steps.keras"]),
    "photographs.py": (
        ["--steps", "20", "--draws", "1"],
        "skimage",
        ["photographs.png", "photographs.keras"],
    ),
    "ecg.py": (["--steps", "3"], "pywt", ["ecg.png"]),
    "brain.py": (["--steps", "3"], "nilearn", ["brain.png"]),
    "sizes.py": ([], "skimage", ["sizes.png"]),
    "from_pytorch.py": ([], "torch", []),
}


@pytest.mark.trains
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_ends_with_its_picture_and_figures(script, tmp_path):
    arguments, package, files = SCRIPTS[script]
    for needed in (package, "matplotlib"):
        if not importlib.util.find_spec(needed):
            pytest.skip(f"needs {needed}")
    command = [sys.executable, EXAMPLES / script, *arguments]
    command += ["--out", tmp_path] if files else []
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # it compiles for longer than it runs
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"\d\.\d", done.stdout.splitlines()[-1])
    assert all((tmp_path / name).stat().st_size > 1000 for name in files)


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs jax")
def test_a_layout_map_over_eight_devices(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, EXAMPLES / "distributed.py", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    times = re.search(r"date line: (\d+\.\d) times", done.stdout.splitlines()[-1])
    assert float(times[1]) > 1.5
    assert (tmp_path / "distributed.png").stat().st_size > 1000
