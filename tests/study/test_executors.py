"""Work in this process, in a pool and on a cluster: the same, whatever is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_swapout.study.executors import Place, completed
from keras_swapout.study.pilot import make_settings, run_pilot
from keras_swapout.study.pilot import run as pilot_run

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:.*(the network gives|not measured)"),
]
ROOT = Path(__file__).parents[2]
WORK = '''
import os, pathlib, signal, time

def noted(value):
    """Its double; notes that it was asked, and kills its process the first time for a 3."""
    folder, number = value
    path = pathlib.Path(folder, f"{number}-{os.getpid()}-{time.time_ns()}")
    path.touch()
    if number == 3 and len(list(pathlib.Path(folder).glob("3-*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number

def deadly(value):
    os.kill(os.getpid(), signal.SIGKILL)

def table():
    import numpy as np

    x = np.random.default_rng(0).normal(size=(200, 5))
    return (x, (x[:, 0] > 0).astype(int)), None, None

def network():
    import keras

    layers = [keras.Input((5,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    return keras.Sequential(layers)

def slow(value):
    pathlib.Path(value, str(os.getpid())).touch()
    time.sleep(60)
'''


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "their_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    import their_work

    yield their_work
    sys.modules.pop("their_work")


def times_done(folder):
    names = [path.name.partition("-")[0] for path in folder.glob("*-*")]
    return {int(name): names.count(name) for name in set(names)}


def test_a_killed_process_loses_nothing(work, tmp_path):
    folder = tmp_path / "noted"
    folder.mkdir()
    values = [(number, (str(folder), number)) for number in range(6)]
    with pytest.warns(UserWarning, match="a process was killed"):
        found = dict(completed(Place(jobs=2), work.noted, iter(values)))
    assert found == {number: 2 * number for number in range(6)}
    done = times_done(folder)
    assert done[3] == 2 and sum(done.values()) <= 8  # besides, what the other process was at
    assert os.environ.get("TF_NUM_INTRAOP_THREADS") != "1"


def test_what_is_found_does_not_depend_on_how_many_processes_there_are(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pilot_run, "_short", lambda settings: True)  # no step is timed first
    options = {"model": "their_work:network", "seeds": 1, "epochs": 1, "label_noise": [0, 0.2]}
    settings = make_settings("their_work:table", ["plain"], **options)
    found = []
    for jobs in (1, 2):
        results = run_pilot(settings, tmp_path / str(jobs), jobs=jobs)
        times = ("seconds", "took")
        found.append([{k: v for k, v in r.items() if k not in times} for r in results["runs"]])
    assert found[0] == found[1] and [run["noise"] for run in found[0]] == [0, 0.2]


def test_what_always_kills_its_process_is_given_up(work):
    with (
        pytest.warns(UserWarning, match="a process was killed"),
        pytest.raises(RuntimeError, match=r"killed 3 times at the same work.*`jobs`"),
    ):
        list(completed(Place(jobs=1), work.deadly, [("a", 1)]))


def test_no_process_outlives_its_parent(work, tmp_path):
    code = (
        "import their_work as w\n"
        "from keras_swapout.study.executors import Place, completed\n"
        f"if __name__ == '__main__':\n"
        f"    list(completed(Place(jobs=2), w.slow, [(i, {str(tmp_path)!r}) for i in range(2)]))\n"
    )
    (tmp_path / "script.py").write_text(code)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py")])
    try:
        end = time.time() + 60
        while len(children := [p for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
            assert time.time() < end and parent.poll() is None
            time.sleep(0.1)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    pids = [int(child.name) for child in children]
    end = time.time() + 30
    while any(map(alive, pids)):
        assert time.time() < end
        time.sleep(0.1)


def alive(pid):
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False


def test_a_cluster_whose_worker_is_killed_loses_nothing(work, tmp_path):
    pytest.importorskip("distributed", reason='pip install "keras-swapout[cluster]"')
    folder = tmp_path / "noted"
    folder.mkdir()
    address_file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(address_file)]
    processes = [subprocess.Popen([*dask, *options, "--host", "127.0.0.1"], cwd=tmp_path)]
    try:
        end = time.time() + 60
        while not address_file.exists():
            assert time.time() < end
            time.sleep(0.1)
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1"]
        for _ in range(2):  # with a nanny each, which starts another in place of a killed one
            options = ["--scheduler-file", str(address_file), "--no-dashboard"]
            processes.append(subprocess.Popen([*worker, *options], cwd=tmp_path))
        address = json.loads(address_file.read_text())["address"]
        values = [(number, (str(folder), number)) for number in range(6)]
        found = dict(completed(Place(scheduler=address), work.noted, values))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
    assert found == {number: 2 * number for number in range(6)}
    assert times_done(folder)[3] == 2
