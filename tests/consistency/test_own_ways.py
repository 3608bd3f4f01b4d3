"""R-Block and what a network brings along: steps, added losses; alpha as a variable; export."""

import warnings

import keras
import numpy as np
import pytest
from test_rblock import (
    BACKEND,
    CROSSENTROPY,
    GRAPH,
    QUICK,
    Nothing,
    array,
    network,
    per_sample_loss,
    samples,
    step,
    trained_by,
    views,
)

import keras_swapout as ks
from keras_swapout.layers import BDropDML

pytestmark = pytest.mark.skipif(BACKEND == "numpy", reason="NumPy does not train")


# Steps


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name",
    [
        "train_step",
        "test_step",
        "predict_step",
        "compute_loss",
        "compute_metrics",
        "make_train_function",
    ],
)
def test_a_network_with_a_step_of_its_own_is_refused(name):
    def own(self, *args, **kwargs):
        return getattr(super(Own, self), name)(*args, **kwargs)

    Own = type("Own", (keras.Model,), {name: own})
    plain = network()
    with pytest.raises(ValueError, match=f"`model` must be .*own training step.*own {name}\\."):
        ks.RBlock(Own(plain.inputs, plain.outputs))


@pytest.mark.tensorflow
def test_a_task_loss_of_ones_own():
    class Own(ks.RBlock):
        def task_loss(self, x, y, y_pred, sample_weight=None, training=True):
            loss = super().task_loss(x, y, y_pred, sample_weight, training)
            return loss + 3 * keras.ops.mean(keras.ops.square(y_pred[:, 0]))

    x, y = samples()
    pair = views(network(), x)[0]
    expected = np.mean(
        [per_sample_loss(CROSSENTROPY, y, p).mean() + 3 * np.square(p[:, 0]).mean() for p in pair]
    )
    rblock = Own(network())
    rblock.compile("sgd", CROSSENTROPY, **QUICK)
    assert step(rblock, x, y)["task_loss"] == pytest.approx(expected, rel=1e-5)


# Losses that layers add


@keras.saving.register_keras_serializable("test_own_ways")
class Sum(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(0.01 * keras.ops.sum(keras.ops.square(inputs)))
        return inputs


@keras.saving.register_keras_serializable("test_own_ways")
class Norm(keras.layers.Layer):
    """Of a batch that is there twice neither the same nor the double."""

    def call(self, inputs):
        self.add_loss(keras.ops.norm(inputs))
        return inputs


@keras.saving.register_keras_serializable("test_own_ways")
class InTraining(keras.layers.Layer):
    def call(self, inputs, training=False):
        if training:
            self.add_loss(keras.ops.mean(inputs))
        return inputs


def adding(*layers):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    z = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
    for layer in layers:
        z = layer(z)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(z))


def test_a_sum_that_a_layer_adds_counts_once_before_and_after_the_fork():
    x, y = samples()
    model = adding(Sum(), BDropDML(0.5, seed=1), Sum())
    hidden = array(keras.Model(model.input, model.layers[1].output)(x))
    drop = keras.Sequential([keras.Input((8,)), BDropDML(0.5, seed=1)])
    expected = 0.01 * np.square(hidden).sum()
    expected += np.mean([0.01 * np.square(view).sum() for view in views(drop, hidden)[0]])
    expected += 0.1 * np.square(model.layers[1].get_weights()[0]).sum()
    expected += np.mean([per_sample_loss(CROSSENTROPY, y, p).mean() for p in views(model, x)[0]])
    state = model.layers[3].seed_generator.state
    state.assign([1, 0])
    rblock = trained_by(model)
    np.testing.assert_array_equal(array(state), [1, 0])  # to try it leaves no trace
    assert step(rblock, x, y)["task_loss"] == pytest.approx(expected, rel=1e-5)


