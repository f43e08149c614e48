"""A volume autoencoder with patches that are not cubes, on the brain that ships inside nilearn.

    python examples/brain.py
    KERAS_BACKEND=torch python examples/brain.py --out /tmp

It learns from crops of the back of the MNI152 template and is judged on the front, whole and of its
own odd size. (This template is its own mirror image: a hemisphere that is held out would have been
seen in the other.) The baseline is the best that separate patches can do linearly with as many
numbers each: principal components, fitted on the same back. The model starts as exactly that; what
it gains it learns by seeing neighbours.
"""

import argparse
import os
import time
from pathlib import Path

print("Trains on one half of a brain, in a minute or two, and draws the other half.", flush=True)
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers, ops

from keras_unpatchify import Patchify, Unpatchify

PATCH = (4, 8, 8)  # voxels of 1 mm: left to right, back to front, bottom to top
NUMBERS = 8  # are kept of the 256 voxels of a patch
CROP, BATCH = (32, 48, 48), 4
RESULTS = Path(__file__).parent / "results"
# Coronal slices to learn from and to judge on; nobody sees those between.
BACK, FRONT = slice(0, 83), slice(99, None)


def autoencoder(mean, components, width=64):
    """`volume -> volume`, of any size; `mean` is `(256,)`, `components` are `(256, NUMBERS)`."""
    volume = keras.Input((None, None, None, 1))
    patchify = Patchify(1, NUMBERS, data_dim=3, patch_size=PATCH, padding="same")
    code = patchify(volume)  # (batch, *grid, NUMBERS): all that the decoder sees
    x = layers.Dense(width)(code)
    for _ in range(2):  # a patch is decoded with its neighbours in view
        y = layers.LayerNormalization()(x)
        y = layers.Conv3D(width, 3, padding="same", activation="gelu")(y)
        x = x + layers.Dense(width)(y)  # (batch, *grid, width)
    x = layers.LayerNormalization()(x)
    x = ops.concatenate([code, x], axis=-1)  # (batch, *grid, NUMBERS + width)
    unpatchify = Unpatchify.from_patchify(
        patchify, in_features=NUMBERS + width, bias="patch", weight_init="zeros"
    )
    model = keras.Model(volume, unpatchify(x, like=volume))  # (batch, *size, 1)
    # The two layers are adjoint, so one matrix serves both: project on the components, come back.
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
    crops = []
    for _ in range(count):
        corner = rng.integers(views.shape[:3])
        flipped = np.flatnonzero(rng.random(3) < 0.5)
        crops.append(np.flip(views[tuple(corner)], flipped))
    return np.stack(crops)[..., None]


def principal_components(volume, count=10000):
    """The mean `(256,)` of patches of the volume, and their first components `(256, NUMBERS)`."""
    patches = random_crops(volume, PATCH, count, np.random.default_rng(0)).reshape(count, -1)
    _, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    return patches.mean(0), vectors[:, -NUMBERS:].astype("float32")


def batches(volume, rng):
    """Endless batches of crops, each its own target."""
    while True:
        crops = random_crops(volume, CROP, BATCH, rng)
        yield crops, crops


def train(model, volume, steps):
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=2e-3, warmup_steps=20)
    model.compile(keras.optimizers.Adam(rate), "mse")
    model.fit(batches(volume, np.random.default_rng(1)), steps_per_epoch=steps)


def reconstruct(model, volume):
    """The reconstruction, and its peak signal-to-noise ratio in decibels."""
    output = np.clip(ops.convert_to_numpy(model(volume[None, ..., None]))[0, ..., 0], 0, 1)
    return output, -10 * np.log10(np.mean((output - volume) ** 2))


def training_step(head, width):
    """A model of that head behind a normalisation, and a function that trains it one step."""
    grid = [n // patch for n, patch in zip(CROP, PATCH)]
    tokens = np.random.default_rng(0).normal(size=(BATCH, *grid, width)).astype("float32")
    model = keras.Sequential([layers.LayerNormalization(), head])
    model.compile("sgd", "mse")
    model.build(tokens.shape)
    target = np.zeros((BATCH, *CROP, 1))
    return lambda: model.train_on_batch(tokens, target)


def milliseconds(width, rounds=15):
    """Median time of a training step of each layer, taken in turns; the first two warm up."""
    heads = {"Unpatchify": Unpatchify(width, 1, data_dim=3, patch_size=PATCH)}
    if keras.backend.backend() != "jax":  # where the native operator takes minutes
        heads["Conv3DTranspose"] = layers.Conv3DTranspose(1, PATCH, strides=PATCH)
    steps = {name: training_step(head, width) for name, head in heads.items()}
    times = {name: [] for name in heads}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.median(taken[2:]) for name, taken in times.items()}


def draw(original, output, score, path):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        3, 3, figsize=(7.4, 9.8), width_ratios=[82, 145, 145], layout="constrained"
    )
    gray, red_blue = ("gray", 0, 1), ("RdBu_r", -0.2, 0.2)
    title = f"each {np.prod(PATCH)} voxels from {NUMBERS} numbers, {score:.1f} dB"
    draw_row(axes[0], original, "front of the brain, not trained on", *gray)
    draw_row(axes[1], output, title, *gray)
    draw_row(axes[2], output - original, "difference, -0.2 to 0.2", *red_blue)
    figure.savefig(path, dpi=70)


def draw_row(axes, volume, title, colours, low, high):
    """Three slices: sagittal, coronal, axial."""
    axes[1].set_title(title, fontsize=10)
    for axis, plane in zip(axes, (volume[48], volume[:, 27], volume[:, :, 77])):
        axis.imshow(plane.T, origin="lower", cmap=colours, vmin=low, vmax=high)
        axis.axis("off")


def as_text(figures, unit, digits):
    return ", ".join(f"{name} {value:.{digits}f} {unit}" for name, value in figures.items())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the picture")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    volume = brain()
    back, front = volume[:, BACK], volume[:, FRONT]
    model = autoencoder(*principal_components(back))
    figures = {"principal components": reconstruct(model, front)[1]}
    train(model, back, args.steps)
    output, figures["model"] = reconstruct(model, front)
    draw(front, output, figures["model"], args.out / "brain.png")
    print(f"drawn: {args.out / 'brain.png'}", flush=True)
    times = milliseconds(model.layers[-1].in_features)
    print("training step:", as_text(times, "ms", 1), flush=True)
    print(f"held-out front {front.shape}:", as_text(figures, "dB", 2))


if __name__ == "__main__":
    main()
