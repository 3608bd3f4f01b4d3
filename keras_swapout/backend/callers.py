"""Who is calling: only the stack tells whether a function is run to be run again for its gradient.

`keras.remat(f)` keeps nothing of f, and where the gradient needs it runs it again. A mask would be
drawn again with the next key, and the gradient be that of another network.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def nearest(codes: frozenset[int], frame: FrameType | None) -> FrameType | None:
    """The frame, from this one outwards, of a function whose code has one of these ids."""
    while frame is not None and id(frame.f_code) not in codes:  # to compare code is slow
        frame = frame.f_back
    return frame


def refusing(checkpoint: Callable[..., Any], why: str) -> Callable[[Any, Callable[[], Any]], Any]:
    """The function `once` of a backend under which masks can't be drawn within `checkpoint`."""
    file = inspect.unwrap(checkpoint).__code__.co_filename

    def once(generator, draw):
        frame = sys._getframe()
        while frame is not None and frame.f_code.co_filename != file:
            frame = frame.f_back
        if frame is None:
            return draw()
        raise RuntimeError(
            f"keras.remat can't go around a layer that draws masks in training: {why}. Put it "
            "around what is before and after the layer, which itself keeps next to nothing for "
            "the gradient. (Under TensorFlow the layer may be inside.)"
        )

    return once
