"""Predictions against closed forms: all masks of a small network can be written down."""

import gc
import itertools
import threading
import weakref

import keras
import numpy as np
import pytest
from backends import marked, reduced
from refusals import (
    INF,
    NAN,
    NO_FLAG,
    NO_INT,
    NO_NUMBER,
    NO_TEXT,
    NO_VERBOSE,
    TENSOR,
    refuses,
)
from scipy import stats
from scipy.special import expit, softmax, xlogy

import keras_swapout as ks
from keras_swapout.consistency.divergence import Head
from keras_swapout.inference import Predictor

L, Input = keras.layers, keras.Input
BINARY = Head("sigmoid", from_logits=True)
#: A fixed seed draws once; in a test of a mean over many independent rows a correct sampler is
#: further off than this many standard errors for one seed in 100,000.
FAR = 4.5


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def predict(model, x, *arguments, **keywords):
    return ks.inference.predict(model, x, *arguments, **{"verbose": False, **keywords})


def drop(rate=0.5):
    return ks.layers.BDropDML(rate, seed=1)


def network(*layers, units=3, last=None, shape=(4,)):
    return keras.Sequential([Input(shape), *layers, L.Dense(units, activation=last)])


def softmax_entropy(p, axis=-1):
    return -xlogy(p, p).sum(axis)


def binary_entropy(p):
    return -xlogy(p, p) - xlogy(1 - p, 1 - p)


