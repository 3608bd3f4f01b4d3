"""One training of an audit, as a plain value that any process can do, and what it predicts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout.consistency.labels import softmax
from keras_swapout.study.audit.data import AuditData
from keras_swapout.study.pilot.methods import find
from keras_swapout.study.pilot.settings import Settings, from_record
from keras_swapout.study.pilot.work import go_where, same, step_of

if TYPE_CHECKING:
    from keras_swapout.study.pilot.training import OnEpoch, Trainer

_LOCK = threading.RLock()  # Keras' seed and what is kept are of the process, not of a thread
_data: dict[str, AuditData] = {}
_trainers: dict[str, Trainer] = {}


def spec_of(settings: Settings, folds: int | None, fold: int, checksum: int) -> dict[str, Any]:
    """A training as a value: JSON, and all that its result depends on."""
    import keras

    return {
        "settings": settings.record(),
        "folds": folds,
        "fold": fold,
        "checksum": checksum,
        "folder": os.getcwd(),
        "backend": keras.backend.backend(),
    }


def judge(spec: Mapping[str, Any], on_epoch: OnEpoch | None = None) -> dict[str, Any]:
    """Trains on what a fold trains on, and predicts what it judges.

    Args:
        spec: from `spec_of`.
        on_epoch: see `keras_swapout.study.pilot.training.OnEpoch`; None in another process.

    Returns:
        "probabilities" (m, classes), float32, of the m samples that `AuditData.select` gives, in
        their order: without folds the mean over the epochs; "seconds" of the training.

    Raises:
        ValueError: the loss is not finite any more; this process has another backend; the data are
            not what they were.
    """
    with _LOCK:
        trainer = _trainer_of(spec)
        judged = trainer.data.select(spec["fold"])
        inputs, found = trainer.data.inputs(judged), []

        def predict():
            found.append(softmax(trainer.values(inputs)[0].astype(np.float64)))

        def watch(*done):
            predict()
            if on_epoch:
                on_epoch(*done)

        start = time.perf_counter()
        if spec["folds"] is None:  # what is learnt late counts as little
            trainer.train(0, watch)
        else:
            trainer.train(0, on_epoch)
            predict()
        seconds = time.perf_counter() - start
        return {"probabilities": np.mean(found, axis=0, dtype=np.float32), "seconds": seconds}


def time_step(spec: Mapping[str, Any]) -> float:
    """Seconds of a training step, once it is compiled.

    Args:
        spec: of a training, as for `judge`.
    """
    with _LOCK:
        return step_of(_trainer_of(spec))


def _trainer_of(spec):
    from keras_swapout.study.pilot.training import Trainer

    go_where(spec)
    settings = from_record(spec["settings"])
    data = data_of(settings, spec["folds"], spec["checksum"])
    key = _key(settings, spec["folds"])
    if key not in _trainers:
        _trainers[key] = Trainer(find(settings.methods[-1]), settings, data)
    return _trainers[key]


def data_of(settings: Settings, folds: int | None, checksum: int | None = None) -> AuditData:
    """The data of an audit.

    Args:
        settings, folds: the audit's.
        checksum: of the data, which are then read once in a process; None to read them now.

    Raises:
        ValueError: `checksum` is not that of the data.
    """
    key = _key(settings, folds)
    if checksum is None or key not in _data:
        _data.clear()
        _trainers.clear()
        _data[key] = AuditData(settings, folds)
    return same(_data[key], settings, checksum)


def _key(settings, folds):
    return repr((settings, folds))
