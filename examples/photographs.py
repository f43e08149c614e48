"""A small masked autoencoder that fills in hidden patches of photographs, on any trainable Keras
backend.

    python examples/photographs.py
    KERAS_BACKEND=torch python examples/photographs.py --out /tmp

It learns from photographs that ship inside scikit-image, halved, and is judged on others, whole
and of sizes that are
no multiple of the patch. A second process, on another backend where one is installed, loads the
saved model and
compares the outputs.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers, ops

from keras_unpatchify import Patchify, Unpatchify

PATCH, CROP, BATCH = 8, 10, 8  # pixels of a patch; patches along a training crop; crops of a step
HIDDEN = 0.6  # of the patches
TRAIN = ["astronaut", "camera", "coffee", "coins", "moon", "stereo_motorcycle"]
HELD_OUT = ["chelsea", "rocket"]
# pixels, of the blur to compare with: the best of all for the two held-out photographs together
SIGMA = 4
TOLERANCE = (
    1e-4  # between backends, in units of a quarter of the grey scale: float32 sums in another order
)


def masked_autoencoder(weight_init, width=128, heads=4):
    """`(photograph, visible) -> photograph`, for photographs of any size; `visible` is 1 where a
    patch is shown."""
    image, visible = keras.Input((None, None, 3)), keras.Input((None, None, 1))
    tokens = Patchify(3, width, data_dim=2, patch_size=PATCH, padding="same")(
        image
    )  # (batch, *grid, width)
    # A hidden token is replaced whole, and patches do not overlap: nothing of a hidden patch goes
    # further than here.
    x = tokens * visible + layers.Dense(width, use_bias=False, name="mask_token")(1 - visible)

    # Positions are waves that repeat, and a token attends to those near it: a larger grid is only
    # more of the same.
    row, column = (ops.cumsum(ops.ones_like(visible), axis) for axis in (1, 2))  # (batch, *grid, 1)
    waves = [
        wave(2 * np.pi / period * n)
        for n in (row, column)
        for period in (8, 4)
        for wave in (ops.sin, ops.cos)
    ]
    unit_variance = keras.initializers.RandomNormal(stddev=0.5)
    position = layers.Dense(width, kernel_initializer=unit_variance, name="position")(
        ops.concatenate(waves, axis=-1)
    )

    def near(reach):  # (batch, *grid of queries, *grid of keys)
        rows, columns = (
            ops.abs(n[..., None, None, 0] - n[:, None, None, ..., 0]) <= reach
            for n in (row, column)
        )
        return ops.logical_and(rows, columns)

    visible_or_self = ops.logical_or(visible[:, None, None, ..., 0] > 0, near(0))
    for mask in (ops.logical_and(near(1), visible_or_self), near(2), near(3)):
        y = (
            layers.LayerNormalization()(x) + position
        )  # says where to look; what is fetched, x, keeps its brightness
        x = x + layers.MultiHeadAttention(heads, width // heads)(
            y, x, y, attention_mask=mask
        )  # (batch, *grid, width)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(y))

    x = Unpatchify(width, 3, data_dim=2, patch_size=PATCH, padding="same", weight_init=weight_init)(
        x, like=image
    )
    return keras.Model([image, visible], x)


def photograph(name):
    """A photograph at half its size, float32 `(height, width, 3)`, in units of a quarter of the
    grey scale."""
    from skimage import color, data

    x = getattr(data, name)()
    x = x[0] if name.startswith("stereo") else x
    x = (x if x.ndim == 3 else color.gray2rgb(x)).astype("float32") / 63.75 - 2
    return (x[:-1:2, :-1:2] + x[1::2, :-1:2] + x[:-1:2, 1::2] + x[1::2, 1::2]) / 4


def hidden_pixels(visible, image):
    """`(batch, height, width)`, 1 at hidden pixels and 0 elsewhere: hidden patches spread out by
    a kernel of ones."""
    spread = Unpatchify(
        1, 1, data_dim=2, patch_size=PATCH, padding="same", bias=False, weight_init="ones"
    )
    return ops.convert_to_numpy(spread(1 - visible, like=image))[..., 0]


def random_crops(photographs, rng):
    """Endless batches of crops, turned and tinted: `(crop, visible), crop, weight of each pixel
    in the loss`."""
    views = [
        np.lib.stride_tricks.sliding_window_view(x, (CROP * PATCH, CROP * PATCH), (0, 1))
        for x in photographs
    ]
    while True:
        crops = []
        for view in [views[i] for i in rng.integers(len(views), size=BATCH)]:
            crop = np.rot90(
                view[tuple(rng.integers(view.shape[:2]))].transpose(1, 2, 0), rng.integers(4)
            )
            tint, shift = rng.uniform(0.6, 1.2, 3), rng.uniform(-0.7, 0.7, 3)
            crops.append(tint * crop[:, :: rng.choice([-1, 1]), rng.permutation(3)] + shift)
        crops = np.stack(crops).astype("float32")
        visible = (rng.random((BATCH, CROP, CROP, 1)) >= HIDDEN).astype("float32")
        yield (crops, visible), crops, hidden_pixels(visible, crops)


def train(weight_init, photographs, steps, last_step, every=10):
    """A trained model, its loss every few steps, and the variance of its first output."""
    keras.utils.set_random_seed(0)
    model = masked_autoencoder(weight_init)
    batches = random_crops(photographs, np.random.default_rng(0))
    variance = float(np.var(model.predict_on_batch(next(batches)[0])))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, last_step, warmup_target=2e-3, warmup_steps=20
    )
    loss = keras.losses.MeanSquaredError(
        reduction="mean_with_sample_weight"
    )  # the mean over hidden pixels
    model.compile(keras.optimizers.AdamW(rate), loss)
    start, losses = time.time(), []
    for step in range(every, steps + 1, every):
        losses += model.fit(batches, steps_per_epoch=every, shuffle=False, verbose=0).history[
            "loss"
        ]
        if step % 50 == 0 or step == steps:
            print(
                f"{weight_init:>8}  step {step:4}  loss {losses[-1]:.3f}  "
                f"{time.time() - start:4.0f} s",
                flush=True,
            )
    return model, losses, variance


def fill_in(model, image, rng):
    """The inputs and output of the model for one photograph, its hidden pixels, and figures in
    decibels for them."""
    from scipy.ndimage import gaussian_filter

    grid = [-(-n // PATCH) for n in image.shape[:2]]
    visible = (rng.random((1, *grid, 1)) >= HIDDEN).astype("float32")
    output = ops.convert_to_numpy(model([image[None], visible]))[0]
    hidden = hidden_pixels(visible, image[None])[0] > 0  # (height, width)
    shown = np.where(hidden[..., None], 0, image)
    blur = gaussian_filter(shown, (SIGMA, SIGMA, 0)) / (
        gaussian_filter(1.0 - hidden, SIGMA)[..., None] + 1e-6
    )
    fills = {
        "mean fill": np.broadcast_to(image[~hidden].mean(0), image.shape),
        "blur": blur,
        "model": output,
    }
    errors = {
        name: np.mean((np.clip(fill, -2, 2) - image)[hidden] ** 2) for name, fill in fills.items()
    }
    return (
        visible,
        output,
        hidden,
        {name: 10 * np.log10(4**2 / error) for name, error in errors.items()},
    )


def draw(rows, path):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), 3, figsize=(9, 2.2 * len(rows)), layout="constrained")
    for row, (image, output, hidden, figures) in zip(axes, rows):
        pictures = (
            image,
            np.where(hidden[..., None], 2, image),
            np.where(hidden[..., None], output, image),
        )
        titles = (
            "original, not trained on",
            f"{HIDDEN:.0%} hidden",
            f"filled in: {figures['model']:.1f} dB on hidden pixels",
        )
        for axis, picture, title in zip(row, pictures, titles):
            axis.imshow(np.clip(picture / 4 + 0.5, 0, 1))
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.savefig(path, dpi=80)


def draw_curves(curves, path):
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for name, (losses, variance) in curves.items():
        steps = 10 * np.arange(1, len(losses) + 1)
        axis.plot(steps, losses, label=f'"{name}", variance {variance:.2g} at the start')
    axis.set(
        xlabel="step",
        ylabel="squared error, hidden pixels",
        title="weight_init of Unpatchify",
        ylim=(0, None),
    )
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=80)


def check(folder):
    """Loads the model in the folder and compares its outputs with those that lie beside it."""
    model = keras.saving.load_model(folder / "photographs.keras")
    saved = np.load(folder / "photographs.npz")
    pairs = [
        (model([photograph(n)[None], saved[f"{n}_visible"]])[0], saved[f"{n}_output"])
        for n in HELD_OUT
    ]
    difference = max(
        np.abs(ops.convert_to_numpy(output) - expected).max() for output, expected in pairs
    )
    print(
        f"loaded on {keras.backend.backend()}: largest difference {difference:.1e}, allowed "
        f"{TOLERANCE:.0e}"
    )
    sys.exit(not difference <= TOLERANCE)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument(
        "--out", type=Path, default=Path("."), help="folder for the pictures and the model"
    )
    parser.add_argument(
        "--check", action="store_true", help="load the model in the folder and compare its outputs"
    )
    args = parser.parse_args()
    if args.check:
        check(args.out)
    args.out.mkdir(parents=True, exist_ok=True)

    photographs = [photograph(name) for name in TRAIN]
    short = max(args.steps // 50 * 10, 10)
    model, losses, variance = train("fan_in", photographs, args.steps, args.steps)
    curves = {"fan_in": (losses[: short // 10], variance)}
    curves |= {
        name: train(name, photographs, short, args.steps)[1:] for name in ("default", "zeros")
    }
    draw_curves(curves, args.out / "initializations.png")

    rng, rows, arrays = np.random.default_rng(1), [], {}
    for name in HELD_OUT:
        image = photograph(name)
        arrays[f"{name}_visible"], output, hidden, figures = fill_in(model, image, rng)
        arrays[f"{name}_output"] = output
        rows.append((image, output, hidden, figures))
        print(
            f"{name}, {image.shape[0]} x {image.shape[1]}:",
            ", ".join(f"{k} {v:.2f} dB" for k, v in figures.items()),
        )
    draw(rows, args.out / "photographs.png")

    model.save(args.out / "photographs.keras")
    np.savez(args.out / "photographs.npz", **arrays)
    others = {"torch", "tensorflow", "jax"} - {keras.backend.backend()}
    backends = [name for name in sorted(others, reverse=True) if importlib.util.find_spec(name)]
    environment = {**os.environ, "KERAS_BACKEND": next(iter(backends), keras.backend.backend())}
    subprocess.run(
        [sys.executable, __file__, "--check", "--out", args.out], env=environment, check=True
    )
    means = {name: np.mean([figures[name] for *_, figures in rows]) for name in rows[0][-1]}
    print(
        "hidden pixels of held-out photographs:",
        ", ".join(f"{name} {mean:.2f} dB" for name, mean in means.items()),
    )


if __name__ == "__main__":
    main()
