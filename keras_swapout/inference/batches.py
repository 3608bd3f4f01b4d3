"""Inputs in batches, from whatever Keras takes: arrays, `tf.data`, `keras.utils.PyDataset`, ..."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_swapout.arguments import refusal

EXPECTED = "arrays (n, ...), a list or dict of them, or a set of batches"


def batches(
    x: Any,
    size: int | Callable[[Any], int],
    argument: str = "x",
    steps: int | None = None,
) -> Iterator[Any]:
    """The inputs in `x`, in batches of `size` samples; the last one may be smaller.

    Args:
        x: an array or tensor (n, ...); a list, tuple or dict of such, for several inputs; or a set
            of batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch `DataLoader` or any
            other iterable. Of batches that are tuples (x, y, ...) the first part counts.
        size: an int >= 1, or what tells it for samples of one shape, from the first of them.
        argument: what the caller calls `x`, for messages.
        steps: how many batches at most, of `size`, then an int, if `x` holds arrays, else of its
            own.

    Yields:
        NumPy arrays, or a structure of them.

    Raises:
        TypeError: `x` is neither. ValueError: there is nothing in it, it never ends, or its arrays
            differ in length.

    Example:

    >>> [batch.tolist() for batch in batches(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    empty = True
    for batch in _regrouped(_pieces(x, size, argument, steps), size):
        empty = False
        yield batch
    if empty:
        raise _nothing(argument)


def length(x: Any, argument: str = "x") -> int | None:
    """How many samples `x` holds, or None where that is not known beforehand."""
    return rows(_arrays(x, argument)) if _is_arrays(x) else None


def rows(batch: Any) -> int:
    """How many samples a batch holds."""
    return len(_present(batch)[0])


def mapped(function: Callable[..., Any], *batches_: Any) -> Any:
    """`function` of each array of some batches; an optional input that is None stays None."""
    return tree.map_structure(
        lambda *arrays: None if arrays[0] is None else function(*arrays), *batches_
    )


def _pieces(x, size, argument, steps):
    if _is_arrays(x):
        arrays = _arrays(x, argument)
        lengths = {len(array) for array in _present(arrays)}
        if len(lengths) != 1:
            raise ValueError(
                f"Argument `{argument}` must have inputs of one length. Received: {lengths}"
            )
        yield mapped(lambda a: a[: size * steps if steps else None], arrays)
        return
    endless = False
    if isinstance(x, keras.utils.PyDataset):
        endless = x.num_batches is None
        x = map(x.__getitem__, itertools.count() if endless else range(x.num_batches))
    elif hasattr(x, "cardinality"):
        endless = int(x.cardinality()) == -1  # tf.data's sign for it
    if endless and steps is None:
        raise ValueError(f"Argument `{argument}` must end. Received: {x!r}, which repeats for ever")
    if not isinstance(x, Iterable) or isinstance(x, (str, bytes)):
        raise refusal(TypeError, argument, EXPECTED, x)
    for batch in itertools.islice(x, steps):
        inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        yield _arrays(inputs, argument)


def _regrouped(pieces, size):
    """Pieces of any length -> pieces of one length, but where the samples change their shape."""
    waiting = shapes = None
    size_of = size if callable(size) else None
    for piece in pieces:
        if waiting is not None and _shapes(waiting) == _shapes(piece):
            piece = mapped(lambda a, b: np.concatenate([a, b]), waiting, piece)
        elif waiting is not None:
            yield waiting
        if size_of and _shapes(piece) != shapes and rows(piece):
            shapes, size = _shapes(piece), size_of(mapped(lambda a: a[:1], piece))
        count = rows(piece)
        if not count:
            waiting = None
            continue
        whole = count // size * size
        for start in range(0, whole, size):
            yield mapped(lambda a, part=slice(start, start + size): a[part], piece)
        waiting = None
        if whole < count:
            waiting = mapped(lambda a, whole=whole: a[whole:], piece)
    if waiting is not None:
        yield waiting


def _present(batch):
    return [array for array in tree.flatten(batch) if array is not None]


def _shapes(batch):
    return [array.shape[1:] for array in _present(batch)]


def _is_arrays(x):
    if isinstance(x, dict):
        return True
    if isinstance(x, (list, tuple)):
        return True
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _arrays(x, argument):
    """`x`, or each part of it, as a NumPy array; what is None stays None."""

    def array(part):
        if isinstance(part, np.ndarray) and part.ndim:
            return part
        listed = isinstance(part, (list, tuple))
        try:
            part = np.asarray(part) if listed else keras.ops.convert_to_numpy(part)
        except Exception as error:  # every backend has its own
            raise refusal(TypeError, argument, EXPECTED, x) from error
        if not part.ndim or (listed and part.dtype == object):
            raise refusal(TypeError, argument, EXPECTED, x)
        return part

    leaves = tree.flatten(x)
    if isinstance(x, (list, tuple)) and not any(hasattr(leaf, "shape") for leaf in leaves):
        return array(x)  # nested lists of numbers
    arrays = mapped(array, x)
    if not _present(arrays):
        raise _nothing(argument)
    return arrays


def _nothing(argument):
    return ValueError(f"Argument `{argument}` must hold at least one sample. Received: none")


def first(x: Any, argument: str = "x", count: int = 1) -> Any:
    """The first samples of `x`, at most `count`; `x` has to be iterable again afterwards."""
    return next(batches(x, count, argument, steps=1))
