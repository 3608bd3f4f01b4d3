"""Probabilities that change between training steps, and what has been compiled stays in use.

Whether it does is seen from outside: Python code inside a layer or a loss runs only while Keras
traces, so a list that it appends to counts the traces.
"""

import copy
import itertools
import random

import keras
import numpy as np
import pytest
from backends import reduced
from scipy import stats

import keras_swapout as ks
from keras_swapout.layers import (
    BDropDML,
    DropBlock2D,
    Dropout,
    DropPath,
    ResidualDropout,
    SDropDML,
    SkipForward,
    StochasticDepth,
    Swapout,
)
from keras_swapout.tuning.restart import start_as

BACKEND = keras.backend.backend()
compiles = BACKEND in ("tensorflow", "jax")
pytestmark = pytest.mark.skipif(not compiles, reason=f"{BACKEND} compiles nothing")
#: A fixed seed draws once; a correct sampler fails one seed in 1000.
P = 1e-3
#: A layer, its other arguments, its probabilities (its first arguments) and what they become.
CASES = [
    (Swapout, dict(granularity="channel", rescale=True), (0.7, 0.4), (0.2, 0.9)),
    (Swapout, dict(coupling="complementary", granularity="batch"), (0.7, 0.3), (0.2, 0.8)),
    (SkipForward, {}, (0.7,), (0.2,)),
    (ResidualDropout, dict(granularity="sample"), (0.7,), (0.2,)),
    (StochasticDepth, dict(rescale=True), (0.7,), (0.2,)),
    (BDropDML, {}, (0.3,), (0.6,)),
    (SDropDML, dict(block_size=3, per_channel=True), (0.3,), (0.6,)),
    (DropBlock2D, dict(block_size=2), (0.3,), (0.6,)),
    (Dropout, {}, (0.3,), (0.6,)),
    (DropPath, dict(rescale=False), (0.3,), (0.6,)),
]
#: To compile, one of each kind of kernel is enough: the others call these.
COMPILED = [CASES[i] for i in (0, 3, 6, 7, 9)]


