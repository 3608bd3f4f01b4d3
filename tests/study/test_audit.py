"""`keras-swapout audit`: what it finds, what it writes, and what it leaves as it is."""

import csv
import json
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("sklearn")

from pages import HOSTILE, read
from PIL import Image
from sklearn import datasets, metrics

from keras_swapout.study import cli
from keras_swapout.study.audit import brief, make_settings, report, run_audit, work
from keras_swapout.study.audit import data as audit_data
from keras_swapout.study.pilot.training import Trainer
from keras_swapout.study.report.brief import lines_of

NAMES = ("a,b", 'quo"te', "<b>bold", "ünï 'code", "=1+1")  # of classes, and of their folders
FILES = ("0,1 {}.png", 'a"b {}.png', "ü {}.png", "=x {}.png", "<i>{}.png", "new\nline {}.png")

EPOCHS = 12
SIDE = 32  # of the images, as they are shifted by some pixels


def network():
    inputs = keras.Input((SIDE, SIDE, 1))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(inputs))
    x = keras.layers.Dense(64, "relu")(x)
    x = keras.layers.Dropout(0.5, seed=1)(x)
    model = keras.Model(inputs, keras.layers.Dense(len(NAMES))(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    return model


def of_numbers():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dropout(0.1), keras.layers.Dense(2)])


def settings(data, **options):
    given = {"model": f"{__name__}:network", "method": "rblock_own", "epochs": EPOCHS}
    return make_settings(data=str(data), **{**given, "batch_size": 16, **options})


