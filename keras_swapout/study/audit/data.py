"""The data of an audit: all samples in one order, with their files, and folds of them."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_swapout import datasets
from keras_swapout.arguments import refusal
from keras_swapout.datasets.sources import Source, printable, reader, same_size
from keras_swapout.datasets.splits import Split, count, mapped, samples
from keras_swapout.datasets.stored import joined, part
from keras_swapout.study.measuring.images import named_data
from keras_swapout.study.pilot.data import PilotData, size_of
from keras_swapout.study.pilot.settings import Settings

FEWEST = 3  # samples of a class
WATCHED = 500  # samples that the learning curve is of


class AuditData(PilotData):
    """All samples: those of training, validation and test together, labels as they are.

    `select` says which of them are trained on, and which are judged.

    Args:
        settings: the audit's.
        folds: how many, an int >= 2; None to judge the samples that were trained on.

    Attributes:
        samples: all of them, in the order of the source: inputs and labels (n,).
        files: their paths, (n,), or None where the data are no folder.
        index: their places in the source, (n,); all of them without `settings.limit`.
        fold: that of each, (n,) ints; zeros without folds.
        classes: their names, fit for any screen.

    Raises:
        ValueError: as `PilotData`; the labels are no classes, a class has too few samples, or the
            network's output is no distribution over them.
    """

    def __init__(self, settings: Settings, folds: int | None = None) -> None:
        source, self.files, self.index = _whole(settings)
        with _found_as(settings.data, source), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "not measured: ")  # what a pilot would measure
            super().__init__(dataclasses.replace(settings, limit=None))
        _ = self.checksum  # of all samples: what is trained on is another for each fold
        self.samples, number = self.train, count(self.train.labels)
        self.info = dataclasses.replace(self.info, sizes={"in all": number}, brought=())
        self.classes = tuple(map(_visible, self.info.classes))
        self._check_classes(folds)
        self.folds, self.folder = folds, Path(settings.data)
        self.fold = np.zeros(number, int) if folds is None else folds_of(self.samples.labels, folds)
        # As many for each fold: what is compiled has their number in its schedule.
        trained = number if folds is None else number - int(np.bincount(self.fold).max())
        self.steps = trained // self.batch_size
        if not self.steps:
            expected = f"at most the number of training samples, {trained}"
            raise refusal(ValueError, "batch_size", expected, self.batch_size)
        self.select(0)

    def _check_classes(self, folds):
        sizes = np.bincount(self.samples.labels, minlength=len(self.classes))
        smallest = int(sizes.argmin())
        has = f"class {self.classes[smallest]!r}, which has {sizes[smallest]}"
        if sizes[smallest] < FEWEST:
            raise ValueError(
                f"Argument `data` must have at least {FEWEST} samples of each class. "
                f"Received: {has}"
            )
        if folds is not None and folds > sizes[smallest]:
            raise ValueError(
                "Argument `folds` must be at most the number of samples of the smallest class. "
                f"Received: folds={folds} and {has}"
            )
        task = self.network.task
        single = task.single
        if single is None or (single.distribution == "sigmoid") != (task.outputs[0].shape == (1,)):
            raise ValueError(
                "Argument `model` must give one class of each sample: softmax, or a sigmoid of one "
                f"unit. Received: {self.network.choice.model!r}, which gives {task.describe()}"
            )

    def select(self, fold: int) -> np.ndarray:
        """What is trained on: without folds all, else all but those of a fold.

        Args:
            fold: which.

        Returns:
            The indices of the samples that are judged.
        """
        judged = np.flatnonzero(self.fold == fold)
        trained = judged if self.folds is None else np.flatnonzero(self.fold != fold)
        self.train = _some(self.samples, trained)
        watched = self.chosen(self.samples.labels[judged], WATCHED)
        self.validation = self.test = _some(self.samples, judged[watched])
        return judged

    def name_of(self, i: int) -> dict[str, Any]:
        """What a sample is found by: its "file" within the folder, or its "index" in the data."""
        if self.files is None:
            return {"index": int(self.index[i])}
        return {"file": printable(self.files[i].relative_to(self.folder).as_posix())}

    def inputs(self, index: np.ndarray) -> Any:
        """The raw inputs of some samples."""
        return _some(self.samples, index).images


def _visible(name):
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def folds_of(labels: np.ndarray, folds: int) -> np.ndarray:
    """Stratified folds, always the same ones.

    Args:
        labels: (n,), ints.
        folds: how many.

    Returns:
        The fold of each sample, (n,): each class has in each fold its share, up to one sample.

    Example:

    >>> labels = np.repeat([0, 1], [6, 4])
    >>> found = folds_of(labels, 2)
    >>> np.bincount(found[labels == 0]).tolist(), np.bincount(found[labels == 1]).tolist()
    ([3, 3], [2, 2])
    """
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    found = np.empty(len(labels), int)
    found[order] = np.arange(len(labels)) % folds
    return found


def _some(split, index):
    inputs = mapped(lambda array: part(array, index), split.images)
    return Split(inputs, samples(split.labels, index))


def _whole(settings: Settings) -> tuple[Source, np.ndarray | None, np.ndarray]:
    """All samples of the data as one source, the files of them, and their places in the data."""
    size = size_of(settings)
    size = (size, size) if isinstance(size, int) else size
    with named_data():
        source = reader(settings.data, size, settings.skip_unreadable)(settings.data)
    if source.targets != "classes":
        raise ValueError(
            "Argument `data` must have a class for each sample, as an int. Received: "
            f"{settings.data!r}, whose labels are {source.targets}"
        )
    pairs = [(source.images, source.labels), *filter(None, (source.validation, source.test))]
    inputs, labels = zip(*pairs, strict=True)
    if source.kind == "images":
        with named_data():
            first = same_size(inputs[0], size)
            inputs = [first, *(same_size(images, first.shape[1:3]) for images in inputs[1:])]
    inputs = _joined(inputs)
    labels = np.concatenate([np.asarray(y) for y in labels]).astype(np.int32)
    files = np.array(source.files, object) if source.files else None
    index = np.arange(len(labels))
    if settings.limit is not None:
        if settings.limit > len(labels):
            expected = f"at most the number of samples, {len(labels)}"
            raise refusal(ValueError, "limit", expected, settings.limit)
        index = datasets.stratified(labels, settings.limit)
        inputs = mapped(lambda array: part(array, index), inputs)
        labels, files = labels[index], None if files is None else files[index]
    # With these of its own, nothing is held back of the others.
    beside = samples(inputs, slice(1)), labels[:1]
    source = source._replace(images=inputs, labels=labels, strata=None)
    return source._replace(validation=beside, test=beside), files, index


def _joined(inputs):
    first = inputs[0]
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in inputs]) for key in first}
    if isinstance(first, tuple):
        return tuple(map(_joined, zip(*inputs, strict=True)))
    return joined(inputs)


@contextlib.contextmanager
def _found_as(name: str, source: Source) -> Iterator[None]:
    """Within, who reads the data of this name gets this source."""
    before = datasets.READERS.get(name)
    datasets.READERS[name] = lambda name: source
    try:
        yield
    finally:
        del datasets.READERS[name]
        if before:
            datasets.READERS[name] = before