def array(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def at_the_step_of(layer, twin):
    """`twin`, to draw what `layer` draws next."""
    twin.seed_generator.state.assign(layer.seed_generator.state)
    return twin


def compiled(layer):
    """(step, traces): step(inputs) is a compiled training call."""
    traces = []
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def step(inputs):
            traces.append(1)
            return layer(inputs, training=True)

        return lambda inputs: step(keras.tree.map_structure(tf.constant, inputs)), traces
    import jax

    @jax.jit
    def pure(state, inputs):
        traces.append(1)
        return layer.stateless_call([], state, inputs, training=True)

    def step(inputs):
        y, state = pure([v.value for v in layer.non_trainable_variables], inputs)
        for variable, value in zip(layer.non_trainable_variables, state, strict=True):
            variable.assign(value)
        return y

    return step, traces


def masked_model(layer, size, learning_rate=0.0, alpha=None):
    """(model, traces): the loss is the mean output of `layer` on w_1 x and w_2 x, w_i = i."""
    traces = []

    def mean_output(y_true, y_pred):
        traces.append(1)
        return y_pred

    def weighted(x, value):
        start = keras.initializers.Constant(value)
        return keras.layers.EinsumDense("bi,i->bi", (size,), kernel_initializer=start)(x)

    inputs = keras.Input((size,))
    x, fx = weighted(inputs, 1), weighted(inputs, 2)
    dropped = layer([x, fx]) if isinstance(layer, Swapout) else layer(x + fx)
    model = keras.Model(inputs, dropped)
    model = model if alpha is None else ks.RBlock(model, alpha, divergence="mse")
    model.compile(keras.optimizers.SGD(learning_rate), mean_output, jit_compile=True)
    return model, traces


def regression(
    theta=0.5,
    rate=0.3,
    alpha=1.0,
    seed=0,
    width=6,
    loss="mse",
    learning_rate=0.05,
    noise=0.2,
    eager=BACKEND == "tensorflow",
):
    """An RBlock with all that training changes; `noise` is Keras' own, whose place isn't saved."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(width)(inputs))
    fx = keras.layers.Dropout(noise)(keras.layers.Dense(width, activation="tanh")(x))
    x = Swapout(theta, 0.5, adjustable=True, name="merge")([x, fx])
    x = BDropDML(rate, adjustable=True, name="drop")(x)
    model = ks.RBlock(keras.Model(inputs, keras.layers.Dense(1)(x)), alpha, divergence="mse")
    mode = dict(jit_compile=BACKEND == "jax", run_eagerly=eager)
    model.compile(keras.optimizers.Adam(learning_rate), loss, **mode)
    return model


@pytest.fixture(scope="module")
def data():
    return normal(16, 6), normal(16, 1)


def fit(model, x, y=None, epochs=1, **arguments):
    """One step an epoch, on the whole of x; the losses."""
    arguments |= dict(batch_size=len(x), epochs=epochs, shuffle=False, verbose=0)
    return model.fit(x, x if y is None else y, **arguments).history["loss"]


# --- the layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make, arguments, before, after", COMPILED)
def test_layer_is_the_constant_one_before_and_after(make, arguments, before, after):
    layer = make(*before, **arguments, seed=3, adjustable=True)
    x = normal(4, 5, 6, 3)
    inputs = [x, x[::-1].copy()] if isinstance(layer, Swapout) else x
    step, traces = compiled(layer)
    for values in (before, after):
        layer.adjust(**dict(zip(make.arguments, values, strict=False)))
        constant = at_the_step_of(layer, make(*values, **arguments, seed=3))
        drawn = [array(step(inputs)) for _ in range(2)]
        expected = [array(constant(inputs, training=True)) for _ in range(2)]
        np.testing.assert_array_equal([y == 0 for y in drawn], [y == 0 for y in expected])
        np.testing.assert_allclose(drawn, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(array(layer(inputs)), array(constant(inputs)), rtol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("thetas", itertools.product([0.0, 1.0], [0.0, 1.0]))
def test_zero_and_one_are_exact(thetas):
    x, fx = normal(2, 256, 512)
    layer = Swapout(0.5, 0.5, seed=3, adjustable=True)
    layer.adjust(theta_1=thetas[0], theta_2=thetas[1])
    for training in (True, False):
        y = array(layer([x, fx], training=training))
        np.testing.assert_array_equal(y, thetas[0] * x + thetas[1] * fx)


@pytest.mark.parametrize("theta", reduced([2.0**-16, 1 - 2.0**-16, 1.0], 2.0**-16))
def test_rescaled_ends_are_finite(theta):
    x, fx = normal(2, 64, 64)
    layer = Swapout(0.5, 0.5, rescale=True, seed=3, adjustable=True)
    layer.adjust(theta_1=theta, theta_2=theta)
    y = array(layer([x, fx], training=True))
    assert np.isfinite(y).all() and (theta < 1 or (y == x + fx).all())
    for make in (BDropDML, SDropDML, DropBlock2D, Dropout, DropPath):
        layer = make(0.5, seed=3, adjustable=True)
        layer.adjust(rate=1 - theta)
        y = array(layer(normal(4, 8, 8, 2), training=True))
        assert np.isfinite(y).all() and (theta < 1 or (y == normal(4, 8, 8, 2)).all())


@pytest.mark.tensorflow  # every backend draws the same bits
@pytest.mark.parametrize(
    "layer, name, one",
    [
        (Swapout(0.0, 0.5, adjustable=True), "theta_2", np.s_[:]),
        (BDropDML(0.5, adjustable=True), "rate", np.s_[:, 0, 0]),
        (SDropDML(0.5, block_size=3, adjustable=True), "rate", np.s_[:, 0, 0, 0]),
        (DropBlock2D(0.5, block_size=1, adjustable=True), "rate", np.s_[:]),
        (DropPath(0.5, adjustable=True), "rate", np.s_[:, 0, 0, 0]),
    ],
)
def test_frequencies_after_adjust(layer, name, one):
    """One unit for each draw: their number is within the 99.9 % interval of Binomial(n, p)."""
    layer.seed_generator.state.assign([5, 0])
    layer.adjust(**{name: 0.137})
    x = np.ones((4000, 3, 3, 2), "float32")
    y = array(layer([0 * x, x] if isinstance(layer, Swapout) else x, training=True))[one]
    hits = y == 0 if name == "rate" else y != 0
    assert stats.binomtest(int(hits.sum()), hits.size, 0.137).pvalue > P


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_precisions(policy, draw):
    layer = Swapout(0.5, 0.5, seed=1, adjustable=True, dtype=policy)
    layer.adjust(theta_1=0.75, theta_2=0.3)
    x = keras.ops.ones((16, 33), policy.removeprefix("mixed_"))
    drawn, inferred = layer([x, 2 * x], training=True), layer([x, 2 * x])
    dtypes = {keras.backend.standardize_dtype(y.dtype) for y in (drawn, inferred)}
    assert dtypes == {policy.removeprefix("mixed_")}
    theta_1, theta_2 = draw(Swapout(0.75, 0.3, seed=1), (16, 33))
    np.testing.assert_array_equal(array(drawn), theta_1 + 2.0 * theta_2)
    np.testing.assert_allclose(array(inferred), 0.75 + 2 * 0.3, rtol=2**-7)


@pytest.mark.tensorflow
def test_dynamic_batch(draw):
    import tensorflow as tf

    layer = Swapout(0.7, 0.4, seed=9, adjustable=True)
    unknown = [tf.TensorSpec((None, 6), tf.float32)]
    step = tf.function(lambda x: layer([x, 2 * x], training=True), unknown, jit_compile=True)
    for samples, theta in [(5, 0.7), (1, 0.2), (8, 0.9)]:
        layer.adjust(theta_1=theta)
        masks = draw(at_the_step_of(layer, Swapout(theta, 0.4, seed=9)), (samples, 6))
        np.testing.assert_array_equal(step(tf.ones((samples, 6))), masks[0] + 2.0 * masks[1])
    assert step.experimental_get_tracing_count() == 1


def test_adjust_leaves_the_global_generator_alone():
    layer, before = Swapout(seed=1, adjustable=True), random.getstate()
    layer.adjust(theta_1=0.2)
    assert random.getstate() == before


# --- compiled models -----------------------------------------------------------------------------


def test_model_is_compiled_once():
    x, counts = normal(8, 6), []
    layer = Swapout(0.7, 0.4, seed=3, adjustable=True)
    model, traces = masked_model(layer, 6)
    for thetas in [(0.7, 0.4), (0.2, 0.9)]:
        layer.adjust(theta_1=thetas[0], theta_2=thetas[1])
        constant = at_the_step_of(layer, Swapout(*thetas, seed=3))
        inputs = [x, 2 * x]
        expected = [array(constant(inputs, training=True)).mean() for _ in range(2)]
        np.testing.assert_allclose(fit(model, x, epochs=2), expected, rtol=1e-5, atol=1e-6)
        y = model.predict(x, verbose=0)
        np.testing.assert_allclose(y, array(constant(inputs)), rtol=1e-5)
        counts.append(len(traces))
    assert counts[0] == counts[1] > 0


def test_gradient_after_adjust_in_a_batch_of_one(draw):
    """d mean(Theta_1 w_1 x + Theta_2 w_2 x) / dw_i = Theta_i x / n."""
    x = normal(1, 64)
    layer = Swapout(0.5, 0.5, seed=8, adjustable=True)
    model, _ = masked_model(layer, 64, learning_rate=64.0)  # of the mean, so 1 of the sum
    fit(model, x)
    layer.adjust(theta_1=0.2, theta_2=0.8)
    masks = draw(at_the_step_of(layer, Swapout(0.2, 0.8, seed=8)), (1, 64))
    before = model.get_weights()[:2]
    fit(model, x)
    for mask, start, stop in zip(masks, before, model.get_weights()[:2], strict=True):
        np.testing.assert_allclose(start - stop, (mask * x)[0], rtol=1e-4, atol=1e-5)


def test_fork_and_predictor_see_the_probabilities_of_now():
    x, layer, inputs = normal(8, 6), BDropDML(0.1, seed=2, adjustable=True), keras.Input((6,))
    dropped = layer(inputs)
    forked = ks.fork(keras.Model(inputs, dropped), views=2)
    predict = ks.inference.Predictor(keras.Model(inputs, keras.layers.Softmax()(dropped)), 4)
    assert predict(x, seed=0).variance.max() > 0
    layer.adjust(rate=0.5)
    views = np.split(array(forked(x, training=True)), 2)
    np.testing.assert_allclose(sum(views), 2 * x, rtol=1e-6)  # complements
    layer.adjust(rate=0)
    prediction = predict(x, seed=0)
    np.testing.assert_allclose(prediction.mean, array(keras.ops.softmax(x)), rtol=1e-5)
    np.testing.assert_allclose(prediction.variance, 0, atol=1e-9)


def test_alpha_counts_from_the_next_step_on():
    """loss = mean of both views + alpha * mean of (v_1 - v_2)^2, here in NumPy."""
    x, layer, inputs = normal(8, 6), BDropDML(0.5, seed=4, adjustable=True), keras.Input((6,))
    model, traces = masked_model(layer, 6, alpha=1.0)
    counts = []
    for alpha, rate in [(1.0, 0.5), (0.25, 0.5), (3, 0.2), (0, 0.2)]:
        model.alpha = alpha
        layer.adjust(rate=rate)
        twin = at_the_step_of(layer, BDropDML(rate, seed=4))
        views = ks.fork(keras.Model(inputs, twin(inputs)), views=2)(3 * x, training=True)
        first, second = np.split(array(views), 2)
        expected = (first + second).mean() / 2 + alpha * np.mean((first - second) ** 2)
        assert fit(model, x) == [pytest.approx(expected, rel=1e-4, abs=1e-5)]
        counts.append(len(traces))
    assert model.alpha == 0 and counts == counts[:1] * 4


def test_alpha_refuses():
    network = regression().model
    schedule = keras.optimizers.schedules.CosineDecay(1.0, 10)
    number, scheduled = ks.RBlock(network, 0.5), ks.RBlock(network, schedule)
    for model, value, error in [
        (number, -1, ValueError),
        (number, float("nan"), ValueError),
        (number, "1", TypeError),
        (number, schedule, ValueError),
        (scheduled, 1.0, ValueError),
    ]:
        with pytest.raises(error, match="`alpha`"):
            model.alpha = value
    assert number.alpha == 0.5


# --- saving --------------------------------------------------------------------------------------


def test_saved_model_goes_on_as_it_was(tmp_path, data):
    model = regression(noise=0)
    merge, drop = (model.model.get_layer(name) for name in ("merge", "drop"))
    fit(model, *data)
    merge.adjust(theta_1=0.9)
    drop.adjust(rate=0.1)
    merge.ramp.assign(0.25)
    model.alpha = 0.3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    merge, drop = (loaded.model.get_layer(name) for name in ("merge", "drop"))
    assert merge.adjustments() == dict(theta_1=0.9, theta_2=0.5) and float(merge.ramp) == 0.25
    assert drop.rate == 0.1 and loaded.alpha == 0.3
    np.testing.assert_allclose(fit(loaded, *data), fit(model, *data), rtol=1e-5)


class Adjusting(keras.callbacks.Callback):
    """theta_1 of the layer "merge" in each epoch; loss = epoch, so that the first one is best."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_begin(self, epoch, logs=None):
        self.model.get_layer("merge").adjust(theta_1=self.values[epoch])

    def on_epoch_end(self, epoch, logs=None):
        logs["loss"] = epoch


def merging(theta_1=0.5, theta_2=0.5):
    """theta_1 x + theta_2 W x at inference, W = 2."""
    inputs = keras.Input((6,))
    fx = keras.layers.EinsumDense(
        "bi,i->bi", (6,), kernel_initializer=keras.initializers.Constant(2)
    )
    merge = Swapout(theta_1, theta_2, adjustable=True, name="merge", seed=1)
    model = keras.Model(inputs, merge([inputs, fx(inputs)]))
    model.compile(keras.optimizers.SGD(0.0), keras.losses.MeanSquaredError())
    return model


def through_a_file(name):
    def again(model, folder):
        model.save(folder / name)
        return keras.saving.load_model(folder / name)

    return again


def through_weights(model, folder):
    model.save_weights(folder / "model.weights.h5")
    twin = merging(0.1, 0.1)
    twin.load_weights(folder / "model.weights.h5")
    return twin


def through_memory(model, folder):
    twin = merging(0.1, 0.1)
    twin.set_weights(model.get_weights())
    return twin


COPIES = [
    through_a_file("model.keras"),
    through_a_file("model.h5"),
    through_weights,
    through_memory,
    lambda model, folder: keras.models.clone_model(model),
    lambda model, folder: copy.deepcopy(model),
]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_what_is_in_force_is_what_is_said_and_kept(tmp_path):
    x, model = normal(8, 6), merging()
    stop = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
    fit(model, x, epochs=3, callbacks=[Adjusting([0.3, 0.6, 0.9]), stop])
    for number, copied in enumerate([lambda model, folder: model, *COPIES]):
        twin = copied(model, tmp_path)
        merge = twin.get_layer("merge")
        assert (merge.theta_1, merge.get_config()["theta_1"]) == (0.3, 0.3), number
        np.testing.assert_allclose(array(twin(x)), (0.3 + 0.5 * 2) * x, rtol=1e-6)


@pytest.mark.parametrize("make, arguments, before, after", CASES)
def test_weights_bring_probabilities_along(make, arguments, before, after):
    layer, other = (make(*v, **arguments, seed=3, adjustable=True) for v in (before, after))
    layer.set_weights(other.get_weights())
    assert layer.adjustments() == other.adjustments()
    again = make.from_config(layer.get_config())
    assert again.adjustments() == dict(zip(make.arguments, after, strict=False))


def test_numbers_come_back_as_they_were_given():
    layer = Swapout(1 / 3, 0.1, adjustable=True)
    assert (layer.theta_1, layer.theta_2) == (1 / 3, 0.1)
    layer.adjusted.assign([1 / 3, 1 / 7])  # another float32 than it was given
    assert layer.theta_1 == 1 / 3 and np.float32(layer.theta_2) == np.float32(1 / 7)
    again = Swapout.from_config(layer.get_config())
    np.testing.assert_array_equal(array(again.adjusted), array(layer.adjusted))
    layer.theta_2 = 0.25
    np.testing.assert_allclose(array(layer.adjusted), [1 / 3, 0.25], rtol=1e-6)


def test_attributes_are_read_while_a_function_is_traced():
    seen = []

    class Reading(BDropDML):
        def drop(self, x, key):
            seen.append((self.rate, self.overlap))
            return super().drop(x, key)

    layer = Reading(0.7, adjustable=True)
    layer.adjusted.assign([0.6])
    step, _ = compiled(layer)
    step(normal(4, 6))
    assert seen == [(0.6, pytest.approx(0.2))]


def test_a_fixed_layer_refuses_another_number():
    layer = SDropDML(0.3)
    with pytest.raises(ValueError, match="adjustable=True"):
        layer.rate = 0.5
    assert layer.rate == layer.get_config()["rate"] == 0.3


@pytest.mark.parametrize("asks", [False, True])
def test_adjusting_between_steps(asks):
    """JAX's training loop has the variables then: what is assigned to them would be lost."""
    x, model, steps = normal(8, 6), merging(), []
    merge = model.get_layer("merge")

    def adjust(batch, logs=None):
        if asks:
            assert callback.model is model
        merge.adjust(theta_1=0.9)
        steps.append(batch)

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=adjust)
    if BACKEND == "jax" and not asks:
        with pytest.raises(RuntimeError, match=r"'merge' can't be adjusted now.*`model`"):
            fit(model, x, callbacks=[callback])
        return
    fit(model, x, epochs=2, callbacks=[callback])
    assert merge.theta_1 == 0.9 and len(steps) == 2
    np.testing.assert_allclose(array(model(x)), (0.9 + 0.5 * 2) * x, rtol=1e-6)


