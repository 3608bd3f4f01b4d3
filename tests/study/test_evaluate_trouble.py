"""What an evaluation can meet: another scale, damaged parts, another process, foreign files."""

import csv
import dataclasses
import json
import warnings
import zipfile

import keras
import pytest

from keras_swapout.study.packages import EVALUATE

for package in EVALUATE:
    pytest.importorskip(package, reason='pip install "keras-swapout[pilot]"')

from sklearn.linear_model import LogisticRegression  # noqa: E402

from keras_swapout import datasets  # noqa: E402
from keras_swapout.study import cli, loading, store  # noqa: E402
from keras_swapout.study.evaluate import data, evaluate, measures, run  # noqa: E402

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


def trained(path, scale):
    """Saves a network that was trained on images of this scale, by somebody else."""
    read = datasets.read("digits")
    x = dataclasses.replace(read.info, scale=scale).scaled(read.train.images)
    fitted = LogisticRegression(max_iter=50).fit(x.reshape(len(x), -1), read.train.labels)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.set_weights([fitted.coef_.T, fitted.intercept_])
    model.save(path)
    return path


# --- scale ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("scale", ["standardise", "unit", "symmetric", "raw"])
def test_the_scale_is_found(scale, tmp_path, capsys):
    path, out = trained(tmp_path / "a.keras", scale), tmp_path / "out"
    found = evaluate(path, **QUICK, out=out)
    said = capsys.readouterr().out
    assert f"scale: {scale} (negative log likelihood, tempered, on 256 samples" in said
    assert found["settings"]["scale"] == scale
    given = evaluate(path, **QUICK, scale=scale, out=out)  # nothing is in the way of it
    assert found["runs"] == given["runs"] and found["runs"][0]["test"]["accuracy"] > 0.85
    again = evaluate(path, **QUICK, out=out)
    assert again["runs"] == found["runs"]
    assert "scale:" not in capsys.readouterr().out  # it is known by now


def test_models_of_two_scales_are_evaluated_apart(tmp_path, monkeypatch):
    one = trained(tmp_path / "one.keras", "standardise")
    two = trained(tmp_path / "two.keras", "raw")
    monkeypatch.setattr(data, "corrupt", lambda *a, **k: pytest.fail("it made corruptions"))
    with pytest.raises(ValueError, match=r"one scale.*'one': 'standardise', 'two': 'raw'"):
        evaluate([one, two], **QUICK, out=tmp_path / "out")


def test_the_command_names_the_option(tmp_path, capsys):
    path = tmp_path / "a.keras"
    keras.utils.set_random_seed(0)
    keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)], name="new"
    ).save(path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(path), "--data", "digits", "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1
    assert "Argument --scale must be given: with none is 'new' better than guessing" in message


# --- parts ---------------------------------------------------------------------------------------


def test_damaged_parts_are_made_again_and_a_folder_in_use_is_refused(tmp_path, monkeypatch):
    path, out = trained(tmp_path / "=a.keras", "standardise"), tmp_path / "out"
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
