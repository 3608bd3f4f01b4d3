"""Networks and data of every kind: what is measured of them, against scikit-learn and NumPy."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
from keras import layers
from sklearn import metrics
from sklearn.datasets import load_breast_cancer

from keras_swapout.datasets import read
from keras_swapout.study.evaluate import evaluate
from keras_swapout.study.networks import Choice, Network
from keras_swapout.study.pilot.data import PilotData
from keras_swapout.study.pilot.methods import find
from keras_swapout.study.pilot.run import fitting, run_pilot
from keras_swapout.study.pilot.runs import run_shape
from keras_swapout.study.pilot.settings import make_settings
from keras_swapout.study.pilot.training import Trainer
from keras_swapout.study.task import find_task

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:.*(the network gives|not measured|are not taken)"),
]
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(120, 6)).astype("float32")
TOKENS = RNG.integers(0, 20, (120, 7))
COUNTS = RNG.integers(0, 4, (120, 3))


def body(x, units=8, blocks=1):
    x = layers.Dense(units, activation="relu")(x)
    for _ in range(blocks):
        x = x + layers.Dropout(0.2)(layers.Dense(units)(x))
    return x


def network(shape, *ends, blocks=2):
    inputs = keras.Input(shape)
    outputs = [end(body(inputs, blocks=blocks)) for end in ends]
    return keras.Model(inputs, outputs[0] if len(ends) == 1 else outputs)


def cancer():
    data = load_breast_cancer()
    return (data.data, data.target), None, None


def few_ones():
    data = load_breast_cancer()
    kept = np.flatnonzero((data.target == 1) | (np.arange(len(data.target)) % 3 == 0))
    return (data.data[kept], data.target[kept]), None, None


def table():
    return network((30,), layers.Dense(2))


def table_sigmoid():
    model = network((30,), layers.Dense(1))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Nadam(1e-2),
        loss,
        metrics=[keras.metrics.AUC(name="auc", from_logits=True)],
    )
    return model


def table_smoothed():
    model = network((30,), layers.Dense(2, activation="softmax"))
    model.compile("adam", keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    return model


def table_of_two():
    return network((30,), layers.Dense(2), layers.Dense(2))


def signs():
    return (VECTORS, (VECTORS[:, :3] > 0).astype(int)), None, None


def labels():
    return network((6,), layers.Dense(3, activation="sigmoid"))


def one_residual():
    return network((30,), layers.Dense(2), blocks=1)


def own_metric(y, p):
    return p[:, 0]


def own_loss(y, p):
    return -keras.ops.sum(y * keras.ops.log(p + 1e-7), axis=-1)


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def own_step():
    inputs = keras.Input((30,))
    return OwnStep(inputs, layers.Dense(2)(body(inputs, blocks=2)))


def table_own_loss():
    model = network((30,), layers.Dense(2, activation="softmax"))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(optimizer, own_loss, loss_weights=[0.5], metrics=[own_metric])
    return model


def counts():
    return (VECTORS, COUNTS[:, 0]), None, None


def whole():
    return (np.rint(10 * VECTORS).astype(int), VECTORS[:, 0]), None, None


def slopes():
    return (VECTORS, 100 + 10 * VECTORS[:, 0] + VECTORS[:, 1]), None, None


def numbers():
    return network((6,), layers.Dense(1))


def tokens():
    return (TOKENS, (TOKENS > 9).astype(int)), None, None


def steps():
    inputs = keras.Input((7,), dtype="int32")
    x = body(layers.Embedding(20, 8)(inputs), blocks=2)
    return keras.Model(inputs, layers.Dense(2)(x))


def several():
    x = {"a": VECTORS, "b": COUNTS}
    return (x, {"sign": (VECTORS[:, 0] > 0).astype(int), "size": VECTORS[:, 1]}), None, None


def two_outputs():
    a, b = keras.Input((6,), name="a"), keras.Input((3,), name="b", dtype="int32")
    x = layers.Concatenate()([a, layers.Flatten()(layers.Embedding(4, 2)(b))])
    x = body(x, blocks=2)
    model = keras.Model(
        {"a": a, "b": b},
        {
            "sign": layers.Dense(1, "sigmoid", name="sign")(x),
            "size": layers.Dense(1, name="size")(x),
        },
    )
    losses = {"sign": "binary_crossentropy", "size": "mse"}
    model.compile("adam", losses, loss_weights={"sign": 1.0, "size": 0.5})
    return model


def patches():
    noise = np.random.default_rng(1).normal(size=(120, 4, 4))
    images = np.repeat(np.arange(10), 12)[:, None, None] + noise
    return (images, np.repeat(np.arange(10), 12)), None, None


def transformer():
    x = inputs = keras.Input((4, 4))
    x = layers.Dense(8)(x) + layers.Embedding(4, 8)(keras.ops.arange(4))
    for _ in range(2):
        h = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 4)(h, h)
        x = x + layers.Dense(8)(layers.Dense(16, "gelu")(layers.LayerNormalization()(x)))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


class Named(keras.Model):
    def __init__(self):
        super().__init__()
        self.sign, self.size = layers.Dense(2), layers.Dense(1)

    def call(self, x):
        return {"sign": self.sign(x["a"]), "size": self.size(x["a"])}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.drop, self.dense = layers.Dropout(0.2), layers.Dense(2)

    def call(self, x):
        return self.dense(self.drop(x))


@pytest.fixture(scope="module", autouse=True)
def importable():
    """This file, as the module that a user has."""
    sys.modules["their_kinds"] = sys.modules[__name__]
    yield
    del sys.modules["their_kinds"]


def trained(model, data, method="plain", **options):
    options = {"epochs": 1, "samples": [], "seeds": 1, **options}
    settings = make_settings(
        f"their_kinds:{data}", [method], model=f"their_kinds:{model}", **options
    )
    found = PilotData(settings)
    trainer = Trainer(find(method), settings, found)
    run = trainer.run(0)
    test = found.test
    return trainer, run, trainer.deployed.predict(found.info.scaled(test.images), verbose=0), test


def test_classes_of_a_table_by_logits():
    trainer, run, z, test = trained("table", "cancer", "rblock_bdropdml", samples=[2])
    assert trainer.data.info.scale == "standardise" and run["corruption_accuracy"] is None
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert run["test"]["accuracy"] == pytest.approx(
        metrics.accuracy_score(test.labels, z.argmax(1))
    )
    assert run["test"]["nll"] == pytest.approx(metrics.log_loss(test.labels, p), rel=1e-4)
    assert run["consistency"]["disagreement"] > 0 and "stochastic T=2" in run["inference"]
    assert run_shape()(run)


def test_yes_or_no_of_a_table_with_the_users_own_metric():
    trainer, run, z, test = trained("table_sigmoid", "cancer", "rblock_own", samples=[2])
    p = 1 / (1 + np.exp(-z[:, 0]))
    assert run["test"]["accuracy"] == pytest.approx(
        metrics.accuracy_score(test.labels, z[:, 0] > 0)
    )
    assert run["test"]["nll"] == pytest.approx(metrics.log_loss(test.labels, p), rel=1e-4)
    auc = metrics.roc_auc_score(test.labels, p)
    assert run["metrics"] == {"auc": pytest.approx(auc, abs=0.01)}
    assert run["inference"]["deterministic"]["nll"] == pytest.approx(run["test"]["nll"], rel=1e-4)
    assert isinstance(trainer.model.optimizer, keras.optimizers.Nadam)


def test_unbalanced_classes_are_measured_by_class():
    trainer, run, z, test = trained("table", "few_ones", epochs=1, samples=[])
    assert trainer.data.unbalanced
    y, p = test.labels, 1 / (1 + np.exp(z[:, 0] - z[:, 1]))
    expected = metrics.balanced_accuracy_score(y, p > 0.5), metrics.roc_auc_score(y, p)
    assert (run["test"]["balanced_accuracy"], run["test"]["auroc"]) == pytest.approx(expected)


def test_one_hot_losses_get_one_hot_labels():
    trainer, _, _, _ = trained("table_smoothed", "cancer", epochs=1)
    _, labels = next(iter(trainer.data.training_batches(0)))
    np.testing.assert_array_equal(labels.numpy().sum(axis=1), 1)
    assert trainer.model.loss.label_smoothing == 0.1


@pytest.mark.filterwarnings("ignore:the network's metrics can't be made anew")
def test_a_loss_of_the_users_own_gets_what_it_takes():
    with pytest.warns(UserWarning, match="metrics can't be made anew"):
        PilotData(make_settings("their_kinds:cancer", model="their_kinds:table_own_loss"))
    trainer, _, _, _ = trained("table_own_loss", "cancer", epochs=1, learning_rate=0.01)
    x, y = next(iter(trainer.data.training_batches(0)))
    np.testing.assert_array_equal(y.numpy().sum(axis=1), 1)
    loss = 0.5 * np.mean(own_loss(y.numpy().astype("float32"), trainer.deployed(x)))
    found = trainer.model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert float(trainer.model.optimizer.inner_optimizer.learning_rate) == pytest.approx(0.01)


def test_counts_are_classes_or_numbers_as_the_network_says():
    _, run, y, test = trained("numbers", "counts", epochs=1, samples=())
    rmse = np.sqrt(np.mean((test.labels - y[:, 0]) ** 2))
    assert run["test"]["rmse"] == pytest.approx(rmse, rel=1e-5)
    with pytest.raises(ValueError, match="`label_noise` must be 0"):
        trained("numbers", "counts", label_noise=[0.1])


def test_one_unit_is_a_logit_of_yes_or_no_or_a_number():
    for seed in range(4):  # their first outputs may lie within 0..1 or not
        keras.utils.set_random_seed(seed)
        model, cancers = network((30,), layers.Dense(1)), read("their_kinds:cancer")
        some = find_task(model, "a", cancers.info, cancers.train).heads[0]
        assert (some.distribution, some.from_logits) == ("sigmoid", True)
        model, sloped = numbers(), read("their_kinds:slopes")
        assert find_task(model, "a", sloped.info, sloped.train).heads[0].distribution is None


def test_several_labels_for_each():
    _, run, p, test = trained("labels", "signs")
    each = [metrics.log_loss(test.labels[:, i], p[:, i]) for i in range(3)]
    assert run["test"]["nll"] == pytest.approx(np.mean(each), rel=1e-4)
    accuracy = metrics.accuracy_score(test.labels.ravel(), p.ravel() > 0.5)
    assert run["test"]["accuracy"] == pytest.approx(accuracy)


def test_a_class_for_each_step():
    _, run, z, test = trained("steps", "tokens", "sdropdml")
    accuracy = metrics.accuracy_score(test.labels.ravel(), z.argmax(-1).ravel())
    assert run["test"]["accuracy"] == pytest.approx(accuracy)


def test_numbers_have_an_error_in_place_of_accuracy():
    trainer, run, y, test = trained("numbers", "slopes", "rblock_bdropdml")
    rmse = np.sqrt(metrics.mean_squared_error(test.labels, y[:, 0]))
    assert run["test"]["rmse"] == pytest.approx(rmse, rel=1e-5)
    assert run["test"]["mae"] == pytest.approx(np.abs(test.labels - y[:, 0]).mean(), rel=1e-5)
    assert run["history"]["val_rmse"][-1] > 0 and run["consistency"] == {}
    assert run_shape()(run) and isinstance(trainer.model.loss, keras.losses.MeanSquaredError)


@pytest.mark.parametrize(("model", "data"), [("numbers", "slopes"), ("table_sigmoid", "cancer")])
def test_evaluate_measures_what_is_no_image(model, data, tmp_path, capsys):
    arrays = read(f"their_kinds:{data}")
    made = Network(Choice(f"their_kinds:{model}"), arrays.info, arrays.train).new(0)
    made.save(tmp_path / "a.keras")
    options = {"samples": 2, "scale": "standardise", "out": tmp_path / "out"}
    results = evaluate(tmp_path / "a.keras", f"their_kinds:{data}", **options)
    found = results["runs"][0]["test"]
    y = made.predict(arrays.info.scaled(arrays.test.images), verbose=0)[:, 0]
    if data == "slopes":
        expected = {"mae": np.abs(y - arrays.test.labels).mean()}
        said = "mean absolute error"
    else:
        p = 1 / (1 + np.exp(-y))
        expected = {
            "accuracy": metrics.accuracy_score(arrays.test.labels, p > 0.5),
            "nll": metrics.log_loss(arrays.test.labels, p),
            "brier": 2 * metrics.brier_score_loss(arrays.test.labels, p),
        }
        said = "in accuracy"
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert "corrupted" not in results["comparison"]["answer"]
    assert said in results["comparison"]["answer"].lower()
    assert len(capsys.readouterr().out.split("All of it")[0].splitlines()) < 32
    assert (tmp_path / "out" / "report.html").exists()


def test_several_inputs_and_outputs():
    trainer, run, y, test = trained("two_outputs", "several", "rblock_own", samples=[2])
    sign, size = y["sign"][:, 0], y["size"][:, 0]
    accuracy = metrics.accuracy_score(test.labels["sign"], sign > 0.5)
    assert run["test"]["accuracy"] == pytest.approx(accuracy)
    rmse = np.sqrt(np.mean((size - test.labels["size"]) ** 2))
    assert run["test"]["rmse"] == pytest.approx(rmse, rel=1e-5)
    logs = trainer.model.evaluate(trainer.data.training_batches(0), verbose=0, return_dict=True)
    weighted = logs["sign_loss"] + 0.5 * logs["size_loss"]
    assert logs["loss"] - logs.get("consistency", 0) == pytest.approx(weighted, rel=1e-3)


def test_a_subclassed_network_may_return_a_dict():
    _, run, y, test = trained("Named", "several", epochs=1, samples=())
    accuracy = metrics.accuracy_score(test.labels["sign"], y["sign"].argmax(axis=1))
    assert run["test"]["accuracy"] == pytest.approx(accuracy)


def test_a_pilot_of_a_transformer(tmp_path):
    settings = make_settings(
        "their_kinds:patches",
        ["rblock_sdropdml", "dropblock"],
        model="their_kinds:transformer",
        seeds=1,
        epochs=1,
    )
    with pytest.warns(UserWarning, match="dropblock: what the blocks of the network end in has no"):
        results = run_pilot(settings, tmp_path)
    assert [run["method"] for run in results["runs"]] == ["plain", "rblock_sdropdml"]
    assert "severities" not in (tmp_path / "report.html").read_text()


def test_what_cannot_be_reached_of_a_subclassed_network():
    settings = make_settings(
        "their_kinds:cancer", ["swapout", "rblock_own"], model="their_kinds:Subclassed"
    )
    data = PilotData(settings)
    with pytest.warns(UserWarning, match="has a `call` of its own.*Write it as a functional"):
        assert fitting(settings, data.network).methods == ("plain", "rblock_own")


def test_what_is_left_as_it_is_and_unknown_optimizers_are_said():
    options = {"model": "their_kinds:numbers", "optimizer": "none"}
    settings = make_settings("their_kinds:whole", ["plain"], **options)
    with pytest.warns(UserWarning, match="as they are .*--scale standardise.*gives a number"):
        data = PilotData(settings)
    with pytest.raises(ValueError, match=r"`optimizer` must be a name .*optimizer='none'"):
        Trainer(find("plain"), settings, data)


def test_a_training_step_of_the_users_own_is_kept_or_left_alone():
    data = read("their_kinds:cancer")
    found = Network(Choice("their_kinds:own_step"), data.info, data.train)
    settings = make_settings("their_kinds:cancer", model="their_kinds:own_step")
    with pytest.warns(UserWarning, match=r"rblock_own, gjs_bdropdml: must be .*own train_step"):
        assert fitting(settings, found).methods == ("plain", "swapout")
    assert isinstance(find("swapout").trained(found.new(0)), OwnStep)


def test_numbers_are_compared_by_another_method():
    data = read("their_kinds:slopes")
    found = Network(Choice("their_kinds:numbers"), data.info, data.train)
    settings = make_settings("their_kinds:slopes", model="their_kinds:numbers")
    with pytest.warns(UserWarning, match="rblock_bdropdml takes the place of gjs_bdropdml"):
        methods = fitting(settings, found).methods
    assert "rblock_bdropdml" in methods and "gjs_bdropdml" not in methods


@pytest.mark.filterwarnings("ignore:the network.s metrics")
def test_a_new_head_keeps_a_loss_of_the_users_own_and_needs_a_scale(tmp_path):
    data = read("their_kinds:cancer")
    choice = Choice("their_kinds:table_own_loss", new_head=True)
    assert Network(choice, data.info, data.train).new(0).loss is own_loss
    table().save(tmp_path / "a.keras")
    settings = make_settings("their_kinds:cancer", model=str(tmp_path / "a.keras"), new_head=True)
    with pytest.raises(ValueError, match=r"`scale` must be given: .*new head"):
        PilotData(settings)


def test_what_would_draw_nothing_is_left_out():
    data = read("their_kinds:cancer")
    found = Network(Choice("their_kinds:one_residual"), data.info, data.train)
    settings = make_settings("their_kinds:cancer", ["swapout"], model="their_kinds:one_residual")
    with pytest.raises(ValueError, match=r"one residual .* Try swapout@theta_1=0\.5,theta_2=0\.5"):
        fitting(settings, found)
    settings = dataclasses.replace(settings, methods=("plain", "swapout@theta_2=0.5"))
    assert fitting(settings, found).methods == settings.methods


def test_the_scale_of_a_trained_table_is_found(tmp_path):
    data = read("their_kinds:cancer")
    raw = Network(Choice("their_kinds:table"), data.info, data.train).new(0)
    raw.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    raw.fit(data.info.scaled(data.train.images), data.train.labels, epochs=5, verbose=0)
    raw.save(tmp_path / "a.keras")
    settings = make_settings("their_kinds:cancer", ["plain"], model=str(tmp_path / "a.keras"))
    with pytest.warns(UserWarning, match="scale: standardise"):
        assert PilotData(settings).info.scale == "standardise"


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("table", "signs", r"must take the inputs of the data, 6\. .*which takes 30"),
        (
            "numbers",
            "signs",
            r"labels of shape \(3,\)\. Received: 'their_kinds:numbers', which gives yes or no",
        ),
        ("labels", "slopes", "not all are whole"),
        ("two_outputs", "signs", "does not take inputs of 6: .*2 named input"),
        ("table_of_two", "cancer", "each of the 1 labels of a sample"),
    ],
)
def test_what_does_not_fit_is_named_before_training(model, data, message):
    arrays = read(f"their_kinds:{data}")
    with pytest.raises(ValueError, match=message):
        Network(Choice(f"their_kinds:{model}"), arrays.info, arrays.train)
    with pytest.raises(ValueError, match="resnet8v2 classifies images, and the data are inputs of"):
        Network(Choice("resnet8v2"), arrays.info, arrays.train)


def test_a_folder_that_can_not_be_read_is_called_data(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"`data` can't be used: .*broken\.jpg.*Received: data="):
        PilotData(make_settings(str(tmp_path)))


def test_scales_and_sizes_are_for_what_has_them():
    arrays = read("their_kinds:cancer")
    with pytest.raises(ValueError, match="`scale` must be one of standardise, raw"):
        Network(Choice("their_kinds:table", scale="unit"), arrays.info, arrays.train)
    with pytest.raises(ValueError, match="`image_size` must be None, as the data are no images"):
        read("their_kinds:cancer", image_size=8)
    x = arrays.train.images
    scaled = dataclasses.replace(arrays.info, scale="standardise").scaled(x)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-3)
