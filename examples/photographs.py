"""A small masked autoencoder that fills in hidden patches of photographs, on any trainable Keras backend.

    python examples/photographs.py
    KERAS_BACKEND=torch python examples/photographs.py --out /tmp

It learns from photographs that ship inside scikit-image and is judged on others, whole and of their own sizes. A second
process, on another backend where one is installed, loads the saved model and compares the outputs.
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
TOLERANCE = 1e-4  # between backends, in units of a quarter of the grey scale: float32 sums in another order


def masked_autoencoder(weight_init="fan_in", width=128, heads=4):
    """`(photograph, visible) -> photograph`, for photographs of any size; `visible` is 1 where a patch is shown."""
    image = keras.Input((None, None, 3))
    visible = keras.Input((None, None, 1))
    tokens = Patchify(3, width, data_dim=2, patch_size=PATCH, padding="same")(image)  # (batch, *grid, width)
    # A hidden token is replaced whole, and patches do not overlap: nothing of a hidden patch goes further than here.
    x = tokens * visible + layers.Dense(width, use_bias=False, name="mask_token")(1 - visible)

    # Positions are waves that repeat, and a token attends to those near it: a larger grid is only more of the same.
    row, column = (ops.cumsum(ops.ones_like(visible), axis) for axis in (1, 2))  # (batch, *grid, 1)
    waves = [wave(2 * np.pi / period * n) for n in (row, column) for period in (8, 4) for wave in (ops.sin, ops.cos)]
    unit_variance = keras.initializers.RandomNormal(stddev=len(waves) ** -0.5 * 2**0.5)
    position = layers.Dense(width, kernel_initializer=unit_variance, name="position")(ops.concatenate(waves, axis=-1))

    def near(reach):  # (batch, *grid of queries, *grid of keys)
        rows, columns = (ops.abs(n[..., None, None, 0] - n[:, None, None, ..., 0]) <= reach for n in (row, column))
        return ops.logical_and(rows, columns)

    shown = ops.logical_or(visible[:, None, None, ..., 0] > 0, near(0))
    for mask in (ops.logical_and(near(1), shown), near(2), near(3)):
        y = layers.LayerNormalization()(x) + position  # where to look; what to fetch, x, keeps its brightness
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, x, y, attention_mask=mask)  # (batch, *grid, width)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(y))

    x = Unpatchify(width, 3, data_dim=2, patch_size=PATCH, padding="same", weight_init=weight_init)(x, like=image)
    return keras.Model([image, visible], x)


def photograph(name):
    """A photograph at half its size, float32 `(height, width, 3)`, in units of a quarter of the grey scale."""
    from skimage import color, data

    x = getattr(data, name)()
    x = x[0] if name.startswith("stereo") else x
    x = (x if x.ndim == 3 else color.gray2rgb(x)).astype("float32") / 63.75 - 2
    return (x[:-1:2, :-1:2] + x[1::2, :-1:2] + x[:-1:2, 1::2] + x[1::2, 1::2]) / 4


def hidden_pixels(visible, image):
    """`(batch, height, width)`, 1 at hidden pixels and 0 elsewhere: each hidden patch spread out by a kernel of ones."""
    spread = Unpatchify(1, 1, data_dim=2, patch_size=PATCH, padding="same", bias=False, weight_init="ones")
    return ops.convert_to_numpy(spread(1 - visible, like=image))[..., 0]


def random_crops(photographs, seed):
    """Endless batches of crops, flipped and turned: `(crop, visible), crop, weight of each pixel in the loss`."""
    rng = np.random.default_rng(seed)
    size = CROP * PATCH
    while True:
        crops = []
        for image in [photographs[i] for i in rng.integers(len(photographs), size=BATCH)]:
            top, left = (rng.integers(n - size + 1) for n in image.shape[:2])
            crop = np.rot90(image[top : top + size, left : left + size], rng.integers(4))
            crops.append(crop[:, :: rng.choice([-1, 1])])
        crops = np.stack(crops)
        visible = (rng.random((BATCH, CROP, CROP, 1)) >= HIDDEN).astype("float32")
        yield (crops, visible), crops, hidden_pixels(visible, crops)


def train(weight_init, photographs, steps, total_steps, every=20):
    """A trained model, its loss over the steps, and the variance of its output before the first."""
    keras.utils.set_random_seed(0)
    model = masked_autoencoder(weight_init)
    batches = random_crops(photographs, seed=0)
    variance = float(np.var(model.predict_on_batch(next(batches)[0])))
    rate = keras.optimizers.schedules.CosineDecay(0.0, total_steps, warmup_target=1e-3, warmup_steps=20)
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")  # the mean over hidden pixels
    model.compile(keras.optimizers.AdamW(rate), loss)
    start = time.time()
    losses = []
    for step in range(every, steps + 1, every):
        losses += model.fit(batches, steps_per_epoch=every, verbose=0).history["loss"]
        print(f"{weight_init:>8}  step {step:4}  loss {losses[-1]:.3f}  {time.time() - start:4.0f} s", flush=True)
    return model, losses, variance


def decibels(x, image, hidden):
    """Peak signal-to-noise ratio over the hidden pixels; the grey scale is 4 units long."""
    return 10 * np.log10(16 / np.mean((np.clip(x, -2, 2) - image)[hidden] ** 2))


def fill_held_out(model):
    """For each held-out photograph: the arrays that go into the model, and the pictures and figures that come out."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    for name in HELD_OUT:
        image = photograph(name)
        grid = [-(-n // PATCH) for n in image.shape[:2]]
        visible = (rng.random((1, *grid, 1)) >= HIDDEN).astype("float32")
        hidden = hidden_pixels(visible, image[None])[0] > 0  # (height, width)
        output = ops.convert_to_numpy(model([image[None], visible]))[0]
        shown = np.where(hidden[..., None], 0, image)
        blurs = [
            gaussian_filter(shown, (s, s, 0)) / (gaussian_filter(1.0 - hidden, s)[..., None] + 1e-6)
            for s in range(2, 15)
        ]
        figures = {
            "mean fill": decibels(np.broadcast_to(image[~hidden].mean(0), image.shape), image, hidden),
            "best blur": max(decibels(blur, image, hidden) for blur in blurs),
            "model": decibels(output, image, hidden),
        }
        print(f"{name} {image.shape[:2]}:", ", ".join(f"{k} {v:.2f} dB" for k, v in figures.items()))
        pictures = image, np.where(hidden[..., None], 2.0, image), np.where(hidden[..., None], output, image)
        yield (image[None], visible, output), pictures, figures


def draw(rows, path):
    import matplotlib.pyplot as plt

    widest = max(pictures[0].shape[1] / pictures[0].shape[0] for pictures, _ in rows)
    figure, axes = plt.subplots(len(rows), 3, figsize=(10, 10 / 3 / widest * len(rows) * 1.2), layout="constrained")
    for row, (pictures, figures) in zip(axes, rows):
        titles = (
            "original, not trained on",
            f"{HIDDEN:.0%} hidden",
            f"reconstruction {figures['model']:.1f} dB (mean fill {figures['mean fill']:.1f})",
        )
        for axis, picture, title in zip(row, pictures, titles):
            axis.imshow(np.clip(picture / 4 + 0.5, 0, 1))
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.savefig(path, dpi=90)


def draw_curves(curves, path, every=20):
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, (losses, variance) in curves.items():
        steps = every * (np.arange(len(losses)) + 0.5)
        axis.plot(steps, losses, label=f'"{name}": variance {variance:.2g} at the start')
    axis.set(
        xlabel="step", ylabel="mean squared error, hidden pixels", title="weight_init of the last layer", yscale="log"
    )
    axis.legend()
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


def check(folder):
    """Loads the saved model and compares its outputs with the saved ones; run in a second process."""
    model = keras.saving.load_model(folder / "photographs.keras")
    saved = np.load(folder / "photographs.npz")
    outputs = [ops.convert_to_numpy(model([saved[f"image{i}"], saved[f"visible{i}"]]))[0] for i in range(len(HELD_OUT))]
    difference = max(np.abs(output - saved[f"output{i}"]).max() for i, output in enumerate(outputs))
    print(f"loaded on {keras.backend.backend()}: largest difference {difference:.1e} (at most {TOLERANCE:.0e})")
    return difference <= TOLERANCE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the pictures and the model")
    parser.add_argument(
        "--check", action="store_true", help="only load the model in the folder and compare its outputs"
    )
    args = parser.parse_args()
    if args.check:
        sys.exit(not check(args.out))

    args.out.mkdir(parents=True, exist_ok=True)
    photographs = [photograph(name) for name in TRAIN]
    curves = {}
    model, *curves["fan_in"] = train("fan_in", photographs, args.steps, args.steps)
    for name in ("default", "zeros"):
        _, *curves[name] = train(name, photographs, args.steps // 4, args.steps)
    draw_curves(curves, args.out / "initializations.png")

    arrays, *rows = zip(*fill_held_out(model))
    draw(list(zip(*rows)), args.out / "photographs.png")

    model.save(args.out / "photographs.keras")
    names = ("image", "visible", "output")
    np.savez(args.out / "photographs.npz", **{f"{k}{i}": x for i, xs in enumerate(arrays) for k, x in zip(names, xs)})
    backends = [
        b for b in ("torch", "tensorflow", "jax") if importlib.util.find_spec(b) and b != keras.backend.backend()
    ]
    environment = {**os.environ, "KERAS_BACKEND": (backends or [keras.backend.backend()])[0]}
    subprocess.run([sys.executable, __file__, "--check", "--out", args.out], env=environment, check=True)

    means = {name: np.mean([figures[name] for figures in rows[1]]) for name in rows[1][0]}
    print("hidden pixels of held-out photographs:", ", ".join(f"{name} {mean:.2f} dB" for name, mean in means.items()))


if __name__ == "__main__":
    main()
