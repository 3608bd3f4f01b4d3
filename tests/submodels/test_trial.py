"""Layers that draw and do not say so."""

import random

import keras
import numpy as np
import pytest

import keras_swapout as ks
from keras_swapout.submodels.fork import stochastic_layers
from keras_swapout.submodels.trial import draw_at_inference

L, Input = keras.layers, keras.Input


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def noise(x, training=None):
    """Dropout at a rate of one half, with Keras' global generator."""
    if not training:
        return x
    return keras.ops.where(keras.random.uniform(keras.ops.shape(x)) < 0.5, 2 * x, 0 * x)


class Unseeded(L.Layer):
    def call(self, x, training=None):
        return noise(x, training)

    def compute_output_shape(self, shape):
        return shape


class OffByDefault(Unseeded):
    """Keras writes the default down in the graph, as if the call had been given it."""

    def call(self, x, training=False):
        return noise(x, training)


class Elsewhere(L.Layer):
    """Draws from what Keras knows nothing of."""

    rng = np.random.default_rng(0)

    def call(self, x):
        return x * float(self.rng.normal())


class Path(L.Layer):
    """Drops the branch of a sample at a rate of 0.1, with `tf.random`."""

    def call(self, x, training=None):
        import tensorflow as tf

        return tf.where(tf.random.uniform((tf.shape(x)[0], 1)) < 0.9, x, 0 * x) if training else x


class MCDropout(L.Dropout):
    def call(self, x, training=None):
        return super().call(x, training=True)


class Block(L.Layer):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def call(self, x, training=None):
        for part in self.parts:
            x = part(x, training=training)
        return x


class Whole(keras.Model):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def call(self, x, training=None):
        for part in self.parts:
            x = part(x, training=training)
        return x


class Drifts(L.Layer):
    """Steady, but for a state that each training call moves."""

    def build(self, shape):
        self.state = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x, training=None):
        if training:
            self.state.assign(self.state * 2)
        return x * self.state


class Fails(L.Layer):
    def call(self, x):
        return x if x.shape[0] is None else x.undefined


class Watching(L.Layer):
    """Steady, with a metric of what comes by."""

    def __init__(self):
        super().__init__()
        self.seen = keras.metrics.Mean()

    def call(self, x):
        self.seen.update_state(keras.ops.mean(x))
        return x


class Scaled(Unseeded):
    """A branch that begins at zero, and draws from what Keras knows nothing of."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="zeros")
        self.drop = Elsewhere()

    def call(self, x):
        return x + self.drop(self.scale * x)


class OfSquares(L.Layer):
    """Takes a side that is a multiple of 5, which nobody can know."""

    def __init__(self, noisy):
        super().__init__()
        self.noisy = noisy

    def call(self, x):
        x = keras.ops.reshape(x, (-1, keras.ops.shape(x)[1] // 5, 5))
        x = keras.ops.max(x, -1)[:, :1]
        return x * float(Elsewhere.rng.normal()) if self.noisy else x

    def compute_output_shape(self, shape):
        return shape[0], 1


class Cell(L.GRUCell):
    """One's own, which inherits a generator that it does not use."""


def of_texts():
    """A network of a layer that takes texts, which nobody can make up."""

    class Length(L.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.cast(tf.strings.length(x), "float32")

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, "float32")

    inputs = Input((1,), dtype="string")
    return keras.Model(inputs, L.Dense(2)(Length()(inputs)))


def network(*layers, shape=(8,)):
    return keras.Sequential([Input(shape), *layers])


def found(*layers, shape=(8,)):
    return stochastic_layers(network(*layers, shape=shape))


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "layer",
    [
        Unseeded,
        OffByDefault,
        Path,
        lambda: L.Lambda(lambda x: x + keras.random.normal(keras.ops.shape(x))),
        lambda: Block(L.Dense(8), Unseeded()),
        lambda: Block(L.RandomFlip(), Unseeded()),
        lambda: L.TimeDistributed(Unseeded()),
        Fails,  # nobody can tell
    ],
)
def test_a_layer_that_draws_is_found(layer):
    layer = layer()
    shape = (4, 4, 8) if isinstance(layer, Block) else (8,)
    shape = (3, 8) if isinstance(layer, L.TimeDistributed) else shape
    model = network(L.Dense(8), layer, L.Dense(2), shape=shape)
    assert layer in stochastic_layers(model)
    assert layer in stochastic_layers(keras.Sequential([Input(shape), model]))


