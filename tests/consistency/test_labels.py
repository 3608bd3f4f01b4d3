"""Labels that a network contradicts: the scores, and whether they find what is wrong."""

import keras
import numpy as np
import pytest
from scipy import special

import keras_swapout as ks
from keras_swapout.consistency import LabelIssues, find_label_issues

RNG = np.random.default_rng(0)
P = RNG.dirichlet(np.ones(4), 50)
Y = RNG.integers(4, size=50)
JIT = keras.backend.backend() == "jax"  # to compile takes longer than to run


def network(units=3, activation=None, rate=0.5):
    """Of 8 inputs."""
    inputs = keras.Input((8,))
    x = keras.layers.Dense(16, "relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(units, activation)(keras.layers.Dropout(rate)(x)))


def logits_of(weights, x):
    """Those of `network`, by NumPy."""
    first, bias, last, shift = weights
    return np.maximum(x @ first + bias, 0) @ last + shift


def test_scores_are_those_of_their_definition():
    issues = find_label_issues(Y, P)
    assert isinstance(issues, LabelIssues)
    for i, (y, p) in enumerate(zip(Y, P, strict=True)):
        others = [p[c] for c in range(4) if c != y]
        assert issues.self_confidence[i] == p[y]
        assert issues.margin[i] == p[y] - max(others)
        assert issues.flags[i] == (p[y] < max(others))
        assert issues.suggested[i] == np.argmax(p)
    ranked = issues.margin[issues.order]
    assert sorted(issues.order) == list(range(50)) and (np.diff(ranked) >= 0).all()
    flagged = int(issues.flags.sum())
    assert 0 < flagged < 50 and issues.flags[issues.order[:flagged]].all()


def test_what_is_as_probable_is_no_contradiction():
    issues = find_label_issues([1, 0, 2], [[0.5, 0.5, 0], [0.4, 0.4, 0.2], [0.3, 0.4, 0.3]])
    assert issues.flags.tolist() == [False, False, True]
    assert issues.suggested.tolist() == [1, 0, 1]
    assert issues.order[0] == 2


def test_one_probability_is_that_of_class_1():
    issues = find_label_issues([0, 1, 1], [[0.1], [0.2], [0.9]])
    assert issues.flags.tolist() == [False, True, False]
    np.testing.assert_allclose(issues.margin, [0.8, -0.6, 0.8])


@pytest.mark.parametrize("units, activation", [(3, None), (3, "softmax"), (1, "sigmoid")])
@pytest.mark.parametrize("rblock", [False, True])
def test_a_model_is_asked_without_noise(units, activation, rblock):
    model = network(units, activation)
    model = ks.RBlock(model) if rblock else model
    x, y = RNG.normal(size=(20, 8)), RNG.integers(max(units, 2), size=20)
    z = logits_of([np.array(w) for w in model.get_weights() if np.ndim(w)], x)
    z = z if units > 1 else np.concatenate([0 * z, z], axis=1)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    found = find_label_issues(y, model=model, x=x, batch_size=8)
    expected = find_label_issues(y, p)
    np.testing.assert_allclose(found.margin, expected.margin, atol=1e-5)
    np.testing.assert_array_equal(found.suggested, expected.suggested)


def test_a_sigmoid_of_logits_is_told_by_its_loss():
    model = network(1)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    x = RNG.normal(size=(20, 8))
    p = 1 / (1 + np.exp(-logits_of(model.get_weights()[:4], x)))
    found = find_label_issues(np.ones(20, int), model=model, x=x)
    np.testing.assert_allclose(found.self_confidence, p[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "probabilities", "words"),
    [
        ([[0], [1]], P[:2], ["labels", "shape (2, 1)"]),
        ([], P[:0], ["labels", "n >= 1"]),
        ([0, 1, 0], P[:2], ["labels", "2 predictions", "3"]),
        ([0, 4], P[:2], ["labels", "0 .. 3", "4"]),
        ([0, -1], P[:2], ["labels", "0 .. 3", "-1"]),
        ([0, 1], P[0], ["probabilities", "shape (4,)"]),
        ([0, 1], 2 * P[:2], ["probabilities", "sum 1", "2 rows", "row 0"]),
        ([0, 1], [[0.5, 0.5], [1.5, -0.5]], ["probabilities", "1 rows", "row 1"]),
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], ["probabilities", "row 1", "nan"]),
        ([0, 1], None, ["probabilities", "model", "none of them"]),
    ],
)
def test_what_is_no_labels_and_probabilities_is_refused(labels, probabilities, words):
    with pytest.raises(ValueError) as raised:
        find_label_issues(np.array(labels, int), probabilities)
    assert all(word in str(raised.value) for word in words), raised.value


