"""What a call costs beside Keras's layer, where it once cost many times as much."""

import os
import pathlib
import subprocess
import sys

import pytest

WORKER = pathlib.Path(__file__).with_name("costs_worker.py")


def answer(*arguments, **environment):
    """The number that the worker prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, WORKER, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


@pytest.mark.graphs
@pytest.mark.parametrize("step", ["forward", "training"])
@pytest.mark.parametrize("layer", ["patchify", "unpatchify"])
def test_one_token_channel_needs_little_memory(layer, step):
    """A head of one channel on 56 MB of signal: at most twice as much as Keras's layer."""
    apart = {f"MALLOC_{name}_": "65536" for name in ("MMAP_MAX", "MMAP_THRESHOLD")}
    apart |= {"MALLOC_TRIM_THRESHOLD_": "65536", "TF_ENABLE_ONEDNN_OPTS": "0"}
    ours, theirs = (answer("memory", name, layer, step, **apart) for name in ("auto", "keras"))
    assert ours <= 2 * theirs


@pytest.mark.jax_backend
@pytest.mark.parametrize("data_dim", ["1", "2", "3"])
@pytest.mark.parametrize("kind", ["patchify", "unpatchify", "gradient"])
def test_a_first_eager_call_compiles_few_operations(kind, data_dim):
    """With one for each block, it took 200 times as long as Keras's convolution and more."""
    ours, theirs = (answer("first", name, kind, data_dim) for name in ("auto", "keras"))
    assert ours <= 40 * max(theirs, 0.1)
