"""The consistency of a batch is reduced as the loss reduces its own, against a step by hand."""

import keras
import numpy as np
import pytest
from backends import reduced
from scipy.special import rel_entr, softmax
from test_rblock import CROSSENTROPY, QUICK, divergence, network, step, trained_by, views

import keras_swapout as ks
from keras_swapout.layers import BDropDML

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.skipif(BACKEND == "numpy", reason="NumPy does not train")
SPARSE = keras.losses.SparseCategoricalCrossentropy
N = 16


@keras.saving.register_keras_serializable("test_reduction")
class Zeroed(SPARSE):
    """Skips label -1 as many do: the values are 0, and count in the mean."""

    def call(self, y_true, y_pred):
        valid = y_true >= 0
        losses = super().call(keras.ops.where(valid, y_true, 0), y_pred)
        return losses * keras.ops.cast(valid, losses.dtype)


def zeroed(y_true, y_pred):
    return Zeroed().call(y_true, y_pred)


def data(some_missing):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(N, 6)).astype("float32"), rng.integers(0, 3, N)
    weight = rng.uniform(5, 15, N).astype("float32")
    if some_missing:
        y[rng.permutation(N)[: N // 2]] = -1
        x[y < 0] *= 20  # what stands there is not to be seen
    return x, y, weight


def after_a_step(x, y, each, alpha=0.5, rate=0.01):
    """Weights of `network()` after a step of SGD, and the consistency, by hand.

    sum over n of   of_task[n] * [L(y, p1) + L(y, p2)] / 2
                  + alpha * of_consistency[n] * [KL(p1 || p2) + KL(p2 || p1)] / 2
    """
    w, b, v, c = (weight.astype("float64") for weight in network().get_weights())
    drop = keras.Sequential([keras.Input((8,)), BDropDML(0.5, seed=1)])
    ((first, second),) = views(drop, np.ones((N, 8)))
    before = x @ w + b
    hidden = [np.maximum(before, 0) * mask for mask in (first, second)]
    p, q = (softmax(h @ v + c, -1) for h in hidden)
    target = np.eye(3)[np.maximum(y, 0)]
    slopes = []
    for one, other in ((p, q), (q, p)):
        ratio = np.log(one / other)
        together = one - other + one * (ratio - (one * ratio).sum(-1, keepdims=True))
        slopes.append(each[:, None] * (one - target + alpha * together) / 2)
    back = sum((s @ v.T) * mask for s, mask in zip(slopes, (first, second), strict=True))
    back = back * (before > 0)
    out = sum(h.T @ s for h, s in zip(hidden, slopes, strict=True))
    gradients = x.T @ back, back.sum(0), out, sum(slopes).sum(0)
    weights = [z - rate * g for z, g in zip((w, b, v, c), gradients, strict=True)]
    return weights, each * divergence("kl", p, q)


#: name: (loss, whether labels are missing, whether there are weights, factors of the samples)
LOSSES = {
    "ignored class": (
        lambda: SPARSE(ignore_class=-1), True, False, lambda valid, weight: valid / valid.sum()
    ),
    "ignored class, sum": (
        lambda: SPARSE(ignore_class=-1, reduction="sum"), True, False, lambda valid, weight: valid
    ),
    "ignored class, mean by weight": (
        lambda: SPARSE(ignore_class=-1, reduction="mean_with_sample_weight"), True, True,
        lambda valid, weight: valid * weight / (valid * weight).sum(),
    ),
    "zeroed": (Zeroed, True, False, lambda valid, weight: valid / N),
    "zeroed by a function": (lambda: zeroed, True, False, lambda valid, weight: valid / N),
    "zeroed, mean by weight": (
        lambda: Zeroed(reduction="mean_with_sample_weight"), True, True,
        lambda valid, weight: valid * weight / weight.sum(),
    ),
    "sum": (lambda: SPARSE(reduction="sum"), False, True, lambda valid, weight: weight),
    "mean": (lambda: SPARSE(reduction="mean"), False, True, lambda valid, weight: weight / N),
    "mean by weight": (
        lambda: SPARSE(reduction="mean_with_sample_weight"), False, True,
        lambda valid, weight: weight / weight.sum(),
    ),
    "mean by no weight": (
        lambda: SPARSE(reduction="mean_with_sample_weight"), False, False,
        lambda valid, weight: valid / N,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", reduced(LOSSES, "ignored class", "zeroed", "sum"))
def test_a_step_is_that_of_the_loss_own_rule(name):
    make, some_missing, weighted, factors = LOSSES[name]
    x, y, weight = data(some_missing)
    each = factors((y >= 0).astype("float64"), weight.astype("float64"))
    expected, consistency = after_a_step(x, y, each)
    rblock = trained_by(network(), make(), keras.optimizers.SGD(0.01), alpha=0.5)
    logs = step(rblock, x, y, **(dict(sample_weight=weight) if weighted else {}))
    assert logs["consistency"] == pytest.approx(consistency.sum(), rel=1e-4)
    for found, wanted in zip(rblock.model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.tensorflow  # elsewhere Keras takes no gradient of such a loss
def test_without_a_reduction_the_gradient_is_that_of_the_sum():
    x, y, weight = data(False)
    expected, values = after_a_step(x, y, weight)
    loss, sgd = SPARSE(reduction=None), keras.optimizers.SGD(0.01)
    rblock = trained_by(network(), loss, sgd, alpha=0.5)
    logs = step(rblock, x, y, sample_weight=weight)
    assert logs["consistency"] == pytest.approx(values.mean(), rel=1e-4)
    for found, wanted in zip(rblock.model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fraction", reduced([1.0, 0.5], 0.5))
def test_masked_steps_and_an_ignored_class(fraction):
    """A step of a text counts if the network does not mask it and the loss does not skip it."""

    def tagger():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((5,), dtype="int32")
        z = keras.layers.Embedding(9, 6, mask_zero=True)(inputs)
        z = BDropDML(0.5, seed=1)(z)
        return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(z))

    words = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [5, 6, 7, 8, 1], [1, 1, 0, 0, 0]], "int32")
    tags = np.random.default_rng(0).integers(-1, 3, (4, 5))
    ((p, q),) = views(tagger(), words)
    forked = int(4 * fraction)
    valid = ((words > 0) & (tags >= 0))[:forked]
    assert 0 < valid.sum() < (words > 0)[:forked].sum()
    expected = divergence("kl", p, q)[:forked][valid].mean()
    logs = step(trained_by(tagger(), SPARSE(ignore_class=-1), fraction=fraction), words, tags)
    assert logs["consistency"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.tensorflow
def test_a_sum_of_what_is_forked_stands_for_the_whole_batch():
    x, y, _ = data(False)
    ((p, q),) = views(network(), x)
    logs = step(trained_by(network(), SPARSE(reduction="sum"), fraction=0.25), x, y)
    assert logs["consistency"] == pytest.approx(N * divergence("kl", p, q)[:4].mean(), rel=1e-4)


@pytest.mark.tensorflow
def test_a_sum_over_samples_takes_the_mean_of_their_binary_labels():
    x, _, weight = data(False)
    y = np.random.default_rng(0).integers(0, 2, (N, 3))
    ((p, q),) = views(network("sigmoid"), x)
    values = sum(
        (rel_entr(a, b) + rel_entr(b, a)) / 2 for a, b in ((p, q), (1 - p, 1 - q))
    )  # (N, 3)
    rblock = trained_by(network("sigmoid"), keras.losses.BinaryCrossentropy(reduction="sum"))
    logs = step(rblock, x, y, sample_weight=weight)
    assert logs["consistency"] == pytest.approx((weight * values.mean(-1)).sum(), rel=1e-4)


@pytest.mark.tensorflow
def test_a_one_hot_label_of_zeros_is_left_out():
    x, y, _ = data(True)
    ((p, q),) = views(network(), x)
    one_hot = np.eye(3)[y] * (y >= 0)[:, None]
    logs = step(trained_by(network(), "categorical_crossentropy"), x, one_hot)
    expected = divergence("kl", p, q)[y >= 0].sum() / N
    assert logs["consistency"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.tensorflow
def test_a_loss_of_0_for_a_good_prediction_leaves_nothing_out():
    """0 where the prediction is good enough, but not whatever is predicted."""

    def good_enough(y_true, y_pred):
        return keras.ops.relu(keras.losses.sparse_categorical_crossentropy(y_true, y_pred) - 1.0)

    x, y, _ = data(False)
    ((p, q),) = views(network(), x)
    values = -np.log(p[np.arange(N), y])
    assert 0.2 < (values < 1).mean() < 0.8
    logs = step(trained_by(network(), good_enough), x, y)
    assert logs["consistency"] == pytest.approx(divergence("kl", p, q).mean(), rel=1e-4)


def mean_of_known(values, y_true, axis=None):
    known = keras.ops.cast(y_true >= 0, values.dtype)
    number = keras.ops.maximum(keras.ops.sum(known, axis), 1)
    return keras.ops.sum(values * known, axis) / number


@pytest.mark.parametrize("axis", [None, -1])
def test_steps_that_a_loss_leaves_out_of_its_own_mean(axis):
    """Of all texts, or of each; the first has no step that counts."""

    def loss(y_true, y_pred):
        tags = keras.ops.maximum(y_true, 0)
        values = keras.losses.sparse_categorical_crossentropy(tags, y_pred)
        return mean_of_known(values, y_true, axis)

    def tagger():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((5, 6))
        z = BDropDML(0.5, seed=1)(keras.layers.Dense(8, activation="relu")(inputs))
        return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(z))

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 5, 6)).astype("float32"), rng.integers(-1, 3, (N, 5))
    y[0] = -1
    x[y < 0] *= 3  # what stands there is not to be seen
    ((p, q),) = views(tagger(), x)
    values, known = divergence("kl", p, q), y >= 0
    expected = np.sum(values * known, axis) / np.maximum(np.sum(known, axis), 1)
    logs = step(trained_by(tagger(), loss), x, y)
    assert logs["consistency"] == pytest.approx(expected.mean(), rel=1e-4)


def test_labels_that_a_loss_leaves_out_of_the_mean_of_a_sample():
    def loss(y_true, y_pred):
        values = keras.losses.binary_crossentropy(y_true[..., None], y_pred[..., None])
        return mean_of_known(values, y_true, -1)

    x, y = data(False)[0], np.random.default_rng(0).integers(-1, 2, (N, 3))
    ((p, q),) = views(network("sigmoid"), x)
    values = sum((rel_entr(a, b) + rel_entr(b, a)) / 2 for a, b in ((p, q), (1 - p, 1 - q)))
    known = y >= 0
    expected = np.sum(values * known, -1) / np.maximum(np.sum(known, -1), 1)
    logs = step(trained_by(network("sigmoid"), loss), x, y)
    assert logs["consistency"] == pytest.approx(expected.mean(), rel=1e-4)


def two_outputs():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    z = BDropDML(0.5, seed=1)(keras.layers.Dense(8, activation="relu")(inputs))
    heads = [keras.layers.Dense(3, activation="softmax", name=name)(z) for name in "ab"]
    return keras.Model(inputs, heads)


@pytest.mark.tensorflow
@pytest.mark.parametrize("labels", [list, dict, "only b"], ids=str)
def test_each_output_has_the_labels_and_the_rule_of_its_own(labels):
    x, whole, _ = data(False)
    y = data(True)[1]
    (p, q), (s, t) = views(two_outputs(), x)
    of_b = divergence("kl", s, t)[y >= 0].mean()
    skipping = SPARSE(ignore_class=-1)
    if labels == "only b":
        rblock = trained_by(two_outputs(), [None, skipping], divergence=[None, "kl"])
        assert step(rblock, x, y)["consistency"] == pytest.approx(of_b, rel=1e-4)
        return
    losses, given = [SPARSE(reduction="sum"), skipping], [whole, y]
    if labels is dict:
        losses, given = (dict(zip("ab", values, strict=True)) for values in (losses, given))
    expected = divergence("kl", p, q).sum() + of_b
    assert step(trained_by(two_outputs(), losses), x, given)["consistency"] == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.tensorflow
def test_a_subclass_of_a_crossentropy_is_one():
    """Its logits are no numbers of which nothing is known."""
    x, y, _ = data(True)
    ((z1, z2),) = views(network(None), x)
    rblock = ks.RBlock(network(None))
    rblock.compile("sgd", Zeroed(from_logits=True), **QUICK)
    values = divergence("kl", softmax(z1, -1), softmax(z2, -1))
    assert step(rblock, x, y)["consistency"] == pytest.approx(values[y >= 0].sum() / N, rel=1e-4)


@pytest.mark.tensorflow
def test_a_loss_named_crossentropy():
    named, known = (step(trained_by(network(), x), *data(False)[:2]) for x in ("ce", CROSSENTROPY))
    for name, value in known.items():
        assert named[name] == pytest.approx(value, rel=1e-6)
