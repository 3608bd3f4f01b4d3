"""The command `keras-swapout tune`: what is searched, interruption, several processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import keras_swapout as ks

pytest.importorskip("keras_tuner", reason='pip install "keras-swapout[tuner]"')
pytest.importorskip("jinja2", reason='pip install "keras-swapout[pilot]"')

from keras_swapout.study import cli, store
from keras_swapout.study.measuring import scores
from keras_swapout.study.pilot import data as pilot_data
from keras_swapout.study.pilot import read_settings, training
from keras_swapout.study.pilot import settings as pilot
from keras_swapout.study.pilot.methods import METHODS, find
from keras_swapout.study.pilot.runs import run_path
from keras_swapout.study.tune import make_settings, run_tune, search
from keras_swapout.study.tune import run as tune_run
from keras_swapout.study.tune.progress import Display
from keras_swapout.study.tune.settings import TUNABLE

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("little_garbage")]

MODEL = "small:network"
TINY = dict(data="digits", model=MODEL, epochs=1, limit=200, seeds=2)
TINY |= dict(corruption_images=10, samples=[1])
FIXTURES = Path(__file__).parents[1] / "fixtures" / "0.1.0"
OPTIONS = [
    "--model",
    MODEL,
    "--epochs",
    "1",
    "--limit",
    "200",
    "--search-only",
    "--objective",
    "accuracy",
]


# --- what is searched ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TUNABLE)
@pytest.mark.parametrize("schedule", ["linear", "constant", "stage"])
def test_every_number_of_a_method_is_searched_and_named(name, schedule):
    settings = make_settings(name, schedule=schedule)
    names = [parameter["name"] for parameter in search.parameters(settings)]
    values = {parameter["name"]: parameter["low"] for parameter in search.parameters(settings)}
    method = search.method_of(values, settings)
    assert find(method.name) == method and method.name != name
    per_theta = {"linear": 1, "constant": 1, "stage": 3}[schedule]
    others = ("rate", "block_size", "alpha", "label_weight")
    thetas = [n for n in METHODS[name].values if n not in others]
    assert len(names) == len(METHODS[name].values) + len(thetas) * (per_theta - 1)
    for theta in thetas:
        expected = {"linear": (1.0, 0.3), "constant": 0.3, "stage": (0.3, 0.3, 0.3)}[schedule]
        assert method.values[theta] == expected


def test_the_default_of_a_method_is_a_point_of_its_space():
    for name in TUNABLE:
        settings = make_settings(name)
        default = {p["name"]: p["default"] for p in search.parameters(settings)}
        assert search.method_of(default, settings) == METHODS[name]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(method="plain"), "method"),
        (dict(method="spatial_dropout"), "method"),
        (dict(tuner="hyperband"), "tuner"),
        (dict(trials=0), "trials"),
        (dict(objective="test_accuracy"), "objective"),
        (dict(schedule="cosine"), "schedule"),
        (dict(step=0), "step"),
        (dict(ranges={"rate": (0.1, 0.2)}), "theta_1, theta_2"),
        (dict(ranges={"theta_1": (0.9, 0.5)}), "low < high"),
        (dict(ranges={"theta_1": (0.5, 1.5)}), "theta_1"),
        (dict(method="rblock_bdropdml", ranges={"alpha": (0, 1)}), "above 0"),
        (dict(epochs=0), "epochs"),
    ],
)
def test_what_can_not_be_searched_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_settings(**options)


# --- one process ---------------------------------------------------------------------------------


class Recorded:
    """In place of a trainer of the final runs: what such runs of version 0.1.0 have measured."""

    def __init__(self, method, settings, data):
        self.method = method

    def run(self, seed, *args):
        other = {"plain": "plain", "swapout": "bdropdml"}.get(
            self.method.name, "bdropdml@rate=0.1105"
        )
        run = json.loads(run_path(FIXTURES / "tune" / "pilot", other, 0.0, seed).read_text())
        return {**run, "method": self.method.name}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The trials are trained; the final runs, which are a pilot as any other, are not."""
    out = tmp_path_factory.mktemp("tune") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Trainer", Recorded)
        results = run_tune(make_settings("swapout", trials=3, tuner="random", **TINY), out)
    return out, results


