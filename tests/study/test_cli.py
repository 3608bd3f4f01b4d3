"""The command line: help, errors and exit codes."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from keras_swapout import __version__
from keras_swapout.study import cli, store

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

#: Runs commands in a fresh interpreter, which takes itself for that of the command.
COMMAND = """
import contextlib, io, json, os, sys

sys.argv = ["keras-swapout"]
from keras_swapout.study import cli

def run(*argv):
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        try:
            cli.main(argv)
        except SystemExit as stop:
            return stop.code, err.getvalue()
"""

LOADED = """
runs = [run("--help"), *(run(name, "--help") for name in cli.COMMANDS)]
runs += [run("pilot", "--epochs", "0"), run("tune", "--step", "2")]
runs += [run("evaluate", "none.keras", "--data", "digits")]
runs += [run(name, "none.keras", "--out", "a.keras") for name in ("retrofit", "strip")]
slow = "keras tensorflow jax torch scipy sklearn matplotlib rich jinja2 keras_tuner".split()
print(json.dumps([[code for code, _ in runs], [name for name in slow if name in sys.modules]]))
"""

MISSING = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == missing:
            raise ImportError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
for missing, argv in json.loads(%r):
    print(json.dumps(run(*argv)))
print(json.dumps("keras" in sys.modules))
"""

ENDS = """
def run(args):
    print("a line of Python", file=sys.stderr)
    os.write(2, b"a line of C++\\n")
    %s

cli.COMMANDS["pilot"] = cli.COMMANDS["pilot"]._replace(run=run)
cli.main(["pilot"])
"""


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


def test_help_and_refusals_import_nothing_slow(start_python, result):
    codes, slow = result(start_python(COMMAND + LOADED))
    assert codes == [0] * (1 + len(cli.COMMANDS)) + [2] * 5
    assert slow == []


