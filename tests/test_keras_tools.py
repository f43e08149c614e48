"""How the layers fit into tools of Keras: what works, and the limits that the README names."""

import keras
import numpy as np
import pytest
from backend import to_numpy

from keras_unpatchify import Patchify, Unpatchify

VIDEO = np.random.default_rng(0).normal(size=(2, 3, 9, 11, 2)).astype("float32")


def test_time_distributed_is_an_axis_with_a_patch_of_one():
    patchify = Patchify(2, 5, 2, 4, padding="same")
    distributed = keras.layers.TimeDistributed(patchify)(VIDEO)
    volume = Patchify(2, 5, 3, (1, 4, 4), padding="same")
    volume.build(VIDEO.shape)
    kernel, bias = patchify.get_weights()
    volume.set_weights([kernel[None], bias])
    np.testing.assert_allclose(to_numpy(volume(VIDEO)), to_numpy(distributed), atol=1e-5)


def test_time_distributed_returns_signals_of_the_default_size():
    head = keras.layers.TimeDistributed(Unpatchify(5, 2, 2, 4))
    assert head(np.ones((2, 3, 4, 6, 5), "float32")).shape == (2, 3, 16, 24, 2)


def test_time_distributed_takes_no_like():
    head = keras.layers.TimeDistributed(Unpatchify(5, 2, 2, 4, padding="same"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'like'"):
        head(np.ones((2, 3, 4, 6, 5), "float32"), like=VIDEO)


@pytest.mark.masks
@pytest.mark.filterwarnings("ignore")
def test_a_mask_is_not_passed_on():
    series = keras.layers.Masking()(keras.Input((8, 6)))
    assert series._keras_mask is not None
    assert getattr(Patchify(6, 5, 1, 4)(series), "_keras_mask", None) is None


def test_a_layer_is_not_quantized():
    layer = Unpatchify(5, 2, 2, 4)
    layer.build((None, None, None, 5))
    with pytest.raises(NotImplementedError, match="quantize"):
        layer.quantize("int8")
