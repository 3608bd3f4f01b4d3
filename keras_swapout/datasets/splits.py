"""A source's samples, images resized, split into training, validation and test ones. NumPy."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_swapout.arguments import (
    checked,
    checked_array,
    checked_count,
    checked_flag,
    checked_number,
    is_int,
    refusal,
)
from keras_swapout.datasets import stored
from keras_swapout.datasets.sources import plain, printable, reader, same_size, unusable

LARGEST = 10_000  # pixels of a side
#: What images can be scaled to: (x - mean) / std, 0..1, -1..1, or as they are, 0..255.
SCALES = ("standardise", "unit", "symmetric", "raw")
#: What inputs are: images; numbers, one array (n, ...) of something else; or several arrays. And
#: which of the scales there are for each.
KINDS = {"images": SCALES, "numbers": ("standardise", "raw"), "several": ("raw",)}
#: What labels are: a class for each sample, (n,); classes of which a sample can have several,
#: (n, classes) of 0 and 1; a class for each step or pixel, (n, ...); numbers to predict, (n,) or
#: (n, outputs); or several arrays, one for each output.
TARGETS = ("classes", "labels", "steps", "numbers", "several")


@dataclasses.dataclass(frozen=True)
class Info:
    """What a data set is.

    Attributes:
        name: the name or folder asked for.
        classes: class names; label `i` means `classes[i]`. Empty where `targets` is something else.
        image_shape: `(height, width, channels)`, or the shape of what else an input is; of several
            inputs the structure of their shapes.
        sizes: number of samples in `"train"`, `"validation"` and `"test"`.
        mean, std: per channel, or along the last axis of what else the inputs are, of the training
            split only, of images on the 0..255 scale; empty for several inputs.
        source: where the data comes from and, where it matters, the licence.
        augmented: whether training batches are augmented.
        scale: what `scaled` and the batches are: "standardise", (images - mean) / std; "unit",
            images / 255; "symmetric", images / 127.5 - 1; "raw", as they are, of images 0 .. 255.
        brought: the splits that the source has itself, of "validation" and "test".
        kind: what the inputs are, of `KINDS`.
        targets: what the labels are, of `TARGETS`.
        left_out: of a folder: what lies there and isn't read, counted by class and reason.
        notes: of a folder: images that were read otherwise than one might think, counted.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    sizes: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    augmented: bool = False
    scale: str = "standardise"
    brought: tuple[str, ...] = ()
    kind: str = "images"
    targets: str = "classes"
    left_out: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    notes: dict[str, int] = dataclasses.field(default_factory=dict)

    def standardise(self, images: np.ndarray) -> np.ndarray:
        """`(images - mean) / std` in float32, for raw images `(..., channels)` within 0..255.

        Raises:
            TypeError: `images` is no array. ValueError: another number of channels, NaN, or values
                outside 0..255.
        """
        return dataclasses.replace(self, scale="standardise").scaled(images)

    def scaled(self, images: np.ndarray) -> np.ndarray:
        """Raw images `(..., channels)` within 0..255 in the scale of `scale`, float32.

        Other inputs too: whole numbers that are left as they are stay int32.

        Raises:
            As `standardise`.
        """
        if self.kind == "several":
            return mapped(plain, images)
        images = checked_array(images, "images")
        if self.kind == "numbers":
            numbers = plain(images)
            if self.scale == "raw":
                return numbers
            return (numbers.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)
        if images.ndim == 0 or images.shape[-1] != len(self.mean):
            raise ValueError(
                f"Argument `images` must have {len(self.mean)} channel(s) on the last axis. "
                f"Received: shape {images.shape}"
            )
        # Written so that NaN, which compares false with everything, is refused too.
        if images.size and not (images.min() >= 0 and images.max() <= 255):
            raise ValueError(
                "Argument `images` must be raw values within 0..255. "
                f"Received: {images.min()} .. {images.max()}"
            )
        shift, scale = self.shift_and_scale
        return (images.astype(np.float32) - shift) / scale

    @property
    def shift_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """a and b of (images - a) / b, for each channel."""
        if self.scale == "standardise":
            return np.float32(self.mean), np.float32(self.std)
        shift, scale = {"unit": (0, 255), "symmetric": (127.5, 127.5), "raw": (0, 1)}[self.scale]
        return np.float32(shift), np.float32(scale)


class Split(NamedTuple):
    """Images `(n, height, width, channels)` uint8 and labels `(n,)` int32.

    Or what else `Info.kind` and `Info.targets` say: of several, a dict or tuple of arrays.
    """

    images: Any
    labels: Any


def mapped(function: Callable[[Any], Any], data: Any) -> Any:
    """`function` of an array, or of each array of dicts and tuples.

    As `keras.tree.map_structure`, without Keras: reading data should not take its seconds.
    """
    if isinstance(data, dict):
        return {key: mapped(function, part) for key, part in data.items()}
    if isinstance(data, tuple):
        return tuple(mapped(function, part) for part in data)
    return function(data)


