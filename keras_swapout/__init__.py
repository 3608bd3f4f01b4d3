"""keras-swapout: Swapout, R-Block and their relatives for Keras."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from keras_swapout._version import __version__

if TYPE_CHECKING:
    from keras_swapout import (
        callbacks,
        consistency,
        datasets,
        inference,
        layers,
        metrics,
        models,
        random,
        schedules,
        submodels,
        surgery,
        tuning,
    )
    from keras_swapout.consistency import RBlock, TrainInferenceConsistency, divergence
    from keras_swapout.submodels import fork, views

__all__ = [
    "RBlock",
    "TrainInferenceConsistency",
    "__version__",
    "callbacks",
    "consistency",
    "datasets",
    "divergence",
    "fork",
    "inference",
    "layers",
    "metrics",
    "models",
    "random",
    "schedules",
    "submodels",
    "surgery",
    "tuning",
    "views",
]
#: The room of what is no room itself.
_ROOMS = {
    "RBlock": "consistency",
    "TrainInferenceConsistency": "consistency",
    "divergence": "consistency",
    "fork": "submodels",
    "views": "submodels",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = importlib.import_module(f"{__name__}.{_ROOMS.get(name, name)}")
    found = globals()[name] = getattr(room, name) if name in _ROOMS else room
    return found


def __dir__() -> list[str]:
    return __all__


def _is_the_command() -> bool:
    """Whether this process is `keras-swapout ...` or `python -m keras_swapout ...`."""
    program, *arguments = getattr(sys, "argv", None) or [""]
    if program == "-m":  # while Python looks for the module, whose name is before the arguments
        module = sys.orig_argv[-len(arguments) - 1].removeprefix("-m")
        return module.partition(".")[0] == __name__
    return os.path.basename(program).removesuffix(".exe") == "keras-swapout"


# Keras finds the classes of a file by their registered names, so whoever imports this package has
# them all. Not the command: its --help should not wait for TensorFlow.
if not _is_the_command():
    for _name in __all__:
        getattr(sys.modules[__name__], _name)
