"""Ours for the dropouts that a network has, and other rates for those that can't be replaced."""

import keras
import numpy as np
import pytest
from backends import reduced
from keras import layers, ops

import keras_swapout as ks
from keras_swapout.surgery import set_rates, swap_dropouts

tensorflow_only = pytest.mark.tensorflow


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def behind(layer, shape=(4, 4, 6)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


class Drops(layers.Layer):
    """Stochastic depth as libraries have it: `kept` is what inference passes of its input."""

    attribute, kept = "rate", 1.0

    def __init__(self, value=0.25, **kwargs):
        super().__init__(**kwargs)
        setattr(self, self.attribute, value)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x, training=False):
        if not training:
            return x * ops.cast(self.kept, x.dtype)
        keep = keras.random.uniform((ops.shape(x)[0],), seed=self.generator) > 0.25
        return x * ops.cast(ops.reshape(keep, (-1, *[1] * (len(x.shape) - 1))), x.dtype)

    def get_config(self):
        return {**super().get_config(), "value": getattr(self, self.attribute)}


class DropPath(Drops):
    attribute = "drop_prob"


class StochasticDepth(Drops):
    attribute = "survival_probability"

    @property
    def kept(self):
        return self.survival_probability


class stochastic_depth_layer(Drops):
    attribute = "drop_path_rate"


class DropConnect(Drops):
    attribute = "drop_rate"


class DropPathOfSomething(Drops):
    kept = 0.4


class DropPathDense(Drops):
    """Has weights: a layer with a name like that."""

    def build(self, shape):
        self.kernel = self.add_weight(shape[-1:], initializer="ones")

    def call(self, x):
        return x * self.kernel * 2


class Nameless(Drops):
    attribute = "how_often"


class DropPathNameless(Nameless):
    pass


class StochasticDepthMerge(Drops):
    def call(self, xs, training=False):
        return xs[0] + xs[1]


KINDS = {
    "units": (layers.Dropout(0.25), "Dropout", "unit"),
    "units_by_shape": (layers.Dropout(0.25, noise_shape=(None,) * 4), "Dropout", "unit"),
    "samples": (layers.Dropout(0.25, noise_shape=(None, 1, 1, 1)), "DropPath", "sample"),
    "batch": (layers.Dropout(0.25, noise_shape=(1, 1, 1, 1)), "DropPath", "batch"),
    "channels_by_shape": (layers.Dropout(0.25, noise_shape=(None, 1, 1, 6)), "Dropout", "channel"),
    "channels": (layers.SpatialDropout2D(0.25), "Dropout", "channel"),
    "channels_first": (
        layers.SpatialDropout2D(0.25, data_format="channels_first"),
        "Dropout",
        "channel",
    ),
    "first_by_shape": (layers.Dropout(0.25, noise_shape=(None, 4, 1, 1)), "Dropout", "channel"),
    "DropPath": (DropPath(), "DropPath", "sample"),
    "StochasticDepth": (StochasticDepth(0.75), "DropPath", "sample"),
    "stochastic_depth_layer": (stochastic_depth_layer(), "DropPath", "sample"),
    "DropConnect": (DropConnect(), "DropPath", "sample"),
}


@pytest.mark.parametrize("kind", reduced(KINDS, "units", "channels", "samples"))
def test_kinds(kind):
    layer, name, granularity = KINDS[kind]
    layer = type(layer).from_config({**layer.get_config(), "name": "drop"})
    model = behind(layer)
    new = swap_dropouts(model)
    ours = new.get_layer("drop")
    assert type(ours) is getattr(ks.layers, name)
    assert (ours.rate, ours.granularity) == (0.25, granularity)
    x = np.random.default_rng(0).normal(size=(64, 4, 4, 6)).astype("float32")
    np.testing.assert_array_equal(array(model(x)), array(new(x)))
    if kind == "StochasticDepth":
        assert not ours.rescale
    # What shares a draw is what is equal in a training pass on ones.
    y = array(new(np.ones_like(x), training=True))
    shared = {"unit": (), "channel": (1, 2), "sample": (1, 2, 3), "batch": (0, 1, 2, 3)}[
        granularity
    ]
    shared = (2, 3) if "first" in kind else shared
    assert np.ptp(y, shared).max() == 0
    if granularity != "batch":
        assert np.ptp(y, tuple(i for i in range(4) if i not in shared)).min() > 0
        np.testing.assert_allclose((y > 0).mean(), 0.75, atol=0.12)


