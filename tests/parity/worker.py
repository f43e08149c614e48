"""One backend's part in the comparison between backends: `python worker.py FOLDER`, with
KERAS_BACKEND set.

It saves its models, waits for those of all others, and loads them. What it computes is in
`FOLDER/{backend}.npz`.
"""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import keras
import numpy as np
from backend import BACKEND, BACKENDS, TRAINABLE, tensor, to_numpy, value_and_gradients
from cases import CASES, COMPACT, IMPLEMENTATIONS, PADDINGS, normal

from keras_unpatchify import Patchify, Unpatchify


def settings():
    """The name and the values of each setting in which a pair of layers is compared."""
    for name in COMPACT:
        for padding in PADDINGS:
            for implementation in IMPLEMENTATIONS:
                case = CASES[name]
                setting = f"{name}/{padding}/{implementation}"
                yield setting, case, case.padding(padding), implementation


def values():
    """Outputs of both layers with weights that every backend is given; gradients too where the
    backend trains."""
    arrays = {}
    for name, case, padding, implementation in settings():
        options = {**case.arguments, "padding": padding, "implementation": implementation}
        there = Patchify(case.signal, case.token, **options)
        back = Unpatchify(case.token, case.signal, **options, overlap="mean")
        size = case.sizes(padding)[-1]
        image, tokens = case.signals(size), case.tokens()
        for operation, layer, x, weights, asked in [
            ("patchify", there, image, case.tokens(4), {}),
            ("unpatchify", back, tokens, case.signals(size, 4), {"output_spatial_shape": size}),
        ]:
            layer.build(x.shape)
            bias = tensor(normal(layer.bias.shape, 3))

            def function(x, kernel, layer=layer, bias=bias, asked=asked):
                return layer.stateless_call([kernel, bias], [], x, **asked)[0]

            y, gradients = value_and_gradients(function, (x, case.kernel()), weights)
            arrays[f"{name}/{operation}"] = y
            for of, gradient in zip(("x", "kernel"), gradients):
                arrays[f"{name}/{operation}/gradient of {of}"] = gradient
    return arrays


def model():
    """A functional model with both layers: open sizes with `like`, a fixed target, overlaps, each
    lowering and bias."""
    image, series = keras.Input((None, None, 3), name="image"), keras.Input((23, 2), name="series")
    tokens = Patchify(3, 8, 2, (4, 3), (2, 2), padding="same", implementation="conv_transpose")(
        image
    )
    tokens = keras.layers.Dense(8, activation="tanh")(tokens)
    options = {"padding": "same", "overlap": "mean", "bias": "patch", "weight_init": "fan_in"}
    image_again = Unpatchify(8, 3, 2, (4, 3), (2, 2), implementation="matmul", **options)(
        tokens, like=image
    )
    tokens = Patchify(2, 6, 1, 5, 3, bias=False, implementation="matmul")(series)
    series_again = Unpatchify(6, 2, 1, 5, 3, implementation="conv_transpose")(
        tokens, output_spatial_shape=(25,)
    )
    return keras.Model([image, series], [image_again, series_again])


def outputs(model):
    """What the model makes of images of two sizes; a plain call, which Keras computes in float32
    on OpenVINO too."""
    results = {}
    for size in [(7, 9), (8, 4)]:
        y = model([normal((2, *size, 3), 5), normal((2, 23, 2), 6)])
        results |= {f"image {size}": to_numpy(y[0]), f"series {size}": to_numpy(y[1])}
    return results


def write(folder):
    """Saves a model of this backend's own random weights in each of three ways, and what it
    computes."""
    keras.utils.set_random_seed(BACKENDS.index(BACKEND))
    written = model()
    written.save(folder / f"{BACKEND}.keras")
    written.save_weights(folder / f"{BACKEND}.weights.h5")
    np.savez(folder / f"{BACKEND}-weights.npz", *written.get_weights())
    return outputs(written)


def read(folder):
    """Loads the model of every backend in each of three ways; returns what it computes then."""
    results = {}
    for writer in BACKENDS:
        weights_file, arrays_file = model(), model()
        weights_file.load_weights(folder / f"{writer}.weights.h5")
        with np.load(folder / f"{writer}-weights.npz") as arrays:
            arrays_file.set_weights(list(arrays.values()))
        loaded = {"keras": keras.saving.load_model(folder / f"{writer}.keras")}
        for way, same in {**loaded, "weights.h5": weights_file, "set_weights": arrays_file}.items():
            results |= {f"{way}/{writer}/{name}": y for name, y in outputs(same).items()}
    return results


def train():
    """The loss at each of 50 steps of Adam, from the same weights, over the same data."""
    image = keras.Input((8, 9, 2))
    tokens = Patchify(2, 12, 2, (4, 3), (2, 3))(image)
    tokens = keras.layers.Dense(12, activation="gelu")(tokens)
    trained = keras.Model(image, Unpatchify(12, 2, 2, (4, 3), (2, 3), overlap="mean")(tokens))
    trained.set_weights([0.2 * normal(w.shape, i) for i, w in enumerate(trained.weights)])
    trained.compile(keras.optimizers.Adam(0.01), "mse")
    x = np.sin(np.cumsum(normal((16, 8, 9, 2), 7), axis=1))
    history = trained.fit(x, x, batch_size=16, epochs=50, shuffle=False, verbose=0)
    return {"loss": np.array(history.history["loss"])}


def wait_for_others(folder, deadline):
    while missing := [name for name in BACKENDS if not (folder / f"{name}-done").exists()]:
        assert time.monotonic() < deadline, f"{missing} not done"
        time.sleep(0.1)


if __name__ == "__main__":
    deadline = time.monotonic() + 600
    os.nice(10)  # beside it run the examples, one after the other, which take longer
    folder = pathlib.Path(sys.argv[1])
    try:
        arrays = values() | write(folder) | (train() if BACKEND in TRAINABLE else {})
    finally:  # nobody waits for one that failed
        (folder / f"{BACKEND}-done").touch()
    wait_for_others(folder, deadline)
    np.savez(folder / f"{BACKEND}.npz", **arrays, **read(folder))
