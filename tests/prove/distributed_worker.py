"""One training step on one device or several: `python distributed_worker.py WAY FOLDER`, with
KERAS_BACKEND set.

Leaves the weights after the step in `FOLDER/{backend}-{way}.npz`. For torch's "ddp" it is one of
two processes, whose
number is in RANK.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import keras
import numpy as np
from backend import BACKEND
from cases import normal

from keras_unpatchify import Patchify, Unpatchify

RATE = 0.1


def build():
    """A model with both layers, tiling and overlapping; every time with the same weights."""
    image = keras.Input((8, 9, 4))
    tokens = Patchify(4, 16, 2, (4, 3), name="patchify")(image)
    tokens = keras.layers.Dense(16, activation="tanh", name="dense")(tokens)
    options = {"stride": (2, 3), "padding": "same", "overlap": "mean", "name": "unpatchify"}
    model = keras.Model(image, Unpatchify(16, 4, 2, (4, 3), **options)(tokens))
    model.set_weights([0.3 * normal(w.shape, i) for i, w in enumerate(model.weights)])
    return model


def data():
    tokens = 2, 3
    return normal((16, 8, 9, 4), 7), normal((16, 2 * tokens[0], 3 * tokens[1], 4), 8)


def step(model):
    """One step of gradient descent on the whole batch."""
    model.compile(keras.optimizers.SGD(RATE), "mse")
    x, y = data()
    model.fit(x, y, batch_size=len(x), epochs=1, shuffle=False, verbose=0)
    return model.get_weights()


def jax_mesh(*shape):
    devices = keras.distribution.list_devices("cpu")
    assert len(devices) == 8
    return keras.distribution.DeviceMesh(shape, ("batch", "model"), devices)


def data_parallel():
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu"))
    )
    model = build()
    assert len(model.get_layer("unpatchify").kernel.value.sharding.device_set) == 8
    return step(model)


def model_parallel(axis, splits):
    """Both kernels split along an axis: -1 is the embedding channels, -2 the channels of the
    signal."""
    layout = keras.distribution.LayoutMap(jax_mesh(8 // splits, splits))
    split = [None, None, None, None]
    split[axis] = "model"
    layout[".*patchify/kernel"] = tuple(split)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
    model = build()
    for name in ("patchify", "unpatchify"):
        kernel = model.get_layer(name).kernel
        pieces = list(kernel.shape)
        pieces[axis] //= splits
        assert kernel.value.sharding.shard_shape(tuple(kernel.shape)) == tuple(pieces)
    return step(model)


def divided():
    """The height of every image divided over two devices."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()[:2]), ("height",))
    model = build()
    weights = [variable.value for variable in model.trainable_variables]

    def loss(weights, x, y):
        return keras.ops.mean(keras.ops.square(model.stateless_call(weights, [], x)[0] - y))

    arrays = [jax.device_put(a, NamedSharding(mesh, PartitionSpec(None, "height"))) for a in data()]
    assert arrays[0].sharding.shard_shape(arrays[0].shape) == (16, 4, 9, 4)
    weights = jax.device_put(weights, NamedSharding(mesh, PartitionSpec()))
    gradients = jax.jit(jax.grad(loss))(weights, *arrays)
    return [np.asarray(w - RATE * g) for w, g in zip(weights, gradients)]


def mirrored():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        return step(build())


def ddp():
    import torch
    from torch.nn.parallel import DistributedDataParallel

    rank = int(os.environ["RANK"])
    store = f"file://{pathlib.Path(sys.argv[2]).absolute()}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model = build()
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), RATE)
    x, y = (torch.tensor(a[rank::2]) for a in data())
    torch.nn.functional.mse_loss(parallel(x), y).backward()
    optimizer.step()
    weights = model.get_weights()
    torch.distributed.barrier()  # the store goes with the first that leaves, and the other waits
    torch.distributed.destroy_process_group()
    return weights


WAYS = {
    "single": lambda: step(build()),
    "data": data_parallel,
    "embedding": lambda: model_parallel(-1, 4),
    "signal": lambda: model_parallel(-2, 2),
    "divided": divided,
    "mirrored": mirrored,
    "ddp": ddp,
}

if __name__ == "__main__":
    way, folder = sys.argv[1:]
    weights = WAYS[way]()
    np.savez(f"{folder}/{BACKEND}-{way}{os.environ.get('RANK', '')}.npz", *weights)
