"""A model divided over eight devices, then a weather map that no device holds whole, on jax.

    python examples/distributed.py [--out DIR]

The eight devices are this machine's CPU, divided. On a machine with accelerators take out the lines
with XLA_FLAGS. Nothing here is the package's own: Keras and jax divide arrays, and compile for it.
"""

import argparse
import math
import os
import re
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
flags = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
args = parser.parse_args()
print("Divides weights, then a signal, over eight devices: a minute.", flush=True)

import jax
import keras
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from keras_unpatchify import Patchify, Unpatchify

# --- 1. Weights: a batch divided in two, and both kernels in four, by a layout map ---------------

devices = keras.distribution.list_devices()
mesh = keras.distribution.DeviceMesh((len(devices) // 4, 4), ("batch", "model"), devices)
print(f"{len(devices)} devices, {dict(zip(mesh.axis_names, mesh.shape))}", flush=True)

# A path says which axis of a weight is divided; ^ and $ because older versions of Keras also match
# a part of a path. Both kernels are (*patch, signal, embedding): the embedding is what grows with a
# model. What no path names is copied to every device.
layout = keras.distribution.LayoutMap(mesh)
layout["^patchify/kernel$"] = (None, None, None, "model")
layout["^patchify/bias$"] = ("model",)
layout["^dense_(up|down)/kernel$"] = (None, "model")
layout["^dense_(up|down)/bias$"] = ("model",)
layout["^unpatchify/kernel$"] = (None, None, None, "model")
distribution = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
keras.distribution.set_distribution(distribution)

# The model is written as for one device. It is built after the distribution is set.
patches = {"data_dim": 2, "patch_size": 8, "stride": 4, "padding": "same"}
image = keras.Input((32, 32, 3))
tokens = Patchify(3, 256, name="patchify", **patches)(image)
tokens = keras.layers.Dense(1024, activation="gelu", name="dense_up")(tokens)
tokens = keras.layers.Dense(256, name="dense_down")(tokens)
unpatchify = Unpatchify(256, 3, overlap="mean", name="unpatchify", **patches)
model = keras.Model(image, unpatchify(tokens, like=image))
model.compile(keras.optimizers.Adam(1e-3), "mse")
for weight in model.trainable_weights:
    piece = weight.value.sharding.shard_shape(tuple(weight.shape))
    print(f"{weight.path:18} {tuple(weight.shape)!s:17} {piece} on each device", flush=True)

# Training, saving and loading are as ever: a checkpoint does not know how many devices there were.
rng = np.random.default_rng(0)
places, numbers = np.linspace(0, 6, 32)[:, None], rng.uniform(1, 4, (64, 1, 32))
waves = np.sin(places * numbers)  # (image, height, width)
images = np.repeat(waves[..., None], 3, axis=-1).astype("float32")
losses = model.fit(images, images, batch_size=16, epochs=5, verbose=2).history["loss"]
print(f"weights divided: loss {losses[0]:.3f} -> {losses[-1]:.3f}", flush=True)
assert losses[-1] < losses[0] / 2

# --- 2. A signal: one map, divided along its longitude --------------------------------------------

keras.distribution.set_distribution(None)
HEIGHT, WIDTH, FIELDS = 256, 512, 8

# Fields that vary over the map, such as temperature and wind: each is a wave round the globe.
latitude, longitude = np.mgrid[0 : np.pi : np.pi / HEIGHT, 0 : 2 * np.pi : 2 * np.pi / WIDTH]
waves = [
    np.cos(k * longitude + start) * np.sin(m * latitude)
    for k, m, start in zip(*rng.integers(1, 9, (2, FIELDS)), rng.uniform(0, 6, FIELDS))
]
columns = jax.sharding.Mesh(jax.devices(), ("longitude",))
divided = NamedSharding(columns, PartitionSpec(None, None, "longitude", None))
copied = NamedSharding(columns, PartitionSpec())
weather = jax.device_put(np.stack(waves, -1)[None].astype("float32"), divided)
piece = weather.addressable_shards[0].data
print(f"a map {weather.shape}, {piece.shape} on each device: no device holds the whole", flush=True)


def autoencoder(patch, stride, padding):
    """`map -> map`; the mean of overlapping patches leaves no seams, between devices neither."""
    keras.utils.set_random_seed(0)
    signal = keras.Input((HEIGHT, WIDTH, FIELDS))
    # The product, which "auto" takes on accelerators, moves the least.
    options = {"padding": padding, "implementation": "matmul"}
    patchify = Patchify(FIELDS, 64, 2, patch, stride, **options)
    unpatchify = Unpatchify.from_patchify(patchify, overlap="mean", weight_init="fan_in")
    return keras.Model(signal, unpatchify(patchify(signal), like=signal))


def training_step(model, optimizer):
    """`(weights, state, map) -> (loss, weights, state)`, written as for one device."""

    def loss(weights, signal):
        output, _ = model.stateless_call(weights, [], signal)
        return ((output - signal) ** 2).mean()

    def step(weights, state, signal):
        value, gradients = jax.value_and_grad(loss)(weights, signal)
        return value, *optimizer.stateless_apply(state, gradients, weights)

    return step


def received(program):
    """The bytes that each device receives in a compiled step: `{operation: bytes}`."""
    exchange = r"= (.+?) (all-\w+?|collective-permute|reduce-scatter)(?:-start)?\("
    count = {}
    for results, operation in re.findall(exchange, program):
        shapes = re.findall(r"f32\[([\d,]*)\]", results)
        numbers = sum(math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes)
        count[operation] = count.get(operation, 0) + 4 * numbers
    return count


def train(patch, stride, padding):
    """Trains an autoencoder of the map. Returns its error by longitude."""
    model, optimizer = autoencoder(patch, stride, padding), keras.optimizers.Adam(3e-3)
    optimizer.build(model.trainable_variables)
    variables = (model.trainable_variables, optimizer.variables)
    weights, state = jax.device_put([[v.value for v in group] for group in variables], copied)
    step = jax.jit(training_step(model, optimizer)).lower(weights, state, weather).compile()
    count = received(step.as_text())
    assert count.keys() <= {"collective-permute", "all-reduce"}  # nothing gathers the map

    losses = []
    for _ in range(60):
        loss, weights, state = step(weights, state, weather)
        losses.append(float(loss))
    halo, gradients = count.get("collective-permute", 0), count["all-reduce"]
    print(f"patch {patch}, stride {stride}: loss {losses[0]:.3f} -> {losses[-1]:.3f},", end=" ")
    print(f"each device receives {halo} bytes of halo in a step", end=" ")
    print(f"({halo / piece.nbytes:.0%} of its map) and {gradients} of gradients", flush=True)
    assert losses[-1] < losses[0] / 2
    output, _ = jax.jit(model.stateless_call)(weights, [], weather)
    return np.sqrt(np.mean(np.square(output - weather), axis=(0, 1, 3)))


# Along the longitude the ends of the map meet, along the latitude they do not.
for patch, stride in ((4, 4), (4, 2), (8, 4)):
    error = train(patch, stride, ("same", "circular"))
seam = train(8, 4, "same")
print(f"map divided over {len(devices)} devices: {piece.nbytes / 1e6:.1f} MB on each", flush=True)

_, axis = plt.subplots(figsize=(9, 2.4), layout="constrained")
for values, label in ((seam, '"same"'), (error, '("same", "circular")')):
    middle = np.roll(values, WIDTH // 2)  # the date line in the middle of the picture
    axis.plot(np.arange(WIDTH) * 360 / WIDTH - 180, middle, label=f"padding={label}")
axis.set(xlabel="degrees from the date line", ylabel="error of the map", ylim=(0, None))
axis.legend(frameon=False)
args.out.mkdir(parents=True, exist_ok=True)
plt.savefig(args.out / "distributed.png", dpi=75)
print(f"error at the date line: {seam[0] / error[0]:.1f} times as large with padding='same'")
