"""Sub-models against the full model, and training mode against inference."""

import functools
import threading

import keras
import numpy as np
import pytest
from refusals import NO_ARRAY, NO_INT, NO_TEXT, refuses
from scipy.special import log_softmax, rel_entr, softmax

import keras_swapout as ks
from keras_swapout.consistency.divergence import Head


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def predictions(seed=0, sub_models=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(7, 4)), rng.normal(size=(sub_models, 7, 4))


def network(*layers, last=None):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation=last)(x))


def data(n=100):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 6)).astype("float32"), rng.integers(0, 3, n)


@pytest.mark.tensorflow
def test_two_way_kl_against_scipy():
    full, sub = predictions()
    p, q = softmax(full, axis=-1), softmax(sub, axis=-1)
    expected = (rel_entr(p, q) + rel_entr(q, p)).sum(-1).mean() / 2
    value = ks.metrics.mean_two_way_kl(log_softmax(full, axis=-1), log_softmax(sub, axis=-1))
    np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.tensorflow
def test_disagreement_counts():
    full, sub = predictions()
    expected = sum(full[n].argmax() != q[n].argmax() for q in sub for n in range(7)) / 35
    assert ks.metrics.disagreement(full, sub) == expected


@pytest.mark.tensorflow
def test_spread_is_the_standard_deviation_over_sub_models():
    _, sub = predictions()
    q = softmax(sub, axis=-1)
    expected = np.sqrt(((q - q.mean(0)) ** 2).sum(0) / 4).mean()
    np.testing.assert_allclose(ks.metrics.spread(log_softmax(sub, axis=-1)), expected)


@pytest.mark.tensorflow
@pytest.mark.parametrize("function", [ks.metrics.mean_two_way_kl, ks.metrics.disagreement])
def test_metrics_name_what_does_not_fit(function):
    full, sub = predictions()
    refuses(lambda x: function(x, sub), "full", NO_ARRAY, TypeError)
    refuses(lambda x: function(full, x), "sub_models", NO_ARRAY, TypeError)
    refuses(lambda axis: function(full, sub, axis), "axis", (*NO_INT, None), TypeError)
    refuses(lambda axis: function(full, sub, axis), "axis", (0, 1, -3, 10**30), ValueError)
    with pytest.raises(ValueError, match=r"`full` and `sub_models`.*\(7, 4\) and \(5, 6, 4\)"):
        function(full, sub[:, :6])
    with pytest.raises(ValueError, match="`full` must not be NaN"):
        function(full * np.nan, sub)


@pytest.mark.tensorflow
def test_spread_needs_two_sub_models():
    refuses(ks.metrics.spread, "sub_models", NO_ARRAY, TypeError)
    for sub in (predictions(sub_models=1)[1], np.zeros((0, 7, 4)), np.zeros(7), 1.0):
        with pytest.raises(ValueError, match=r"`sub_models` must hold .* Received: shape \("):
            ks.metrics.spread(sub)
    with pytest.raises(ValueError, match="`sub_models` must not be NaN"):
        ks.metrics.spread(predictions()[1] * np.nan)


def test_sub_models_are_masks_on_the_full_model():
    """With one hidden layer a sub-model can be written down: the mask is read off a probe."""
    drop = ks.layers.BDropDML(0.5, seed=3, data_format="channels_last")
    model, (x, _) = network(drop), data()
    measure = ks.TrainInferenceConsistency(model, samples=3, batch_size=50)
    state = array(drop.seed_generator.state).copy()
    figures = measure(x)
    # The same draw by hand: three independent views of each batch of fifty.
    first, last = model.layers[1], model.layers[-1]
    hidden = array(first(x))
    drop.seed_generator.state.assign(state)
    logits = []
    for batch in np.split(hidden, 2):
        with ks.views.laid_out(ks.views.Views(3, complementary=False)):
            dropped = drop(np.concatenate([batch] * 3), training=True)
        logits.append(array(last(dropped)).reshape(3, 50, 3))
    sub = log_softmax(np.concatenate(logits, axis=1), axis=-1)
    full = log_softmax(array(model(x)), axis=-1)
    assert figures["disagreement"] == ks.metrics.disagreement(full, sub) > 0
    np.testing.assert_allclose(
        figures["two_way_kl"], ks.metrics.mean_two_way_kl(full, sub), rtol=1e-4
    )
    np.testing.assert_allclose(figures["spread"], ks.metrics.spread(sub), rtol=1e-4)


def test_batch_normalisation_alone_makes_a_gap_and_no_sub_models():
    model, (x, y) = network(keras.layers.BatchNormalization()), data(96)
    figures = ks.TrainInferenceConsistency(model, batch_size=32)(x, y)
    assert figures["two_way_kl"] is figures["disagreement"] is figures["spread"] is None
    training = [array(model(batch, training=True)) for batch in np.split(x, 3)]
    losses = [
        -log_softmax(logits, axis=-1)[np.arange(96), y].mean()
        for logits in (np.concatenate(training), array(network_at_start(model, x)))
    ]
    np.testing.assert_allclose(figures["loss_gap"], abs(losses[0] - losses[1]), rtol=1e-3)


