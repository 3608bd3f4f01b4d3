import contextlib
import os
import pickle
import sys
import threading
import time
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_swapout import datasets
from keras_swapout.datasets import stored
from keras_swapout.datasets.stored import Rows
from keras_swapout.study.measuring import images

pytest.importorskip("tensorflow")

ARRAY = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 3), np.uint8)
INDEX = np.random.default_rng(1).permutation(50)[:30]
LABELS = (ARRAY.mean(axis=(1, 2, 3)) > ARRAY.mean()).astype(np.int32)


@pytest.fixture
def rows(tmp_path):
    np.save(tmp_path / "array.npy", ARRAY)
    return Rows(tmp_path / "array.npy", INDEX)


@pytest.mark.tensorflow  # no backend matters
@pytest.mark.parametrize(
    "key",
    [
        *(0, -1, np.int64(7), slice(None), slice(3, 9), slice(20, 100), slice(None, None, -2)),
        *([], [2, 2, 0], np.array([-1, 5]), np.array([[1, 2], [3, 4]]), INDEX > 20, ...),
    ],
)
def test_rows_are_indexed_as_the_array_that_they_are(rows, key):
    expected = ARRAY[INDEX][key]
    mapped = np.load(rows.file, mmap_mode="r")
    np.save(rows.file.with_name("f.npy"), np.asfortranarray(ARRAY))
    for file in (rows.file, mapped, mapped[::2], rows.file.with_name("f.npy"), ARRAY):
        step = 2 if file is not mapped and isinstance(file, np.memmap) else 1
        index = INDEX // step
        found = Rows(file, index)[key]
        assert type(found) is np.ndarray and found.dtype == np.uint8
        np.testing.assert_array_equal(found, ARRAY[::step][index][key])
    np.testing.assert_array_equal(rows[key], expected)


@pytest.mark.tensorflow
def test_rows_look_like_the_array_that_they_are(rows):
    array = ARRAY[INDEX]
    for name in ("shape", "dtype", "ndim", "size"):
        assert getattr(rows, name) == getattr(array, name)
    assert len(rows) == 30
    np.testing.assert_array_equal(np.asarray(rows), array)
    np.testing.assert_array_equal(np.stack(list(rows)), array)
    assert np.asarray(rows, np.float32).dtype == np.float32
    sent = pickle.dumps(rows)
    assert len(sent) < 2000 < array.nbytes  # the path, not what is in the file
    np.testing.assert_array_equal(pickle.loads(sent)[:], array)
    np.testing.assert_array_equal(Rows(ARRAY)[:], ARRAY)


@pytest.mark.tensorflow
def test_what_rows_refuse(rows):
    with pytest.raises(TypeError, match=r"`key` must be an int, a slice.*Received: key=\(0, 1\)"):
        rows[0, 1]
    with pytest.raises(IndexError):
        rows[30]
    with pytest.raises(ValueError, match="`copy` must be None or True"):
        rows.__array__(copy=False)
    for index, error in (([50], ValueError), ([-1], ValueError), ([[0]], ValueError)):
        with pytest.raises(error, match=r"`index` must be ints \(m,\) in \[0, 50\). Received"):
            Rows(ARRAY, index)
    for index in ([0.5], ["a"], [True]):
        with pytest.raises(TypeError, match=r"`index` must be ints \(m,\)"):
            Rows(ARRAY, index)
    with pytest.raises(FileNotFoundError):
        Rows("no such file.npy")
    for change in (
        lambda: os.truncate(rows.file, 1000),
        lambda: stored.write(rows.file, iter(ARRAY[::-1]), size=0),
    ):
        change()
        with pytest.raises(OSError, match=r"is another one than it was: .*array\.npy"):
            rows[:1]


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", [">f4", "<i8", "?", "M8[s]"])
def test_rows_of_any_type_and_place(tmp_path, dtype):
    values = np.arange(60).reshape(20, 3).astype("i8").astype(dtype)
    raw = np.memmap(tmp_path / "raw", dtype, "w+", offset=5, shape=(20, 3))
    raw[:] = values
    raw.flush()
    found = Rows(raw, [3, 4, 5, 19, 0])
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found[:], values[[3, 4, 5, 19, 0]])


@pytest.mark.tensorflow
def test_parts_and_joints_stay_in_the_file(rows):
    a, b = stored.part(rows, slice(4, 8)), stored.part(rows, INDEX < 9)
    both = stored.joined([a, b])
    assert all(isinstance(x, Rows) for x in (a, b, both))
    expected = np.concatenate([ARRAY[INDEX][4:8], ARRAY[INDEX][INDEX < 9]])
    np.testing.assert_array_equal(both[:], expected)
    np.testing.assert_array_equal(stored.joined([a, ARRAY]), np.concatenate([expected[:4], ARRAY]))
    assert isinstance(stored.part(np.load(rows.file, mmap_mode="r"), [3]), Rows)
    assert type(stored.part(ARRAY, [3])) is np.ndarray
    for array in (rows, ARRAY[INDEX]):
        pieces = list(stored.pieces(array, most=7 * 90 + 1))
        assert [len(piece) for piece in pieces] == [7, 7, 7, 7, 2]
        np.testing.assert_array_equal(np.concatenate(pieces), ARRAY[INDEX])


