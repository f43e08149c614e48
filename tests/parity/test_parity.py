"""What one backend computes, the others compute; what one saves, the others load; those that train
follow one curve."""

import numpy as np
import pytest
import reference
from backend import BACKENDS, TRAINABLE
from cases import CASES, COMPACT, IMPLEMENTATIONS, PADDINGS, normal

# Sums of fewer than 200 products of numbers of order 1 in float32: the backends differ in their
# order alone. That is worth some units of 6e-8 for each of the numbers added, which are at most
# about 10.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}

over_settings = pytest.mark.parametrize(
    "setting", [f"{name}/{p}/{i}" for name in COMPACT for p in PADDINGS for i in IMPLEMENTATIONS]
)


@over_settings
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_computes_the_same_values(setting, backend, computed):
    name, kind, _ = setting.split("/")
    case = CASES[name]
    padding = case.padding(kind)
    size = case.sizes(padding)[-1]
    options = {"stride": case.stride, "padding": padding}
    tokens = reference.patchify(
        case.signals(size), case.kernel(), normal((case.token,), 3), **options
    )
    signal_bias = normal((case.signal,), 3)
    signal = reference.unpatchify(
        case.tokens(), case.kernel(), signal_bias, size=size, overlap="mean", **options
    )
    for operation, expected in [("patchify", tokens), ("unpatchify", signal)]:
        np.testing.assert_allclose(
            computed[backend][f"{setting}/{operation}"], expected, **TOLERANCE
        )


@over_settings
@pytest.mark.parametrize("operation", ["patchify", "unpatchify"])
@pytest.mark.parametrize("of", ["x", "kernel"])
def test_backends_that_train_compute_the_same_gradients(setting, operation, of, computed):
    first, *others = (
        computed[backend][f"{setting}/{operation}/gradient of {of}"] for backend in TRAINABLE
    )
    assert np.abs(first).max() > 0.1
    for other in others:
        np.testing.assert_allclose(other, first, **TOLERANCE)


@pytest.mark.parametrize("reader", BACKENDS)
@pytest.mark.parametrize("writer", BACKENDS)
@pytest.mark.parametrize("way", ["keras", "weights.h5", "set_weights"])
def test_what_one_backend_saves_another_loads(way, writer, reader, computed):
    names = [name for name in computed[writer] if name.startswith(("image", "series"))]
    assert len(names) == 4
    for name in names:
        np.testing.assert_allclose(
            computed[reader][f"{way}/{writer}/{name}"], computed[writer][name], **TOLERANCE
        )


def test_the_models_that_are_exchanged_differ(computed):
    outputs = [computed[backend]["image (7, 9)"] for backend in BACKENDS]
    for i, one in enumerate(outputs):
        assert all(np.abs(one - other).max() > 0.1 for other in outputs[:i])


@pytest.mark.parametrize("backend", TRAINABLE[1:])
def test_fifty_steps_from_the_same_weights_follow_the_same_curve(backend, computed):
    """Rounding differs by 1e-7 in the first step; 50 steps of Adam multiply that by less than a
    thousand."""
    np.testing.assert_allclose(computed[backend]["loss"], computed[TRAINABLE[0]]["loss"], rtol=1e-4)


@pytest.mark.parametrize("backend", TRAINABLE)
def test_the_curve_falls(backend, computed):
    losses = computed[backend]["loss"]
    assert len(losses) == 50
    assert losses[-1] < 0.5 * losses[0]
