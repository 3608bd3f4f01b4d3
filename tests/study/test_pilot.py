"""The pilot's running half: measures, methods, training, interruption and files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("tensorflow_datasets")

from sklearn import metrics

from keras_swapout.study import store
from keras_swapout.study.measuring import scores
from keras_swapout.study.measuring.corruptions import CORRUPTIONS
from keras_swapout.study.pilot import data as pilot_data
from keras_swapout.study.pilot import make_settings, methods, run_pilot, training, work
from keras_swapout.study.pilot import run as pilot_run
from keras_swapout.study.pilot.runs import model_path, read_run, run_path
from keras_swapout.study.pilot.training import Trainer

FIXTURES = Path(__file__).parents[1] / "fixtures" / "0.1.0"

TINY = {
    "data": "digits",
    "methods": ["plain", "swapout"],
    "seeds": 1,
    "epochs": 1,
    "limit": 200,
    "batch_size": 32,
    "corruption_images": 20,
    "samples": [3],
    "label_noise": [0.0],
}
COMMAND = [sys.executable, "-m", "keras_swapout", "pilot"]
for name, value in TINY.items():
    values = value if isinstance(value, list) else [value]
    COMMAND += [f"--{name.replace('_', '-')}", *map(str, values)]


SMALL = {**TINY, "model": "small:network"}  # what is not about our own networks takes this one


@pytest.fixture(scope="module")
def quick():
    """Fewer corruptions."""
    corruptions = {k: pilot_data.CORRUPTIONS[k] for k in ("gaussian_noise", "brightness")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pilot_data, "CORRUPTIONS", corruptions)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick):
    out = tmp_path_factory.mktemp("pilot") / "out"
    return run_pilot(changed(methods=["plain", "rblock_sdropdml"]), out, save_models=True), out


@pytest.fixture(scope="module")
def data(quick):
    return pilot_data.PilotData(make_settings(**TINY))


@pytest.fixture(scope="module")
def trainer(finished):
    """The one that `finished` has compiled."""
    settings = changed(methods=["plain", "rblock_sdropdml"])
    return work.trainer_for(settings, "rblock_sdropdml", work.data_of(settings))


def changed(**values):
    return make_settings(**SMALL | values)


# --- measures ------------------------------------------------------------------------------------


def random_logits(n=200, classes=4):
    rng = np.random.default_rng(0)
    return 3 * rng.normal(size=(n, classes)), rng.integers(classes, size=n)


@pytest.mark.tensorflow
def test_measures_agree_with_scikit_learn():
    logits, labels = random_logits()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert scores.negative_log_likelihood(logits, labels) == pytest.approx(
        metrics.log_loss(labels, probabilities)
    )
    assert scores.accuracy(logits, labels) == metrics.accuracy_score(labels, logits.argmax(1))


@pytest.mark.tensorflow
def test_calibration_by_hand():
    # Confidences 0.5 (right), 0.6 (wrong), 0.65 (right), 0.9 (right), in 2 classes.
    confidence = np.array([0.5, 0.6, 0.65, 0.9])
    logits = np.stack([np.log(confidence), np.log(1 - confidence)], axis=1)
    labels = np.array([0, 1, 0, 0])
    # Bins of 0.25: the 0.5 in (0.25, 0.5], then two in (0.5, 0.75], then one in (0.75, 1].
    curve = scores.calibration_curve(logits, labels, bins=4)
    assert curve["count"] == [0, 1, 2, 1]
    assert curve["confidence"][0] is None
    assert curve["confidence"][1:] == pytest.approx([0.5, 0.625, 0.9])
    assert curve["accuracy"] == [None, 1.0, 0.5, 1.0]
    expected = (1 * 0.5 + 2 * 0.125 + 1 * 0.1) / 4
    assert scores.expected_calibration_error(logits, labels, bins=4) == pytest.approx(expected)


@pytest.mark.tensorflow
def test_calibration_counts_every_sample_once():
    logits, labels = random_logits()
    curve = scores.calibration_curve(logits, labels)
    assert sum(curve["count"]) == len(labels) and len(curve["edges"]) == scores.BINS + 1


@pytest.mark.tensorflow
def test_huge_logits_stay_finite():
    logits, labels = np.array([[1e5, -1e5], [1e5, -1e5]], np.float32), np.array([0, 1])
    assert scores.negative_log_likelihood(logits, labels) == pytest.approx(1e5)
    assert scores.expected_calibration_error(logits, labels) == pytest.approx(0.5)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), "shapes"),
        (np.array([[np.nan, 0.0]]), np.array([0]), "finite"),
        (np.zeros((1, 3)), np.array([3]), "0 .. 2"),
    ],
)
def test_measures_refuse(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        scores.quality(logits, labels)


# --- training ------------------------------------------------------------------------------------


def state(trainer):
    variables = [*trainer.model.variables, *trainer.model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def test_a_run_does_not_depend_on_the_runs_before_it(trainer):
    history = trainer.train(1)
    after = state(trainer)
    assert not np.allclose(trainer.train(2)["loss"], history["loss"])
    trainer.evaluate()
    again = trainer.train(1)
    for name in history:
        np.testing.assert_allclose(again[name], history[name], rtol=1e-4, atol=1e-6)
    for a, b in zip(state(trainer), after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.tensorflow
def test_the_same_seed_starts_every_method_alike(data):
    settings = make_settings(**TINY)

    def initial(name, seed):
        trainer = object.__new__(Trainer)
        trainer.method, trainer.settings, trainer.data = methods.METHODS[name], settings, data
        trainer.task, trainer.layers = data.network.task, {}
        return trainer.method.deployed(trainer._new_model(seed)).get_weights()

    plain = initial("plain", 0)
    for name in make_settings("digits").methods:
        for a, b in zip(plain, initial(name, 0), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(plain[0], initial("plain", 1)[0])


@pytest.mark.tensorflow
def test_batches_are_full_and_depend_on_seed_and_epoch(data):
    def epochs(seed):
        batches = data.training_batches(seed)
        return [[labels.numpy() for _, labels in batches] for _ in range(2)]

    first, second = epochs(0)
    assert {len(labels) for labels in first + second} == {data.batch_size}
    assert len(first) == data.steps
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(epochs(0), [first, second])
    assert not np.array_equal(epochs(1)[0], first)


@pytest.mark.tensorflow
def test_images_are_flipped_and_shifted_unless_one_says_so(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "a.npz", x=rng.integers(0, 256, (90, 8, 8, 1), np.uint8), y=np.arange(90) % 3
    )
    for unaugmented, said in ((False, " (flipped and shifted)"), (True, "")):
        chosen = make_settings(str(tmp_path / "a.npz"), ["plain"], unaugmented=unaugmented)
        found = pilot_data.PilotData(chosen)
        seen = next(iter(found.training_batches(0)))[0].numpy()
        raw = found.info.scaled(found.train.images)
        known = [any(np.allclose(image, one, atol=1e-5) for one in raw) for image in seen]
        assert all(known) == unaugmented and found.augmentation == said
        assert ("unaugmented" in pilot_run.record(chosen)) == unaugmented


@pytest.mark.tensorflow
def test_logits_are_those_of_the_network_whatever_the_last_batch(trainer, data):
    images = data.test.images[:37]  # one batch and a bit
    expected = trainer.deployed(data.info.standardise(images), training=False)
    expected = keras.ops.convert_to_numpy(expected)
    np.testing.assert_allclose(trainer.values(images)[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.tensorflow
def test_stratified_keeps_the_shares():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    chosen = pilot_data.stratified(labels, 50)
    assert np.bincount(labels[chosen]).tolist() == [30, 15, 5]
    assert len(set(chosen.tolist())) == 50
    np.testing.assert_array_equal(pilot_data.stratified(labels, 500), np.arange(100))


# --- results -------------------------------------------------------------------------------------


def test_results_are_complete(finished):
    results, out = finished
    assert json.loads((out / "results.json").read_text()) == results
    assert list(results["methods"]) == ["plain", "rblock_sdropdml"]
    assert [(run["method"], run["seed"]) for run in results["runs"]] == [
        ("plain", 0),
        ("rblock_sdropdml", 0),
    ]
    for run in results["runs"]:
        assert set(run["test"]) == set(run["validation"]) == {"accuracy", "nll", "ece"}
        assert set(run["train"]) == {"accuracy", "nll"}
        assert set(run["corruption"]) == set(pilot_data.CORRUPTIONS)
        assert all(set(v) == {"1", "3", "5"} for v in run["corruption"].values())
        assert {len(values) for values in run["history"].values()} == {1}
        assert sum(run["calibration"]["count"]) == results["data"]["sizes"]["test"]
        assert run["parameters"] == results["runs"][0]["parameters"] and run["seconds"] > 0
        ways = ["deterministic", "recalibrated"]
        if run["method"] != "plain":
            ways.append("stochastic T=3")
        assert list(run["inference"]) == ways
        assert run["inference"]["deterministic"]["accuracy"] == run["test"]["accuracy"]
        for figures in run["inference"].values():
            assert {"accuracy", "nll", "ece", "seconds"} <= set(figures)
    assert results["data"]["scale"] == "standardise"
    times = results["timing"]["methods"]
    assert times["plain"]["train_step_ratio"] == 1.0
    plain, rblock = (run["seconds"] for run in results["runs"])
    assert times["rblock_sdropdml"]["train_step_ratio"] == pytest.approx(rblock / plain)
    rows = (out / "results.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[0].startswith("method,seed") and "test_accuracy" in rows[0]
    assert "Ways of inference" in (out / "report.html").read_text()
    assert not list(out.rglob("*.partial"))


def test_a_finished_pilot_trains_nothing(finished, monkeypatch):
    results, out = finished
    monkeypatch.setattr(Trainer, "__init__", lambda *args: pytest.fail("it trained"))
    again = run_pilot(changed(methods=["plain", "rblock_sdropdml"]), out)
    assert again["runs"] == results["runs"] and again["timing"] == results["timing"]


@pytest.mark.tensorflow
def test_a_kept_network_is_not_trained_again(finished, tmp_path, monkeypatch):
    results, out = finished
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    run_path(tmp_path, "plain", 0.0, 0).unlink()
    monkeypatch.setattr(Trainer, "train", lambda *args: pytest.fail("it trained"))
    again = run_pilot(changed(methods=["plain", "rblock_sdropdml"]), tmp_path, save_models=True)
    before, after = results["runs"][0], again["runs"][0]
    for name in ("seconds", "history", "parameters"):
        assert after[name] == before[name]
    assert after["test"]["nll"] == pytest.approx(before["test"]["nll"], rel=1e-5)
    loaded = keras.saving.load_model(model_path(tmp_path, "plain", 0.0, 0))
    assert loaded.count_params() == before["parameters"]
    assert isinstance(loaded.optimizer, keras.optimizers.Nadam)  # the network's own
    assert float(loaded.optimizer.learning_rate) == pytest.approx(2e-3)


@pytest.mark.tensorflow
@pytest.mark.parametrize("damage", ["truncated", "other", "missing", "history"])
def test_a_damaged_network_is_trained_again(damage, trainer, tmp_path, monkeypatch):
    name = trainer.method.name
    path = model_path(tmp_path, name, 0.0, 0)
    path.parent.mkdir()
    trainer.deployed.save(path)
    history = {name: [0.5] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other":
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    elif damage == "missing":
        path.unlink()
    else:
        history["loss"] = [None]
    store.write_json(path.with_suffix(".json"), {"seconds": 1.5, "history": history})
    trained = {**history, "loss": [0.25]}
    monkeypatch.setattr(Trainer, "train", lambda *args: trained)
    monkeypatch.setattr(Trainer, "evaluate", lambda *args: {})
    broken = "json" if damage == "history" else "keras"
    with pytest.warns(UserWarning, match=rf"{name}-seed0\.{broken} is broken and will be made"):
        assert trainer.run(0, path=path)["history"] == trained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer.run(0, path=path)["history"] == trained
    kept = [f"{name}-seed0.json", f"{name}-seed0.keras"]
    assert sorted(p.name for p in path.parent.iterdir()) == kept


def test_a_changed_setting_is_refused(finished):
    _, out = finished
    with pytest.raises(ValueError, match="epochs was 1 and is now 2; limit was 200 and is now 150"):
        run_pilot(changed(methods=["plain", "rblock_sdropdml"], epochs=2, limit=150), out)


@pytest.mark.tensorflow
def test_seeds_and_methods_may_only_grow(tmp_path):
    old = {"seeds": 2, "methods": ["plain", "swapout"]}
    store.write_json(tmp_path / "settings.json", old)
    store.write_json(run_path(tmp_path, "plain", 0.0, 0), {})

    def check(**changed):
        store.check(tmp_path, {**old, **changed}, ["runs"], pilot_run.GROW)

    check(seeds=3, methods=["plain", "skip_forward", "swapout"])
    with pytest.raises(ValueError, match="seeds was 2 and is now 1"):
        check(seeds=1)
    with pytest.raises(ValueError, match="methods was"):
        check(methods=["plain"])


def every_damage(tree, path=()):
    """(path, tree with something wrong there) for all that can be wrong with the shape."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*path, key), {k: v for k, v in tree.items() if k != key}
            for where, other in every_damage(value, (*path, key)):
                yield where, {**tree, key: other}
    elif isinstance(tree, list):
        yield path, tree[1:]
        for where, other in every_damage(tree[0], (*path, 0)):
            yield where, [other, *tree[1:]]
    for wrong in (None, float("nan"), "0.5", True, [[1]]):
        if wrong is not tree:
            yield path, wrong