def checksums(folder):
    """Of all that lies in a folder."""
    return {
        str(path.relative_to(folder)): (zlib.crc32(path.read_bytes()), path.stat().st_mtime_ns)
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plainly(text):
    """A cell without the apostrophe that keeps a spreadsheet from calculating it."""
    return text.removeprefix("'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 digits 0 to 4, of which 30 have wrong labels; "right" of each file's name."""
    digits = datasets.load_digits(n_class=5)
    images, right = digits.images[:300] * (255 / 16), digits.target[:300]
    rng = np.random.default_rng(0)
    wrong = rng.permutation(300)[:30]
    given = right.copy()
    given[wrong] = (right[wrong] + rng.integers(1, 5, 30)) % 5
    top = tmp_path_factory.mktemp("audit") / "set"
    for i, image in enumerate(images):
        path = top / NAMES[given[i]] / FILES[i % len(FILES)].format(f"{i}-{right[i]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).resize((SIDE, SIDE)).save(path)
    return top


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """An audit with copies: its results, its folder, that of the copies; what it printed."""
    out, copies = tmp_path_factory.mktemp("audited") / "out", folder.parent / "copies"
    before = checksums(folder)
    results = run_audit(settings(folder), out, copy=copies)
    assert checksums(folder) == before
    return results, out, copies


@pytest.fixture
def told(monkeypatch):
    """`told(share)`: nothing is trained; of so many samples of each fold another class is said."""
    asked = []

    def use(wrong, fail=()):
        def judge(spec, on_epoch=None):
            if spec["fold"] in fail:
                raise ValueError("lost")
            asked.append(spec["fold"])
            data = work.data_of(work.from_record(spec["settings"]), spec["folds"], spec["checksum"])
            labels = data.samples.labels[data.select(spec["fold"])]
            said = np.where(wrong(labels), (labels + 1) % len(data.classes), labels)
            p = np.full((len(labels), len(data.classes)), 0.1)
            p[np.arange(len(p)), said] = 1.1 - 0.1 * len(data.classes)
            return {"probabilities": p.astype(np.float32), "seconds": 1.0}

        monkeypatch.setattr(work, "judge", judge)
        monkeypatch.setattr(work, "time_step", lambda spec: 0.001)
        return asked

    return use


def every(labels):
    return np.ones(len(labels), bool)


# --- what it finds and writes --------------------------------------------------------------------


def test_wrong_labels_are_found(finished):
    results, out, _ = finished
    rows = table(out / "labels.csv")
    assert len(rows) == 300 == results["audit"]["samples"]
    assert sorted(int(row["rank"]) for row in rows) == list(range(1, 301))
    # The folder is the label that was given, and the name has the right one.
    given = [plainly(row["file"].split("/")[0]) for row in rows]
    assert given == [plainly(row["given"]) for row in rows]
    right = [NAMES[int(row["file"][-5])] for row in rows]
    wrong = np.array([a != b for a, b in zip(given, right, strict=True)])
    margin = np.array([float(row["margin"]) for row in rows])
    assert wrong.sum() == 30 and metrics.roc_auc_score(wrong, -margin) > 0.9
    assert wrong[margin < 0].mean() > 0.3 and (margin[wrong] < 0).mean() > 0.7  # of 0.1
    for row in rows:
        p = np.array([float(row[f"p {name}"]) for name in NAMES])
        assert p.sum() == pytest.approx(1, abs=1e-3)
        own = NAMES.index(plainly(row["given"]))
        other = np.delete(p, own).max()
        assert float(row["p_given"]) == p[own] and float(row["p_suggested"]) == p.max()
        assert float(row["margin"]) == pytest.approx(p[own] - other, abs=2e-4)


@pytest.mark.tensorflow
def test_the_suspicious_are_a_table_of_their_own(finished):
    results, out, _ = finished
    every, flagged = table(out / "labels.csv"), table(out / "suspicious.csv")
    assert [row["rank"] for row in flagged] == [str(i + 1) for i in range(len(flagged))]
    chosen = [row for row in every if row["given"] != row["suggested"]]
    assert sorted(chosen, key=lambda row: int(row["rank"])) == flagged
    assert results["audit"]["suspicious"] == len(flagged)
    pairs = results["audit"]["pairs"]
    assert sum(pair["suspicious"] for pair in pairs) == len(flagged)
    assert json.loads((out / "results.json").read_text()) == results


@pytest.mark.tensorflow
def test_the_page_shows_them(finished):
    results, out, _ = finished
    page = read(out / "audit.html")
    number = results["audit"]["suspicious"]
    first = min(number, report.FIRST)
    assert first < page.tags.count("img") <= first + report.MOST
    assert f"{number} of 300 labels" in page.text
    for name in NAMES:
        assert name in page.text
    first = results["audit"]["pairs"][0]
    assert f"1: {table(out / 'suspicious.csv')[0]['given']} → " in page.text
    assert f"{first['given']} → {first['suggested']}" in page.text
    assert "keras-swapout audit --data" in page.text and "--method rblock_own" in page.text
    assert (out / "audit.html").stat().st_size < 500_000


@pytest.mark.tensorflow
def test_copies_are_sorted_by_suggestion(finished, folder):
    _, out, copies = finished
    expected = {}
    for row in table(out / "suspicious.csv"):
        given, suggested = plainly(row["given"]), plainly(row["suggested"])
        name = f"{given}-to-{suggested}/{plainly(row['file']).split('/', 1)[1]}"
        expected[name] = (folder / plainly(row["file"])).read_bytes()
    assert {
        path.relative_to(copies).as_posix(): path.read_bytes()
        for path in copies.rglob("*")
        if path.is_file()
    } == expected


@pytest.mark.tensorflow
def test_it_goes_on_and_makes_nothing_twice(finished, folder, monkeypatch, capsys):
    results, out, _ = finished
    before = [(out / name).read_bytes() for name in ("labels.csv", "suspicious.csv")]
    monkeypatch.setattr(work, "judge", None)
    again = run_audit(settings(folder), out)
    assert again["audit"] == results["audit"]
    assert [(out / name).read_bytes() for name in ("labels.csv", "suspicious.csv")] == before
    printed = capsys.readouterr().out
    assert "1 of 1 trainings already done" in printed and "steps teach" not in printed
    assert str(out / "audit.html") in printed.replace("\n", "")
    for other, words in (
        ({"epochs": 1}, f"epochs was {EPOCHS}"),
        ({"method": "rblock_own@2"}, "method"),
    ):
        with pytest.raises(ValueError, match=f"made otherwise: {words}"):
            run_audit(settings(folder, **other), out)
    with pytest.raises(ValueError, match="made otherwise: folds was None and is now 2"):
        run_audit(settings(folder), out, folds=2)


@pytest.mark.tensorflow
def test_an_interrupted_audit_keeps_the_folds_that_are_done(folder, tmp_path, told):
    out, asked = tmp_path / "out", told(every, fail=[1])
    with pytest.raises(ValueError, match="lost"):
        run_audit(settings(folder), out, folds=3)
    assert asked == [0]
    told(every)
    run_audit(settings(folder), out, folds=3)
    assert asked == [0, 1, 2]
    (out / "trainings" / "1.npy").write_bytes(b"half of a fi")
    with pytest.warns(UserWarning, match="broken"):
        run_audit(settings(folder), out, folds=3)
    assert asked == [0, 1, 2, 1]


@pytest.mark.tensorflow
def test_a_fold_is_judged_by_who_has_not_seen_it(tmp_path, monkeypatch):
    x = np.arange(60)[:, None].astype(float)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(60) % 2)
    trained, judged = [], []

    def train(self, seed, on_epoch):
        trained.append(set(self.data.train.images[:, 0]))
        batches = self.data.training_batches(0)
        assert all(len(labels) == 8 for _, labels in batches.as_numpy_iterator())

    def values(self, inputs):
        judged.append(set(inputs[:, 0]))
        return [np.zeros((len(inputs), 2))]

    monkeypatch.setattr(
        Trainer, "__init__", lambda self, method, s, data: setattr(self, "data", data)
    )
    monkeypatch.setattr(Trainer, "train", train)
    monkeypatch.setattr(Trainer, "values", values)
    monkeypatch.setattr(work, "time_step", lambda spec: 0.001)
    options = {"model": f"{__name__}:of_numbers", "batch_size": 8}
    run_audit(settings(tmp_path / "x.npz", **options), tmp_path / "out", folds=4)
    assert len(judged) == 4 and set.union(*judged) == set(range(60))
    for seen, asked in zip(trained, judged, strict=True):
        assert not seen & asked and seen | asked == set(range(60))
    rows = table(tmp_path / "out" / "labels.csv")
    assert [int(row["index"]) for row in rows] == list(range(60))
    assert not (tmp_path / "out" / "suspicious.csv").exists()
    assert "img" not in read(tmp_path / "out" / "audit.html").tags  # what is no image has none


@pytest.mark.tensorflow
def test_folds_have_the_shares_of_the_classes():
    labels = np.repeat([0, 1, 2], [31, 20, 7])
    fold = audit_data.folds_of(labels, 4)
    for c in range(3):
        sizes = np.bincount(fold[labels == c], minlength=4)
        assert sizes.max() - sizes.min() <= 1
    assert np.ptp(np.bincount(fold)) <= 1


# --- the user's files ----------------------------------------------------------------------------


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(
        np.random.default_rng(len(path.name)).integers(0, 256, (SIDE, SIDE), np.uint8)
    ).save(path)


@pytest.fixture
def split_folder(tmp_path):
    """With splits, names that are there twice, and a file that is none."""
    for split in ("test", "train", "val"):  # the order of the names is not that of the splits
        for name in NAMES:
            for i in range(3):
                picture(tmp_path / "set" / split / name / f"{split}{i}.png")
            picture(tmp_path / "set" / split / name / "deep" / f"{split}0.png")
    (tmp_path / "set" / "train" / NAMES[1] / "broken.png").write_bytes(b"no image")
    return tmp_path / "set"


@pytest.mark.tensorflow
def test_files_and_labels_belong_together(split_folder, tmp_path, told):
    told(every)
    before = checksums(split_folder)
    chosen = settings(split_folder, skip_unreadable=True)
    with pytest.warns(UserWarning, match="left out"):
        run_audit(chosen, tmp_path / "out", copy=tmp_path / "copies")
    rows = table(tmp_path / "out" / "labels.csv")
    assert len(rows) == 3 * len(NAMES) * 4
    assert all(plainly(row["given"]) == row["file"].split("/")[1] for row in rows)
    assert {row["file"] for row in rows} == {name for name in before if "broken" not in name}
    for name, suggested in zip(sorted(NAMES), np.roll(sorted(NAMES), -1), strict=True):
        copies = tmp_path / "copies" / f"{name}-to-{suggested}"
        assert len(list(copies.iterdir())) == 12 and (copies / "val0-2.png").exists()
    assert checksums(split_folder) == before


@pytest.mark.tensorflow
def test_some_of_the_files(folder, tmp_path, told):
    told(every)
    run_audit(settings(folder, limit=50), tmp_path / "out")
    rows = table(tmp_path / "out" / "labels.csv")
    assert len(rows) == 50
    assert all(plainly(row["given"]) == plainly(row["file"].split("/")[0]) for row in rows)
    with pytest.raises(ValueError, match="`limit` must be at most the number of samples, 300"):
        run_audit(settings(folder, limit=301), tmp_path / "more")


@pytest.mark.tensorflow
def test_nothing_is_written_into_the_data_or_over_files(folder, tmp_path, told):
    told(every)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").touch()
    before, chosen = checksums(folder), settings(folder)
    cases = [
        ({"out": folder / "out"}, "`out` must be outside of the data"),
        ({"out": folder}, "`out` must be outside of the data"),
        ({"copy": folder / "copies"}, "`copy` must be outside of the data"),
        ({"copy": tmp_path / "full"}, "`copy` must be a folder that is new or empty"),
        ({"copy": tmp_path / "full" / "a.txt"}, "`copy` must be a folder that is new or empty"),
        ({"copy": tmp_path / "out"}, "`copy` must not hold `out`"),
    ]
    for given, words in cases:
        with pytest.raises(ValueError, match=words):
            run_audit(chosen, **{"out": tmp_path / "out", **given})
    assert checksums(folder) == before and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="`copy` is for data that are a folder"):
        run_audit(make_settings(data="digits"), tmp_path / "out", copy=tmp_path / "copies")


# --- what it refuses, and what it says -----------------------------------------------------------


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ([0] * 18 + [1] * 2, {}, "at least 3 samples of each class. .*'1', which has 2"),
        ([0, 1] * 6, {"folds": 7}, "`folds` must be at most .*folds=7 and class '0', which has 6"),
        (np.arange(20) / 7, {}, "`data` must have a class for each sample.*numbers"),
        (np.eye(4)[[0, 1, 2] * 6] + np.eye(4)[3], {}, "`data` must have a class.*labels"),
        ([0, 1] * 9, {"folds": 1}, "`folds` must be an int >= 2"),
        ([0, 1] * 9, {"jobs": 0}, "`jobs` must be an int >= 1"),
    ],
)
def test_what_can_not_be_audited(labels, options, words, tmp_path):
    labels = np.array(labels)
    np.savez(tmp_path / "x.npz", x=np.arange(len(labels))[:, None] / 7, y=labels)
    chosen = settings(tmp_path / "x.npz", model=f"{__name__}:of_numbers", batch_size=4)
    with pytest.raises(ValueError, match=words):
        run_audit(chosen, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.tensorflow
def test_a_plain_network_judges_no_sample_that_it_knows(tmp_path):
    with pytest.raises(ValueError, match="`method` must be of R-Block where there are no `folds`"):
        run_audit(make_settings("plain"), tmp_path / "out")


def said(suspicious, samples=100, folds=None, others=900, augmented=False):
    """The lines of an answer: of two classes, so many labels of the first are contradicted."""
    classes = [
        {"name": "cat", "samples": samples, "suspicious": suspicious, "suggested": 0},
        {"name": HOSTILE, "samples": others, "suspicious": 0, "suggested": suspicious},
    ]
    pair = {"given": "cat", "suggested": HOSTILE, "suspicious": suspicious, "samples": samples}
    found = {
        "samples": samples + others,
        "suspicious": suspicious,
        "sure": 0.8 if suspicious else None,
        "classes": classes,
        "pairs": [{**pair, "sure": 0.8}] * bool(suspicious),
    }
    results = {"audit": found, "settings": {"folds": folds}, "data": {"name": "a"}}
    results["data"]["augmented"] = augmented
    lines = [line for line, _ in lines_of(brief.brief(results, Path("out")))]
    assert len(lines) <= 25 and max(map(len, lines)) <= 80
    page = read(report.make_page(results, []))
    text = " ".join(" ".join(lines).split())
    assert brief.answer(results) in page.text and brief.answer(results) in text
    return text


@pytest.mark.tensorflow
def test_the_answer_says_what_is_to_be_held_against_it():
    usual = said(20)
    assert usual.startswith("20 of 1,000 labels (2.0 %) look wrong: the network that was trained")
    assert "cat (20 of 100)" in usual and "0.80" in usual and "no proof" in usual
    assert "learnt" not in usual and "memorised" not in usual and "suspicious.csv" in usual
    none = said(0)
    assert none.startswith("No label of 1,000 looks wrong") and "suspicious.csv" not in none
    assert "memorised them: --folds 5 would tell" in none
    assert "memorised" not in said(0, folds=5) and "have not seen" in said(0, folds=5)
    assert "1 of 1,000 labels (0.1 %) looks wrong" in said(1)
    assert "Not learnt" in said(60) and "look wrong" in said(60)
    assert said(60, others=15).startswith("These data were not learnt")
    assert "--unaugmented" in said(60, augmented=True) and "--unaugmented" not in said(60)


@pytest.mark.tensorflow
def test_many_pairs_fit_a_screen():
    names = [f"a class with a very long name, number {i}" for i in range(12)]
    pairs = [
        {"given": a, "suggested": b, "suspicious": 1, "samples": 50, "sure": 0.5}
        for a in names
        for b in names
        if a != b
    ]
    classes = [{"name": n, "samples": 50, "suspicious": 11, "suggested": 11} for n in names]
    found = {"samples": 600, "suspicious": 132, "sure": 0.5, "classes": classes, "pairs": pairs}
    results = {"audit": found, "settings": {"folds": None}, "data": {"name": "a"}}
    lines = [line for line, _ in lines_of(brief.brief(results, Path("a folder") / "out"))]
    assert len(lines) <= 25 and max(map(len, lines)) <= 80 and "rows more on the page" in str(lines)
    assert names[0] in read(report.make_page(results, [])).text


@pytest.mark.tensorflow
def test_the_command_hands_its_options_on(monkeypatch, tmp_path, capsys):
    from keras_swapout.study import audit

    seen = []
    monkeypatch.setattr(audit, "run_audit", lambda *args, **how: seen.append((args, how)))
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            cli.main(["audit", *argv])
        return stop.value.code

    assert run("--data", "digits", "--folds", "4", "--jobs", "2", "--epochs", "3") == 0
    assert run("--method", "rblock_sdropdml@2", "--out", "there", "--verbose") == 0
    (first, how), (second, others) = seen
    assert first[0].methods[-1] == audit.METHOD and first[0].epochs == 3
    assert first[1] == "audit-digits" and how == {"folds": 4, "jobs": 2, "verbose": False}
    assert second[0].methods[-1] == "rblock_sdropdml@2" and second[0].epochs == audit.EPOCHS
    assert second[1] == "there" and others == {"verbose": True}
    assert run("--method", "magic") == 2 and "--method must be" in capsys.readouterr().err
    assert run("--samples", "3") == 2  # is for what compares methods
