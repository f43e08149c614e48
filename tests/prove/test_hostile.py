"""Files that were tampered with are refused before anything is run or allocated; bad numbers stay
where they are."""

import json
import pathlib
import resource
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile

import keras
import numpy as np
import pytest
from backend import run
from cases import normal, over_implementations

from keras_unpatchify import Patchify, Unpatchify

# Reading a little file and its config takes less than a megabyte or two; a kernel that must not
# be made, gigabytes.
SMALL = 32 * 2**20


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A `.keras` file of both layers, made once."""
    image = keras.Input((None, None, 3))
    tokens = Patchify(3, 8, 2, 4, name="patchify")(image)
    model = keras.Model(image, Unpatchify(8, 3, 2, 4, name="unpatchify")(tokens))
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return path


def tamper(path, folder, change, layer="unpatchify"):
    """A copy of the file with its config changed: `change` gets the config of a layer, to change
    in place."""
    tampered = folder / "tampered.keras"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tampered, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                (entry,) = [
                    entry
                    for entry in config["config"]["layers"]
                    if entry["config"]["name"] == layer
                ]
                change(entry)
                content = json.dumps(config).encode()
            target.writestr(name, content)
    return tampered


def setting(**arguments):
    def change(entry):
        entry["config"] |= arguments

    change.__name__ = ", ".join(f"{name}={value!r:.40}" for name, value in arguments.items())
    return change


def without(name):
    def change(entry):
        del entry["config"][name]

    change.__name__ = f"without {name}"
    return change


def over(changes):
    return pytest.mark.parametrize("change", changes, ids=lambda change: change.__name__)


def pair(*items):
    return {"class_name": "__tuple__", "items": list(items)}


LAMBDA = {
    "class_name": "function",
    "config": "f",
    "module": "builtins",
    "registered_name": "function",
}
CODE = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {
        "function": {
            "class_name": "__lambda__",
            "config": {"code": "eA==", "defaults": None, "closure": None},
        }
    },
    "registered_name": None,
}

REFUSED_BY_THE_PACKAGE = [
    *(setting(data_dim=value) for value in (0, 4, -1, True, "2", 2.0, None, [2], {})),
    *(
        setting(patch_size=value)
        for value in (0, -4, "4", 4.5, None, [4], [4, 4, 4], [4, "4"], {}, pair(4, 0))
    ),
    *(setting(stride=value) for value in (0, -1, "1", [1], [1, None], pair(1, 2, 3))),
    *(setting(in_features=value) for value in (0, -1, "8", 1.5, True, [8])),
    *(setting(out_features=value) for value in (0, -1, "3", None, True, [3])),
    *(setting(bias=value) for value in (None, 1, "yes", [True], {})),
    *(setting(padding=value) for value in ("full", None, 99, ["same"])),
    *(setting(overlap=value) for value in ("max", None, 0, ["sum"])),
    *(
        setting(implementation=value)
        for value in ("cuda", None, "__import__('os').getcwd()", ["auto"])
    ),
    *(setting(weight_init=value) for value in ("no such", 7, [], "__import__('os').getcwd()")),
    *(without(name) for name in ("in_features", "out_features", "data_dim", "patch_size")),
]

ABSURD = [
    setting(patch_size=pair(2**40, 2**40)),
    setting(patch_size=2**62, stride=1),
    setting(out_features=10**15),
    setting(out_features=10**30),
    setting(patch_size=pair(50_000, 50_000)),
]


@over(REFUSED_BY_THE_PACKAGE)
def test_a_config_that_was_tampered_with_is_refused(change, saved, tmp_path):
    with pytest.raises(ValueError, match="Received: "):
        keras.saving.load_model(tamper(saved, tmp_path, change))


@over(ABSURD)
@pytest.mark.parametrize("layer", ["patchify", "unpatchify"])
def test_absurd_sizes_are_refused_before_memory_is_taken(change, layer, saved, tmp_path):
    path = tamper(saved, tmp_path, change, layer)
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with pytest.raises(ValueError, match=r"must have at most \d+ elements|Received: "):
            keras.saving.load_model(path)
        assert tracemalloc.get_traced_memory()[1] < SMALL
        assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 8 * SMALL
    finally:
        tracemalloc.stop()


@over([setting(patch_sise=4), setting(__class__="x"), setting(kernel=[[1.0]])])
def test_a_key_that_no_argument_has_is_refused(change, saved, tmp_path):
    with pytest.raises((ValueError, TypeError)):
        keras.saving.load_model(tamper(saved, tmp_path, change))


@over(
    [
        without(name)
        for name in ("stride", "bias", "weight_init", "padding", "overlap", "implementation")
    ]
)
def test_a_key_that_has_a_default_may_be_missing(change, saved, tmp_path):
    loaded = keras.saving.load_model(tamper(saved, tmp_path, change))
    assert run(loaded, normal((1, 8, 8, 3), 0)).shape == (1, 8, 8, 3)


NAMES_CODE = [
    setting(weight_init=LAMBDA | {"config": "exec"}),
    setting(
        weight_init={"module": "os", "class_name": "system", "config": {"command": "touch HERE"}}
    ),
    setting(
        weight_init={"module": "builtins", "class_name": "eval", "config": "open('HERE', 'w')"}
    ),
    setting(weight_init=CODE),
    setting(
        weight_init={
            "class_name": "__lambda__",
            "config": {"code": "eA==", "defaults": None, "closure": None},
        }
    ),
    setting(
        kernel_regularizer={
            "module": "os",
            "class_name": "system",
            "config": {"command": "touch HERE"},
        }
    ),
    setting(kernel_constraint=CODE),
    setting(
        activity_regularizer={
            "module": "subprocess",
            "class_name": "Popen",
            "config": {"args": ["touch", "HERE"]},
        }
    ),
]


@over(NAMES_CODE)
def test_code_in_a_config_is_not_run(change, saved, tmp_path, monkeypatch):
    """Under Keras's own safe mode, which is its default; the error is Keras's or the package's."""
    monkeypatch.chdir(tmp_path)
    path = tamper(saved, tmp_path, change)
    with pytest.raises((ValueError, TypeError)):
        keras.saving.load_model(path, safe_mode=True)
    assert not pathlib.Path("HERE").exists()


