"""What somebody has as arrays: images, tables, sequences, tokens, dicts of these.

From an .npz file or a function that returns them.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from keras import tree

from keras_swapout.datasets.sources import Source, called, plain, printable, theirs, unusable

_SPLITS = ("train", "val", "test")
_ALSO = {"val": ("val", "valid", "validation")}
_KEYS = "x and y, or x_train and y_train (and x_val, y_val, x_test, y_test)"
_RETURNS = (
    "(train, validation, test), each a pair (inputs, labels) or a tf.data.Dataset of such pairs; "
    "validation and test may be None"
)


def from_file(name: str) -> Source:
    """The arrays of an .npz file, which `numpy.savez` writes. No object in it is unpickled.

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
    """What `module:function` returns; the current folder is importable.

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
    splits = called(found, "name", name)
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
    """(inputs, labels) of a pair, or of a tf.data.Dataset in batches or not."""
    if isinstance(data, (tuple, list)) and len(data) == 2:
        inputs, labels = data
        return _arrays(inputs, labels), _arrays(labels, inputs)
    spec = getattr(data, "element_spec", None)
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise unusable(name, f"it must return {_RETURNS}; one of them is a {type(data).__name__}")
    pairs = list(data.as_numpy_iterator())
    if not pairs:
        raise unusable(name, "one of the data sets that it returns is empty")
    join = np.stack if _single(spec) else np.concatenate
    return tree.map_structure(lambda *parts: join(parts), *pairs)


def _single(spec):
    """Whether a data set is of samples, not of batches, whose parts all begin with one axis."""
    parts = tree.flatten(spec)
    if any(not part.shape.rank for part in parts) or len({p.shape[0] for p in parts}) > 1:
        return True
    inputs = tree.flatten(spec[0])
    return len(inputs) == 1 and inputs[0].dtype == "uint8" and inputs[0].shape.rank == 3


def _arrays(part, other):
    """Inputs or labels, in their structure, as arrays; `other` are the labels or inputs."""
    if isinstance(part, list) and all(isinstance(x, np.ndarray) and x.ndim for x in part):
        # One array for each input or output, or for each sample?
        first = tree.flatten(other)[:1]
        if {len(x) for x in part} == {np.size(x, 0) for x in first if np.ndim(x)} != {len(part)}:
            part = tuple(part)
    if isinstance(part, (dict, tuple)):
        return tree.map_structure(_array, part)
    return _array(part)


def _array(values):
    return values if isinstance(values, np.memmap) else np.asarray(values)  # it stays in its file


def _source(name, splits, classes, source):
    for split, (x, y) in splits.items():
        counts = [len(part) if part.ndim else 0 for part in tree.flatten((x, y))]
        if len(set(counts)) > 1 or not counts[0]:
            raise unusable(
                name,
                f"the {split} split has {counts[0]} samples and {counts[-1]} labels"
                if len(counts) == 2
                else f"the {split} split has arrays of {counts} samples",
            )
    kind, inputs = _inputs(name, {split: x for split, (x, _) in splits.items()})
    targets, labels = _labels(name, {split: y for split, (_, y) in splits.items()})
    if targets == "classes" and classes is None:
        highest = max(int(y.max()) for y in labels.values())
        classes = [str(label) for label in range(highest + 1)]
    pairs = {split: (inputs[split], labels[split]) for split in splits}
    return Source(
        *pairs["train"],
        tuple(map(str, classes)) if targets == "classes" else (),
        source,
        test=pairs.get("test"),
        validation=pairs.get("val"),
        augment=kind == "images",
        kind=kind,
        targets=targets,
    )


def _inputs(name, splits) -> tuple[str, dict[str, Any]]:
    """What the inputs are, of `keras_swapout.datasets.splits.KINDS`, and the inputs of each split.

    Images are uint8 (n, height, width[, channels]), or numbers (n, height, width, channels) within
    0..255.
    """
    for split, x in splits.items():
        for part in tree.flatten(x):
            if part.dtype.kind not in "iufb":
                raise unusable(name, f"the {split} inputs must be numbers, not {part.dtype}")
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                wrong = int((~np.isfinite(part)).reshape(len(part), -1).any(axis=1).sum())
                raise unusable(name, f"{wrong} of {len(part)} {split} inputs hold NaN or infinity")
    if not all(isinstance(x, np.ndarray) for x in splits.values()):
        return "several", splits
    first = splits["train"]
    low = min(float(x.min()) for x in splits.values())
    high = max(float(x.max()) for x in splits.values())
    if first.ndim == 3 and all(x.dtype == np.uint8 for x in splits.values()):
        splits = {split: x[..., None] for split, x in splits.items()}  # grey
    elif first.ndim != 4 or low < 0 or high > 255:
        if first.ndim == 1:
            raise unusable(name, "the inputs must be (n, ...), not one number for each sample")
        if first.ndim in (3, 4):
            warnings.warn(
                f"{printable(name)}: inputs of {first.shape[1:]} from {low:g} to {high:g} are not "
                "taken for images, which are uint8, or (height, width, channels) within 0..255",
                stacklevel=5,
            )
        return "numbers", splits
    # Whole numbers in 0..255, or a scale of 0..1.
    factor = 255 if high <= 1 and first.dtype.kind == "f" else 1
    return "images", {
        split: x if x.dtype == np.uint8 else np.round(x * factor).astype(np.uint8)
        for split, x in splits.items()
    }


def _labels(name, splits) -> tuple[str, dict[str, Any]]:
    """What the labels are, of `keras_swapout.datasets.splits.TARGETS`, and those of each split."""
    if not all(isinstance(y, np.ndarray) for y in splits.values()):
        for split, y in splits.items():
            if any(p.dtype.kind not in "iufb" or not np.isfinite(p).all() for p in tree.flatten(y)):
                raise unusable(name, f"the {split} labels must be finite numbers")
        return "several", tree.map_structure(plain, splits)
    splits = {s: y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for s, y in splits.items()}
    for split, y in splits.items():
        if y.dtype.kind not in "iufb":
            raise unusable(name, f"the {split} labels must be finite numbers, not {y.dtype}")
        if wrong := int((~np.isfinite(y)).sum()):
            raise unusable(name, f"the {split} labels must be finite numbers, {wrong} are not")
    wide = [y for y in splits.values() if y.ndim == 2 and np.isin(y, (0, 1)).all()]
    if all((y.sum(axis=1) == 1).all() for y in wide):  # one-hot
        splits = {
            s: y.argmax(axis=1) if any(y is one for one in wide) else y for s, y in splits.items()
        }
    elif len(wide) == len(splits):
        return "labels", {split: y.astype(np.float32) for split, y in splits.items()}
    every = list(splits.values())
    if len({y.shape[1:] for y in every}) > 1:
        raise unusable(name, f"its labels have several shapes: {[y.shape for y in every]}")
    if any((y != np.floor(y)).any() or (y.dtype.kind == "f" and y.min() < 0) for y in every):
        return "numbers", {split: y.astype(np.float32) for split, y in splits.items()}
    for split, y in splits.items():
        if y.min() < 0:
            raise unusable(
                name, f"the {split} labels must be whole numbers >= 0, the least is {y.min():g}"
            )
    if any(y.ndim > 1 for y in every):  # one for each step or pixel
        return "steps", {split: y.astype(np.int32) for split, y in splits.items()}
    return "classes", {split: y.astype(np.int32) for split, y in splits.items()}
