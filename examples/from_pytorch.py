"""From a PyTorch checkpoint to a Keras model with the same numbers, used from another backend.

    python examples/from_pytorch.py

runs Keras on the backend that KERAS_BACKEND names, by default torch.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

if len(sys.argv) == 1:  # else another process has said it
    print("Loads a PyTorch model into Keras and compares: half a minute, no files.", flush=True)
os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

from keras_unpatchify import Patchify, Unpatchify, load_torch_weights

CHANNELS, HIDDEN, PATCH, STRIDE = 3, 64, 8, 4

# Both sides sum some hundred products in float32, each in its own order.
TOLERANCE = 1e-5


def torch_model():
    """A patch embedding and two heads: linear, as in DiT, and a transposed convolution."""
    import torch

    class TorchModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed = torch.nn.Conv2d(CHANNELS, HIDDEN, PATCH, PATCH)
            self.linear = torch.nn.Linear(HIDDEN, PATCH * PATCH * CHANNELS)
            self.smooth = torch.nn.ConvTranspose2d(HIDDEN, CHANNELS, PATCH, STRIDE)

        def forward(self, image):
            x = torch.nn.functional.gelu(self.patch_embed(image))  # (batch, hidden, h, w)
            batch, _, h, w = x.shape
            patches = self.linear(x.permute(0, 2, 3, 1)).reshape(
                batch, h, w, PATCH, PATCH, CHANNELS
            )
            sharp = torch.einsum("nhwpqc->nchpwq", patches).reshape(
                batch, CHANNELS, h * PATCH, w * PATCH
            )
            return sharp, self.smooth(x)

    torch.manual_seed(0)
    return TorchModel()


def keras_model():
    """The same model, channels last, for images of every size."""
    image = keras.Input((None, None, CHANNELS))
    x = Patchify(CHANNELS, HIDDEN, data_dim=2, patch_size=PATCH, name="patch_embed")(image)
    x = keras.ops.gelu(x, approximate=False)
    # A linear head has one bias for each position of the patch.
    sharp = Unpatchify(HIDDEN, CHANNELS, data_dim=2, patch_size=PATCH, bias="patch", name="linear")(
        x
    )
    smooth = Unpatchify(
        HIDDEN, CHANNELS, data_dim=2, patch_size=PATCH, stride=STRIDE, name="smooth"
    )(x)
    return keras.Model(image, [sharp, smooth])


def torch_outputs(model, images):
    """The outputs for images (batch, height, width, channels), channels last as well."""
    import torch

    with torch.no_grad():
        outputs = model(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))
    return [np.moveaxis(output.numpy(), 1, -1) for output in outputs]


def check(model, images, expected):
    """Prints and checks how far the model's outputs are from the expected ones."""
    outputs = [keras.ops.convert_to_numpy(output) for output in model(images)]
    difference = max(float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True))
    shapes = [a.shape for a in outputs]
    backend = keras.backend.backend()
    print(f"{backend}: outputs {shapes}, largest difference {difference:.1e}", flush=True)
    assert difference < TOLERANCE


def another_backend():
    """A trainable backend that is installed and not in use, or None."""
    others = [name for name in ("jax", "tensorflow", "torch") if name != keras.backend.backend()]
    return next((name for name in others if importlib.util.find_spec(name)), None)


def convert(folder):
    """Loads the state dict of the PyTorch model into the Keras model, compares and saves."""
    source, model = torch_model(), keras_model()
    for name in ("patch_embed", "linear", "smooth"):
        load_torch_weights(model.get_layer(name), source.state_dict(), prefix=name)

    images = np.random.default_rng(0).standard_normal((2, 32, 48, CHANNELS), dtype="float32")
    expected = torch_outputs(source, images)
    check(model, images, expected)
    model.save(folder / "model.keras")
    np.savez(folder / "arrays.npz", images, *expected)


def use(folder):
    """Uses the saved model; of PyTorch it needs nothing."""
    with np.load(folder / "arrays.npz") as arrays:
        images, *expected = (arrays[name] for name in arrays.files)
    check(keras.saving.load_model(folder / "model.keras"), images, expected)


def main():
    if len(sys.argv) > 1:
        return use(pathlib.Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        convert(pathlib.Path(folder))
        backend = another_backend()
        if backend is None:
            print("Install jax or tensorflow to use the saved model from it, too.")
        else:
            environment = os.environ | {"KERAS_BACKEND": backend}
            subprocess.run([sys.executable, __file__, folder], env=environment, check=True)


if __name__ == "__main__":
    main()