def close(got, expected, rtol=1e-4, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


def equal(a, b):
    """Two predictions agree in every number."""
    for first, second in zip(vars(a).values(), vars(b).values(), strict=True):
        np.testing.assert_array_equal(first, second)


X = normal(5, 4)


class Inside(L.Layer):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def call(self, x, training=None):
        for part in self.parts:
            x = part(x, training=training)
        return x


class Subclassed(keras.Model):
    def __init__(self, *layers):
        super().__init__()
        self.parts = layers

    def call(self, x, training=None):
        for part in self.parts:
            x = part(x, training=training) if isinstance(part, L.Dropout) else part(x)
        return x


# Deterministic


def test_probabilities_come_from_logits_or_as_they_are():
    for head, last, expected in [
        (None, None, lambda y: softmax(y, axis=-1)),
        (None, "softmax", lambda y: y),
        (None, "sigmoid", lambda y: y),
        (BINARY, None, expit),
        (Head(None), None, lambda y: y),
    ]:
        model = network(drop(), last=last)
        found = predict(model, X, head=head)
        close(found.mean, expected(array(model(X))))
        assert found.mean.dtype == "float32"
        assert found.count.tolist() == [0] * 5
        binary = head == BINARY or last == "sigmoid"
        if head == Head(None):
            assert found.entropy is None
        else:
            close(found.entropy, (binary_entropy if binary else softmax_entropy)(found.mean))
        for name in ("samples", "variance", "standard_error"):
            assert getattr(found, name) is None
        assert found.mutual_information is found.expected_entropy is None


@pytest.mark.tensorflow
def test_the_loss_says_what_the_outputs_are():
    model = network(drop(), units=1)
    with pytest.raises(ValueError, match="`head` must say what the outputs are"):
        predict(model, X)
    model.compile("sgd", "mse")
    close(predict(model, X).mean, array(model(X)))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    close(predict(model, X).mean, expit(array(model(X))))
    model = Subclassed(L.Dense(3), L.Dropout(0.5))
    model(X)
    with pytest.raises(ValueError, match="`head` must say what the outputs are"):
        predict(model, X)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    close(predict(model, X).mean, softmax(array(model(X)), axis=-1))


def test_an_input_of_one_sample():
    model = network(drop())
    found = predict(model, X[:1])
    close(found.mean, softmax(array(model(X[:1])), axis=-1))
    found = predict(model, X[:1], 4, seed=0)
    assert found.mean.shape == (1, 3) and found.entropy.shape == (1,)


# What the samples are summed up to, against NumPy on the samples themselves


def three_heads():
    """Outputs of each kind, in an order that is not that of their names."""
    inputs = Input((4,))
    x = drop()(L.Dense(6)(inputs))
    outputs = {
        "z": L.Dense(3, name="z")(x),
        "number": L.Dense(2, name="number")(x),
        "label": L.Dense(2, activation="sigmoid", name="label")(x),
    }
    model = keras.Model(inputs, outputs)
    losses = {
        "label": "binary_crossentropy",
        "number": "mse",
        "z": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }
    model.compile("sgd", losses)
    return model


# All samples of 10 inputs at once; 4 of one input.
@pytest.mark.parametrize("antithetic, batch_size", [(True, 4), *marked((False, 64), (False, 4))])
def test_statistics_are_those_of_the_samples(antithetic, batch_size):
    model, count = three_heads(), 6
    arguments = {"batch_size": batch_size, "antithetic": antithetic, "seed": 3}
    kept = predict(model, X, count, return_samples=True, **arguments)
    streamed = predict(model, X, count, **arguments)
    assert list(streamed) == list(kept) == list(model(X))
    for name, entropy in [("z", softmax_entropy), ("label", binary_entropy), ("number", None)]:
        q = kept[name].samples.astype("float64")
        assert q.shape == (count, *model(X)[name].shape)
        assert streamed[name].samples is None
        for found in (kept[name], streamed[name]):
            mean = q.mean(0)
            close(found.mean, mean)
            assert found.count.tolist() == [count] * 5
            groups = q.reshape(3, 2, *mean.shape).mean(1) if antithetic else q
            close(found.standard_error, groups.std(0, ddof=1) / np.sqrt(len(groups)))
            if not antithetic:
                close(found.variance, q.var(0, ddof=1))
            if entropy is None:
                assert found.entropy is found.expected_entropy is None
                assert found.mutual_information is None
            else:
                close(found.entropy, entropy(mean))
                close(found.expected_entropy, entropy(q).mean(0))
                close(found.mutual_information, entropy(mean) - entropy(q).mean(0), atol=1e-5)
    probabilities = kept["z"].samples
    close(probabilities.sum(-1), 1)
    assert kept["z"].mutual_information.min() >= 0 and kept["z"].variance.min() > 0


@pytest.mark.tensorflow
def test_classes_on_any_axis():
    images, rows = Input((4, 5, 2)), Input((3, 4))
    segmentation = keras.Model(images, L.Conv2D(3, 1)(L.SpatialDropout2D(0.5)(images)))
    in_front = keras.Model(rows, L.Dropout(0.5)(rows))
    for model, x, head, axis in [
        (segmentation, normal(6, 4, 5, 2), None, -1),
        (in_front, normal(6, 3, 4), Head("softmax", from_logits=True, axis=1), 1),
    ]:
        plain = predict(model, x, head=head)
        close(plain.mean, softmax(array(model(x)), axis=axis))
        close(plain.entropy, softmax_entropy(plain.mean, axis))
        found = predict(model, x, 5, head=head, return_samples=True, antithetic=False, seed=0)
        assert found.mean.shape == plain.mean.shape
        close(found.samples.sum(axis % 3 + 1 if axis > 0 else -1), 1)
        close(found.entropy, softmax_entropy(found.mean, axis))
        expected = softmax_entropy(found.samples, axis + 1 if axis > 0 else -1).mean(0)
        close(found.expected_entropy, expected)
        close(found.mutual_information, found.entropy - expected, atol=1e-5)


@pytest.mark.tensorflow
def test_few_samples_say_nothing_of_their_spread():
    model = network(drop())
    one = predict(model, X, 1, seed=0)
    assert one.variance is one.standard_error is None
    close(one.mutual_information, 0)
    pair = predict(model, X, 2, seed=0)
    assert pair.variance is pair.standard_error is None
    independent = predict(model, X, 2, seed=0, antithetic=False, return_samples=True)
    close(independent.standard_error, np.abs(np.diff(independent.samples, axis=0)[0]) / 2)


# Against the exact expectation. Rows are independent repeats of one input.

ROWS = 4000
INPUT = np.array([1.0, -2.0, 0.5, 1.5])
KERNEL = np.array([[0.5, -0.3, 0.1], [0.2, 0.4, -0.2], [-0.6, 0.3, 0.5], [0.1, -0.4, 0.6]])


def enumerable(layer):
    model = network(layer)
    model.layers[-1].kernel.assign(KERNEL)  # not one that the backend draws
    return model


def repeats(count):
    return np.tile(INPUT, (count, 1))


def enumerated(rate, antithetic, ours=True):
    """Exact mean, variance of a sample and variance of a pair's mean, over all masks.

    A unit of an antithetic pair is dropped in the first sample, in the second, or, with what is
    left of the probability, in neither (the rate is at most a half).
    """

    def probabilities(keep):
        return softmax(np.asarray(keep) * INPUT / (1 - rate) @ KERNEL)

    kinds = {(1, 0): rate, (0, 1): rate, (1, 1): 1 - 2 * rate}
    if not (antithetic and ours):
        kinds = {
            (a, b): (1 - rate if a else rate) * (1 - rate if b else rate)
            for a in (0, 1)
            for b in (0, 1)
        }
    chances, firsts, seconds = [], [], []
    for units in itertools.product(kinds, repeat=len(INPUT)):
        chances.append(np.prod([kinds[unit] for unit in units]))
        first, second = zip(*units, strict=True)
        firsts.append(probabilities(first))
        seconds.append(probabilities(second))
    chances, firsts, pairs = np.array(chances), np.array(firsts), np.add(firsts, seconds) / 2
    mean = chances @ firsts
    return mean, chances @ (firsts - mean) ** 2, chances @ (pairs - mean) ** 2


def agrees(rows, expected):
    """The mean of independent rows is the expected value, within their standard error."""
    error = rows.std(0, ddof=1) / np.sqrt(len(rows))
    assert (np.abs(rows.mean(0) - expected) < FAR * error + 1e-6).all()


@pytest.mark.parametrize(
    "layer, antithetic, rate",
    [
        (ks.layers.BDropDML, True, 0.25),
        *marked(
            (ks.layers.BDropDML, True, 0.5),
            (ks.layers.BDropDML, False, 0.25),
            (L.Dropout, True, 0.25),
        ),
    ],
)
def test_unbiased_estimates(layer, antithetic, rate):
    """Of the mean, the variance of a sample and that of the mean; five samples: two pairs and one.

    The last two would be wrong for antithetic samples if these were taken for independent.
    """
    model = enumerable(layer(rate, seed=1))
    mean, variance, of_pair = enumerated(rate, antithetic, layer is not L.Dropout)
    found = predict(model, repeats(ROWS), 5, batch_size=5 * ROWS, antithetic=antithetic, seed=2)
    agrees(found.mean, mean)
    agrees(found.variance, variance)
    of_mean = (4 * 2 * of_pair + variance) / 25
    agrees((found.mean - mean) ** 2, of_mean)
    agrees(found.standard_error**2, of_mean)


@pytest.mark.parametrize("antithetic, rate", [(True, 0.25), (False, 0.5)])
def test_the_standard_error_is_calibrated(antithetic, rate):
    """(mean - exact) / standard error follows t, with one degree of freedom less than groups.

    Of plain numbers and at these rates each group is symmetric about the mean, so that t, which is
    for normal ones, holds for few: 20 pairs, or 40 samples.
    """
    model = enumerable(drop(rate))
    found = predict(
        model,
        repeats(2000),
        40,
        batch_size=40 * 2000,
        antithetic=antithetic,
        head=Head(None),
        seed=4,
    )
    z = (found.mean - INPUT @ KERNEL) / found.standard_error
    degrees = (20 if antithetic else 40) - 1
    # Of 2000 values the variance is off by 3.5 % (one standard deviation), the share by 0.5 %.
    assert z.var(0) == pytest.approx(degrees / (degrees - 2), rel=0.15)
    assert (np.abs(z) < stats.t.ppf(0.975, degrees)).mean(0) == pytest.approx(0.95, abs=0.02)


def test_pairs_are_exact_for_linear_functions():
    """At a rate of one half the two masks add up to the whole; each on its own is as ever."""
    model = network(drop(), units=2)
    x = normal(500, 4)
    found = predict(model, x, 6, head=Head(None), return_samples=True, seed=0)
    close(found.mean, array(model(x)), atol=1e-5)
    assert found.standard_error.max() < 1e-5
    weights = array(model.layers[-1].kernel).astype("float64")
    exact = x.astype("float64") ** 2 @ weights**2  # of sum_i 2 keep_i x_i w_i
    agrees(found.variance - exact, 0)
    for sample in found.samples:  # the odd ones are complements, and distributed as the others
        agrees(sample - array(model(x)), 0)
        agrees((sample - array(model(x))) ** 2 - exact, 0)


# Everything but the masks as at inference


@pytest.mark.parametrize("subclassed", [False, True])
def test_batch_normalisation_uses_its_moving_statistics(subclassed):
    layers = [L.BatchNormalization(), L.Dropout(0.5), L.BatchNormalization()]
    model = Subclassed(*layers) if subclassed else keras.Sequential([Input((4,)), *layers])
    model(X)
    for layer, mean, variance in [(layers[0], -40, 9), (layers[2], 30, 4)]:
        layer.moving_mean.assign([mean] * 4)
        layer.moving_variance.assign([variance] * 4)
    before = [array(v) for v in model.variables]
    found = predict(model, X, 6, head=Head(None), return_samples=True, seed=0)
    first = (X + 40) / np.sqrt(9 + 1e-3)
    kept, dropped = ((v - 30) / np.sqrt(4 + 1e-3) for v in (2 * first, 0 * first))
    is_kept = np.abs(found.samples - kept) < np.abs(found.samples - dropped)
    close(found.samples, np.where(is_kept, kept, dropped))
    assert 0.2 < is_kept.mean() < 0.8
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, array(variable))