@pytest.mark.parametrize(
    "layer", [layers.Dropout(0.5), layers.SpatialDropout2D(0.5), DropPath(0.5)]
)
def test_views_become_complementary(layer):
    layer = type(layer).from_config(layer.get_config())
    new = ks.fork(swap_dropouts(behind(layer)))
    first, second = np.split(array(new(np.ones((8, 4, 4, 6)), training=True)), 2)
    np.testing.assert_array_equal(first + second, 2)


@tensorflow_only
def test_policies_seeds_and_places():
    inner = keras.Input((6,))
    shared = layers.Dropout(0.2, seed=7, name="shared", dtype="float16")
    body = keras.Sequential([keras.Input((6,)), layers.Dense(6), layers.Dropout(0.0, name="none")])
    x = layers.Dense(6)(shared(inner))
    model = keras.Model(inner, body(shared(x)))
    new = swap_dropouts(model)
    assert [x.name for x in new.layers] == [x.name for x in model.layers]
    ours = new.get_layer("shared")
    assert (ours.dtype_policy.name, ours.seed, len(ours._inbound_nodes)) == ("float16", 7, 2)
    np.testing.assert_array_equal(array(model(np.ones((2, 6)))), array(new(np.ones((2, 6)))))


@tensorflow_only
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16"])
@pytest.mark.parametrize("kind", [DropPath, StochasticDepth])
def test_stochastic_depth_in_half_precision(kind, dtype):
    model = behind(kind(0.7, dtype=dtype, name="drop"))
    new = swap_dropouts(model)
    assert new.get_layer("drop").rescale == (kind is DropPath)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 6)).astype("float16")
    np.testing.assert_allclose(array(model(x)), array(new(x)), rtol=0.01)


@tensorflow_only
def test_masks_end_where_they_ended():
    inputs = keras.Input((5,), dtype="int32")
    x = DropPath()(layers.Embedding(3, 6, mask_zero=True)(inputs))  # a product
    model = keras.Model(inputs, layers.LSTM(3)(layers.Dropout(0.1)(x)))
    new = swap_dropouts(model)
    x = np.array([[1, 2, 0, 0, 0], [0, 1, 1, 0, 1]])
    np.testing.assert_array_equal(array(model(x)), array(new(x)))


STAY = {
    "of another kind": layers.GaussianDropout(0.2),
    "AlphaDropout is noise": layers.AlphaDropout(0.2),
    r"noise_shape \(None, 4, 1, 6\) is neither": layers.Dropout(0.2, noise_shape=(None, 4, 1, 6)),
    "does not pass its input": DropPathOfSomething(),
    "DropPathDense does not pass": DropPathDense(),
    "no rate by a name that is known": DropPathNameless(),
    "is a subclass of Dropout": type("Mine", (layers.Dropout,), {})(0.2),
    "TimeDistributed drops inside": layers.TimeDistributed(layers.Dropout(0.2)),
    r"ConvLSTM1D drops inside, out of reach": layers.ConvLSTM1D(2, 1, dropout=0.2),
}


@tensorflow_only
@pytest.mark.parametrize("reason", STAY)
def test_what_stays(reason):
    layer = STAY[reason]
    inputs = keras.Input((4, 4, 6))
    with pytest.raises(ValueError, match=rf"no dropout in it to replace.*It has these: .*{reason}"):
        swap_dropouts(keras.Model(inputs, layer(inputs)))
    model = keras.Model(inputs, layer(layers.Dropout(0.1)(inputs)))
    with pytest.warns(UserWarning, match=f"These stay as they are: .*{reason}"):
        new = swap_dropouts(model)
    assert [type(x) for x in new.layers][2:] == [type(layer)]


@tensorflow_only
def test_refusals():
    x = keras.Input((6,))
    merged = keras.Model(x, StochasticDepthMerge()([x, layers.Dense(6)(x)]))
    recurrent = keras.Input((5, 6))
    inside = layers.Bidirectional(layers.LSTM(3, dropout=0.2))(recurrent)
    attention = layers.MultiHeadAttention(2, 2, dropout=0.1)(recurrent, recurrent)
    cases = [
        (TypeError, "must be a keras.Model", 3),
        (ValueError, "has a `call` of its own", Subclassed()),
        (ValueError, "no dropout in it to replace", behind(layers.Dense(2))),
        (ValueError, "no dropout in it to replace", behind(layers.Dropout(0.0))),
        (ValueError, "no dropout in it to replace", behind(ks.layers.Dropout(0.2))),
        (ValueError, "merges 2 tensors itself", merged),
        (ValueError, "Bidirectional drops inside", keras.Model(recurrent, inside)),
        (
            ValueError,
            r"MultiHeadAttention drops inside \(Dropout\)",
            keras.Model(recurrent, attention),
        ),
    ]
    for error, message, model in cases:
        with pytest.raises(error, match=message):
            swap_dropouts(model)


