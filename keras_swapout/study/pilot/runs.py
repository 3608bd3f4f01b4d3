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


def run_shape() -> Shape:
    """What `Trainer.run` returns."""
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
        corruption=each(each(number)),
        consistency=each(maybe(number)),
        inference=both(each(way), holds(deterministic=way)),
        history=HISTORY,
    )
    # Where there are classes there is a calibration.
    return both(run, lambda run: run["calibration"] is not None or "accuracy" not in run["test"])


def run_path(out: Path, method: str, seed: int) -> Path:
    """Where a finished run is kept."""
    return out / "runs" / f"{method}-seed{seed}.json"


def model_path(out: Path, method: str, seed: int) -> Path:
    """Where a trained network is kept."""
    return out / "models" / f"{method}-seed{seed}.keras"


def read_run(out: Path, method: str, seed: int) -> dict[str, Any] | None:
    """A finished run, or None."""
    path = run_path(out, method, seed)
    run = store.read_json(path, run_shape())
    if run is not None and (run["method"], run["seed"]) != (method, seed):
        warnings.warn(f"{path} holds another run and will be made again", stacklevel=2)
        return None
    return run