def network_at_start(model, x):
    """The output with the statistics that batch normalisation begins with."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
            layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
    return model(x)


def test_the_model_is_left_as_it_was():
    norm = keras.layers.BatchNormalization()
    frozen = keras.layers.BatchNormalization(trainable=False)
    model, (x, y) = network(norm, keras.layers.Dropout(0.5), frozen), data()
    rblock = ks.RBlock(model)
    before = [array(v) for v in model.variables]
    measure = ks.TrainInferenceConsistency(rblock, samples=2)
    first = measure(x, y)
    assert first == measure(x, y)  # also the masks start again from where they were
    assert norm.trainable and not frozen.trainable
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, array(variable))


def test_binary_outputs():
    model = network(keras.layers.Dropout(0.3), last="sigmoid")
    x, _ = data(64)
    y = np.random.default_rng(2).integers(0, 2, (64, 3))
    figures = ks.TrainInferenceConsistency(model, samples=2)(x, y)
    assert all(np.isfinite(value) and value >= 0 for value in figures.values())
    assert figures["spread"] > 0


def test_noise_at_inference_is_refused():
    class MCDropout(keras.layers.Dropout):
        def call(self, x, training=None):
            return super().call(x, training=True)

    layer = MCDropout(0.5)
    measure = ks.TrainInferenceConsistency(network(layer), samples=2)
    with pytest.raises(ValueError, match=f"{layer.name}.* also draw in inference mode"):
        measure(data()[0])


@pytest.mark.tensorflow
def test_threads_measure_what_one_measures():
    model, (x, y) = network(keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)), data()
    measures = [ks.TrainInferenceConsistency(model, samples=n, batch_size=20) for n in (2, 3)]
    expected, found = [measure(x, y) for measure in measures], {}

    def run(number):
        found[number] = measures[number % 2](x, y)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == expected * 2


@pytest.mark.tensorflow
def test_a_changed_network_is_noticed():
    model, (x, y) = network(keras.layers.Dropout(0.5, seed=1)), data()
    measure = ks.TrainInferenceConsistency(model, samples=2)
    before, last = measure(x, y), model.layers[-1]
    last.enable_lora(2)
    last.lora_kernel_b.assign(np.ones(last.lora_kernel_b.shape))
    after = measure(x, y)
    assert after != before
    assert after == ks.TrainInferenceConsistency(model, samples=2)(x, y)


@pytest.mark.tensorflow
def test_bad_arguments_are_named():
    model = network(keras.layers.Dropout(0.3), last="tanh")
    with pytest.raises(ValueError, match=r"`head`.*'tanh'"):
        ks.TrainInferenceConsistency(model)
    measure = functools.partial(ks.TrainInferenceConsistency, model, head=Head())
    refuses(ks.TrainInferenceConsistency, "model", (*NO_TEXT, "x", keras.Model), TypeError)
    for name, least in (("samples", 2), ("batch_size", 1)):
        refuses(lambda value, name=name: measure(**{name: value}), name, NO_INT, TypeError)
        below = (least - 1, -1)
        refuses(lambda value, name=name: measure(**{name: value}), name, below, ValueError)
    refuses(measure, "samples", (10**6, 10**30), ValueError)
    wrong = [x for x in (*NO_TEXT, "softmax", [Head()]) if x is not None]
    refuses(lambda head: ks.TrainInferenceConsistency(model, head=head), "head", wrong, TypeError)
    with pytest.raises(ValueError, match=r"`head` must be .* Received: head=Head\(distrib.*=None"):
        ks.TrainInferenceConsistency(model, head=Head(None))
    other = keras.Input((6,))
    several = [
        keras.Model(model.inputs, [model.outputs[0], model.outputs[0]]),
        keras.Model([*model.inputs, other], model.outputs[0]),
    ]
    for model in several:
        with pytest.raises(ValueError, match=r"`model` must be .* one input and one output"):
            ks.TrainInferenceConsistency(model, head=Head())


@pytest.mark.tensorflow
def test_a_subclassed_network_with_two_outputs_is_refused():
    class Two(keras.Model):
        def call(self, inputs):
            return inputs, inputs

    measure = ks.TrainInferenceConsistency(Two(), head=Head())
    with pytest.raises(ValueError, match=r"`model` must be .* one output"):
        measure(data(8)[0])


@pytest.mark.tensorflow
def test_bad_data_is_named():
    layers = [keras.Input((6,)), keras.layers.Dropout(0.3), keras.layers.Dense(3)]
    measure = ks.TrainInferenceConsistency(keras.Sequential(layers), 2, batch_size=8)
    x, y = data(8)
    refuses(measure, "x", NO_ARRAY, TypeError)
    refuses(measure, "x", (x[:0], np.float32(1), [], 2), ValueError)
    with pytest.raises(ValueError, match="`x` must be inputs whose predictions are not NaN"):
        measure(x * np.nan)
    for labels in [x for x in NO_ARRAY if x is not None]:
        with pytest.raises(
            TypeError, match=r"`y` must be whole numbers in 0 \.\. 2 of shape \(8,\)"
        ):
            measure(x, labels)
    for labels, received in [
        (1, r"shape \(\)"),
        (y[:5], r"shape \(5,\)"),
        (np.eye(3)[y], r"shape \(8, 3\)"),
        (y + 1, r"1 \.\. 3"),
        (y - 1, r"-1 \.\. 1"),
        (y + 0.5, r"0\.5 \.\. 2\.5"),
        (y * np.nan, "nan"),
    ]:
        with pytest.raises(ValueError, match=rf"`y` must be whole numbers in 0 \.\. 2.*{received}"):
            measure(x, labels)
    expected = measure(x, y)
    for labels in (y.tolist(), y * 1.0, y[:, None], keras.ops.convert_to_tensor(y)):
        assert measure(x.tolist(), labels) == pytest.approx(expected, rel=1e-5)
