"""What a figure was measured on."""

from __future__ import annotations

import importlib
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def cpu_name() -> str:
    """The processor's model where the system tells, else its architecture.

    Example:

    >>> bool(cpu_name())
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def environment(seconds: float) -> dict[str, Any]:
    """Versions, processor, device and date, with the seconds that it took.

    Example:

    >>> environment(1.5)["seconds"]
    1.5
    """
    import keras
    import numpy as np

    from keras_swapout._version import __version__

    backend = keras.backend.backend()
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": backend,
        "backend_version": importlib.import_module(backend).__version__,
        "numpy": np.__version__,
        "keras_swapout": __version__,
        "cpu": cpu_name(),
        "device": _device(backend),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": seconds,
    }


def _device(backend):
    """The accelerator's name, or "CPU"."""
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    if backend != "tensorflow":
        return "not looked up"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
