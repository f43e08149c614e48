"""How it is measured: a layer as two functions that run to completion, timed in turns."""

import concurrent.futures
import random
import statistics
import time

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
STEPS = ("forward", "training")


def steps(layer, x):
    """`{"forward": f, "training": g}`, compiled where the backend compiles.

    A call returns when its work is done.
    A training step is a forward pass, the mean square of its output, and the gradients of the
    input and all weights.
    """
    return {"jax": _jax_steps, "torch": _torch_steps, "tensorflow": _tensorflow_steps}[BACKEND](
        layer, x
    )


def jax_functions(layer):
    """The two functions before they are compiled, of the weights and an input."""
    import jax

    def forward(weights, x):
        return layer.stateless_call(weights, [], x)[0]

    return forward, jax.value_and_grad(
        lambda weights, x: ops.mean(ops.square(forward(weights, x))), argnums=(0, 1)
    )


def _jax_steps(layer, x):
    import jax

    weights = [variable.value for variable in layer.trainable_variables]

    def runner(function):
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(weights, x))

    return dict(zip(STEPS, map(runner, jax_functions(layer))))


def _torch_steps(layer, x):
    import torch

    x = x.detach().requires_grad_()
    is_keras = isinstance(layer, keras.layers.Layer)
    weights = [v.value for v in layer.trainable_variables] if is_keras else list(layer.parameters())
    finish = torch.cuda.synchronize if x.is_cuda else lambda: None

    def forward():
        with torch.no_grad():
            y = layer(x)
        finish()
        return y

    def training():
        loss = layer(x).square().mean()
        gradients = torch.autograd.grad(loss, [*weights, x])
        finish()
        return loss, (gradients[:-1], gradients[-1])

    return {"forward": forward, "training": training}


def _tensorflow_steps(layer, x):
    import tensorflow as tf

    weights = [variable.value for variable in layer.trainable_variables]

    @tf.function
    def forward(x):
        return layer(x)

    @tf.function
    def training(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_mean(tf.square(layer(x)))
        gradients = tape.gradient(loss, [*weights, x])
        return loss, (gradients[:-1], gradients[-1])

    def runner(function):
        def run():
            result = function(x)
            tf.test.experimental.sync_devices()
            return result

        return run

    return {"forward": runner(forward), "training": runner(training)}


def compile_all(functions):
    """Calls all functions of `{contender: steps}` once, side by side where a call compiles."""
    calls = [step for both in functions.values() for step in both.values()]
    with concurrent.futures.ThreadPoolExecutor(None if BACKEND == "jax" else 1) as threads:
        for call in [threads.submit(call) for call in calls]:
            call.result()


def medians(functions, rounds):
    """Median seconds of each of the functions."""
    return {name: middle for name, (_, middle, _) in quartiles(functions, rounds).items()}


def quartiles(functions, rounds, turn=0.005, slow=0.2):
    """The quartiles of the seconds of each of the functions.

    After two calls to warm up they take turns, in another order each round: what ran before
    leaves its traces in the caches. A turn repeats the call for about `turn` seconds. A function
    that needs more than `slow` seconds takes part in three rounds only.
    """
    repeats, limits, times = {}, {}, {name: [] for name in functions}
    for name, function in functions.items():
        took = min(_seconds(function, 1) for _ in range(2))
        repeats[name] = max(1, int(turn / took))
        limits[name] = min(rounds, 3) if took > slow else rounds
    orders = random.Random(0)
    for i in range(rounds):
        for name in orders.sample(list(functions), len(functions)):
            if i < limits[name]:
                times[name].append(_seconds(functions[name], repeats[name]))
    return {
        name: statistics.quantiles(values, n=4, method="inclusive")
        if len(values) > 1
        else 3 * values
        for name, values in times.items()
    }


def _seconds(function, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def random_input(*shape):
    """A tensor of normally distributed numbers, the same each time, to compute with."""
    array = np.random.default_rng(1).normal(size=shape).astype("float32")
    return ops.convert_to_tensor(array, keras.config.dtype_policy().compute_dtype)
