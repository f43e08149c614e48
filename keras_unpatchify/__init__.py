"""Keras 3 layers that turn token embeddings back into a signal, and a signal into tokens.

Public are the names below, and the modules `ops` (the same functions, stateless) and
`initializers`. Every other module may change without notice.
"""

from keras_unpatchify import initializers, ops
from keras_unpatchify._patchify import Patchify
from keras_unpatchify._torch_weights import load_torch_weights, to_torch_weights
from keras_unpatchify._unpatchify import Unpatchify

__version__ = "0.1.0"

__all__ = [
    "Patchify",
    "Unpatchify",
    "__version__",
    "initializers",
    "load_torch_weights",
    "ops",
    "to_torch_weights",
]
