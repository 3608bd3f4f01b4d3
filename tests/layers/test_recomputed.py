"""What is computed again for a gradient draws the masks it drew (`keras.remat`).

All layers here are linear and scale each unit by a number of its own. With x = 1 the output is that
number and so is its gradient, if and only if both passes drew the same masks.

It goes by the names of functions and variables inside `tf.recompute_grad`: tried with TensorFlow
2.21, and where they are called otherwise these tests fail.
"""

import keras
import numpy as np
import pytest
from backends import reduced

import keras_swapout as ks
from keras_swapout.layers import BDropDML, DropBlock2D, SDropDML, Swapout

BACKEND = keras.backend.backend()
ONES = np.ones((4, 6, 6, 8), "float32")
MAKERS = {
    "Swapout": lambda **k: Swapout(0.5, 0.5, seed=1, **k),
    "BDropDML": lambda **k: BDropDML(0.4, seed=1, **k),
    "SDropDML": lambda **k: SDropDML(0.4, 2, seed=1, **k),
    "DropBlock2D": lambda **k: DropBlock2D(0.3, 2, seed=1, **k),
}


def applied(layer):
    """The layer in training, as a function of one tensor."""
    if isinstance(layer, Swapout):
        return lambda x: layer([x, 2 * x], training=True)
    return lambda x: layer(x, training=True)


def steps(layer):
    return int(keras.ops.convert_to_numpy(layer.seed_generator.state)[1])


def with_gradient(function, times=1):
    """x -> (y, the gradients of its sum, taken so many times)"""
    import tensorflow as tf

    def run(x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = function(x)
        return y, [tape.gradient(y, x) for _ in range(times)]

    return run


def compiled(function, mode):
    import tensorflow as tf

    function = function if mode == "eager" else tf.function(function, jit_compile=mode == "xla")
    return lambda: function(tf.constant(ONES))


def agree(y, gradients):
    assert 0 < np.mean(np.asarray(y) == 0) < 1
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, y)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name, mode",
    [
        ("Swapout", "eager"),
        ("BDropDML", "eager"),
        ("Swapout", "graph"),
        ("SDropDML", "graph"),
        ("BDropDML", "xla"),
        ("DropBlock2D", "xla"),
    ],
)
def test_gradient_is_that_of_the_output(name, mode):
    make = MAKERS[name]
    layer, alone = make(), make()
    step = compiled(with_gradient(keras.remat(applied(layer))), mode)
    for _ in range(2):
        y, gradients = step()
        agree(y, gradients)
        np.testing.assert_array_equal(y, applied(alone)(ONES))  # and goes on by one
    assert steps(layer) == 2


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_any_order_of_calls(mode):
    """Twice in a block, blocks in a row, side by side, in each other, with no gradient taken."""
    once, other = applied(BDropDML(0.2, seed=1)), applied(BDropDML(0.2, seed=2))
    block = keras.remat(lambda x: once(other(once(x))))
    nested = keras.remat(lambda x: block(other(block(x))))
    for function in (
        lambda x: block(block(x)),
        lambda x: block(x) + 10 * block(x),
        lambda x: nested(x) + 0 * block(x),
    ):
        step = compiled(with_gradient(function, times=2), mode)
        for _ in range(2):
            agree(*step())


@pytest.mark.tensorflow
def test_gradient_taken_outside_of_a_compiled_function():
    import tensorflow as tf

    function = tf.function(keras.remat(applied(SDropDML(0.4, 2, seed=1))))
    for _ in range(2):
        agree(*with_gradient(function)(tf.constant(ONES)))


class Block(keras.Layer):
    """A user's layer, which saves memory."""

    def __init__(self):
        super().__init__()
        self.drop, self.stochastic = BDropDML(0.5, seed=3, data_format="channels_last"), True

    def call(self, x, training=False):
        return keras.remat(lambda x: self.drop(x, training=training))(x)


@pytest.mark.tensorflow
def test_views_are_those_of_the_first_run():
    """The gradient is taken where nobody says any more how the batch is laid out."""
    inputs = keras.Input(ONES.shape[1:])
    forked = ks.fork(keras.Model(inputs, Block()(inputs)))
    views = compiled(with_gradient(lambda x: forked(x, training=True)[len(ONES) :]), "eager")
    agree(*views())


@pytest.mark.tensorflow
def test_fit():
    """As without remat, through a kernel that learns from the gradient of the masked units."""

    def losses(block, jit):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8,))
        model = keras.Model(inputs, keras.layers.Dense(1)(block(keras.layers.Dense(8)(inputs))))
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
        x = np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
        return model.fit(x, x[:, :1], epochs=4, verbose=0).history["loss"]

    expected = losses(BDropDML(0.5, seed=3, data_format="channels_last"), jit=False)
    np.testing.assert_allclose(losses(Block(), jit=True), expected, rtol=1e-4)


@pytest.mark.tensorflow
@pytest.mark.parametrize("graph", [False, True])
def test_refused_where_it_can_not_be_told(graph):
    import tensorflow as tf

    drop = applied(BDropDML(0.4))
    inside = tf.function(lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: drop(x), lambda: x))
    with pytest.raises(RuntimeError, match=r"keras\.remat can't go around a tf\.function"):
        compiled(with_gradient(keras.remat(inside)), "graph" if graph else "eager")()


@pytest.mark.tensorflow
@pytest.mark.parametrize("remat", [False, True])
def test_refused_where_each_element_is_a_batch(remat):
    """The masks would be the same for all, and the gradient be 0."""
    import tensorflow as tf

    drop = applied(BDropDML(0.4))
    drop = keras.remat(drop) if remat else drop
    for mapped in (tf.vectorized_map, keras.ops.vectorized_map):
        with pytest.raises(RuntimeError, match=r"tf\.vectorized_map can't go around"):
            mapped(lambda x: drop(x[None])[0], tf.constant(ONES))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it works there")
def test_refused_under_other_backends():
    layer = BDropDML(0.4)
    with pytest.raises(RuntimeError, match=r"keras\.remat can't go around"):
        keras.remat(applied(layer))(keras.ops.ones(ONES.shape))
    assert steps(layer) == 0
    x = keras.ops.ones(ONES.shape)
    y = keras.remat(lambda x: layer(x, training=False))(x)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(y), ONES)


@pytest.mark.parametrize("make", reduced(MAKERS.values(), MAKERS["BDropDML"]), ids=MAKERS)
def test_a_scope_leaves_our_layers_alone(make):
    with keras.RematScope("full"):
        layer = make()
    y = applied(layer)(keras.ops.ones(ONES.shape))
    expected = applied(make())(keras.ops.ones(ONES.shape))
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (y, expected)))
    assert steps(layer) == 1
    if BACKEND == "tensorflow":
        for mode in ("eager", "graph"):
            agree(*compiled(with_gradient(applied(layer)), mode)())