def test_weights_bring_alpha_along(tmp_path, data):
    regression(alpha=0.25).save_weights(tmp_path / "other.weights.h5")
    model = regression(alpha=2.0)
    model.load_weights(tmp_path / "other.weights.h5")
    logs = model.fit(*data, batch_size=16, verbose=0).history
    in_force = (logs["loss"][0] - logs["task_loss"][0]) / logs["consistency"][0]
    assert model.alpha == 0.25 == pytest.approx(in_force, rel=1e-3)


@pytest.mark.parametrize("copied", [keras.models.clone_model, copy.deepcopy])
def test_copies_have_the_probabilities_of_now(copied, data):
    model = regression().model
    model.get_layer("merge").adjust(theta_1=0.9)
    twin = copied(model)
    assert twin.get_layer("merge").get_config() == model.get_layer("merge").get_config()
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(array(twin(data[0])), array(model(data[0])))


@pytest.mark.tensorflow
def test_exported_model_infers(tmp_path, data):
    import tensorflow as tf

    model = regression().model
    model.get_layer("merge").adjust(theta_1=0.9)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(data[0]), array(model(data[0])), rtol=1e-5, atol=1e-6)


# --- Ramp ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Swapout, BDropDML])
def test_ramp_in_each_epoch(make):
    """theta = 1 - min(1, epoch / 2.5) (1 - theta), rate likewise; then as one without a ramp."""
    x, seen = normal(8, 6), []
    final = dict(theta_1=0.4, theta_2=0.7) if make is Swapout else dict(rate=0.5)
    layer = make(**final, seed=3, adjustable=True)
    model, traces = masked_model(layer, 6)
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((float(layer.ramp), array(look.model(x))))
    )
    losses = fit(model, x, epochs=5, callbacks=[ks.callbacks.Ramp(2.5), look])
    compiled_once = len(traces)
    losses += fit(model, x)
    assert len(traces) == compiled_once
    assert [ramp for ramp, _ in seen] == pytest.approx([0, 0.4, 0.8, 1, 1])
    inputs = [x, 2 * x] if make is Swapout else 3 * x
    seen.append((1.0, model.predict(x, verbose=0)))
    for epoch, (loss, (ramp, y)) in enumerate(zip(losses, seen, strict=True)):
        start = 1.0 if make is Swapout else 0.0
        constant = make(**{k: start + ramp * (v - start) for k, v in final.items()}, seed=3)
        constant.seed_generator.state.assign([3, epoch])
        mean = array(constant(inputs, training=True)).mean()
        assert loss == pytest.approx(mean, rel=1e-4, abs=1e-6)
        np.testing.assert_allclose(y, array(constant(inputs)), rtol=1e-5, atol=1e-6)
    assert layer.adjustments() == final


