"""Prints what a process learns once: `memory` of one token channel, or the seconds of a `first`
call on jax. With `keras`, of Keras's layer."""

import pathlib
import sys
import time

import keras

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import machine
from timing import BACKEND, random_input, steps

from keras_unpatchify import Patchify, Unpatchify

CONVS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def main(what, contender, *arguments):
    if what == "memory":
        to_tokens, step = arguments[0] == "patchify", arguments[1]
        make = keras.layers.Conv2D if to_tokens else keras.layers.Conv2DTranspose
        layer = make(1, 7, padding="same") if to_tokens else make(32, 7, padding="same")
        x = random_input(12, 192, 192, 32 if to_tokens else 1)
        layer.build(x.shape)
        if contender == "auto":
            convert = Patchify.from_conv if to_tokens else Unpatchify.from_conv_transpose
            layer = convert(layer)
        print(machine.peak_bytes(steps(layer, x)[step]))
        return
    kind, data_dim = arguments[0], int(arguments[1])
    size = {1: (512,), 2: (24, 40), 3: (8, 8, 12)}[data_dim]
    patch = {1: 64, 2: 16, 3: 6}[data_dim]
    if contender == "keras":
        layer = CONVS[data_dim - 1](8, patch, padding="same")
        x = random_input(1, *size, 1)
    elif kind == "patchify":
        layer = Patchify(1, 8, data_dim, patch, stride=1, padding="same")
        x = random_input(1, *size, 1)
    else:
        layer = Unpatchify(8, 2, data_dim, patch, 2, "patch", overlap="mean", padding="same")
        x = random_input(1, *(n // 2 for n in size), 8)
    layer.build(x.shape)
    call = layer
    if kind == "gradient":
        import jax

        call = jax.grad(lambda x: (layer(x) ** 2).sum())
    random_input(1).block_until_ready()
    start = time.perf_counter()
    call(x).block_until_ready()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    assert BACKEND
    main(*sys.argv[1:])
