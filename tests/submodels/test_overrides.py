"""Overrides of several threads: each sees its own, and nothing stays behind."""

import threading

import keras
import numpy as np
import pytest

from keras_swapout.submodels.overrides import overridden
from keras_swapout.submodels.sampling import masks_only

L = keras.layers
X = np.random.default_rng(0).normal(3, 2, (20, 4)).astype("float32")


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


class Inside(threading.Thread):
    """A thread that is within a context until it is told to leave."""

    def __init__(self, context):
        super().__init__()
        self.context, self.entered, self.leave = context, threading.Event(), threading.Event()
        self.start()
        assert self.entered.wait(10)

    def run(self):
        with self.context:
            self.entered.set()
            self.leave.wait(10)

    def end(self):
        self.leave.set()
        self.join()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_overlapping_contexts_end_in_any_order(order):
    norm = L.BatchNormalization(momentum=0.5)
    model = keras.Sequential([keras.Input((4,)), norm])
    threads = [Inside(masks_only(model)) for _ in range(2)]
    for which in order:
        moved = np.copy(array(norm.moving_mean))
        model(X, training=True)  # another thread, as in `fit`
        assert not np.allclose(array(norm.moving_mean), moved)
        threads[which].end()
    assert "call" not in vars(norm)
    moved = np.copy(array(norm.moving_mean))
    model(X, training=True)
    assert not np.allclose(array(norm.moving_mean), moved)


def test_overrides_add_up_and_a_call_of_ones_own_comes_back():
    layer = L.Dense(2, use_bias=False)
    plain = array(layer(X))
    original = layer.call
    own = vars(layer)["call"] = lambda x: 3 * original(x)

    def plus_one(layer, call):
        return lambda *args, **kwargs: call(*args, **kwargs) + 1

    with overridden([layer], plus_one):
        with overridden([layer], plus_one):
            np.testing.assert_allclose(array(layer(X)), 3 * plain + 2, rtol=1e-5)
        np.testing.assert_allclose(array(layer(X)), 3 * plain + 1, rtol=1e-5)
    assert vars(layer)["call"] is own
    with pytest.raises(ArithmeticError), overridden([layer], plus_one):
        raise ArithmeticError
    assert vars(layer)["call"] is own
