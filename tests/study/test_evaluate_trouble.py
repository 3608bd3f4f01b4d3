"""What an evaluation can meet: another scale, damaged parts, another process, foreign files."""

import csv
import json
import warnings
import zipfile

import keras
import numpy as np
import pytest

from keras_swapout.study.packages import EVALUATE

for package in EVALUATE:
    pytest.importorskip(package, reason='pip install "keras-swapout[pilot]"')

from keras_swapout import datasets  # noqa: E402
from keras_swapout.study import cli, store  # noqa: E402
from keras_swapout.study.evaluate import data, evaluate, loading, measures, run  # noqa: E402

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

QUICK = {"data": "digits", "samples": 2, "severities": [3], "corruption_images": 20}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One corruption and little timing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "suitable", lambda shape: ("brightness",))
        patch.setattr(run, "ROUNDS", 2)
        patch.setattr(run, "TIMED_IMAGES", 20)
        yield


def centroids(path, scale, sharpness=1.0):
    """Saves a network for images of this scale: the nearest mean of a class, 9 in 10 are right."""
    read = datasets.read("digits")
    images = read.train.images.reshape(len(read.train.labels), -1).astype(float)
    if scale == "standardise":
        images = (images - read.info.mean[0]) / read.info.std[0]
    elif scale == "unit":
        images /= 255
    means = np.stack([images[read.train.labels == i].mean(0) for i in range(10)])
    factor = sharpness * 20 / np.square(means - means.mean(0)).sum(1).mean()
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.set_weights([factor * means.T, -factor / 2 * np.square(means).sum(1)])
    model.save(path)
    return path


# --- scale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale, sharpness", [("raw", 0.1), ("raw", 1.0), ("unit", 10.0)])
def test_another_scale_than_nobody_asked_for_is_doubted(scale, sharpness, tmp_path):
    path, out = centroids(tmp_path / "a.keras", scale, sharpness), tmp_path / "out"
    with pytest.raises(ValueError, match=r"`scale` must be given.* 'a' with an acc") as raised:
        evaluate(path, **QUICK, out=out)
    message = str(raised.value)
    assert "alone has 10." in message and "equal probabilities have 2.30" in message
    assert "standardise, unit, raw" in message and "--" not in message
    right = evaluate(path, **QUICK, scale=scale, out=out)  # nothing is in the way of it
    assert right["runs"][0]["test"]["accuracy"] > 0.85
    bad = evaluate(path, **QUICK, scale="standardise", out=tmp_path / "bad")
    assert f"{bad['runs'][0]['test']['accuracy']:.1%}" in message
    assert f"{bad['runs'][0]['test']['nll']:.2f}" in message
    again = evaluate(path, **QUICK, out=tmp_path / "bad")  # is not doubted once it is there
    assert again["runs"] == bad["runs"]


def test_before_anything_else_is_worked_on(tmp_path, monkeypatch):
    good = centroids(tmp_path / "good.keras", "standardise")
    bad = centroids(tmp_path / "bad.keras", "raw")
    monkeypatch.setattr(data, "corrupt", lambda *a, **k: pytest.fail("it made corruptions"))
    with pytest.raises(ValueError, match="Received: 'bad' with"):
        evaluate([good, bad], **QUICK, out=tmp_path / "out")
    kept = [path.parts[-3:] for path in (tmp_path / "out" / "parts").rglob("*.json")]
    assert kept == [("good", "deterministic", "clean.json")]


def test_the_command_names_the_option(tmp_path, capsys):
    path = centroids(tmp_path / "a.keras", "raw")
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(path), "--data", "digits", "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1
    assert "Argument --scale must be given" in message


