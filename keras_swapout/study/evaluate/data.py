"""The images of an evaluation: clean, corrupted, and scaled as the models expect them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import tree

from keras_swapout import datasets
from keras_swapout.datasets import stratified
from keras_swapout.datasets.splits import KINDS, count, samples
from keras_swapout.datasets.stored import joined
from keras_swapout.study.evaluate.options import Options
from keras_swapout.study.measuring.corruptions import CORRUPTIONS, MORE, corrupt, suitable
from keras_swapout.study.measuring.images import Batches, checksum, read
from keras_swapout.study.scales import TRIED_IMAGES, found_scale

if TYPE_CHECKING:
    import keras

    from keras_swapout.study.task import Task

OURS = "made here"
PUBLISHED = "cifar10_corrupted of TensorFlow Datasets"
#: Names there that differ from ours.
_PUBLISHED_NAMES = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}


class Images:
    """The images to evaluate on.

    Args:
        options: the evaluation's.
        size: (height, width) of the models' input, each None where it is free.

    Attributes:
        images, labels: raw uint8 (n, height, width, channels) and ints (n,).
        seen: a line for the user where the models may have been trained on the images, or None.
        chosen: indices of those to corrupt, a fixed, stratified subset.
        info: the `keras_swapout.datasets.Info`.
        corruptions: the names of the corruptions that suit them, in order.
        sources: where the images of each corruption come from.
        left_out: corruption to the reason why it is not among them.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `keras_swapout.datasets.read`.
    """

    def __init__(self, options: Options, size: tuple[int | None, int | None]) -> None:
        self.options = options
        arrays = _read(options, size)
        self.info = arrays.info
        self._training = arrays.train
        self.images, self.labels = arrays.test
        if options.split == "all":
            parts = zip(*arrays[:3], strict=True)
            self.images, self.labels = (tree.map_structure(_joined, *part) for part in parts)
            self._training = None
        self.seen = None  # whether the models may have been trained on the images
        if options.split == "test" and "test" not in self.info.brought:
            self.seen = (
                "the test images are a split made here, as the pilot makes it: a model that was "
                "trained elsewhere may have been trained on them"
            )
        if options.mean is not None:
            channels = self.info.image_shape[-1]
            if len(options.mean) != channels or len(options.std) != channels:
                raise ValueError(
                    f"Argument `mean` must have a number for each of the {channels} channels, and "
                    f"`std` too. Received: mean={options.mean} and std={options.std}"
                )
            self.info = dataclasses.replace(self.info, mean=options.mean, std=options.std)
        self.chosen = self._some(self.labels, options.corruption_images)
        images = self.info.kind == "images"
        self.corruptions = suitable(self.info.image_shape) if images else ()
        self.left_out = {
            name: "these are no images" for name in ({} if images else {**CORRUPTIONS, **MORE})
        }
        self.left_out |= (
            {}
            if not images
            else {
                name: "grey images have no colours to saturate"
                if name == "saturate"
                else "the images are too small to be made of larger squares"
                for name in {**CORRUPTIONS, **MORE}
                if name not in self.corruptions
            }
        )
        self._find_published()

    def _some(self, labels, size):
        """Indices of at most so many samples, with the shares of the classes."""
        if self.info.targets != "classes":
            labels = np.zeros(count(labels), np.int32)
        return stratified(labels, size)

    @property
    def chosen_labels(self) -> np.ndarray:
        return samples(self.labels, self.chosen)

    def corrupted(self, name: str, severity: int, count: int | None = None) -> np.ndarray:
        """The chosen images, or the first `count` of them, under a corruption; uint8."""
        chosen = self.chosen[:count]
        if self.sources[name] == PUBLISHED:
            return _published_images(name, severity)[0][chosen]
        return corrupt(self.images[chosen], name, severity, seed=0)

    @property
    def number(self) -> int:
        """How many samples there are."""
        return count(self.labels)

    def find_scale(self, networks: Mapping[str, tuple[keras.Model, Task]]) -> str:
        """Has the images in the scale that the models expect, and says which that is.

        It is tried on training images, which the models may know, or where there are none on those
        of the evaluation.

        Args:
            networks: the models and their tasks, by name.

        Raises:
            ValueError: with no scale is a model better than guessing, or they expect several.
        """
        images, labels = self._training or (self.images, self.labels)
        kinds = KINDS[self.info.kind]
        scales = [s for s in kinds if self._training is not None or s != "standardise"]
        if len(kinds) == 1:
            self.options = dataclasses.replace(self.options, scale=kinds[0])
            return f"scale: {kinds[0]}"
        some = self._some(labels, TRIED_IMAGES)
        tried = samples(images, some), samples(labels, some)
        found, said = {}, ""
        for name, (model, task) in networks.items():
            found[name], said = found_scale(model, task, *tried, self.info, scales)
        if len(set(found.values())) > 1:
            raise ValueError(
                "Argument `models` must be models that take images in one scale. They seem to "
                f"expect {found}: evaluate them apart, or give `scale`"
            )
        self.options = dataclasses.replace(self.options, scale=next(iter(found.values())))
        return said

    def scaled(self, images: np.ndarray) -> np.ndarray:
        """Raw images as the models expect them, float32."""
        return dataclasses.replace(self.info, scale=self.options.scale).scaled(images)

    def training_inputs(self) -> Batches | None:
        """The training images, scaled, without augmentation; None with split "all"."""
        return None if self._training is None else Batches(self._training.images, self.scaled)

    def inputs(self, images: np.ndarray) -> Batches:
        return Batches(images, self.scaled)

    def checksum(self) -> int:
        """CRC-32 of all images and labels that the results depend on."""
        value = zlib.crc32(repr((self.info.mean, self.info.std, self.sources)).encode())
        training = None if self._training is None else self._training.images
        for part in (training, self.images, self.labels):
            if part is not None:
                for array in tree.flatten(part):
                    value = checksum(array, value)
        return value

    def describe(self) -> dict[str, Any]:
        """The part "data" of the results."""
        values = dataclasses.asdict(self.info)
        corrupted = len(self.chosen) if self.corruptions else 0
        values["sizes"] = {"evaluated": count(self.labels), "corrupted": corrupted}
        if self._training is not None:
            values["sizes"] |= {"train": count(self._training.labels)}
        for name in ("augmented", "scale", "brought", "kind", "targets"):
            # The scale is among the settings.
            del values[name]
        if self.seen:
            values["test images"] = self.seen
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def _find_published(self):
        self.sources = dict.fromkeys(self.corruptions, OURS)
        if self.options.data != "cifar10" or self.info.image_shape != (32, 32, 3):
            return
        if self.options.split != "test":
            return
        found = [
            name
            for name in self.corruptions
            if all(_published(name, severity) for severity in self.options.severities)
        ]
        # The order of the images is that of the clean ones, which their labels confirm.
        if found and np.array_equal(
            _published_images(found[0], self.options.severities[0])[1], self.labels
        ):
            self.sources |= dict.fromkeys(found, PUBLISHED)


def _joined(*arrays):
    return joined(arrays)


def _read(options, size):
    path = Path(options.data)
    if options.data not in datasets.READERS and path.is_dir():
        folders = [p for p in path.iterdir() if p.is_dir() and p.name[0] != "."]
        if len(folders) < 2:
            raise ValueError(
                "Argument `data` must be a folder with a sub-folder of images for each class, two "
                f"at least: there are no other labels. Received: data={options.data!r}, with "
                f"{len(folders)} sub-folder(s)"
            )
    if options.image_size is not None:
        size = options.image_size
    elif None in size:
        size = None
    return read(options.data, options.limit, size, options.skip_unreadable)


def _published(name, severity):
    """The builder of CIFAR-10-C, or None where it is not on this machine."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(f"cifar10_corrupted/{_PUBLISHED_NAMES.get(name, name)}_{severity}")
    return builder if builder.is_prepared() else None


def _published_images(name, severity):
    import tensorflow_datasets as tfds

    data = _published(name, severity).as_dataset(split="test", as_supervised=True, batch_size=-1)
    return tfds.as_numpy(data)
