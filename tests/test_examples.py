"""Every shown example runs: the scripts in a short form, and each block in the pages."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = {
    "photographs.py": (
        ["--steps", "20"],
        "skimage",
        ["photographs.png", "photographs.keras"],
    ),
    "ecg.py": (["--steps", "3"], "pywt", ["ecg.png"]),
    "brain.py": (["--steps", "3"], "nilearn", ["brain.png"]),
    "sizes.py": ([], "skimage", ["sizes.png"]),
    "from_pytorch.py": ([], "torch", []),
}
BLOCKS = [
    pytest.param(block, id=f"{path.parent.name}-{path.name}-{number}")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    )
]


@pytest.mark.trains
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_ends_with_its_picture_and_figures(script, tmp_path):
    arguments, package, files = SCRIPTS[script]
    for needed in (package, "matplotlib"):
        if not importlib.util.find_spec(needed):
            pytest.skip(f"needs {needed}")
    command = [sys.executable, ROOT / "examples" / script, *arguments]
    command += ["--out", tmp_path] if files else []
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"\d\.\d", done.stdout.splitlines()[-1])
    assert all((tmp_path / name).stat().st_size > 1000 for name in files)


@pytest.mark.jax_backend
def test_a_layout_map_over_eight_devices(tmp_path):
    script = ROOT / "examples" / "distributed.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "over 8 devices" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = keras.config.dtype_policy()
    try:
        exec(compile(block, "README.md", "exec"), {})
    finally:
        keras.config.set_dtype_policy(policy)


def test_there_are_blocks():
    assert len(BLOCKS) >= 8
