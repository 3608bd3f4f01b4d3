"""The generalised Jensen-Shannon loss against Jensen-Shannon divergences by entropies."""

import functools
import json
import math

import keras
import numpy as np
import pytest
from backends import marked, reduced
from refusals import INF, NAN, NO_ARRAY, NO_NUMBER, refuses
from scipy.special import expit, softmax, xlogy
from test_divergence import OUTPUTS, WIDE, array, gradients, pair_of_outputs, slope
from test_own_ways import Sum, adding
from test_rblock import (
    CROSSENTROPY,
    GRAPH,
    QUICK,
    Subclassed,
    network,
    samples,
    step,
    tagger,
    trained_by,
    views,
)
from test_reduction import two_outputs

import keras_swapout as ks
from keras_swapout.consistency.divergence import Head, generalized_js, log_probabilities, two_way
from keras_swapout.consistency.jensen_shannon import consistency_weight, label_part
from keras_swapout.layers import BDropDML

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.skipif(BACKEND == "numpy", reason="NumPy does not train")
SPARSE = keras.losses.SparseCategoricalCrossentropy
ONE_HOT = keras.losses.CategoricalCrossentropy
BINARY = keras.losses.BinaryCrossentropy


def js(weights, *distributions):
    """H(mean) - mean of H, along the last axis."""
    mean = sum(w * d for w, d in zip(weights, distributions, strict=True))
    entropies = sum(w * xlogy(d, d).sum(-1) for w, d in zip(weights, distributions, strict=True))
    return entropies - xlogy(mean, mean).sum(-1)


def gjs(y, p, q, pi=0.5):
    return js((pi, (1 - pi) / 2, (1 - pi) / 2), y, p, q) / (-(1 - pi) * math.log(1 - pi))


def terms(y, p, q, pi=0.5):
    """What the label asks, and what the views ask of one another."""
    apart = js((0.5, 0.5), p, q) / -math.log(1 - pi)
    return gjs(y, p, q, pi) - apart, apart


def outcomes(numbers, head):
    """Probabilities along a last axis, of outputs or of labels that are none but probabilities."""
    if head.distribution == "softmax":
        numbers = np.moveaxis(numbers, head.axis, -1)
        return softmax(numbers, -1) if head.from_logits else numbers
    p = expit(numbers) if head.from_logits else numbers
    return np.stack([p, 1 - p], -1)


def labels_for(head, shape, kind, seed=1):
    rng = np.random.default_rng(seed)
    if head.distribution == "sigmoid":
        y = rng.integers(0, 2, shape) if kind == "hard" else rng.uniform(size=shape)
        return y, outcomes(y, Head("sigmoid"))
    if kind == "soft":
        y = softmax(rng.normal(size=shape), head.axis)
        return y, np.moveaxis(y, head.axis, -1)
    without = list(shape)
    classes = without.pop(head.axis)
    y = rng.integers(0, classes, without)
    return y, np.eye(classes)[y]


# The function


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("name", reduced(OUTPUTS, "logits", "labels"))
def test_values_are_the_divergence_of_three(name, kind):
    pi = 0.5 if kind == "hard" else 0.1
    head, shape = OUTPUTS[name]
    a, b = pair_of_outputs(head, shape)
    given, y = labels_for(head, shape, kind)
    expected = gjs(y, outcomes(a, head), outcomes(b, head), pi)
    value = generalized_js(given, a.astype(WIDE), b.astype(WIDE), pi, head)
    assert keras.backend.standardize_dtype(value.dtype) == WIDE
    tolerance = 1e-6 if WIDE == "float64" and given.dtype == float else 1e-5
    np.testing.assert_allclose(array(value), expected, rtol=tolerance, atol=1e-6)


def test_both_parts_make_the_whole():
    head, shape = OUTPUTS["logits"]
    a, b = pair_of_outputs(head, shape)
    y, pi = np.eye(4)[[0, 1, 2, 3, 0]], 0.3
    p, q = (log_probabilities(x.astype(WIDE), head) for x in (a, b))
    label, apart = terms(y, *(softmax(x, -1) for x in (a, b)), pi)
    np.testing.assert_allclose(array(label_part(y, p, q, pi)), label, rtol=1e-5)
    factor = float(consistency_weight(pi))
    np.testing.assert_allclose(factor * array(two_way(a, b, "js", head)), apart, rtol=1e-4)


