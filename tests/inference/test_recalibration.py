"""Recalibrated statistics are those of what enters each layer in the recalibrated network."""

import threading

import keras
import numpy as np
import pytest
from backends import reduced
from refusals import NO_FLAG, NO_INT, NO_TEXT, NO_VERBOSE, refuses

import keras_swapout as ks
from keras_swapout.inference import (
    batch_norm_statistics,
    recalibrate_batch_norm,
    restore_batch_norm,
)
from keras_swapout.inference.recalibration import Recalibrator

L, Input = keras.layers, keras.Input


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(1, 3, shape).astype("float32")


def recalibrated(model, x, **keywords):
    return recalibrate_batch_norm(model, x, verbose=False, **keywords)


def expect(layer, entering, mask=None, rtol=1e-4):
    """The layer's statistics are NumPy's of the activations, in float64."""
    channels = np.moveaxis(array(entering).astype("float64"), layer.axis, -1)
    channels = channels.reshape(-1, channels.shape[-1]) if mask is None else channels[mask]
    mean, variance = channels.mean(0), channels.var(0)
    np.testing.assert_allclose(
        array(layer.moving_mean), mean, rtol=rtol, atol=rtol * np.sqrt(variance).max()
    )
    np.testing.assert_allclose(array(layer.moving_variance), variance, rtol=rtol, atol=1e-7)


def norms(model):
    return [x for x in model._flatten_layers() if isinstance(x, L.BatchNormalization)]


def same(first, second, **tolerance):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def shaken(model):
    """The model with statistics that fit nothing, as noise and old weights leave them."""
    rng = np.random.default_rng(7)
    for layer in norms(model):
        layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape))
        layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
    return model


# Networks whose graph Keras knows: what enters a layer can be asked for.


def convolutions():
    layers = [
        L.Conv2D(4, 3),
        L.BatchNormalization(),
        L.ReLU(),
        L.SpatialDropout2D(0.5),
        L.Conv2D(3, 3),
        L.BatchNormalization(scale=False, center=False),
        L.Flatten(),
        L.Dropout(0.5),
        L.Dense(5),
        L.BatchNormalization(),
    ]
    return keras.Sequential([Input((6, 6, 2)), *layers]), normal(11, 6, 6, 2)


def parallel_branches():
    inputs = Input((5,))
    a = L.BatchNormalization()(L.Dense(4)(inputs))
    b = L.BatchNormalization()(L.Dense(4, activation="tanh")(inputs))
    x = ks.layers.Swapout(0.5, 0.5)([a, b])
    return keras.Model(inputs, [L.BatchNormalization()(x), b]), normal(11, 5)


def channels_first():
    layers = [L.BatchNormalization(axis=1), L.Permute((2, 1)), L.BatchNormalization(axis=-2)]
    return keras.Sequential([Input((3, 5)), *layers]), normal(11, 3, 5)


def half_precision():
    inputs = Input((5,))
    x = L.Dense(4, dtype="mixed_float16")(inputs)
    x = L.BatchNormalization(dtype="mixed_float16")(x)
    x = L.Dropout(0.5, dtype="mixed_float16")(L.ReLU(dtype="mixed_float16")(x))
    return keras.Model(inputs, L.BatchNormalization(dtype="mixed_float16")(x)), normal(11, 5)


def frozen():
    layers = [L.BatchNormalization(trainable=False), L.Dense(4), L.BatchNormalization()]
    model = keras.Sequential([Input((5,)), *layers])
    model.layers[1].trainable = False
    return model, normal(11, 5)


def several_inputs():
    inputs = {"b": Input((3,), name="b"), "a": Input((3,), name="a")}
    x = L.BatchNormalization()(inputs["a"]) * L.BatchNormalization()(inputs["b"])
    return keras.Model(inputs, L.BatchNormalization()(x)), {"b": normal(11, 3), "a": normal(11, 3)}


NETWORKS = [
    convolutions,
    parallel_branches,
    channels_first,
    half_precision,
    frozen,
    several_inputs,
]