class Augmenting(keras.Model):
    def __init__(self, *layers):
        super().__init__()
        self.augment, self.drop = layers, L.Dropout(0.5)

    def call(self, x, training=None):
        for layer in self.augment:
            x = layer(x, training=training)
        return [x, self.drop(x, training=training)]


def augmenting(kind):
    layers = [L.RandomFlip(), L.RandomRotation(0.5), L.RandomTranslation(0.5, 0.5)]
    if kind == "subclassed":
        return Augmenting(*layers)
    inputs = Input((4, 4, 1))
    if kind == "nested":
        layers = [keras.Sequential([Input((4, 4, 1)), *layers])]
    x = inputs
    for layer in layers:
        x = layer(x, training=True) if kind == "always on" else layer(x)
    return keras.Model(inputs, [x, L.Dropout(0.5)(x)])


@pytest.mark.parametrize("kind", ["functional", "nested", "subclassed", "always on"])
def test_data_augmentation_does_not_act(kind):
    model, x = augmenting(kind), 1 + np.arange(48, dtype="float32").reshape(3, 4, 4, 1)
    found, dropped = predict(
        model, x, 4, head=[Head(None)] * 2, return_samples=True, batch_size=12, seed=0
    )
    np.testing.assert_array_equal(found.samples, np.stack([x] * 4))
    assert found.variance.max() == 0
    assert ((dropped.samples == 0) | (dropped.samples == 2 * x)).all()
    assert dropped.variance.max() > 0


