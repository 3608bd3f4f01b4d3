"""The methods a pilot compares. To add one, enter it in `METHODS`; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_swapout import layers
from keras_swapout.schedules import per_block

LINEAR = (1.0, 0.5)  # Linear(1, 0.5): keep everything at the first block, half at the last


def _itself(trained: keras.Model) -> keras.Model:
    return trained


@dataclass(frozen=True)
class Method:
    """One way of training the network.

    Attributes:
        name: what the command line calls it.
        title: what tables call it.
        formula: one line, what a residual block computes.
        build: `build(network) -> keras.Model` to compile and train, where `network(merge=None)`
            builds the chosen network: initial weights from the run's seed, outputs logits, `merge`
            as in `keras_swapout.models`.
        deployed: `deployed(trained) -> keras.Model`, the network to predict with, where training
            wraps it in something. It must share its weights with what was trained.
    """

    name: str
    title: str
    formula: str
    build: Callable[[Callable[..., keras.Model]], keras.Model]
    deployed: Callable[[keras.Model], keras.Model] = _itself


def _merged(layer: Callable[..., keras.Layer], **schedules: Any):
    return lambda network: network(per_block(layer, **schedules))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("plain", "plain", "Y = X + F(X)", lambda network: network()),
        Method(
            "residual_dropout",
            "residual dropout",
            "Y = Θ (X + F(X)), θ Linear(1, 0.5)",
            _merged(layers.ResidualDropout, theta=LINEAR),
        ),
        Method(
            "stochastic_depth",
            "stochastic depth",
            "Y = X + Θ F(X), one Θ for the batch, θ Linear(1, 0.5)",
            _merged(layers.StochasticDepth, survival_probability=LINEAR),
        ),
        Method(
            "skip_forward",
            "SkipForward",
            "Y = Θ X + (1 − Θ) F(X), θ Linear(1, 0.5)",
            _merged(layers.SkipForward, theta=LINEAR),
        ),
        Method(
            "swapout",
            "Swapout",
            "Y = Θ₁ X + Θ₂ F(X), θ₁ and θ₂ Linear(1, 0.5)",
            _merged(layers.Swapout, theta_1=LINEAR, theta_2=LINEAR),
        ),
    )
}

#: What every method is compared with, so it is part of every pilot.
REFERENCE = "plain"
