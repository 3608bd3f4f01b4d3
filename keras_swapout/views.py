"""Views: several random passes of the same samples, side by side in one batch.

A forked network (`keras_swapout.fork`) carries V views of N samples as V * N rows, view-major: all
of view 0, then all of view 1, ... While it runs, `current()` tells the layers so, and they give the
rows of one sample masks that belong together.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple


class Views(NamedTuple):
    """How the rows of a batch are laid out.

    Attributes:
        count: number of views, an int >= 1.
        complementary: whether views 2j and 2j + 1 use complementary masks; otherwise every view
            draws on its own.
        forked: None, every view holds every sample; or (forked, samples), ints or scalar tensors:
            two views, of which the second holds only the first `forked` of the `samples`.
    """

    count: int = 1
    complementary: bool = True
    forked: tuple[Any, Any] | None = None

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

    Example:

    >>> with laid_out(Views(count=2)):
    ...     current().count
    2
    >>> current().count
    1
    """
    token = _current.set(views)
    try:
        yield
    finally:
        _current.reset(token)
