"""Views: several random passes of the same samples, side by side in one batch.

A forked network (`keras_swapout.fork`) carries V views of N samples as V * N rows, view-major: all
of view 0, then all of view 1, ... While it runs, `current()` tells the layers so, and they give the
rows of one sample masks that belong together.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_swapout.arguments import checked, checked_count, checked_flag

__all__ = ["Views", "current", "laid_out"]

MOST = 10_000  # views, which are all in memory at once: with more a number is mistaken


def __dir__() -> list[str]:
    return __all__


@dataclasses.dataclass(frozen=True)
class Views:
    """How the rows of a batch are laid out.

    Attributes:
        count: number of views, an int >= 1.
        complementary: whether views 2j and 2j + 1 use complementary masks; otherwise every view
            draws on its own.
        forked: None, every view holds every sample; or (forked, samples), ints or scalar tensors:
            two views, of which the second holds only the first `forked` of the `samples`.

    Raises:
        TypeError, ValueError: an attribute is not as above.
    """

    count: int = 1
    complementary: bool = True
    forked: tuple[Any, Any] | None = None

    def __post_init__(self) -> None:
        checked_count(self.count, "count")
        checked_flag(self.complementary, "complementary")
        if self.forked is not None:
            expected = "None or (forked, samples), of two views"
            checked(self.forked, tuple, "forked", expected, lambda f: len(f) == self.count == 2)

    def first(self, rows: Any) -> Any:
        """How many of `rows` rows are view 0.

        A ratio, not the number of samples: layers may have merged other axes into the batch.

        Example:

        >>> Views(count=3).first(12), Views(count=2, forked=(1, 4)).first(10)
        (4, 8)
        """
        if self.forked is None:
            return rows // self.count
        forked, samples = self.forked
        return rows * samples // (samples + forked)

    def repeat(self, rows: Any) -> Any:
        """How many of the `rows` rows of view 0 the last view repeats.

        Example:

        >>> Views(count=2).repeat(8), Views(count=2, forked=(1, 4)).repeat(8)
        (8, 2)
        """
        if self.forked is None:
            return rows
        forked, samples = self.forked
        return rows * forked // samples


_SINGLE = Views()
# A context variable: `tf.distribute` traces each replica in a thread of its own.
_current: contextvars.ContextVar[Views] = contextvars.ContextVar("views", default=_SINGLE)


def current() -> Views:
    """The layout of the batch that is being computed; a single view outside of any fork."""
    return _current.get()


@contextlib.contextmanager
def laid_out(views: Views) -> Iterator[None]:
    """Within, `current()` is `views`.

    Raises:
        TypeError: `views` are no `Views`.

    Example:

    >>> with laid_out(Views(count=2)):
    ...     current().count
    2
    >>> current().count
    1
    """
    token = _current.set(checked(views, Views, "views", "a keras_swapout.views.Views"))
    try:
        yield
    finally:
        _current.reset(token)


# Layers and not functions, since of layers Keras asks what becomes of a mask.


class RepeatViews(keras.Layer):
    """(samples, ...) -> (rows, ...): a batch as often as `current()` asks for, view-major."""

    def __init__(self) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        return _repeated(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return None if previous_mask is None else _repeated(previous_mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (None, *input_shape[1:])


class SplitViews(keras.Layer):
    """The rows of two views -> the first view, the second, and the mask of either, or None.

    Where the second view has no row of a sample, it is given that of the first: the mean of a loss
    of the one and a loss of the other then weighs every sample once.
    """

    def __init__(self) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return (*_split(inputs), None if mask is None else _split(mask)[0])

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return None if previous_mask is None else (*_split(previous_mask), None)


def _repeated(x):
    views = current()
    if views.forked is None:
        return ops.concatenate([x] * views.count)
    return ops.concatenate([x, x[: views.repeat(ops.shape(x)[0])]])


def _split(x):
    rows = ops.shape(x)[0]
    first = current().first(rows)
    if current().forked is None:
        return x[:first], x[first:]
    return x[:first], ops.concatenate([x[first:], x[rows - first : first]])