@pytest.mark.tensorflow
def test_what_cannot_be_tried_is_taken_as_random():
    model = of_texts()
    assert stochastic_layers(model) == [model.layers[1]]


def test_what_comes_from_elsewhere_is_found():
    layer = Elsewhere()
    assert found(L.Dense(8), layer) == [layer]


@pytest.mark.tensorflow
def test_what_is_drawn_behind_a_weight_of_zero_is_found():
    layer = Scaled()
    assert found(layer)[0] is layer
    assert not array(layer.scale).any()


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.Lambda(lambda x: 2 * x),
        lambda: Block(L.Dense(8)),
        Drifts,
        Watching,
        lambda: keras.Sequential([L.Reshape((4, 2)), L.RNN(Cell(3))]),
    ],
)
def test_a_layer_that_does_not_draw_is_not_found(layer):
    layers = [layer(), L.BatchNormalization()]
    assert found(*layers) == []
    with pytest.raises(ValueError, match="`model` must have a layer that is stochastic"):
        ks.RBlock(network(*layers))


@pytest.mark.tensorflow
def test_a_layer_decides_for_itself():
    layer = Unseeded()
    layer.stochastic = False
    assert found(layer) == [] and draw_at_inference(network(layer), np.ones((2, 8))) == []


@pytest.mark.tensorflow
def test_a_trial_leaves_no_trace_and_comes_once():
    class Counting(L.Layer):
        calls = 0

        def __init__(self):
            super().__init__()
            self.norm = L.BatchNormalization()

        def build(self, shape):
            self.norm.build(shape)

        def call(self, x, training=None):
            Counting.calls += 1
            if not training:
                return x
            return self.norm(x, training=training) + keras.random.normal((8,))

    layer = Counting()
    block = Block(layer)
    model = network(block, Drifts())
    before = [np.copy(array(v)) for v in model.variables]
    keras.utils.set_random_seed(3)
    expected = array(keras.random.normal((4,)))
    keras.utils.set_random_seed(3)
    state = random.getstate()
    assert block in stochastic_layers(model)
    assert random.getstate() == state
    np.testing.assert_array_equal(array(keras.random.normal((4,))), expected)
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, array(variable))
    calls = Counting.calls
    assert block in stochastic_layers(model) and Counting.calls == calls


@pytest.mark.tensorflow
def test_views_begin_at_hidden_noise():
    """Both draws of a row have a mask of their own in front and behind, of each input."""
    for layers in ([Unseeded()], [Unseeded(), L.Dropout(0.5)], [L.Lambda(noise), L.Dense(8)]):
        first, second = np.split(
            array(ks.fork(network(*layers))(np.ones((50, 8)), training=True)), 2
        )
        assert (first != second).any(axis=1).mean() > 0.9


@pytest.mark.tensorflow
def test_a_network_without_randomness_is_still_refused():
    x = np.ones((4, 8), "float32")
    for inside in (L.Dense(8), L.BatchNormalization()):
        model = Whole(inside)
        model(x)
        with pytest.raises(ValueError, match="must have a layer that is stochastic"):
            ks.RBlock(model)
        with pytest.raises(ValueError, match="`samples` needs a model with a layer that is stoch"):
            ks.inference.predict(model, x, 4, head=ks.divergence.Head(None))
    for model in (Whole(Unseeded()), network(Unseeded())):
        model(x)
        ks.RBlock(model)
        sampled = ks.inference.predict(model, x, 8, head=ks.divergence.Head(None))
        assert sampled.variance.mean() > 0.5


def test_what_stays_random_at_inference_is_found():
    x = np.ones((4, 8), "float32")
    layer = Elsewhere()
    assert draw_at_inference(network(L.Dense(8), layer, L.Dropout(0.5)), x) == [layer.name]
    model = Whole(layer)
    model(x)
    assert draw_at_inference(model, x)
    for steady in (network(L.Dropout(0.5), Drifts(), Block(L.Dense(8))), Whole(L.Dropout(0.5))):
        steady(x)
        assert draw_at_inference(steady, x) == []
    mc = MCDropout(0.5)
    assert draw_at_inference(network(mc), x) == [mc.name]
    for steady in (Watching(), OfSquares(noisy=False)):
        assert draw_at_inference(network(steady, shape=(None,)), np.ones((2, 10), "float32")) == []
    noisy = OfSquares(noisy=True)
    model = network(noisy, shape=(None,))
    assert draw_at_inference(model, np.ones((2, 10), "float32")) == [noisy.name]