def samples(data: Any, index: Any) -> Any:
    """Some samples of an array (n, ...), or of each array of a structure.

    Example:

    >>> samples({"a": np.arange(3), "b": np.ones((3, 2))}, slice(1, 3))["a"]
    array([1, 2])
    """
    return mapped(lambda array: array[index], data)


def count(data: Any) -> int:
    """How many samples an array or a structure of arrays has.

    Example:

    >>> count({"a": np.ones((3, 2))})
    3
    """
    while isinstance(data, (dict, tuple)):
        data = next(iter(data.values() if isinstance(data, dict) else data))
    return len(data)


class Arrays(NamedTuple):
    """What `read` returns: three `Split`s and an `Info`."""

    train: Split
    validation: Split
    test: Split
    info: Info


def read(
    name: str | os.PathLike,
    *,
    seed: int = 0,
    limit: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    validation: float = 0.15,
    test: float = 0.2,
    skip_unreadable: bool = False,
) -> Arrays:
    """The same images as `load`, raw: uint8, not standardised, augmented or batched.

    Needs no TensorFlow, except to read a TensorFlow Datasets set. The arguments and errors are
    those of `load`; `info.augmented` is the source's default.

    Returns:
        `Arrays(train, validation, test, info)`; each split is a pair of images
        `(n, height, width, channels)`, uint8, and labels `(n,)`, int32. Of a folder whose images
        would take more than 512 MiB they are `keras_swapout.datasets.Rows`: they stay in a file,
        and are read where they are indexed.

    Example:
        >>> arrays = read("digits", limit=100)
        >>> arrays.info.sizes
        {'train': 85, 'validation': 15, 'test': 359}
        >>> arrays.test.images.shape, arrays.test.images.dtype.name
        ((359, 8, 8, 1), 'uint8')
    """
    expected = "the name of a data set or a folder"
    name = checked(
        os.fspath(name) if isinstance(name, os.PathLike) else name, str, "name", expected
    )
    seed = checked_count(seed, "seed", 0)
    if limit is not None:
        limit = checked_count(limit, "limit", also=" or None")
    validation, test = _share(validation, "validation"), _share(test, "test")
    size = _height_width(image_size)
    skip_unreadable = checked_flag(skip_unreadable, "skip_unreadable")

    source = reader(name, size, skip_unreadable)(name)
    if source.kind != "images" and size is not None:
        raise refusal(ValueError, "image_size", "None, as the data are no images", image_size)
    try:
        return _divided(source, name, seed, limit, size, validation, test)
    except _TooFewError:
        if source.kind == "images":
            raise
    # Whole numbers of which not every split can have some, such as counts: the network tells.
    source = source._replace(targets="numbers", classes=())
    return _divided(source, name, seed, limit, size, validation, test)


class _TooFewError(ValueError):
    """A class is missing in a split."""


def _divided(source, name, seed, limit, size, validation, test):
    classes = source.classes
    labels = mapped(np.asarray, source.labels)
    if source.targets == "classes":
        labels = labels.astype(np.int32)
        _check_labels(labels, classes, name)
    total = count(labels)
    # What else there is to predict has no groups that each split should have its share of.
    groups = labels if source.targets == "classes" else np.zeros(total, np.int32)
    strata = groups if source.strata is None else source.strata
    images = source.images if source.kind != "images" else same_size(source.images, size)

    def split(index):
        chosen = mapped(lambda array: stored.part(array, index), images)
        return Split(chosen, samples(labels, index))

    # One generator per decision: the test images are the same whatever the limit.
    rng_test, rng_limit, rng_validation = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)
    )
    keep = np.arange(total)
    if source.test is None:
        chosen, keep = _take(keep, groups, strata, round(test * len(keep)), rng_test)
        held_out = split(chosen)
    else:
        held_out = _brought(source.test, images, source, name)
    if limit is not None:
        if limit > len(keep):
            expected = f"at most {len(keep)}, the training and validation images of {name!r}"
            raise refusal(ValueError, "limit", expected, limit)
        keep, _ = _take(keep, groups, strata, limit, rng_limit)
    if source.validation is None:
        held_back, keep = _take(keep, groups, strata, round(validation * len(keep)), rng_validation)
        looked_at = split(held_back)
    else:
        looked_at = _brought(source.validation, images, source, name)

    splits = {"train": split(keep), "validation": looked_at, "test": held_out}
    theirs = {"validation": source.validation, "test": source.test}
    for part in (x for x in splits if theirs.get(x) is None):
        present = splits[part].labels
        if not count(present):
            raise unusable(name, f"{total} samples are too few: none is left for the {part} split")
        for label in np.setdiff1d(np.arange(len(classes)), present):
            kept = sum(int(np.sum(other.labels == label)) for other in splits.values())
            why = (
                f"class {classes[label]!r} has too few images for a stratified split: "
                f"{kept} in all, none in the {part} split"
            )
            if limit is None:
                raise _TooFewError(str(unusable(name, why)))
            raise refusal(_TooFewError, "limit", f"large enough for each class: {why}", limit)
    mean, std = _statistics(splits["train"].images, source.kind, name)
    info = Info(
        name=printable(name),
        classes=classes,
        image_shape=_shape_of_one(images),
        sizes={part: count(found.labels) for part, found in splits.items()},
        mean=mean,
        std=std,
        source=source.source,
        augmented=source.augment,
        scale=_first_scale(source.kind, images),
        brought=tuple(part for part, pair in theirs.items() if pair is not None),
        kind=source.kind,
        targets=source.targets,
        left_out=dict(source.left_out),
        notes=dict(source.notes),
    )
    return Arrays(**splits, info=info)