@pytest.mark.parametrize("network", reduced(NETWORKS, parallel_branches, half_precision))
def test_statistics_are_exact(network):
    model, x = network()
    before = [array(v) for v in shaken(model).variables]
    # float16 rounds what enters by the size of the batch; the others only add in another order.
    rtol = 5e-3 if network is half_precision else 1e-4
    found = recalibrated(model, x, batch_size=4)  # 4, 4 and 3
    layers = norms(found)
    inputs = found.input if isinstance(x, dict) else found.inputs[0]
    entering = keras.Model(inputs, [layer.input for layer in layers])
    for layer, tensor in zip(layers, entering(x), strict=True):
        expect(layer, tensor, rtol=rtol)
    # The model that it is a copy of is as it was, and of the copy nothing else has changed.
    same([array(v) for v in model.variables], before, rtol=0)
    same(
        [array(v) for v in found.trainable_variables],
        [array(v) for v in model.trainable_variables],
        rtol=0,
    )
    assert [layer.trainable for layer in found.layers] == [x.trainable for x in model.layers]


# Networks whose inside has to be known.


def test_a_model_in_a_model():
    inner = keras.Sequential([Input((4,)), L.BatchNormalization(), L.Dropout(0.5), L.Dense(3)])
    inner = keras.Sequential([Input((4,)), inner, L.BatchNormalization()])
    model = shaken(keras.Sequential([Input((5,)), L.Dense(4), inner, L.BatchNormalization()]))
    x = normal(11, 5)
    dense, inner, last = recalibrated(model, x).layers
    innermost, middle = inner.layers
    first, _, projection = innermost.layers
    expect(first, dense(x))
    expect(middle, projection(first(dense(x))))
    expect(last, middle(projection(first(dense(x)))))


@keras.saving.register_keras_serializable("test_recalibration")
class Subclassed(keras.Model):
    def __init__(self, **keywords):
        super().__init__(**keywords)
        # Made in another order than called.
        self.last, self.first = L.BatchNormalization(), L.BatchNormalization()
        self.dense, self.drop = L.Dense(4), L.Dropout(0.5)
        self.never = L.BatchNormalization()
        self.never.build((None, 2))

    def call(self, x, training=None):
        x = self.drop(self.dense(self.first(x, training=training)), training=training)
        return self.last(x, training=training)


def subclassed(x):
    model = Subclassed()
    model(x)
    return shaken(model)


def test_a_subclassed_model():
    x = normal(11, 5)
    model = subclassed(x)
    unused = array(model.never.moving_mean)
    found = recalibrated(model, x)
    assert found is not model
    expect(found.first, x)
    expect(found.last, found.dense(found.first(x)))
    np.testing.assert_array_equal(array(found.never.moving_mean), unused)


def test_one_layer_for_two_inputs_pools_them():
    norm, a, b = L.BatchNormalization(), Input((3,)), Input((3,))
    model = shaken(keras.Model([a, b], norm(a) - norm(2.0 * b)))
    x = [normal(11, 3), normal(11, 3, seed=1)]
    recalibrated(model, x, in_place=True, batch_size=4)
    expect(norm, np.concatenate([x[0], 2 * x[1]]))


def test_time_distributed():
    model = keras.Sequential([Input((4, 3)), L.TimeDistributed(L.BatchNormalization())])
    x = normal(11, 4, 3)
    (layer,) = norms(recalibrated(model, x))
    expect(layer, x)


def masked_sequences():
    x, lengths = normal(7, 5, 3), np.array([5, 1, 3, 2, 4, 0, 5])
    mask = np.arange(5) < lengths[:, None]
    x[~mask] = 0
    return x, mask


def test_masked_positions_do_not_count():
    x, mask = masked_sequences()
    layers = [L.Masking(), L.BatchNormalization(), L.Dense(4), L.BatchNormalization()]
    model = shaken(keras.Sequential([Input((5, 3)), *layers]))
    found = recalibrated(model, x, batch_size=3)
    _, first, dense, last = found.layers
    expect(first, x, mask)
    expect(last, dense(first(x)), mask)


