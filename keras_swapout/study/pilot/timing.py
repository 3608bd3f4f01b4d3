"""Training step and inference time, relative to the reference method.

A machine's speed drifts, so the methods take turns in one process, and what counts is the ratio to
the reference within each round.
"""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from keras_swapout.datasets.splits import samples
from keras_swapout.study.pilot.methods import REFERENCE
from keras_swapout.study.pilot.training import Trainer

STEPS = 8  # in a row, the first of them not counted
ROUNDS = 11
LEAST_ROUNDS = 5
SECONDS = 30  # no further round once this is spent


def measure_times(trainers: dict[str, Trainer]) -> dict[str, Any]:
    """Times every method on one batch of training images. Its weights change by that.

    Args:
        trainers: a warm trainer for each method, the reference among them.

    Returns:
        {"batch_size", "rounds", "methods": {name: {...}}} with, for each method, medians over the
        rounds in milliseconds, "train_step_ms" and "inference_ms", and of the ratio to the
        reference in the same round the median, "..._ratio", and the quartiles, "..._ratio_low"
        and "..._ratio_high".
    """
    rounds: list[dict[str, tuple[float, float]]] = []
    start = time.perf_counter()
    names = list(trainers)
    for number in range(ROUNDS + 1):
        if number > LEAST_ROUNDS and time.perf_counter() - start > SECONDS:
            break
        turn = number % len(names)  # who goes first changes from round to round
        order = names[turn:] + names[:turn]
        rounds.append({name: (_step(trainers[name]), _inference(trainers[name])) for name in order})
    rounds = rounds[1:]  # the first one warms up
    methods = {}
    for name in names:
        methods[name] = {}
        for index, what in enumerate(("train_step", "inference")):
            times = np.array([result[name][index] for result in rounds])
            ratios = times / np.array([result[REFERENCE][index] for result in rounds])
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            methods[name] |= {
                f"{what}_ms": 1000 * float(np.median(times)),
                f"{what}_ratio": float(middle),
                f"{what}_ratio_low": float(low),
                f"{what}_ratio_high": float(high),
            }
    size = trainers[REFERENCE].data.batch_size
    return {"batch_size": size, "rounds": len(rounds), "methods": methods}


def _step(trainer):
    """Seconds of a training step inside `fit`."""
    clock = _Clock()
    batches = trainer.data.training_batches(seed=0).take(1).cache().repeat(STEPS)
    trainer.model.fit(batches, callbacks=[clock], shuffle=False, verbose=0)
    return clock.seconds / (STEPS - 1)


def _inference(trainer):
    """Seconds of a forward pass in inference mode, from NumPy to NumPy."""
    size = trainer.data.batch_size
    images = trainer.data.info.scaled(samples(trainer.data.train.images, slice(size)))
    start = time.perf_counter()
    for _ in range(STEPS):
        trainer.deployed.predict_on_batch(images)
    return (time.perf_counter() - start) / STEPS


class _Clock(keras.callbacks.Callback):
    """From the end of the first step, which waits for the data, to the end of the epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.start