@pytest.mark.tensorflow
def test_preprocessing_that_is_not_random_stays():
    norm = L.Normalization()
    norm.adapt(X)
    found = predict(network(L.Rescaling(2.0), norm, drop()), X, 4, seed=0)
    assert found.variance.min() > 0


@pytest.mark.tensorflow
def test_the_layers_of_keras_sample():
    sequence, image = normal(5, 6, 3), 1 + np.abs(normal(5, 4, 4, 2))
    plain = Head(None)
    lstm = Predictor(network(L.LSTM(3, recurrent_dropout=0.5), shape=(6, 3)), 4)
    found = lstm(sequence, seed=0)
    assert found.variance.min() > 0
    if keras.backend.backend() != "torch":  # where Keras' LSTM alone does not repeat itself either
        equal(found, lstm(sequence, seed=0))
    spatial = keras.Sequential([Input((4, 4, 2)), L.SpatialDropout2D(0.5)])
    drawn = predict(spatial, image, 8, head=plain, return_samples=True, seed=0).samples / image
    close(np.unique(drawn.round(5)), [0, 2])
    assert (drawn.std(axis=(2, 3)) < 1e-5).all()
    noise = keras.Sequential([Input((4,)), L.GaussianNoise(0.5)])
    found = predict(noise, np.ones((500, 4)), 10, head=plain, seed=0)
    agrees(found.mean, 1)
    agrees(found.variance, 0.25)


# The model is left as it was


def test_a_seed_decides_and_is_forgotten():
    model = network(L.BatchNormalization(), L.Dropout(0.5, seed=5), drop())
    frozen = model.layers[0]
    frozen.trainable = False
    before = [array(v) for v in model.variables]
    predictor = Predictor(model, 4)
    first = predictor(X, seed=3)
    equal(first, predictor(X, seed=3))
    equal(first, predict(model, X, 4, seed=3))
    assert not np.allclose(first.mean, predictor(X, seed=4).mean)
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, array(variable))
    assert [layer.trainable for layer in model.layers] == [False, True, True, True]
    # Without one the layers go on, from where training left them.
    second = predictor(X)
    assert not np.allclose(second.mean, predictor(X).mean)
    equal(first, predictor(X, seed=3))


def test_inputs_in_one_call_and_in_several_have_masks_of_their_own():
    model, x = network(drop()), np.ones((8, 4), "float32")
    for batch_size in (4, 8, 32):
        found = predict(model, x, 4, batch_size=batch_size, seed=0, antithetic=False)
        assert len(np.unique(found.mean, axis=0)) > 4


class Breaks(keras.Layer):
    """Once it is told to, it raises while it is called in training."""

    armed = False

    def call(self, x, training=None):
        if self.armed and training:
            raise ArithmeticError("in the middle")
        return x


def half_way():
    yield X
    raise OSError("disk")


