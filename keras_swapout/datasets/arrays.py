"""Images that somebody has as arrays: an .npz file, or a function that returns them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_swapout.datasets.sources import Source, printable, theirs, unusable

_SPLITS = ("train", "val", "test")
_ALSO = {"val": ("val", "valid", "validation")}
_KEYS = "x and y, or x_train and y_train (and x_val, y_val, x_test, y_test)"
_RETURNS = (
    "(train, validation, test), each a pair (images, labels) or a tf.data.Dataset of such pairs; "
    "validation and test may be None"
)


def from_file(name: str) -> Source:
    """The images of an .npz file, which `numpy.savez` writes. No object in it is unpickled.

    Raises:
        ValueError: it is none, or does not hold what is needed.
    """
    try:
        with np.load(name, allow_pickle=False) as file:
            held = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise unusable(name, f"it is no .npz file of plain arrays ({error})") from error
    classes = held.pop("classes", None)
    if "x" in held:
        splits = {"train": _pair(name, held, "x", "y")}
    else:
        splits = {}
        for split in _SPLITS:
            for ending in _ALSO.get(split, (split,)):
                if f"x_{ending}" in held:
                    splits[split] = _pair(name, held, f"x_{ending}", f"y_{ending}")
        if "train" not in splits:
            raise unusable(name, f"it must hold {_KEYS}, and holds {sorted(held)}")
    return _source(name, splits, classes, f"the arrays of {printable(Path(name).name)}")


def from_function(name: str) -> Source:
    """The images that `module:function` returns; the current folder is importable.

    Raises:
        ValueError: there is no such function, or it returns something else.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(theirs(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise unusable(
            name, f"there is no such function in {os.getcwd()} or installed ({error})"
        ) from error
    splits = found()
    if not isinstance(splits, (tuple, list)) or len(splits) != 3 or splits[0] is None:
        raise unusable(name, f"it must return {_RETURNS}; it returned a {type(splits).__name__}")
    pairs = {
        split: _collected(name, data)
        for split, data in zip(_SPLITS, splits, strict=True)
        if data is not None
    }
    return _source(name, pairs, None, f"what {name} returns")


def _pair(name, held, x, y):
    if y not in held:
        raise unusable(name, f"it holds {x!r} and no {y!r}")
    return held[x], held[y]


def _collected(name, data) -> tuple[Any, Any]:
    """(images, labels) of a pair, or of a tf.data.Dataset in batches or not."""
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return np.asarray(data[0]), np.asarray(data[1])
    spec = getattr(data, "element_spec", None)
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise unusable(name, f"it must return {_RETURNS}; one of them is a {type(data).__name__}")
    pairs = [tuple(np.asarray(part) for part in pair) for pair in data.as_numpy_iterator()]
    if not pairs:
        return np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int32)
    join = np.concatenate if len(spec[0].shape) == 4 else np.stack
    return tuple(join(parts) for parts in zip(*pairs, strict=True))


def _source(name, splits, classes, source):
    pairs = {split: _checked(name, split, *pair) for split, pair in splits.items()}
    highest = max((int(labels.max()) for _, labels in pairs.values() if labels.size), default=0)
    if classes is None:
        classes = [str(label) for label in range(highest + 1)]
    return Source(
        *pairs["train"],
        tuple(map(str, classes)),
        source,
        test=pairs.get("test"),
        validation=pairs.get("val"),
    )


def _checked(name, split, images, labels):
    """uint8 images (n, height, width, channels) and labels (n,)."""
    if images.ndim == 3:
        images = images[..., None]  # grey
    if images.ndim != 4:
        raise unusable(
            name, f"the {split} images must be (n, height, width, channels), not {images.shape}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    elif labels.ndim == 2 and ((labels == 0) | (labels == 1)).all():  # one-hot
        if not (labels.sum(axis=1) == 1).all():
            raise unusable(name, f"some of the one-hot {split} labels name none or several classes")
        labels = labels.argmax(axis=1)
    whole = labels.ndim == 1 and labels.dtype.kind in "iufb" and (labels == np.floor(labels)).all()
    if not whole or (labels.size and labels.min() < 0):
        raise unusable(
            name, f"the {split} labels must be (n,) ints >= 0, not {labels.dtype} {labels.shape}"
        )
    if len(images) != len(labels) or not len(images):
        raise unusable(name, f"the {split} split has {len(images)} images and {len(labels)} labels")
    return _bytes(name, split, images), labels.astype(np.int32)


def _bytes(name, split, images):
    """Images as uint8: of whole numbers in 0..255, or of a scale of 0..1."""
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iufb":
        raise unusable(name, f"the {split} images must be numbers, not {images.dtype}")
    if not np.isfinite(images).all():
        raise unusable(name, f"the {split} images hold NaN or infinity")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        raise unusable(
            name,
            f"the {split} images must be within 0..255, or 0..1, and are {low:g}..{high:g}",
        )
    factor = 255 if high <= 1 and images.dtype.kind == "f" else 1
    return np.round(images * factor).astype(np.uint8)