@pytest.mark.tensorflow
def test_a_file_is_there_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "array.npy"

    def some():
        yield from ARRAY[:9]
        assert not path.exists()
        yield ARRAY[9]

    stored.write(path, some(), size=10**4)
    np.testing.assert_array_equal(np.load(path), ARRAY[:10])

    def broken():
        yield ARRAY[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored.write(tmp_path / "new" / "other.npy", broken(), size=0)
    assert os.listdir(path.parent) == ["array.npy"]
    # What a killed process has left goes some time later; what is being written stays.
    left, fresh = (tmp_path / "new" / f"{name}.partial" for name in ("left", "fresh"))
    for file, age in ((left, 10**4), (fresh, 0)):
        file.write_text("")
        os.utime(file, (time.time() - age,) * 2)
    stored.write(path, iter(ARRAY), size=0)
    assert fresh.exists() and not left.exists()
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), ARRAY)


@pytest.mark.tensorflow
def test_two_that_write_at_once_do_not_hurt_each_other(tmp_path):
    meet = threading.Barrier(2, timeout=20)

    def some():
        for row in ARRAY:
            meet.wait()
            yield row

    threads = [
        threading.Thread(target=stored.write, args=(tmp_path / "a.npy", some(), 0))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["a.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), ARRAY)


@contextlib.contextmanager
def small_files(most):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.tensorflow
def test_a_file_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path):
    advice = r"2 GB. Make room there, or name another folder with .* KERAS_SWAPOUT_CACHE.*a\.npy"
    with small_files(20_000), pytest.raises(OSError, match=advice):
        stored.write(tmp_path / "a.npy", np.zeros((9, 10_000), np.uint8), size=2 * 10**9)
    with pytest.raises(OSError, match="No space left on device: it takes 1e"):
        stored.write(tmp_path / "a.npy", iter([pytest.fail]), size=10**18)
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"KERAS_SWAPOUT_CACHE.*file/a\.npy"):
        stored.write(tmp_path / "file" / "a.npy", iter(ARRAY), size=0)


@pytest.mark.tensorflow
def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_SWAPOUT_CACHE", str(tmp_path))
    assert stored.cache() == tmp_path
    monkeypatch.delenv("KERAS_SWAPOUT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert stored.cache() == tmp_path / "keras-swapout"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert stored.cache() == Path.home() / ".cache" / "keras-swapout"


@pytest.mark.tensorflow
def test_memory_maps_that_a_function_returns_stay_in_their_file(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", ARRAY)
    np.save(tmp_path / "y.npy", LABELS)
    (tmp_path / "with_maps.py").write_text(
        "import numpy as np\n"
        "def data():\n"
        f"    x, y = (np.load(rf'{tmp_path}/{{n}}.npy', mmap_mode='r') for n in 'xy')\n"
        "    return (x[:40], y[:40]), None, (x[40:], y[40:])\n"
        "def arrays():\n"
        "    return tuple(p and tuple(map(np.array, p)) for p in data())\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    maps, arrays = (datasets.read(f"with_maps:{name}") for name in ("data", "arrays"))
    assert maps.info.mean == arrays.info.mean and maps.info.std == arrays.info.std
    for split in ("train", "validation", "test"):
        (images, labels), (expected, y) = getattr(maps, split), getattr(arrays, split)
        assert isinstance(images, Rows) and type(expected) is np.ndarray
        np.testing.assert_array_equal(images[:], expected)
        np.testing.assert_array_equal(labels, y)


def fitted(data):
    keras.utils.set_random_seed(0)
    layers = [keras.Input(ARRAY.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=keras.backend.backend() == "tensorflow")  # no compiling
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.fixture
def ways(rows):
    """The same training batches from a file and from memory."""
    info = datasets.Info(
        name="noise",
        classes=("dark", "bright"),
        image_shape=ARRAY.shape[1:],
        sizes={},
        mean=(120.0, 130.5, 110.0),
        std=(70.0, 71.0, 72.0),
        source="here",
        augmented=True,
    )
    splits = [datasets.Split(images, LABELS[INDEX]) for images in (rows, ARRAY[INDEX])]
    return [datasets.training_batches(split, info, batch_size=8, seed=3) for split in splits]


@pytest.mark.tensorflow
def test_batches_from_a_file_are_those_from_memory(ways):
    streamed, held = ways
    assert streamed.element_spec == held.element_spec and len(streamed) == len(held) == 4
    for _ in range(2):  # epochs
        for (x, y), (expected, labels) in zip(streamed, held, strict=True):
            np.testing.assert_array_equal(x, expected)
            np.testing.assert_array_equal(y, labels)


def test_every_backend_trains_on_them_alike(ways):
    for found, expected in zip(*map(fitted, ways), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.tensorflow
def test_a_study_goes_through_them_in_pieces(rows, monkeypatch):
    monkeypatch.setattr(Rows, "__array__", lambda *_, **__: pytest.fail("all at once"))
    monkeypatch.setattr(stored.pieces, "__defaults__", (1000,))
    assert images.checksum(rows, 7) == zlib.crc32(ARRAY[INDEX].tobytes(), 7)
    batches = images.Batches({"a": rows}, lambda x: {"b": x["a"] / 255}, size=20)
    for _ in range(2):
        found = [batch["b"] for batch in batches]
        assert [len(batch) for batch in found] == [20, 10]
        np.testing.assert_array_equal(np.concatenate(found), ARRAY[INDEX] / 255)
