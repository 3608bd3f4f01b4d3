"""R-Block's training step against NumPy, Keras itself and plain training."""

import json
import warnings

import keras
import numpy as np
import pytest
from backends import marked, reduced
from refusals import INF, NAN, NO_FLAG, NO_NUMBER, NO_TEXT, refuses
from scipy.special import rel_entr, softmax
from sklearn.datasets import load_digits

import keras_swapout as ks
from keras_swapout.layers import BDropDML, SDropDML

BACKEND = keras.backend.backend()
COMPILED = BACKEND == "jax"  # which is too slow without, and compiles fast
#: The cheapest way to take a single step.
QUICK = dict(jit_compile=True) if COMPILED else dict(run_eagerly=True, jit_compile=False)
GRAPH = dict(jit_compile=COMPILED)
pytestmark = pytest.mark.skipif(BACKEND == "numpy", reason="NumPy does not train")
CROSSENTROPY = "sparse_categorical_crossentropy"


@keras.saving.register_keras_serializable("test_rblock")
class Nothing(keras.layers.Layer):
    """Declares to be stochastic and does nothing: both views are equal."""

    stochastic = True

    def call(self, inputs):
        return inputs


@keras.saving.register_keras_serializable("test_rblock")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(8, activation="relu")
        self.drop = BDropDML(0.5, seed=1)
        self.head = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.head(self.drop(self.hidden(inputs)))


def array(tensor):
    return keras.ops.convert_to_numpy(tensor).astype("float64")


