"""Real sets with wrong labels: made ones, people's own, and those that graders were unsure of.

What is trained and validated on may be wrong; the test labels are right. A validation set is as
wrong as the training set, since a user has no other.
"""

import dataclasses
import functools
import os
import re
from typing import NamedTuple

import numpy as np

from keras_swapout import datasets
from keras_swapout.datasets.splits import Info
from keras_swapout.study.pilot.noise import noisy

TEST = 2000  # images of CIFAR-10's test set
#: CIFAR-10's usual asymmetric noise: truck to automobile, bird to airplane, deer to horse, cat and
#: dog to each other (Patrini et al. 2017).
CIFAR_PAIRS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
HUMAN = ("aggregate", "random1", "worst")  # 9, 17 and 40 % wrong
LABELS = os.environ.get("CIFAR10N", "../shared/data/cifar10n/labels.npz")


class NoisySet(NamedTuple):
    """Splits of raw images and right labels, and how they are seen.

    Attributes:
        train, validation, test: `keras_swapout.datasets.Split`s with right labels.
        info: a `keras_swapout.datasets.Info`, whose mean and standard deviation are of `train`.
        pairs: for each class the one that it is taken for in asymmetric noise; others stay.
        human: {name: (training labels, validation labels)} as people gave them.
    """

    train: datasets.Split
    validation: datasets.Split
    test: datasets.Split
    info: datasets.Info
    pairs: dict[int, int]
    human: dict[str, tuple[np.ndarray, np.ndarray]]

    def given(self, noise: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation labels with a noise: "none", "uniform0.3", "asymmetric0.3" or of
        people, "worst"."""
        right = self.train.labels, self.validation.labels
        if noise == "none" or noise == "doubt":
            return right
        if noise in self.human:
            return self.human[noise]
        kind, share = re.fullmatch(r"(uniform|asymmetric)([\d.]+)", noise).groups()
        if kind == "uniform":
            classes = len(self.info.classes)
            return tuple(
                noisy(labels, float(share), classes, 2 * seed + k) for k, labels in enumerate(right)
            )
        return tuple(
            self._asymmetric(labels, float(share), 2 * seed + k) for k, labels in enumerate(right)
        )

    def _asymmetric(self, labels, share, seed):
        """Of each class in `pairs` a share is taken for the other."""
        rng, given = np.random.default_rng([seed, 11]), labels.copy()
        for one, other in self.pairs.items():
            of_class = np.flatnonzero(labels == one)
            given[rng.permutation(of_class)[: round(share * len(of_class))]] = other
        return given


@functools.cache
def load(name: str) -> NoisySet:
    """A set by its name and what is said of it, joined by "-".

    "digits"; "elpv", 32x32, with "doubt" for what its graders were unsure of; "cifar10" and how
    many training images, at 16x16 or with "32". With "unaugmented" without flips and shifts, which
    digits never have.
    """
    base, *said = name.split("-")
    if base == "digits":
        arrays = datasets.read("digits", seed=0, validation=0.15, test=0.2)
        return NoisySet(*arrays, pairs=_nearest(arrays.train), human={})
    if base == "elpv":
        found = _elpv("doubt" in said)
    else:
        found = _cifar(int(said[0]), 32 if "32" in said else 16)
    augmented = "unaugmented" not in said
    return found._replace(info=dataclasses.replace(found.info, augmented=augmented))


def _nearest(train):
    """For each class the one whose mean image is nearest."""
    classes = range(train.labels.max() + 1)
    means = np.stack([train.images[train.labels == c].mean(axis=0).ravel() for c in classes])
    apart = np.linalg.norm(means[:, None] - means, axis=-1)
    np.fill_diagonal(apart, np.inf)
    return dict(enumerate(apart.argmin(axis=1).tolist()))


def _elpv(doubt):
    """Solar cells at 32x32 whose graders were sure; `doubt` adds to the training and validation
    images those of which they were not, with the label that is more probable."""
    from elpv_dataset.utils import load_dataset

    from keras_swapout.datasets.sources import same_size

    images, probability, kind = load_dataset()
    images = np.asarray(same_size(images[..., None], (32, 32)))
    sure = (probability == 0) | (probability == 1)
    labels = (probability >= 0.5).astype(np.int32)
    strata = 2 * labels + (kind == "poly")
    train, validation, test = _split(np.flatnonzero(sure), strata, (0.6, 0.15, 0.25))
    if doubt:
        more, rest = _split(np.flatnonzero(~sure), strata, (0.8, 0.2))
        train, validation = np.concatenate([train, more]), np.concatenate([validation, rest])
    parts = [datasets.Split(images[i], labels[i]) for i in (train, validation, test)]
    info = _info("elpv", parts, ("functional", "defective"))
    return NoisySet(*parts, info, pairs={0: 1, 1: 0}, human={})


def _cifar(number, side):
    """CIFAR-10 with the labels that people gave it (CIFAR-10N), cut to `number` images."""
    import tensorflow_datasets as tfds

    labels = np.load(LABELS)
    rows = {name: row for row, name in enumerate(labels["id"])}
    every = tfds.as_numpy(tfds.load("cifar10", split="train", batch_size=-1))
    row = np.array([rows[name] for name in every["id"]])
    assert (labels["clean"][row] == every["label"]).all()
    validation = number // 5
    order = np.random.default_rng(0).permutation(len(row))[: number + validation]
    train, held = order[:number], order[number:]
    test = tfds.as_numpy(tfds.load("cifar10", split="test", batch_size=-1))
    first = np.random.default_rng(0).permutation(len(test["label"]))[:TEST]
    parts = [
        datasets.Split(_shrunk(images[index], side), values[index].astype(np.int32))
        for images, values, index in (
            (every["image"], every["label"], train),
            (every["image"], every["label"], held),
            (test["image"], test["label"], first),
        )
    ]
    names = tuple(tfds.builder("cifar10").info.features["label"].names)
    human = {
        name: tuple(labels[name][row[index]].astype(np.int32) for index in (train, held))
        for name in HUMAN
    }
    info = _info("cifar10", parts, names)
    return NoisySet(*parts, info, CIFAR_PAIRS, human)


def _shrunk(images, side):
    """Images of 32x32 pixels as means over squares."""
    by = images.shape[1] // side
    shape = (len(images), side, by, side, by, images.shape[-1])
    return images.reshape(shape).mean(axis=(2, 4)).round().astype(np.uint8)


def _split(index, strata, shares):
    """Parts of `index` with the same shares of the strata."""
    rng, parts = np.random.default_rng(0), [[] for _ in shares]
    for stratum in np.unique(strata[index]):
        members = rng.permutation(index[strata[index] == stratum])
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for part, some in zip(parts, np.split(members, cuts), strict=True):
            part.append(some)
    return [np.concatenate(part) for part in parts]


def _info(name, parts, classes):
    pixels = parts[0].images.reshape(-1, parts[0].images.shape[-1])
    sizes = dict(zip(("train", "validation", "test"), (len(p.labels) for p in parts), strict=True))
    return Info(
        name,
        classes,
        parts[0].images.shape[1:],
        sizes,
        tuple(pixels.mean(axis=0).tolist()),
        tuple(pixels.std(axis=0).tolist()),
        source=name,
    )
