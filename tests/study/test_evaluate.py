"""`keras-swapout evaluate`: numbers, grouping, interruption, errors and the page."""

import itertools
import json
import re
import sys
import types

import keras
import numpy as np
import pytest

from keras_swapout.study.packages import EVALUATE

for package in EVALUATE:
    pytest.importorskip(package, reason='pip install "keras-swapout[pilot]"')

from pages import printed, read  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import stats  # noqa: E402
from sklearn import metrics as sk  # noqa: E402

import keras_swapout as ks  # noqa: E402
from keras_swapout import datasets  # noqa: E402
from keras_swapout.study import cli, loading  # noqa: E402
from keras_swapout.study.evaluate import data as evaluation_data  # noqa: E402
from keras_swapout.study.evaluate import evaluate, measures, report, run  # noqa: E402
from keras_swapout.study.evaluate.compare import compare  # noqa: E402
from keras_swapout.study.evaluate.options import Options  # noqa: E402
from keras_swapout.study.measuring.corruptions import corrupt  # noqa: E402
from keras_swapout.study.measuring.statistics import holm  # noqa: E402

NAMES = ("gaussian_noise", "brightness")
QUICK = {"data": "digits", "samples": 4, "severities": [1, 5], "corruption_images": 60}


def network(noisy, seed, classes=10, shape=(8, 8, 1), activation=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    x = keras.layers.Dense(32)(keras.layers.Flatten()(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    if noisy:
        x = ks.layers.BDropDML(0.5, seed=seed)(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation=activation)(x))


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    return model


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Two corruptions and little timing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_data, "suitable", lambda shape: NAMES)
        patch.setattr(run, "ROUNDS", 2)
        patch.setattr(run, "TIMED_IMAGES", 20)
        yield


@pytest.fixture(scope="module")
def digits():
    return datasets.read("digits")


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits):
    """Two runs of a plain network, one of a noisy one that is saved as a whole R-Block model."""
    folder = tmp_path_factory.mktemp("models")
    x, y = digits.info.standardise(digits.train.images), digits.train.labels
    for name, seed, noisy in (("plain", 0, False), ("plain", 1, False), ("noisy", 0, True)):
        model = compiled(network(noisy, seed))
        if noisy:
            model = compiled(ks.RBlock(model, alpha=0.1))
        model.fit(x, y, batch_size=64, epochs=2, verbose=0)
        model.save(folder / f"{name}-seed{seed}.keras")
    return [folder / f"{name}.keras" for name in ("plain-seed0", "plain-seed1", "noisy-seed0")]


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "out"
    return evaluate(files, **QUICK, out=out), out


# --- results -------------------------------------------------------------------------------------


@pytest.mark.tensorflow
def test_results_are_complete(finished):
    results, out = finished
    assert json.loads((out / "results.json").read_text()) == results
    assert list(results["rows"]) == [
        "plain, deterministic",
        "plain, recalibrated",
        "noisy, deterministic",
        "noisy, recalibrated",
        "noisy, stochastic T=4",
    ]
    assert {name: model["seeds"] for name, model in results["models"].items()} == {
        "plain": [0, 1],
        "noisy": [0],
    }
    assert [(r["model"], r["way"], r["seed"]) for r in results["runs"]][:2] == [
        ("plain", "deterministic", 0),
        ("plain", "recalibrated", 0),
    ]
    assert len(results["runs"]) == 7
    for one in results["runs"]:
        assert set(one["corruption"]) == set(NAMES)
        assert all(set(by) == {"1", "5"} for by in one["corruption"].values())
        assert (one["standard_error"] is not None) == one["way"].startswith("stochastic")
    timed = [one for one in results["runs"] if one["time"] is not None]
    assert {one["file"] for one in timed} == {r["files"][0] for r in results["models"].values()}
    assert all(one["time"] == 1 for one in timed if one["way"] == "deterministic")
    rows = (out / "results.csv").read_text().splitlines()
    assert len(rows) == 8 and rows[0].startswith("model,way,seed,file,test_accuracy")
    assert len(list(out.glob("parts/*/*/*.json"))) == 7 * 3
    assert not list(out.rglob("*.partial"))


