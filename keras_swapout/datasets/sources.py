"""Where images come from: digits, elpv, TensorFlow Datasets, a folder of photographs.

To add a source, write a function `(name) -> Source` and enter it in `READERS`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


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


def _folder(name):
    folders = sorted(p for p in Path(name).iterdir() if p.is_dir() and p.name[0] != ".")
    files = [
        (path, label)
        for label, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    ]
    image_module, image_ops = imported("PIL.Image", "pilot"), imported("PIL.ImageOps", "pilot")
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
    tfds = imported("tensorflow_datasets", "pilot")
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


def reader(name):
    if name in READERS:
        return READERS[name]
    return _folder if os.path.isdir(name) else _tensorflow_dataset


def same_size(images, size):
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
    pillow = imported("PIL.Image", "pilot")
    channels = [
        # Pillow widens the filter when it shrinks an image, which is what prevents aliasing.
        pillow.fromarray(channel).resize(size[::-1], pillow.Resampling.BILINEAR)
        for channel in np.moveaxis(np.asarray(image), -1, 0)
    ]
    return np.stack(channels, axis=-1)


def imported(module, extra):

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is missing. Install it with: pip install "keras-swapout[{extra}]"'
        ) from error