@pytest.mark.parametrize(
    "name", reduced(["logits", "probabilities", "class axis 1", "label logits"], "logits")
)
def test_gradients_are_those_of_finite_differences(name):
    head, shape = OUTPUTS[name]
    a, b = pair_of_outputs(head, shape)
    given, y = labels_for(head, shape, "hard")

    def measure(a, b):
        return generalized_js(given, a, b, 0.4, head)

    found = gradients(measure, a.astype(WIDE), b.astype(WIDE))

    def oracle(a, b):
        p, q = outcomes(a, head), outcomes(b, head)
        # As documented, so that numbers whose sum is not quite 1 make no difference.
        middle, pi = 0.4 * y + 0.3 * p + 0.3 * q, 0.4
        parts = ((0.4, y), (0.3, p), (0.3, q))
        whole = sum(w * (xlogy(d, d) - xlogy(d, middle)).sum(-1) for w, d in parts)
        return whole / (-(1 - pi) * math.log(1 - pi))

    expected = slope(lambda x: oracle(x, b), a), slope(lambda x: oracle(a, x), b)
    tolerance = dict(rtol=1e-4, atol=1e-6) if WIDE == "float64" else dict(rtol=2e-3, atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.parametrize("measure", ["js", "gjs"])
def test_gradients_where_both_views_say_the_same_of_a_class(measure):
    a, b = np.array([[0.0, 1.0, 2.0]]), np.array([[2.0, 1.0, 0.0]])
    head = Head("softmax", True)

    def value(a, b):
        return (
            two_way(a, b, "js", head) if measure == "js" else generalized_js([1], a, b, 0.5, head)
        )

    def oracle(a):
        p, q = softmax(a, -1), softmax(b, -1)
        return js((0.5, 0.5), p, q) if measure == "js" else gjs(np.eye(3)[[1]], p, q)

    (found, _), expected = gradients(value, a.astype(WIDE), b.astype(WIDE)), slope(oracle, a)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pi", reduced([1e-6, 0.01, 0.5, 0.99, 1 - 1e-6], 1e-6))
def test_it_is_bounded_and_accurate_for_any_weight(pi):
    """The bound is the entropy of the weights: three distributions that have nothing in common."""
    pi = float(np.float32(pi))
    far = np.array([[40.0, 0, 0], [0, 40.0, 0]], "float32")
    head = Head("softmax", True)
    weights = np.array([pi, (1 - pi) / 2, (1 - pi) / 2])
    bound = -xlogy(weights, weights).sum() / (-(1 - pi) * math.log1p(-pi))
    value = float(array(generalized_js([2], far[:1], far[1:], pi, head))[0])
    assert value == pytest.approx(bound, rel=1e-4)
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 3, (2, 50, 3)).astype("float32")
    values = array(generalized_js(rng.integers(0, 3, 50), a, b, pi, head))
    assert np.isfinite(values).all() and (values >= 0).all() and (values <= bound).all()


