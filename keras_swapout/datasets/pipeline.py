"""Splits as `tf.data`: standardised batches, the training ones shuffled and augmented."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from keras_swapout.arguments import FLAG, checked, checked_count
from keras_swapout.datasets.sources import imported
from keras_swapout.datasets.splits import Info, Split, count, read
from keras_swapout.datasets.stored import Rows

LARGEST = 2**31 - 1  # images of a batch: TensorFlow counts them
SHIFT = 4  # pixels, the Swapout paper's translation


class Data(NamedTuple):
    """What `load` returns: three `tf.data.Dataset`s of (image, label) batches and an `Info`."""

    train: Any
    validation: Any
    test: Any
    info: Info


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
    skip_unreadable: bool = False,
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

    In a folder, the images of a class are all that Pillow reads by their endings, in its sub-folder
    and the folders within, sorted by path; a file without an ending is one if its content is. The
    rest is left out, with a warning; `info.left_out` counts it by class and reason. If all images
    are grey they have one channel, otherwise three. They are turned as EXIF says. The first of
    several frames is read, 16 bits are scaled to 8 (`v / 257`; of colours, the high byte), and
    transparency is ignored; `info.notes` counts those. A JPEG of more than 2**25 pixels that is to
    be resized is decoded at a reduced size, at least 8 times the larger side: a pixel may differ
    by some levels of 255 from one of the whole image.

    Several threads decode. Images of a folder that would take more than 512 MiB are decoded once,
    into a file in `$KERAS_SWAPOUT_CACHE`, else in `keras-swapout` in the user's cache folder, and
    batches are read from there. A warning says which file; it may be deleted when nothing uses it,
    and is made anew where files of the folder have changed.

    Args:
        name: `"digits"`, `"elpv"`, a TensorFlow Datasets name such as `"cifar10"` (prepared
            beforehand: nothing is downloaded); a folder with one sub-folder per class, or with
            one for each split ("train" and "val", "test" or both) that has those; an .npz file with
            `x` and `y`, or `x_train`, `y_train`, `x_val`, ...; or "module:function", which returns
            (train, validation, test), each a pair (inputs, labels) or a `tf.data.Dataset` of such
            pairs, or None. Images are (n, height, width, channels) within 0..255 or 0..1, or uint8
            (n, height, width); other inputs are arrays (n, ...) of numbers, or dicts or tuples of
            them, which are not augmented. Labels are classes, (n,) ints or one-hot; (n, classes) of
            0 and 1 with several classes for a sample; (n, ...) ints, one for each step; floats to
            predict; or several arrays, one for each output.
        batch_size: images per batch, at least 1.
        seed: an int >= 0, for the split, the order and the augmentation.
        limit: keep this many images of training and validation together, stratified. The test
            set stays whole, so that results under different limits are comparable.
        image_size: side, or `(height, width)`, to resize to, ints in [1, 10000]. None keeps the
            source's size.
        augment: None means the source's default: on, except for `"digits"`.
        validation: share, in (0, 1), of the images that are not test images; unused where the
            source has its own validation split.
        test: share, in (0, 1), of all images; unused where the source has its own test split.
        skip_unreadable: of a folder: False makes images that can't be read an error that names
            them. True leaves them out: a warning names the first, `info.left_out` counts them.

    Returns:
        `Data(train, validation, test, info)`.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range, an unknown name,
            unusable images (one of a folder that can't be read, larger than Pillow's limit or of
            floats: with its path; splits with different classes), or a class with too few images
            to appear in every split.
        FileNotFoundError: a TensorFlow Datasets set that has not been prepared; the message has
            the command.
        OSError: a folder's images don't fit into memory nor onto the disk.
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
    batch_size = checked_count(batch_size, "batch_size", most=LARGEST)
    if augment is not None:
        augment = checked(augment, FLAG, "augment", "True, False or None")
    imported("tensorflow", "tensorflow")
    arrays = read(
        name,
        seed=seed,
        limit=limit,
        image_size=image_size,
        validation=validation,
        test=test,
        skip_unreadable=skip_unreadable,
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


def _evaluation_set(split, info, batch_size):
    import tensorflow as tf

    images, labels = _constants(split)

    def batch(index):
        return _scaled(_gathered(images, index), info), _gathered(labels, index)

    data = tf.data.Dataset.range(count(split.labels)).batch(batch_size)
    return _prefetched(data.map(batch, tf.data.AUTOTUNE))


def training_batches(split: Split, info: Info, batch_size: int, seed: int) -> Any:
    """The training half of `load`, for a split that is at hand already.

    Args:
        split: raw images and labels, as from `read`.
        info: its description; `info.augmented` decides whether images are flipped and shifted.
        batch_size: images per batch, an int >= 1; the last batch may be smaller.
        seed: of the order and the augmentation, an int >= 0.

    Returns:
        A `tf.data.Dataset` as the first that `load` returns.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range.

    Example:
        >>> train, _, _, info = read("digits", limit=100)
        >>> [len(labels) for _, labels in training_batches(train, info, batch_size=40, seed=0)]
        [40, 40, 5]
    """
    checked(split, Split, "split", "a keras_swapout.datasets.Split")
    checked(info, Info, "info", "a keras_swapout.datasets.Info")
    batch_size = checked_count(batch_size, "batch_size", most=LARGEST)
    seed = checked_count(seed, "seed", 0)
    import tensorflow as tf

    images, labels = _constants(split)
    number = count(split.labels)
    with tf.device("CPU:0"):
        # A generator of its own, since a `shuffle(seed=...)` depends on TensorFlow's seed as well.
        generator = tf.random.Generator.from_seed(seed, alg="philox")

    def epoch(_):
        key = generator.uniform_full_int((2,), tf.int32)
        order = tf.random.experimental.stateless_shuffle(tf.range(number), key)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
        return batches.enumerate().map(
            lambda number, index: (tf.random.fold_in(key, number), index)
        )

    # Batch first, then gather and augment a whole batch at once: far cheaper than per image.
    def batch(key, index):
        chosen = _gathered(images, index)
        if info.augmented:
            chosen = _flip_and_shift(chosen, key, np.float32(info.mean))
        return _scaled(chosen, info), _gathered(labels, index)

    data = tf.data.Dataset.range(1).flat_map(epoch)
    data = data.apply(tf.data.experimental.assert_cardinality(-(-number // batch_size)))
    return _prefetched(data.map(batch, tf.data.AUTOTUNE))


def _flip_and_shift(images, key, mean):
    """Raw images flipped and shifted, float32, with the mean where no pixel of the image is."""
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
    return tf.where(inside[..., None], tf.cast(moved, tf.float32), mean)


def _between(uniform, bound):
    """Uniform [0, 1) to whole numbers -bound..bound."""
    import tensorflow as tf

    return tf.cast(tf.floor(uniform * (2 * bound + 1)), tf.int32) - bound


def _constants(split):
    import tensorflow as tf

    # The input pipeline runs on the CPU: constants on a GPU would be copied back for every batch.
    with tf.device("CPU:0"):
        return tf.nest.map_structure(
            lambda array: array if isinstance(array, Rows) else tf.constant(array),
            (split.images, split.labels),
        )


def _gathered(data, index):
    import tensorflow as tf

    def gathered(array):
        if not isinstance(array, Rows):
            return tf.gather(array, index)
        found = tf.numpy_function(array.__getitem__, [index], array.dtype, stateful=False)
        return tf.ensure_shape(found, (None, *array.shape[1:]))

    return tf.nest.map_structure(gathered, data)


def _scaled(images, info):
    import tensorflow as tf

    if info.kind != "images":
        images = tf.nest.map_structure(
            lambda x: tf.cast(x, tf.float32 if x.dtype.is_floating else tf.int32), images
        )
    if info.kind == "several" or (info.kind == "numbers" and info.scale == "raw"):
        return images
    shift, scale = info.shift_and_scale
    return (tf.cast(images, tf.float32) - shift) / scale


def _prefetched(data):
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    return data.prefetch(tf.data.AUTOTUNE).with_options(options)
