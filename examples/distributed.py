"""A masked autoencoder's patch layers on eight devices: the batch split in two, the widest kernels in four.

    python examples/distributed.py

Nothing here is the package's own: Keras distributes a layer's weights by their paths. The eight devices are this
machine's CPU, divided; on a machine with accelerators take out the line with XLA_FLAGS.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import keras
import numpy as np

from keras_unpatchify import Patchify, Unpatchify

# 1. The devices as a grid. Images are divided along "batch", weights along "model".
devices = keras.distribution.list_devices()
mesh = keras.distribution.DeviceMesh((len(devices) // 4, 4), ("batch", "model"), devices)
print(f"{len(devices)} devices, {dict(zip(mesh.axis_names, mesh.shape))}")

# 2. Which axis of which weight is divided, by the weight's path. Both kernels are (*patch, signal, embedding): the
#    embedding, their last axis, is the one that grows with a model. What no line names is copied to every device.
layout = keras.distribution.LayoutMap(mesh)
layout["patchify/kernel"] = (None, None, None, "model")
layout["patchify/bias"] = ("model",)
layout["dense.*/kernel"] = (None, "model")
layout["dense.*/bias"] = ("model",)
layout["unpatchify/kernel"] = (None, None, None, "model")
distribution = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
keras.distribution.set_distribution(distribution)

# 3. The model, written as for one device; it is built after the distribution is set.
WIDTH = 256
image = keras.Input((32, 32, 3))
tokens = Patchify(3, WIDTH, data_dim=2, patch_size=8, stride=4, padding="same", name="patchify")(
    image
)
tokens = keras.layers.Dense(4 * WIDTH, activation="gelu", name="dense_up")(tokens)
tokens = keras.layers.Dense(WIDTH, name="dense_down")(tokens)
unpatchify = Unpatchify(
    WIDTH, 3, data_dim=2, patch_size=8, stride=4, padding="same", overlap="mean", name="unpatchify"
)
model = keras.Model(image, unpatchify(tokens, like=image))
model.compile(keras.optimizers.Adam(1e-3), "mse")

for weight in model.trainable_weights:
    piece = weight.value.sharding.shard_shape(tuple(weight.shape))
    print(f"{weight.path:20} {tuple(weight.shape)!s:18} {piece} on each device")

# 4. Training, saving and loading are as ever: a checkpoint does not know how many devices there were.
rng = np.random.default_rng(0)
waves = np.sin(
    np.linspace(0, 6, 32)[:, None] * rng.uniform(1, 4, (64, 1, 32))
)  # (image, height, width)
images = np.repeat(waves[..., None], 3, axis=-1).astype("float32")
history = model.fit(images, images, batch_size=16, epochs=5, verbose=2)
first, last = history.history["loss"][0], history.history["loss"][-1]
print(f"loss {first:.3f} -> {last:.3f} on {len(devices)} devices")
assert last < first / 2
