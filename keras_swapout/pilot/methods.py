"""The methods a pilot compares. To add one, enter it in `METHODS`; nothing else changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_swapout import RBlock, layers
from keras_swapout.schedules import per_block

LINEAR = (1.0, 0.5)  # Linear(1, 0.5): keep everything at the first block, half at the last
RATE = 0.2  # drop rate of the region layers
ALPHA = 1.0  # weight of R-Block's consistency term


@dataclass(frozen=True)
class Method:
    """One way of training the network.

    Attributes:
        name: what the command line calls it.
        title: what tables call it.
        formula: one line, what a residual block computes.
        build: `build(network) -> keras.Model`, where `network(merge=None)` builds the chosen
            network: initial weights from the run's seed, outputs logits, `merge` as in
            `keras_swapout.models`.
        family: "reference", "swapout" or "rblock".
        alone: for R-Block the name of the method that trains the same layers without it.
        alpha: weight of R-Block's consistency term; None trains the network as it is.
    """

    name: str
    title: str
    formula: str
    build: Callable[[Callable[..., keras.Model]], keras.Model]
    family: str = "swapout"
    alone: str | None = None
    alpha: float | None = None

    def trained(self, network: Callable[..., keras.Model]) -> keras.Model:
        """The model to compile and train."""
        model = self.build(network)
        return model if self.alpha is None else RBlock(model, alpha=self.alpha)

    def deployed(self, trained: keras.Model) -> keras.Model:
        """The network to predict with, which shares its weights with what was trained."""
        return trained if self.alpha is None else trained.model


def _merged(layer: Callable[..., keras.Layer], **schedules: Any):
    return lambda network: network(per_block(layer, **schedules))


def _dropped(layer: Callable[[int], keras.Layer]):
    """`build` with `layer(half the side of the map)` behind each merge of the last two stages."""

    def merge(block, blocks):
        if 3 * block < blocks:
            return keras.layers.Add()

        def add_and_drop(pair):
            y = keras.layers.add(pair)
            first = keras.config.image_data_format() == "channels_first"
            sides = [side or 2 for side in (y.shape[2:] if first else y.shape[1:3])]
            return layer(max(1, min(sides) // 2))(y)

        return add_and_drop

    return lambda network: network(merge)


def _region_methods(name: str, title: str, formula: str, layer: Callable[[int], keras.Layer]):
    """The layers alone and under R-Block."""
    where = f"{formula}; rate {RATE:g}, behind the merges of the last two stages"
    alone = Method(name, title, where, _dropped(layer), family="rblock")
    pairs = "complementary" if name in ("bdropdml", "sdropdml") else "independent"
    return alone, dataclasses.replace(
        alone,
        name=f"rblock_{name}",
        title=f"R-Block, {title}",
        formula=f"{title}; loss + α × two-way KL of two {pairs} sub-models, α {ALPHA:g}",
        alone=name,
        alpha=ALPHA,
    )


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("plain", "plain", "Y = X + F(X)", lambda network: network(), family="reference"),
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
        *_region_methods(
            "spatial_dropout",
            "SpatialDropout",
            "whole channels, drawn by Keras",
            lambda side: keras.layers.SpatialDropout2D(RATE),
        ),
        *_region_methods(
            "dropblock",
            "DropBlock",
            "blocks of half the map around random centres",
            lambda side: layers.DropBlock2D(RATE, side),
        ),
        *_region_methods(
            "bdropdml",
            "BDropDML",
            "whole channels",
            lambda side: layers.BDropDML(RATE),
        ),
        *_region_methods(
            "sdropdml",
            "SDropDML",
            "cells of a shifted grid of half the map",
            lambda side: layers.SDropDML(RATE, side),
        ),
    )
}


def find(name: str) -> Method:
    """The method of a name: one of `METHODS`, or an R-Block one with "@" and an alpha.

    Raises:
        KeyError: there is none.

    Example:

    >>> find("swapout").title, find("rblock_bdropdml@3").alpha
    ('Swapout', 3.0)
    """
    base, at, alpha = name.partition("@")
    method = METHODS[base if at and METHODS[base].alone else name]
    return with_alpha(method, float(alpha)) if at else method


def with_alpha(method: Method, alpha: float) -> Method:
    """An R-Block method with another weight of the consistency term.

    Example:

    >>> with_alpha(METHODS["rblock_sdropdml"], 0.3).name
    'rblock_sdropdml@0.3'
    """
    if alpha == ALPHA:
        return METHODS[f"rblock_{method.alone}"]
    return dataclasses.replace(
        method,
        name=f"rblock_{method.alone}@{alpha:g}",
        title=f"{method.title}, α {alpha:g}",
        formula=method.formula.replace(f"α {ALPHA:g}", f"α {alpha:g}"),
        alpha=alpha,
    )


#: What every method is compared with, so it is part of every pilot.
REFERENCE = "plain"
