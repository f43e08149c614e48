"""Both layers, top to bottom: build, train, save, load, look. `python examples/first_steps.py`"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
print("Squeezes 8 x 8 patches into 16 numbers: a minute, then see examples/results", flush=True)

import argparse
from pathlib import Path

import keras
import numpy as np

try:
    import matplotlib.pyplot as plt
    from skimage import data
except ImportError as error:
    raise SystemExit(f"{error}. What the examples need: pip install '.[example]'") from None

from keras_unpatchify import Patchify, Unpatchify

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
args = parser.parse_args()

# Build. The sizes are open: the model takes photographs of any size, and returns the same size.
image = keras.Input((None, None, 3))
tokens = Patchify(3, 16, data_dim=2, patch_size=8, padding="same")(image)
x = keras.layers.Conv2D(128, 3, padding="same", activation="gelu")(tokens)
output = Unpatchify(128, 3, data_dim=2, patch_size=8, padding="same")(x, like=image)
model = keras.Model(image, output)

# Train, on the 48 x 48 crops of one photograph.
windows = np.lib.stride_tricks.sliding_window_view(data.astronaut() / 255, (48, 48, 3))
crops = windows[::4, ::4, 0].reshape(-1, 48, 48, 3).astype("float32")
model.compile("adam", "mse")
model.fit(crops, crops, epochs=args.epochs)

# Save, load, and look at a photograph that it was not trained on, of 300 x 451 pixels.
args.out.mkdir(exist_ok=True)
model.save(args.out / "first_steps.keras")
model = keras.saving.load_model(args.out / "first_steps.keras")
cat = data.chelsea()[None] / 255
again = model.predict(cat, verbose=0)
plt.imsave(args.out / "first_steps.png", np.hstack([cat[0], again[0].clip(0, 1)]))
error = np.mean((again - cat) ** 2)
print(f"{args.out / 'first_steps.png'}: {-10 * np.log10(error):.1f} dB")