def test_masked_positions_with_the_channels_in_front():
    x, mask = masked_sequences()
    model = keras.Sequential([Input((5, 3)), L.Masking(), L.BatchNormalization(axis=1)])
    (layer,) = norms(recalibrated(model, x))
    for channel in range(5):
        steps = x[mask[:, channel], channel].astype("float64")
        assert array(layer.moving_mean)[channel] == pytest.approx(steps.mean(), rel=1e-4)
        assert array(layer.moving_variance)[channel] == pytest.approx(steps.var(), rel=1e-4)


@pytest.mark.tensorflow
def test_nothing_but_masked_positions_is_an_error():
    model = keras.Sequential([Input((5, 3)), L.Masking(), L.BatchNormalization()])
    with pytest.raises(ValueError, match="`data` must have a position that is not masked"):
        recalibrated(model, np.zeros((4, 5, 3)))


# Numbers


def test_a_large_mean_costs_no_accuracy():
    """A difference of float32 sums of squares would be off by 10 where the variance is 1."""
    x = np.random.default_rng(0).normal(1e4, 1, (3000, 3)).astype("float32")
    model = keras.Sequential([Input((3,)), L.BatchNormalization()])
    (layer,) = norms(recalibrated(model, x, batch_size=256))
    exact = x.astype("float64")
    np.testing.assert_allclose(array(layer.moving_mean), exact.mean(0), rtol=2e-7)
    np.testing.assert_allclose(array(layer.moving_variance), exact.var(0), rtol=1e-3)


@pytest.mark.tensorflow
def test_the_size_of_the_batches_makes_no_difference():
    model, x = parallel_branches()
    found = [
        [v for pair in batch_norm_statistics(recalibrated(model, x, batch_size=size)) for v in pair]
        for size in (1, 5, 100)
    ]
    for other in found[1:]:
        same(found[0], other, rtol=1e-5, atol=1e-6)


def test_once_is_enough():
    """Statistics of the recalibrated network are its own: a fixed point."""
    model, x = convolutions()
    recalibrate = Recalibrator(shaken(model))
    start = model.get_weights()
    recalibrate(x)
    once = model.get_weights()
    assert not all(np.allclose(a, b) for a, b in zip(start, once, strict=True))
    recalibrate(x)
    same(model.get_weights(), once, rtol=1e-6, atol=1e-7)


@pytest.mark.tensorflow
def test_a_trained_network_without_noise_agrees_with_its_training_mode():
    """On one batch the exact statistics are the batch's, so the two modes are one function."""
    x = normal(32, 5)
    layers = [L.Dense(6), L.BatchNormalization(), L.ReLU(), L.Dense(4), L.BatchNormalization()]
    model = keras.Sequential([Input((5,)), *layers])
    model.compile("sgd", "mse")
    model.fit(x, x[:, :4], batch_size=8, epochs=2, verbose=0)
    training = array(model(x, training=True))
    assert not np.allclose(array(model(x)), training, atol=0.05)
    np.testing.assert_allclose(array(recalibrated(model, x)(x)), training, atol=1e-4)


# Copy or in place


def small():
    layers = [L.Dense(3), L.BatchNormalization(), L.Dropout(0.5), L.Dense(2)]
    return shaken(keras.Sequential([Input((4,)), *layers, L.BatchNormalization()]))


X = normal(7, 4)


def test_in_place_returns_the_model_and_there_is_a_way_back():
    model = small()
    weights, output = model.get_weights(), array(model(X))
    statistics = batch_norm_statistics(model)
    copy = recalibrated(model, X)
    same(model.get_weights(), weights, rtol=0)
    np.testing.assert_array_equal(array(model(X)), output)
    assert recalibrated(model, X, in_place=True) is model
    same(model.get_weights(), copy.get_weights(), rtol=1e-6, atol=1e-7)
    assert not np.allclose(array(model(X)), output)
    restore_batch_norm(model, statistics)
    same(model.get_weights(), weights, rtol=0)


def test_statistics_are_kept_and_not_views_of_the_variables():
    model = small()
    pairs = batch_norm_statistics(model)
    before = [value.copy() for pair in pairs for value in pair]
    recalibrated(model, X, in_place=True)
    same([value for pair in pairs for value in pair], before, rtol=0)
    assert [[a.shape for a in pair] for pair in pairs] == [[(3,), (3,)], [(2,), (2,)]]