@pytest.mark.tensorflow
def test_numbers_agree_with_numpy_and_scikit_learn(finished, files, digits):
    results, _ = finished
    model = keras.saving.load_model(files[0])

    def probabilities(images):
        logits = model.predict(digits.info.standardise(images), verbose=0).astype(float)
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    p, y = probabilities(digits.test.images), digits.test.labels
    one = results["runs"][0]
    wrong = p.argmax(axis=1) != y
    entropy = -(p * np.log(p)).sum(axis=1)
    assert one["test"]["accuracy"] == pytest.approx(np.mean(~wrong))
    assert one["test"]["nll"] == pytest.approx(sk.log_loss(y, p), rel=1e-4)
    assert one["test"]["brier"] == pytest.approx(
        ((p - np.eye(10)[y]) ** 2).sum(axis=1).mean(), rel=1e-4
    )
    assert one["test"]["error_auroc"] == pytest.approx(sk.roc_auc_score(wrong, entropy), abs=2e-3)
    order = wrong[np.argsort(entropy)]
    risks = np.cumsum(order) / np.arange(1, len(y) + 1)
    assert one["test"]["aurc"] == pytest.approx(risks.mean(), abs=2e-3)
    assert one["risk_coverage"]["risk"][-1] == pytest.approx(wrong.mean())
    chosen = evaluation_data.Images(Options(**QUICK), (8, 8)).chosen
    accuracy, nll = [], []
    for name in NAMES:
        for severity in (1, 5):
            images = corrupt(digits.test.images[chosen], name, severity, seed=0)
            q = probabilities(images)
            correct = q.argmax(axis=1) == y[chosen]
            assert one["corruption"][name][str(severity)] == pytest.approx(correct.mean())
            accuracy.append(correct)
            nll.append(-np.log(q[np.arange(60), y[chosen]]))
    assert one["corrupted"]["accuracy"] == pytest.approx(np.mean(accuracy))
    assert one["corrupted"]["nll"] == pytest.approx(np.mean(nll), rel=1e-4)


@pytest.mark.tensorflow
def test_comparisons_are_over_networks_or_images(finished):
    comparison = finished[0]["comparison"]
    found = [(c["first"], c["second"], c["over"]) for c in comparison["comparisons"]]
    assert found == [
        ("plain, deterministic", "noisy, deterministic", "images"),
        ("plain, deterministic", "plain, recalibrated", "networks"),
        ("noisy, deterministic", "noisy, recalibrated", "images"),
        ("noisy, deterministic", "noisy, stochastic T=4", "images"),
    ]
    assert re.search(r"over 60 images −?\d+\.\d to −?\d+\.\d;", comparison["answer"])
    plain = comparison["rows"]["plain, deterministic"]["measures"]["accuracy"]
    assert len(plain["values"]) == 2 and plain["sd"] == pytest.approx(
        np.std(plain["values"], ddof=1)
    )


@pytest.mark.tensorflow
def test_stochastic_inference_is_that_of_predict(finished, files, digits):
    model = loading.load(files[2])
    x = digits.info.standardise(digits.test.images)
    expected = ks.inference.predict(model, x, samples=4, seed=0, verbose=False)
    found = finished[0]["runs"][-1]
    assert found["test"]["accuracy"] == np.mean(expected.mean.argmax(1) == digits.test.labels)
    assert found["standard_error"] == pytest.approx(expected.standard_error.mean(), rel=1e-4)


