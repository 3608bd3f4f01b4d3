"""The images of a pilot: read once, the same for every method and seed."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import Any

import numpy as np

from keras_swapout import datasets
from keras_swapout.datasets import stratified
from keras_swapout.study.measuring.corruptions import CORRUPTIONS, corrupt
from keras_swapout.study.measuring.images import read
from keras_swapout.study.pilot.settings import Settings

SEVERITIES = (1, 3, 5)


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
        info: the `keras_swapout.datasets.Info`.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `keras_swapout.datasets.load`; fewer
            training images than one batch.
    """

    def __init__(self, settings: Settings) -> None:
        # One split for all runs: a run's seed decides its weights, order and augmentation.
        arrays = read(settings.data, settings.limit, settings.image_size)
        self.train, self.validation, self.test, self.info = arrays
        self.batch_size = settings.batch_size
        self.steps = len(self.train.labels) // self.batch_size
        if not self.steps:
            raise ValueError(
                "Argument `batch_size` must be at most the number of training images, "
                f"{len(self.train.labels)}. Received: batch_size={self.batch_size}"
            )
        self._chosen = stratified(self.test.labels, settings.corruption_images)

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
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
