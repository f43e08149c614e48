"""Exported models compute in their own runtime what they compute in Keras; what upstream cannot
do is named."""

import fnmatch
import importlib.util
import itertools
import re

import keras
import numpy as np
import pytest
from backend import BACKEND, to_numpy
from cases import IMPLEMENTATIONS, normal

from keras_unpatchify import Patchify, Unpatchify

IMAGE, VOLUME = (2, 8, 12, 3), (2, 4, 6, 4, 3)
SIZES = {"fixed": IMAGE, "batch": (None, *IMAGE[1:]), "open": (None, None, None, 3)}
INPUTS = {"fixed": [IMAGE], "batch": [IMAGE, (1, *IMAGE[1:])], "open": [IMAGE, (1, 9, 7, 3)]}
MODELS = ("tiling", "overlapping", "like", "pairs", "circular", "sequence")
VOLUMES = ("volume", "overlapping-volume")

# Float32 sums of fewer than 200 products of numbers of order 1, which each runtime adds in its
# own order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def build(kind, shape, implementation):
    """A model with both layers on signals of the shape, batch included."""
    signal = keras.Input(batch_shape=shape, name="signal")
    options = {"data_dim": len(shape) - 2, "implementation": implementation}
    options["patch_size"] = (2, 3, 2) if kind in VOLUMES else (8, 6) if kind == "deep" else (4, 3)
    if kind in ("tiling", "volume"):
        tokens = Patchify(3, 6, **options)(signal)
        return keras.Model(signal, Unpatchify(6, 3, **options)(tokens))
    if kind == "sequence":  # of an image that is padded at the end, as in Swin
        options |= {"padding": ((0, 3), (0, 2)), "sequence": True}
        tokens = Patchify(3, 6, **options)(signal)
        tokens = tokens + keras.layers.MultiHeadAttention(2, 3)(tokens, tokens)
        return keras.Model(signal, Unpatchify(6, 3, **options)(tokens, like=signal))
    paddings = {"pairs": ((1, 2), (2, -1)), "valid": "valid", "circular": ("same", "circular")}
    options |= {"stride": 2, "padding": paddings.get(kind, "same")}
    tokens = keras.layers.Activation("tanh")(Patchify(3, 6, **options)(signal))
    like = signal if kind in ("like", "pairs", "valid") else None
    bias = True if like is None else "patch"
    unpatchify = Unpatchify(6, 3, overlap="mean", bias=bias, **options)
    return keras.Model(
        signal, unpatchify(tokens) if like is None else unpatchify(tokens, like=like)
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
# with the newest of each package, at the export or in the runtime. The first entry counts. An error
# that no longer comes fails its test, so that the table stays true.
UPSTREAM = {
    "jax openvino open [ms]* valid": "Exception: is inconclusive",
    "jax openvino *": "OpConversionFailure: No conversion rule found for operations: XlaCallModule",
    "jax litert *": "ValueError: LiteRT export requires TensorFlow or PyTorch backend",
    "jax * open [ms]* valid": "InconclusiveDimensionOperation: is inconclusive",
    "jax tf_saved_model open conv_transpose [tpcv]*": "ValueError: Error when tracing gradients "
    "for SavedModel",
    # The symbols of jax2onnx for unknown sizes compute less than jax's own.
    "jax onnx open * circular": "AttributeError: '_DynamicDimSentinel' object has no attribute",
    "jax onnx open * [!st]*": "TypeError: unsupported operand type(s) for divmod()",
    "jax onnx open *": "ValueError: has no registered origin",
    "torch tf_saved_model fixed *": "ImportError: This requires the torch_xla module",
    "torch tf_saved_model *": "UserError: Detected mismatch between the structure of "
    "`inputs` and `dynamic_shapes`",
    # Keras traces with a signal of one position wherever a size is open, which is shorter than a
    # patch.
    "torch onnx open * circular": "RuntimeError: invalid shape dimension -2",
    "torch openvino open * circular": "RuntimeError: invalid shape dimension -2",
    "torch onnx open conv_transpose [tpv]*": "RuntimeError: Kernel size can't be greater "
    "than actual input size",
    "torch onnx open subpixel tiling": "RuntimeError: Kernel size can't be greater than actual "
    "input size",
    "torch onnx open [ms]* valid": "RuntimeError: narrow(): length must be non-negative",
    "torch openvino open conv_transpose [tpv]*": "RuntimeError: Kernel size can't be greater "
    "than actual input size",
    "torch openvino open subpixel tiling": "RuntimeError: Kernel size can't be greater than "
    "actual input size",
    "torch openvino open [ms]* [tp]*": "TracingCheckError: The signal must be at least",
    "torch openvino open [ms]* valid": "RuntimeError: narrow(): length must be non-negative",
    # Volumes: a convolution that the runtime does not have, and zeros at the ends of 6 axes.
    "torch litert fixed conv_transpose *volume": "ValueError: STABLEHLO_CONVOLUTION",
    "torch litert fixed matmul overlapping-volume": "RuntimeError: op failed to verify that "
    "operand 0 is at most 5-D",
    # A transposition of 7 axes is left to TensorFlow, which the runtime has not.
    "tensorflow litert fixed [ms]* *volume": "RuntimeError: Select TensorFlow op(s), included in "
    "the given model, is(are) not supported by this interpreter",
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
# says or its source does. One that is right after all fails its test too.
OTHER_SIZES = {
    "torch litert batch conv_transpose tiling": None,
    "torch litert batch *": "Keras puts 1 for sizes that are not known, which LiteRT then "
    "holds fast",
    "torch litert open *": "Keras puts 1 for sizes that are not known, which LiteRT then "
    "holds fast",
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


# Each model in each format and for each kind of sizes; many patches on a position, over whose
# blocks jax loops; overlapping patches that are not padded, where that is an obstacle; and in
# LiteRT, which has few operations of many axes, volumes.
SETTINGS = [
    *itertools.product(FORMATS, SIZES, IMPLEMENTATIONS, MODELS),
    *itertools.product(FORMATS, ["fixed", "batch"], ["matmul"], ["deep"]),
    *itertools.product(FORMATS, ["open"], IMPLEMENTATIONS, ["valid"]),
    *itertools.product(["litert"], ["fixed"], IMPLEMENTATIONS, VOLUMES),
]


def named(table, *setting):
    """The first entry of a table that is about the setting."""
    return next(
        (entry for pattern, entry in table.items() if fnmatch.fnmatch(" ".join(setting), pattern)),
        None,
    )


@pytest.mark.parametrize(
    ("format", "sizes", "implementation", "kind"),
    [pytest.param(*setting, id="-".join(setting)) for setting in SETTINGS],
)
def test_an_exported_model_computes_the_same(
    format, sizes, implementation, kind, tmp_path, request
):
    run, suffix, needs = FORMATS[format]
    missing = [
        needs[of]
        for of in (None, BACKEND)
        if of in needs and not importlib.util.find_spec(needs[of])
    ]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    shape, inputs = (VOLUME, [VOLUME]) if kind in VOLUMES else (SIZES[sizes], INPUTS[sizes])
    if kind == "circular":  # whose width is a multiple of the stride
        inputs = [(*x[:2], x[2] + x[2] % 2, x[3]) for x in inputs]
    model = build(kind, shape, implementation)
    expected = [to_numpy(model(normal(shape, 0))) for shape in inputs]
    signature = {}
    if sizes == "fixed":
        signature["input_signature"] = [
            keras.InputSpec(shape=shape, dtype="float32", name="signal")
        ]
    path = str(tmp_path / f"model{suffix}")
    setting = BACKEND, format, sizes, implementation, kind

    def export_and_compare():
        model.export(path, format=format, verbose=False, **signature)
        for shape, y in zip(inputs, expected):
            np.testing.assert_allclose(run(path, normal(shape, 0)), y, **TOLERANCE)

    if error := named(UPSTREAM, *setting):
        kind_of_error, text = error.split(": ", 1)
        with pytest.raises(Exception, match=re.escape(text)) as caught:
            export_and_compare()
        assert caught.type.__name__ == kind_of_error
        return
    if reason := named(OTHER_SIZES, *setting):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    export_and_compare()


@pytest.mark.torch_backend
@pytest.mark.parametrize("kind", [*MODELS, "valid", *VOLUMES])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_program_of_torch_takes_any_batch(implementation, kind, tmp_path):
    """The format of `torch.export`, which Keras writes from 3.15 on."""
    import torch

    shape = VOLUME if kind in VOLUMES else IMAGE
    model, path = build(kind, (None, *shape[1:]), implementation), str(tmp_path / "model.pt2")
    batch = {0: torch.export.Dim("batch", max=64)}
    model.export(path, format="torch", verbose=False, dynamic_shapes=batch)
    program = torch.export.load(path).module()
    for number in (1, 2, 5):
        x = normal((number, *shape[1:]), 0)
        y = keras.tree.flatten(program(torch.from_numpy(x)))[0]
        np.testing.assert_allclose(to_numpy(y), to_numpy(model(x)), **TOLERANCE)


class Normalized(keras.layers.Layer):
    """LayerNormalization as ONNX takes it from torch."""

    def call(self, x):
        x = x - keras.ops.mean(x, axis=-1, keepdims=True)
        return x / keras.ops.sqrt(keras.ops.mean(x * x, axis=-1, keepdims=True) + 1e-3)


def transformer(normalize, gelu):
    """What every transformer has, between both layers."""
    options = {"data_dim": 2, "patch_size": (4, 3), "sequence": True}
    image = keras.Input(SIZES["batch"][1:], name="signal")
    tokens = Patchify(3, 6, **options)(image)
    x = normalize(tokens)
    x = tokens + keras.layers.MultiHeadAttention(2, 3)(x, x)
    x = x + keras.layers.Dense(6, activation=gelu)(normalize(x))
    return keras.Model(image, Unpatchify(6, 3, **options)(x, like=image))


def approximate(x):
    return keras.activations.gelu(x, approximate=True)


@pytest.mark.graphs
@pytest.mark.parametrize("instead", [True, False])
def test_the_layers_of_a_transformer_that_do_not_reach_onnx(instead, tmp_path):
    """What Keras's exporters lack, and what to write in its place."""
    normalize, gelu = keras.layers.LayerNormalization(), "gelu"
    if instead and BACKEND == "torch":
        normalize = Normalized()
    elif instead:
        gelu = approximate
    model, x = transformer(normalize, gelu), normal(IMAGE, 0)
    expected = to_numpy(model(x))
    path = str(tmp_path / "model.onnx")

    def answer():
        model.export(path, format="onnx", verbose=False)
        return run_onnx(path, x)

    if instead:
        np.testing.assert_allclose(answer(), expected, **TOLERANCE)
    else:
        with pytest.raises(Exception, match=r"Failed to export a node|INVALID_GRAPH"):
            answer()