@pytest.mark.tensorflow
def test_page_and_terminal(finished):
    results, out = finished
    reader = read(out / "report.html")
    comparison = results["comparison"]
    for words in (comparison["answer"], *comparison["details"], comparison["test"]):
        assert words in reader.text
    assert "keras-swapout evaluate" in reader.text and "--severities 1 5" in reader.text
    assert "Confidence (%)" in reader.text and "Coverage: images predicted" in reader.text
    assert reader.tags.count("img") == 1 + 2 * len(NAMES)
    assert sum(url.startswith("data:image/png") for url in reader.fetched) == 1 + 2 * len(NAMES)
    assert reader.tags.count("svg") == 4
    before_the_first_table = reader.tags[: reader.tags.index("table")]
    assert before_the_first_table.count("svg") == 1 and "details" not in before_the_first_table
    one = next(one for one in comparison["comparisons"] if one["kind"] == "way")
    assert f"{one['subject']}: " in re.search(r'aria-label="([^"]*)"', reader.source)[1]
    terminal = " ".join(printed(report.make_page(results), 80, 120).split())
    assert "A way against deterministic inference, a model against plain: ▲" in terminal
    for one in comparison["comparisons"]:
        assert one["sentence"] in reader.text and one["sentence"] in terminal
    assert comparison["test"] in terminal and "stochastic T=4" in terminal


# --- interruption --------------------------------------------------------------------------------


@pytest.mark.tensorflow
def test_interrupted_it_goes_on_where_it_was(files, tmp_path, monkeypatch):
    original, calls = measures.of_corrupted, []

    def counted(prediction, labels):
        calls.append(len(labels))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return original(prediction, labels)

    monkeypatch.setattr(measures, "of_corrupted", counted)
    # Clean images of two ways, then two severities of the first corruption, and one of the second.
    stop = 2 + 2 * 2 + 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(files[0], **QUICK, out=tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.glob("parts/*/*/*.json")}
    assert sorted(path.name for path in kept) == ["clean.json"] * 2 + ["gaussian_noise.json"] * 2
    calls.clear()
    stop = -1
    results = evaluate(files[0], **QUICK, out=tmp_path)
    assert len(calls) == 2 * 2  # two severities of brightness in two ways
    assert all(path.read_bytes() == content for path, content in kept.items())
    calls.clear()
    again = evaluate(files[0], **QUICK, out=tmp_path)
    assert not calls and again["runs"] == results["runs"]
    for changed, words in (
        ({"samples": 5}, "samples was 4 and is now 5"),
        ({"severities": [1]}, r"severities was \[1, 5\] and is now \[1\]"),
        ({"limit": 500}, "limit was None and is now 500"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(files[0], **QUICK | changed, out=tmp_path)
    images = evaluation_data.Images
    monkeypatch.setattr(images, "checksum", lambda self: 1)
    with pytest.raises(ValueError, match="the images have changed"):
        evaluate(files[0], **QUICK, out=tmp_path)
    monkeypatch.setattr(loading, "checksum", lambda path: 1)
    with pytest.raises(ValueError, match=r"plain-seed0\.keras has changed"):
        evaluate(files[0], **QUICK, out=tmp_path)


@pytest.mark.tensorflow
def test_results_without_settings_are_refused(tmp_path, monkeypatch):
    (tmp_path / "parts" / "a").mkdir(parents=True)
    (tmp_path / "parts" / "a" / "clean.json").write_text("{}")
    model = tmp_path / "a.keras"
    network(False, 0).save(model)
    with pytest.raises(ValueError, match="no readable settings"):
        evaluate(model, **QUICK, out=tmp_path)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"samples": 0}, r"`samples` must be an int >= 1. Received: samples=0"),
        ({"corruption_images": 0}, "`corruption_images` must be"),
        ({"split": "train"}, "`split` must be one of test, all"),
        ({"scale": "log"}, "`scale` must be one of"),
        ({"severities": [0]}, "`severities` must be some of"),
        ({"severities": []}, "`severities` must be some of"),
        ({"split": "all", "scale": "standardise"}, "`mean` must be given"),
        ({"split": "all", "limit": 9, "scale": "raw"}, "`limit` is for split='test'"),
        ({"mean": [1.0]}, "`mean` and `std` must be given together"),
        ({"mean": [1.0], "std": [0.0]}, "`std` must be numbers > 0"),
        ({"mean": [1.0], "std": [1.0], "scale": "unit"}, "`mean` is for scale='standardise'"),
        ({"batch_size": 0}, "`batch_size` must be"),
    ],
)
def test_bad_options(changed, words):
    with pytest.raises(ValueError, match=words):
        Options(**QUICK | changed)


