"""One training step over several devices is the step on one, by the engines that each backend
has."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from backend import BACKEND

HERE = pathlib.Path(__file__).parent

# Devices add up their parts of a gradient in another order: some units of 6e-8 of numbers of
# order 1.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def start(folder, way, **environment):
    command = [sys.executable, HERE / "distributed_worker.py", way, folder]
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        **environment,
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def weights(folder, way, number_of_processes=1):
    """The weights after a step, of the last process."""
    ranks = map(str, range(number_of_processes)) if number_of_processes > 1 else [""]
    processes = [start(folder, way, **({"RANK": rank} if rank else {})) for rank in ranks]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-4000:]
    rank = number_of_processes - 1 if number_of_processes > 1 else ""
    with np.load(folder / f"{BACKEND}-{way}{rank}.npz") as file:
        return list(file.values())


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The weights before and after a step on one device."""
    import distributed_worker

    before = distributed_worker.build().get_weights()
    after = weights(tmp_path_factory.mktemp("single"), "single")
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(after, before))
    return after


def assert_same_step(weights, single):
    assert len(weights) == len(single) == 6
    for several, one in zip(weights, single):
        np.testing.assert_allclose(several, one, **TOLERANCE)


@pytest.mark.jax_backend
@pytest.mark.parametrize("way", ["data", "embedding", "signal", "divided"])
def test_jax_on_eight_devices(way, single, tmp_path):
    """The batch split in eight; both kernels split over embedding channels in four, over signal
    channels in two;
    the height of the images divided in two."""
    assert_same_step(weights(tmp_path, way), single)


@pytest.mark.tensorflow_backend
def test_tensorflow_mirrored_on_two_devices(single, tmp_path):
    assert_same_step(weights(tmp_path, "mirrored"), single)


@pytest.mark.torch_backend
def test_torch_in_two_processes(single, tmp_path):
    assert_same_step(weights(tmp_path, "ddp", number_of_processes=2), single)


@pytest.mark.jax_backend
def test_a_kernel_that_is_divided_along_the_signal():
    """`Patchify` by `"matmul"` gathers nothing; `Unpatchify` gathers its kernel, but no signal."""
    code = "import division_worker as d, json; print(json.dumps(d.divided_kernels()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True, check=True
    )
    gathered = json.loads(done.stdout.splitlines()[-1])
    assert gathered["patchify"] == 0
    assert gathered["unpatchify"] <= 4 * 4 * 16 * 32
