"""Models that use every option, as users save them: `python tests/saved_models.py ARCHIVE`.

Adds to the archive, for each model, a `.keras` file, a `.weights.h5` file, and an `.npz` file of
its input and output, all named `{backend}-{model}`. `tests/saved` has the archives of earlier
commits, which `test_saved.py` opens. Run it once with each backend that trains.
"""

import pathlib
import sys
import tempfile
import zipfile

import keras
import numpy as np

from keras_unpatchify import Patchify, Unpatchify, initializers


def series():
    """1D: paddings, lowerings and initializers."""
    x = keras.Input((12, 3))
    plain = Patchify(3, 4, 1, 4, name="plain")(x)
    same = Patchify(
        None, 4, 1, 5, 2, padding="same", weight_init="fan_in", implementation="matmul",
        activation="gelu", name="same",
    )(x)  # fmt: skip
    pairs = Patchify(
        3, 4, 1, [4], (3,), padding=((1, -1),), weight_init="glorot", implementation="subpixel",
        bias=False, kernel_regularizer="l2", kernel_constraint="non_neg", name="pairs",
    )(x)  # fmt: skip
    mean = Unpatchify(
        4, 2, 1, 5, 2, padding="same", overlap="mean", bias="patch", weight_init="unit_variance",
        bias_regularizer="l1", implementation="matmul", name="mean",
    )(same, output_spatial_shape=(11,))  # fmt: skip
    back = Unpatchify(
        4, 2, 1, 4, 3, padding=((1, 0),), bias_constraint="max_norm", activity_regularizer="l2",
        implementation="conv_transpose", activation="tanh", name="back",
    )(pairs)  # fmt: skip
    zeros = Unpatchify(4, 2, 1, 4, weight_init="zeros", name="zeros")(plain)
    return keras.Model(x, [mean, back, zeros])


def image():
    """2D: open sizes, `like`, a sequence, a nested model, and another dtype."""
    x = keras.Input((None, None, 3))
    tokens = Patchify(3, 8, 2, 4, padding="same", weight_init=initializers.TorchUniform(seed=1))(x)
    inner = keras.Input((None, None, 8))
    hidden = keras.layers.Dense(8, "tanh")(inner)
    hidden = Patchify(8, 8, 2, 3, 1, padding=1, dtype="mixed_bfloat16", trainable=False)(hidden)
    tokens = tokens + keras.layers.Activation("linear", dtype="float32")(
        keras.Model(inner, hidden, name="nested")(tokens)
    )
    y = Unpatchify(8, 3, 2, 4, padding="same", weight_init=initializers.LinearGlorotUniform(seed=2))
    row = Patchify(3, 8, 2, (8, 4), padding=((0, 7), (0, 3)), sequence=True)(x)
    row = keras.layers.LayerNormalization()(row)
    z = Unpatchify(
        8, 2, 2, (8, 4), padding=((0, 7), (0, 3)), bias="patch", sequence=True,
        weight_init=initializers.UnitVarianceUniform(seed=3), implementation="subpixel",
    )  # fmt: skip
    return keras.Model(x, [y(tokens, like=x), z(row, like=x)])


def volume():
    """3D: gaps and overlaps, per axis, and initializers of Keras."""
    x = keras.Input((6, 5, 7, 2))
    draw = keras.initializers.RandomNormal(stddev=0.2, seed=4)
    tokens = Patchify(2, 5, 3, (3, 2, 3), (2, 3, 3), weight_init=draw, implementation="matmul")(x)
    back = Unpatchify(5, 2, 3, (3, 2, 3), (2, 3, 3), weight_init="he_normal", bias=False)
    video = keras.layers.TimeDistributed(Patchify(2, 4, 2, (2, 3), weight_init="fan_in"))(x)
    signal = keras.layers.TimeDistributed(Unpatchify(4, 1, 2, (2, 3)))(video)
    return keras.Model(x, [back(tokens, output_spatial_shape=(6, 5, 7)), signal])


MODELS = {"series": (series, (2, 12, 3)), "image": (image, (2, 9, 7, 3))}
MODELS["volume"] = volume, (2, 6, 5, 7, 2)


def write(archive):
    with tempfile.TemporaryDirectory() as folder:
        for name, (build, shape) in MODELS.items():
            keras.utils.set_random_seed(0)
            x = np.random.default_rng(0).standard_normal(shape, dtype="float32")
            model = build()
            outputs = [keras.ops.convert_to_numpy(y) for y in model(x)]
            stem = pathlib.Path(folder) / f"{keras.backend.backend()}-{name}"
            model.save(f"{stem}.keras")
            model.save_weights(f"{stem}.weights.h5")
            np.savez(f"{stem}.npz", x, *outputs)
        with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
            for path in sorted(pathlib.Path(folder).iterdir()):
                file.write(path, path.name)


if __name__ == "__main__":
    write(sys.argv[1])