def test_what_is_no_model_is_refused():
    x, y = RNG.normal(size=(4, 8)), np.zeros(4, int)
    model = network()
    for given in ({"model": model}, {"x": x}, {"probabilities": P[:4], "model": model, "x": x}):
        with pytest.raises(ValueError, match="must be given, or else both `model` and `x`"):
            find_label_issues(y, **given)
    with pytest.raises(TypeError, match="`labels` must be ints"):
        find_label_issues([0.0, 1.0], P[:2])
    with pytest.raises(TypeError, match="`model` must be a network"):
        find_label_issues(y, model=print, x=x)
    with pytest.raises(ValueError, match="`batch_size`"):
        find_label_issues(y, model=model, x=x, batch_size=0)
    with pytest.raises(ValueError, match=r"one unit. Received: .*shape \(4, 3\)"):
        find_label_issues(y, model=network(3, "sigmoid"), x=x)
    with pytest.raises(ValueError, match="`model` must be a network with one output, of classes"):
        find_label_issues(y, model=network(3, "relu"), x=x)
    with pytest.raises(ValueError, match="not NaN"):
        model.layers[-1].bias.assign([0.0, np.nan, 0.0])
        find_label_issues(y, model=model, x=x)


# --- training ------------------------------------------------------------------------------------


class Weights(keras.callbacks.Callback):
    """Those after each epoch."""

    def on_train_begin(self, logs=None):
        self.after = []

    def on_epoch_end(self, epoch, logs=None):
        self.after.append([np.array(w) for w in self.model.get_weights() if np.ndim(w)][:4])


@pytest.mark.parametrize("rblock", [False, True])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_area_under_margin_is_the_mean_over_epochs(rblock, activation):
    model = network(3, activation)
    model = ks.RBlock(model) if rblock else model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not activation)
    model.compile("adam", loss, jit_compile=JIT)
    x, y = RNG.normal(size=(20, 8)), RNG.integers(3, size=20)
    area, weights = ks.callbacks.AreaUnderMargin(x, y, batch_size=8), Weights()
    assert area.scores is None
    for epochs in (2, 1):  # a second `fit` begins anew
        model.fit(x, y, batch_size=10, epochs=epochs, callbacks=[area, weights], verbose=0)
        expected, p = [], []
        for each in weights.after:
            z = logits_of(each, x)  # a softmax leaves differences of logarithms as they are
            p.append(special.softmax(z, axis=1))
            given = z[np.arange(20), y]
            z[np.arange(20), y] = -np.inf
            expected.append(given - z.max(axis=1))
        assert len(expected) == epochs
        np.testing.assert_allclose(area.scores, np.mean(expected, axis=0), atol=1e-4)
        np.testing.assert_allclose(area.probabilities, np.mean(p, axis=0), atol=1e-5)


def test_area_under_margin_refuses():
    x, y = RNG.normal(size=(4, 8)), np.zeros(4, int)
    with pytest.raises(TypeError, match="`y` must be ints"):
        ks.callbacks.AreaUnderMargin(x, y + 0.5)
    with pytest.raises(ValueError, match="`batch_size`"):
        ks.callbacks.AreaUnderMargin(x, y, 0)
    for labels, words in (
        ([5, 0, 0, 0], r"`y` must be ints in 0 .. 2"),
        (y[:3], "`y` must be one"),
    ):
        model = network()
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        with pytest.raises(ValueError, match=words):
            area = ks.callbacks.AreaUnderMargin(x, labels)
            model.fit(x, y, callbacks=[area], verbose=0)


def test_wrong_labels_of_digits_are_found():
    metrics = pytest.importorskip("sklearn.metrics")
    x, right = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    x, right = x[:800] / 16, right[:800]
    rng = np.random.default_rng(0)
    wrong = np.zeros(800, bool)
    wrong[rng.permutation(800)[:80]] = True
    y = np.where(wrong, (right + rng.integers(1, 10, 800)) % 10, right)
    inputs = keras.Input((64,))
    h = keras.layers.Dropout(0.5, seed=1)(keras.layers.Dense(64, "relu")(inputs))
    model = ks.RBlock(keras.Model(inputs, keras.layers.Dense(10)(h)), alpha=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=JIT)
    area = ks.callbacks.AreaUnderMargin(x, y, batch_size=800)
    model.fit(x, y, batch_size=50, epochs=10, callbacks=[area], verbose=0)
    issues = find_label_issues(y, model=model, x=x, batch_size=800)
    assert metrics.roc_auc_score(wrong, -issues.margin) > 0.95
    assert metrics.roc_auc_score(wrong, -issues.self_confidence) > 0.95
    assert metrics.roc_auc_score(wrong, -area.scores) > 0.95
    assert issues.flags[wrong].mean() > 0.9 and wrong[issues.flags].mean() > 0.5  # of 0.1
    assert (issues.suggested[wrong] == right[wrong]).mean() > 0.8
