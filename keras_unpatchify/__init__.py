"""Un-patching for Keras 3: a grid of token embeddings back to a signal, and a signal to tokens, on every backend."""

from keras_unpatchify.patchify import Patchify
from keras_unpatchify.torch_weights import load_torch_weights, to_torch_weights
from keras_unpatchify.unpatchify import Unpatchify

__all__ = ["Patchify", "Unpatchify", "load_torch_weights", "to_torch_weights"]