@pytest.mark.tensorflow
def test_a_run_that_is_not_whole_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pilot_data, "CORRUPTIONS", CORRUPTIONS)  # all of them
    path = run_path(tmp_path, "swapout", 0.0, 0)
    path.parent.mkdir()
    assert read_run(tmp_path, "swapout", 0.0, 0) is None
    shutil.copy(run_path(FIXTURES / "pilot", "swapout", 0.0, 0), path)
    whole = read_run(tmp_path, "swapout", 0.0, 0)
    damages = [(where, json.dumps(other)) for where, other in every_damage(whole)]
    assert len(damages) > 500
    texts = [((), text) for text in ("", "[1]", '{"method": "pl', "[" * 100_000, '"\udcff"')]
    for where, text in texts + damages:
        path.write_text(text, errors="surrogateescape")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = read_run(tmp_path, "swapout", 0.0, 0)
        if found is None:
            assert len(said) == 1 and str(path) in str(said[0].message), where
        else:  # a shorter curve, or something that not every method has
            assert where[0] in ("history", "consistency") or where[-1] in OPTIONAL, where


OPTIONAL = ("stochastic T=2", "recalibrated", "once")


@pytest.mark.tensorflow
def test_one_folder_is_for_one_process(finished, monkeypatch):
    _, out = finished
    settings = json.loads((out / "settings.json").read_text())
    monkeypatch.setattr(Trainer, "__init__", lambda *args: pytest.fail("it trained"))
    with store.claimed(out, settings, ["runs"]), pytest.raises(ValueError, match="`out` is in use"):
        run_pilot(changed(methods=["plain", "rblock_sdropdml"]), out)


