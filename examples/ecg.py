"""A small patch transformer takes noise off an electrocardiogram: patches that tile, or overlap.

    python examples/ecg.py
    KERAS_BACKEND=torch python examples/ecg.py --out /tmp

It learns from two heartbeats of the recording that ships inside PyWavelets and is judged on the
third. Overlapping patches, a quarter of a patch apart, are four times the tokens, and leave no
seams.
"""

import argparse
import os
from pathlib import Path

print("Trains two models on an electrocardiogram, in some minutes, and draws.", flush=True)
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers

from keras_unpatchify import Patchify, Unpatchify

PATCH, WINDOW = 32, 256  # samples of a patch, and of a training window
BATCH = 32  # windows of a step
TRAIN = 704  # samples to learn from, of 1024; the rest is held out
NOISE = 0.4  # standard deviation of the noise, in units of that of the recording
STRIDES = {"tiling": PATCH, "overlapping": PATCH // 4}
RESULTS = Path(__file__).parent / "results"


def denoiser(stride, width=64, heads=4, blocks=2):
    """`noisy -> clean`, for signals of any length."""
    signal = keras.Input((None, 1))  # (batch, time, 1)
    patchify = Patchify(1, width, data_dim=1, patch_size=PATCH, stride=stride, padding="same")
    x = patchify(signal)  # (batch, time / stride, width)
    reach = 2 * (2 * PATCH // stride) + 1  # tokens: both models look two patches to either side
    for _ in range(blocks):
        # A token knows where it is from its neighbours, not from its position: any length will do.
        x = x + layers.DepthwiseConv1D(reach, padding="same")(layers.LayerNormalization()(x))
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(y))
    # The mirror of the first layer; each sample is the mean of what the patches that cover it say.
    unpatchify = Unpatchify.from_patchify(patchify, overlap="mean", weight_init="fan_in")
    return keras.Model(signal, unpatchify(x, like=signal))  # (batch, time, 1)


def windows(signal, starts, length):  # (len(starts), length, 1)
    return np.stack([signal[start : start + length, None] for start in starts])


def noisy(clean, rng):
    return clean + NOISE * rng.normal(size=clean.shape).astype("float32")


def training_windows(signal, rng):
    """Endless batches `(noisy, clean)`: random windows with fresh noise, height, level, drift."""
    ramp = np.linspace(-1, 1, WINDOW, dtype="float32")[:, None]
    while True:
        clean = windows(signal, rng.integers(len(signal) - WINDOW + 1, size=BATCH), WINDOW)
        changes = rng.normal([1, 0, 0], [0.15, 0.5, 0.3], (BATCH, 3)).astype("float32")
        height, level, drift = changes.T[..., None, None]
        clean = height * clean + level + drift * ramp
        yield noisy(clean, rng), clean


def train(stride, signal, steps):
    keras.utils.set_random_seed(0)
    model = denoiser(stride)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=2e-3, warmup_steps=min(30, steps)
    )
    model.compile(keras.optimizers.AdamW(rate), "mse")
    print(f"patches of {PATCH} samples, {stride} apart:", flush=True)
    model.fit(training_windows(signal, np.random.default_rng(0)), steps_per_epoch=steps)
    return model


def decibels(x, clean):
    """Signal-to-noise ratio: the variance of each clean window over the mean squared error."""
    return 10 * np.log10(np.mean(clean.var(axis=1)) / np.mean((x - clean) ** 2))


def best_filter(signal, rng):
    """The best Savitzky-Golay filter on the training part; of degree 0 it is the moving average."""
    from scipy.signal import savgol_filter

    clean = np.repeat(signal[None, :, None], 32, axis=0)
    x = noisy(clean, rng)
    choices = [(length, degree) for degree in range(0, 7, 2) for length in range(degree + 3, 64, 2)]
    length, degree = max(
        choices, key=lambda choice: decibels(savgol_filter(x, *choice, axis=1), clean)
    )
    print(f"best filter: Savitzky-Golay of {length} samples, degree {degree}", flush=True)
    return lambda x: savgol_filter(x, length, degree, axis=1)


def draw(clean, outputs, figures, path):
    import matplotlib.pyplot as plt

    colors = {"tiling": "tab:orange", "overlapping": "tab:blue"}
    figure, axes = plt.subplot_mosaic("aaaaa;bbbcc", figsize=(10, 6.2), layout="constrained")
    borders = np.arange(PATCH, clean.shape[1], PATCH) - 0.5
    for name, limits in {"a": (0, clean.shape[1] - 1), "b": (160, 256)}.items():
        axis, i = axes[name], np.arange(limits[0], limits[1] + 1)
        axis.plot(
            i,
            outputs["noisy"][0, i, 0],
            color="0.75",
            lw=0.9,
            label=f"noisy, {figures['noisy']:.1f} dB",
        )
        axis.plot(i, clean[0, i, 0], color="black", lw=1.1, label="clean")
        for key, color in colors.items():
            axis.plot(
                i, outputs[key][0, i, 0], color=color, lw=1.5, label=f"{key}, {figures[key]:.1f} dB"
            )
        for border in borders[(borders > limits[0]) & (borders < limits[1])]:
            axis.axvline(border, color="0.6", lw=0.8, ls=":", zorder=0)
        axis.set(xlim=limits, xlabel="sample")
    axes["a"].set_title(
        "a heartbeat that neither model has seen; dotted: borders of the tiling patches"
    )
    axes["a"].legend(frameon=False, fontsize=9)
    axes["b"].set(title="closer", ylim=(-2, 0))
    for key, color in colors.items():
        error = np.mean((outputs[key] - clean) ** 2, axis=(0, 2)).reshape(-1, PATCH).mean(axis=0)
        axes["c"].plot(np.arange(PATCH), error, color=color, lw=1.8)
    axes["c"].set(
        title="mean squared error",
        xlabel="sample of a tiling patch",
        ylim=(0, None),
        xlim=(0, PATCH - 1),
    )
    for axis in axes.values():
        axis.title.set_fontsize(10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the picture")
    args = parser.parse_args()

    import pywt

    signal = pywt.data.ecg().astype("float32")  # (1024,)
    signal = (signal - signal[:TRAIN].mean()) / signal[:TRAIN].std()
    models = {name: train(stride, signal[:TRAIN], args.steps) for name, stride in STRIDES.items()}

    # Four draws of noise for each place where the borders of the patches can fall.
    rng = np.random.default_rng(1)
    starts = TRAIN + np.tile(np.arange(PATCH), 4)
    clean = windows(signal, starts, len(signal) - TRAIN - PATCH)  # (128, 288, 1)
    x = noisy(clean, rng)
    outputs = {"noisy": x, "filter": best_filter(signal[:TRAIN], rng)(x)}
    outputs |= {name: model.predict(x, verbose=0) for name, model in models.items()}
    figures = {name: decibels(output, clean) for name, output in outputs.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    draw(clean, outputs, figures, args.out / "ecg.png")
    print(f"drawn: {args.out / 'ecg.png'}", flush=True)
    text = ", ".join(f"{name} {value:.2f} dB" for name, value in figures.items())
    print("held-out heartbeat:", text)


if __name__ == "__main__":
    main()
