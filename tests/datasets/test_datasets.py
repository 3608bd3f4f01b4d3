import collections
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from refusals import NO_ARRAY, NO_FLAG, NO_INT, NO_NUMBER, NO_TEXT, refuses

from keras_swapout import datasets
from keras_swapout.datasets import splits

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend


def contents(images):
    return collections.Counter(image.tobytes() for image in images)


def as_arrays(data):
    images, labels = zip(*((x.numpy(), y.numpy()) for x, y in data), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def small_folder(folder, per_class=(12, 12, 12), size=None):
    """The first three digits as PNG files."""
    image_module = pytest.importorskip("PIL.Image")
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    for digit, (name, count) in enumerate(zip("cab", per_class, strict=True)):
        (folder / name).mkdir()
        for i, image in enumerate(bunch.images[bunch.target == digit][:count]):
            picture = image_module.fromarray(np.uint8(image * 15))
            picture.resize(size or (8, 8)).save(folder / name / f"{i}.png")
    return folder


def test_digits_are_the_images_of_scikit_learn():
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    arrays = datasets.read("digits")
    images = np.concatenate([arrays.train.images, arrays.validation.images, arrays.test.images])
    levels = np.rint(images[..., 0] / 255 * 16).astype(np.uint8)
    assert contents(levels) == contents(bunch.images.astype(np.uint8))
    assert images.min() == 0 and images.max() == 255


def test_sizes_shapes_and_dtypes():
    train, validation, test, info = datasets.load("digits", batch_size=50)
    assert info.sizes == {"train": 1222, "validation": 216, "test": 359}
    for name, data in (("train", train), ("validation", validation), ("test", test)):
        images, labels = as_arrays(data)
        assert images.shape == (info.sizes[name], *info.image_shape)
        assert images.dtype == np.float32 and labels.dtype == np.int32
        assert len(data) == -(-info.sizes[name] // 50)
        assert [len(y) for _, y in data][:-1] == [50] * (len(data) - 1)
    assert info.classes == tuple("0123456789") and not info.augmented


def test_load_holds_the_images_that_read_returns():
    arrays, data = datasets.read("digits", seed=3), datasets.load("digits", seed=3)
    for raw, batches in zip(arrays[1:3], data[1:3], strict=True):
        images, labels = as_arrays(batches)
        np.testing.assert_allclose(images, data.info.standardise(raw.images), atol=1e-6)
        np.testing.assert_array_equal(labels, raw.labels)
    images, labels = as_arrays(data.train)
    order, expected = np.argsort(labels, kind="stable"), np.argsort(arrays.train.labels)
    np.testing.assert_array_equal(labels[order], arrays.train.labels[expected])
    raw = images * data.info.std + data.info.mean
    assert contents(np.rint(raw).astype(np.uint8)) == contents(arrays.train.images)


def test_no_image_is_in_two_splits():
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    duplicated = sum(contents(bunch.images).values()) - len(contents(bunch.images))
    train, validation, test, _ = datasets.read("digits")
    a, b, c = (set(contents(split.images)) for split in (train, validation, test))
    assert len(a & b) + len(a & c) + len(b & c) <= duplicated


def test_indices_do_not_overlap():
    labels = np.repeat([0, 1], [700, 300])
    indices = np.arange(1000)
    for seed in range(5):
        chosen, rest = splits._take(indices, labels, labels, 200, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.sort(np.concatenate([chosen, rest])), indices)
        assert np.bincount(labels[chosen]).tolist() == [140, 60]


def test_every_image_is_equally_likely_to_be_taken():
    labels = np.repeat([0, 1, 2], [7, 13, 3])
    taken = np.zeros(23)
    for seed in range(4000):
        chosen, _ = splits._take(np.arange(23), labels, labels, 5, np.random.default_rng(seed))
        assert len(set(chosen)) == 5
        taken[chosen] += 1
    # Five standard errors of a proportion of 5/23 over 4000 draws.
    np.testing.assert_allclose(taken / 4000, 5 / 23, atol=0.033)


@pytest.mark.parametrize("limit", [None, 200])
def test_classes_keep_their_proportions(limit):
    labels = pytest.importorskip("sklearn.datasets").load_digits().target
    share = np.bincount(labels) / len(labels)
    for split in datasets.read("digits", limit=limit)[:3]:
        counts = np.bincount(split.labels, minlength=10)
        # At most one image off for each of the up to three cuts behind a split.
        np.testing.assert_array_less(np.abs(counts - share * len(split.labels)), 3)


def test_statistics_come_from_the_training_split_only():
    train, _, test, info = datasets.read("digits", seed=1)
    np.testing.assert_allclose(info.mean, train.images.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(info.std, train.images.std(axis=(0, 1, 2)), rtol=1e-9)
    standardised = info.standardise(train.images)
    assert standardised.dtype == np.float32
    np.testing.assert_allclose(standardised.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(standardised.std(), 1, atol=1e-5)
    assert abs(info.standardise(test.images).mean()) > 1e-5


def test_standardise_refuses_what_is_not_a_raw_image():
    info = datasets.read("digits").info
    refuses(info.standardise, "images", NO_ARRAY, TypeError)
    for value, received in ((np.nan, "nan .. nan"), (-1.0, "-1.0 .. -1.0"), (256, "256 .. 256")):
        words = rf"`images` must be raw values within 0\.\.255\. Received: {received}"
        with pytest.raises(ValueError, match=words):
            info.standardise(np.full((1, 8, 8, 1), value))
    for images in (np.zeros((1, 8, 8, 3)), 1.0):
        with pytest.raises(ValueError, match=r"`images` must have 1 channel.*Received: shape \("):
            info.standardise(images)


def test_the_seed_decides_everything():
    tf = pytest.importorskip("tensorflow")

    def epochs(seed):
        data = datasets.load("digits", seed=seed, limit=300, augment=True)
        return [as_arrays(data.train) for _ in range(2)], as_arrays(data.test)

    first, first_test = epochs(0)
    tf.random.set_seed(5)
    again, again_test = epochs(0)
    for (x, y), (x2, y2) in zip([*first, first_test], [*again, again_test], strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
    assert not np.array_equal(first[0][1], first[1][1]), "the epochs have the same order"
    assert sorted(first[0][1]) == sorted(first[1][1])
    other, other_test = epochs(1)
    assert not np.array_equal(first[0][1], other[0][1])
    assert not np.array_equal(first_test[0], other_test[0])


def test_limit_leaves_the_test_set_alone():
    whole, part = datasets.read("digits"), datasets.read("digits", limit=100)
    assert part.info.sizes == {"train": 85, "validation": 15, "test": 359}
    np.testing.assert_array_equal(whole.test.images, part.test.images)
    kept = np.concatenate([part.train.labels, part.validation.labels])
    assert np.bincount(kept).min() >= 9 and np.bincount(kept).max() <= 11
    with pytest.raises(ValueError, match=r"`limit` must be at most 1438.*limit=1439"):
        datasets.read("digits", limit=1439)


def test_augmentation_is_a_flip_and_a_shift_with_a_mean_border(tmp_path):
    """Every augmented image is found among all possible flips and shifts of its original."""
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(40):
            pixels = rng.integers(0, 256, (10, 12, 3), np.uint8)
            image_module.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    arrays = datasets.read(tmp_path)
    data = datasets.load(tmp_path)
    assert data.info.augmented
    raw = data.info.standardise(arrays.train.images)
    candidates = []
    for flipped in (raw, raw[:, :, ::-1]):
        padded = np.pad(flipped, ((0, 0), (4, 4), (4, 4), (0, 0)))
        for down in range(9):
            for across in range(9):
                candidates.append(padded[:, down : down + 10, across : across + 12])
    candidates = np.stack(candidates).reshape(162, len(raw), -1)
    used = collections.Counter()
    for _ in range(3):
        images, labels = as_arrays(data.train)
        for image, label in zip(images.reshape(len(images), -1), labels, strict=True):
            distance = np.abs(candidates - image).max(axis=-1)
            transform, original = np.unravel_index(distance.argmin(), distance.shape)
            assert distance[transform, original] < 1e-5
            assert arrays.train.labels[original] == label
            used[transform] += 1
    flips = sum(count for transform, count in used.items() if transform >= 81)
    total = sum(used.values())
    # Four standard deviations of a fair coin; and about 58 % of 162 outcomes seen in 162 draws.
    assert abs(flips / total - 0.5) < 2 / np.sqrt(total)
    assert len(used) > 70
    assert {t % 81 // 9 for t in used} == set(range(9)) == {t % 9 for t in used}
    for batches, split in ((data.validation, arrays.validation), (data.test, arrays.test)):
        np.testing.assert_allclose(
            as_arrays(batches)[0], data.info.standardise(split.images), atol=1e-5
        )


def test_folder(tmp_path):
    folder = small_folder(tmp_path)
    train, validation, test, info = datasets.read(folder, validation=0.3, test=0.25)
    assert info.classes == ("a", "b", "c") and info.image_shape == (8, 8, 1)
    assert info.sizes == {"train": 19, "validation": 8, "test": 9}
    assert np.bincount(test.labels).tolist() == [3, 3, 3]
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    # The folders were written as c, a, b for the digits 0, 1, 2; labels follow the sorted names.
    for label, digit in enumerate((1, 2, 0)):
        written = contents(np.uint8(bunch.images[bunch.target == digit][:12] * 15))
        read = sum(
            (contents(s.images[s.labels == label]) for s in (train, validation, test)),
            collections.Counter(),
        )
        assert read == written
    images, labels = next(iter(datasets.load(str(folder), batch_size=7).train))
    assert images.shape == (7, 8, 8, 1) and labels.shape == (7,)


def test_one_colour_image_makes_the_folder_colour(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    folder = small_folder(tmp_path)
    image_module.new("RGB", (8, 8), (255, 0, 0)).save(folder / "a" / "red.bmp")
    arrays = datasets.read(folder)
    assert arrays.info.image_shape == (8, 8, 3)
    assert sum(arrays.info.sizes.values()) == 37


def test_image_size(tmp_path):
    folder = small_folder(tmp_path)
    assert datasets.read(folder, image_size=16).info.image_shape == (16, 16, 1)
    train = datasets.read(folder, image_size=(4, 6)).train
    assert train.images.shape[1:] == (4, 6, 1) and train.images.dtype == np.uint8


def test_shrinking_averages_instead_of_picking_pixels(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(10):
            noise = rng.integers(0, 256, (32, 32), np.uint8)
            image_module.fromarray(noise).save(tmp_path / name / f"{i}.png")
    large, small = (datasets.read(tmp_path, image_size=size).train.images for size in (32, 8))
    assert small.std() < large.std() / 3
    assert abs(small.mean() - large.mean()) < 3


def test_folder_errors(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    empty = tmp_path / "one"
    empty.mkdir()
    with pytest.raises(ValueError, match="at least two classes"):
        datasets.read(empty)
    (empty / "a").mkdir()
    (empty / "b").mkdir()
    with pytest.raises(ValueError, match="no images found"):
        datasets.read(empty)
    (tmp_path / "two").mkdir()
    folder = small_folder(tmp_path / "two", per_class=(30, 30, 2))
    with pytest.raises(ValueError, match=r"class 'b' has too few images.*: 2 in all"):
        datasets.read(folder)
    (tmp_path / "three").mkdir()
    folder = small_folder(tmp_path / "three")
    image_module.new("L", (9, 8)).save(folder / "a" / "wide.png")
    with pytest.raises(ValueError, match=r"`image_size` must be given.*2 different sizes"):
        datasets.read(folder)
    assert datasets.read(folder, image_size=8).info.image_shape == (8, 8, 1)


def test_constant_images(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(20):
            image_module.new("L", (4, 4), 7).save(tmp_path / name / f"{i}.png")
    with pytest.raises(ValueError, match="constant"):
        datasets.read(tmp_path)


def test_bad_arguments(tmp_path):
    def wrong(name, types, values=()):
        for error, refused in ((TypeError, types), (ValueError, values)):
            call = lambda value: datasets.load(**{"name": "digits", name: value})  # noqa: E731
            refuses(call, name, refused, error)

    wrong("name", (*NO_TEXT, b"digits", os.fsencode(tmp_path)))
    wrong("batch_size", NO_INT, (0, -1, 10**30))
    wrong("seed", NO_INT, (-1,))
    wrong("limit", [x for x in NO_INT if x is not None], (0, -1, 10**30))
    for name in ("validation", "test"):
        wrong(name, NO_NUMBER, (0, 1, 1.0, -0.1, np.nan, np.inf))
    sizes = [x for x in NO_INT if x is not None and not isinstance(x, tuple)]
    wrong("image_size", (*sizes, (8, 2.5), ["8", 8]), (0, 10**6, (8, 8, 1), (8,), [], (8, 0)))
    wrong("augment", [x for x in NO_FLAG if x is not None])
    with pytest.raises(ValueError, match=r"`limit` must .*class '.' has too few images.*limit=12$"):
        datasets.load("digits", limit=12)


def test_bad_arguments_for_a_split_at_hand():
    train, *_, info = datasets.read("digits", limit=100)
    good = {"split": train, "info": info, "batch_size": 10, "seed": 0}

    def wrong(name, types, values=()):
        for error, refused in ((TypeError, types), (ValueError, values)):
            call = lambda value: datasets.training_batches(**{**good, name: value})  # noqa: E731
            refuses(call, name, refused, error)

    wrong("split", (None, "digits", tuple(train)))
    wrong("info", (None, "digits", {}))
    wrong("batch_size", NO_INT, (0, -1, 10**30))
    wrong("seed", NO_INT, (-1,))
    refuses(lambda size: datasets.stratified(train.labels, size), "size", NO_INT, TypeError)
    refuses(lambda size: datasets.stratified(train.labels, size), "size", (-1,), ValueError)
    for labels in (*NO_ARRAY, 1, np.zeros((2, 2))):
        with pytest.raises((TypeError, ValueError), match=r"`labels` must be ints \(n,\)"):
            datasets.stratified(labels, 1)


def test_unknown_name():
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(
        ValueError, match=r"`name` must be one of \['digits', 'elpv'\].*'no_such_set'"
    ):
        datasets.read("no_such_set")
    with pytest.raises(ValueError, match=r"`name` must be one of.*'./no/such folder'"):
        datasets.read("./no/such folder")
    with pytest.raises(ValueError, match=r"`name` must be an image classification set.*='imdb"):
        datasets.read("imdb_reviews")


def test_a_set_that_is_not_prepared_is_not_downloaded(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds.core.DatasetBuilder, "is_prepared", lambda self: False, raising=True)
    with pytest.raises(FileNotFoundError, match="python -c") as raised:
        datasets.read("mnist")
    command = re.search(r'python -c "(.*)"', str(raised.value)).group(1)
    compile(command, "command", "exec")
    assert "t.builder('mnist').download_and_prepare()" in command


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    for module, name, extra in (
        ("sklearn.datasets", "digits", "pilot"),
        ("elpv_dataset.utils", "elpv", "elpv"),
        ("tensorflow_datasets", "cifar10", "pilot"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf'pip install "keras-swapout\[{extra}\]"'):
            datasets.read(name)


def test_importing_the_module_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['keras-swapout']\n"  # else the package itself imports Keras
        "from keras_swapout import datasets\n"
        "print({m.split('.')[0] for m in sys.modules} & "
        "{'tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL', 'keras', 'elpv_dataset'})\n"
        "datasets.read('digits'); print('tensorflow' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    assert run.stdout.split("\n")[:2] == ["set()", "False"]


def test_cifar10():
    tfds = pytest.importorskip("tensorflow_datasets")
    if not tfds.builder("cifar10").is_prepared():
        pytest.skip(
            'CIFAR-10 is not installed: python -c "import tensorflow_datasets as t; '
            "t.builder('cifar10').download_and_prepare()\""
        )
    train, validation, test, info = datasets.load("cifar10", limit=2000, validation=0.2)
    assert info.sizes == {"train": 1600, "validation": 400, "test": 10_000}
    assert info.image_shape == (32, 32, 3) and info.augmented
    assert info.classes[:3] == ("airplane", "automobile", "bird")
    assert "cifar10" in info.source and "http" in info.source
    _, labels = as_arrays(validation)
    assert np.bincount(labels).tolist() == [40] * 10
    # The official test set, in its own order.
    official = tfds.as_numpy(tfds.load("cifar10", split="test[:20]", as_supervised=True))
    images, labels = next(iter(test))
    for i, (image, label) in enumerate(official):
        np.testing.assert_allclose(images[i], info.standardise(image), atol=1e-5)
        assert labels[i] == label
    assert next(iter(train))[0].shape == (128, 32, 32, 3)


def test_elpv(monkeypatch):
    pytest.importorskip("elpv_dataset", reason='pip install "keras-swapout[elpv]"')
    from elpv_dataset import utils

    # Decoded once: it takes seconds.
    photographs, probability, kind = utils.load_dataset()
    monkeypatch.setattr(utils, "load_dataset", lambda: (photographs, probability, kind))
    arrays = datasets.read("elpv", limit=800, image_size=32)
    info = arrays.info
    assert info.sizes == {"train": 680, "validation": 120, "test": 525}
    assert info.classes == ("functional", "defective") and info.image_shape == (32, 32, 1)
    assert "CC BY-NC-SA 4.0" in info.source

    strata = [f"{p:.2f} {k}" for p, k in zip(probability, kind, strict=True)]
    share = {s: n / len(strata) for s, n in collections.Counter(strata).items()}
    assert len(share) == 8
    defective = np.mean(probability >= 0.5)
    for split in arrays[:3]:
        assert abs(split.labels.sum() - defective * len(split.labels)) < 3

    # The test share again, but by what the source knows of each image.
    source = datasets.READERS["elpv"]("elpv")
    indices = np.arange(len(strata))
    chosen, _ = splits._take(indices, source.labels, source.strata, 525, np.random.default_rng(0))
    counts = collections.Counter(strata[i] for i in chosen)
    for stratum, proportion in share.items():
        assert abs(counts[stratum] - 525 * proportion) < 1