class Failing(keras.utils.PyDataset):
    """Breaks off in a later pass, after the first layer has its new statistics."""

    def __init__(self, error):
        super().__init__()
        self.error, self.reads = error, 0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.reads += 1
        if self.reads > 4:
            raise self.error
        return X


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_after_an_interruption_the_statistics_are_what_they_were(error):
    model = small()
    weights = model.get_weights()
    data = Failing(error)
    with pytest.raises(type(error)):
        recalibrated(model, data, in_place=True)
    assert data.reads > 4
    same(model.get_weights(), weights, rtol=0)
    assert not any("call" in vars(layer) for layer in norms(model))


class MCDropout(L.Dropout):
    def call(self, x, training=None):
        return super().call(x, training=True)


class AlwaysOn(L.Layer):
    rng = np.random.default_rng(0)

    def call(self, x):
        return x * float(self.rng.normal())


@pytest.mark.parametrize("layer", [lambda: MCDropout(0.5), AlwaysOn])
def test_noise_at_inference_is_refused(layer):
    layer = layer()
    model = keras.Sequential([Input((4,)), layer, L.BatchNormalization()])
    weights = model.get_weights()
    for in_place in (True, False):
        with pytest.raises(ValueError, match=f"{layer.name}.* also draw in inference mode"):
            recalibrated(model, X, in_place=in_place)
    same(model.get_weights()[:2], weights[:2], rtol=0)


def test_threads_take_turns():
    """The statistics are those of one of the data sets, in all layers."""
    model, data = small(), [normal(40, 4, seed=seed) for seed in (1, 2)]
    wanted = [recalibrated(model, x).get_weights() for x in data]
    recalibrator = Recalibrator(model)
    threads = [threading.Thread(target=recalibrator, args=(x,)) for x in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any("call" in vars(layer) for layer in norms(model))
    found = model.get_weights()
    assert any(
        all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, one, strict=True))
        for one in wanted
    )


@pytest.mark.tensorflow
def test_a_recalibrator_notices_a_changed_network():
    model = small()
    recalibrator = Recalibrator(model)
    recalibrator(X)
    before = batch_norm_statistics(model)
    dense = model.layers[0]
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))
    recalibrator(X)
    assert not np.allclose(batch_norm_statistics(model)[0][0], before[0][0])
    expect(model.layers[1], dense(X))


def test_an_rblock_gives_the_model_inside():
    model = small()
    block = ks.RBlock(model)
    assert recalibrated(block, X, in_place=True) is model
    expect(norms(model)[0], model.layers[0](X))


def test_a_loaded_model(tmp_path):
    x = normal(11, 5)
    model = subclassed(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for found in (recalibrated(loaded, x), recalibrated(loaded, x, in_place=True)):
        expect(found.first, x)


def test_a_model_that_cannot_be_copied_says_so():
    class Uncopied(keras.Model):
        def __init__(self, function):
            super().__init__()
            self.norm, self.function = L.BatchNormalization(), function

        def call(self, x):
            return self.norm(self.function(x))

    model = Uncopied(lambda x: 2.0 * x)
    model(X)
    with pytest.raises(ValueError, match=r"`in_place` must be True.*can't be copied"):
        recalibrated(model, X)
    expect(recalibrated(model, X, in_place=True).norm, 2 * X)


# What the data comes in


class Batches(keras.utils.PyDataset):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]


def one_layer():
    return keras.Sequential([Input((4,)), L.BatchNormalization()])


def test_sets_of_batches_with_labels_or_without():
    labels = np.zeros(7)
    for data in (
        Batches(X[:3], X[3:]),
        Batches((X[:3], labels[:3]), (X[3:], labels[3:])),
        [[0.0, 1, 2, 3], [4.0, 6, 8, 10]],
    ):
        (layer,) = norms(recalibrated(one_layer(), data))
        expect(layer, X if isinstance(data, Batches) else np.array(data))


def test_steps_bound_the_batches():
    (layer,) = norms(recalibrated(one_layer(), X, steps=2, batch_size=3))
    expect(layer, X[:6])
    (layer,) = norms(recalibrated(one_layer(), Batches(X[:2], X[2:5], X[5:]), steps=2))
    expect(layer, X[:5])