def network(activation="softmax", units=3, rate=0.5, seed=1, random_layer=None):
    """The same network every time, its weights and the state of its masks included."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    x = (random_layer or BDropDML(rate, seed=seed))(x)
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation, name="y")(x))


def samples(n=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6)).astype("float32"), rng.integers(0, 3, n)


def trained_by(model, loss=CROSSENTROPY, optimizer=None, mode=QUICK, metrics=None, **arguments):
    compiling = {
        k: arguments.pop(k) for k in ("loss_weights", "weighted_metrics") if k in arguments
    }
    rblock = ks.RBlock(model, **arguments)
    optimizer = keras.optimizers.SGD(0.1) if optimizer is None else optimizer
    rblock.compile(optimizer, loss, metrics=metrics, **compiling, **mode)
    return rblock


def step(rblock, *data, **kwargs):
    """The logs of one training step."""
    rblock.reset_metrics()
    return rblock.train_on_batch(*data, return_dict=True, **kwargs)


def views(model, x):
    """What two views predict, each as long as the batch: a list of pairs, one for each output."""
    outputs = keras.tree.flatten(ks.fork(model)(x, training=True))
    return [np.split(array(output), 2) for output in outputs]


def per_sample_loss(loss, y, prediction):
    made = keras.losses.get(loss)
    if isinstance(made, keras.losses.Loss):
        made = type(made).from_config({**made.get_config(), "reduction": None})
    return array(made(np.asarray(y), prediction.astype("float32")))


def divergence(kind, p, q):
    """Two-way divergence of probabilities along the last axis."""
    if kind == "mse":
        return np.square(p - q).mean(-1)
    if kind == "js":
        middle = (p + q) / 2
        return (rel_entr(p, middle) + rel_entr(q, middle)).sum(-1) / 2
    return (rel_entr(p, q) + rel_entr(q, p)).sum(-1) / 2


def binary(p):
    return np.stack([p, 1 - p], axis=-1)


def same_weights(one, other, **tolerance):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


# The loss


def pixels():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    x = SDropDML(0.4, block_size=2, seed=3)(x)
    return keras.Model(inputs, keras.layers.Conv2D(3, 1, activation="softmax")(x))


RNG = np.random.default_rng(5)
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BINARY_LOGITS = keras.losses.BinaryCrossentropy(from_logits=True)
LABELS = RNG.integers(0, 2, (8, 3)).astype("float32")
#: name: (model, y, loss, divergence, outputs -> probabilities along a last axis)
TASKS = {
    "classes": (network, samples()[1], CROSSENTROPY, "kl", lambda z: z),
    "classes, one-hot": (
        network, np.eye(3)[samples()[1]], "categorical_crossentropy", "js", lambda z: z
    ),
    "logits": (
        lambda: network(None), samples()[1], LOGITS, "kl", lambda z: softmax(z, -1)
    ),
    "binary": (lambda: network("sigmoid", 1), LABELS[:, :1], "bce", "kl", binary),
    "labels": (lambda: network("sigmoid"), LABELS, "binary_crossentropy", "kl", binary),
    "label logits": (
        lambda: network(None), LABELS, BINARY_LOGITS, "js", lambda z: binary(1 / (1 + np.exp(-z)))
    ),
    "regression": (
        lambda: network(None, 2), RNG.normal(size=(8, 2)), "mse", "mse", lambda z: z
    ),
    "regression of a softmax": (network, np.eye(3)[samples()[1]], "mse", "kl", lambda z: z),
    "pixels": (pixels, RNG.integers(0, 3, (8, 6, 6)), CROSSENTROPY, "kl", lambda z: z),
}  # fmt: skip


def task(name):
    model, y, loss, kind, probabilities = TASKS[name]
    x = RNG.normal(size=(8, 6, 6, 2)).astype("float32") if name == "pixels" else samples()[0]
    return model, x, y, loss, kind, probabilities


@pytest.mark.parametrize("name", reduced(TASKS, "classes", "label logits", "regression", "pixels"))
def test_loss_of_a_step_is_the_documented_one(name):
    if BACKEND == "torch" and name == "pixels":
        pytest.skip("torch on this CPU takes no gradient of the convolutions, R-Block or not")
    model, x, y, loss, kind, probabilities = task(name)
    ((z1, z2),) = views(model(), x)
    assert not np.allclose(z1, z2)
    task_loss = (per_sample_loss(loss, y, z1).mean() + per_sample_loss(loss, y, z2).mean()) / 2
    consistency = divergence(kind, probabilities(z1), probabilities(z2)).mean()
    logs = step(trained_by(model(), loss, alpha=0.7, divergence=kind), x, y)
    assert logs["task_loss"] == pytest.approx(task_loss, rel=1e-5)
    assert logs["consistency"] == pytest.approx(consistency, rel=1e-4)
    assert logs["loss"] == pytest.approx(task_loss + 0.7 * consistency, rel=1e-5)


def test_a_function_is_a_divergence():
    x, y = samples()
    ((p, q),) = views(network(), x)

    def total_variation(first, second):
        return keras.ops.sum(keras.ops.abs(first - second), axis=-1) / 2

    logs = step(trained_by(network(), divergence=total_variation), x, y)
    assert logs["consistency"] == pytest.approx(np.abs(p - q).sum(-1).mean() / 2, rel=1e-5)


def by_hand(x, y, alpha, stop_gradient=False, forked=8, rate=0.1):
    """Weights of `network()` after a step of SGD, from the calculus of two passes in NumPy."""
    model = network()
    w, b, v, c = (weight.astype("float64") for weight in model.get_weights())
    masks = views(keras.Sequential([keras.Input((8,)), BDropDML(0.5, seed=1)]), np.ones((8, 8)))[0]
    masks[1][forked:] = masks[0][forked:]  # the second view of the others is the first again
    n = len(x)
    before = x @ w + b
    hidden = [np.maximum(before, 0) * mask for mask in masks]
    p, q = (softmax(h @ v + c, -1) for h in hidden)
    target = np.eye(3)[y]
    weights = np.arange(n)[:, None] < forked

    def consistency_gradient(p, q):
        learned = p - q  # of KL(q || p), q constant
        if not stop_gradient:
            ratio = np.log(p / q)
            learned = learned + p * (ratio - (p * ratio).sum(-1, keepdims=True))
        return weights * learned / 2 / forked

    slopes = [(one - target) / (2 * n) + alpha * consistency_gradient(one, other)
              for one, other in ((p, q), (q, p))]  # fmt: skip
    back = sum((s @ v.T) * mask for s, mask in zip(slopes, masks, strict=True)) * (before > 0)
    gradients = [
        x.T @ back,
        back.sum(0),
        sum(h.T @ s for h, s in zip(hidden, slopes, strict=True)),
        sum(s.sum(0) for s in slopes),
    ]
    return [weight - rate * g for weight, g in zip((w, b, v, c), gradients, strict=True)]


@pytest.mark.parametrize(
    "arguments",
    [
        dict(alpha=0.0),
        dict(alpha=2.0),
        dict(alpha=2.0, stop_gradient=True),
        dict(alpha=2.0, fraction=0.4),
    ],
    ids=str,
)
def test_weights_after_a_step_are_those_of_two_passes(arguments):
    x, y = samples()
    rblock = trained_by(network(), **arguments)
    step(rblock, x, y)
    forked = 3 if "fraction" in arguments else 8
    expected = by_hand(x, y, arguments["alpha"], arguments.get("stop_gradient", False), forked)
    for found, wanted in zip(rblock.model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def normalised(random_layer):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(8)(inputs))
    x = random_layer(keras.layers.Activation("relu")(x))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(8, kernel_regularizer="l2")(x))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def test_with_equal_views_it_is_plain_training():
    x, y = samples(24)
    plain, rblock = normalised(Nothing()), trained_by(normalised(Nothing()), alpha=3.0, mode=GRAPH)
    plain.compile(keras.optimizers.SGD(0.1), CROSSENTROPY, **GRAPH)
    run = dict(batch_size=8, epochs=2, shuffle=False, verbose=0)
    expected = plain.fit(x, y, **run).history["loss"]
    history = rblock.fit(x, y, **run).history
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(history["consistency"], 0, atol=1e-6)
    same_weights(rblock.model, plain, rtol=1e-4)  # the moving statistics are among them


# Weights, masks, several outputs


@pytest.mark.parametrize("shape, fraction", [((8,), 0.5), *marked(((8, 1), 1.0))])
def test_sample_weights_weigh_both_terms(shape, fraction):
    x, y = samples()
    weight = np.array([0, 0, 1, 2, 0.5, 0, 3, 1], "float32")
    ((p, q),) = views(network(), x)
    forked = int(8 * fraction)
    q[forked:] = p[forked:]
    losses = (per_sample_loss(CROSSENTROPY, y, p) + per_sample_loss(CROSSENTROPY, y, q)) / 2
    rblock = trained_by(network(), alpha=2.0, fraction=fraction)
    logs = step(rblock, x, y, sample_weight=weight.reshape(shape))
    # "sum_over_batch_size": Keras divides by the number of samples, not by the sum of weights.
    consistency = (weight * divergence("kl", p, q))[:forked].sum() / forked
    assert logs["task_loss"] == pytest.approx((weight * losses).mean(), rel=1e-5)
    assert logs["consistency"] == pytest.approx(consistency, rel=1e-4)


def test_a_weight_of_zero_leaves_a_sample_out():
    """The step on 8 samples, 5 of weight 0, is 3/8 of the step on 3."""
    x, y = samples()
    weight = np.array([1, 1, 1, 0, 0, 0, 0, 0], "float32")
    start = network()
    whole, part = trained_by(network()), trained_by(network())
    step(whole, x, y, sample_weight=weight)
    step(part, x[:3], y[:3])
    for w0, w8, w3 in zip(
        *(m.get_weights() for m in (start, whole.model, part.model)), strict=True
    ):
        np.testing.assert_allclose(w8 - w0, 3 / 8 * (w3 - w0), rtol=1e-3, atol=1e-7)


@pytest.mark.tensorflow
def test_class_weights_are_sample_weights():
    x, y = samples()
    one, other = trained_by(network()), trained_by(network())
    by_class = step(one, x, y, class_weight={0: 0.5, 1: 2.0, 2: 3.0})
    by_sample = step(other, x, y, sample_weight=np.array([0.5, 2.0, 3.0], "float32")[y])
    assert by_class == pytest.approx(by_sample, rel=1e-6)
    assert by_class["consistency"] != pytest.approx(
        step(trained_by(network()), x, y)["consistency"]
    )
    same_weights(one, other)


def tagger():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(9, 6, mask_zero=True)(inputs)
    x = BDropDML(0.5, seed=1)(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


@pytest.mark.parametrize("fraction, weighted", [(0.5, True), *marked((1.0, False))])
def test_masked_steps_count_in_neither_term(fraction, weighted):
    words = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [5, 6, 7, 8, 1], [1, 1, 0, 0, 0]], "int32")
    tags = np.random.default_rng(0).integers(0, 3, (4, 5))
    valid = words > 0
    ((p, q),) = views(tagger(), words)
    forked = int(4 * fraction)
    q[forked:] = p[forked:]
    weight = np.array([2.0, 0.5, 1.0, 3.0] if weighted else [1.0] * 4, "float32")
    factor = weight[:, None] * valid
    losses = (per_sample_loss(CROSSENTROPY, tags, p) + per_sample_loss(CROSSENTROPY, tags, q)) / 2
    values = divergence("kl", p, q)
    given = dict(sample_weight=np.repeat(weight[:, None], 5, 1)) if weighted else {}
    logs = step(trained_by(tagger(), fraction=fraction), words, tags, **given)
    assert logs["task_loss"] == pytest.approx((factor * losses).sum() / valid.sum(), rel=1e-4)
    assert logs["consistency"] == pytest.approx(
        (factor * values)[:forked].sum() / valid[:forked].sum(), rel=1e-4
    )


def two_heads(named, seed=1):
    """Two inputs, and two outputs: classes and a number."""
    keras.utils.set_random_seed(1)
    a, b = keras.Input((6,), name="a"), keras.Input((2,), name="b")
    x = keras.layers.Concatenate()([keras.layers.Dense(8, activation="relu")(a), b])
    x = BDropDML(0.5, seed=seed)(x)
    label = keras.layers.Dense(3, activation="softmax", name="label")(x)
    size = keras.layers.Dense(1, name="size")(x)
    if named:
        return keras.Model({"a": a, "b": b}, {"the_size": size, "the_label": label})
    return keras.Model([a, b], [label, size])


def two_head_data(named):
    x, label = samples()
    other = np.random.default_rng(2).normal(size=(8, 2)).astype("float32")
    size = other[:, :1] * 2
    if named:
        return {"a": x, "b": other}, {"the_size": size, "the_label": label}
    return [x, other], [label, size]


HEADS = {
    "names": (True, dict(the_label="kl", the_size="mse"), dict(the_label=2.0, the_size=0.5), 1, 1),
    "names, one only": (True, dict(the_label="kl"), None, 1, 0),
    "names of the layers": (False, dict(size="mse"), None, 0, 1),
    "list with None": (False, [None, "mse"], [2.0, 0.5], 0, 1),
    "one for all": (False, "mse", None, 1, 1),
}


@pytest.mark.parametrize("name", reduced(HEADS, "names", "list with None"))
def test_each_output_has_its_divergence_and_its_loss_weight(name):
    named, kinds, loss_weights, of_label, of_size = HEADS[name]
    x, y = two_head_data(named)
    losses = [CROSSENTROPY, "mse"]
    outputs, targets = views(two_heads(named), x), y
    if named:  # Keras flattens a dict in the order of its keys
        losses = {"the_label": losses[0], "the_size": losses[1]}
        targets = [y["the_label"], y["the_size"]]
    (p, q), (s, t) = outputs
    scales = [1.0, 1.0] if loss_weights is None else [2.0, 0.5]
    task_loss = sum(
        scale * per_sample_loss(loss, target, view).mean() / 2
        for scale, loss, target, pair in zip(
            scales, [CROSSENTROPY, "mse"], targets, outputs, strict=True
        )
        for view in pair
    )
    kind = "mse" if kinds == "mse" else "kl"
    consistency = of_label * scales[0] * divergence(kind, p, q).mean()
    consistency += of_size * scales[1] * divergence("mse", s, t).mean()
    rblock = trained_by(
        two_heads(named), losses, divergence=kinds, loss_weights=loss_weights, alpha=0.5
    )
    logs = step(rblock, x, y)
    assert logs["task_loss"] == pytest.approx(task_loss, rel=1e-5)
    assert logs["consistency"] == pytest.approx(consistency, rel=1e-4)
    assert logs["loss"] == pytest.approx(task_loss + 0.5 * consistency, rel=1e-5)


def test_sample_weights_of_several_outputs():
    x, y = two_head_data(True)
    (p, q), (s, t) = views(two_heads(True), x)
    of_label, of_size = np.random.default_rng(4).uniform(0, 2, (2, 8)).astype("float32")
    losses, kinds = (
        dict(the_label=CROSSENTROPY, the_size="mse"),
        dict(the_label="kl", the_size="mse"),
    )
    rblock = trained_by(two_heads(True), losses, divergence=kinds)
    logs = step(rblock, x, y, sample_weight=dict(the_label=of_label, the_size=of_size))
    expected = (of_label * divergence("kl", p, q)).mean()
    expected += (of_size * divergence("mse", s, t)).mean()
    assert logs["consistency"] == pytest.approx(expected, rel=1e-4)


def test_outputs_without_a_loss_are_left_out():
    x, y = two_head_data(False)
    (p, q), _ = views(two_heads(False), x)
    logs = step(trained_by(two_heads(False), [CROSSENTROPY, None]), x, y)
    assert logs["consistency"] == pytest.approx(divergence("kl", p, q).mean(), rel=1e-4)
    x, y = two_head_data(True)
    logs = step(trained_by(two_heads(True), {"the_label": CROSSENTROPY}), x, y)
    assert logs["consistency"] == pytest.approx(divergence("kl", p, q).mean(), rel=1e-4)


# Logs


def test_logs_and_the_plain_network():
    x, y = samples(20)
    names = dict(metrics=["accuracy"], weighted_metrics=["accuracy"])
    rblock = trained_by(network(), alpha=0.7, **names)
    history = rblock.fit(x, y, batch_size=8, epochs=2, validation_data=(x, y), verbose=0).history
    trained = {"loss", "task_loss", "consistency", "accuracy", "weighted_accuracy"}
    validated = {"val_loss", "val_accuracy", "val_weighted_accuracy"}
    assert set(history) == trained | validated
    np.testing.assert_allclose(
        history["loss"],
        np.add(history["task_loss"], 0.7 * np.array(history["consistency"])),
        rtol=1e-5,
    )
    plain = rblock.model
    plain.compile("sgd", CROSSENTROPY, **names, **QUICK)
    evaluated = rblock.evaluate(x, y, batch_size=8, return_dict=True, verbose=0)
    expected = plain.evaluate(x, y, batch_size=8, return_dict=True, verbose=0)
    assert set(evaluated) == {"loss", "accuracy", "weighted_accuracy"}
    assert evaluated == pytest.approx(expected, rel=1e-6)
    assert history["val_loss"][-1] == pytest.approx(evaluated["loss"], rel=1e-6)
    listed = rblock.evaluate(x, y, batch_size=8, verbose=0)
    assert listed == pytest.approx(plain.evaluate(x, y, batch_size=8, verbose=0), rel=1e-6)
    predicted = rblock.predict(x, verbose=0)
    np.testing.assert_array_equal(predicted, plain.predict(x, verbose=0))
    np.testing.assert_array_equal(array(rblock(x)), array(plain(x)))


def test_metrics_are_of_the_first_view():
    x, y = samples()
    ((p, _),) = views(network(), x)
    logs = step(trained_by(network(), metrics=["accuracy"]), x, y)
    assert logs["accuracy"] == pytest.approx((p.argmax(-1) == y).mean())


def test_logs_weigh_batches_by_their_samples():
    x, y = samples(11)
    one, other = trained_by(network()), trained_by(network())
    history = one.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    logs = [step(other, x[:8], y[:8]), step(other, x[8:], y[8:])]
    for name in ("loss", "task_loss", "consistency"):
        expected = (8 * logs[0][name] + 3 * logs[1][name]) / 11
        assert history[name][0] == pytest.approx(expected, rel=1e-4)


# Forking a part of the batch


@pytest.mark.parametrize(
    "n, fraction, forked",
    [(8, 0.25, 2), *marked((1, 0.3, 1), (5, 0.5, 2))],
)
def test_only_a_share_of_the_batch_is_forked(n, fraction, forked):
    x, y = samples(n)
    ((p, q),) = views(network(), x)
    q[forked:] = p[forked:]
    losses = [per_sample_loss(CROSSENTROPY, y, view).mean() for view in (p, q)]
    logs = step(trained_by(network(), fraction=fraction), x, y)
    assert logs["task_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    expected = divergence("kl", p[:forked], q[:forked]).mean()
    assert logs["consistency"] == pytest.approx(expected, rel=1e-4)


def test_batches_of_any_size_share_a_graph():
    x, y = samples(11)
    one = trained_by(network(), fraction=0.3, mode=dict(jit_compile=BACKEND != "torch"))
    other = trained_by(network(), fraction=0.3)
    run = dict(batch_size=4, epochs=2, shuffle=False, verbose=0)
    histories = [rblock.fit(x, y, **run).history for rblock in (one, other)]
    for name in ("loss", "task_loss", "consistency"):
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-4)
    same_weights(one, other, rtol=1e-4)


# Schedules


def alphas(history):
    gap = np.subtract(history["loss"], history["task_loss"])
    return gap / np.array(history["consistency"])


def test_alpha_follows_its_schedule_without_retracing():
    traces = []

    def ramp(step):
        traces.append(step)
        return 0.5 + keras.ops.cast(step, "float32")

    x, y = samples()
    rblock = trained_by(network(), alpha=ramp, mode=GRAPH)
    history = rblock.fit(x, y, batch_size=8, epochs=6, shuffle=False, verbose=0).history
    np.testing.assert_allclose(alphas(history), 0.5 + np.arange(6), rtol=1e-3)
    assert int(array(rblock.steps)) == 6
    if BACKEND != "torch":
        assert 1 <= len(traces) <= 2
    rblock.evaluate(x, y, verbose=0)
    assert int(array(rblock.steps)) == 6


def test_the_step_of_a_schedule_is_saved(tmp_path):
    x, y = samples()
    schedule = keras.optimizers.schedules.PolynomialDecay(4.0, 4, 0.0)  # 4, 3, 2, 1, 0
    rblock = trained_by(network(), alpha=schedule)
    first = [alphas(step(rblock, x, y)) for _ in range(2)]
    rblock.save(tmp_path / "rblock.keras")
    loaded = keras.saving.load_model(tmp_path / "rblock.keras")
    rest = [alphas(step(loaded, x, y)) for _ in range(2)]
    np.testing.assert_allclose([*first, *rest], [4, 3, 2, 1], rtol=1e-3)


def test_cosine_schedules_and_mixed_dtypes_of_a_schedule():
    x, y = samples()
    for schedule in (keras.optimizers.schedules.CosineDecay(2.0, 10), lambda step: step):
        rblock = trained_by(network(), alpha=schedule)
        assert alphas(step(rblock, x, y)) == pytest.approx(float(schedule(0)), abs=1e-3)
        assert alphas(step(rblock, x, y)) == pytest.approx(float(schedule(1)), rel=1e-3)


# Ways to train

MODES = [dict(jit_compile=False), dict(jit_compile=True, steps_per_execution=2)]


@pytest.fixture(scope="module")
def reference():
    """Four steps taken one by one: without compiling them, but for JAX."""
    x, y = samples(32)
    rblock = trained_by(network())
    logs = [step(rblock, x[i : i + 8], y[i : i + 8]) for i in range(0, 32, 8)]
    means = {name: np.mean([log[name] for log in logs]) for name in logs[0]}
    return means, rblock.get_weights()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_mode_trains_alike(mode, reference):
    if BACKEND == "jax" and not mode["jit_compile"]:
        pytest.skip("JAX is too slow without")
    if BACKEND == "torch" and mode["jit_compile"]:
        pytest.skip("torch: no steps_per_execution, and torch.compile needs a C++ compiler")
    means, weights = reference
    rblock = trained_by(network(), mode=mode)
    history = rblock.fit(*samples(32), batch_size=8, shuffle=False, verbose=0).history
    assert {name: values[0] for name, values in history.items()} == pytest.approx(means, rel=1e-4)
    for found, expected in zip(rblock.get_weights(), weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", reduced(["mixed_float16", "mixed_bfloat16"], "mixed_float16"))
def test_mixed_precision(policy):
    mode = GRAPH if policy == "mixed_float16" else QUICK  # the former scales its loss, in a graph
    x, y = samples(32)
    expected = step(trained_by(network(None), LOGITS), x, y)
    keras.config.set_dtype_policy(policy)
    try:
        rblock = trained_by(network(None), LOGITS, mode=mode)
    finally:
        keras.config.set_dtype_policy("float32")
    before = rblock.get_weights()
    history = rblock.fit(x, y, batch_size=32, epochs=3, shuffle=False, verbose=0).history
    scaled = isinstance(rblock.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    for name, values in history.items():
        assert values[0] == pytest.approx(expected[name], rel=0.03)
    assert history["loss"][-1] < history["loss"][0]
    plain = trained_by(network(None), LOGITS)
    for _ in range(3):
        step(plain, x, y)
    moved = [np.concatenate([(w - v).ravel() for w, v in zip(m.get_weights(), before, strict=True)])
             for m in (rblock, plain)]  # fmt: skip
    assert np.corrcoef(moved)[0, 1] > 0.99


def gradient_of(step_number, x, y, **arguments):
    """What SGD at rate 1 would take off the first weights, with the masks of a later step."""
    rblock = trained_by(network(), optimizer=keras.optimizers.SGD(0.0), **arguments)
    for _ in range(step_number):
        step(rblock, x, y)
    before = rblock.model.get_weights()
    rblock.optimizer.learning_rate = 1.0
    step(rblock, x, y)
    return before, [w - v for w, v in zip(before, rblock.model.get_weights(), strict=True)]


def test_gradient_accumulation_averages_two_steps():
    x, y = samples()
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    rblock = trained_by(network(), optimizer=optimizer)
    (start, first), (_, second) = gradient_of(0, x, y), gradient_of(1, x, y)
    step(rblock, x, y)
    for found, w in zip(rblock.model.get_weights(), start, strict=True):
        np.testing.assert_array_equal(found, w)
    step(rblock, x, y)
    for found, w, g, h in zip(rblock.model.get_weights(), start, first, second, strict=True):
        np.testing.assert_allclose(found, w - 0.1 * (g + h) / 2, rtol=1e-4, atol=1e-6)


def test_clipnorm_clips_the_gradient_of_both_terms():
    x, y = samples()
    start, gradient = gradient_of(0, x, y, alpha=5.0)
    optimizer = keras.optimizers.SGD(1.0, clipnorm=0.05)
    rblock = trained_by(network(), optimizer=optimizer, alpha=5.0)
    step(rblock, x, y)
    assert max(np.linalg.norm(g) for g in gradient) > 0.05
    for found, w, g in zip(rblock.model.get_weights(), start, gradient, strict=True):
        expected = w - g * min(1, 0.05 / np.linalg.norm(g))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_early_stopping_restores_the_best_weights():
    x, y = samples(32)
    rblock = trained_by(network())
    uphill = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 if epoch < 2 else -0.5)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    run = dict(batch_size=32, epochs=9, validation_data=(x, y), verbose=0)
    history = rblock.fit(x, y, callbacks=[uphill, stop], **run).history["val_loss"]
    assert len(history) == 4 and np.argmin(history) == 1
    assert rblock.evaluate(x, y, verbose=0) == pytest.approx(history[1], rel=1e-6)


class Interruption(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_backup_goes_on_exactly_where_it_stopped(tmp_path):
    schedule = keras.optimizers.schedules.PolynomialDecay(4.0, 8, 0.0)
    run = dict(batch_size=8, epochs=3, shuffle=False, verbose=0)

    def make():
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        return trained_by(network(), alpha=schedule, optimizer=optimizer)

    whole, part, rest = make(), make(), make()
    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")  # noqa: E731
    losses = whole.fit(*samples(16), **run).history["loss"]
    with pytest.raises(KeyboardInterrupt):
        part.fit(*samples(16), callbacks=[backup(), Interruption()], **run)
    history = rest.fit(*samples(16), callbacks=[backup()], **run).history
    assert history["loss"] == losses[2:]
    for found, expected in zip(rest.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@keras.saving.register_keras_serializable("test_rblock")
class Charge(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
        return inputs


@pytest.mark.parametrize("place", ["before", "after"])
def test_added_losses_count_once(place):
    x, y = samples()
    keras.utils.set_random_seed(1)
    layers = [Charge(), BDropDML(0.5, seed=1)]
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
    z = hidden
    for layer in layers if place == "before" else layers[::-1]:
        z = layer(z)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(z))
    features = array(keras.Model(inputs, hidden)(x))
    charged = np.square(features).mean()
    if place == "after":
        shape = [keras.Input((8,)), BDropDML(0.5, seed=1)]
        charged = np.square(views(keras.Sequential(shape), features)[0]).mean()
    ((p, q),) = views(model, x)
    model.layers[1 + 1 + (place == "before")].seed_generator.state.assign([1, 0])
    expected = charged + 0.1 * np.square(model.layers[1].get_weights()[0]).sum()
    expected += sum(per_sample_loss(CROSSENTROPY, y, view).mean() / 2 for view in (p, q))
    assert step(trained_by(model), x, y)["task_loss"] == pytest.approx(expected, rel=1e-5)


# Saving


def normalised_and_dropped():
    return normalised(BDropDML(0.5, seed=1))


def make_subclassed():
    keras.utils.set_random_seed(1)
    return Subclassed()


@pytest.mark.parametrize(
    "make",
    reduced([make_subclassed, normalised_and_dropped], normalised_and_dropped),
)
def test_a_loaded_rblock_takes_the_same_next_step(make, tmp_path):
    x, y = samples()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    rblock = trained_by(
        make(), alpha=0.3, divergence="js", fraction=0.5, stop_gradient=True, optimizer=optimizer
    )
    step(rblock, x, y)
    rblock.save(tmp_path / "rblock.keras")
    loaded = keras.saving.load_model(tmp_path / "rblock.keras")
    assert type(loaded) is ks.RBlock and loaded.name == rblock.name
    assert (loaded.alpha, loaded.divergence, loaded.fraction, loaded.stop_gradient) == (
        0.3, "js", 0.5, True
    )  # fmt: skip
    for _ in range(2):
        assert step(loaded, x, y) == pytest.approx(step(rblock, x, y), rel=1e-5)
    same_weights(loaded, rblock)


def test_weights_go_into_another_rblock(tmp_path):
    x, y = samples()
    rblock, other = trained_by(network()), trained_by(network(seed=7))
    step(rblock, x, y)
    rblock.save_weights(tmp_path / "rblock.weights.h5")
    other.load_weights(tmp_path / "rblock.weights.h5")
    same_weights(other, rblock, rtol=0, atol=0)
    assert step(other, x, y) == pytest.approx(step(rblock, x, y), rel=1e-6)


@keras.saving.register_keras_serializable("test_rblock")
def absolute(first, second):
    return keras.ops.mean(keras.ops.abs(first - second), axis=-1)


@keras.saving.register_keras_serializable("test_rblock")
def rising(step):
    return 0.1 * keras.ops.cast(step, "float32")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "arguments",
    [
        dict(alpha=0.25, divergence="js", fraction=0.5, stop_gradient=True, name="mine"),
        dict(alpha=rising, divergence=absolute),
        dict(alpha=keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)),
        dict(divergence=["kl", None]),
        dict(divergence={"label": absolute, "size": "mse"}),
    ],
    ids=["values", "functions", "schedule", "list", "dict"],
)
def test_config_round_trip(arguments):
    rblock = ks.RBlock(two_heads(False), **arguments)
    config = json.dumps(rblock.get_config())
    again = ks.RBlock.from_config(json.loads(config))
    assert json.dumps(again.get_config()) == config
    assert again.name == rblock.name and again.fraction == rblock.fraction
    assert again.divergence == rblock.divergence and again.stop_gradient == rblock.stop_gradient
    if not isinstance(rblock.alpha, keras.optimizers.schedules.LearningRateSchedule):
        assert again.alpha == rblock.alpha


def test_what_ships_knows_nothing_of_training(tmp_path):
    x, y = samples()
    model = network()
    before, config, names = model.to_json(), model.get_config(), [w.path for w in model.weights]
    rblock = trained_by(model, alpha=2.0)
    rblock.fit(x, y, verbose=0)
    assert rblock.model is model
    assert model.to_json() == before and model.get_config() == config
    assert [w.path for w in model.weights] == names and "RBlock" not in before
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is keras.Model or type(loaded).__name__ == "Functional"
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), rblock.predict(x, verbose=0))


# Networks of other people


def check_one_step(model, x, y):
    """One step of training, which leaves the network as it is but for its weights."""
    before = model.get_weights()
    predicted = model.predict(x, verbose=0) if model.built else None
    rblock = trained_by(model, alpha=2.0)
    config = model.get_config()
    logs = step(rblock, x, y)
    assert model.get_config() == config
    assert logs["loss"] == pytest.approx(logs["task_loss"] + 2 * logs["consistency"], rel=1e-4)
    assert logs["consistency"] > 1e-5
    if predicted is not None:
        changed = [
            not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)
        ]
        assert np.mean(changed) > 0.7
        assert not np.array_equal(predicted, model.predict(x, verbose=0))
    again = step(rblock, x, y)
    assert np.isfinite(list(again.values())).all()


def images():
    data = load_digits()
    x = keras.ops.image.resize(data.images[:4, ..., None] / 16, (32, 32))
    return np.repeat(array(x), 3, axis=-1).astype("float32"), data.target[:4] % 3


def mobile_net():
    """Its dropout is behind all of its normalisation."""
    keras.utils.set_random_seed(1)
    make = keras.applications.MobileNet
    return make((32, 32, 3), 0.25, dropout=0.5, weights=None, classes=3)


@pytest.mark.tensorflow  # JAX compiles it for 15 seconds
def test_mobile_net():
    """All of it is in front of the dropout, so its moving statistics are those of a plain step."""
    x, y = images()
    plain, rblock = mobile_net(), trained_by(mobile_net(), alpha=2.0)
    config = rblock.model.get_config()
    plain.compile("sgd", CROSSENTROPY, **QUICK)
    plain.train_on_batch(x, y)
    logs = step(rblock, x, y)
    assert logs["loss"] == pytest.approx(logs["task_loss"] + 2 * logs["consistency"], rel=1e-4)
    assert logs["consistency"] > 1e-5 and rblock.model.get_config() == config
    statistics = [model.non_trainable_weights for model in (plain, rblock.model)]
    for one, other in zip(*statistics, strict=True):
        np.testing.assert_allclose(array(one), array(other), rtol=1e-4, atol=1e-6)
    weights = [model.trainable_weights for model in (plain, rblock.model)]
    assert not all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


class Positions(keras.layers.Layer):
    def build(self, input_shape):
        self.table = self.add_weight(shape=input_shape[1:], initializer="normal")

    def call(self, inputs):
        return inputs + self.table


def test_vision_transformer():
    x, y = images()
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 3))
    z = keras.layers.Reshape((16, 8))(keras.layers.Conv2D(8, 8, 8)(inputs))
    z = Positions()(z)
    for _ in range(2):
        normed = keras.layers.LayerNormalization()(z)
        z = z + keras.layers.MultiHeadAttention(2, 4, dropout=0.1)(normed, normed)
        normed = keras.layers.LayerNormalization()(z)
        z = z + keras.layers.Dropout(0.1)(keras.layers.Dense(8, activation="gelu")(normed))
    z = keras.layers.GlobalAveragePooling1D()(z)
    check_one_step(keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(z)), x, y)


def test_text_classifier():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None,), dtype="int32")
    z = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 8, mask_zero=True)(inputs))
    outputs = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dropout(0.5)(z))
    words = np.random.default_rng(0).integers(0, 20, (8, 6)).astype("int32")
    model = keras.Model(inputs, outputs)
    rblock = trained_by(model, "binary_crossentropy", alpha=2.0)
    logs = step(rblock, words, words[:, :1] % 2)
    assert logs["consistency"] > 1e-5
    assert logs["loss"] == pytest.approx(logs["task_loss"] + 2 * logs["consistency"], rel=1e-5)


def test_subclassed_and_sequential_models_take_the_step_of_a_functional_one():
    x, y = samples()
    functional, subclassed = network(), make_subclassed()
    layers = [keras.layers.Dense(8, activation="relu"), BDropDML(0.5, seed=1)]
    sequential = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3, "softmax")])
    expected = step(trained_by(functional), x, y)
    subclassed(x)
    for model in (subclassed, sequential):
        model.set_weights(network().get_weights())
        rblock = trained_by(model)
        assert step(rblock, x, y) == pytest.approx(expected, rel=1e-5)
        same_weights(model, functional)
    check_one_step(make_subclassed(), x, y)


def test_a_sequential_model_may_learn_its_input_in_training():
    x, y = samples()
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(8, activation="relu"), BDropDML(0.5, seed=1)]
    rblock = trained_by(keras.Sequential([*layers, keras.layers.Dense(3, "softmax")]))
    assert step(rblock, x, y) == pytest.approx(step(trained_by(network()), x, y), rel=1e-5)
    assert rblock.predict(x, verbose=0).shape == (8, 3)


def test_a_subclassed_network_is_built_without_a_warning():
    x, y = samples()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        plain = make_subclassed()
        plain.compile("sgd", CROSSENTROPY, **QUICK)
        plain.train_on_batch(x, y)
        step(trained_by(make_subclassed()), x, y)


@pytest.mark.tensorflow
def test_training_brings_the_views_together():
    """Three runs on digits: with alpha the views agree better than without, in each."""
    data = load_digits()
    x, y = (data.images[:512] / 16).astype("float32"), data.target[:512]

    def digits_network():
        layers = [
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            BDropDML(0.3),
            keras.layers.Dense(10),
        ]
        return keras.Sequential([keras.Input((8, 8)), *layers])

    rblock = trained_by(digits_network(), LOGITS, keras.optimizers.Adam(3e-3), GRAPH)
    rblock.optimizer.build(rblock.trainable_variables)
    start = [array(variable) for variable in rblock.optimizer.variables]
    for seed in range(3):
        reached = []
        for alpha in (0.0, 4.0):
            keras.utils.set_random_seed(seed)
            rblock.model.set_weights(digits_network().get_weights())
            for variable, value in zip(rblock.optimizer.variables, start, strict=True):
                variable.assign(value)
            rblock.alpha = alpha
            history = rblock.fit(x, y, batch_size=32, epochs=5, verbose=0).history
            reached.append((history["consistency"][-1], history["task_loss"][-1]))
        (without, task), (consistency, task_with) = reached
        assert consistency < 0.7 * without
        assert max(task, task_with) < 1.5  # both learn: guessing is at 2.3


# Bad input; which backend it is makes no difference


@pytest.mark.tensorflow
def test_bad_arguments():
    model = network()
    types = [x for x in NO_NUMBER if not callable(x)]
    for name in ("alpha", "fraction"):
        refuses(lambda value, name=name: ks.RBlock(model, **{name: value}), name, types, TypeError)
    out_of_range = (-1, -1e-9, NAN, INF, 10**400)
    refuses(lambda alpha: ks.RBlock(model, alpha), "alpha", out_of_range, ValueError)
    out_of_range = (0, 1.5, -0.1, NAN, INF)
    refuses(lambda x: ks.RBlock(model, fraction=x), "fraction", out_of_range, ValueError)
    refuses(lambda x: ks.RBlock(model, stop_gradient=x), "stop_gradient", NO_FLAG, TypeError)
    refuses(ks.RBlock, "model", (keras.layers.Dense(3), *NO_TEXT, "x", keras.Model), TypeError)

    def divergence(value):
        return ks.RBlock(model, divergence=value)

    types = [x for x in NO_TEXT if not callable(x) and not isinstance(x, (dict, tuple))]
    refuses(divergence, "divergence", (*types, [1], {"y": 0.5}), TypeError)
    values = ("tv", "", [], {}, (), ["kl", "tv"], {"y": "tv"}, ("unit",))
    refuses(divergence, "divergence", values, ValueError)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(alpha=lambda step: None), "`alpha` must be .* that returns a number. .*=None"),
        (dict(alpha=lambda step: "1"), "`alpha` must be .* that returns a number. .*='1'"),
        (dict(alpha=lambda step: np.ones(3)), "`alpha` must be .* that returns a number"),
        (dict(divergence=lambda first, second: None), "`divergence` must be a function.*=None"),
    ],
)
def test_functions_that_return_something_else(arguments, words):
    rblock = trained_by(network(), **arguments)
    rblock.run_eagerly = True
    with pytest.raises((TypeError, ValueError), match=words):
        rblock.train_on_batch(*samples())


@pytest.mark.tensorflow
@pytest.mark.parametrize("value", [0, 2, np.float32(0.5), np.int64(3)])
def test_numbers_of_any_kind_are_numbers(value):
    assert ks.RBlock(network(), alpha=value).alpha == float(value)


def test_a_network_without_randomness_is_refused():
    layers = [keras.layers.Dense(3, activation="softmax"), keras.layers.Dropout(0.0)]
    sequential = keras.Sequential([keras.Input((6,)), *layers], name="plain")
    functional = keras.Model(sequential.inputs, sequential.outputs, name="plain")
    for model in (sequential, functional):
        with pytest.raises(ValueError, match=r"`model`.*stochastic.*'plain'"):
            ks.RBlock(model)

    class Plain(keras.Model):
        def __init__(self):
            super().__init__(name="plain")
            self.head = keras.layers.Dense(3, activation="softmax")

        def call(self, inputs):
            return self.head(inputs)

    rblock = trained_by(Plain())
    with pytest.raises(ValueError, match=r"`model`.*stochastic.*'plain'"):
        rblock.train_on_batch(*samples())


@pytest.mark.tensorflow
def test_a_divergence_for_an_output_that_is_not_there():
    with pytest.raises(ValueError, match=r"`divergence`.*'lable'"):
        trained_by(two_heads(False), [CROSSENTROPY, "mse"], divergence={"lable": "kl"})


@pytest.mark.tensorflow
@pytest.mark.parametrize("kinds", [["kl"], ["kl", "mse", "mse"]], ids=str)
def test_more_or_fewer_divergences_than_outputs(kinds):
    with pytest.raises(ValueError, match="`divergence`"):
        trained_by(two_heads(False), [CROSSENTROPY, "mse"], divergence=kinds)


def own_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["kl", "js"])
@pytest.mark.parametrize(
    "loss",
    ["mse", own_loss, keras.losses.MeanAbsoluteError()],
    ids=["name", "function", "instance"],
)
def test_an_output_that_is_no_distribution_is_refused_in_compile(loss, kind):
    rblock = ks.RBlock(network(None), divergence=kind)
    with pytest.raises(ValueError, match=f"`divergence='{kind}'`.*output y .*\"mse\""):
        rblock.compile("sgd", loss)
    ks.RBlock(network(None), divergence="mse").compile("sgd", loss)
    ks.RBlock(network("softmax"), divergence=kind).compile("sgd", loss)


@pytest.mark.tensorflow
@pytest.mark.parametrize("rate, share", [(0.6, "20%"), (0.75, "50%")])
def test_a_rate_above_a_half_warns_once(rate, share):
    model = network(rate=rate)
    name = model.layers[2].name
    with pytest.warns(UserWarning, match=f"0.5.*{name} {share}") as caught:
        rblock = trained_by(model)
        step(rblock, *samples())
        step(rblock, *samples())
    assert sum("two views" in str(warning.message) for warning in caught) == 1


@pytest.mark.tensorflow
def test_a_rate_of_a_half_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ks.RBlock(network(rate=0.5))
        ks.RBlock(network(random_layer=keras.layers.Dropout(0.8)))
