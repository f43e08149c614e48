"""Every block of Python in the pages runs."""

import pathlib
import re

import keras
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
BLOCKS = [
    pytest.param(block, id=f"{path.parent.name}-{path.name}-{number}")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    )
]


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
