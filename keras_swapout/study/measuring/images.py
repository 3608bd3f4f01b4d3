"""The data of a study: one split, whatever is run on it, and little of it in memory at a time."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_swapout import datasets
from keras_swapout.datasets.splits import count, samples
from keras_swapout.datasets.stored import pieces


def read(
    data: str,
    limit: int | None,
    image_size: int | tuple[int, int] | None,
    skip_unreadable: bool = False,
) -> datasets.Arrays:
    """`keras_swapout.datasets.read`, always with the same split.

    Raises:
        ValueError, OSError, ImportError: as there, for `data`, `limit` or `image_size`.
    """
    with named_data():
        return datasets.read(
            data,
            seed=0,
            limit=limit,
            image_size=image_size,
            validation=0.15,
            test=0.2,
            skip_unreadable=skip_unreadable,
        )


@contextlib.contextmanager
def named_data() -> Iterator[None]:
    """Has the errors of `keras_swapout.datasets` call `data` what they call `name`."""
    try:
        yield
    except ValueError as error:
        message = str(error).replace("Argument `name`", "Argument `data`")
        raise ValueError(message.replace("Received: name=", "Received: data=")) from error


class Batches:
    """Inputs, scaled a few at a time: all at once as floats may be more than there is memory.

    It can be gone through again, as `keras_swapout.inference.recalibrate_batch_norm` does.

    Args:
        inputs: raw, (n, ...), in memory or `keras_swapout.datasets.Rows`, or a structure of such.
        scaled: what scales some of them.
        size: how many at a time.

    Example:

    >>> [batch.tolist() for batch in Batches(np.arange(5), lambda x: x / 2, size=3)]
    [[0.0, 0.5, 1.0], [1.5, 2.0]]
    """

    def __init__(self, inputs: Any, scaled: Callable[[Any], Any], size: int = 256) -> None:
        self.inputs, self.scaled, self.size = inputs, scaled, size

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, count(self.inputs), self.size):
            yield self.scaled(samples(self.inputs, slice(start, start + self.size)))


def checksum(array: Any, value: int = 0) -> int:
    """`zlib.crc32` of an array or `Rows`, a piece at a time; `value` is that of what came before.

    Example:

    >>> array = np.arange(6.0).reshape(3, 2)
    >>> checksum(array, 5) == zlib.crc32(array, 5)
    True
    """
    for piece in pieces(array):
        value = zlib.crc32(np.ascontiguousarray(piece), value)
    return value