@pytest.mark.tensorflow
def test_tf_data():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, np.zeros(7))).batch(3)
    (layer,) = norms(recalibrated(one_layer(), data))
    expect(layer, X)
    (layer,) = norms(recalibrated(one_layer(), data.repeat(), steps=4))
    expect(layer, np.concatenate([X, X[:3]]))
    with pytest.raises(ValueError, match="`data` must end"):
        recalibrated(one_layer(), data.repeat())
    with pytest.raises(ValueError, match="`data` must hold at least one sample"):
        recalibrated(one_layer(), data.take(0))


# Bad input; which backend it is makes no difference.


@pytest.mark.tensorflow
def test_bad_arguments_are_named():
    model = one_layer()

    def wrong(name, types, values=()):
        for error, refused in ((TypeError, types), (ValueError, values)):
            refuses(lambda value: recalibrated(model, X, **{name: value}), name, refused, error)

    wrong("steps", [x for x in NO_INT if x is not None], (0, -1))
    wrong("batch_size", NO_INT, (0, -1))
    wrong("in_place", NO_FLAG)
    verbose = lambda value: recalibrate_batch_norm(model, X, verbose=value)  # noqa: E731
    refuses(verbose, "verbose", NO_VERBOSE, TypeError)
    refuses(lambda data: recalibrated(model, data), "data", (None, 1, "text", object()), TypeError)
    with pytest.raises(ValueError, match="`data` must be something that can be gone through again"):
        recalibrated(model, (part for part in [X]))
    with pytest.raises(ValueError, match="`data` must hold at least one sample"):
        recalibrated(model, X[:0])
    no_model = (*NO_TEXT, "model", keras.Model)
    refuses(lambda model: recalibrated(model, X), "model", no_model, TypeError)
    refuses(batch_norm_statistics, "model", no_model, TypeError)
    refuses(lambda model: restore_batch_norm(model, []), "model", no_model, TypeError)
    not_built = keras.Sequential([L.BatchNormalization()])
    refuses(lambda model: recalibrated(model, X), "model", (not_built,), ValueError)
    with pytest.raises(ValueError, match=r"`model` must have a keras.layers.BatchNorm"):
        recalibrated(keras.Sequential([Input((4,)), L.LayerNormalization()]), X)


@pytest.mark.tensorflow
def test_statistics_that_do_not_fit_change_nothing():
    model = one_layer()
    weights, zeros = model.get_weights(), np.zeros(4)
    restore = lambda statistics: restore_batch_norm(model, statistics)  # noqa: E731
    refuses(restore, "statistics", (None, 1, "text", {}, object()), TypeError)
    refuses(restore, "statistics", (np.array(1), np.float32(1)), (TypeError, ValueError))
    for statistics in ([1, 2], [(1, "x")], [(["x"] * 4, ["y"] * 4)], [zeros.tolist()]):
        with pytest.raises(
            (TypeError, ValueError), match="`statistics` must be a list with a mean"
        ):
            restore(statistics)
    for statistics in ([], [(zeros,)], [(np.zeros(3), zeros)], [(zeros, zeros)] * 2, zeros[None]):
        with pytest.raises(ValueError, match=r"`statistics` must be a list.*Received: shapes \["):
            restore(statistics)
    same(model.get_weights(), weights, rtol=0)


@pytest.mark.tensorflow
@pytest.mark.parametrize("loss", ["mse", lambda y_true, y_pred: (y_true - y_pred) ** 2])
def test_a_copy_is_compiled_where_the_model_is(loss):
    x = normal(20, 4)
    model = keras.Sequential([Input((4,)), L.BatchNormalization(), L.Dense(3)])
    model.compile("sgd", loss, metrics=["mae"])
    copy = recalibrated(model, x)
    assert copy.compiled and copy.evaluate(x, x[:, :3], verbose=0)
    if loss == "mse":  # so that three linear units are not taken for the logits of three classes
        found = ks.inference.predict(copy, x).mean
        np.testing.assert_allclose(found, array(copy(x)), rtol=1e-5, atol=1e-6)
