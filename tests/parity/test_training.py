"""The backends that train follow one curve."""

import numpy as np
import pytest
from backend import TRAINABLE


@pytest.fixture(scope="module")
def curves(work):
    return {backend: arrays["loss"] for backend, arrays in work("train", TRAINABLE).items()}


@pytest.mark.parametrize("backend", TRAINABLE[1:])
def test_fifty_steps_from_the_same_weights_follow_the_same_curve(backend, curves):
    """Rounding differs by 1e-7 in the first step; 50 steps of Adam multiply that by less than a
    thousand."""
    np.testing.assert_allclose(curves[backend], curves[TRAINABLE[0]], rtol=1e-4)


@pytest.mark.parametrize("backend", TRAINABLE)
def test_the_curve_falls(backend, curves):
    assert len(curves[backend]) == 50
    assert curves[backend][-1] < 0.5 * curves[backend][0]