def _brought(pair, images, source, name):
    """A split that the source has, in the size of the training images."""
    labels = mapped(np.asarray, pair[1])
    if source.targets == "classes":
        labels = labels.astype(np.int32)
        _check_labels(labels, source.classes, name)
    inputs = pair[0]
    if source.kind == "images":
        inputs = same_size(inputs, images.shape[1:3])
    inputs = mapped(lambda array: stored.part(array, slice(None)), inputs)
    split, wanted = Split(inputs, labels), _shape_of_one(images)
    if _shape_of_one(split.images) != wanted:
        raise unusable(
            name, f"its splits differ in shape: {wanted} and {_shape_of_one(split.images)}"
        )
    return split


def _first_scale(kind, data):
    """What is scaled where nobody says: images and floats. Whole numbers may be tokens."""
    whole = kind == "several" or (kind == "numbers" and data.dtype.kind != "f")
    return "raw" if whole else "standardise"


def _shape_of_one(data):
    if isinstance(data, dict):
        return {key: _shape_of_one(part) for key, part in data.items()}
    if isinstance(data, tuple):
        return tuple(map(_shape_of_one, data))
    return tuple(data.shape[1:])


def stratified(labels: np.ndarray, size: int) -> np.ndarray:
    """Indices of `size` samples that keep the shares of the classes, always the same ones.

    Args:
        labels: (n,), ints.
        size: how many, an int >= 0; all where there are fewer.

    Returns:
        Sorted indices, (min(size, n),).

    Raises:
        TypeError: an argument has the wrong type. ValueError: `labels` is no row, or `size` is
            below 0.

    Example:

    >>> labels = np.array([0, 1] * 10)
    >>> np.bincount(labels[stratified(labels, 6)]).tolist()
    [3, 3]
    """
    labels = checked_array(labels, "labels", "ints (n,)")
    if labels.ndim != 1:
        raise ValueError(f"Argument `labels` must be ints (n,). Received: shape {labels.shape}")
    count = len(labels)
    size = min(checked_count(size, "size", 0), count)
    shuffled = np.random.default_rng(0).permutation(count)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Every (n / size)-th of the samples sorted by class.
    return np.sort(by_class[np.arange(size) * count // size])


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


def _statistics(images, kind, name):
    if kind == "several":
        return (), ()
    # Sums of whole numbers, exact in float64; in pieces, to spare memory.
    channels = images.shape[-1]
    # By columns of images, as rows no longer than the channels take 8 times as long.
    columns = images.shape[-2] if images.ndim > 2 else 1
    total, squares = np.zeros((2, columns * channels))
    # Numbers may be far from 0, where squares hide what they differ by.
    shift = images[0].reshape(-1, channels)[0].astype(np.float64) * (kind == "numbers")
    for piece in stored.pieces(images, 2**19):
        pixels = piece.reshape(-1, columns * channels).astype(np.float64)
        pixels -= np.tile(shift, columns)
        total += pixels.sum(axis=0)
        squares += np.einsum("pc,pc->c", pixels, pixels)
    total, squares = (x.reshape(-1, channels).sum(axis=0) for x in (total, squares))
    number = images.size // channels
    mean = total / number
    std = np.sqrt(np.maximum(squares / number - mean**2, 0))
    constant = ~(std > 0)
    if constant.any() and kind == "images":
        raise unusable(name, "the training images are constant in some channel")
    if constant.any():
        warnings.warn(
            f"{printable(name)}: {constant.sum()} of the {len(std)} numbers of an input are the "
            "same in all training samples",
            stacklevel=4,
        )
        std[constant] = 1
    return tuple((mean + shift).tolist()), tuple(std.tolist())


def _check_labels(labels, classes, name):
    if len(classes) < 2:
        raise unusable(name, f"at least two classes are needed, got {len(classes)}: {classes}")
    if len(labels) == 0:
        raise unusable(name, f"no images found for the classes {classes}")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise unusable(
            name, f"labels must be 0..{len(classes) - 1}, got {labels.min()}..{labels.max()}"
        )


def _share(value, name):
    return checked_number(value, lambda share: 0 < share < 1, name, "a number in (0, 1)")


def _height_width(image_size):
    if image_size is None:
        return None
    several = isinstance(image_size, (tuple, list))
    size = tuple(image_size) if several else (image_size, image_size)
    expected = f"None, a side or (height, width), ints in [1, {LARGEST}]"
    if not all(map(is_int, size)):
        raise refusal(TypeError, "image_size", expected, image_size)
    if len(size) != 2 or not all(1 <= side <= LARGEST for side in size):
        raise refusal(ValueError, "image_size", expected, image_size)
    return size
