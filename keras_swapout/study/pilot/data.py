"""The images of a pilot: read once, the same for every method and seed."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import warnings
import zlib
from typing import Any

import numpy as np

from keras_swapout import datasets
from keras_swapout.datasets import stratified
from keras_swapout.study.measuring.corruptions import CORRUPTIONS, corrupt
from keras_swapout.study.measuring.images import read
from keras_swapout.study.networks import Network, input_size
from keras_swapout.study.pilot.settings import Settings
from keras_swapout.study.scales import TRIED_IMAGES, found_scale

SEVERITIES = (1, 3, 5)
LARGEST_SIDE = 64  # of photographs, where neither the user nor the network says


class PilotData:
    """Splits, training batches and corrupted test images.

    Args:
        settings: the pilot's.

    Attributes:
        train, validation, test: pairs of raw uint8 images (n, height, width, channels) and int
            labels (n,). The test images are looked at after training only, and nothing is chosen by
            the validation images: they are for the curves.
        corrupted: {name: {severity: images}} of the test images in `corrupted_labels`: a fixed,
            stratified subset, the same pixels for every run.
        info: the `keras_swapout.datasets.Info`, with the scale that the network expects.
        network: the network that the settings name, for these images.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `keras_swapout.datasets.load`; fewer
            training images than one batch.
    """

    def __init__(self, settings: Settings) -> None:
        # One split for all runs: a run's seed decides its weights, order and augmentation.
        size = settings.image_size or input_size(settings.network) or _side(settings.data)
        arrays = read(settings.data, settings.limit, size)
        self.train, self.validation, self.test, info = arrays
        self.network = Network(settings.network, info.image_shape, len(info.classes))
        self.info = dataclasses.replace(info, scale=self._scale(info))
        self.batch_size = settings.batch_size or _batch_size(len(self.train.labels))
        self.steps = len(self.train.labels) // self.batch_size
        if not self.steps:
            raise ValueError(
                "Argument `batch_size` must be at most the number of training images, "
                f"{len(self.train.labels)}. Received: batch_size={self.batch_size}"
            )
        self._chosen = stratified(self.test.labels, settings.corruption_images)

    def _scale(self, info):
        """What the network says or, of one that is trained elsewhere and doesn't, what fits it."""
        if self.network.scale:
            return self.network.scale
        some = stratified(self.train.labels, TRIED_IMAGES)
        images, labels = (part[some] for part in self.train)
        network = self.network
        scale, said = found_scale(network.example, network.head, images, labels, info)
        warnings.warn(f"{self.network.choice.model}: {said}", stacklevel=4)
        return scale

    @property
    def corrupted_labels(self) -> np.ndarray:
        return self.test.labels[self._chosen]

    @functools.cached_property
    def corrupted(self) -> dict[str, dict[int, np.ndarray]]:
        images = self.test.images[self._chosen]
        return {
            name: {severity: corrupt(images, name, severity, seed=0) for severity in SEVERITIES}
            for name in CORRUPTIONS
        }

    def training_batches(self, seed: int) -> Any:
        """A `tf.data.Dataset` of full batches, in an order that depends on `seed` and epoch alone.

        Every epoch shuffles anew and leaves out what does not fill a batch: with XLA each shape
        of a batch would be compiled again.

        Args:
            seed: the run's.

        Returns:
            A data set of `steps` pairs: standardised images (batch_size, height, width, channels),
            augmented where the data asks for it, and labels (batch_size,).
        """
        batches = datasets.training_batches(self.train, self.info, self.batch_size, seed)
        return batches.take(self.steps)

    def checksum(self) -> int:
        """CRC-32 of all images and labels, to notice a folder whose images have changed."""
        value = 0
        for split in (self.train, self.validation, self.test):
            for array in split:
                value = zlib.crc32(np.ascontiguousarray(array), value)
        return value

    def describe(self) -> dict[str, Any]:
        """The part "data" of the results."""
        values = dataclasses.asdict(self.info)
        if not values["brought"]:
            del values["brought"]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _batch_size(images: int) -> int:
    """A power of 2 of which an epoch has 20 to 40 steps, in [8, 128].

    Example:

    >>> [_batch_size(images) for images in (60, 400, 1200, 100_000)]
    [8, 16, 32, 128]
    """
    return min(128, max(8, 2 ** int(math.log2(max(images, 1) / 20 + 1))))


def _side(data):
    """The side to resize a folder of photographs to, where nothing else says; else None."""
    if data in datasets.READERS or not os.path.isdir(data):
        return None
    from keras_swapout.datasets.photographs import smallest_side

    side = min(LARGEST_SIDE, smallest_side(data))
    warnings.warn(f"{data}: images are resized to {side}×{side} pixels", stacklevel=3)
    return side
