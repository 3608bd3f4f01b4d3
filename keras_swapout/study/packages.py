"""The packages that the commands need beyond Keras, and what to install where one is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

#: Of each package, by the name that it is imported under, the extra that brings it.
EXTRAS = {
    **dict.fromkeys(
        (
            "cv2",
            "jinja2",
            "matplotlib",
            "PIL",
            "rich",
            "scipy",
            "skimage",
            "sklearn",
            "statsmodels",
            "tensorflow_datasets",
        ),
        "pilot",
    ),
    **dict.fromkeys(("keras_tuner", "tensorboard"), "tuner"),
    **dict.fromkeys(("onnx", "onnxruntime", "tf2onnx"), "export"),
    "elpv_dataset": "elpv",
    "tensorflow": "tensorflow",
    "jax": "jax",
}
EVALUATE = tuple(name for name, extra in EXTRAS.items() if extra == "pilot")
PILOT = (*EVALUATE, "tensorflow")  # whatever the backend, for tf.data makes the training batches
TUNE = (*PILOT, "keras_tuner", "tensorboard")  # which KerasTuner imports without asking for it


def installed(name: str) -> bool:
    """Whether a package can be imported; it is not, for that takes seconds.

    Example:

    >>> installed("keras"), installed("no_such_package")
    (True, False)
    """
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def check_packages(names: Iterable[str], data: str | None = None) -> None:
    """Whether packages are there.

    Args:
        names: of `EXTRAS`.
        data: the name of the data that will be read, which may need one more.

    Raises:
        ImportError: some are missing; the message says what to install.

    Example:

    >>> check_packages(["rich"])
    """
    missing = [name for name in names if not installed(name)]
    if data == "elpv" and not installed("elpv_dataset"):
        missing.append("elpv_dataset")
    if missing:
        extras = ",".join(dict.fromkeys(EXTRAS[name] for name in missing))
        raise ImportError(
            f"Missing package(s): {', '.join(missing)}. Install them with: "
            f'pip install "keras-swapout[{extras}]"'
        )