def test_of_a_fork_of_a_part_a_sum_counts_every_sample_once():
    """Where both views are equal it is plain training, but for which samples weigh double."""
    x, y = np.tile(samples(1)[0], (8, 1)), samples()[1]
    plain = adding(keras.layers.Dropout(0.0), Sum())
    plain.compile("sgd", CROSSENTROPY, **QUICK)
    expected = plain.train_on_batch(x, y, return_dict=True)["loss"]

    logs = step(trained_by(adding(Nothing(), Sum()), fraction=0.25), x, y)
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["argument", "layer"])
def test_activity_regularisers_count_once(kind):
    """Of a batch that is there twice Keras' value is that of the batch, or it is made so."""
    x, y = np.tile(samples(1)[0], (8, 1)), samples()[1]

    def model(random_layer):
        keras.utils.set_random_seed(1)
        if kind == "layer":
            last = keras.layers.ActivityRegularization(l2=0.1)
        else:
            last = keras.layers.Dense(4, activity_regularizer=keras.regularizers.L2(0.1))
        return adding(random_layer, last)

    plain = model(keras.layers.Dropout(0.0))
    plain.compile("sgd", CROSSENTROPY, **QUICK)
    expected = plain.train_on_batch(x, y, return_dict=True)["loss"]
    made = model(Nothing())
    assert step(trained_by(made), x, y)["task_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "make",
    [
        lambda: adding(BDropDML(0.5), InTraining()),
        lambda: adding(BDropDML(0.5), Norm()),
        "subclassed",
    ],
)
def test_an_added_loss_of_which_a_trial_does_not_tell_warns(make):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [BDropDML(0.5, seed=1), Sum(), keras.layers.Dense(3, "softmax")]

        def call(self, inputs):
            for part in self.parts:
                inputs = part(inputs)
            return inputs

    rblock = trained_by(Subclassed() if make == "subclassed" else make())
    with pytest.warns(UserWarning, match="Layers add losses.*could not tell"):
        step(rblock, *samples())


@pytest.mark.tensorflow
def test_means_that_layers_add_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        step(
            trained_by(adding(BDropDML(0.5), keras.layers.ActivityRegularization(0.1))), *samples()
        )


# alpha: its variable is what is in force


def test_alpha_is_what_its_variable_holds(tmp_path):
    x, y = samples()
    one, other = trained_by(network(), alpha=0.1), trained_by(network(), alpha=2.0)
    assert (one.alpha, other.alpha) == (0.1, 2.0)
    other.set_weights(one.get_weights())
    assert other.alpha == other.get_config()["alpha"] == 0.1
    logs = step(other, x, y)
    assert logs["loss"] == pytest.approx(logs["task_loss"] + 0.1 * logs["consistency"], rel=1e-5)
    one.alpha = 0.7
    one.save(tmp_path / "rblock.keras")
    assert keras.saving.load_model(tmp_path / "rblock.keras").alpha == 0.7
    one.save_weights(tmp_path / "rblock.weights.h5")
    other.load_weights(tmp_path / "rblock.weights.h5")
    assert other.alpha == pytest.approx(0.7, abs=0)


def test_alpha_goes_back_with_the_best_weights():
    x, y = samples()
    rblock = trained_by(network(), alpha=0.1, mode=GRAPH, optimizer=keras.optimizers.SGD(-0.5))

    def rise(epoch, logs):
        rblock.alpha = 0.1 + 0.2 * epoch  # of the model, which no callback has been asked for

    rising = keras.callbacks.LambdaCallback(on_epoch_begin=rise)
    stop = keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
    history = rblock.fit(x, y, epochs=9, callbacks=[rising, stop], verbose=0).history
    in_force = np.subtract(history["loss"], history["task_loss"]) / history["consistency"]
    np.testing.assert_allclose(in_force, [0.1, 0.3, 0.5], rtol=1e-3)
    assert rblock.alpha == 0.1
    assert rblock.get_weights()[[w.name for w in rblock.weights].index("alpha")] == np.float32(0.1)


# What ships


@pytest.mark.tensorflow
def test_export_is_that_of_the_network(tmp_path):
    x, y = samples()
    rblock = trained_by(network(), mode=GRAPH)
    rblock.fit(x, y, verbose=0)
    rblock.export(tmp_path / "exported", verbose=False)
    served = keras.layers.TFSMLayer(tmp_path / "exported", call_endpoint="serve")
    np.testing.assert_allclose(array(served(x)), rblock.predict(x, verbose=0), rtol=1e-5)