# Rates in place.


class Block(layers.Layer):
    def __init__(self, rate=0.2, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6)
        self.drop = layers.Dropout(rate, name="drop")
        self.depth = StochasticDepth(0.9, name="path")

    def call(self, x, training=False):
        return x + self.depth(self.drop(self.dense(x), training=training), training=training)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Block(name="first"), Block(0.3, name="second")

    def call(self, x, training=False):
        return self.second(self.first(x, training=training), training=training)


@tensorflow_only
def test_rates_in_a_call_of_ones_own():
    model = Subclassed()
    model(np.ones((2, 6)))
    was = set_rates(model, 0.4)
    assert sorted((layer.name, round(rate, 6)) for layer, rate in was) == [
        ("drop", 0.2),
        ("drop", 0.3),
        ("path", 0.1),
        ("path", 0.1),
    ]
    assert [model.first.drop.rate, model.second.drop.rate] == [0.4, 0.4]
    assert model.first.depth.survival_probability == 0.6
    for layer, rate in was:
        set_rates(layer, rate)
    assert [model.first.drop.rate, model.second.drop.rate] == [0.2, 0.3]
    assert model.first.depth.survival_probability == pytest.approx(0.9)


@tensorflow_only
def test_some_rates():
    model = keras.Sequential([layers.Dropout(0.5, name="a"), layers.Dropout(0.5, name="b")])
    set_rates(model, 0.1, "b")
    assert [x.rate for x in model.layers] == [0.5, 0.1]
    set_rates(model, 0.2, lambda layer: layer.rate > 0.3)
    assert [x.rate for x in model.layers] == [0.2, 0.1]


@tensorflow_only
def test_what_was_compiled_draws_at_the_new_rate():
    model = keras.Sequential([keras.Input((500,)), layers.Dropout(0.1), Mean()])
    model.compile("sgd", "mae")
    x, y = np.ones((4, 500), "float32"), np.zeros((4, 1), "float32")

    def dropped():
        model.fit(x, y, verbose=0)
        return model.layers[-1].dropped.numpy()

    assert 0.07 < dropped() < 0.13
    ((layer, _),) = set_rates(model, 0.8)
    assert 0.75 < dropped() < 0.85
    assert layer.rate == 0.8
    set_rates(model, 0.1)
    assert 0.07 < dropped() < 0.13


class Mean(layers.Layer):
    """Keeps the share of zeros of the last training batch."""

    def build(self, shape):
        self.dropped = self.add_weight((), trainable=False)
        self.scale = self.add_weight(())

    def call(self, x, training=False):
        if training:
            self.dropped.assign(ops.mean(ops.cast(ops.equal(x, 0), "float32")))
        return ops.mean(x, -1, keepdims=True) * self.scale


@tensorflow_only
def test_rates_refused():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dropout(0.5, name="a"),
            layers.Dropout(0.0, name="zero"),
            ks.layers.Dropout(0.1, name="ours"),
        ]
    )
    cases = [
        (TypeError, "`model` must be a keras.Model or", ("model", 0.2)),
        (ValueError, r"`rate` must be a number in \[0, 1\)", (model, -0.1)),
        (ValueError, r"`rate` must be a number in \[0, 1\)", (model, 1)),
        (TypeError, r"`rate` must be a number in \[0, 1\)", (model, "0.1")),
        (ValueError, "there is no dropout of a rate above 0", (behind(layers.Dense(2)), 0.2)),
        (ValueError, "'b' is none of the 1 dropouts", (model, 0.2, "b")),
        (
            ValueError,
            "'zero' is none of the dropouts: it was made with rate 0",
            (model, 0.2, "zero"),
        ),
        (ValueError, "'ours' is none of the dropouts: it is one of ours", (model, 0.2, "ours")),
    ]
    for error, message, arguments in cases:
        with pytest.raises(error, match=message):
            set_rates(*arguments)
    assert [x.rate for x in model.layers] == [0.5, 0.0, 0.1]
