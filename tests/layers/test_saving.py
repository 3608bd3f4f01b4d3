import copy
import json
import pickle

import keras
import numpy as np
import pytest

from keras_swapout.layers import ResidualDropout, SkipForward, StochasticDepth, Swapout

LAYERS = [
    Swapout(0.7, 0.4, granularity="channel", seed=5, data_format="channels_first", name="first"),
    Swapout(0.7, 0.3, coupling="complementary", rescale=True, dtype="float16"),
    SkipForward(0.9, seed=0, granularity="sample"),
    ResidualDropout(0.2, rescale=True, seed=2**31 - 1, shortcut=1),
    StochasticDepth(0.8),
    StochasticDepth(0.8, granularity="sample", seed=3, trainable=False),
]


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def small_model():
    inputs = keras.Input((6,))
    fx = keras.layers.Dense(6)(inputs)
    x = Swapout(0.6, 0.4, seed=5)([inputs, fx])
    x = StochasticDepth(0.5, granularity="unit")([x, fx])  # a seed of Keras' choice
    return keras.Model(inputs, x)


def draws(model, times):
    x = np.random.default_rng(1).normal(size=(32, 6)).astype("float32")
    return [array(model(x, training=True)) for _ in range(times)]


def test_model_goes_on_where_it_was_saved(tmp_path):
    model = small_model()
    before = draws(model, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    after = draws(model, 3)
    np.testing.assert_array_equal(draws(loaded, 3), after)
    assert len({y.tobytes() for y in before + after}) == 6


def test_weights_file_keeps_the_place(tmp_path):
    model, other = small_model(), small_model()
    draws(model, 2)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(draws(other, 2), draws(model, 2))


def test_a_legacy_file_has_no_place_for_the_place(tmp_path):
    """As the docstrings say: weights alone are in it, and the masks begin again."""
    inputs = keras.Input((6,))
    model = keras.Model(inputs, Swapout(0.6, 0.4, seed=5)([inputs, inputs]))
    first, _ = draws(model, 2)
    model.save(tmp_path / "model.h5")
    loaded = keras.saving.load_model(tmp_path / "model.h5")
    np.testing.assert_array_equal(draws(loaded, 1)[0], first)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_go_on_by_themselves(copied):
    model = small_model()
    draws(model, 2)
    twin = copied(model)
    after = draws(twin, 2)
    np.testing.assert_array_equal(draws(model, 2), after)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_config_round_trip(layer):
    config = layer.get_config()
    again = type(layer).from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config
    names = ["theta_1", "theta_2", "coupling", "granularity", "seed", "rescale", "data_format"]
    for name in [*names, "shortcut", "name"]:
        assert getattr(again, name) == getattr(layer, name)
    assert again.trainable == layer.trainable and again.dtype_policy == layer.dtype_policy


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_registered_layer_needs_no_custom_objects(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer) and again.get_config() == layer.get_config()


@pytest.mark.tensorflow
def test_special_cases_store_only_their_own_arguments():
    names = {"theta_1", "theta_2", "coupling"}
    for layer in (SkipForward(0.3), ResidualDropout(0.3), StochasticDepth(0.3)):
        assert not names & set(layer.get_config())
    assert SkipForward(0.3).get_config()["theta"] == 0.3
    assert StochasticDepth(0.3).get_config()["survival_probability"] == 0.3


def test_clone_and_json():
    model = small_model()
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    clones = [keras.models.clone_model(model), keras.models.model_from_json(model.to_json())]
    for clone in clones:
        clone.set_weights(model.get_weights())
        np.testing.assert_array_equal(array(clone(x)), array(model(x)))
        seeds = [[layer.seed for layer in m.layers if isinstance(layer, Swapout)] for m in
                 (clone, model)]  # fmt: skip
        assert seeds[0] == seeds[1] == [5, None]
    # The clone starts at its seed's first step, whatever the original has drawn meanwhile.
    draws(model, 2)
    clone = keras.models.clone_model(model)
    ones = np.ones((64, 8), "float32")
    fresh = Swapout(0.6, 0.4, seed=5)([ones, ones], training=True)
    (cloned,) = (layer for layer in clone.layers if getattr(layer, "seed", None) == 5)
    np.testing.assert_array_equal(array(cloned([ones, ones], training=True)), array(fresh))


@pytest.mark.tensorflow
def test_saved_model(tmp_path):
    import tensorflow as tf

    model = small_model()
    draws(model, 1)
    model.export(tmp_path / "exported", verbose=False)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    reloaded = tf.saved_model.load(tmp_path / "exported")
    served = reloaded.serve(x)
    np.testing.assert_allclose(served, model.predict(x, verbose=0), rtol=1e-6, atol=1e-6)