@pytest.mark.parametrize("seed", [None, 0])
def test_an_exception_leaves_the_model_as_it_was(seed):
    norm, breaks = L.BatchNormalization(), Breaks()
    model = network(norm, breaks, drop())
    before = [array(v) for v in model.variables]
    if seed is not None:
        with pytest.raises(OSError, match="disk"):
            predict(model, half_way(), 2, batch_size=2, seed=seed)
    breaks.armed = True
    with pytest.raises(ArithmeticError):
        predict(model, X, 2, seed=seed)
    assert "call" not in vars(norm)
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, array(variable))


def test_a_predictor_follows_the_weights():
    model = network(drop())
    predictor = Predictor(model)
    predictor(X)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.layers[-1].bias.assign([0.0, 5.0, 0.0])
    close(predictor(X).mean, softmax(array(model(X)), axis=-1))


@pytest.mark.tensorflow
def test_an_rblock_is_the_model_inside():
    model = network(drop())
    block = ks.RBlock(model)
    close(predict(block, X).mean, predict(model, X).mean)
    equal(predict(block, X, 4, seed=0), predict(model, X, 4, seed=0))


# Layers that draw and do not say so


class Unseeded(L.Layer):
    """Dropout at a rate of one half that owns no generator."""

    def call(self, x, training=None):
        if not training:
            return x
        return keras.ops.where(keras.random.uniform(keras.ops.shape(x)) < 0.5, 2 * x, 0 * x)


class MCDropout(L.Dropout):
    def call(self, x, training=None):
        return super().call(x, training=True)


class AlwaysOn(L.Layer):
    rng = np.random.default_rng(0)

    def call(self, x):
        return x * float(self.rng.normal())


@pytest.mark.tensorflow
def test_every_sample_has_its_own_hidden_noise():
    """sum_i 2 b_i 2 c_i, of eight fair coins each: the variance is 8 (16 / 4 - 1) = 24.

    With one b for all samples of an input it would be 16 on average.
    """
    model = network(Unseeded(), L.Dropout(0.5), units=1, shape=(8,))
    model.layers[-1].kernel.assign(np.ones((8, 1)))
    arguments = {"head": Head(None), "antithetic": False, "seed": 0}
    found = predict(model, np.ones((1000, 8), "float32"), 20, **arguments)
    agrees(found.variance, 24)
    agrees(found.mean, 8)


@pytest.mark.parametrize("kind", ["functional", "subclassed"])
@pytest.mark.parametrize("layer", [lambda: MCDropout(0.5), AlwaysOn])
def test_noise_at_inference_is_refused_or_sampled(kind, layer):
    layer = layer()
    model = network(layer) if kind == "functional" else Subclassed(L.Dense(3), layer)
    model(X)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{layer.name}.* also draw in inf.*Use samples=T"):
            predict(model, X, head=Head(None))
    if isinstance(layer, MCDropout):
        assert predict(model, X, 8, head=Head(None), seed=0).variance.mean() > 0
    for part in (layer, model):
        part.stochastic = False
    assert len(predict(model, X, head=Head(None)).mean) == 5


# Threads


def in_threads(functions):
    results, errors = [None] * len(functions), []

    def run(place, function):
        try:
            results[place] = function()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run, args=each) for each in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return results


def test_threads_find_what_one_finds_and_leave_the_model_to_train():
    norm = L.BatchNormalization()
    model = network(norm, L.Dropout(0.5), drop())
    expected = [predict(model, X, samples, seed=3, batch_size=8) for samples in (4, 6)]
    calls = [
        lambda samples=samples: predict(model, X, samples, seed=3, batch_size=8)
        for samples in (4, 6, 4, 6)
    ]
    before = [array(v) for v in model.variables]
    for found, wanted in zip(in_threads(calls), expected * 2, strict=True):
        equal(found, wanted)
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, array(variable))
    assert "call" not in vars(norm)
    moved = np.copy(array(norm.moving_mean))
    model(X, training=True)
    assert not np.allclose(array(norm.moving_mean), moved)


# Kept, until the network changes


def test_what_is_compiled_stays_with_the_model():
    rows = Rows()
    model = network(drop(), rows)
    first = predict(model, X, 4, seed=0)
    seen, nodes = len(rows.seen), len(rows._inbound_nodes)
    equal(first, predict(model, X, 4, seed=0))
    if keras.backend.backend() != "torch":
        assert len(rows.seen) == seen
    assert len(rows._inbound_nodes) == nodes
    rows = None
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def changed_rate(model):
    model.layers[0].rate = 0.1


def low_rank(model):
    model.layers[-1].enable_lora(2)
    model.layers[-1].lora_kernel_b.assign(np.ones(model.layers[-1].lora_kernel_b.shape))


