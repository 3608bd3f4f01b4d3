"""The command line: help, errors and exit codes."""

import json

import pytest

from keras_swapout import __version__
from keras_swapout.study import cli

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend


def run(*argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    return stop.value.code


def test_help(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    assert run("pilot", "--help") == 0
    text = capsys.readouterr().out
    for option in ("--data", "--methods", "--out", "--corruption-images"):
        assert option in text


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_command_is_required(capsys):
    assert run() == 2
    assert run("fly") == 2
    assert "fly" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--methods", "magic"], ["--methods", "swapout", "magic"]),
        (["--model", "vgg"], ["--model", "resnet8v2", "vgg"]),
        (["--model", "resnet9v2"], ["--model", "6n + 2", "resnet9v2"]),
        (["--epochs", "0"], ["--epochs", ">= 1", "0"]),
        (["--seeds", "-1"], ["--seeds", ">= 1", "-1"]),
        (["--batch-size", "0"], ["--batch-size", ">= 1", "0"]),
        (["--limit", "0"], ["--limit", ">= 1", "0"]),
        (["--width", "0"], ["--width", ">= 1", "0"]),
        (["--corruption-images", "0"], ["--corruption-images", ">= 1"]),
        (["--learning-rate", "nan"], ["--learning-rate", "above 0", "nan"]),
        (["--epochs", "many"], ["--epochs", "many"]),
    ],
)
def test_a_bad_argument_is_named(argv, words, tmp_path, capsys):
    assert run("pilot", *argv, "--out", str(tmp_path / "out")) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--method", "plain"], ["--method", "swapout"]),
        (["--tuner", "annealing"], ["--tuner", "bayesian"]),
        (["--trials", "0"], ["--trials", ">= 1"]),
        (["--range", "theta_1", "0.9", "0.5"], ["--range", "low < high"]),
        (["--range", "theta_3", "0.5", "0.9"], ["--range", "theta_1", "theta_3"]),
        (["--range", "theta_1", "half", "0.9"], ["half"]),
        (["--step", "2"], ["--step", "(0, 0.7]"]),
        (["--epochs", "0"], ["--epochs", ">= 1"]),
    ],
)
def test_a_bad_search_is_refused(argv, words, tmp_path, capsys):
    pytest.importorskip("scipy")
    assert run("tune", *argv, "--out", str(tmp_path / "out")) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


def test_settings_of_a_search_give_way_to_options(tmp_path, capsys, monkeypatch):
    from keras_swapout.study import pilot

    found = {"data": "digits", "methods": ["swapout", "swapout@0.9"], "epochs": 7, "seeds": 4}
    (tmp_path / "best.json").write_text(json.dumps({"pilot": found}))
    seen = []
    monkeypatch.setattr(pilot, "run_pilot", lambda *args: seen.append(args))
    options = ["--settings", str(tmp_path / "best.json"), "--seeds", "2"]
    assert run("pilot", *options) == 2 and "swapout@0.9" in capsys.readouterr().err
    found["methods"][1] = "swapout@theta_1=1-0.7,theta_2=0.9"
    (tmp_path / "best.json").write_text(json.dumps({"pilot": found}))
    assert run("pilot", *options) == 0
    ((settings, out, save_models),) = seen
    assert (settings.epochs, settings.seeds, out, save_models) == (7, 2, "pilot-digits", False)
    assert settings.methods == ("plain", *found["methods"])
    assert run("pilot", "--settings", str(tmp_path / "none.json")) == 2
    assert "none.json" in capsys.readouterr().err


def test_out_is_a_file(tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    path = tmp_path / "out"
    path.touch()
    assert run("pilot", "--out", str(path)) == 2
    message = capsys.readouterr().err
    assert "--out" in message and "folder" in message and str(path) in message


def test_unknown_data(tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    assert run("pilot", "--data", "no_such_data", "--out", str(tmp_path / "out")) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in ("--data", "no_such_data", "digits")), message
    assert not (tmp_path / "out").exists()


def test_a_batch_larger_than_the_data(tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    options = ["--limit", "100", "--batch-size", "90", "--corruption-images", "1"]
    assert run("pilot", *options, "--out", str(tmp_path / "out")) == 2
    assert "--batch-size must be at most the number of training images, 85" in (
        capsys.readouterr().err.replace("`", "")
    )


def test_a_missing_package(tmp_path, capsys, monkeypatch):
    from keras_swapout.study.pilot import run as pilot_run

    monkeypatch.setattr(pilot_run, "PACKAGES", "no_such_package")
    assert run("pilot", "--out", str(tmp_path / "out")) == 2
    message = capsys.readouterr().err
    assert "no_such_package" in message and 'pip install "keras-swapout[pilot]"' in message


def test_ctrl_c_says_how_to_continue(capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "pilot", cli.COMMANDS["pilot"]._replace(run=interrupted))
    assert run("pilot", "--data", "my folder") == 130
    assert "keras-swapout pilot --data 'my folder'" in capsys.readouterr().err
