"""Exported models compute in their own runtime what they compute in Keras; what upstream cannot
do is named."""

import fnmatch
import importlib.util
import re

import keras
import numpy as np
import pytest
from backend import BACKEND, to_numpy
from cases import normal, over_implementations

from keras_unpatchify import Patchify, Unpatchify

FIXED = (2, 8, 12, 3)
SIZES = {"fixed": FIXED, "batch": (None, *FIXED[1:]), "open": (None, None, None, 3)}
INPUTS = {"fixed": [FIXED], "batch": [FIXED, (1, *FIXED[1:])], "open": [FIXED, (1, 9, 7, 3)]}
MODELS = ("tiling", "overlapping", "like")

# Float32 sums of fewer than 200 products of numbers of order 1, which each runtime adds in its
# own order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def build(kind, shape, implementation):
    """A model with both layers on images of the shape, batch included."""
    image = keras.Input(batch_shape=shape, name="image")
    options = {"data_dim": 2, "patch_size": (4, 3), "implementation": implementation}
    if kind == "tiling":
        return keras.Model(image, Unpatchify(6, 3, **options)(Patchify(3, 6, **options)(image)))
    options |= {"stride": (2, 2), "padding": "same"}
    tokens = keras.layers.Activation("tanh")(Patchify(3, 6, **options)(image))
    unpatchify = Unpatchify(
        6, 3, overlap="mean", bias="patch" if kind == "like" else True, **options
    )
    return keras.Model(
        image, unpatchify(tokens, like=image) if kind == "like" else unpatchify(tokens)
    )


def run_saved_model(path, x):
    import tensorflow as tf

    module = tf.saved_model.load(path)
    return module.serve(tf.constant(x)).numpy()


def run_onnx(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def run_openvino(path, x):
    import openvino

    return openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]


def run_litert(path, x):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(entry["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(result["index"])


# What upstream cannot: "backend format sizes implementation model", and the error of Keras 3.15
# with the newest of each
# package. An error that no longer comes fails its test, so that the table stays true.
UPSTREAM = {
    "jax tf_saved_model open conv_transpose tiling": "ValueError: Error when tracing "
    "gradients for SavedModel",
    "jax onnx open *": "ValueError: has no registered origin",
    "jax openvino *": "OpConversionFailure: No conversion rule found for operations: XlaCallModule",
    "jax litert *": "ValueError: LiteRT export requires TensorFlow or PyTorch backend",
    "torch tf_saved_model fixed *": "ImportError: This requires the torch_xla module",
    "torch tf_saved_model *": "UserError: Detected mismatch between the structure of "
    "`inputs` and `dynamic_shapes`",
    # Keras traces with a signal of one position wherever a size is open, which is shorter than a
    # patch.
    "torch onnx open conv_transpose tiling": "RuntimeError: Kernel size can't be greater "
    "than actual input size",
    "torch openvino open conv_transpose tiling": "RuntimeError: Kernel size can't be greater "
    "than actual input size",
    "torch openvino open matmul tiling": "TracingCheckError: The signal must be at least",
    "openvino tf_saved_model *": "AttributeError: 'OpenvinoExportArchive' object has no attribute",
    "openvino onnx *": "NotImplementedError: only compatible with TensorFlow, JAX and Torch",
    "openvino openvino open * tiling": "ValueError: The signal must be at least",
    "openvino litert *": "ValueError: LiteRT export requires TensorFlow or PyTorch backend",
    "numpy tf_saved_model *": "AttributeError: object has no attribute",
    "numpy onnx *": "NotImplementedError: only compatible with TensorFlow, JAX and Torch",
    "numpy openvino *": "NotImplementedError: only compatible with OpenVINO, TensorFlow, JAX "
    "and Torch",
    "numpy litert *": "ValueError: LiteRT export requires TensorFlow or PyTorch backend",
}

# What upstream exports for another size than the one that was asked for, as its documentation
# says or its source does.
OTHER_SIZES = {
    "torch litert batch conv_transpose tiling": None,
    "torch litert batch *": "Keras puts 1 for sizes that are not known, which LiteRT then "
    "holds fast",
    "torch litert open *": "Keras puts 1 for sizes that are not known, which LiteRT then "
    "holds fast",
    "openvino openvino batch * tiling": None,
    "openvino openvino batch *": "Keras puts 1 for a batch that is not known, which the "
    "exported slices then hold fast",
    "openvino openvino open *": "Keras puts 1 for sizes that are not known, which the "
    "exported graph then holds fast",
}

# format: the runtime, the end of a file's name, and what the format needs beside Keras and its
# backend
FORMATS = {
    "tf_saved_model": (run_saved_model, "", {None: "tensorflow"}),
    "onnx": (
        run_onnx,
        ".onnx",
        {None: "onnxruntime", "tensorflow": "tf2onnx", "jax": "jax2onnx", "torch": "onnxscript"},
    ),
    "openvino": (run_openvino, ".xml", {None: "openvino"}),
    "litert": (run_litert, ".tflite", {None: "ai_edge_litert", "torch": "litert_torch"}),
}


def named(table, *setting):
    """The first entry of a table that is about the setting."""
    return next(
        (entry for pattern, entry in table.items() if fnmatch.fnmatch(" ".join(setting), pattern)),
        None,
    )


@pytest.mark.parametrize("kind", MODELS)
@over_implementations
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("format", FORMATS)
def test_an_exported_model_computes_the_same(format, sizes, implementation, kind, tmp_path):
    run, suffix, needs = FORMATS[format]
    missing = [
        needs[of]
        for of in (None, BACKEND)
        if of in needs and not importlib.util.find_spec(needs[of])
    ]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    model = build(kind, SIZES[sizes], implementation)
    expected = [to_numpy(model(normal(shape, 0))) for shape in INPUTS[sizes]]
    signature = {"input_signature": [keras.InputSpec(shape=FIXED, dtype="float32", name="image")]}
    path = str(tmp_path / f"model{suffix}")
    setting = BACKEND, format, sizes, implementation, kind
    error = named(UPSTREAM, *setting)
    if error:
        kind_of_error, text = error.split(": ", 1)
        with pytest.raises(Exception, match=re.escape(text)) as caught:
            model.export(
                path, format=format, verbose=False, **(signature if sizes == "fixed" else {})
            )
        assert caught.type.__name__ == kind_of_error
        return
    if named(OTHER_SIZES, *setting):
        pytest.xfail(named(OTHER_SIZES, *setting))
    model.export(path, format=format, verbose=False, **(signature if sizes == "fixed" else {}))
    for shape, y in zip(INPUTS[sizes], expected):
        np.testing.assert_allclose(run(path, normal(shape, 0)), y, **TOLERANCE)