def quantized(model):
    model.quantize("int8")


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method")
@pytest.mark.parametrize("change", [changed_rate, low_rank, quantized])
def test_a_changed_network_is_noticed(change):
    model = network(L.Dropout(0.5, seed=1))
    model.layers[-1].kernel.assign(normal(4, 3, seed=2))
    arguments = {"head": Head(None), "batch_size": 4000}
    kept = [Predictor(model, samples, **arguments) for samples in (None, 4)]
    x = np.ones((1000, 4), "float32")
    before = [predictor(x, seed=0) for predictor in kept]
    predict(model, x, **arguments)
    change(model)
    # The random numbers are the same: another network draws them as one that is made anew does.
    fresh = keras.Sequential([Input((4,)), *model.layers])
    for predictor, samples, old in zip(kept, (None, 4), before, strict=True):
        found = predictor(x, seed=0)
        equal(found, Predictor(fresh, samples, **arguments)(x, seed=0))
        equal(found, predict(model, x, samples, seed=0, **arguments))
        assert np.allclose(found.mean, old.mean) == (change is changed_rate and samples is None)


# Cost


class Rows(keras.Layer):
    """The identity; `seen` has the rows of each program that is traced: what is traced is run."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, x):
        if isinstance(x.shape[0], int):  # not while Keras asks for the shape of the output
            self.seen.append(x.shape[0])
        return x


def test_what_comes_before_the_masks_runs_once_for_each_input():
    before, after = Rows(), Rows()
    layers = [L.RandomFlip(), before, drop(), after, L.Flatten()]  # a flip that does nothing here
    predict(network(*layers, shape=(2, 2, 1)), normal(5, 2, 2, 1), 6, batch_size=30, seed=0)
    # Under torch Keras has asked for shapes with other numbers of rows.
    assert 5 in before.seen and 30 not in before.seen
    assert 30 in after.seen and 5 not in after.seen


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["any size", "subclassed", "inside"])
def test_the_first_batch_says_what_fits(kind):
    """64 channels of 64 x 64 take 1 MiB: 64 rows fit, and 30 samples of two inputs are 60."""
    rows, wide = Rows(), L.Conv2D(64, 1)
    layers = [L.Dropout(0.5), wide, rows, L.GlobalAveragePooling2D()]
    if kind == "any size":
        model = network(*layers, shape=(None, None, 1))
    elif kind == "subclassed":
        model = Subclassed(*layers)
    else:  # of which the graph shows only the small end
        model = network(Inside(*layers), shape=(64, 64, 1))
    x = normal(5, 64, 64, 1)
    model(x[:1])
    rows.seen.clear()
    found = predict(model, x, 30, head=Head(None), seed=0)
    assert found.mean.shape[0] == 5 and max(rows.seen) == 60
    small = predict(
        model, Batches(x, x[:2, :8, :8]) if kind == "any size" else x, 30, seed=0, head=Head(None)
    )
    assert len(small.mean) == (7 if kind == "any size" else 5) and max(rows.seen) == 60


def test_what_is_inside_a_layer_of_keras_counts_too():
    """4 heads of 256 x 256 scores take 1 MiB as well, and the graph shows (256, 8) only."""
    rows, x = Rows(), Input((256, 8))
    y = L.MultiHeadAttention(4, 2, dropout=0.5)(x, x)
    model = keras.Model(x, L.GlobalAveragePooling1D()(rows(y)))
    predict(model, normal(5, 256, 8), 30, head=Head(None), seed=0)
    assert max(rows.seen) == 60


# samples="auto"


def noise_of_the_input():
    """A number and zero-mean noise that is as large as the input."""
    return keras.Sequential([Input((1,)), L.Dropout(0.5)])


def test_auto_draws_until_the_standard_error_is_small():
    """One standard deviation is |x|, so T = (x / tolerance)^2 samples, in steps of twenty."""
    x = np.array([[0.0], [0.1], [1.0], [0.7], [4.0]], "float32")
    predictor = Predictor(
        noise_of_the_input(),
        "auto",
        tolerance=0.1,
        max_samples=250,
        antithetic=False,
        head=Head(None),
    )
    found = predictor(x, seed=0)
    error, count = found.standard_error.ravel(), found.count
    assert ((error <= 0.1) | (count == 250)).all() and (count % 20 == 0)[:4].all()
    assert count[0] == count[1] == 20
    assert 20 < count[3] <= 60 < count[2] < count[4] == 250
    close(error[4], 4 / np.sqrt(250), rtol=0.05)
    assert found.samples is None and found.mean[0] == 0


@pytest.mark.tensorflow
def test_auto_takes_any_tolerance_and_several_outputs():
    model = three_heads()
    loose = predict(model, X, "auto", tolerance=10, seed=0)
    assert all(one.count.tolist() == [20] * 5 for one in loose.values())
    tight = predict(model, X, "auto", tolerance=1e-9, max_samples=30, seed=0)
    assert all(one.count.tolist() == [30] * 5 for one in tight.values())


@pytest.mark.tensorflow
@pytest.mark.parametrize("antithetic, batch_size", [(True, 3), (False, 1)])
def test_auto_with_small_batches(antithetic, batch_size):
    given = dict(batch_size=batch_size, antithetic=antithetic, tolerance=0.015)
    found = predict(network(drop()), X, "auto", **given, seed=0)
    assert (found.standard_error.max(1) <= 0.015).all()
    assert found.count.max() > 20


@pytest.mark.tensorflow
def test_auto_looks_every_twenty_samples_whatever_the_batch_is():
    found = predict(network(drop()), normal(20, 4), "auto", batch_size=4, seed=0)
    assert found.count.min() >= 20


# What the inputs come in


class Batches(keras.utils.PyDataset):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]


def test_the_same_whatever_the_inputs_come_in():
    model, y = network(drop()), np.zeros(5)
    predictor = Predictor(model, batch_size=3)
    expected = softmax(array(model(X)), axis=-1)
    for x in (
        X,
        X.tolist(),
        keras.ops.convert_to_tensor(X),
        Batches((X[:4], y[:4]), (X[4:], y[4:])),
        (part for part in (X[:1], X[1:])),
    ):
        close(predictor(x).mean, expected)


def test_two_inputs_in_a_list_or_a_dict():
    a, b = Input((4,), name="a"), Input((2,), name="b")
    x = L.Dense(3)(L.Concatenate()([drop()(a), b]))
    second = normal(5, 2)
    by_list, by_name = keras.Model([a, b], x), keras.Model({"b": b, "a": a}, x)
    expected = softmax(array(by_list([X, second])), axis=-1)
    for model, inputs in [(by_list, [X, second]), (by_name, {"a": X, "b": second})]:
        predictor = Predictor(model, batch_size=3)
        close(predictor(inputs).mean, expected)
        close(predictor(Batches((inputs, None))).mean, expected)


@pytest.mark.tensorflow
def test_tf_data():
    import tensorflow as tf

    model = network(drop())
    expected = softmax(array(model(X)), axis=-1)
    for data in ((X, np.zeros(5)), X):
        data = tf.data.Dataset.from_tensor_slices(data).batch(2)
        close(predict(model, data, batch_size=3).mean, expected)
        with pytest.raises(ValueError, match="`x` must end"):
            predict(model, data.repeat())
        with pytest.raises(ValueError, match="`x` must hold at least one sample"):
            predict(model, data.take(0))


@pytest.mark.tensorflow
def test_inputs_of_several_sizes():
    inputs = Input((None, None, 2))
    x = L.GlobalAveragePooling2D()(L.SpatialDropout2D(0.5)(inputs))
    model = keras.Model(inputs, L.Dense(3)(x))
    parts = [normal(2, 4, 4, 2), normal(3, 6, 5, 2)]
    found = predict(model, Batches(*parts))
    close(found.mean, softmax(np.concatenate([array(model(x)) for x in parts]), axis=-1))
    assert predict(model, Batches(*parts), 4, seed=0).mean.shape == (5, 3)


@pytest.mark.tensorflow
@pytest.mark.parametrize("samples", [None, 4])
def test_a_model_without_weights_yet_is_built(samples):
    model = Subclassed(L.Dense(3), L.Dropout(0.5))
    head = Head("softmax", from_logits=True)
    assert predict(model, X, samples, head=head, seed=0).mean.shape == (5, 3)


@pytest.mark.tensorflow
def test_a_generator_for_a_model_without_weights_yet():
    model = Subclassed(L.Dense(3), L.Dropout(0.5))
    parts = (part for part in (X[:2], X[2:]))
    assert len(predict(model, parts, head=Head("softmax", from_logits=True)).mean) == 5


@pytest.mark.parametrize(
    "policy", reduced(["mixed_float16", "mixed_bfloat16", "float16"], "mixed_float16")
)
def test_low_precision_is_finite(policy):
    """Also for logits near the end of float16, of which a product in float16 would overflow."""
    inputs = Input((4,), dtype=policy.replace("mixed_", "") if policy == "float16" else None)
    x = L.Dense(3, dtype=policy)(L.Dropout(0.5, dtype=policy)(inputs))
    predictor = Predictor(keras.Model(inputs, x), 4)
    for scale in (1, 2e4):
        found = predictor(scale * np.tanh(X), seed=0)
        for name, value in vars(found).items():
            if value is not None:
                assert np.isfinite(value).all(), name
        assert found.mean.dtype == "float32"
        close(found.mean.sum(-1), 1)


# Samples in pieces


@pytest.mark.parametrize("batch_size", reduced([12, 4, 100], 12))
def test_a_stream_is_the_samples_in_pieces(batch_size):
    predictor = Predictor(network(drop()), 6, batch_size)
    kept = Predictor(predictor.model, 6, batch_size, return_samples=True)(X, seed=1, verbose=False)
    slices, pieces = zip(*predictor.stream(X, seed=1), strict=True)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), kept.samples)
    assert np.concatenate([np.arange(5)[which] for which in slices]).tolist() == list(range(5))
    assert len(slices) == {12: 3, 4: 5, 100: 1}[batch_size]


@pytest.mark.tensorflow
def test_a_stream_keeps_the_structure_and_the_model_is_free_between_pieces():
    model = three_heads()
    before = [array(v) for v in model.variables]
    for which, drawn in Predictor(model, 4, batch_size=4).stream(X, seed=0):
        assert list(drawn) == list(model(X))
        assert drawn["z"].shape == (4, 1, 3) and which.stop - which.start == 1
        for value, variable in zip(before, model.variables, strict=True):
            np.testing.assert_array_equal(value, array(variable))
    for samples in (None, "auto"):
        with pytest.raises(ValueError, match="`samples` must be an int to stream samples"):
            next(Predictor(model, samples).stream(X))


# Bad input; which backend it is makes no difference


@pytest.mark.tensorflow
def test_bad_arguments_are_named():
    model = network(drop())

    def wrong(name, types, values, **others):
        for error, refused in ((TypeError, types), (ValueError, values)):
            refuses(
                lambda value: predict(model, X, **others, **{name: value}), name, refused, error
            )

    optional = [x for x in NO_INT if x is not None]
    wrong("samples", [*optional, "many"], (0, -1, 10**30))
    wrong("batch_size", optional, (0, -1))
    wrong("seed", optional, (-1, 2**31))
    for samples in (None, 30):
        wrong("tolerance", (), (0.01, 1.0), samples=samples)
        wrong("max_samples", (), (20, 1000), samples=samples)
    out_of_range = (0, -1, NAN, INF, 10**400)
    wrong("tolerance", [x for x in NO_NUMBER if x is not None], out_of_range, samples="auto")
    wrong("max_samples", optional, (0, 19, 10**30), samples="auto")
    for name in ("antithetic", "return_samples"):
        wrong(name, NO_FLAG, ())
    wrong("verbose", NO_VERBOSE, ())
    wrong("head", ["softmax", 0, {}, TENSOR, ("softmax", False), [None], Head], ())
    refuses(lambda model: predict(model, X), "model", (*NO_TEXT, "x", keras.Model), TypeError)
    refuses(lambda model: predict(model, X), "model", (L.Dropout(0.5),), TypeError)
    assert predict(model, X, np.int64(2), np.int64(4), seed=np.int64(0)).count.tolist() == [2] * 5


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "layers",
    [[], [L.Dropout(0.0)], [L.BatchNormalization()], [L.RandomFlip()], [ks.layers.BDropDML(0)]],
)
def test_a_model_with_nothing_to_sample_is_an_error(layers):
    model = network(*layers, L.Flatten(), shape=(4, 4, 1))
    for samples in (4, "auto"):
        with pytest.raises(ValueError, match="`samples` needs a model with a layer that is stoch"):
            predict(model, normal(2, 4, 4, 1), samples)
    assert predict(model, normal(2, 4, 4, 1)).mean.shape == (2, 3)


@pytest.mark.tensorflow
def test_other_bad_input():
    model = network(drop())
    for samples in (None, "auto"):
        with pytest.raises(ValueError, match="`return_samples` needs the same number of samples"):
            predict(model, X, samples, return_samples=True)
    with pytest.raises(ValueError, match="`x` must hold at least one sample"):
        predict(model, X[:0])
    with pytest.raises(ValueError, match="`x` must have inputs of one length"):
        predict(model, [X, X[:3]])
    refuses(lambda x: predict(model, x), "x", (None, 1, "text", b"x", object(), TENSOR), TypeError)
    for head, words in (
        ([Head(), Head()], "must say what each of the 1 outputs is"),
        (Head(axis=2), r"must be .* along one of 2 axes\. Received: head=Head\("),
    ):
        with pytest.raises(ValueError, match=f"`head` {words}"):
            predict(model, X, head=head)
