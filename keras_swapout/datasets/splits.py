"""A source's images, resized and split into training, validation and test images. NumPy."""

from __future__ import annotations

import dataclasses
import os
from typing import NamedTuple

import numpy as np

from keras_swapout.arguments import (
    checked,
    checked_array,
    checked_count,
    checked_number,
    is_int,
    refusal,
)
from keras_swapout.datasets.sources import printable, reader, same_size, unusable

LARGEST = 10_000  # pixels of a side
#: What images can be scaled to: (x - mean) / std, 0..1, -1..1, or as they are, 0..255.
SCALES = ("standardise", "unit", "symmetric", "raw")


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
        scale: what `scaled` and the batches are: "standardise", (images - mean) / std; "unit",
            images / 255; "symmetric", images / 127.5 - 1; "raw", 0 .. 255.
        brought: the splits that the source has itself, of "validation" and "test".
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

        Raises:
            As `standardise`.
        """
        images = checked_array(images, "images")
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
    """Images `(n, height, width, channels)` uint8 and labels `(n,)` int32."""

    images: np.ndarray
    labels: np.ndarray


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
    expected = "the name of a data set or a folder"
    name = checked(
        os.fspath(name) if isinstance(name, os.PathLike) else name, str, "name", expected
    )
    seed = checked_count(seed, "seed", 0)
    if limit is not None:
        limit = checked_count(limit, "limit", also=" or None")
    validation, test = _share(validation, "validation"), _share(test, "test")
    size = _height_width(image_size)

    source = reader(name, size)(name)
    labels = np.asarray(source.labels, np.int32)
    strata = labels if source.strata is None else source.strata
    _check_labels(labels, source.classes, name)
    images = same_size(source.images, size)

    # One generator per decision: the test images are the same whatever the limit.
    rng_test, rng_limit, rng_validation = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)
    )
    keep = np.arange(len(labels))
    if source.test is None:
        chosen, keep = _take(keep, labels, strata, round(test * len(keep)), rng_test)
        held_out = Split(images[chosen], labels[chosen])
    else:
        held_out = _brought(source.test, images, source.classes, name)
    if limit is not None:
        if limit > len(keep):
            expected = f"at most {len(keep)}, the training and validation images of {name!r}"
            raise refusal(ValueError, "limit", expected, limit)
        keep, _ = _take(keep, labels, strata, limit, rng_limit)
    if source.validation is None:
        held_back, keep = _take(keep, labels, strata, round(validation * len(keep)), rng_validation)
        looked_at = Split(images[held_back], labels[held_back])
    else:
        looked_at = _brought(source.validation, images, source.classes, name)

    splits = {"train": Split(images[keep], labels[keep]), "validation": looked_at, "test": held_out}
    theirs = {"validation": source.validation, "test": source.test}
    for split in (x for x in splits if theirs.get(x) is None):
        present = splits[split].labels
        for label in np.setdiff1d(np.arange(len(source.classes)), present):
            kept = sum(int(np.sum(part.labels == label)) for part in splits.values())
            why = (
                f"class {source.classes[label]!r} has too few images for a stratified split: "
                f"{kept} in all, none in the {split} split"
            )
            if limit is None:
                raise unusable(name, why)
            raise refusal(ValueError, "limit", f"large enough for each class: {why}", limit)
    mean, std = _statistics(splits["train"].images)
    if not all(value > 0 for value in std):
        raise unusable(name, "the training images are constant in some channel")
    info = Info(
        name=printable(name),
        classes=source.classes,
        image_shape=images.shape[1:],
        sizes={split: len(part.labels) for split, part in splits.items()},
        mean=mean,
        std=std,
        source=source.source,
        augmented=source.augment,
        brought=tuple(split for split, pair in theirs.items() if pair is not None),
        left_out=dict(source.left_out),
        notes=dict(source.notes),
    )
    return Arrays(**splits, info=info)


def _brought(pair, images, classes, name):
    """A split that the source has, in the size of the training images."""
    labels = np.asarray(pair[1], np.int32)
    _check_labels(labels, classes, name)
    split = Split(same_size(pair[0], images.shape[1:3]), labels)
    if split.images.shape[1:] != images.shape[1:]:
        raise unusable(
            name,
            f"its splits differ in shape: {images.shape[1:]} and {split.images.shape[1:]}",
        )
    return split


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
    return tuple(mean.tolist()), tuple(std.tolist())


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
