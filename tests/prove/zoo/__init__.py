"""Heads of published models, built small and at random by their library and run by its own code.

Each is a row of `HEADS`: the module of a PyTorch model, the layer that takes its weights, and what
the library makes of an input. `docs/heads.md` is written from the rows, `test_zoo.py` runs them.
"""

import importlib
import sys
from typing import NamedTuple

import numpy as np
import torch

from keras_unpatchify import Patchify, Unpatchify, load_torch_weights

HEADS = []


class Head(NamedTuple):
    """A head of a model.

    `make` takes the library's class that `source` names. It returns a model whose module at
    `prefix` has the weights, an input of the layer, and what the library makes of it, both channels
    last; or the model and its forward pass, in which what that module gets and returns is compared.
    `edges` is "model" where not the module but the code around it pads or crops.
    """

    model: str
    source: str
    prefix: str
    layer: str
    make: callable
    load: dict
    call: dict
    edges: str

    @property
    def library(self):
        return self.source.partition(".")[0]

    def example(self):
        """A model, an input as an array, and what the library makes of it; both channels last."""
        module, _, name = self.source.rpartition(".")
        with torch.no_grad():
            model, *example = self.make(getattr(importlib.import_module(module), name))
            if len(example) == 1:
                example = within(model.get_submodule(self.prefix), *example)
        return model, *(np.ascontiguousarray(tensor.numpy()) for tensor in example)

    def new_layer(self, channels):
        """The layer as the page shows it, for outputs of so many channels."""
        return eval(self.layer, {"Patchify": Patchify, "Unpatchify": Unpatchify, "n": channels})

    def outputs(self, run):
        """The layer's output and the library's; `run` calls a layer with an array."""
        model, x, expected = self.example()
        layer = self.new_layer(expected.shape[-1])
        load_torch_weights(layer, model.state_dict(), prefix=self.prefix, **self.load)
        return run(layer, x, **self.call), expected


def head(model, source, prefix, layer, *, load=(), call=(), edges="module"):
    """Adds a head of a model; decorates what makes it."""

    def add(make):
        row = (model, source, prefix, layer, make, dict(load), dict(call), edges)
        HEADS.append(Head(*row))
        return make

    return add


HEADER = "| model | class | prefix | layer | load and call with | difference |"


def tables():
    """The heads of each table of the page, by title."""
    titles = {"Unpatchify": "Tokens to a signal", "Patchify": "A signal to tokens"}
    return {
        title: [head for head in HEADS if head.layer.startswith(name)]
        for name, title in titles.items()
    }


def row(head):
    """The row of a head in a table of the page, up to its last column, the difference."""
    options = [f"`{name}={value!r}`" for name, value in (head.load | head.call).items()]
    code = [f"`{text}`" for text in (head.source, head.prefix, head.layer)]
    return " | ".join([f"| {head.model}", *code, ", ".join(options)]) + " |"


def difference(y, expected):
    """The largest difference over the largest value."""
    assert y.shape == expected.shape
    return np.abs(y - expected).max() / np.abs(expected).max()


def at_random(model):
    """A model for inference; none of its weights is zero or one, as they often are in a new one."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    return model.eval()


def normal(*shape):
    """Normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def last(x):
    """A tensor with its channels, the second axis, last."""
    return x.movedim(1, -1)


def grid(tokens, *sizes):
    """A sequence of tokens, row by row, as a grid."""
    return tokens.unflatten(1, sizes)


def seen(module, forward):
    """The first input and the output of a module, and the value of the function that calls it.

    They are copies, for what follows in a model may add to them in place.
    """
    calls = []
    hook = module.register_forward_hook(
        lambda _, inputs, output: calls.append((inputs[0].clone(), output.clone()))
    )
    try:
        result = forward()
    finally:
        hook.remove()
    ((x, y),) = calls
    return x, y, result


def within(module, forward):
    """The input and the output of a module of channels first."""
    x, y, _ = seen(module, forward)
    return last(x), last(y)


def across(begin, end, forward):
    """The input of a module of channels first, and the output of a later one."""
    x, _, _ = seen(begin, forward)
    _, y, _ = seen(end, forward)
    return last(x), last(y)


def import_torchvision():
    """Imports torchvision, which timm needs, where its operators are of another build than torch.

    Nothing here uses the operators, but without these two names the import fails.
    """
    try:
        import torchvision
    except ImportError:
        pass
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
            )
        sys.modules.pop("torchvision", None)
        import torchvision  # noqa: F401


import_torchvision()