def test_tuned_on_validation_and_reported_on_test(finished):
    out, results = finished
    assert [trial["status"] for trial in results["trials"]] == ["COMPLETED"] * 3
    best = min(results["trials"], key=lambda trial: trial["measures"]["nll"])
    assert results["best"] == best["id"]
    tuned = results["method"]["tuned"]
    assert find(tuned).values["theta_2"] == (1.0, best["values"]["theta_2_stop"])
    runs = {(run["method"], run["seed"]) for run in results["confirmation"]["runs"]}
    assert runs == {(name, seed) for name in ("plain", "swapout", tuned) for seed in (0, 1)}
    assert results["default"]["values"] == {"theta_1_stop": 0.5, "theta_2_stop": 0.5}
    assert results == json.loads((out / "results.json").read_text())
    lines = (out / "trials.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("id,status,theta_1_stop,theta_2_stop")
    page = (out / "report.html").read_text()
    assert page.count("<svg") >= 3 and tuned in page


@pytest.mark.parametrize(
    ("processes", "said"),
    # 9 trials of 2 minutes and 2 x 3 final runs of a minute and 3 seconds; or 8 trials, two by two.
    [(1, "about 25 minutes to go: 9 trials, then 6 final runs"), (2, "about 15 minutes to go: 8")],
)
def test_how_long_it_takes_is_said_once_after_the_first_trials(processes, said, capsys):
    options = TINY | {"trials": 10, "executions_per_trial": 2, "objective": "nll"}
    display = Display(make_settings("swapout", **options), [])
    trial = {"status": "COMPLETED", "values": {"theta": 0.5}, "measures": {"nll": 0.1}}
    for number in range(1, 5):
        display.trial_finished(trial | {"seconds": 120.0}, processes)
        assert capsys.readouterr().out.count(said) == (number == processes)


def test_a_trial_is_the_same_run_with_variables_and_with_constants(finished):
    """The pilot's own training of what was found, with a trial's seed: the same measures."""
    out, results = finished
    (trial,) = (trial for trial in results["trials"] if trial["id"] == results["best"])
    settings = pilot.make_settings(**read_settings(out / "best.json"))
    data = pilot_data.PilotData(settings)
    trainer = training.Trainer(find(results["method"]["tuned"]), settings, data)
    trainer.train(search.FIRST_SEED)
    found = scores.quality(trainer.values(data.validation.images)[0], data.validation.labels)
    assert found["nll"] == pytest.approx(trial["measures"]["nll"], rel=1e-4)


def test_the_pilot_takes_what_was_found(finished):
    out, results = finished
    settings = pilot.make_settings(**{**read_settings(out / "best.json"), "seeds": 1})
    assert settings.methods == ("plain", "swapout", results["method"]["tuned"])
    assert (settings.epochs, settings.limit, settings.seeds) == (1, 200, 1)


def test_settings_that_are_none_are_refused(tmp_path):
    for text in ("{}", "[]", "no json", '{"pilot": {"theta": 1}}', '{"pilot": 3}'):
        (tmp_path / "best.json").write_text(text)
        with pytest.raises(ValueError, match=r"best\.json"):
            read_settings(tmp_path / "best.json")
    with pytest.raises(FileNotFoundError):
        read_settings(tmp_path / "none.json")


def test_more_trials_may_follow_and_nothing_else_may_change(finished, monkeypatch):
    out, results = finished
    monkeypatch.setattr(
        tune_run, "run_pilot", lambda settings, out, answer: results["confirmation"]
    )
    monkeypatch.setattr(
        search.Trials, "__call__", lambda *args: dict.fromkeys(("nll", "accuracy", "ece"), 0.5)
    )
    with pytest.raises(ValueError, match="epochs was 1 and is now 2"):
        run_tune(make_settings("swapout", trials=3, tuner="random", **{**TINY, "epochs": 2}), out)
    more = run_tune(make_settings("swapout", trials=4, tuner="random", **TINY), out)
    assert more["trials"][:3] == results["trials"] and len(more["trials"]) == 4
    assert more["default"] == results["default"]


@pytest.mark.parametrize("name", ["tuner0", "chief"])
def test_a_search_is_taken_up_whoever_made_it(finished, tmp_path, monkeypatch, name):
    """KerasTuner itself would begin again under another name, and write over what there is."""
    out, results = finished
    shutil.copytree(out / "search", tmp_path / "search")
    (tmp_path / "search" / "tuner0.json").unlink(missing_ok=True)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", name)
    settings = make_settings("swapout", trials=9, tuner="random", objective="nll", **TINY)
    tuner = search.make_tuner(settings, None, tmp_path / "search")
    found = {trial.trial_id: trial.score for trial in tuner.oracle.trials.values()}
    assert len(found) >= 3
    for trial in results["trials"]:
        assert found[trial["id"]] == trial["measures"]["nll"]


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """(folder, search): two finished trials of version 0.1.0; search(...) trains nothing.

    It returns the results, with "ran", the methods that trials ran, and "final", those of the final
    runs.
    """
    shutil.copytree(FIXTURES / "tune", tmp_path / "out")
    settings = dict(epochs=1, limit=100, batch_size=32, corruption_images=4, samples=[2], seeds=2)
    ran, final = [], []

    def trial(self, method):
        ran.append(method.name)
        return {"nll": 0.01 * len(ran), "accuracy": 0.5, "ece": 0.1}

    def search_(trials=2, method="bdropdml", tuner="random", out=tmp_path / "out", **options):
        ran.clear()
        options = {**settings, **options}
        results = run_tune(make_settings(method, tuner, trials=trials, **options), out)
        return {**results, "ran": list(ran), "final": final[-1] if final else None}

    monkeypatch.setattr(search.Trials, "__call__", trial)
    monkeypatch.setattr(tune_run, "run_pilot", lambda it, out, answer: final.append(it.methods))
    return tmp_path / "out", search_


def damages(whole):
    """What may have become of a trial.json."""
    state = json.loads(whole)
    values = {"values": {"rate": None}}
    nan = {"metrics": {"nll": {"direction": "min", "observations": [{"value": [None], "step": 0}]}}}
    yield from (None, "", whole[:-50], "[]", "[" * 100_000, '"\udcff"')
    for name in state:
        yield json.dumps({k: v for k, v in state.items() if k != name})
    for name in ("trial_id", "hyperparameters"):  # of one that was killed
        running = {**state, "status": "RUNNING", "score": None, "metrics": {"metrics": {}}}
        yield json.dumps({k: v for k, v in running.items() if k != name})
    for changed in (
        {"score": None},
        {"score": [0.5]},
        {"trial_id": "1"},
        {"status": "DONE"},
        {"metrics": nan},
        {"metrics": {"metrics": {}}},
        {"hyperparameters": {**state["hyperparameters"], **values}},
        {"hyperparameters": {**state["hyperparameters"], "values": {}}},
    ):
        yield json.dumps({**state, **changed})


def test_one_broken_trial_is_run_again_and_the_others_stay(searched):
    out, search_ = searched
    before = search_()
    assert before["ran"] == [] and before["best"] == "0"
    path = out / "search" / "trial_0" / "trial.json"
    said = rf"{path} is missing or broken: the trial is run again"
    settings = make_settings("bdropdml", objective="nll")
    for text in damages(path.read_text()):
        path.unlink() if text is None else path.write_text(text, errors="surrogateescape")
        with pytest.warns(UserWarning, match=said):
            oracle = search.make_tuner(settings, None, out / "search").oracle
        assert list(oracle.trials) == ["0", "1"] and oracle.end_order == ["1"], text
        assert oracle.trials["1"].score == before["trials"][1]["measures"]["nll"]
        assert oracle.create_trial("somebody").trial_id == "0"
    with pytest.warns(UserWarning, match=said):
        results = search_()
    assert len(results["ran"]) == 1 and results["trials"][1] == before["trials"][1]
    assert results["trials"][0]["status"] == "COMPLETED"
    assert search_()["ran"] == []


def test_a_search_without_its_state_is_an_error_that_says_so(searched):
    out, search_ = searched
    for text in (None, '{"half', "{}"):
        (out / "search" / "oracle.json").unlink(missing_ok=True)
        if text is not None:
            (out / "search" / "oracle.json").write_text(text)
        with pytest.raises(ValueError, match=r"oracle\.json is missing or broken.*trials\.csv"):
            search_()
    shutil.rmtree(out / "search" / "trial_0")
    shutil.rmtree(out / "search" / "trial_1")
    assert len(search_()["ran"]) == 2


@pytest.mark.parametrize("when", ["before the first", "created", "finished"])
def test_killed_between_two_files_of_kerastuner(searched, when, monkeypatch):
    """A trial's file is written before that of the search, so one may be ahead of the other."""
    _, search_ = searched
    write_json, stops = store.write_json, {"before the first": 1, "created": 2, "finished": 3}
    seen = []

    def killed(path, value):
        seen.append(path.name)
        if seen.count("oracle.json") == stops[when]:
            raise KeyboardInterrupt
        write_json(path, value)

    monkeypatch.setattr(store, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        search_(3)
    monkeypatch.setattr(store, "write_json", write_json)
    results = search_(3)
    assert len(results["ran"]) == (0 if when == "finished" else 1)
    assert [trial["status"] for trial in results["trials"]] == ["COMPLETED"] * 3


def test_a_grid_is_taken_up_where_it_was(searched, tmp_path):
    _, search_ = searched
    grid = dict(tuner="grid", step=0.2, ranges={"rate": (0.1, 0.5)})
    whole = search_(5, out=tmp_path / "whole", **grid)
    assert [trial["values"]["rate"] for trial in whole["trials"]] == [0.1, 0.3, 0.5]
    for trials in (1, 2, 5):
        parts = search_(trials, out=tmp_path / "parts", **grid)
        assert len(set(parts["ran"]) - {"bdropdml"}) == 1
    assert [t["values"] for t in parts["trials"]] == [t["values"] for t in whole["trials"]]
    (tmp_path / "parts" / "search" / "trial_1" / "trial.json").unlink()
    with pytest.warns(UserWarning, match="missing or broken"):
        parts = search_(5, out=tmp_path / "parts", **grid)
    assert [t["values"] for t in parts["trials"]] == [t["values"] for t in whole["trials"]]


def test_a_better_setting_of_more_trials_has_final_runs_beside_the_old_one(searched):
    out, search_ = searched
    results = search_(3)  # the third is the best
    tuned = results["method"]["tuned"]
    assert results["final"] == ("plain", "bdropdml", "bdropdml@rate=0.1105", tuned)
    assert read_settings(out / "best.json")["methods"] == ["plain", "bdropdml", tuned]


def test_a_trial_is_written_whole_or_not_at_all(searched, monkeypatch):
    out, search_ = searched
    opened = []
    monkeypatch.setattr("keras_tuner.src.utils.save_json", lambda *args: opened.append(args))
    assert len(search_(3)["ran"]) == 1 and not opened
    assert json.loads((out / "search" / "trial_2" / "trial.json").read_text())["score"] == 0.01


# --- several processes ---------------------------------------------------------------------------


def words(out, trials):
    return ["tune", *OPTIONS, "--tuner", "random", "--trials", str(trials), "--out", str(out)]


@pytest.fixture
def start():
    """start(out, trials, **environment): the command in a process of its own."""
    processes = []

    def run(out, trials, **environment):
        paths = [str(Path(ks.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        process = subprocess.Popen(
            [sys.executable, "-m", "keras_swapout", *words(out, trials)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parent,  # where `small` is
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def trials_in(out):
    """The finished trials on disk, by number, as they are written there."""
    found = {}
    for path in sorted((out / "search").glob("trial_*/trial.json")):
        try:
            trial = json.loads(path.read_text())
        except ValueError:  # it is being written
            continue
        if trial["status"] == "COMPLETED":
            found[trial["trial_id"]] = trial["score"]
    return found


def wait_for(condition, seconds=240):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "nothing happened"
        time.sleep(0.05)


def test_killed_and_started_again(tmp_path, start):
    out = tmp_path / "out"
    first = start(out, 6)
    wait_for(lambda: trials_in(out))
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = trials_in(out)
    with pytest.raises(SystemExit) as stop:
        cli.main(words(out, 6))  # in this process, which has its imports behind it
    assert not stop.value.code
    after = trials_in(out)
    assert len(after) == 6 and {name: after[name] for name in before} == before
    assert store.read_json(out / "results.json")["best"] in after


def test_a_chief_and_two_workers_of_which_one_is_killed(tmp_path, start, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out = tmp_path / "out"

    def place(name):
        return {
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": port,
            "KERASTUNER_TUNER_ID": name,
        }

    chief, one, two = (start(out, 5, **place(name)) for name in ("chief", "worker-1", "worker-2"))
    wait_for(lambda: trials_in(out))
    one.send_signal(signal.SIGKILL)
    one.wait()
    before = trials_in(out)
    wait_for(lambda: len(trials_in(out)) > len(before))  # the other goes on
    for name, value in place("worker-1").items():  # under its old name it gets its old trial
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        cli.main(words(out, 5))
    assert not stop.value.code
    texts = [p.communicate(timeout=300)[0] for p in (two, chief)]
    for text in texts:
        assert "0000 00:00:" not in text and "absl" not in text, text  # TensorFlow's own messages
    after = trials_in(out)
    assert len(after) == 5 and {name: after[name] for name in before} == before, texts
    results = store.read_json(out / "results.json")
    assert [trial["status"] for trial in results["trials"]] == ["COMPLETED"] * 5
    assert len((out / "trials.csv").read_text().splitlines()) == 6