@pytest.mark.tensorflow
def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`models`: there is no file .*none\.keras"):
        evaluate(tmp_path / "none.keras", **QUICK)
    broken = tmp_path / "broken.keras"
    broken.write_text("not a zip")
    with pytest.raises(ValueError, match=r"`models` must be files that model\.save"):
        evaluate(broken, **QUICK)
    (tmp_path / "b").mkdir()
    network(False, 0).save(tmp_path / "a.keras")
    network(False, 0).save(tmp_path / "b" / "a.keras")
    with pytest.raises(ValueError, match="different file names"):
        evaluate([tmp_path / "a.keras", tmp_path / "b" / "a.keras"], **QUICK)
    with pytest.raises(ValueError, match="one or more"):
        evaluate([], **QUICK)
    with pytest.raises(ValueError, match=r"`import` must be modules.*no_such_module"):
        evaluate(tmp_path / "a.keras", **QUICK, imports=["no_such_module"])


def two_inputs():
    inputs = [keras.Input((8, 8, 1)), keras.Input((8, 8, 1))]
    x = keras.layers.Flatten()(keras.layers.Add()(inputs))
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def two_outputs():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, [keras.layers.Dense(10)(x), keras.layers.Dense(10)(x)])


def vectors():
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: network(False, 0, classes=3), "each of the 10 classes.*outputs 3"),
        (lambda: network(False, 0, shape=(8, 8, 3)), "8×8×1.*takes 8×8×3"),
        (lambda: network(False, 0, activation="relu"), "which gives 10 numbers. Compile it"),
        (two_inputs, "'a' does not take inputs of 8×8×1: .*2 named input"),
        (two_outputs, "each of the 1 labels of a sample. Received: 'a' with 2 output"),
        (vectors, "must take the inputs of the data, 8×8×1. Received: 'a', which takes 64"),
    ],
)
def test_a_model_that_does_not_fit(build, words, tmp_path):
    build().save(tmp_path / "a.keras")
    with pytest.raises(ValueError, match=words):
        evaluate(tmp_path / "a.keras", **QUICK, out=tmp_path / "out")
    assert not (tmp_path / "out" / "parts").exists()