def test_ramp_goes_on_after_loading(tmp_path):
    def model_of(size):
        layer = Swapout(0.4, 0.7, seed=3, adjustable=True, name="merge")
        inputs = keras.Input((6,))
        model = keras.Model(inputs, layer([inputs, keras.layers.Dense(6)(inputs)]))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    x = normal(8, 6)
    whole, part = model_of(6), model_of(6)
    part.set_weights(whole.get_weights())
    losses = fit(whole, x, epochs=5, callbacks=[ks.callbacks.Ramp(4)])
    first = fit(part, x, epochs=2, callbacks=[ks.callbacks.Ramp(4)])
    part.save(tmp_path / "part.keras")
    part = keras.saving.load_model(tmp_path / "part.keras")
    assert float(part.get_layer("merge").ramp) == 0.25
    second = fit(part, x, epochs=5, initial_epoch=2, callbacks=[ks.callbacks.Ramp(4)])
    np.testing.assert_allclose(first + second, losses, rtol=1e-4)


@pytest.mark.parametrize(
    "layer, words",
    [
        (keras.layers.Activation("relu"), "which has none"),
        (BDropDML(0.5, name="fixed"), "'fixed'"),
        (lambda x: SkipForward(0.5, adjustable=True, name="skip")([x, x]), "complementary.*'skip'"),
    ],
)
def test_ramp_refuses(layer, words, data):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=words):
        fit(model, *data, callbacks=[ks.callbacks.Ramp(2)])


