"""One run of a pilot, as a plain value that any process can do."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from keras_swapout.study.pilot.methods import find
from keras_swapout.study.pilot.settings import Settings, from_record

if TYPE_CHECKING:
    from keras_swapout.study.pilot.data import PilotData
    from keras_swapout.study.pilot.training import OnEpoch, Trainer

_Data = TypeVar("_Data", bound="PilotData")
_KEPT = 16  # compiled networks
STEPS = 10  # that are timed
_LOCK = threading.RLock()  # Keras' seed and what is kept are of the process, not of a thread
_data: dict[str, PilotData] = {}
_trainers: OrderedDict[tuple[str, str], Trainer] = OrderedDict()


def spec_of(
    settings: Settings, method: str, noise: float, seed: int, checksum: int, path: Path | None
) -> dict[str, Any]:
    """A run as a value: JSON, and all that its result depends on.

    Args:
        settings: the pilot's.
        method: a name, as for `keras_swapout.study.pilot.methods.find`.
        noise: share of the training labels that are wrong.
        seed: of the run.
        checksum: of the data, which another process reads anew.
        path: where to keep the trained network, or None.
    """
    import keras

    return {
        "settings": settings.record(),
        "method": method,
        "noise": noise,
        "seed": seed,
        "checksum": checksum,
        "path": None if path is None else str(path.absolute()),
        "folder": os.getcwd(),
        "backend": keras.backend.backend(),
    }


def run_one(spec: Mapping[str, Any], on_epoch: OnEpoch | None = None) -> dict[str, Any]:
    """Does a run: one entry of "runs" in the results, see `Trainer.run`.

    A process reads the data once, and compiles once for what differs in seed, noise and alpha.

    Args:
        spec: from `spec_of`.
        on_epoch: see `OnEpoch`; None in another process.

    Raises:
        ValueError: the loss is not finite any more; this process has another backend; the data are
            not what they were.
    """
    with _LOCK:
        trainer = _trainer_of(spec)
        path = None if spec["path"] is None else Path(spec["path"])
        start = time.perf_counter()
        run = trainer.run(spec["seed"], on_epoch, path, spec["noise"])
        return {**run, "took": time.perf_counter() - start}


def time_step(spec: Mapping[str, Any]) -> float:
    """Seconds of a training step of plain, once it is compiled; what that costs is not lost.

    Args:
        spec: of a run, as for `run_one`.
    """
    with _LOCK:
        return step_of(_trainer_of(spec))


def step_of(trainer: Trainer) -> float:
    """Seconds of a training step of a network that is compiled."""
    from keras_swapout.study.pilot.training import steps_at_once

    at_once = steps_at_once(trainer.data)
    steps = at_once * -(-STEPS // at_once)  # whole calls of the compiled function
    batches = trainer.data.training_batches(0).repeat().take(steps)
    start = time.perf_counter()
    trainer.model.fit(batches, shuffle=False, verbose=0)
    return (time.perf_counter() - start) / steps


def go_where(spec: Mapping[str, Any]) -> None:
    """Makes this process one in which a value of `spec_of` can be done, or says why it can't be."""
    import keras

    if spec["backend"] != keras.backend.backend():
        raise ValueError(
            f"KERAS_BACKEND must be {spec['backend']} in every process. "
            f"Received: {keras.backend.backend()}"
        )
    if os.getcwd() != spec["folder"] and os.path.isdir(spec["folder"]):
        os.chdir(spec["folder"])  # paths may be relative, and modules of the user's lie there


def _trainer_of(spec):
    go_where(spec)
    settings = from_record(spec["settings"])
    return trainer_for(settings, spec["method"], data_of(settings, spec["checksum"]))


def data_of(settings: Settings, checksum: int | None = None) -> PilotData:
    """The data of a pilot, read once in a process.

    Raises:
        ValueError: `checksum` is not that of the data.
    """
    from keras_swapout.study.pilot.data import PilotData

    key = _key(
        settings, (*_OF_RUNS, "epochs", "samples", "learning_rate", "optimizer", "jit_compile")
    )
    if key not in _data:
        _data.clear()
        _trainers.clear()
        _data[key] = PilotData(settings)
    return same(_data[key], settings, checksum)


def same(data: _Data, settings: Settings, checksum: int | None) -> _Data:
    """`data`, or an error unless they have this checksum, where one is given."""
    if checksum is not None and data.checksum != checksum:
        raise ValueError(
            "Argument `data` must give the same each time it is read, as every process reads it. "
            f"Received: {settings.data!r}, which gave something else"
        )
    return data


#: What is said of each run anew.
_OF_RUNS = ("methods", "seeds", "label_noise")


def _key(settings, apart):
    return repr({name: value for name, value in settings.record().items() if name not in apart})


def trainer_for(settings: Settings, name: str, data: PilotData) -> Trainer:
    """The compiled network of a method; methods that differ in alpha alone share it."""
    from keras_swapout.study.pilot.training import Trainer

    method = find(name)
    shared = method if method.alpha is None else method.with_values(alpha=1.0)
    key = _key(settings, _OF_RUNS), shared.name
    if key not in _trainers:
        _trainers[key] = Trainer(method, settings, data)
        while len(_trainers) > _KEPT:
            _trainers.popitem(last=False)
    trainer = _trainers[key]
    trainer.method = method
    return trainer
