"""Starts one process for each backend and role; every comparison between backends reads what they
leave."""

import concurrent.futures
import functools
import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from backend import BACKENDS

MISSING = [
    backend for backend in BACKENDS if not (backend == "numpy" or importlib.util.find_spec(backend))
]


def pytest_collection_modifyitems(items):
    reason = f"the comparison needs all five backends: {', '.join(MISSING)} not installed"
    here = pathlib.Path(__file__).parent
    for item in items if MISSING else ():
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the processes leave their files."""
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="session")
def work(folder):
    """Runs a role on some backends, a process each and two at a time; returns for each the arrays
    that it left."""

    def one(role, backend):
        command = [sys.executable, pathlib.Path(__file__).with_name("worker.py"), role, folder]
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{backend} failed to {role}:\n{done.stderr[-4000:]}"
        with np.load(folder / f"{backend}-{role}.npz") as file:
            return dict(file)

    def work(role, backends):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return dict(zip(backends, pool.map(functools.partial(one, role), backends)))

    return work


@pytest.fixture(scope="session")
def written(work):
    return work("write", BACKENDS)


@pytest.fixture(scope="session")
def read(work, written):
    return work("read", BACKENDS)
