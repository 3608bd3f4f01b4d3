"""The images of a study: one split, whatever is run on it."""

from __future__ import annotations

from keras_swapout import datasets


def read(data: str, limit: int | None, image_size: int | tuple[int, int] | None) -> datasets.Arrays:
    """`keras_swapout.datasets.read`, always with the same split.

    Raises:
        ValueError, FileNotFoundError, ImportError: as there, for `data`, `limit` or `image_size`.
    """
    try:
        return datasets.read(
            data, seed=0, limit=limit, image_size=image_size, validation=0.15, test=0.2
        )
    except ValueError as error:
        message = str(error).replace("Argument `name`", "Argument `data`")
        raise ValueError(message.replace("Received: name=", "Received: data=")) from error
