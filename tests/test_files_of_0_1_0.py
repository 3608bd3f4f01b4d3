"""What version 0.1.0 wrote, a model file and folders of results, is taken up as it is."""

import csv
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_swapout as ks

FIXTURES = Path(__file__).with_name("fixtures") / "0.1.0"


def test_a_model_loads_and_predicts_as_it_did():
    model = keras.saving.load_model(FIXTURES / "rblock.keras")
    expected = json.loads((FIXTURES / "rblock.json").read_text())
    x = np.random.default_rng(0).random((12, 8, 8, 1)).astype("float32")
    assert isinstance(model, ks.RBlock) and model.divergence == "js"
    names = {type(layer).__name__ for layer in model.model.layers} & set(ks.layers.__all__)
    assert {"Swapout", "SkipForward", "ResidualDropout", "StochasticDepth"} < names
    assert {"BDropDML", "SDropDML", "DropBlock2D"} < names
    outputs = model.model.predict(x, verbose=0)
    np.testing.assert_allclose(outputs, expected["outputs"], rtol=1e-4, atol=1e-5)
    if keras.backend.backend() != "tensorflow":  # where the same numbers take long to compile
        return
    model.run_eagerly = True
    found = model.evaluate(x, np.arange(12) % 3, verbose=0, return_dict=True)
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected["evaluate"], rel=1e-4)
    assert np.isfinite(model.train_on_batch(x, np.arange(12) % 3)).all()


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason='pip install "keras-swapout[pilot]"')
    shutil.copytree(FIXTURES, tmp_path / "old")
    return tmp_path / "old"


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def forbidden(*args, **kwargs):
    raise AssertionError("what is finished was made again")


@pytest.mark.tensorflow
def test_a_pilot_and_a_search_go_on_where_they_were(folder, monkeypatch):
    pytest.importorskip("keras_tuner", reason='pip install "keras-swapout[tuner]"')
    from keras_swapout.study import pilot, tune
    from keras_swapout.study.pilot.training import Trainer

    monkeypatch.setattr(Trainer, "__init__", forbidden)
    options = {"epochs": 1, "limit": 100, "batch_size": 32, "corruption_images": 4, "samples": [2]}
    before = rows(folder / "pilot" / "results.csv")
    settings = pilot.make_settings(methods=["swapout"], seeds=2, label_noise=[0], **options)
    pilot.run_pilot(settings, folder / "pilot")
    assert rows(folder / "pilot" / "results.csv") == before
    final = rows(folder / "tune" / "pilot" / "results.csv")
    settings = tune.make_settings("bdropdml", "random", trials=2, seeds=2, **options)
    results = tune.run_tune(settings, folder / "tune")
    assert rows(folder / "tune" / "pilot" / "results.csv") == final
    assert [trial["status"] for trial in results["trials"]] == ["COMPLETED"] * 2


@pytest.mark.tensorflow
def test_an_evaluation_goes_on_where_it_was(folder, monkeypatch):
    from keras_swapout.study.evaluate import evaluate, measures

    monkeypatch.setattr(measures, "of_clean", forbidden)
    monkeypatch.setattr(measures, "of_corrupted", forbidden)
    monkeypatch.chdir(folder)  # the command named the file so
    before = rows(folder / "evaluate" / "results.csv")
    options = {"samples": 2, "corruption_images": 4, "severities": [3]}
    evaluate("small.keras", "digits", **options, out="evaluate")
    assert rows(folder / "evaluate" / "results.csv") == before
