"""What the backends write differently: gradients and compilation of a function of arrays, as functions of arrays."""

import keras
import numpy as np


def to_numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def apply(function, *arrays):
    """The value of a function of tensors for arrays; on jax in one piece, which compiles sooner than its pieces."""
    if keras.backend.backend() == "jax":
        import jax

        function = jax.jit(function)
    return to_numpy(function(*(keras.ops.convert_to_tensor(a, a.dtype.name) for a in arrays)))


def run(layer, x, **arguments):
    """A layer's output for an array."""
    if not layer.built:
        layer.build(x.shape)
    return apply(lambda tensor: layer(tensor, **arguments), x)


def gradients(function, arrays, weights):
    """Gradients of `sum(weights * function(*arrays))` for each of the arrays."""
    tensors = [keras.ops.convert_to_tensor(a) for a in arrays]

    def total(*tensors):
        return keras.ops.sum(keras.ops.convert_to_tensor(weights) * function(*tensors))

    if keras.backend.backend() == "jax":
        import jax

        gradient = jax.jit(jax.grad(total, argnums=tuple(range(len(tensors)))))
        return [np.asarray(g) for g in gradient(*tensors)]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = total(*tensors)
        return [g.numpy() for g in tape.gradient(value, tensors)]
    tensors = [t.detach().requires_grad_(True) for t in tensors]
    total(*tensors).backward()
    return [to_numpy(t.grad) for t in tensors]


def compiled(function):
    """The function as the backend compiles it, of arrays and to an array."""
    if keras.backend.backend() == "jax":
        import jax

        function = jax.jit(function)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        function = tf.function(function)
    elif keras.backend.backend() == "torch":
        import torch

        function = torch.compile(function, fullgraph=True)
    return lambda *arrays: to_numpy(function(*(keras.ops.convert_to_tensor(a) for a in arrays)))
