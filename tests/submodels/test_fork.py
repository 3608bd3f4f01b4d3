"""A fork is the model on several views: its weights, its numbers, and what is shared runs once."""

import keras
import numpy as np
import pytest
from backends import reduced
from refusals import NO_FLAG, NO_INT, refuses
from scipy import stats
from sklearn.datasets import load_digits

import keras_swapout as ks
from keras_swapout.submodels.fork import stochastic_layers

#: A fixed seed draws once; a correct sampler fails one seed in 10,000.
P = 1e-4


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def arrays(outputs):
    return [array(output) for output in keras.tree.flatten(outputs)]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def dropout():
    return keras.layers.Dropout(0.5)


class Marked(keras.Layer):
    """Says that it is stochastic, and is the identity: a fork starts here and changes nothing."""

    stochastic = True

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, inputs):
        return inputs


class Counter(keras.Layer):
    """The identity; `rows` has the number of rows of each call with data."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.supports_masking = [], True

    def call(self, inputs):
        if isinstance(inputs.shape[0], int):  # not while Keras asks for the shape of the output
            self.rows.append(inputs.shape[0])
        return inputs


def rows_seen(model, x, counters):
    """The rows that each counter sees in a training call; Keras asks for shapes before it."""
    for counter in counters:
        counter.rows.clear()
    model(x, training=True)
    return [counter.rows for counter in counters]


class Subclassed(keras.Model):
    def __init__(self, drop):
        super().__init__()
        self.first, self.drop, self.last = keras.layers.Dense(4), drop(), keras.layers.Dense(2)

    def call(self, inputs, training=None):
        x = self.first(inputs)
        if training:
            x = self.drop(x)
        return self.last(x)


class WithoutTraining(Subclassed):
    def call(self, inputs):
        return self.last(self.drop(self.first(inputs)))


class Block(keras.Layer):
    def __init__(self, drop):
        super().__init__()
        self.inside = keras.Sequential([keras.layers.Dense(4), drop()])

    def call(self, inputs):
        return inputs + self.inside(inputs)


# Networks, each from a function that makes its stochastic layers, and their inputs

Dense, Input = keras.layers.Dense, keras.Input
VECTOR, SECOND, SEQUENCE = normal(3, 4), normal(3, 4, seed=1), normal(3, 5, 4)
TOKENS = np.array([[3, 1, 0, 0, 0], [2, 4, 1, 5, 0], [5, 5, 2, 1, 3]], "int32")


def functional(drop):
    inputs = Input((4,))
    return keras.Model(inputs, Dense(2)(drop()(Dense(4)(inputs)))), VECTOR


def at_the_input(drop):
    inputs = Input((4,))
    return keras.Model(inputs, Dense(2)(drop()(inputs))), VECTOR


def sequential(drop):
    return keras.Sequential([Input((4,)), Dense(4), drop(), Dense(2)]), VECTOR


def sequential_without_input(drop):
    return keras.Sequential([Dense(4), drop(), Dense(2)]), VECTOR


def nested_functional(drop):
    inner, inputs = Input((4,)), Input((4,))
    inner = keras.Model(inner, Dense(3)(drop()(Dense(4)(inner))), name="inner")
    return keras.Model(inputs, Dense(2)(inner(Dense(4)(inputs)))), VECTOR


def nested_sequential(drop):
    inner = keras.Sequential([Input((4,)), keras.Sequential([Input((4,)), Dense(4), drop()])])
    return keras.Sequential([Input((4,)), Dense(4), inner, Dense(2)]), VECTOR


def nested_in_inference_mode(drop):
    inner, inputs = Input((4,)), Input((4,))
    inner = keras.Model(inner, drop()(Dense(4)(inner)))
    return keras.Model(inputs, drop()(inner(inputs, training=False))), VECTOR


def subclassed(drop):
    return Subclassed(drop), VECTOR


def subclassed_without_training(drop):
    return WithoutTraining(drop), VECTOR


def subclassed_inside(drop):
    inputs = Input((4,))
    return keras.Model(inputs, Dense(2)(Block(drop)(Dense(4)(inputs)))), VECTOR


def list_of_inputs(drop):
    a, b = Input((4,)), Input((4,))
    return keras.Model([a, b], keras.layers.Concatenate()([drop()(Dense(4)(a)), b])), [
        VECTOR,
        SECOND,
    ]


def dict_of_inputs(drop):
    inputs = {"b": Input((4,), name="b"), "a": Input((4,), name="a")}
    x = keras.layers.Subtract()([drop()(inputs["b"]), Dense(4)(inputs["a"])])
    return keras.Model(inputs, x), {"b": VECTOR, "a": SECOND}


def list_of_outputs(drop):
    inputs = Input((4,))
    early = Dense(4)(inputs)
    return keras.Model(inputs, [early, Dense(2)(drop()(early)), inputs]), VECTOR


def dict_of_outputs(drop):
    inputs = Input((4,))
    early = Dense(4)(inputs)
    late = drop()(early)
    return keras.Model(inputs, {"z": late, "early": early, "a": Dense(2)(late)}), VECTOR


def shared_layer(drop):
    inputs, dense = Input((4,)), Dense(4)
    return keras.Model(inputs, dense(drop()(dense(inputs)))), VECTOR


def shared_model(drop):
    inner, a, b = Input((4,)), Input((4,)), Input((4,))
    inner = keras.Model(inner, Dense(4)(drop()(Dense(4)(inner))), name="inner")
    return keras.Model([a, b], inner(inner(a)) + inner(b)), [VECTOR, SECOND]


def shared_model_before_and_behind(drop):
    inner, inputs = Input((4,)), Input((4,))
    inner = keras.Model(inner, Dense(4)(drop()(Dense(4)(inner))), name="inner")
    outer = Input((4,))
    outer = keras.Model(outer, inner(inner(outer) * 2.0) + outer, name="outer")
    return keras.Model(inputs, outer(inputs) + inner(inputs)), VECTOR


def nested_with_several_ends(drop):
    a, b = Input((4,), name="a"), Input((4,), name="b")
    inner = keras.Model({"a": a, "b": b}, {"late": drop()(a), "early": b + 1.0}, name="inner")
    p, q = Input((4,)), Input((4,))
    ends = inner({"a": Dense(4)(p), "b": q})
    return keras.Model([p, q], [ends["late"] * ends["early"], ends["early"]]), [VECTOR, SECOND]


def operations(drop):
    inputs = Input((4,))
    x = keras.ops.reshape(keras.ops.tanh(inputs * 2.0), (-1, 2, 2))
    x = keras.ops.concatenate([x, drop()(x)], axis=1)
    return keras.Model(inputs, keras.ops.einsum("bij,bik->bjk", x, x + 1.0)), VECTOR


def keyword_tensors(drop):
    inputs, mask = Input((5, 4)), Input((5, 5), dtype="bool")
    attention = keras.layers.MultiHeadAttention(2, 3)
    x = attention(drop()(inputs), value=inputs, key=inputs * 2.0, attention_mask=mask)
    return keras.Model([inputs, mask], x), [SEQUENCE, normal(3, 5, 5) > -0.5]


def masked_lstm(drop):
    inputs = Input((5,), dtype="int32")
    x = drop()(keras.layers.Embedding(6, 4, mask_zero=True)(inputs))
    return keras.Model(inputs, keras.layers.LSTM(3)(x)), TOKENS


def masked_pooling(drop):
    inputs = Input((5,), dtype="int32")
    x = drop()(keras.layers.Embedding(6, 4, mask_zero=True)(inputs))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x)), TOKENS


def table_of_positions(drop):
    inputs = Input((5,), dtype="int32")
    constant = keras.layers.Embedding(5, 4)(keras.ops.arange(5))
    symbolic = keras.layers.Embedding(6, 4)(keras.ops.cumsum(keras.ops.ones_like(inputs[0])))
    x = drop()(keras.layers.Embedding(6, 4)(inputs)) + constant
    return keras.Model(inputs, drop()(x + symbolic)), TOKENS


def table_as_long_as_the_batch(drop):
    inputs = Input(batch_shape=(3, 3), dtype="int32")
    positions = keras.layers.Embedding(6, 4)(keras.ops.cumsum(keras.ops.ones_like(inputs[0])))
    x = drop()(keras.layers.Embedding(6, 4)(inputs)) + positions
    return keras.Model(inputs, x), TOKENS[:, :3]


def fixed_batch(drop):
    inputs = Input(batch_shape=(3, 4))
    return keras.Model(inputs, Dense(2)(drop()(Dense(4)(inputs)))), VECTOR


def batch_not_in_front(drop):
    inputs = Input((5, 4))
    x = drop()(keras.ops.transpose(inputs, (1, 0, 2)))
    return keras.Model(inputs, keras.ops.transpose(x, (1, 0, 2))), SEQUENCE


def optional_input(drop):
    a, b = Input((4,), optional=True, name="a"), Input((4,), name="b")

    class FirstGiven(keras.Layer):
        def call(self, a, b):
            return b if a is None else a

        def compute_output_shape(self, a_shape, b_shape):
            return b_shape

    return keras.Model([a, b], drop()(FirstGiven()(a, b))), [None, VECTOR]


def optional_input_of_a_subclassed_model(drop):
    class FirstGiven(keras.Model):
        def __init__(self):
            super().__init__()
            self.drop = drop()

        def call(self, inputs):
            return self.drop(inputs["b"] if inputs["a"] is None else inputs["a"])

    return FirstGiven(), {"a": None, "b": VECTOR}


def compiled(drop):
    model, x = functional(drop)
    model.compile("sgd", "mse")
    model.train_on_batch(x, np.ones((3, 2)))
    return model, x


def convolutions(drop):
    layers = [
        keras.layers.Conv2D(3, 3, padding="same"),
        keras.layers.MaxPooling2D(),
        drop(),
        keras.layers.Conv2D(2, 2),
        keras.layers.Flatten(),
        Dense(2),
    ]
    return keras.Sequential([Input((6, 6, 1)), *layers]), normal(3, 6, 6, 1)


NETWORKS = [
    functional,
    at_the_input,
    sequential,
    sequential_without_input,
    nested_functional,
    nested_sequential,
    nested_in_inference_mode,
    subclassed,
    subclassed_without_training,
    subclassed_inside,
    list_of_inputs,
    dict_of_inputs,
    list_of_outputs,
    dict_of_outputs,
    shared_layer,
    shared_model,
    shared_model_before_and_behind,
    nested_with_several_ends,
    operations,
    keyword_tensors,
    masked_lstm,
    masked_pooling,
    table_of_positions,
    fixed_batch,
    compiled,
    convolutions,
    table_as_long_as_the_batch,
    batch_not_in_front,
    optional_input,
    optional_input_of_a_subclassed_model,
]
#: One of each kind of graph; how the others are wired no backend changes.
KEPT = [
    functional,
    nested_functional,
    subclassed,
    dict_of_inputs,
    dict_of_outputs,
    shared_model_before_and_behind,
    masked_lstm,
    table_of_positions,
    compiled,
]
ELEMENTWISE = {masked_pooling, table_of_positions, optional_input}


@pytest.mark.parametrize("network", reduced(NETWORKS, *KEPT))
def test_without_randomness_a_fork_is_the_repeated_model(network):
    """In inference mode, and in training with layers that only say that they are stochastic."""
    for drop, training, views in [(dropout, False, 3), (Marked, True, 2)]:
        model, x = network(drop)
        plain = model(x, training=training)
        views_of = ks.fork(model, views)(x, training=training)
        assert type(views_of) is type(plain)
        if isinstance(plain, dict):
            assert list(views_of) == list(plain)
        for expected, got in zip(arrays(plain), arrays(views_of), strict=True):
            repeated = np.concatenate([expected] * views)
            assert got.shape == repeated.shape
            if network in ELEMENTWISE:
                np.testing.assert_array_equal(got, repeated)
            else:  # a product of matrices may round by the number of its rows
                np.testing.assert_allclose(got, repeated, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", reduced(NETWORKS[:-5], *KEPT))
def test_views_are_in_order_and_differ(network):
    """With layers of ours view 0 is, from one place in the sequence, what the model draws alone."""
    for layer in (dropout, lambda: ks.layers.BDropDML(0.5, seed=4)):
        model, x = network(layer)
        states = [found.seed_generator.state for found in stochastic_layers(model)]
        before = [array(state) for state in states]
        plain = arrays(model(x, training=True))
        for state, value in zip(states, before, strict=True):
            state.assign(value)
        forked = arrays(ks.fork(model)(x, training=True))
        assert any(not np.array_equal(*np.split(views, 2)) for views in forked)
        for alone, views in zip(plain, forked, strict=True):
            assert views.shape == (2 * len(alone), *alone.shape[1:])
            if layer is not dropout:
                np.testing.assert_allclose(views[: len(alone)], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.tensorflow
def test_branches_that_are_dropped_by_the_sample():
    """As those of EfficientNet."""
    x = inputs = Input((8, 8, 4))
    for _ in range(2):
        y = keras.layers.BatchNormalization()(keras.layers.DepthwiseConv2D(3, padding="same")(x))
        x = keras.layers.Add()([keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))(y), x])
    model = keras.Model(inputs, Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    assert len(stochastic_layers(model)) == 2
    fork, x = ks.fork(model), normal(6, 8, 8, 4)
    plain = array(model(x))
    np.testing.assert_allclose(array(fork(x)), np.concatenate([plain] * 2), rtol=1e-5, atol=1e-6)
    views = array(fork(x, training=True))
    assert views.shape == (12, 3)
    assert not np.allclose(views[:6], views[6:], rtol=1e-4)


# Training


def classifier(drop):
    """Batch normalisation in front of the frontier and behind it."""
    layers = [
        Dense(12),
        keras.layers.BatchNormalization(momentum=0.5),
        keras.layers.Activation("relu"),
        drop(),
        Dense(8),
        keras.layers.BatchNormalization(momentum=0.5),
        Dense(10, activation="softmax"),
    ]
    return keras.Sequential([Input((64,)), *layers])


def digits(count):
    images, labels = load_digits(return_X_y=True)
    return (images[:count] / 16).astype("float32"), labels[:count]


@pytest.mark.parametrize("views", reduced([2, 3], 2))
def test_with_no_randomness_a_training_step_is_that_of_the_model(views):
    x, labels = digits(32)
    model = classifier(Marked)
    plain = classifier(Marked)
    plain.set_weights(model.get_weights())
    before = model.get_weights()
    fork = ks.fork(model, views)
    for trained in (plain, fork):
        trained.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    losses = [
        float(plain.train_on_batch(x, labels)),
        float(fork.train_on_batch(x, np.concatenate([labels] * views))),
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for old, expected, new in zip(before, plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(new, expected, rtol=1e-4, atol=2e-6)
        if not np.allclose(expected, old, atol=1e-4):
            np.testing.assert_allclose(new - old, expected - old, rtol=1e-3, atol=2e-6)
    moved = [
        not np.allclose(old, new) for old, new in zip(before, model.get_weights(), strict=True)
    ]
    assert sum(moved) >= 10  # all but two biases in front of a batch normalisation


def test_training_the_fork_trains_the_model():
    x, labels = digits(128)
    model = classifier(lambda: ks.layers.BDropDML(0.2, seed=1))
    fork = ks.fork(model)
    fork.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    for _ in range(25):
        fork.train_on_batch(x, np.concatenate([labels] * 2))
    accuracy = (array(model(x)).argmax(1) == labels).mean()
    assert accuracy > 0.9


def test_weights_are_the_same_objects():
    for network in (functional, nested_functional, shared_model, subclassed, sequential):
        model, x = network(dropout)
        model(x)
        fork = ks.fork(model)
        fork(x)
        for kind in ("weights", "trainable_weights", "non_trainable_weights"):
            ours, theirs = getattr(fork, kind), getattr(model, kind)
            assert [id(weight) for weight in ours] == [id(weight) for weight in theirs]


@pytest.mark.tensorflow
@pytest.mark.parametrize("network", [functional, nested_functional, shared_model, sequential])
def test_forking_leaves_the_model_as_it_is(network, tmp_path):
    model, x = network(dropout)
    before = (model.to_json(), model.get_config(), [id(layer) for layer in model.layers])
    paths = [weight.path for weight in model.weights]
    expected = array(model(x))
    fork = ks.fork(model)
    fork(x, training=True)
    assert before == (model.to_json(), model.get_config(), [id(layer) for layer in model.layers])
    assert [weight.path for weight in model.weights] == paths
    np.testing.assert_array_equal(array(model(x)), expected)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(x)), expected)
    again = keras.models.model_from_json(model.to_json())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(array(again(x)), expected)


def test_features_can_still_be_read_off_a_forked_model():
    model, x = functional(dropout)
    features = array(keras.Model(model.input, model.layers[2].output)(x))
    ks.fork(model)
    again = keras.Model(model.input, model.layers[2].output)
    np.testing.assert_array_equal(array(again(x)), features)


# What runs once


@pytest.mark.parametrize("views", [1, 2, 4])
def test_what_is_shared_runs_once(views):
    before, beside, after, behind = (Counter() for _ in range(4))
    inputs = Input((4,))
    x = Dense(4)(before(inputs))
    side = beside(Dense(4)(x))
    x = after(dropout()(x))
    model = keras.Model(inputs, behind(keras.layers.Concatenate()([x, side])))
    counted = rows_seen(ks.fork(model, views), VECTOR, (before, beside, after, behind))
    assert counted == [[3], [3], [3 * views], [3 * views]]


@pytest.mark.parametrize("drawn_before", [False, True])
def test_a_nested_model_is_forked_inside(drawn_before):
    before, after = Counter(), Counter()
    inner = keras.Sequential([Input((4,)), before, dropout(), after])
    middle = keras.Sequential([Input((4,)), Dense(4), inner])
    inputs = Input((4,))
    beside = dropout()(inputs) if drawn_before else inputs
    model = keras.Model(inputs, middle(inputs) + beside)
    assert rows_seen(ks.fork(model), VECTOR, (before, after)) == [[3], [6]]


def test_a_nested_model_gets_the_views_that_it_is_given():
    before, after = Counter(), Counter()
    inner = keras.Sequential([Input((4,)), before, dropout(), after])
    model = keras.Sequential([Input((4,)), dropout(), inner])
    assert rows_seen(ks.fork(model), VECTOR, (before, after)) == [[6], [6]]


def test_a_subclassed_model_is_forked_at_its_input():
    class Counting(Subclassed):
        def __init__(self):
            super().__init__(dropout)
            self.first = Counter()

        def build(self, input_shape):
            self.built = True

    model = Counting()
    model(VECTOR)
    assert rows_seen(ks.fork(model), VECTOR, [model.first]) == [[6]]


def test_layers_that_do_not_draw_are_shared():
    counter = Counter()
    layers = [
        ks.layers.SDropDML(0.0),
        keras.layers.Dropout(0.0),
        keras.layers.LSTM(3, return_sequences=True),
        counter,
        ks.layers.SDropDML(0.5, 2),
    ]
    model = keras.Sequential([Input((5, 4)), *layers])
    assert rows_seen(ks.fork(model), SEQUENCE, [counter]) == [[3]]


# Masks of the views


def test_our_layers_pair_views_and_keras_layers_do_not():
    rows, x = 4000, np.ones((4000, 5), "float32")
    for layer, complementary, both in [
        (ks.layers.BDropDML(0.5, seed=1), True, 0.0),
        (ks.layers.BDropDML(0.5, seed=1), False, 0.25),
        (keras.layers.Dropout(0.5, seed=1), True, 0.25),
    ]:
        model = keras.Sequential([Input((5,)), layer])
        views = array(ks.fork(model, 2, complementary)(x, training=True)) == 0
        assert views.shape == (2 * rows, 5)
        together = (views[:rows] & views[rows:]).sum(0)
        for count in together:
            assert stats.binomtest(int(count), rows, both).pvalue > P / 5


def test_views_are_forgotten_after_the_fork():
    layer = ks.layers.BDropDML(0.5, seed=1)
    model = keras.Sequential([Input((5,)), layer])
    ks.fork(model)(np.ones((4, 5), "float32"), training=True)
    layer.seed_generator.state.assign([1, 0])
    after = array(layer(np.ones((8, 5), "float32"), training=True))
    alone = ks.layers.BDropDML(0.5, seed=1)(np.ones((8, 5), "float32"), training=True)
    np.testing.assert_array_equal(after, array(alone))


def test_axes_merged_into_the_batch_keep_their_pairs():
    inputs = Input((5, 4))
    x = keras.ops.reshape(inputs, (-1, 4))
    x = keras.ops.reshape(ks.layers.BDropDML(0.5, seed=1)(x), (-1, 5, 4))
    views = array(ks.fork(keras.Model(inputs, x))(np.ones((3, 5, 4), "float32"), training=True))
    assert views.shape == (6, 5, 4)
    assert ((views[:3] == 0) ^ (views[3:] == 0)).all()


# Which layers are stochastic: their attributes say it, whatever the backend is


class Declared(keras.Layer):
    def __init__(self, stochastic, draws):
        super().__init__()
        self.stochastic = stochastic
        if draws:
            self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        return inputs


class Drawing(keras.Layer):
    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        return inputs + keras.random.normal((4,), seed=self.seed_generator)


def built(layer, *inputs):
    layer(*inputs)
    return layer


L = keras.layers
RANDOM = {
    "dropout": lambda: L.Dropout(0.1),
    "spatial 1d": lambda: L.SpatialDropout1D(0.1),
    "spatial 2d": lambda: L.SpatialDropout2D(0.1),
    "spatial 3d": lambda: L.SpatialDropout3D(0.1),
    "gaussian noise": lambda: L.GaussianNoise(0.1),
    "gaussian dropout": lambda: L.GaussianDropout(0.1),
    "alpha dropout": lambda: L.AlphaDropout(0.1),
    "flip": lambda: L.RandomFlip(),
    "crop": lambda: L.RandomCrop(4, 4),
    "rotation": lambda: L.RandomRotation(0.1),
    "zoom": lambda: L.RandomZoom(0.1),
    "translation": lambda: L.RandomTranslation(0.1, 0.1),
    "contrast": lambda: L.RandomContrast(0.1),
    "brightness": lambda: L.RandomBrightness(0.1),
    "lstm": lambda: L.LSTM(2, dropout=0.1),
    "recurrent": lambda: L.GRU(2, recurrent_dropout=0.1),
    "simple rnn": lambda: L.SimpleRNN(2, dropout=0.1),
    "cells": lambda: L.RNN([L.GRUCell(2), L.LSTMCell(2, dropout=0.1)]),
    "bidirectional": lambda: L.Bidirectional(L.LSTM(2, dropout=0.1)),
    "conv lstm": lambda: L.ConvLSTM2D(2, 2, recurrent_dropout=0.1),
    "attention": lambda: L.Attention(dropout=0.1),
    "multi-head": lambda: built(L.MultiHeadAttention(2, 2, dropout=0.1), SEQUENCE, SEQUENCE),
    "grouped": lambda: built(L.GroupQueryAttention(2, 2, 1, dropout=0.1), SEQUENCE, SEQUENCE),
    "time": lambda: L.TimeDistributed(L.Dropout(0.1)),
    "inside": lambda: Block(lambda: Block(dropout)),
    "declared": lambda: Declared(True, draws=False),
    "drawing": Drawing,
    "swapout": lambda: ks.layers.Swapout(0.5, 1),
    "depth": lambda: ks.layers.StochasticDepth(0.9),
    "region": lambda: ks.layers.SDropDML(0.1),
    "channel": lambda: ks.layers.BDropDML(0.1),
    "dropblock": lambda: ks.layers.DropBlock2D(0.1),
}
STEADY = {
    "dropout": lambda: L.Dropout(0),
    "spatial": lambda: L.SpatialDropout2D(0.0),
    "gaussian noise": lambda: L.GaussianNoise(0),
    "gaussian dropout": lambda: L.GaussianDropout(0),
    "alpha dropout": lambda: L.AlphaDropout(0.0),
    "activity": lambda: L.ActivityRegularization(0.1),
    "dense": lambda: L.Dense(2),
    "normalization": lambda: L.BatchNormalization(),
    "lstm": lambda: L.LSTM(2),
    "cells": lambda: L.RNN([L.GRUCell(2), L.LSTMCell(2)]),
    "bidirectional": lambda: L.Bidirectional(L.GRU(2)),
    "conv lstm": lambda: L.ConvLSTM2D(2, 2),
    "attention": lambda: L.Attention(),
    "multi-head": lambda: built(L.MultiHeadAttention(2, 2, dropout=0), SEQUENCE, SEQUENCE),
    "inside": lambda: Block(lambda: Block(lambda: L.Dropout(0))),
    "declared": lambda: Declared(False, draws=True),
    "swapout": lambda: ks.layers.Swapout(1, 1),
    "swapout ends": lambda: ks.layers.Swapout(0, 1),
    "skip forward": lambda: ks.layers.SkipForward(1),
    "depth": lambda: ks.layers.StochasticDepth(1.0),
    "region": lambda: ks.layers.SDropDML(0),
    "channel": lambda: ks.layers.BDropDML(0.0),
    "dropblock": lambda: ks.layers.DropBlock2D(0),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", RANDOM.values(), ids=RANDOM)
def test_layers_that_draw_are_found(layer):
    layer = layer()
    found = {id(each) for each in stochastic_layers(layer)}
    outer = keras.Sequential([L.Dense(2), layer])
    assert found and {id(each) for each in stochastic_layers(outer)} == found


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", STEADY.values(), ids=STEADY)
def test_layers_that_do_not_draw_are_not_found(layer):
    assert stochastic_layers(layer()) == []


@pytest.mark.tensorflow
def test_the_layers_found_are_those_inside():
    block = Block(lambda: Block(dropout))
    (found,) = stochastic_layers(block)
    assert found is block.inside.layers[-1].inside.layers[-1]


def test_private_parts_of_keras_are_as_the_fork_needs_them():
    """submodels/inside.py uses names that Keras does not promise."""
    message = f"keras_swapout.fork needs private parts of Keras that {keras.__version__} changed"
    inside, generator = keras.layers.Dropout(0.5), keras.random.SeedGenerator(1)
    layer = Block(lambda: inside)
    layer.anything = generator
    flat = list(layer._flatten_layers()) if hasattr(layer, "_flatten_layers") else []
    assert layer in flat and layer.inside in flat and inside in flat, message
    assert [id(g) for g in getattr(layer, "_seed_generators", [])] == [id(generator)], message
    assert len(getattr(inside, "_seed_generators", [])) == 1, message
    inputs = Input((4,))
    layer(inputs)
    (node,) = getattr(layer, "_inbound_nodes", [None])
    assert node.arguments.args == (inputs,) and "training" not in node.arguments.kwargs, message
    scope = keras.StatelessScope()
    with scope:
        generator.next()
    assert list(getattr(scope, "state_mapping", [])) == [id(generator.state)], message


@pytest.mark.tensorflow
def test_what_is_exported_is_the_model(tmp_path):
    model, x = functional(dropout)
    fork = ks.fork(model)
    fork.compile("sgd", "mse")
    fork.train_on_batch(x, np.ones((6, 2)))
    with pytest.raises(ValueError, match=r"Export that model, .*: model\.export"):
        fork.export(tmp_path / "fork")


# Bad input; which backend it is makes no difference


@pytest.mark.tensorflow
def test_bad_arguments_are_named():
    model, _ = functional(dropout)
    refuses(ks.fork, "model", (keras.layers.Dropout(0.5), None, "model", keras.Model), TypeError)
    refuses(lambda views: ks.fork(model, views), "views", NO_INT, TypeError)
    refuses(lambda views: ks.fork(model, views), "views", (0, -1, 10**6, 10**30), ValueError)
    refuses(lambda flag: ks.fork(model, 2, flag), "complementary", NO_FLAG, TypeError)
    refuses(ks.views.Views, "count", NO_INT, TypeError)
    refuses(ks.views.Views, "count", (0, -1), ValueError)
    refuses(lambda flag: ks.views.Views(2, flag), "complementary", NO_FLAG, TypeError)
    refuses(lambda pair: ks.views.Views(2, True, pair), "forked", (1, "12", [1, 2]), TypeError)
    refuses(lambda pair: ks.views.Views(2, True, pair), "forked", ((1,), (1, 2, 3)), ValueError)
    refuses(lambda pair: ks.views.Views(3, True, pair), "forked", ((1, 2),), ValueError)
    for views in (None, 2, (2, True, None), ks.views.Views):
        with (
            pytest.raises(TypeError, match=r"`views` must be a keras_swapout\.views\.Views"),
            ks.views.laid_out(views),
        ):
            pass
    assert ks.fork(model, np.int64(3), np.False_).views == 3