def test_its_limits_are_the_crossentropy_and_half_the_absolute_error():
    logits = np.random.default_rng(0).normal(0, 2, (20, 4)).astype("float32")
    y, head = np.arange(20) % 4, Head("softmax", True)
    right = softmax(logits.astype("float64"), -1)[np.arange(20), y]
    low, high = (array(generalized_js(y, logits, logits, pi, head)) for pi in (1e-6, 1 - 1e-7))
    np.testing.assert_allclose(low, -np.log(right), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(high, 1 - right, atol=0.1)  # reached as 1 / log(1 - pi)
    soft = softmax(np.random.default_rng(1).normal(size=(20, 4)), -1)
    kl = xlogy(soft, soft).sum(-1) - (soft * np.log(softmax(logits.astype("float64"), -1))).sum(-1)
    low = array(generalized_js(soft, logits, logits, 1e-6, head))
    np.testing.assert_allclose(low, kl, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", reduced(["float32", "float16", "bfloat16"], "float16"))
@pytest.mark.parametrize("distribution", ["softmax", "sigmoid"])
@pytest.mark.parametrize("from_logits", reduced([True, False], True))
def test_extremes_are_harmless(from_logits, distribution, dtype):
    high, low = (65000.0, -65000.0) if from_logits else (1.0, 0.0)
    a = keras.ops.cast(np.array([[high, low], [low, high], [high, low], [high, low]]), dtype)
    b = keras.ops.cast(np.array([[high, low], [low, high], [low, high], [low, high]]), dtype)
    head = Head(distribution, from_logits)
    y = np.array([[1, 0], [1, 0], [1, 0], [0.5, 0.5]], "float32")
    for pi in (1e-6, 0.5, 1 - 1e-6):
        measure = functools.partial(generalized_js, y, label_weight=pi, head=head)
        value = measure(a, b)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        assert np.isfinite(array(value)).all()
        # What the views ask of one another has for 1e-6 a gradient that float16 does not hold.
        fits = np.isfinite if pi > 1e-6 else lambda gradient: ~np.isnan(gradient)
        assert all(fits(gradient).all() for gradient in gradients(measure, a, b))
        if pi == 0.5:  # right, wrong, and one of each
            expected = gjs(
                *(np.array([[1.0, 0]] * 3), *(np.eye(2)[i] for i in ([0, 1, 0], [0, 1, 1])))
            )
            found = array(value)[:3]
            found = found if distribution == "softmax" else found[:, 0]
            np.testing.assert_allclose(found, expected, atol=3e-3)


@pytest.mark.tensorflow
def test_bad_arguments_of_the_function_are_named():
    a, y = np.full((2, 3), 1 / 3, "float32"), np.array([0, 1])
    refuses(lambda x: generalized_js(x, a, a), "labels", NO_ARRAY, TypeError)
    for labels in (y[:1], y / 1.0, y[:, None], np.eye(3, dtype=int)[y], np.eye(3)[:1], np.eye(2)):
        with pytest.raises(ValueError, match=r"`labels` must be classes, ints of shape \(2,\), or"):
            generalized_js(labels, a, a)
    with pytest.raises(ValueError, match=r"`labels` must be numbers in \[0, 1\] of shape \(2, 3\)"):
        generalized_js(y, a, a, head=Head("sigmoid"))
    with pytest.raises(ValueError, match="`a` and `b` must have one shape"):
        generalized_js(y, a, a[:1])
    with pytest.raises(ValueError, match="`head` must be"):
        generalized_js(y, a, a, head=Head(None))
    weigh = functools.partial(generalized_js, y, a, a)
    refuses(weigh, "label_weight", [x for x in NO_NUMBER if not callable(x)], TypeError)
    wrong = (0, 1, -0.1, 1.5, NAN, INF, 10**400, 1e-50, 1 - 1e-12)
    refuses(weigh, "label_weight", wrong, ValueError)


# The training step

X, Y = samples()
BITS = np.random.default_rng(5).integers(0, 2, (8, 3)).astype("float32")
EYE = np.eye(3, dtype="float32")
SOFT = softmax(np.random.default_rng(6).normal(size=(8, 3)), -1)


def binary(p):
    return np.stack([p, 1 - p], -1)


#: name: (last activation, loss, labels, their distribution)
TASKS = {
    "sparse": ("softmax", CROSSENTROPY, Y, EYE[Y]),
    "sparse column, logits": (None, SPARSE(from_logits=True), Y[:, None], EYE[Y]),
    "one-hot": ("softmax", "categorical_crossentropy", EYE[Y], EYE[Y]),
    "soft logits": (None, ONE_HOT(from_logits=True), SOFT, SOFT),
    "smoothed": (
        None, ONE_HOT(from_logits=True, label_smoothing=0.3), EYE[Y], 0.7 * EYE[Y] + 0.1
    ),
    "binary": ("sigmoid", "bce", BITS, binary(BITS)),
    "binary logits, smoothed": (
        None, BINARY(from_logits=True, label_smoothing=0.2), BITS, binary(0.8 * BITS + 0.1)
    ),
    "a function": ("softmax", keras.losses.sparse_categorical_crossentropy, Y, EYE[Y]),
    "a partial": (
        "softmax", functools.partial(keras.losses.categorical_crossentropy, label_smoothing=0.3),
        EYE[Y], 0.7 * EYE[Y] + 0.1,
    ),
}  # fmt: skip


def of_views(z, loss, y):
    """Probabilities along the last axis."""
    if y.ndim == 3:
        return binary(expit(z) if getattr(loss, "from_logits", False) else z)
    return softmax(z, -1) if getattr(loss, "from_logits", False) else z


@pytest.mark.parametrize("name", reduced(TASKS, "sparse", "smoothed", "binary logits, smoothed"))
def test_loss_of_a_step_is_that_of_the_paper(name):
    activation, loss, labels, y = TASKS[name]
    p, q = (of_views(z, loss, y) for z in views(network(activation), X)[0])
    label, apart = terms(y, p, q, 0.3)
    rblock = trained_by(network(activation), loss, divergence="gjs", label_weight=0.3)
    logs = step(rblock, X, labels)
    assert logs["loss"] == pytest.approx(gjs(y, p, q, 0.3).mean(), rel=1e-4)
    assert logs["task_loss"] == pytest.approx(label.mean(), rel=1e-4)
    assert logs["consistency"] == pytest.approx(apart.mean(), rel=1e-4)


@pytest.mark.tensorflow
def test_alpha_weighs_what_the_views_ask_of_one_another():
    for alpha in (0.0, 2.0):
        p, q = views(network(), X)[0]
        label, apart = terms(EYE[Y], p, q)
        logs = step(trained_by(network(), divergence="gjs", alpha=alpha), X, Y)
        assert logs["loss"] == pytest.approx((label + alpha * apart).mean(), rel=1e-4)


@pytest.mark.parametrize(
    "arguments", [{}, *marked(dict(fraction=0.4, alpha=2.0), dict(stop_gradient=True))], ids=str
)
def test_gradient_of_a_step(arguments):
    """Of the last bias, which moves both views; a symmetric JS of constants has half of it."""
    alpha, forked = arguments.get("alpha", 1.0), 3 if "fraction" in arguments else 8
    alpha = alpha / 2 if "stop_gradient" in arguments else alpha
    p, q = views(network(), X)[0]
    q[forked:] = p[forked:]

    def loss(bias):
        label, apart = terms(EYE[Y], *(softmax(np.log(view) + bias, -1) for view in (p, q)), 0.2)
        return label.mean() + alpha * apart[:forked].mean()

    rblock = trained_by(network(), divergence="gjs", label_weight=0.2, **arguments)
    before = rblock.model.get_weights()[-1]
    step(rblock, X, Y)
    found = (before - rblock.model.get_weights()[-1]) / 0.1
    np.testing.assert_allclose(found, slope(loss, np.zeros(3)), rtol=1e-3, atol=1e-6)


WEIGHT = np.array([0, 0, 1, 2, 0.5, 0, 3, 1], "float32")
MISSING = np.where(np.arange(8) % 3 == 0, -1, Y)
#: name: (loss, labels, whether there are weights, factors of the samples)
REDUCTIONS = {
    "weights": (CROSSENTROPY, Y, True, WEIGHT / 8),
    "sum": (SPARSE(reduction="sum"), Y, True, WEIGHT),
    "mean by weight": (
        SPARSE(reduction="mean_with_sample_weight"), Y, True, WEIGHT / WEIGHT.sum()
    ),
    "an ignored class": (SPARSE(ignore_class=-1), MISSING, False, (MISSING >= 0) / 5),
    "one-hot labels of zeros": (
        "categorical_crossentropy", EYE[MISSING] * (MISSING >= 0)[:, None], False,
        (MISSING >= 0) / 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", reduced(REDUCTIONS, "an ignored class"))
def test_both_terms_are_reduced_as_the_loss_is(name):
    loss, labels, weighted, each = REDUCTIONS[name]
    p, q = views(network(), X)[0]
    label, apart = terms(EYE[Y], p, q)
    rblock = trained_by(network(), loss, divergence="gjs")
    logs = step(rblock, X, labels, **(dict(sample_weight=WEIGHT) if weighted else {}))
    assert logs["task_loss"] == pytest.approx((each * label).sum(), rel=1e-4)
    assert logs["consistency"] == pytest.approx((each * apart).sum(), rel=1e-4)


@pytest.mark.tensorflow
def test_a_sum_of_what_is_forked_stands_for_the_whole_batch():
    p, q = views(network(), X)[0]
    q[2:] = p[2:]
    label, apart = terms(EYE[Y], p, q)
    logs = step(
        trained_by(network(), SPARSE(reduction="sum"), divergence="gjs", fraction=0.25), X, Y
    )
    assert logs["task_loss"] == pytest.approx(label.sum(), rel=1e-4)
    assert logs["consistency"] == pytest.approx(4 * apart.sum(), rel=1e-4)


@pytest.mark.tensorflow  # elsewhere Keras takes no gradient of such a loss
def test_without_a_reduction_the_gradient_is_that_of_the_sum():
    summed, each = (
        trained_by(network(), SPARSE(reduction=reduction), divergence="gjs")
        for reduction in ("sum", None)
    )
    logs, mean = step(summed, X, Y), step(each, X, Y)
    assert mean == pytest.approx({name: value / 8 for name, value in logs.items()}, rel=1e-5)
    for one, other in zip(each.get_weights(), summed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.tensorflow
def test_masked_steps_and_an_ignored_class():
    words = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [5, 6, 7, 8, 1], [1, 1, 0, 0, 0]], "int32")
    tags = np.random.default_rng(0).integers(-1, 3, (4, 5))
    p, q = views(tagger(), words)[0]
    q[2:] = p[2:]
    valid = (words > 0) & (tags >= 0)
    label, apart = terms(EYE[tags], p, q)
    logs = step(
        trained_by(tagger(), SPARSE(ignore_class=-1), divergence="gjs", fraction=0.5),
        words, tags,
    )  # fmt: skip
    assert logs["task_loss"] == pytest.approx(label[valid].mean(), rel=1e-4)
    assert logs["consistency"] == pytest.approx(apart[:2][valid[:2]].mean(), rel=1e-4)


@pytest.mark.tensorflow
def test_classes_along_another_axis():
    def model():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((6,))
        z = BDropDML(0.5, seed=1)(keras.layers.Dense(8, activation="relu")(inputs))
        z = keras.layers.Reshape((3, 4))(keras.layers.Dense(12)(z))
        return keras.Model(inputs, keras.layers.Softmax(axis=1)(z))

    y = np.moveaxis(EYE[np.random.default_rng(0).integers(0, 3, (8, 4))], -1, 1)
    p, q = views(model(), X)[0]
    expected = gjs(*(np.moveaxis(x, 1, -1) for x in (y, p, q))).mean()
    logs = step(trained_by(model(), ONE_HOT(axis=1), divergence="gjs"), X, y)
    assert logs["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.tensorflow
def test_several_outputs_and_their_logs():
    """The losses of single outputs are the compiled ones; one without a loss is left out."""
    other = (Y + 1) % 3
    outputs = views(two_outputs(), X)
    wholes = [gjs(EYE[y], *pair).mean() for y, pair in zip((Y, other), outputs, strict=True)]
    rblock = trained_by(
        two_outputs(), [CROSSENTROPY] * 2, divergence=["gjs", "gjs"], loss_weights=[2.0, 0.5]
    )
    logs = step(rblock, X, [Y, other])
    assert logs["loss"] == pytest.approx(2 * wholes[0] + 0.5 * wholes[1], rel=1e-4)
    for name, y, pair in zip("ab", (Y, other), outputs, strict=True):
        crossentropy = np.mean([-np.log(view[np.arange(8), y]).mean() for view in pair])
        assert logs[f"{name}_loss"] == pytest.approx(crossentropy, rel=1e-4)
    for kind in ("gjs", [None, "gjs"]):
        logs = step(trained_by(two_outputs(), [None, CROSSENTROPY], divergence=kind), X, other)
        assert logs["loss"] == pytest.approx(wholes[1], rel=1e-4)


def test_what_layers_and_regularisers_add_counts_once():
    model = adding(Sum(), BDropDML(0.5, seed=1), Sum())
    hidden = array(keras.Model(model.input, model.layers[1].output)(X))
    drop = keras.Sequential([keras.Input((8,)), BDropDML(0.5, seed=1)])
    added = 0.01 * np.square(hidden).sum()
    added += np.mean([0.01 * np.square(view).sum() for view in views(drop, hidden)[0]])
    added += 0.1 * np.square(model.layers[1].get_weights()[0]).sum()
    label, _ = terms(EYE[Y], *views(model, X)[0])
    model.layers[3].seed_generator.state.assign([1, 0])
    logs = step(trained_by(model, divergence="gjs"), X, Y)
    assert logs["task_loss"] == pytest.approx(label.mean() + added, rel=1e-5)


@pytest.mark.tensorflow
def test_a_subclassed_network_and_the_loss_of_evaluate():
    keras.utils.set_random_seed(1)
    rblock = trained_by(Subclassed(), divergence="gjs")
    logs = step(rblock, X, Y)
    assert sorted(logs) == ["consistency", "loss", "task_loss"]
    prediction = rblock.predict(X, verbose=0)
    expected = -np.log(prediction[np.arange(8), Y]).mean()
    assert rblock.evaluate(X, Y, verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.tensorflow
def test_mixed_precision_in_a_graph():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        rblock = trained_by(network(None), SPARSE(from_logits=True), divergence="gjs", mode=GRAPH)
    finally:
        keras.config.set_dtype_policy("float32")
    expected = step(trained_by(network(None), SPARSE(from_logits=True), divergence="gjs"), X, Y)
    logs = step(rblock, X, Y)
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, rel=0.03)


@pytest.mark.tensorflow
def test_a_step_of_xla_is_one():
    one, other = (
        trained_by(network(), divergence="gjs", mode=mode)
        for mode in (QUICK, dict(jit_compile=True))
    )
    assert step(other, X, Y) == pytest.approx(step(one, X, Y), rel=1e-5)
    for found, expected in zip(other.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# label_weight


def test_the_label_weight_can_be_set_anew_without_tracing():
    traced = []

    class Traced(keras.layers.Layer):
        def call(self, inputs):
            traced.append(True)
            return inputs

    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    z = BDropDML(0.5, seed=1)(Traced()(keras.layers.Dense(8)(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(z))
    sgd = keras.optimizers.SGD(0.0)
    rblock = trained_by(model, optimizer=sgd, divergence="gjs", mode=GRAPH)
    rblock.fit(X, Y, verbose=0)
    before = len(traced)
    state = model.layers[3].seed_generator.state
    for pi in (0.2, 0.9):
        rblock.label_weight = pi
        assert rblock.label_weight == pi
        drawn = array(state).astype("int64")
        found = rblock.fit(X, Y, batch_size=8, shuffle=False, verbose=0).history["loss"][0]
        if BACKEND != "torch":
            assert len(traced) == before
        state.assign(drawn)
        p, q = views(model, X)[0]
        assert found == pytest.approx(gjs(EYE[Y], p, q, pi).mean(), rel=1e-4)
        before = len(traced)


def test_the_label_weight_is_one_of_the_weights_and_saved(tmp_path):
    one, other = (trained_by(network(), divergence="gjs", label_weight=w) for w in (0.1, 0.7))
    other.set_weights(one.get_weights())
    assert other.label_weight == other.get_config()["label_weight"] == 0.1
    one.label_weight = 0.3
    one.save(tmp_path / "rblock.keras")
    loaded = keras.saving.load_model(tmp_path / "rblock.keras")
    assert (loaded.label_weight, loaded.divergence) == (0.3, "gjs")
    assert step(loaded, X, Y) == pytest.approx(step(one, X, Y), rel=1e-5)
    one.save_weights(tmp_path / "rblock.weights.h5")
    other.load_weights(tmp_path / "rblock.weights.h5")
    assert other.label_weight == 0.3
    again = ks.RBlock.from_config(json.loads(json.dumps(one.get_config())))
    assert json.dumps(again.get_config()) == json.dumps(one.get_config())


@pytest.mark.tensorflow
def test_other_divergences_have_no_such_weight(tmp_path):
    plain, rblock = trained_by(network(), alpha=0.3), trained_by(network(), divergence="gjs")
    names = [[w.name for w in model.weights] for model in (plain, rblock)]
    assert "label_weight" not in names[0] and len(names[1]) == len(names[0]) + 1
    config = plain.get_config()
    del config["label_weight"]  # as of older versions
    assert ks.RBlock.from_config(config).label_weight == 0.5
    plain.save_weights(tmp_path / "plain.weights.h5")
    rblock.label_weight = 0.2
    rblock.load_weights(tmp_path / "plain.weights.h5")
    assert (rblock.alpha, rblock.label_weight) == (pytest.approx(0.3), 0.2)


# What is refused


@pytest.mark.tensorflow
def test_label_weights_that_are_none():
    def make(value):
        return ks.RBlock(network(), divergence="gjs", label_weight=value)

    refuses(make, "label_weight", [x for x in NO_NUMBER if not callable(x)], TypeError)
    wrong = (0, 1, -1, NAN, INF, 10**400, 1e-50, 1 - 1e-12)
    refuses(make, "label_weight", wrong, ValueError)
    rblock = make(0.5)
    refuses(lambda x: setattr(rblock, "label_weight", x), "label_weight", (0, 1), ValueError)
    with pytest.raises(ValueError, match=r"`label_weight`.*ignored.*with divergence='js'"):
        ks.RBlock(network(), divergence="js", label_weight=0.3)
    with pytest.raises(ValueError, match=r"`label_weight`.*ignored.*with divergence='kl'"):
        ks.RBlock(network()).label_weight = 0.3


def own_loss(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


class OwnLoss(SPARSE):
    pass


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", [network, Subclassed])
def test_losses_that_it_can_not_replace(make):
    losses = ("mse", "crossentropy", own_loss, OwnLoss(), keras.losses.BinaryFocalCrossentropy())
    rblock = ks.RBlock(make(), divergence="gjs")
    for loss in losses:
        with pytest.raises(ValueError, match=r'`loss` must be Keras. own Sparse.*divergence="gjs"'):
            rblock.compile("sgd", loss)


@pytest.mark.tensorflow
def test_gjs_is_the_loss_of_all_outputs_or_of_none():
    for kinds in (["gjs", "kl"], {"a": "gjs", "b": "mse"}, ["gjs", own_loss]):
        with pytest.raises(ValueError, match="`divergence` must be without others where one is"):
            ks.RBlock(two_outputs(), divergence=kinds)
    for kinds, loss in (
        (["gjs", None], CROSSENTROPY),
        ({"a": "gjs"}, {"a": CROSSENTROPY, "b": CROSSENTROPY}),
        (["gjs", "gjs"], [CROSSENTROPY, None]),
        ("gjs", None),
    ):
        rblock = ks.RBlock(two_outputs(), divergence=kinds)
        with pytest.raises(ValueError, match='`divergence="gjs"` is the loss of every output'):
            rblock.compile("sgd", loss)


@pytest.mark.tensorflow
def test_a_task_loss_of_ones_own_is_refused():
    class Own(ks.RBlock):
        def task_loss(self, *args, **kwargs):
            return super().task_loss(*args, **kwargs)

    Own(network())
    with pytest.raises(ValueError, match=r'`divergence="gjs"`.*`task_loss` of Own'):
        Own(network(), divergence="gjs")
