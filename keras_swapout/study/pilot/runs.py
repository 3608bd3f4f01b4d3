"""The finished runs of a pilot: where they are kept, and what one has to hold."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from keras_swapout.study import store
from keras_swapout.study.measuring import scores
from keras_swapout.study.shapes import (
    Shape,
    both,
    each,
    either,
    holds,
    many,
    maybe,
    number,
    share,
    text,
)

#: Learning curves. R-Block has more of them.
HISTORY = both(each(many(number)), holds(loss=many(number), val_loss=many(number)))


def nothing(value: Any) -> bool:
    """An empty dict, where a part was not measured."""
    return value == {}


def run_shape() -> Shape:
    """What `Trainer.run` returns."""
    from keras_swapout.study.pilot import data

    severities = holds(**{str(severity): number for severity in data.SEVERITIES})
    corruption = holds(**dict.fromkeys(data.CORRUPTIONS, severities))
    quality = either(scores.QUALITY, scores.ERRORS)
    way = both(quality, each(number), holds(seconds=number))
    run = holds(
        method=text,
        seed=number,
        seconds=number,
        epochs=number,
        parameters=number,
        test=quality,
        validation=quality,
        train=either(holds(accuracy=share, nll=number), scores.ERRORS),
        calibration=maybe(scores.CURVE),
        corruption=either(nothing, corruption),
        consistency=each(maybe(number)),
        inference=either(nothing, both(each(way), holds(deterministic=way))),
        history=HISTORY,
    )
    return both(run, _whole)


def _whole(run):
    """Where there are classes there is a calibration, and of corruptions there is a mean."""
    mean = share(run.get("corruption_accuracy")) or number(run.get("corruption_rmse"))
    calibrated = run["calibration"] is not None or "accuracy" not in run["test"]
    return calibrated and (mean or not run["corruption"])


def name_of(method: str, noise: float, seed: int) -> str:
    """What the files of a run are called.

    Example:

    >>> name_of("swapout", 0.0, 1), name_of("swapout", 0.3, 1)
    ('swapout-seed1', 'swapout-noise0.3-seed1')
    """
    return f"{method}{f'-noise{noise:g}' if noise else ''}-seed{seed}"


def run_path(out: Path, method: str, noise: float, seed: int) -> Path:
    """Where a finished run is kept."""
    return out / "runs" / f"{name_of(method, noise, seed)}.json"


def model_path(out: Path, method: str, noise: float, seed: int) -> Path:
    """Where a trained network is kept."""
    return out / "models" / f"{name_of(method, noise, seed)}.keras"


def read_run(out: Path, method: str, noise: float, seed: int) -> dict[str, Any] | None:
    """A finished run, or None."""
    path = run_path(out, method, noise, seed)
    run = store.read_json(path, run_shape())
    found = run and (run["method"], run.get("noise", 0.0), run["seed"])
    if run is not None and found != (method, noise, seed):
        warnings.warn(f"{path} holds another run and will be made again", stacklevel=2)
        return None
    return run
