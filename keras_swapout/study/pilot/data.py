"""The data of a pilot: read once, the same for every method and seed."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import warnings
from typing import Any

import keras
import numpy as np

from keras_swapout import datasets
from keras_swapout.datasets import stratified
from keras_swapout.datasets.splits import count, samples
from keras_swapout.study.measuring.corruptions import CORRUPTIONS, corrupt
from keras_swapout.study.measuring.images import Batches, checksum, named_data, read
from keras_swapout.study.networks import Network, described, input_size, scale_of
from keras_swapout.study.pilot.noise import noisy
from keras_swapout.study.pilot.recipe import own_metrics, targets
from keras_swapout.study.pilot.settings import Settings
from keras_swapout.study.scales import TRIED_IMAGES, found_scale
from keras_swapout.study.task import check_labels

SEVERITIES = (1, 3, 5)
LARGE = 0.6  # share of the samples, of a class beside which accuracy says little
#: Of photographs, where neither the user nor the network says: what our networks, which are
#: CIFAR's, are made for, and others.
LARGEST_SIDES = {"ours": 32}
LARGEST_SIDE = 64


class PilotData:
    """Splits, training batches and corrupted test images.

    Args:
        settings: the pilot's.

    Attributes:
        train, validation, test: pairs of raw inputs, of images uint8 (n, height, width, channels),
            and labels. The test samples are looked at after training only, and nothing is chosen by
            the validation samples: they are for the curves.
        corrupted: {name: {severity: images}} of the test images in `corrupted_labels`: a fixed,
            stratified subset, the same pixels for every run. Empty where the inputs are no images.
        info: the `keras_swapout.datasets.Info`, with the scale that the network expects.
        network: the network that the settings name, for these data.
        has_consistency: whether sub-models can be compared: one input, one distribution.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `keras_swapout.datasets.load`; fewer
            training samples than one batch.
    """

    def __init__(self, settings: Settings) -> None:
        # One split for all runs: a run's seed decides its weights, order and augmentation.
        size = size_of(settings)
        arrays = read(settings.data, settings.limit, size, settings.skip_unreadable)
        self.train, self.validation, self.test, info = arrays
        augmented = info.augmented and not settings.unaugmented
        info = dataclasses.replace(info, augmented=augmented)
        self.info = info  # but for the scale
        self.network = Network(settings.network, info, self.train)
        self.info = dataclasses.replace(info, scale=self._scale(info))
        self._check_labels()
        number = count(self.train.labels)
        self.batch_size = settings.batch_size or _batch_size(number)
        self.steps = number // self.batch_size
        if not self.steps:
            raise ValueError(
                "Argument `batch_size` must be at most the number of training images, "
                f"{number}. Received: batch_size={self.batch_size}"
            )
        self._chosen = self.chosen(self.test.labels, settings.corruption_images)
        self.has_consistency = info.kind != "several" and self.network.task.single is not None
        classes = info.targets == "classes" and self.network.task.classifies
        if not classes and any(settings.label_noise):
            raise ValueError(
                "Argument `label_noise` must be 0, as the labels are no classes. "
                f"Received: label_noise={list(settings.label_noise)}"
            )
        self._say_what_is_left_out()
        own_metrics(self.network.example)  # says what can't be made anew; nobody hears the workers

    def _scale(self, info):
        """What the network says or, of one that is trained elsewhere and doesn't, what fits it."""
        network = self.network
        name, asked = network.choice.model, network.choice.scale
        if network.scale:
            found = asked or scale_of(network.example, network.choice.kind)
            if network.choice.kind == "function" and info.kind == "images" and not found:
                said = "images are standardised, as for a network that is new; else give --scale"
                warnings.warn(f"{name}: {said}", stacklevel=4)
            return network.scale
        if network.choice.new_head:
            raise ValueError(
                "Argument `scale` must be given: what inputs a network has been trained with can't "
                f"be found out by a new head. Received: scale=None with {name!r} and new_head=True"
            )
        some = self.chosen(self.train.labels, TRIED_IMAGES)
        inputs, labels = (samples(part, some) for part in self.train)
        scale, said = found_scale(network.example, network.task, inputs, labels, info)
        warnings.warn(f"{name}: {said}", stacklevel=4)
        return scale

    def _check_labels(self):
        """Those of the training samples have been looked at with the network."""
        for split in (self.validation, self.test):
            check_labels(self.network.task, self.network.choice.model, self.info, split.labels)

    def _may_be_a_table(self):
        """Whether whole numbers are left as they are, and nobody has said that they should be."""
        choice = self.network.choice
        unsaid = not (choice.scale or self.network.continued)
        whole = self.info.kind == "numbers" and self.info.scale == "raw"
        return whole and unsaid and not scale_of(self.network.example, choice.kind)

    def _say_what_is_left_out(self):
        left_out = []
        if self.info.kind != "images":
            said = f"{self.info.scale}d" if self.info.scale == "standardise" else "as they are"
            if self._may_be_a_table():
                said += " (whole numbers may be tokens; those of a table want --scale standardise)"
            warnings.warn(
                f"{described(self.info)}: {said}; the network gives {self.network.task.describe()}",
                stacklevel=4,
            )
            left_out.append("corruptions, which are of images")
        if not self.has_consistency:
            left_out.append("the consistency of sub-models, which is of one input and one class")
        if left_out:
            warnings.warn(f"not measured: {'; '.join(left_out)}", stacklevel=4)

    @functools.cached_property
    def unbalanced(self) -> bool:
        """Whether one class has so many of the samples that accuracy says little."""
        if self.info.targets != "classes":
            return False
        return np.bincount(self.train.labels).max() > LARGE * count(self.train.labels)

    def chosen(self, labels: Any, size: int) -> np.ndarray:
        """Indices of at most `size` samples, with the shares of the classes where there are any."""
        if self.info.targets != "classes":
            labels = np.zeros(count(labels), np.int32)
        return stratified(labels, size)

    @property
    def corrupted_labels(self) -> Any:
        return samples(self.test.labels, self._chosen)

    @functools.cached_property
    def corrupted(self) -> dict[str, dict[int, np.ndarray]]:
        if self.info.kind != "images":
            return {}
        images = self.test.images[self._chosen]
        return {
            name: {severity: corrupt(images, name, severity, seed=0) for severity in SEVERITIES}
            for name in CORRUPTIONS
        }

    def training_labels(self, noise: float, seed: int) -> Any:
        """The labels that are trained on: as they are but for a share that is wrong.

        Args:
            noise: the share.
            seed: of the wrong ones, whatever the method.
        """
        if not noise:
            return self.train.labels
        return noisy(self.train.labels, noise, len(self.info.classes), seed)

    def training_batches(self, seed: int, noise: float = 0.0) -> Any:
        """A `tf.data.Dataset` of full batches, in an order that depends on `seed` and epoch alone.

        Every epoch shuffles anew and leaves out what does not fill a batch: with XLA each shape
        of a batch would be compiled again.

        Args:
            seed: the run's.
            noise: share of the labels that are wrong.

        Returns:
            A data set of `steps` pairs: scaled inputs (batch_size, ...), images augmented where the
            data asks for it, and labels as the loss takes them.
        """
        labels = self.training_labels(noise, seed)
        labels = targets(self.network.example, self.network.task, labels)
        split = self.train._replace(labels=labels)
        batches = datasets.training_batches(split, self.info, self.batch_size, seed)
        return batches.take(self.steps)

    def scaled_batches(self, inputs: Any) -> Batches:
        """Raw inputs as the network takes them, a few at a time."""
        return Batches(inputs, self.info.scaled)

    @functools.cached_property
    def checksum(self) -> int:
        """CRC-32 of all images and labels, to notice a folder whose images have changed."""
        value = 0
        for array in keras.tree.flatten([self.train, self.validation, self.test]):
            value = checksum(array, value)
        return value

    @property
    def augmentation(self) -> str:
        """What happens to training images, behind the words that say how many there are."""
        return " (flipped and shifted)" if self.info.augmented else ""

    def describe(self) -> dict[str, Any]:
        """The part "data" of the results."""
        values = dataclasses.asdict(self.info)
        plain = {"brought": (), "kind": "images", "targets": "classes"}
        values = {k: v for k, v in values.items() if k not in plain or v != plain[k]}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _batch_size(images: int) -> int:
    """A power of 2 of which an epoch has 20 to 40 steps, in [8, 128].

    Example:

    >>> [_batch_size(images) for images in (60, 400, 1200, 100_000)]
    [8, 16, 32, 128]
    """
    return min(128, max(8, 2 ** int(math.log2(max(images, 1) / 20 + 1))))


def size_of(settings: Settings) -> Any:
    """What images are resized to: as asked for, as the network takes them, or what suits them.

    Returns:
        a side, (height, width), or None for the source's.
    """
    return settings.image_size or input_size(settings.network) or _side(settings)


def _side(settings):
    """The side to resize a folder of photographs to, where nothing else says; else None."""
    data = settings.data
    if data in datasets.READERS or not os.path.isdir(data):
        return None
    from keras_swapout.datasets.photographs import smallest_side

    with named_data():
        most = LARGEST_SIDES.get(settings.network.kind, LARGEST_SIDE)
        side = min(most, smallest_side(data, settings.skip_unreadable))
    warnings.warn(f"{data}: images are resized to {side}×{side} pixels", stacklevel=3)
    return side
