"""What converting a model gains: a small DCGAN generator of Keras's layers, and its clone of ours.

    KERAS_BACKEND=jax python benchmarks/convert.py [--batch N] [--rounds N]

The generator is that of Radford et al. (2016) for 64 x 64 pixels with an eighth of its channels and
without batch normalization. Prints the seconds of both models, in turns, and their ratio.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import machine
import numpy as np
from keras import layers, ops
from timing import BACKEND, STEPS, medians, random_input, steps

from keras_unpatchify import Unpatchify

CHANNELS = (128, 64, 32, 16)


def generator():
    noise = keras.Input((100,))
    x = layers.Dense(4 * 4 * CHANNELS[0], activation="relu")(noise)
    x = layers.Reshape((4, 4, CHANNELS[0]))(x)
    for channels in CHANNELS[1:]:
        x = layers.Conv2DTranspose(channels, 4, 2, "same", activation="relu")(x)
    return keras.Model(noise, layers.Conv2DTranspose(3, 4, 2, "same", activation="tanh")(x))


def converted(layer):
    if isinstance(layer, layers.Conv2DTranspose):
        return Unpatchify.from_conv_transpose(layer)
    return layer.from_config(layer.get_config())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each model")
    args = parser.parse_args()
    machine.keep_memory()
    machine.same_precision()
    before = generator()
    after = keras.models.clone_model(before, clone_function=converted)
    after.set_weights(before.get_weights())
    x = random_input(args.batch, 100)
    functions = {"before": steps(before, x), "after": steps(after, x)}
    ours, theirs = (ops.convert_to_numpy(f["forward"]()) for f in functions.values())
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    for step in STEPS:
        times = medians({name: functions[name][step] for name in functions}, args.rounds)
        print(
            f"{BACKEND}, {step}: {times['before']:.4f} s before, {times['after']:.4f} s after, "
            f"factor {times['before'] / times['after']:.2f}"
        )


if __name__ == "__main__":
    main()
