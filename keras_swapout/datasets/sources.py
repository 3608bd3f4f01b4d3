"""Where images come from: digits, elpv, TensorFlow Datasets, a folder of photographs.

To add a source, write a function `(name) -> Source` and enter it in `READERS`.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from keras_swapout.arguments import refusal
from keras_swapout.datasets.stored import Rows


class Source(NamedTuple):
    """What a reader hands over, before anything is resized or split.

    `images` yields uint8 arrays `(height, width, channels)`, or where `kind` says so it is an array
    of something else, or a structure of arrays. Where the source has its own test
    split, `test` holds its `(images, labels)`, and `validation` likewise. `strata` are finer groups
    than the labels, to be balanced over the splits as well. `left_out` counts files that aren't
    among them by class and reason, and `notes` images that are read otherwise than one might think;
    the latter is complete once all images are. `files` are the paths of the images of all splits,
    those of training first, then of validation and of test; none where they are no files.
    """

    images: Iterable[np.ndarray]
    labels: np.ndarray
    classes: tuple[str, ...]
    source: str
    test: tuple[Iterable[np.ndarray], np.ndarray] | None = None
    strata: np.ndarray | None = None
    augment: bool = True
    left_out: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    notes: Mapping[str, int] = MappingProxyType({})
    validation: tuple[Iterable[np.ndarray], np.ndarray] | None = None
    kind: str = "images"
    targets: str = "classes"
    files: tuple[Path, ...] = ()


def _digits(name):
    datasets = imported("sklearn.datasets", "pilot")
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
    images, probability, kind = imported("elpv_dataset.utils", "elpv").load_dataset()
    return Source(
        images[..., None],
        probability >= 0.5,
        ("functional", "defective"),
        "ELPV solar cells (Deitsch et al. 2019; Buerhop-Lutz et al. 2018), from elpv-dataset, "
        "licence CC BY-NC-SA 4.0: no commercial use; label 1 where the defect probability >= 0.5",
        strata=np.round(6 * probability).astype(int) + (kind == "poly"),
    )


def _folder(name, size, skip_unreadable):
    imported("PIL.Image", "pilot")
    from keras_swapout.datasets import photographs  # here: it is made of Pillow

    return photographs.folder(name, size, skip_unreadable)


def _arrays(name):
    from keras_swapout.datasets import arrays

    return arrays.from_file(name) if name.endswith(".npz") else arrays.from_function(name)


def _tensorflow_dataset(name):
    tfds = imported("tensorflow_datasets", "pilot")
    try:
        builder = tfds.builder(name)
    except ValueError as error:
        expected = (
            f"one of {sorted(READERS)}, an existing folder, an .npz file, module:function, or the "
            "name of a TensorFlow Datasets set"
        )
        raise refusal(ValueError, "name", expected, name) from error
    features, keys = builder.info.features, builder.info.supervised_keys or ()
    wanted = (tfds.features.Image, tfds.features.ClassLabel)
    if len(keys) != 2 or not all(
        isinstance(key, str) and isinstance(features[key], kind)
        for key, kind in zip(keys, wanted, strict=True)
    ):
        expected = f"an image classification set, and its keys are {keys}"
        raise refusal(ValueError, "name", expected, name)
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"{name!r} is not prepared in {builder.data_dir}. To download it there, run: python -c "
            f"\"import tensorflow_datasets as t; t.builder('{name}').download_and_prepare()\""
        )
    if "train" not in builder.info.splits:
        raise refusal(ValueError, "name", "a set with a 'train' split", name)
    image = features[keys[0]]
    if image.dtype != np.uint8:
        raise unusable(name, f"its images are {image.dtype}, not uint8")

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


def reader(
    name: str, size: tuple[int, int] | None, skip_unreadable: bool = False
) -> Callable[[str], Source]:
    """What reads the set or the folder of this name, to be resized to `size`."""
    if name in READERS:
        return READERS[name]
    if os.path.isdir(name):
        return functools.partial(_folder, size=size, skip_unreadable=skip_unreadable)
    return _tensorflow_dataset if named(name) else _arrays


def named(name: str) -> bool:
    """Whether a set is known by its name, and is no folder, file or function of the user's."""
    # What follows the colon of a TensorFlow Datasets name is a version.
    function = re.fullmatch(r"[\w.]+:[A-Za-z_]\w*", name)
    return name in READERS or not (os.path.isdir(name) or name.endswith(".npz") or function)


def same_size(images: Iterable[np.ndarray], size: tuple[int, int] | None) -> np.ndarray:
    """All images as one array `(n, height, width, channels)`, resized where `size` says so."""
    if isinstance(images, (np.ndarray, Rows)) and size in (None, images.shape[1:3]):
        return images
    if size is not None:
        images = (_resize(image, size) for image in images)
    images = list(images)
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise several_sizes(shapes)
    return np.stack(images)


def _resize(image, size):
    if image.shape[:2] == size:
        return image
    pillow = imported("PIL.Image", "pilot")
    channels = [
        # Pillow widens the filter when it shrinks an image, which is what prevents aliasing.
        pillow.fromarray(channel).resize(size[::-1], pillow.Resampling.BILINEAR)
        for channel in np.moveaxis(np.asarray(image), -1, 0)
    ]
    return np.stack(channels, axis=-1)


def several_sizes(shapes: Iterable[tuple[int, ...]]) -> ValueError:
    """The error for images that are no array unless they are resized."""
    shapes = sorted(shapes)
    return ValueError(
        f"Argument `image_size` must be given, since the images have {len(shapes)} different "
        f"sizes, such as {shapes[:2]}. Received: image_size=None"
    )


def plain(array: np.ndarray) -> np.ndarray:
    """Numbers as networks take them: float32, or int32 where they are whole by their type."""
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)


def printable(name: str | os.PathLike) -> str:
    """A file's name as text: bytes that are no UTF-8 as escapes, since nothing could write them."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def unusable(name: str, why: str) -> ValueError:
    """The error for a set that can be read, but not worked with."""
    return ValueError(f"Argument `name` can't be used: {why}. Received: name={name!r}")


def theirs(module: str) -> ModuleType:
    """A module of the user's, of the current folder too, as with `python -m`."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the command's own folder is searched, not the current one
    return importlib.import_module(module)


def called(function: Callable[[], Any], argument: str, name: str) -> Any:
    """What a function of the user's returns.

    Raises:
        ValueError: it raises something, which the message has, with the line.
    """
    try:
        return function()
    except Exception as error:
        inside = traceback.extract_tb(error.__traceback__)[1:]
        where = f" ({inside[-1].filename}, line {inside[-1].lineno})" if inside else ""
        raise ValueError(
            f"Argument `{argument}`: {name} must run without arguments. It raised "
            f"{type(error).__name__}: {error}{where}"
        ) from error


def imported(module: str, extra: str) -> ModuleType:
    """The module, or an ImportError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is missing. Install it with: pip install "keras-swapout[{extra}]"'
        ) from error
