"""Training with `fit` in all the ways Keras offers."""

import logging

import keras
import numpy as np
import pytest

import keras_swapout as ks
from keras_swapout.layers import StochasticDepth, Swapout

BACKEND = keras.backend.backend()
COMPILED = BACKEND == "jax"  # which is too slow without, and compiles fast
pytestmark = pytest.mark.skipif(BACKEND == "numpy", reason="NumPy does not train")


@pytest.fixture(scope="module")
def digits():
    """Ten 8x8 patterns with noise: 256 samples and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 256)
    patterns = rng.uniform(0, 1, (10, 8, 8, 1))
    images = patterns[labels] + rng.normal(0, 0.2, (256, 8, 8, 1))
    return images.astype("float32"), labels.astype("int32")


def small_model(**compile_arguments):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(32, activation="relu")(keras.layers.Flatten()(inputs))
    fx = keras.layers.Dense(32, activation="relu")(x)
    x = Swapout(0.9, 0.7, seed=1)([x, fx])
    fx = keras.layers.Dense(32, activation="relu")(x)
    x = StochasticDepth(0.8, granularity="sample", seed=2)([x, fx])
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    compile_arguments.setdefault("optimizer", keras.optimizers.SGD(0.1, momentum=0.9))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, **compile_arguments)
    return model


def fit(model, digits, epochs=2):
    history = model.fit(*digits, batch_size=64, epochs=epochs, shuffle=False, verbose=0)
    return history.history["loss"]


MODES = [dict(jit_compile=False), dict(jit_compile=True, steps_per_execution=2)]


@pytest.fixture(scope="module")
def losses(digits):
    """Those of an eager run, the reference for the compiled ones; to JAX that is too slow."""
    return fit(small_model(run_eagerly=not COMPILED, jit_compile=COMPILED), digits)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_mode_trains_alike(mode, digits, losses):
    if BACKEND == "torch" and mode != dict(jit_compile=False):
        pytest.skip("torch: no steps_per_execution, and torch.compile needs a C++ compiler")
    if BACKEND == "jax" and not mode["jit_compile"]:
        pytest.skip("JAX is too slow without")
    # One seed, one sequence of masks: only rounding tells the modes apart.
    np.testing.assert_allclose(fit(small_model(**mode), digits), losses, rtol=2e-3)


def test_gradient_accumulation(digits):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)
    losses = fit(small_model(optimizer=optimizer, jit_compile=COMPILED), digits, 5)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("policy", ["mixed_float16"])  # the one of which the loss is scaled
def test_mixed_precision(policy, digits):
    keras.config.set_dtype_policy(policy)
    try:
        model = small_model(optimizer=keras.optimizers.Adam(3e-3), jit_compile=COMPILED)
    finally:
        keras.config.set_dtype_policy("float32")
    losses = fit(model, digits, 5)
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (
        policy == "mixed_float16"
    )
    assert {str(weight.dtype) for weight in model.trainable_weights} == {"float32"}


def test_predict_is_deterministic_and_draws_nothing(digits):
    model = small_model(jit_compile=COMPILED)
    fit(model, digits, 1)
    layer = next(layer for layer in model.layers if type(layer) is Swapout)
    state = keras.ops.convert_to_numpy(layer.seed_generator.state.value).tolist()
    assert state == [1, 4]  # one step of the generator for each of the 4 batches
    first = model.predict(digits[0], batch_size=64, verbose=0)
    np.testing.assert_array_equal(first, model.predict(digits[0], batch_size=64, verbose=0))
    np.testing.assert_allclose(
        first, model.predict(digits[0], batch_size=50, verbose=0), rtol=1e-4, atol=1e-5
    )
    model.evaluate(*digits, verbose=0)
    assert keras.ops.convert_to_numpy(layer.seed_generator.state.value).tolist() == state


@pytest.mark.tensorflow
def test_no_warning_in_training(digits, caplog):
    merge = ks.schedules.per_block(ks.layers.Swapout, theta_1=(1, 0.5), theta_2=(0.9, 0.5))
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    for block in range(6):  # TensorFlow warns of a function that it traces for five shapes
        x = keras.layers.Dense(10 + block)(x)
        x = merge(block, 6)([x, keras.layers.Dense(10 + block)(x)])
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)  # it does not pass its records on to the root
    try:
        model.fit(digits[0][:80], digits[1][:80], batch_size=32, epochs=1, verbose=0)
    finally:
        logger.removeHandler(caplog.handler)
    assert not [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("tokens", [([1, 2, 0, 0], [1, 2, 3, 0]), ([1, 0, 0, 0], [1, 0, 0, 0])])
def test_masks_pass_as_through_add(tokens):
    """Of two masked sequences the average reads the positions that `Add` lets through."""

    def averaged(layer):
        keras.utils.set_random_seed(2)
        a, b = keras.Input((4,)), keras.Input((4,))
        both = [keras.layers.Embedding(5, 3, mask_zero=True)(tokens) for tokens in (a, b)]
        model = keras.Model([a, b], keras.layers.GlobalAveragePooling1D()(layer(both)))
        return keras.ops.convert_to_numpy(model([np.array([ids]) for ids in tokens]))

    added = averaged(keras.layers.Add())
    np.testing.assert_allclose(averaged(Swapout(1, 1)), added, rtol=1e-6)
    np.testing.assert_allclose(averaged(Swapout(0.5, 0.5)), 0.5 * added, rtol=1e-6)


def test_a_mask_on_one_side_stops_as_at_add():
    mask = np.array([[True, False]])
    x = np.ones((1, 2, 3), "float32")
    for layer in (keras.layers.Add(), Swapout()):
        for masks in ([mask, None], [None, mask], [None, None]):
            assert layer.compute_mask([x, x], masks) is None