@pytest.mark.tensorflow
def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.tensorflow
def test_runs_without_settings_are_refused(tmp_path):
    store.write_json(run_path(tmp_path, "plain", 0.0, 0), {})
    with pytest.raises(ValueError, match="no readable settings"):
        run_pilot(make_settings(**TINY), tmp_path)


@pytest.mark.tensorflow
def test_divergence_is_an_error(trainer):
    curves = training._Curves(trainer, seed=0, on_epoch=None)
    curves.set_model(trainer.model)
    with pytest.raises(ValueError, match=r"rblock_sdropdml with seed 0 .* `learning_rate`"):
        curves.on_epoch_end(0, {"loss": float("nan"), "accuracy": 0.1})


# --- interruption --------------------------------------------------------------------------------


def start(out):
    return subprocess.Popen(
        [*COMMAND, "--jobs", "1", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"},
        # Whoever runs the tests in the background may have SIGINT ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.tensorflow
def test_killed_then_interrupted_then_finished(tmp_path, monkeypatch):
    process = start(tmp_path)
    while not list(tmp_path.glob("runs/*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.glob("runs/*.json")}
    assert [path.name for path in kept] == ["plain-seed0.json"]

    process = start(tmp_path)
    assert "1 of 2 runs already done" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    twice = False
    try:
        _, errors = process.communicate(timeout=3)
    except subprocess.TimeoutExpired:  # it came where Python drops it, in a destructor, say
        twice = True
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    # The second may come while Python shuts down; what Python drops it notes with a traceback.
    assert process.returncode in ((130, -signal.SIGINT) if twice else (130,))
    assert "To continue: keras-swapout pilot --data digits" in errors
    assert twice or errors.strip().count("\n") == 0  # no traceback, nor what TensorFlow says

    # What is left, by a trainer that takes no time.
    ((path, before),) = kept.items()
    plain, asked = json.loads(before[1]), []

    class Instead:
        def __init__(self, method, settings, data):
            self.method = method
            asked.append(method.name)

        def run(self, seed, *args):
            return {**plain, "method": self.method.name, "seed": seed}

    monkeypatch.setattr(training, "Trainer", Instead)
    results = run_pilot(make_settings(**TINY), tmp_path)
    assert asked == ["swapout"]
    assert [run["method"] for run in results["runs"]] == ["plain", "swapout"]
    assert results["runs"][0] == plain
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
