"""Theta, drop rate, block size and alpha, searched by KerasTuner.

spaces.py        what is searched, as calls of a `keras_tuner.HyperParameters`
hypermodels.py   models that are compiled once for many trials; needs
                 `pip install "keras-swapout[tuner]"`, which is imported when one is asked for
restart.py       a compiled model, trained again from the start
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_swapout.tuning.spaces import alpha, block_size, drop_rate, theta_schedule

if TYPE_CHECKING:
    from keras_swapout.tuning.hypermodels import (
        RBlockHyperModel,
        SurgeryHyperModel,
        SurgeryRBlockHyperModel,
        SwapoutHyperModel,
    )
    from keras_swapout.tuning.restart import start_as

__all__ = [
    "RBlockHyperModel",
    "SurgeryHyperModel",
    "SurgeryRBlockHyperModel",
    "SwapoutHyperModel",
    "alpha",
    "block_size",
    "drop_rate",
    "start_as",
    "theta_schedule",
]
#: The files of what is imported when it is asked for: they need KerasTuner, or Keras.
_FILES = {
    "RBlockHyperModel": "hypermodels",
    "SurgeryHyperModel": "hypermodels",
    "SurgeryRBlockHyperModel": "hypermodels",
    "SwapoutHyperModel": "hypermodels",
    "start_as": "restart",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
