"""What a user's process does with layers: threads, copies, files, quantization, other sizes."""

import concurrent.futures
import copy
import pickle

import keras
import numpy as np
import pytest
from backend import tensor, to_numpy
from cases import CASES, TOLERANCE, Drawn, normal, over_implementations

SIZES = [(7, 9), (12, 5), (8, 8), (9, 14), (5, 5), (11, 6)]


def pair_model(**options):
    """A model of both layers that returns the size of its image."""
    case = CASES["2d-overlap"]
    image = keras.Input((None, None, case.signal))
    there = case.patchify(padding="same", name="patchify", **options)
    back = case.unpatchify(padding="same", overlap="mean", name="unpatchify", **options)
    hidden = keras.layers.Dense(case.token, kernel_initializer=Drawn(), name="dense")
    return keras.Model(image, back(hidden(there(image)), like=image))


def images(sizes=tuple(SIZES)):
    return [normal((2, *size, 2), seed) for seed, size in enumerate(sizes)]


def values(model, arrays):
    return [to_numpy(model(keras.ops.convert_to_tensor(array))) for array in arrays]


def assert_same(model, other, arrays):
    for a, b in zip(values(model, arrays), values(other, arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@over_implementations
def test_threads_call_one_layer_with_different_sizes(implementation):
    model = pair_model(implementation=implementation)
    arrays = images(SIZES[:2])
    expected = values(model, arrays)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        several = [pool.submit(values, model, [array] * 10) for array in arrays]
        for y, future in zip(expected, several, strict=True):
            for again in future.result():
                np.testing.assert_allclose(again, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_model_is_a_model_of_its_own(copied):
    model, arrays = pair_model(), images(SIZES[:1])
    again = copied(model)
    assert_same(model, again, arrays)
    kernel = model.get_layer("unpatchify").kernel
    before = to_numpy(kernel)
    again.get_layer("unpatchify").kernel.assign(0 * before)
    np.testing.assert_array_equal(to_numpy(kernel), before)
    assert np.abs(before).max() > 0


@pytest.mark.asks_for_imports
def test_a_file_opened_where_the_package_was_not_imported(tmp_path, monkeypatch):
    layer = CASES["2d-overlap"].patchify(weight_init="zeros")
    keras.Sequential([keras.Input((8, 8, 2)), layer]).save(tmp_path / "model.keras")
    # what the import registers
    monkeypatch.delitem(keras.saving.get_custom_objects(), "keras_unpatchify>Patchify")
    with pytest.raises(TypeError, match="Could not locate class 'Patchify'") as caught:
        keras.saving.load_model(tmp_path / "model.keras")
    assert "make sure they are all imported" in str(caught.value)


def test_quantization_leaves_the_layers_as_they_are():
    model, arrays = pair_model(), images(SIZES[:1])
    before = {w.path: to_numpy(w) for w in model.weights if "dense" not in w.path}
    expected = values(model, arrays)
    model.quantize("int8")
    after = {w.path: to_numpy(w) for w in model.weights if "dense" not in w.path}
    assert before.keys() == after.keys()
    for path, weight in before.items():
        np.testing.assert_array_equal(after[path], weight)
    assert keras.backend.standardize_dtype(model.get_layer("dense").kernel.dtype) == "int8"
    (y,) = values(model, arrays)
    assert np.abs(y - expected[0]).max() < 0.05 * np.abs(expected[0]).max()


@pytest.mark.tensorflow_backend
def test_a_graph_is_traced_at_most_three_times_for_any_sizes():
    """For the first size, for a second one, and then for all."""
    import tensorflow as tf

    model = pair_model()
    graph = tf.function(lambda x: model(x), reduce_retracing=True)
    for x, y in zip(images(), values(model, images())):
        np.testing.assert_allclose(graph(tf.constant(x)), y, **TOLERANCE)
    assert graph.experimental_get_tracing_count() <= 3


@pytest.mark.torch_backend
@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        ("2d-tiling", "matmul"),
        ("2d-mixed", "conv_transpose"),
        ("1d-overlap", "matmul"),
        ("2d-mixed", "subpixel"),
    ],
)
def test_torch_compiles_at_most_three_times_for_any_sizes(name, implementation):
    import torch
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    case, counter = CASES[name], CompileCounter()
    layer = case.unpatchify(implementation=implementation)
    layer.build((None, *case.grid, case.token))
    compiled = torch.compile(layer, backend=counter)
    for seed, size in enumerate([*SIZES, *SIZES]):
        x = tensor(normal((2, *size[: case.data_dim], case.token), seed))
        np.testing.assert_allclose(to_numpy(compiled(x)), to_numpy(layer(x)), **TOLERANCE)
        assert counter.frame_count <= 3