def test_help_of_the_module_imports_nothing_slow():
    argv = [sys.executable, "-X", "importtime", "-m", "keras_swapout", "tune", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "--trials" in done.stdout and "keras_swapout.study.cli" in imported
    assert not {"keras", "tensorflow"} & imported


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
    monkeypatch.setattr(pilot, "run_pilot", lambda *args, **how: seen.append((*args, how)))
    options = ["--settings", str(tmp_path / "best.json"), "--seeds", "2", "--jobs", "3"]
    assert run("pilot", *options) == 2 and "swapout@0.9" in capsys.readouterr().err
    found["methods"][1] = "swapout@theta_1=1-0.7,theta_2=0.9"
    (tmp_path / "best.json").write_text(json.dumps({"pilot": found}))
    assert run("pilot", *options) == 0
    ((settings, out, save_models, how),) = seen
    assert how == {"jobs": 3, "verbose": False}
    assert (settings.epochs, settings.seeds, out, save_models) == (7, 2, "pilot-digits", False)
    assert settings.methods == ("plain", *found["methods"])
    (tmp_path / "best.json").write_text(json.dumps({"pilot": {**found, "epochs": 7.5}}))
    assert run("pilot", *options) == 2 and "--epochs" in capsys.readouterr().err
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


def test_a_missing_package_is_what_to_install(start_python):
    evaluate = ["evaluate", "none.keras", "--data", "digits"]
    cases = [
        *(
            (package, argv, "pilot")
            for package in ("scipy", "statsmodels", "matplotlib", "tensorflow_datasets")
            for argv in (["pilot"], ["tune"], evaluate)
        ),
        ("keras_tuner", ["tune"], "tuner"),
        ("tensorflow", ["pilot"], "tensorflow"),
        ("elpv_dataset", ["pilot", "--data", "elpv"], "elpv"),
        ("rich", ["benchmark"], "pilot"),
        ("jax", ["benchmark", "--backends", "jax"], "jax"),
    ]
    script = MISSING % json.dumps([case[:2] for case in cases])
    out, err = start_python(COMMAND + script).communicate(timeout=60)
    *found, keras_loaded = map(json.loads, out.splitlines())
    assert len(found) == len(cases) and not keras_loaded, err
    for (package, argv, extra), (code, message) in zip(cases, found, strict=True):
        expected = f'{package}. Install them with: pip install "keras-swapout[{extra}]"'
        assert code == 2 and message.endswith(expected + "\n"), message
        assert message.startswith(f"keras-swapout {argv[0]}: ") and message.count("\n") == 1


def test_a_full_disk_is_no_traceback(tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "out" / "results.json"
    command = cli.COMMANDS["pilot"]._replace(run=lambda args: store.write_json(path, {}))
    monkeypatch.setitem(cli.COMMANDS, "pilot", command)
    assert run("pilot") == 2
    message = capsys.readouterr().err
    assert os.strerror(errno.ENOSPC) in message and str(path) in message
    assert message.count("\n") == 1
    with pytest.raises(OSError):
        cli.main(["pilot", "--traceback"])


@pytest.mark.parametrize(
    ("end", "code", "shown"),
    [
        ("pass", 0, False),
        ("raise ValueError('of the user')", 2, False),
        ("raise RuntimeError('of ours')", 1, True),
        ("os.abort()", -signal.SIGABRT, True),
    ],
)
def test_what_libraries_write_is_shown_only_where_the_command_breaks(
    end, code, shown, start_python
):
    process = start_python(COMMAND + ENDS % end, TF_CPP_MIN_LOG_LEVEL="3")
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.startswith("a line of Python\n")
    assert ("a line of C++\n" in err) == shown, err
    assert ("of the user" in err) == (code == 2) and ("RuntimeError: of ours" in err) == (code == 1)


def test_who_wants_to_see_what_libraries_write_does(start_python):
    process = start_python(COMMAND + ENDS % "pass", TF_CPP_MIN_LOG_LEVEL="0")
    assert "a line of C++\n" in process.communicate(timeout=60)[1]


def saying(monkeypatch, error):
    """Has the command `evaluate` raise an error."""

    def fails(args):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "evaluate", cli.COMMANDS["evaluate"]._replace(run=fails))
    return ("evaluate", "a.keras", "--data", "digits")


def test_arguments_are_spelled_as_options(capsys, monkeypatch):
    """A message of Python's function names arguments, which the command line spells otherwise."""
    message = "Argument `batch_size` is off. Choose another `out`; `imports`, `models`, `odd`"
    assert run(*saying(monkeypatch, ValueError(message))) == 2
    assert capsys.readouterr().err == (
        "keras-swapout evaluate: Argument --batch-size is off. Choose another --out; --import, "
        "`models`, `odd`\n"
    )


def test_a_message_can_not_write_on_the_screen(capsys, monkeypatch):
    error = ValueError("\x1b[2J classes " + os.fsdecode(b"b\xe4d") + " gr\u00fcn \u03b8")
    assert run(*saying(monkeypatch, error)) == 2
    said = capsys.readouterr().err
    assert said == "keras-swapout evaluate: \\x1b[2J classes b\\udce4d gr\u00fcn \u03b8\n"


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_line(tmp_path, capsys, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text("{")
    command = cli.COMMANDS["pilot"]._replace(run=lambda args: store.read_json(path))
    monkeypatch.setitem(cli.COMMANDS, "pilot", command)
    assert run("pilot") == 0
    assert capsys.readouterr().err == (f"keras-swapout: {path} is broken and will be made again\n")


def test_a_name_that_the_screen_can_not_show_stops_nothing(start_python):
    code = (
        COMMAND
        + """
cli.COMMANDS["pilot"] = cli.COMMANDS["pilot"]._replace(run=lambda args: print("b\\udce4d \\u03b8"))
cli.main(["pilot"])
"""
    )
    process = start_python(code, PYTHONIOENCODING="ascii")
    assert process.communicate(timeout=60)[0] == "b\\udce4d \\u03b8\n"
    assert process.returncode == 0


def test_ctrl_c_says_how_to_continue(capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "pilot", cli.COMMANDS["pilot"]._replace(run=interrupted))
    assert run("pilot", "--data", "my folder") == 130
    assert "keras-swapout pilot --data 'my folder'" in capsys.readouterr().err
