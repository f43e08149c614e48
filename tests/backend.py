"""What the backends write differently: computing, differentiating and compiling functions of
arrays."""

import keras
import numpy as np

BACKENDS = ("torch", "jax", "tensorflow", "numpy", "openvino")
TRAINABLE = BACKENDS[:3]
BACKEND = keras.backend.backend()


def to_numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def to_arrays(structure):
    """The arrays of a structure of tensors."""
    tensors = keras.tree.flatten(structure)
    if BACKEND != "openvino" or len(tensors) == 1:
        return keras.tree.map_structure(to_numpy, structure)
    import openvino

    # one graph for all of them, which compiles sooner than one for each
    graph = openvino.Model([openvino.opset13.result(t.output) for t in tensors], [])
    outputs = openvino.compile_model(graph, "CPU")([])
    return keras.tree.pack_sequence_as(structure, [outputs[i] for i in range(len(tensors))])


def tensor(array):
    """A tensor of the array's own dtype."""
    return keras.ops.convert_to_tensor(array, array.dtype.name)


def run(function, *arrays, **arguments):
    """What a layer, or a function of tensors, makes of arrays: an array, or a structure of them.

    On jax it is computed in one piece, which compiles sooner than its pieces.
    """
    if isinstance(function, keras.layers.Layer) and not function.built:
        function.build(arrays[0].shape)

    def compute(*tensors):
        return function(*tensors, **arguments)

    if BACKEND == "jax":
        import jax

        compute = jax.jit(compute)
    return to_arrays(compute(*map(tensor, arrays)))


def value_and_gradients(function, arrays, weights):
    """`function(*arrays)`, and the gradients of its sum, weighted, for each of the arrays.

    The value may be a structure of tensors, of which the weights are one too. There are no
    gradients on a backend that only infers.
    """
    tensors, factors = [tensor(a) for a in arrays], keras.tree.map_structure(tensor, weights)

    def total(*tensors):
        y = function(*tensors)
        pairs = zip(keras.tree.flatten(factors), keras.tree.flatten(y), strict=True)
        return sum(keras.ops.sum(factor * part) for factor, part in pairs), y

    if BACKEND == "jax":
        import jax

        every = tuple(range(len(tensors)))
        (_, y), gradients = jax.jit(jax.value_and_grad(total, every, has_aux=True))(*tensors)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value, y = total(*tensors)
        gradients = tape.gradient(value, tensors)
    elif BACKEND == "torch":
        tensors = [t.detach().requires_grad_(True) for t in tensors]
        value, y = total(*tensors)
        value.backward()
        gradients = [t.grad for t in tensors]
    else:
        y, gradients = function(*tensors), []
    return to_arrays(y), [to_numpy(g) for g in gradients]


def gradients(function, arrays, weights):
    """The gradients alone."""
    return value_and_gradients(function, arrays, weights)[1]


def compiled(function):
    """The function as the backend compiles it, of arrays and to an array."""
    if BACKEND == "jax":
        import jax

        function = jax.jit(function)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        function = tf.function(function)
    elif BACKEND == "torch":
        import torch

        function = torch.compile(function, fullgraph=True)
    return lambda *arrays: to_numpy(function(*map(tensor, arrays)))
