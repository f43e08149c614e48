"""A masked autoencoder fills in hidden patches of photographs. `python examples/photographs.py`"""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=2500)
parser.add_argument("--draws", type=int, default=4, help="of hidden patches, for the figures")
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
parser.add_argument("--check", action="store_true", help="load the model and compare its output")
args = parser.parse_args()
if not args.check:
    print(f"Trains a masked autoencoder: three minutes, then see {args.out}", flush=True)

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers, ops
from scipy.ndimage import gaussian_filter
from skimage import color, data
from skimage.transform import downscale_local_mean

from keras_unpatchify import Patchify, Unpatchify
from keras_unpatchify.ops import from_patches, patches

PATCH, GRID, WIDTH, BATCH = 4, 8, 128, 16
CROP, VISIBLE = PATCH * GRID, GRID**2 // 2  # pixels along a crop, visible patches of a crop
TRAIN = ["astronaut", "brick", "camera", "coffee", "coins", "grass", "gravel", "moon", "retina"]
TRAIN += ["hubble_deep_field", "immunohistochemistry", "stereo_motorcycle"]
HELD_OUT = ["chelsea", "rocket"]


@keras.saving.register_keras_serializable("photographs")
class Head(layers.Layer):
    """The pixels of hidden patches only: `(batch, hidden, token) -> (batch, hidden, 4, 4, 3)`."""

    def build(self, shape):
        self.unpatchify = Unpatchify(None, 3, 2, PATCH, weight_init="zeros")
        self.unpatchify.build((None, None, None, shape[-1]))

    def call(self, tokens):
        return self.unpatchify.patches(tokens)


