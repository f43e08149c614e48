"""A volume autoencoder with patches that are not cubes, on the MNI152 brain that ships inside nilearn.

    python examples/brain.py
    KERAS_BACKEND=torch python examples/brain.py --out /tmp

It learns from crops of the back of the brain and is judged on the front, whole and of its own odd size. (This template
is its own mirror image: a hemisphere that is held out would have been seen in the other.) The baseline is the best that
separate patches can do linearly with as many numbers each: principal components, fitted on the same back. The model
starts as exactly that; what it gains it learns by seeing neighbours.
"""

import argparse
import itertools
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers, ops

from keras_unpatchify import Patchify, Unpatchify

PATCH = (4, 8, 8)  # voxels of 1 mm: left to right, back to front, bottom to top
NUMBERS = 8  # are kept of the 256 voxels of a patch
CROP, BATCH = (32, 48, 48), 4
BACK, FRONT = (
    slice(0, 83),
    slice(99, None),
)  # coronal slices to learn from and to judge on; nobody sees those between


def autoencoder(mean, components, width=64):
    """`volume -> volume`, for volumes of any size; `mean` is `(256,)`, `components` are `(256, NUMBERS)`."""
    volume = keras.Input((None, None, None, 1))
    patchify = Patchify(1, NUMBERS, data_dim=3, patch_size=PATCH, padding="same")
    code = patchify(volume)  # (batch, *grid, NUMBERS): all that the decoder sees
    x = layers.Dense(width)(code)
    for _ in range(2):  # a patch is decoded with its neighbours in view
        y = layers.Conv3D(width, 3, padding="same", activation="gelu")(
            layers.LayerNormalization()(x)
        )
        x = x + layers.Dense(width)(y)  # (batch, *grid, width)
    x = ops.concatenate(
        [code, layers.LayerNormalization()(x)], axis=-1
    )  # (batch, *grid, NUMBERS + width)
    unpatchify = Unpatchify.from_patchify(
        patchify, in_features=NUMBERS + width, bias="patch", weight_init="zeros"
    )
    model = keras.Model(volume, unpatchify(x, like=volume))  # (batch, *size, 1)
    # The two layers are adjoint, so one matrix serves both: project on the components, and come back.
    kernel = components.reshape(*PATCH, 1, NUMBERS)
    patchify.set_weights([kernel, -mean @ components])
    unpatchify.set_weights([np.pad(kernel, [(0, 0)] * 4 + [(0, width)]), mean.reshape(*PATCH, 1)])
    return model


def brain():
    """The template at 1 mm, cut to the head's box: float32 `(145, 181, 155)` from 0 to 1."""
    from nilearn.datasets import load_mni152_template

    x = load_mni152_template(resolution=1).get_fdata().astype("float32")
    corners = np.argwhere(x > 0.05)
    return x[tuple(slice(a, b + 1) for a, b in zip(corners.min(0), corners.max(0)))]


def random_crops(volume, size, count, rng):
    """`(count, *size, 1)`, each flipped along some of its axes."""
    views = np.lib.stride_tricks.sliding_window_view(volume, size)
    crops = [views[tuple(rng.integers(views.shape[:3]))] for _ in range(count)]
    return np.stack([np.flip(crop, np.flatnonzero(rng.random(3) < 0.5)) for crop in crops])[
        ..., None
    ]


def principal_components(volume, count=10000):
    """The mean `(256,)` of patches of the volume, and their first components `(256, NUMBERS)`."""
    patches = random_crops(volume, PATCH, count, np.random.default_rng(0)).reshape(count, -1)
    _, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    return patches.mean(0), vectors[:, -NUMBERS:].astype("float32")


def train(model, volume, steps, rng, every=25):
    batches = ((x, x) for _ in itertools.count() for x in [random_crops(volume, CROP, BATCH, rng)])
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=2e-3, warmup_steps=20)
    model.compile(keras.optimizers.Adam(rate), "mse")
    start = time.time()
    for step in range(0, steps, every):
        n = min(every, steps - step)
        loss = model.fit(batches, steps_per_epoch=n, shuffle=False, verbose=0).history["loss"][-1]
        print(f"step {step + n:4}  loss {loss:.5f}  {time.time() - start:4.0f} s", flush=True)


def reconstruct(model, volume):
    """The reconstruction, and its peak signal-to-noise ratio in decibels."""
    output = np.clip(ops.convert_to_numpy(model(volume[None, ..., None]))[0, ..., 0], 0, 1)
    return output, -10 * np.log10(np.mean((output - volume) ** 2))


def milliseconds(width, rounds=15):
    """Median time of a training step of each layer behind a normalisation, taken in turns, with the same weights."""
    heads = {"Unpatchify": Unpatchify(width, 1, data_dim=3, patch_size=PATCH)}
    if keras.backend.backend() != "jax":  # where the native operator takes minutes
        heads["Conv3DTranspose"] = layers.Conv3DTranspose(1, PATCH, strides=PATCH)
    x = (
        np.random.default_rng(0)
        .normal(size=(BATCH, *np.floor_divide(CROP, PATCH), width))
        .astype("float32")
    )
    models = {
        name: keras.Sequential([layers.LayerNormalization(), head]) for name, head in heads.items()
    }
    for name, model in models.items():
        model.compile("sgd", "mse")
        model.build(x.shape)
        heads[name].set_weights(heads["Unpatchify"].get_weights())  # the shapes are the same too
        assert np.allclose(
            model.predict_on_batch(x), models["Unpatchify"].predict_on_batch(x), atol=1e-4
        )
    times = {name: [] for name in models}
    for name in rounds * list(models):
        start = time.perf_counter()
        models[name].train_on_batch(x, np.zeros((BATCH, *CROP, 1)))
        times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.median(t[2:]) for name, t in times.items()}


def draw(original, output, score, path):
    import matplotlib.pyplot as plt

    views = np.s_[48], np.s_[:, 27], np.s_[:, :, 77]  # sagittal, coronal, axial
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    rows = {
        "front of the brain, not trained on": (original, gray),
        f"each {np.prod(PATCH)} voxels from {NUMBERS} numbers, {score:.1f} dB": (output, gray),
        "difference, -0.2 to 0.2": (
            output - original,
            {"cmap": "RdBu_r", "vmin": -0.2, "vmax": 0.2},
        ),
    }
    figure, axes = plt.subplots(
        3, 3, figsize=(7.4, 9.8), width_ratios=[82, 145, 145], layout="constrained"
    )
    for row, (title, (volume, colours)) in zip(axes, rows.items()):
        row[1].set_title(title, fontsize=10)
        for axis, view in zip(row, views):
            axis.imshow(volume[view].T, origin="lower", **colours)
            axis.axis("off")
    figure.savefig(path, dpi=70)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the picture")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    volume = brain()
    back, front = volume[:, BACK], volume[:, FRONT]
    model = autoencoder(*principal_components(back))
    figures = {"principal components": reconstruct(model, front)[1]}
    train(model, back, args.steps, np.random.default_rng(1))
    output, figures["model"] = reconstruct(model, front)
    draw(front, output, figures["model"], args.out / "brain.png")
    times = ", ".join(
        f"{name} {t:.1f} ms" for name, t in milliseconds(model.layers[-1].in_features).items()
    )
    figures = ", ".join(f"{name} {x:.2f} dB" for name, x in figures.items())
    print(f"held-out front {front.shape}: {figures} | training step: {times}")


if __name__ == "__main__":
    main()
