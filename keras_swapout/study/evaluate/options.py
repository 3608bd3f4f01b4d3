"""What an evaluation measures: the options and their checks."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

from keras_swapout.arguments import checked_count
from keras_swapout.datasets.splits import SCALES

SPLITS = ("test", "all")
SEVERITIES = (1, 2, 3, 4, 5)


@dataclasses.dataclass(frozen=True)
class Options:
    """A checked evaluation, whatever the models.

    Attributes:
        data: a name or folder, as for `keras_swapout.datasets.read`.
        samples: T of stochastic inference, an int >= 1.
        split: "test": the images that `datasets.read(seed=0, validation=0.15, test=0.2)`, and so
            the pilot, holds out; "all": every image, none of which the models may have seen.
        limit: number of training and validation images that were used, or None for all; for
            "test" only.
        image_size: side to resize to; None for the models' input, or else the data's own.
        scale: what inputs the models expect: "standardise", (x - mean) / std; "unit", x / 255;
            "symmetric", x / 127.5 - 1; "raw", 0 .. 255; None for what is found by trying.
        mean, std: of each channel, on the 0 .. 255 scale, for "standardise"; None for those of the
            training images, which "all" has not.
        corruption_images: number of images to corrupt, or fewer where there are fewer.
        severities: some of 1 (mild) .. 5 (strong).
        batch_size: as for `keras_swapout.inference.predict`.
        skip_unreadable: whether images that can't be read are left out, instead of an error.

    Raises:
        ValueError: a value is out of range.

    Example:

    >>> Options("digits", severities=[5, 1]).severities
    (1, 5)
    """

    data: str
    samples: int = 30
    split: str = "test"
    limit: int | None = None
    image_size: int | None = None
    scale: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    corruption_images: int = 500
    severities: Sequence[int] = SEVERITIES
    batch_size: int | None = None
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        def fix(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        fix("data", str(self.data))
        for name in ("samples", "corruption_images"):
            checked_count(getattr(self, name), name)
        for name in ("limit", "image_size", "batch_size"):
            if getattr(self, name) is not None:
                checked_count(getattr(self, name), name)
        _check_choice("split", self.split, SPLITS)
        if self.scale is None and self.mean is not None:
            fix("scale", "standardise")  # which is what they are for
        if self.scale is not None:
            _check_choice("scale", self.scale, SCALES)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None:
                fix(name, _numbers(name, values))
        if (self.mean is None) != (self.std is None):
            raise ValueError(
                "Arguments `mean` and `std` must be given together. "
                f"Received: mean={self.mean} and std={self.std}"
            )
        if self.mean is not None and self.scale != "standardise":
            raise ValueError(
                "Argument `mean` is for scale='standardise' only. "
                f"Received: mean={self.mean} with scale={self.scale!r}"
            )
        if self.split == "all" and self.limit is not None:
            raise ValueError(
                "Argument `limit` is for split='test': it leaves out training images only. "
                f"Received: limit={self.limit} with split='all'"
            )
        if self.split == "all" and self.scale == "standardise" and self.mean is None:
            raise ValueError(
                "Argument `mean` must be given, and `std`, with split='all' and "
                "scale='standardise': they are those of the training images, which are not among "
                "these (the pilot's results.json has them under data). Received: mean=None"
            )
        severities = sorted(set(self.severities))
        if not severities or any(isinstance(s, bool) or s not in SEVERITIES for s in severities):
            raise ValueError(
                f"Argument `severities` must be some of {SEVERITIES}. "
                f"Received: severities={list(self.severities)}"
            )
        fix("severities", tuple(severities))


def _numbers(name, values):
    values = (values,) if isinstance(values, numbers.Real) else tuple(values)
    least = "numbers" if name == "mean" else "numbers > 0"
    if not values or not all(
        isinstance(v, numbers.Real) and math.isfinite(v) and (name == "mean" or v > 0)
        for v in values
    ):
        raise ValueError(
            f"Argument `{name}` must be {least}, one for each channel. "
            f"Received: {name}={list(values)}"
        )
    return tuple(map(float, values))


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f"Argument `{name}` must be one of {', '.join(choices)}. Received: {name}={value!r}"
        )