def masked_autoencoder():
    """`(crop, order) -> hidden patches`. `order` lists the patches: visible first, then hidden."""
    crop, order = keras.Input((CROP, CROP, 3)), keras.Input((GRID**2,), dtype="int32")
    pixels = layers.Reshape((GRID**2, PATCH**2, 3))(patches(crop, PATCH))
    pixels = ops.take_along_axis(pixels, order[:, :VISIBLE, None, None], axis=1)
    mean = ops.mean(pixels, axis=(1, 2))[:, None, None]
    spread = ops.std(pixels, axis=(1, 2, 3))[:, None, None, None] + 0.03
    tokens = Patchify(3, WIDTH, 2, PATCH, sequence=True)((crop - mean) / spread)
    visible = ops.take_along_axis(tokens, order[:, :VISIBLE, None], axis=1)

    place = ops.cast(ops.stack([order // GRID, order % GRID], axis=-1), "float32")
    phase = place[..., None] * (2 * np.pi / np.array([3, 4, 6, 8], "float32"))
    phase = layers.Reshape((GRID**2, 8))(phase)
    waves = ops.concatenate([ops.sin(phase), ops.cos(phase)], axis=-1)
    normal = keras.initializers.RandomNormal(stddev=0.35)
    position = layers.Dense(WIDTH, kernel_initializer=normal)(waves)  # of each patch in the order
    distance = ops.max(ops.abs(place[:, :, None] - place[:, None, :VISIBLE]), axis=-1)
    near = distance <= 2  # (batch, all patches, visible patches)

    def mlp(x):
        y = layers.LayerNormalization()(x)
        return x + layers.Dense(WIDTH)(layers.Dense(2 * WIDTH, activation="gelu")(y))

    # Positions say where to look. Values go without them and unscaled: they carry brightness.
    keys = layers.LayerNormalization()(visible) + position[:, :VISIBLE]
    encoder, decoder = (layers.MultiHeadAttention(8, WIDTH // 8) for _ in range(2))
    encoded = mlp(visible + encoder(keys, visible, keys, attention_mask=near[:, :VISIBLE]))
    keys = layers.LayerNormalization()(encoded) + position[:, :VISIBLE]
    queries = position[:, VISIBLE:]  # a hidden patch is known by its position only
    hidden = mlp(decoder(queries, encoded, keys, attention_mask=near[:, VISIBLE:]))
    return keras.Model([crop, order], Head()(hidden) * spread[..., None] + mean[..., None, :])


def photograph(name, factor):
    """A photograph, so many times smaller: `(height, width, 3)`, from 0 to 1."""
    x = getattr(data, name)()
    x = x[0] if isinstance(x, tuple) else x  # the left one of a stereo pair
    x = (x if x.ndim == 3 else color.gray2rgb(x)).astype("float32") / 255
    return downscale_local_mean(x, (factor, factor, 1))[:-1, :-1]  # the last may be incomplete


def random_masks(number, rows, columns, rng):
    """`(number, rows, columns)`: of every 2 x 2 patches two are visible."""
    draw = rng.random((number, rows // 2, 2, columns // 2, 2))
    return (draw > np.median(draw, axis=(2, 4), keepdims=True)).reshape(number, rows, columns)


def in_order(masks):
    """The patches of crops, the visible ones first, to index patches with."""
    return np.argsort(~masks.reshape(len(masks), -1), axis=1, kind="stable").astype("int32")


def batches(rng):
    """Endless batches of crops, turned and tinted, with their hidden patches."""
    photographs = [photograph(name, factor) for name in TRAIN for factor in (2, 3, 4)]
    while True:
        crops = []
        for x in [photographs[i] for i in rng.integers(len(photographs), size=BATCH)]:
            row, column = rng.integers(np.subtract(x.shape[:2], CROP - 1))
            crop = x[row : row + CROP, column : column + CROP]
            crop = np.rot90(crop, rng.integers(4))[:, :: rng.choice([-1, 1]), rng.permutation(3)]
            crops.append(crop * rng.uniform(0.5, 1.3, 3).astype("float32"))
        crops, order = np.stack(crops), in_order(random_masks(BATCH, GRID, GRID, rng))
        every = keras.ops.convert_to_numpy(patches(crops, PATCH)).reshape(
            BATCH, GRID**2, PATCH, PATCH, 3
        )
        yield (crops, order), every[np.arange(BATCH)[:, None], order[:, VISIBLE:]]


def train():
    keras.utils.set_random_seed(0)
    decay = keras.optimizers.schedules.CosineDecay
    rate = decay(0.0, args.steps, warmup_target=3e-3, warmup_steps=50)
    model = masked_autoencoder()
    model.compile(keras.optimizers.AdamW(rate), "mse", jit_compile=keras.backend.backend() == "jax")
    stream, epochs = batches(np.random.default_rng(0)), min(args.steps, 10)
    show = {"verbose": 1 if sys.stdout.isatty() else 2}  # a bar, or a line for each epoch
    model.fit(stream, epochs=epochs, steps_per_epoch=args.steps // epochs, shuffle=False, **show)
    return model


def fill_in(model, image, rng):
    """Hides patches. Returns where pixels are visible, the photograph filled in, and figures."""
    step = CROP // 2  # crops overlap by half, and their middles weigh more
    ends = [(step, step + -n % step) for n in image.shape[:2]]
    inside = tuple(slice(step, step + n) for n in image.shape[:2])
    masks = random_masks(1, *((n + sum(end)) // PATCH for n, end in zip(image.shape, ends)), rng)
    tiles = np.broadcast_to(masks[..., None, None, None], (*masks.shape, PATCH, PATCH, 1))
    visible = np.array(from_patches(tiles), bool)[0][inside]

    def decibels(fill):
        return -10 * np.log10(np.mean((fill - image)[~visible[..., 0]] ** 2))

    def blur(sigma):
        total = gaussian_filter(image * visible, (sigma, sigma, 0))
        return total / (gaussian_filter(1.0 * visible, (sigma, sigma, 0)) + 1e-6)

    blurred = max(map(blur, np.arange(0.8, 4, 0.2)), key=decibels)
    # Hidden pixels are replaced before the photograph is padded: nothing of them is passed on.
    known = np.pad(np.where(visible, image, blurred), (*ends, (0, 0)), mode="reflect")
    crops = np.array(patches(known[None], CROP, step))
    windows = np.array(patches(masks[..., None], GRID, GRID // 2)).reshape(-1, GRID, GRID)
    shape, crops, answer = crops.shape, crops.reshape(-1, CROP, CROP, 3), 0
    for k, side in np.ndindex(4, 2):  # the mean of eight answers: turned and mirrored
        turned, order = (np.rot90(x, k, (1, 2))[:, :: 1 - 2 * side] for x in (crops, windows))
        order = in_order(order)
        every = np.array(patches(turned, PATCH)).reshape(-1, GRID**2, PATCH, PATCH, 3)
        hidden = np.arange(len(order))[:, None], order[:, VISIBLE:]
        every[hidden] = model.predict_on_batch((turned, order))
        filled = from_patches(every.reshape(-1, GRID, GRID, PATCH, PATCH, 3))
        answer = answer + np.rot90(np.array(filled)[:, :: 1 - 2 * side], -k, (1, 2)) / 8
    weight = np.multiply.outer(*[np.hanning(CROP + 2)[1:-1] ** 2] * 2)[..., None]  # of the middle
    parts = (answer.reshape(shape) * weight, np.broadcast_to(weight, shape))
    total, weights = (np.array(from_patches(x, stride=step)) for x in parts)
    filled = (total / weights)[0][inside].clip(0, 1)
    figures = [decibels(x) for x in (image.mean((0, 1), where=visible), blurred, filled)]
    return visible, np.where(visible, image, filled), figures


inputs = next(batches(np.random.default_rng(2)))[0]  # to compare outputs
if args.check:
    model = keras.saving.load_model(args.out / "photographs.keras")
    output = ops.convert_to_numpy(model(inputs))
    difference = np.abs(output - np.load(args.out / "output.npy")).max()
    print(f"Loaded on {keras.backend.backend()}: largest difference {difference:.1e}", flush=True)
    sys.exit(not difference <= 1e-3)

model = train()
args.out.mkdir(parents=True, exist_ok=True)
model.save(args.out / "photographs.keras")
np.save(args.out / "output.npy", model.predict_on_batch(inputs))
others = [b for b in ("torch", "tensorflow", "jax") if importlib.util.find_spec(b)]
others = [b for b in others if b != keras.backend.backend()] or others
command = [sys.executable, __file__, "--check", "--out", args.out]
subprocess.run(command, env={**os.environ, "KERAS_BACKEND": others[0]}, check=True)

print(f"Results: {args.out}. Over hidden pixels, mean of {args.draws} draws:", flush=True)
_, axes = plt.subplots(2, figsize=(9, 5.2), layout="constrained")
for name, axis in zip(HELD_OUT, axes):
    image = photograph(name, 3)
    runs = [fill_in(model, image, np.random.default_rng(seed)) for seed in range(args.draws)]
    visible, filled, _ = runs[0]
    axis.imshow(np.hstack([image, np.where(visible, image, 1), filled]))
    axis.axis("off")
    mean, blur, filled_in = np.mean([figures for *_, figures in runs], axis=0)
    text = f"{name}: mean {mean:.2f} dB, blur {blur:.2f} dB, model {filled_in:.2f} dB"
    axis.set_title(text, fontsize=9)
    print(text, flush=True)
plt.savefig(args.out / "photographs.png", dpi=75)