@pytest.mark.parametrize(
    ("accuracy", "nll", "shares", "doubted"),
    [
        (0.203, 2.6, [1] * 10, True),
        (0.1, 2.31, [1] * 10, True),
        (0.38, 5.2, [1] * 10, True),
        (0.9, 30.0, [1] * 10, True),
        (0.34, 3.5, [1] * 10, False),  # a network that has learnt wrong labels by heart
        (0.25, 2.1, [1] * 10, False),
        (0.2, 3.7, [1] * 100, False),
        (0.71, 1.5, [1] * 10, False),
        (0.95, 0.15, [19, 1], False),  # it never says the rarer class, and knows which they are
        (0.95, 0.25, [19, 1], True),
        (0.66, 0.62, [1, 1], False),
        (0.55, 0.8, [1, 1], True),
    ],
)
def test_what_is_doubted(accuracy, nll, shares, doubted):
    class Images:
        labels = np.repeat(np.arange(len(shares)), np.array(shares) * 20)

        class info:
            classes = tuple(map(str, range(len(shares))))

    file = loading.Saved(None, "a", "a", 0)
    quality = {"accuracy": accuracy, "nll": nll}
    if doubted:
        with pytest.raises(ValueError, match="`scale`"):
            run._check_scale(file, quality, Images)
    else:
        run._check_scale(file, quality, Images)


# --- parts ---------------------------------------------------------------------------------------


def test_damaged_parts_are_made_again_and_a_folder_in_use_is_refused(tmp_path, monkeypatch):
    path, out = centroids(tmp_path / "=a.keras", "standardise"), tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    first = evaluate("=a.keras", **QUICK, out=out)
    parts = out / "parts" / "=a" / "deterministic"
    clean = json.loads((parts / "clean.json").read_text())
    fog = json.loads((parts / "brightness.json").read_text())
    damages = [
        ("clean", {**clean, "nll": clean["nll"][1:]}),
        ("clean", {**clean, "test": {**clean["test"], "brier": None}}),
        ("clean", {**clean, "correct": [[1]] * len(clean["correct"])}),
        ("brightness", {**fog, "quality": {}}),
        ("brightness", {**fog, "quality": {"3": {**fog["quality"]["3"], "ece": float("nan")}}}),
    ]
    for name, damaged in damages:
        (parts / f"{name}.json").write_text(json.dumps(damaged))
        with pytest.warns(UserWarning, match=rf"{name}\.json is broken and will be made again"):
            again = evaluate("=a.keras", **QUICK, out=out)
        assert again["runs"] == first["runs"]
    times = out / "parts" / "=a" / "timing.json"
    times.write_text(json.dumps({"deterministic": {"ratio": "1"}}))
    with pytest.warns(UserWarning, match=r"timing\.json is broken"):
        evaluate("=a.keras", **QUICK, out=out)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        monkeypatch.setattr(measures, "of_corrupted", lambda *args: pytest.fail("made again"))
        evaluate("=a.keras", **QUICK, out=out)
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {"'=a.keras"} == {f"'{path.name}"}
    settings = json.loads((out / "settings.json").read_text())
    with store.claimed(out, settings, ["parts"]), pytest.raises(ValueError, match="is in use by"):
        evaluate("=a.keras", **QUICK, out=out)


# --- files of others -----------------------------------------------------------------------------


def foreign(path, *layers):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
    return path


def layer(module, name="Odd"):
    return {"module": module, "class_name": name, "config": {}, "registered_name": name}


@pytest.mark.parametrize(
    ("modules", "advice"),
    [
        (["theirs.layers"], "--import theirs.layers"),
        (["os"], "--import my_module"),
        (["os.path"], "--import my_module"),
        (["subprocess", "theirs"], "--import theirs"),
        (["__main__", "theirs"], "--import my_module"),
        (["x; rm -rf ~"], "--import my_module"),
        (["--out"], "--import my_module"),
        ([""], "--import my_module"),
    ],
)
def test_only_what_can_be_a_module_of_theirs_is_advised(modules, advice, tmp_path):
    path = foreign(tmp_path / "a.keras", *(layer(m, f"Odd{i}") for i, m in enumerate(modules)))
    with pytest.raises(ValueError, match="classes that Keras does not know here") as raised:
        loading.load(path)
    assert str(raised.value).endswith(advice)


def test_a_file_that_makes_no_sense_is_no_crash(tmp_path):
    odd = [layer(["os"]), layer("theirs", {}), {**layer("theirs"), "registered_name": 3}]
    assert loading.unregistered(foreign(tmp_path / "a.keras", *odd)) == []
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        archive.writestr("config.json", "[" * 100_000)
    assert loading.unregistered(tmp_path / "b.keras") == []
    for name in "ab":
        with pytest.raises(ValueError, match=rf"{name}\.keras' can't be loaded"):
            loading.load(tmp_path / f"{name}.keras")
