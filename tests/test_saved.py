"""Files that earlier versions saved, on any backend, open here and compute the same."""

import pathlib
import zipfile

import keras
import numpy as np
import pytest
from backend import TRAINABLE, run
from saved_models import MODELS

ARCHIVES = sorted((pathlib.Path(__file__).parent / "saved").glob("*.zip"))
# One convolution of "image" computes in bfloat16, which has 8 bits.
TOLERANCE = {"image": {"rtol": 2e-2, "atol": 2e-2}}
SINGLE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", params=ARCHIVES, ids=[path.stem for path in ARCHIVES])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    zipfile.ZipFile(request.param).extractall(folder)
    return folder


def assert_computes(model, stem, name):
    with np.load(f"{stem}.npz") as file:
        x, *outputs = file.values()
    actual = run(lambda x: model(x), x)
    for y, expected in zip(actual, outputs, strict=True):
        np.testing.assert_allclose(y, expected, **TOLERANCE.get(name, SINGLE))


@pytest.mark.newest_files
@pytest.mark.parametrize("backend", TRAINABLE)
@pytest.mark.parametrize("name", MODELS)
def test_models_open(folder, backend, name):
    stem = folder / f"{backend}-{name}"
    model = keras.saving.load_model(f"{stem}.keras")
    assert_computes(model, stem, name)


@pytest.mark.parametrize("backend", TRAINABLE)
@pytest.mark.parametrize("name", MODELS)
def test_weights_load(folder, backend, name):
    stem, (build, _) = folder / f"{backend}-{name}", MODELS[name]
    model = build()
    model.load_weights(f"{stem}.weights.h5")
    assert_computes(model, stem, name)
