"""A photograph of odd size through the pair: what each choice of padding and overlap gives back.

    python examples/sizes.py

The kernel is the identity, a token is the pixels of its patch: what differs from the photograph is
the pair's doing.
"""

import argparse
import os
from pathlib import Path

print("Sends a photograph through the pair in five ways, in half a minute, and draws.", flush=True)
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from keras_unpatchify import Patchify, Unpatchify

PATCH = 32
WIDTH = PATCH * PATCH * 3  # of a token: every pixel of its patch
RESULTS = Path(__file__).parent / "results"


def there_and_back(photograph, stride, padding, overlap):
    """The pair on a photograph, `(height, width, 3)`; "valid" drops what fills no patch."""
    patchify = Patchify(3, WIDTH, 2, PATCH, stride, bias=False, padding=padding)
    unpatchify = Unpatchify.from_patchify(patchify, bias=False, overlap=overlap)
    image = keras.Input((None, None, 3))
    tokens = patchify(image)  # (batch, *grid, WIDTH)
    signal = unpatchify(tokens, like=image if padding == "same" else None)
    for layer in (patchify, unpatchify):
        layer.kernel.assign(np.eye(WIDTH).reshape(PATCH, PATCH, 3, WIDTH))
    return keras.ops.convert_to_numpy(keras.Model(image, signal)(photograph[None]))[0]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the picture")
    args = parser.parse_args()

    import matplotlib.pyplot as plt
    from skimage import data

    # 275 x 359: no multiple of anything here
    photograph = data.chelsea()[:275, 60:419].astype("float32") / 255
    rows = [
        ("tiling, valid", PATCH, "valid", "sum"),
        ("tiling, same", PATCH, "same", "sum"),
        ("overlapping, valid, sum", 24, "valid", "sum"),
        ("overlapping, same, sum", 24, "same", "sum"),
        ("overlapping, same, mean", 24, "same", "mean"),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(9, 5.4), layout="constrained")
    axes.flat[0].imshow(photograph)
    axes.flat[0].set_title("original, 275 x 359", fontsize=9)
    for axis, (title, *choice) in zip(axes.flat[1:], rows):
        signal = there_and_back(photograph, *choice)
        canvas = np.full_like(photograph, 1)  # white: not returned
        canvas[: signal.shape[0], : signal.shape[1]] = np.clip(signal, 0, 1)
        difference = np.abs(signal - photograph[: signal.shape[0], : signal.shape[1]]).max()
        height, width = signal.shape[:2]
        print(f"{title}: {height} x {width}, largest difference {difference:.1e}", flush=True)
        axis.imshow(canvas)
        axis.set_title(
            f"{title}: {height} x {width}" + (", equal" if difference < 1e-5 else ""), fontsize=9
        )
    for axis in axes.flat:
        axis.axis("off")
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / "sizes.png", dpi=80)
    print(f"drawn: {args.out / 'sizes.png'}; below 0.00001 it says equal", flush=True)


if __name__ == "__main__":
    main()
