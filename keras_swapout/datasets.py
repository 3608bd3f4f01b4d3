"""Image classification data, split and standardised the same way whatever the source.

`read` returns NumPy arrays, `load` wraps them in `tf.data`. Everything is held in memory as uint8.

To add a source, write a function `(name) -> Source` and enter it in `READERS`.
"""

import dataclasses
import numbers
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
SHIFT = 4  # pixels, the Swapout paper's translation


@dataclasses.dataclass(frozen=True)
class Info:
    """What a data set is.

    Attributes:
        name: the name or folder asked for.
        classes: class names; label `i` means `classes[i]`.
        image_shape: `(height, width, channels)`.
        sizes: number of images in `"train"`, `"validation"` and `"test"`.
        mean, std: per channel, of the training split only, on the 0..255 scale.
        source: where the data comes from and, where it matters, the licence.
        augmented: whether training batches are augmented.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    sizes: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    augmented: bool = False

    def standardise(self, images: np.ndarray) -> np.ndarray:
        """`(images - mean) / std` in float32, for raw images `(..., channels)` within 0..255.

        Raises:
            ValueError: for another number of channels, NaN, or values outside 0..255.
        """
        images = np.asarray(images)
        if images.ndim == 0 or images.shape[-1] != len(self.mean):
            raise ValueError(
                f"images must have {len(self.mean)} channel(s) on the last axis, got shape "
                f"{images.shape}"
            )
        # Written so that NaN, which compares false with everything, is refused too.
        if images.size and not (images.min() >= 0 and images.max() <= 255):
            raise ValueError(
                f"images must be raw values within 0..255, got {images.min()} to {images.max()}"
            )
        mean, std = np.float32(self.mean), np.float32(self.std)
        return (images.astype(np.float32) - mean) / std


class Split(NamedTuple):
    """Images `(n, height, width, channels)` uint8 and labels `(n,)` int32."""

    images: np.ndarray
    labels: np.ndarray


class Arrays(NamedTuple):
    """What `read` returns: three `Split`s and an `Info`."""

    train: Split
    validation: Split
    test: Split
    info: Info


class Data(NamedTuple):
    """What `load` returns: three `tf.data.Dataset`s of (image, label) batches and an `Info`."""

    train: Any
    validation: Any
    test: Any
    info: Info


class Source(NamedTuple):
    """What a reader hands over, before anything is resized or split.

    `images` yields uint8 arrays `(height, width, channels)`. Where the source has its own test
    split, `test` holds its `(images, labels)`. `strata` are finer groups than the labels, to be
    balanced over the splits as well.
    """

    images: Iterable[np.ndarray]
    labels: np.ndarray
    classes: tuple[str, ...]
    source: str
    test: tuple[Iterable[np.ndarray], np.ndarray] | None = None
    strata: np.ndarray | None = None
    augment: bool = True


def load(
    name: str | os.PathLike,
    *,
    batch_size: int = 128,
    seed: int = 0,
    limit: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    augment: bool | None = None,
    validation: float = 0.15,
    test: float = 0.2,
) -> Data:
    """Training, validation and test sets as batched `tf.data`, and their description.

    Each element is a batch of images `(batch, height, width, channels)`, float32, standardised by
    the mean and standard deviation of the training split, and labels `(batch,)`, int32. No image
    is dropped, so the last batch may be smaller. The training set is shuffled anew every
    epoch; the order and the augmentation are functions of `seed` and the epoch alone, whatever
    TensorFlow's own seed is.

    The augmentation is the Swapout paper's: left-right flip with probability 1/2 and translation
    by up to 4 pixels each way (at most half the side), the uncovered border filled with the mean.
    The paper translates once per mini-batch; here every image has its own translation.

    Args:
        name: `"digits"`, `"elpv"`, a TensorFlow Datasets name such as `"cifar10"` (prepared
            beforehand: nothing is downloaded), or a folder with one sub-folder per class.
        batch_size: images per batch, at least 1.
        seed: non-negative integer for the split, the order and the augmentation.
        limit: keep this many images of training and validation together, stratified. The test
            set stays whole, so that results under different limits are comparable.
        image_size: side, or `(height, width)`, to resize to. None keeps the source's size.
        augment: None means the source's default: on, except for `"digits"`.
        validation: share, in (0, 1), of the images that are not test images.
        test: share, in (0, 1), of all images; unused where the source has its own test split.

    Returns:
        `Data(train, validation, test, info)`.

    Raises:
        ValueError: an argument out of range, an unknown name, unusable images, or a class with
            too few images to appear in every split.
        FileNotFoundError: a TensorFlow Datasets set that has not been prepared; the message has
            the command.
        ImportError: a missing package; the message has the command.

    Example:
        >>> train, validation, test, info = load("digits", batch_size=32)
        >>> info.image_shape, info.sizes
        ((8, 8, 1), {'train': 1222, 'validation': 216, 'test': 359})
        >>> images, labels = next(iter(train))
        >>> images.shape, labels.dtype.name
        (TensorShape([32, 8, 8, 1]), 'int32')

    Source: Singh, Hoiem and Forsyth (2016), "Swapout: Learning an ensemble of deep
        architectures", section 4, for the augmentation.
    """
    _check_integer("batch_size", batch_size, 1)
    if augment not in (None, True, False):
        raise ValueError(f"augment must be True, False or None, got {augment!r}")
    _import("tensorflow", "tensorflow")
    arrays = read(
        name, seed=seed, limit=limit, image_size=image_size, validation=validation, test=test
    )
    info = arrays.info
    if augment is not None:
        info = dataclasses.replace(info, augmented=bool(augment))
    return Data(
        training_batches(arrays.train, info, batch_size, seed),
        _evaluation_set(arrays.validation, info, batch_size),
        _evaluation_set(arrays.test, info, batch_size),
        info,
    )


def read(
    name: str | os.PathLike,
    *,
    seed: int = 0,
    limit: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    validation: float = 0.15,
    test: float = 0.2,
) -> Arrays:
    """The same images as `load`, raw: uint8, not standardised, augmented or batched.

    Needs no TensorFlow, except to read a TensorFlow Datasets set. The arguments and errors are
    those of `load`; `info.augmented` is the source's default.

    Returns:
        `Arrays(train, validation, test, info)`; each split is a pair of images
        `(n, height, width, channels)`, uint8, and labels `(n,)`, int32.

    Example:
        >>> arrays = read("digits", limit=100)
        >>> arrays.info.sizes
        {'train': 85, 'validation': 15, 'test': 359}
        >>> arrays.test.images.shape, arrays.test.images.dtype.name
        ((359, 8, 8, 1), 'uint8')
    """
    _check_integer("seed", seed, 0)
    if limit is not None:
        _check_integer("limit", limit, 1)
    _check_share("validation", validation)
    _check_share("test", test)
    size = _height_width(image_size)

    name = os.fspath(name)
    source = _reader(name)(name)
    labels = np.asarray(source.labels, np.int32)
    strata = labels if source.strata is None else source.strata
    _check_labels(labels, source.classes)
    images = _same_size(source.images, size)

    # One generator per decision: the test images are the same whatever the limit.
    rng_test, rng_limit, rng_validation = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)
    )
    keep = np.arange(len(labels))
    if source.test is None:
        chosen, keep = _take(keep, labels, strata, round(test * len(keep)), rng_test)
        held_out = Split(images[chosen], labels[chosen])
    else:
        held_out = Split(
            _same_size(source.test[0], images.shape[1:3]), np.asarray(source.test[1], np.int32)
        )
        _check_labels(held_out.labels, source.classes)
    if limit is not None:
        if limit > len(keep):
            raise ValueError(
                f"limit must be at most {len(keep)}, the training and validation images of "
                f"{name!r}, got {limit}"
            )
        keep, _ = _take(keep, labels, strata, limit, rng_limit)
    held_back, keep = _take(keep, labels, strata, round(validation * len(keep)), rng_validation)

    splits = {
        "train": Split(images[keep], labels[keep]),
        "validation": Split(images[held_back], labels[held_back]),
        "test": held_out,
    }
    ours = splits if source.test is None else ("train", "validation")
    for split in ours:
        present = splits[split].labels
        for label in np.setdiff1d(np.arange(len(source.classes)), present):
            kept = sum(int(np.sum(part.labels == label)) for part in splits.values())
            raise ValueError(
                f"class {source.classes[label]!r} has too few images for a stratified split: "
                f"{kept} in all, none in the {split} split"
            )
    mean, std = _statistics(splits["train"].images)
    info = Info(
        name=name,
        classes=source.classes,
        image_shape=images.shape[1:],
        sizes={split: len(part.labels) for split, part in splits.items()},
        mean=mean,
        std=std,
        source=source.source,
        augmented=source.augment,
    )
    return Arrays(**splits, info=info)


# --- splitting -----------------------------------------------------------------------------------


def _take(indices, labels, strata, size, rng):
    """Random, stratified `size` of `indices`, and the rest, both sorted.

    Systematic sampling: with the images of a stratum next to each other in random order, and the
    strata of a class too, every n-th image is taken. Each class and each stratum then gets its
    exact share, up to less than one image, however small the stratum.
    """
    order = np.lexsort((rng.random(len(indices)), strata[indices], labels[indices]))
    count = len(indices)
    positions = (np.arange(size) * count + rng.integers(count)) // max(size, 1)
    chosen = np.sort(indices[order[positions]])
    return chosen, np.setdiff1d(indices, chosen)


def _statistics(images):
    # Sums of whole numbers, exact in float64; in pieces, to spare memory.
    total, squares = np.zeros((2, images.shape[-1]))
    for piece in np.array_split(images, 1 + images.size // 2**22):
        pixels = piece.reshape(-1, images.shape[-1]).astype(np.float64)
        total += pixels.sum(axis=0)
        squares += np.einsum("pc,pc->c", pixels, pixels)
    count = images[..., 0].size
    mean = total / count
    std = np.sqrt(squares / count - mean**2)
    if not np.all(std > 0):
        raise ValueError("the training images are constant in some channel: nothing to learn from")
    return tuple(mean.tolist()), tuple(std.tolist())


# --- sources -------------------------------------------------------------------------------------


def _digits(name):
    datasets = _import("sklearn.datasets", "pilot")
    bunch = datasets.load_digits()
    # 17 levels, 0..16, spread over 0..255.
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return Source(
        images,
        bunch.target,
        tuple(str(digit) for digit in bunch.target_names),
        "Optical Recognition of Handwritten Digits (UCI, 1998; CC BY 4.0), from scikit-learn",
        augment=False,
    )


def _elpv(name):
    images, probability, kind = _import("elpv_dataset.utils", "elpv").load_dataset()
    return Source(
        images[..., None],
        probability >= 0.5,
        ("functional", "defective"),
        "ELPV solar cells (Deitsch et al. 2019; Buerhop-Lutz et al. 2018), from elpv-dataset, "
        "licence CC BY-NC-SA 4.0: no commercial use; label 1 where the defect probability >= 0.5",
        strata=np.round(6 * probability).astype(int) + (kind == "poly"),
    )


def _folder(name):
    folders = sorted(p for p in Path(name).iterdir() if p.is_dir() and p.name[0] != ".")
    files = [
        (path, label)
        for label, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    ]
    image_module, image_ops = _import("PIL.Image", "pilot"), _import("PIL.ImageOps", "pilot")
    modes = set()
    for path, _ in files:
        with image_module.open(path) as image:  # reads the header only
            modes.add(image.mode)
            if image.mode[0] in "IF":
                raise ValueError(f"{path} must have 8 bits per channel, got mode {image.mode!r}")
    mode = "L" if modes <= {"1", "L", "LA"} else "RGB"

    def images():
        for path, _ in files:
            with image_module.open(path) as image:
                pixels = np.asarray(image_ops.exif_transpose(image).convert(mode))
            yield pixels[..., None] if mode == "L" else pixels

    return Source(
        images(),
        np.array([label for _, label in files], np.int32),
        tuple(folder.name for folder in folders),
        f"the images under {name}",
    )


def _tensorflow_dataset(name):
    tfds = _import("tensorflow_datasets", "pilot")
    try:
        builder = tfds.builder(name)
    except ValueError as error:
        raise ValueError(
            f"name must be one of {sorted(READERS)}, an existing folder or a TensorFlow Datasets "
            f"name, got {name!r}"
        ) from error
    features, keys = builder.info.features, builder.info.supervised_keys or ()
    wanted = (tfds.features.Image, tfds.features.ClassLabel)
    if len(keys) != 2 or not all(
        isinstance(key, str) and isinstance(features[key], kind)
        for key, kind in zip(keys, wanted, strict=True)
    ):
        raise ValueError(f"name must be an image classification set, got {name!r} with keys {keys}")
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"{name!r} is not prepared in {builder.data_dir}. To download it there, run: python -c "
            f"\"import tensorflow_datasets as t; t.builder('{name}').download_and_prepare()\""
        )
    if "train" not in builder.info.splits:
        raise ValueError(f"name must be a set with a 'train' split, got {name!r}")
    image = features[keys[0]]
    if image.dtype != np.uint8:
        raise ValueError(f"name must be a set of 8-bit images, got {name!r} in {image.dtype}")

    def pairs(split):
        if None in image.shape:
            data = tfds.as_numpy(builder.as_dataset(split=split, as_supervised=True))
            images, labels = zip(*data, strict=True)
            return images, np.array(labels)
        # Batches are several times faster than single images.
        data = tfds.as_numpy(builder.as_dataset(split=split, as_supervised=True, batch_size=500))
        images, labels = zip(*data, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    licence = builder.info.redistribution_info.license or "licence: see there"
    return Source(
        *pairs("train"),
        tuple(features[keys[1]].names),
        f"TensorFlow Datasets {builder.info.full_name}, {builder.info.homepage}, {licence}",
        test=pairs("test") if "test" in builder.info.splits else None,
    )


READERS: dict[str, Callable[[str], Source]] = {"digits": _digits, "elpv": _elpv}


def _reader(name):
    if name in READERS:
        return READERS[name]
    return _folder if os.path.isdir(name) else _tensorflow_dataset


# --- tf.data -------------------------------------------------------------------------------------


def _evaluation_set(split, info, batch_size):
    import tensorflow as tf

    images, labels = _constants(split)

    def batch(index):
        return _standardise(tf.gather(images, index), info), tf.gather(labels, index)

    data = tf.data.Dataset.range(len(split.labels)).batch(batch_size)
    return _prefetched(data.map(batch, tf.data.AUTOTUNE))


def training_batches(split: Split, info: Info, batch_size: int, seed: int) -> Any:
    """The training half of `load`, for a split that is at hand already.

    Args:
        split: raw images and labels, as from `read`.
        info: its description; `info.augmented` decides whether images are flipped and shifted.
        batch_size: images per batch, at least 1; the last batch may be smaller.
        seed: of the order and the augmentation.

    Returns:
        A `tf.data.Dataset` as the first that `load` returns.

    Example:
        >>> train, _, _, info = read("digits", limit=100)
        >>> [len(labels) for _, labels in training_batches(train, info, batch_size=40, seed=0)]
        [40, 40, 5]
    """
    import tensorflow as tf

    images, labels = _constants(split)
    count = len(split.labels)
    with tf.device("CPU:0"):
        # A generator of its own, since a `shuffle(seed=...)` depends on TensorFlow's seed as well.
        generator = tf.random.Generator.from_seed(seed, alg="philox")

    def epoch(_):
        key = generator.uniform_full_int((2,), tf.int32)
        order = tf.random.experimental.stateless_shuffle(tf.range(count), key)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
        return batches.enumerate().map(
            lambda number, index: (tf.random.fold_in(key, number), index)
        )

    # Batch first, then gather and augment a whole batch at once: far cheaper than per image.
    def batch(key, index):
        chosen = tf.gather(images, index)
        if info.augmented:
            chosen, inside = _flip_and_shift(chosen, key)
            return _standardise(chosen, info) * inside, tf.gather(labels, index)
        return _standardise(chosen, info), tf.gather(labels, index)

    data = tf.data.Dataset.range(1).flat_map(epoch)
    data = data.apply(tf.data.experimental.assert_cardinality(-(-count // batch_size)))
    return _prefetched(data.map(batch, tf.data.AUTOTUNE))


def _flip_and_shift(images, key):
    """Raw images flipped and shifted, and 1.0 where a pixel comes from inside its image, else 0.0.

    The standardised images times the latter have a border of zeros, the mean.
    """
    import tensorflow as tf

    height, width, channels = images.shape[1:]
    count = tf.shape(images)[0]
    random = tf.random.stateless_uniform((3, count, 1), key)
    rows = tf.range(height) + _between(random[0], min(SHIFT, height // 2))
    columns = tf.range(width) + _between(random[1], min(SHIFT, width // 2))
    columns = tf.where(random[2] < 0.5, columns, width - 1 - columns)
    inside = tf.logical_and(
        tf.logical_and(rows >= 0, rows < height)[:, :, None],
        tf.logical_and(columns >= 0, columns < width)[:, None, :],
    )
    rows = tf.clip_by_value(rows, 0, height - 1)[:, :, None]
    columns = tf.clip_by_value(columns, 0, width - 1)[:, None, :]
    # One gather of pixels: measured faster than an affine transform or slices per image.
    start = tf.range(count)[:, None, None] * (height * width)
    moved = tf.gather(tf.reshape(images, (-1, channels)), start + rows * width + columns)
    return moved, tf.cast(inside, tf.float32)[..., None]


def _between(uniform, bound):
    """Uniform [0, 1) to whole numbers -bound..bound."""
    import tensorflow as tf

    return tf.cast(tf.floor(uniform * (2 * bound + 1)), tf.int32) - bound


def _constants(split):
    import tensorflow as tf

    # The input pipeline runs on the CPU: constants on a GPU would be copied back for every batch.
    with tf.device("CPU:0"):
        return tf.constant(split.images), tf.constant(split.labels)


def _standardise(images, info):
    import tensorflow as tf

    return (tf.cast(images, tf.float32) - np.float32(info.mean)) / np.float32(info.std)


def _prefetched(data):
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    return data.prefetch(tf.data.AUTOTUNE).with_options(options)


# --- checks --------------------------------------------------------------------------------------


def _import(module, extra):
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is missing. Install it with: pip install "keras-swapout[{extra}]"'
        ) from error


def _check_integer(argument, value, least):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{argument} must be an integer of at least {least}, got {value!r}")


def _check_share(argument, value):
    if not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise ValueError(
            f"{argument} must be a number between 0 and 1, both excluded, got {value!r}"
        )


def _height_width(image_size):
    if image_size is None:
        return None
    size = (image_size, image_size) if isinstance(image_size, numbers.Number) else tuple(image_size)
    if len(size) != 2:
        raise ValueError(f"image_size must be a side or (height, width), got {image_size!r}")
    for side in size:
        _check_integer("image_size", side, 1)
    return size


def _check_labels(labels, classes):
    if len(classes) < 2:
        raise ValueError(f"at least two classes are needed, got {len(classes)}: {classes}")
    if len(labels) == 0:
        raise ValueError(f"no images found for the classes {classes}")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"labels must be 0..{len(classes) - 1}, got {labels.min()}..{labels.max()}"
        )


def _same_size(images, size):
    """All images as one array `(n, height, width, channels)`, resized where `size` says so."""
    if isinstance(images, np.ndarray) and size in (None, images.shape[1:3]):
        return images
    if size is not None:
        images = (_resize(image, size) for image in images)
    images = list(images)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ValueError(
            f"image_size must be given, since the images have {len(shapes)} different sizes, such "
            f"as {sorted(shapes)[:2]}"
        )
    return np.stack(images)


def _resize(image, size):
    if image.shape[:2] == size:
        return image
    pillow = _import("PIL.Image", "pilot")
    channels = [
        # Pillow widens the filter when it shrinks an image, which is what prevents aliasing.
        pillow.fromarray(channel).resize(size[::-1], pillow.Resampling.BILINEAR)
        for channel in np.moveaxis(np.asarray(image), -1, 0)
    ]
    return np.stack(channels, axis=-1)
