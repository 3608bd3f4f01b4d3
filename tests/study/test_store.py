"""Files whole or not at all, folders for one process at a time, and what happens if not."""

import csv
import errno
import json
import os
import sys
import threading

import pytest

from keras_swapout.study import shapes, store

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

HOLD = """
import sys
import time

sys.argv = ["keras-swapout"]  # which imports no Keras
from pathlib import Path
from keras_swapout.study import store

with store.claimed(Path(%r), {"seeds": 1}, ["runs"]):
    print("held", flush=True)
    time.sleep(600)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a" / "results.json"
    store.write_text(path, "first")
    with pytest.raises(KeyboardInterrupt), store.written(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "first" and temporary.name == path.name
        raise KeyboardInterrupt
    assert path.read_text() == "first" and names(path.parent) == ["results.json"]
    with pytest.raises(ValueError):
        store.write_json(path, {"a": float("nan")})
    assert path.read_text() == "first" and names(path.parent) == ["results.json"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path, failed = tmp_path / "a.json", []
    texts = [letter * 10_000 for letter in "abc"]
    store.write_text(path, texts[0])

    def write(text):
        try:
            for _ in range(40):
                store.write_text(path, text)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_text() in texts
    assert not failed and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EFBIG, "larger files"),
        (errno.EROFS, "an `out`"),
        (errno.EACCES, "an `out`"),
        (None, "an `out`"),
    ],
)
def test_what_can_not_be_written_has_a_path_and_a_way_out(number, words, tmp_path):
    path = tmp_path / "model.keras"
    with pytest.raises(OSError, match=words) as raised, store.written(path):
        raise OSError(number, "it does not work") if number else OSError("it does not work")
    message = str(raised.value)
    assert "it does not work" in message and str(path) in message and "\n" not in message
    assert raised.value.filename == str(path) and not names(tmp_path)


def test_a_limit_on_the_size_of_files_is_such_an_error(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: allow larger files.*results\.csv"):
            store.write_text(tmp_path / "results.csv", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_names_that_are_not_utf_8_are_escaped(tmp_path):
    name = os.fsdecode(b"b\xe4d")
    store.write_text(tmp_path / "report.html", f"<p>{name} gr\u00fcn</p>")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "<p>b\\udce4d gr\u00fcn</p>"
    store.write_csv(tmp_path / "results.csv", [{"class": name}])
    assert (tmp_path / "results.csv").read_text(encoding="utf-8") == "class\nb\\udce4d\n"
    store.write_json(tmp_path / "results.json", {"class": name})
    assert store.read_json(tmp_path / "results.json") == {"class": name}


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    texts = ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "'=1", "''@", "'a", "a=1", "", "5"]
    rows = [{"file": text, "-n": -0.5, "i": -3, "none": None} for text in texts] + [{"i": 1}]
    store.write_csv(tmp_path / "results.csv", rows)
    with open(tmp_path / "results.csv", newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["file", "'-n", "i", "none"]
    assert found[0] == ["'=1+1", "-0.5", "-3", ""] and found[-1] == ["", "", "1", ""]

    def back(text):
        return text[1:] if text[:1] == "'" and text.lstrip("'")[:1] in tuple("=+-@\t\r") else text

    assert [back(row[0]) for row in found[:-1]] == texts
    assert not any(row[0].startswith(tuple("=+-@\t\r")) for row in found)


def test_shapes():
    shape = shapes.holds(
        a=shapes.number, b=shapes.maybe(shapes.text), c=shapes.many(shapes.share, 2)
    )
    good = {"a": 10**400, "b": None, "c": [0, 1.0], "more": object()}
    assert shape(good) and shape({**good, "b": "x"})
    for name, values in {
        "a": ["1", None, True, float("nan"), float("inf"), [1]],
        "b": [1, ["x"]],
        "c": [[0], [0, 2], {}, None, "ab"],
    }.items():
        assert not any(shape({**good, name: value}) for value in values)
        assert not shape({k: v for k, v in good.items() if k != name})
    assert not shape([]) and not shape(None)


# --- folders -------------------------------------------------------------------------------------

RECORD = {"seeds": 2, "methods": ["plain"], "models": {"a": 1}, "width": 1, "data_checksum": 5}
GROW = ("seeds", "methods", "models")


@pytest.fixture
def old(tmp_path):
    store.write_json(tmp_path / "settings.json", RECORD)
    store.write_json(tmp_path / "runs" / "plain.json", {})
    return tmp_path


def check(out, grow=GROW, **changed):
    return store.check(out, {**RECORD, **changed}, ["runs"], grow)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"seeds": 3, "methods": ["swapout", "plain"]},
        {"models": {"a": 1, "b": 2}},
        {"models": {"b": 2}},
    ],
)
def test_what_has_only_grown_belongs_to_the_run(changed, old):
    assert check(old, **changed) == RECORD


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"width": 4}, "width was 1 and is now 4. Choose another `out`, or what was"),
        ({"seeds": 1, "width": 2}, "seeds was 2 and is now 1; width was 1 and is now 2"),
        ({"methods": ["swapout"]}, r"methods was \['plain'\]"),
        ({"data_checksum": 6}, "otherwise: the images have changed"),
        ({"models": {"a": 2}}, r"otherwise: the model file a\.keras has changed"),
        ({"new": 1}, r"new was None and is now 1.*only seeds and methods and models may grow"),
        ({"seeds": None}, "seeds was 2 and is now None"),
        ({"models": None}, "models was"),
    ],
)
def test_what_was_made_otherwise_does_not(changed, words, old):
    with pytest.raises(ValueError, match=words) as raised:
        check(old, **changed)
    assert str(raised.value).startswith("Argument `out` ") and "--" not in str(raised.value)
    with (
        pytest.raises(ValueError, match=words),
        store.claimed(old, {**RECORD, **changed}, ["runs"], GROW),
    ):
        pass
    assert json.loads((old / "settings.json").read_text()) == RECORD


def test_images_are_compared_once_they_are_read(old):
    record = {name: value for name, value in RECORD.items() if name != "data_checksum"}
    store.check(old, record, ["runs"])


@pytest.mark.parametrize("text", [None, "{", "[]", '{"seeds": {}, "methods": [{}]}'])
def test_results_without_settings_that_can_be_read(text, old):
    (old / "settings.json").unlink()
    if text is not None:
        (old / "settings.json").write_text(text)
    with pytest.raises(ValueError, match="`out` holds results"):
        check(old)
    (old / "runs" / "plain.json").unlink()
    assert check(old) == {}  # without results, it belongs to any run


def test_no_folder_and_a_file(tmp_path):
    assert store.check(None, RECORD, ["runs"]) == {} and check(tmp_path / "none") == {}
    with store.claimed(None, RECORD, ["runs"]):
        pass
    assert not names(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`out` must be a folder, not a file"):
        check(tmp_path / "file")


def test_what_is_not_asked_for_stays_in_the_settings(old):
    (old / "runs" / ".abc.partial").mkdir()  # of a process that was killed
    with store.claimed(old, {**RECORD, "models": {"b": 2}}, ["runs"], GROW):
        pass
    assert json.loads((old / "settings.json").read_text())["models"] == {"a": 1, "b": 2}
    assert names(old / "runs") == ["plain.json"]


def claim(out):
    with store.claimed(out, {"seeds": 1}, ["runs"]):
        return (out / "settings.json").stat().st_mtime_ns


def test_a_folder_has_one_process_at_a_time_and_none_after_it_was_killed(tmp_path, start_python):
    out = tmp_path / "out"
    first = start_python(HOLD % str(out))
    assert first.stdout.readline() == "held\n"
    before = (out / "settings.json").stat().st_mtime_ns
    with pytest.raises(ValueError, match=rf"`out` is in use by process {first.pid} on \S+\. Wait"):
        claim(out)
    assert (out / "settings.json").stat().st_mtime_ns == before
    first.kill()
    first.wait()
    assert claim(out) > before
    with (
        store.claimed(out, {"seeds": 1}, ["runs"]),
        pytest.raises(ValueError, match=f"in use by process {os.getpid()} "),
    ):
        claim(out)
    claim(out)


@pytest.mark.skipif(sys.platform == "win32", reason="another lock")
def test_where_there_are_no_locks_a_warning_says_so(tmp_path, monkeypatch):
    import fcntl

    def unsupported(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match=r"\.lock can't be locked .*No locks available"):
        claim(tmp_path)
