"""Heads of published models: a layer with their weights returns what their library does."""

import numpy as np
import pytest
from backend import run

torch = pytest.importorskip("torch", reason="the models are PyTorch's")

import zoo  # noqa: E402
from zoo import in_diffusers, in_monai, in_timm, in_transformers  # noqa: E402, F401

# Largest difference over the largest value. Both sides sum up to 4096 products in float32, each in
# its own order. Where there are that many (UNETR, 16 x 16 x 16 voxels), PyTorch's convolution is
# itself 2.3e-6 from the sums in float64, and 2.8e-6 is the largest difference that was seen;
# elsewhere it is at most 1.6e-6.
TOLERANCE = 4e-6


def difference(y, expected):
    assert y.shape == expected.shape
    return np.abs(y - expected).max() / np.abs(expected).max()


@pytest.mark.trains
@pytest.mark.parametrize("head", zoo.HEADS, ids=lambda head: f"{head.library}-{head.model}")
def test_a_head_returns_what_its_library_does(head):
    pytest.importorskip(head.library, reason=f"the head is of {head.library}")
    y, expected = head.outputs(run)
    print("DIFF", head.model, difference(y, expected))
    assert np.abs(expected).max() > 0
    assert difference(y, expected) < TOLERANCE
