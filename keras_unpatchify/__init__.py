"""Un-patching for Keras 3: a grid of token embeddings back to a signal, and a signal to tokens."""

from keras_unpatchify.patchify import Patchify
from keras_unpatchify.unpatchify import Unpatchify

__all__ = ["Patchify", "Unpatchify"]