def test_a_class_of_another_module_in_place_of_the_layer_is_not_run(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def change(entry):
        entry |= {"module": "subprocess", "class_name": "Popen", "registered_name": None}
        entry["config"]["args"] = ["touch", "HERE"]

    with pytest.raises((ValueError, TypeError)):
        keras.saving.load_model(tamper(saved, tmp_path, change))
    assert not pathlib.Path("HERE").exists()


def test_weights_of_another_shape_are_refused(saved, tmp_path):
    """A config that was made smaller or larger than the weights beside it."""
    path = tamper(saved, tmp_path, setting(out_features=5))
    with pytest.raises(ValueError, match="shape"):
        keras.saving.load_model(path)


@pytest.mark.parametrize(
    "shape", [(2**31, 2**31, 2**31, 8), (2**62, 1, 1, 8), (1, 2**40, 2**40, 8)]
)
def test_outputs_whose_elements_overflow_are_refused(shape):
    layer = Unpatchify(8, 3, 2, 4)
    layer.build((None, None, None, 8))
    with pytest.raises(ValueError, match=r"The output must have at most \d+ elements"):
        layer(keras.KerasTensor(shape))


def test_a_large_output_is_refused_within_a_limit_of_memory():
    """In a process that may not take more than a little beyond what its imports took."""
    code = """
        import resource
        import keras
        from keras_unpatchify import Unpatchify
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 2**29, taken + 2**29))
        for arguments in [(8, 3, 2, 2**16), (8, 2**40, 2, 4), (2**33, 3, 1, 4)]:
            try:
                Unpatchify(*arguments).build((None,) * (arguments[2] + 1) + (arguments[0],))
            except ValueError as error:
                assert "must have at most" in str(error), error
            else:
                raise SystemExit(f"{arguments} were taken")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]


@over_implementations
@pytest.mark.parametrize("overlap", ["sum", "mean"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_token_that_is_not_finite_stays_in_its_own_patch(implementation, overlap, value):
    options = {
        "data_dim": 2,
        "patch_size": (4, 3),
        "stride": (2, 3),
        "implementation": implementation,
    }
    layer = Unpatchify(8, 3, overlap=overlap, **options)
    x = normal((2, 3, 4, 8), 0)
    clean = run(layer, x)
    x[1, 1, 2, 5] = value
    y = run(layer, x)
    covered = np.zeros(y.shape, bool)
    covered[1, 2:6, 6:9] = True
    np.testing.assert_array_equal(~np.isfinite(y), covered)
    np.testing.assert_allclose(y[~covered], clean[~covered], rtol=1e-5, atol=1e-6)


@over_implementations
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_not_finite_stays_in_the_tokens_that_see_it(implementation, value):
    layer = Patchify(
        3, 8, data_dim=2, patch_size=(4, 3), stride=(2, 3), implementation=implementation
    )
    x = normal((2, 8, 12, 3), 0)
    clean = run(layer, x)
    x[1, 4, 7, 2] = value
    y = run(layer, x)
    sees = np.zeros(y.shape, bool)
    sees[1, 1:3, 2] = True
    np.testing.assert_array_equal(~np.isfinite(y), sees)
    np.testing.assert_allclose(y[~sees], clean[~sees], rtol=1e-5, atol=1e-6)
