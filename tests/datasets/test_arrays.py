"""Images that come as arrays: .npz files and functions."""

import sys

import numpy as np
import pytest

from keras_swapout.datasets import read

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
BYTES = RNG.integers(0, 256, (60, 5, 4, 1)).astype(np.uint8)
CODE = """
import numpy as np, tensorflow as tf
x = np.load({file!r})["x"]
y = np.arange(60) % 3
def arrays(): return (x[:30], y[:30]), (x[30:42], y[30:42]), (x[42:], np.eye(3)[y[42:]])
def batches(): return tf.data.Dataset.from_tensor_slices((x, y)).batch(7), None, None
def single(): return tf.data.Dataset.from_tensor_slices((x, y)), None, None
def pair(): return x, y
def broken(): raise KeyError("absent")
def lists(): return ([x[:, 0], x[:, 1]], [y, y * 0.5]), None, None
def counts(): return (x[:, 0, :, 0], np.arange(60) // 2 * 10), None, None
"""


def saved(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "their_data.py").write_text(CODE.format(file=saved(tmp_path / "a.npz", x=BYTES)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield
    sys.modules.pop("their_data", None)


def rows(split):
    """What identifies the images of a split, in any order."""
    return sorted(image.tobytes() for image in split.images)


def test_a_file_is_split_here_or_as_it_says(tmp_path):
    one = read(saved(tmp_path / "one.npz", x=BYTES, y=LABELS))
    assert one.info.sizes == {"train": 41, "validation": 7, "test": 12}
    assert sorted(rows(one.train) + rows(one.validation) + rows(one.test)) == sorted(
        image.tobytes() for image in BYTES
    )
    parts = {f"{k}_{n}": v[s] for n, s in zip(
        ("train", "valid", "test"), (slice(30), slice(30, 42), slice(42, 60)), strict=True
    ) for k, v in (("x", BYTES), ("y", LABELS))}  # fmt: skip
    three = read(saved(tmp_path / "three.npz", classes=["a", "b", "c"], **parts))
    assert three.info.classes == ("a", "b", "c")
    np.testing.assert_array_equal(three.validation.images, BYTES[30:42])
    np.testing.assert_array_equal(three.test.labels, LABELS[42:])
    np.testing.assert_array_equal(three.train.images, BYTES[:30])


def test_functions_return_arrays_and_pipelines(functions):
    arrays = read("their_data:arrays")
    np.testing.assert_array_equal(arrays.validation.images, BYTES[30:42])
    np.testing.assert_array_equal(arrays.test.labels, LABELS[42:])  # they were one-hot
    for name in ("batches", "single"):
        data = read(f"their_data:{name}")
        assert data.info.sizes == {"train": 41, "validation": 7, "test": 12}
        assert set(rows(data.train)) < {image.tobytes() for image in BYTES}


def test_lists_of_arrays_and_counts(functions):
    data = read("their_data:lists")
    assert data.info.image_shape == ((4, 1), (4, 1)) and data.info.targets == "several"
    # Whole numbers too rare for classes, of which each split has some.
    data = read("their_data:counts", limit=30)
    assert data.info.targets == "numbers" and data.train.labels.max() > 200


def test_floats_are_read_as_what_they_are(tmp_path):
    raw, unit = BYTES.astype("float32"), BYTES.astype("float32") / 255
    read_raw = read(saved(tmp_path / "raw.npz", x=raw, y=LABELS))
    read_unit = read(saved(tmp_path / "unit.npz", x=unit, y=LABELS))
    np.testing.assert_array_equal(read_raw.train.images, read_unit.train.images)
    grey = read(saved(tmp_path / "grey.npz", x=BYTES[..., 0], y=LABELS[:, None]))
    np.testing.assert_array_equal(grey.train.images, read_raw.train.images)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": BYTES}, r"must hold x and y.*holds \['a'\]"),
        ({"x": BYTES}, "holds 'x' and no 'y'"),
        ({"x": BYTES, "y": LABELS[:50]}, "60 samples and 50 labels"),
        ({"x": BYTES[:0], "y": LABELS[:0]}, "0 samples"),
        ({"x": BYTES, "y": LABELS - 1}, "whole numbers >= 0, the least is -1"),
        ({"x": BYTES, "y": LABELS * np.nan}, "finite numbers, 60 are not"),
        ({"x": BYTES, "y": 0 * LABELS}, "at least two classes"),
        ({"x": np.where(BYTES > 250, np.nan, BYTES), "y": LABELS}, "inputs hold NaN"),
        ({"x": BYTES[:, 0, 0, 0], "y": LABELS}, "not one number for each sample"),
        ({"x": np.array(["a"] * 60), "y": LABELS}, "must be numbers, not <U1"),
        ({"x": BYTES[:2], "y": LABELS[:2]}, "2 samples are too few: none is left for the"),
        ({"x": np.array([None] * 60), "y": LABELS}, "no .npz file of plain arrays"),
        ({"x": BYTES, "y": LABELS, "classes": ["a", "b"]}, "labels must be 0..1"),
    ],
)
def test_what_can_not_be_used_is_named(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        read(saved(tmp_path / "bad.npz", **arrays))


def test_what_is_no_file_or_function_is_named(tmp_path, functions):
    (tmp_path / "text.npz").write_text("no archive")
    for name, message in (
        ("text.npz", "no .npz file"),
        ("absent.npz", "No such file"),
        ("their_data:absent", "no such function"),
        ("absent_module:data", "no such function"),
        ("their_data:pair", "must return"),
        ("their_data:broken", r"It raised KeyError: 'absent' \(.*their_data.py, line 9\)"),
    ):
        with pytest.raises(ValueError, match=message):
            read(name)