MODULE = """
import keras

@keras.saving.register_keras_serializable("their_layers")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def test_a_layer_of_somebody_else(tmp_path, monkeypatch):
    (tmp_path / "their_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def forget():
        keras.saving.get_custom_objects().pop("their_layers>Twice", None)
        sys.modules.pop("their_module", None)

    loading.import_modules(["their_module"])
    inputs = keras.Input((8, 8, 1))
    x = sys.modules["their_module"].Twice()(keras.layers.Flatten()(inputs))
    path = tmp_path / "their.keras"
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(path)
    forget()
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    with pytest.raises(ValueError, match=r"Twice of their_module.*--import their_module"):
        loading.load(path)
    assert loading.unregistered(path) == [("Twice", "their_module")]
    loading.import_modules(["their_module"])
    assert loading.load(path).count_params() == 650
    forget()


@pytest.mark.tensorflow
def test_the_package_names_what_to_import_where_the_module_is_a_script(tmp_path):
    import zipfile

    layer = {"class_name": "Odd", "config": {}, "registered_name": "my_package>Odd"}
    path = tmp_path / "odd.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": [layer]}}))
    assert loading.unregistered(path) == [("Odd", "my_package")]
    with pytest.raises(ValueError, match="--import my_package"):
        loading.load(path)


def test_a_loss_of_somebody_else_does_not_matter(tmp_path):
    def their_loss(y, p):
        return keras.ops.mean(p)

    model = network(False, 0)
    model.compile("sgd", their_loss)
    model.save(tmp_path / "a.keras")
    assert loading.load(tmp_path / "a.keras").count_params() == model.count_params()


# --- data ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for label, name in enumerate(("good", "bad")):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 100 + 100 * label, (10, 12, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photographs" / name / f"{i}.png")
    return tmp_path / "photographs"


@pytest.mark.tensorflow
def test_every_image_of_a_folder(folder, tmp_path):
    network(False, 0, classes=2, shape=(8, 8, 3), activation="softmax").save(tmp_path / "a.keras")
    options = {"samples": 2, "severities": [3], "corruption_images": 10, "split": "all"}
    results = evaluate(
        tmp_path / "a.keras", str(folder), **options, scale="unit", out=tmp_path / "o"
    )
    assert results["data"]["sizes"] == {"evaluated": 24, "corrupted": 10}
    assert results["data"]["image_shape"] == [8, 8, 3]  # the model's input
    assert list(results["rows"]) == ["a, deterministic"]
    assert "there is nothing to compare" in results["comparison"]["answer"]
    text = read(tmp_path / "o" / "report.html").text
    assert "left out: with --split all there are no training images" in text


@pytest.mark.tensorflow
def test_what_takes_longer_is_said_after_the_first_corruption(
    folder, tmp_path, monkeypatch, capsys
):
    clock = itertools.count(0, 100)  # seconds, of which each look takes so many
    monkeypatch.setattr(run, "time", types.SimpleNamespace(perf_counter=clock.__next__))
    network(False, 0, classes=2, shape=(8, 8, 3), activation="softmax").save(tmp_path / "a.keras")
    options = {"severities": [3], "corruption_images": 4, "scale": "unit"}
    evaluate(tmp_path / "a.keras", str(folder), 2, **options, split="all")
    text = capsys.readouterr().out
    assert text.count("to go") == 1 and "about 2 minutes to go: 1 of 3 parts" in text
    assert text.index("deterministic") < text.index(NAMES[0]) < text.index("to go")


@pytest.mark.tensorflow
def test_scales(folder):
    images = evaluation_data.Images(Options(str(folder), scale="raw"), (8, 8))
    np.testing.assert_array_equal(images.scaled(images.images), images.images)
    unit = evaluation_data.Images(Options(str(folder), scale="unit"), (8, 8))
    np.testing.assert_allclose(unit.scaled(unit.images), images.images / 255, rtol=1e-6)
    given = {"mean": [1, 2, 3], "std": [4, 5, 6]}
    own = evaluation_data.Images(Options(str(folder), **given), (8, 8))
    expected = (own.images - np.array(given["mean"])) / given["std"]
    np.testing.assert_allclose(own.scaled(own.images), expected, rtol=1e-6)
    batches = np.concatenate(list(own.training_inputs()))
    np.testing.assert_array_equal(batches, own.scaled(datasets.read(folder, image_size=8).train[0]))
    with pytest.raises(ValueError, match="each of the 3 channels"):
        evaluation_data.Images(Options(str(folder), mean=1.0, std=1.0), (8, 8))


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: None, "sub-folder of images for each class.*0 sub-folder"),
        (lambda path: [(path / name).mkdir() for name in "ab"], "can't be used: no images found"),
    ],
)
def test_folders_without_labels_or_images(prepare, words, tmp_path):
    prepare(tmp_path)
    with pytest.raises(ValueError, match=f"`data` .*{words}"):
        evaluation_data.Images(Options(str(tmp_path)), (8, 8))


@pytest.mark.tensorflow
def test_labels_out_of_range(monkeypatch):
    def source(name):
        labels = np.array([0, 1, 2] * 10)
        return datasets.Source(np.zeros((30, 8, 8, 1), np.uint8), labels, ("a", "b"), "nowhere")

    monkeypatch.setitem(datasets.READERS, "digits", source)
    with pytest.raises(
        ValueError, match=r"`data` can't be used: labels must be 0\.\.1, got 0\.\.2"
    ):
        evaluation_data.Images(Options("digits"), (8, 8))


@pytest.mark.tensorflow
def test_unknown_data():
    with pytest.raises(ValueError, match=r"`data` must be one of .*'no_such_data'"):
        evaluation_data.Images(Options("no_such_data"), (8, 8))


@pytest.mark.tensorflow
def test_published_corruptions_are_used_where_they_are(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = rng.integers(0, 256, (60, 32, 32, 3), np.uint8)
    source = datasets.Source(images, labels, ("a", "b"), "somewhere", (images, labels))
    published = {("brightness", s): images // s for s in (1, 5)}
    monkeypatch.setitem(datasets.READERS, "cifar10", lambda name: source)
    monkeypatch.setattr(evaluation_data, "_published", lambda name, s: (name, s) in published)
    monkeypatch.setattr(
        evaluation_data, "_published_images", lambda name, s: (published[name, s], labels)
    )
    options = Options(**QUICK | {"data": "cifar10", "corruption_images": 10})
    found = evaluation_data.Images(options, (32, 32))
    assert found.sources == {
        "gaussian_noise": evaluation_data.OURS,
        "brightness": evaluation_data.PUBLISHED,
    }
    np.testing.assert_array_equal(found.corrupted("brightness", 5), images[found.chosen] // 5)
    labels = labels[::-1]  # another order: not the same images
    assert set(evaluation_data.Images(options, (32, 32)).sources.values()) == {evaluation_data.OURS}


# --- sentences -----------------------------------------------------------------------------------


def compared(gains, seeds=1, size=40, noise=0.1, ways=()):
    """A comparison of models whose accuracy under corruption differs by `gains`.

    `ways` are gains of inference that isn't deterministic, for every model.
    """
    rng = np.random.default_rng(0)
    rows, runs, images = {}, [], {}
    for name, gain in gains.items():
        base = 0.5 + gain + noise * rng.normal(size=(seeds, size))
        for number, more in enumerate((0, *ways)):
            way = f"stochastic T={number}" if number else "deterministic"
            values = base + more + (noise / 10 * rng.normal(size=(seeds, size)) if number else 0)
            rows[f"{name}, {way}"] = {"model": name, "way": way}
            images[f"{name}, {way}"] = {"corrupted_accuracy": values.mean(axis=0)}
            runs += [
                {"row": f"{name}, {way}", "seed": s, "corrupted": {"accuracy": float(v.mean())}}
                for s, v in enumerate(values)
            ]
    found = compare(rows, runs, images)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found, images


@pytest.mark.tensorflow
def test_a_better_model():
    found, images = compared({"a": 0, "b": 0.2})
    (one,) = found["comparisons"]
    row = one["measures"]["corrupted_accuracy"]
    first, second = (values["corrupted_accuracy"] for values in images.values())
    expected = stats.ttest_rel(second, first)
    assert row["p"] == pytest.approx(expected.pvalue) and row["n"] == [40, 40]
    assert (row["low"], row["high"]) == pytest.approx(expected.confidence_interval())
    assert found["answer"].startswith(
        f"Better than a in accuracy under corruption: b by {100 * row['difference']:.1f} points "
        f"(95 % interval over 40 images {100 * row['low']:.1f} to {100 * row['high']:.1f}; "
    )
    assert "not other training runs" in found["details"][-1]
    assert "Paired t-tests over images" in found["test"] and "corruptions" in found["test"]
    assert one["sentence"].startswith("b against a: better in accuracy under corruption by ")


@pytest.mark.tensorflow
def test_welch_over_seeds_and_pairs_of_ways():
    found, _ = compared({"a": 0, "b": 0.2}, seeds=4, ways=[0.1])
    values = {
        name: row["measures"]["corrupted_accuracy"]["values"] for name, row in found["rows"].items()
    }
    a, a_many, b, b_many = values.values()
    expected = [
        stats.ttest_ind(a, b, equal_var=False),
        stats.ttest_rel(a, a_many),
        stats.ttest_rel(b, b_many),
    ]
    rows = [one["measures"]["corrupted_accuracy"] for one in found["comparisons"]]
    assert [row["p"] for row in rows] == pytest.approx([test.pvalue for test in expected])
    assert [row["p_adjusted"] for row in rows] == pytest.approx(holm([row["p"] for row in rows]))
    assert all(row["n"] == [4, 4] for row in rows)
    assert "95 % interval over 4 networks" in found["answer"]
    assert "over the trained networks" in found["details"][-1]
    (ways,) = [line for line in found["details"] if line.startswith("The way of inference changes")]
    assert "a, stochastic T=1, +9.9 points" in ways and "b, stochastic T=1, +10.0" in ways
    sentence = found["comparisons"][1]["sentence"]
    assert sentence.startswith("a, stochastic T=1 against deterministic inference: better in")
    assert "Welch t-tests over networks and paired t-tests over networks" in found["test"]


@pytest.mark.tensorflow
def test_ways_of_one_model():
    found, _ = compared({"a": 0}, ways=[0.1, -0.1])
    assert found["answer"].startswith(
        "Better than deterministic inference in accuracy under corruption: a, stochastic T=1 by"
    )
    assert found["details"][0].startswith("Worse: a, stochastic T=2 by ")
    assert "for this trained network" in found["details"][-1]
    none, _ = compared({"a": 0, "b": 0.2}, ways=[0.0])
    assert any("No way of inference made a measured difference" in d for d in none["details"])


@pytest.mark.tensorflow
def test_worse_and_mixed_and_equal():
    worse, _ = compared({"a": 0, "b": -0.2})
    assert worse["answer"].startswith("Worse than a in accuracy under corruption: b by ")
    found, _ = compared({"a": 0, "b": -0.2, "c": 0.2, "d": 0.0})
    assert found["answer"].startswith("Better than a in accuracy under corruption: c by ")
    assert "b by" not in found["answer"] and found["details"][0].startswith("Worse: b by ")
    assert (
        found["details"][1] == "No difference measured: d." and "not ruled" in found["details"][2]
    )
    same, _ = compared({"a": 0, "b": 0}, noise=0)
    assert same["answer"].startswith("No difference from a in accuracy under corruption was")
    assert "for b: 0.0 points" in same["answer"] and "same value" in same["answer"]
    odd, _ = compared({"a": 0, "b": 0.1}, noise=0)
    assert "can't be tested: b (the difference is the same for every image" in odd["answer"]
    many, _ = compared({"a": 0} | {f"b{i}": 0.2 for i in range(6)})
    assert many["answer"].endswith(" and 2 more.")
    alone, _ = compared({"a": 0})
    assert "Accuracy under corruption is " in alone["answer"] and alone["test"] == ""
    assert "95 % interval over images" in alone["answer"]


# --- command -------------------------------------------------------------------------------------


def command(*argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", *map(str, argv)])
    return stop.value.code


@pytest.mark.tensorflow
def test_command_line(tmp_path, capsys, monkeypatch):
    assert command("--help") == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--import", "--split", "--severities"))
    assert command("a.keras") == 2
    assert "--data" in capsys.readouterr().err
    assert command("a.keras", "--data", "digits", "--samples", 0, "--out", tmp_path / "o") == 2
    assert "--samples must be an int >= 1" in capsys.readouterr().err.replace("`", "")
    assert command(tmp_path / "a.keras", "--data", "digits", "--out", tmp_path / "o") == 2
    assert "there is no file" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    called = {}
    monkeypatch.setattr("keras_swapout.study.evaluate.evaluate", lambda **kw: called.update(kw))
    assert command("a.keras", "b.keras", "--data", "my/photos", "--import", "layers") == 0
    assert called["models"] == ["a.keras", "b.keras"] and called["imports"] == ["layers"]
    assert called["out"] == "evaluate-photos" and called["severities"] == [1, 2, 3, 4, 5]