# --- start_as ------------------------------------------------------------------------------------


def test_model_started_as_another_trains_as_it(data):
    traces = []

    def loss(y_true, y_pred):
        traces.append(1)
        return keras.losses.mean_squared_error(y_true, y_pred)

    old = regression(theta=0.9, rate=0.1, alpha=0.3, loss=loss, learning_rate=0.1, eager=False)
    fit(old, *data, epochs=2)
    old.optimizer.learning_rate = 0.5
    compiled_once = len(traces)
    new = regression(seed=1, alpha=2.0, eager=False)
    start_as(old, new)
    assert old.alpha == 2.0
    np.testing.assert_allclose(fit(old, *data, epochs=3), fit(new, *data, epochs=3), rtol=1e-4)
    assert len(traces) == compiled_once
    variables = [[*model.variables, *model.optimizer.variables] for model in (old, new)]
    for mine, other in zip(*variables, strict=True):
        np.testing.assert_allclose(array(mine), array(other), rtol=1e-3, atol=1e-5)
    assert float(old.optimizer.learning_rate) == pytest.approx(0.05)
    for name in ("merge", "drop"):
        mine, other = (model.model.get_layer(name) for model in (old, new))
        assert mine.adjustments() == other.adjustments()
        assert mine.get_config() | mine.adjustments() == mine.get_config()


def test_start_as_refuses_other_shapes():
    old, wide = regression(), regression(width=8)
    before = old.get_weights()
    with pytest.raises(ValueError, match="`new` must have variables of the same shapes"):
        start_as(old, wide)
    for value, now in zip(before, old.get_weights(), strict=True):
        np.testing.assert_array_equal(value, now)
