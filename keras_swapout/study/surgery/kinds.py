"""What `keras-swapout retrofit` puts in. Names and numbers are those of the pilot's methods.

Parsing a command line takes no Keras, so layers are named here and looked up when they are used.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keras_swapout.arguments import checked_number
from keras_swapout.schedules import per_block
from keras_swapout.study.pilot.methods import BLOCK, LINEAR, RATE, later_ends

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Kind:
    """A layer and the numbers that it takes.

    Attributes:
        layer: "module:class".
        values: by argument, the default: a number, or over depth a pair.
        merges: whether it takes the place of residual additions, or comes behind blocks.
        fixed: its other arguments.
    """

    layer: str
    values: Mapping[str, Any]
    merges: bool = True
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def new(self) -> Callable[..., keras.Layer]:
        # A trained network's outputs stay what they are: what is kept is divided by theta.
        fixed = {**self.fixed, "rescale": True} if self.merges else self.fixed
        return functools.partial(pkgutil.resolve_name(self.layer), **fixed)


_DEPTH = "keras_swapout.layers:StochasticDepth"
KINDS: dict[str, Kind] = {
    "swapout": Kind("keras_swapout.layers:Swapout", {"theta_1": 1.0, "theta_2": LINEAR}),
    "residual_dropout": Kind("keras_swapout.layers:ResidualDropout", {"theta": LINEAR}),
    "stochastic_depth": Kind(_DEPTH, {"survival_probability": LINEAR}),
    "drop_path": Kind(_DEPTH, {"survival_probability": LINEAR}, fixed={"granularity": "sample"}),
    # Not from 1, as in the pilot: a unit that is never F(X) could not be divided by its theta.
    "skip_forward": Kind("keras_swapout.layers:SkipForward", {"theta": 0.5}),
    "bdropdml": Kind("keras_swapout.layers:BDropDML", {"rate": RATE}, merges=False),
    "sdropdml": Kind(
        "keras_swapout.layers:SDropDML", {"rate": RATE, "block_size": BLOCK}, merges=False
    ),
    "dropblock": Kind(
        "keras_swapout.layers:DropBlock2D", {"rate": RATE, "block_size": BLOCK}, merges=False
    ),
}
#: The numbers that the command has options for.
NUMBERS = ("theta_1", "theta_2", "theta", "survival_probability", "rate", "block_size")


def numbers_of(name: str, given: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The numbers of a kind, those that are given in place of its own.

    Raises:
        ValueError: it has no such number; the block size is none.

    Example:

    >>> numbers_of("swapout", {"theta_2": [0.9]})
    {'theta_1': 1.0, 'theta_2': 0.9}
    """
    values = dict(KINDS[name].values)
    for number, several in given.items():
        if number not in values:
            takes = " and ".join(f"`{n}`" for n in values)
            raise ValueError(f"Argument `{number}`: {name} has no such number; it takes {takes}")
        values[number] = several[0] if len(several) == 1 else tuple(several)
    if "block_size" in values:
        what = "a share of the map's side below 1, or a whole number of units"
        size = values["block_size"]
        checked_number(size, lambda n: 0 < n < 1 or n == int(n) >= 1, "block_size", what)
    return values


def with_layers(
    model: keras.Model, name: str, values: Mapping[str, Any], where: Sequence[str] | None, **options
) -> keras.Model:
    """The network with the layers, by `keras_swapout.surgery`.

    Args:
        model: the network.
        name: of `KINDS`.
        values: as `numbers_of` returns them.
        where: names of additions, or of layers for what comes behind blocks; None for all
            additions, or the last two thirds of the blocks.
        **options: of `swap_residuals`.
    """
    from keras_swapout import surgery

    kind = KINDS[name]
    if kind.merges:
        merge = per_block(kind.new, **values)
        return surgery.swap_residuals(model, merge=merge, where=where, **options)
    shapes = _shapes(model, where)
    new = per_block(kind.new, rate=values["rate"])

    def sized(place, places):
        layer, size = new, values["block_size"]
        if size < 1:
            size = max(1, int(size * _side(shapes, place)))
        layer = per_block(functools.partial(kind.new, block_size=int(size)), rate=values["rate"])
        return layer(place, places)

    return surgery.insert_after(model, list(shapes), sized if "block_size" in values else new)


def _shapes(model, where) -> dict[str, tuple[int | None, ...]]:
    """The shape of what there is at each place that is meant."""
    from keras_swapout.surgery.insert import all_calls
    from keras_swapout.surgery.places import chosen

    if where is None:
        return later_ends(model)
    every = {x: tuple(c[0].outputs[0].shape) for x, c in all_calls(model).items()}
    return {x: every[x] for x in chosen(where, every, {}, "places")}


def _side(shapes, place):
    import keras

    name, shape = list(shapes.items())[place]
    first = keras.config.image_data_format() == "channels_first"
    sides = shape[2:] if first else shape[1:-1]
    if not sides or None in sides:
        raise ValueError(
            f"Argument `block_size` is a share of the map's side, and behind {name!r} there is no "
            f"map of a known size: its shape is {shape}. Give it as a number of units, from 1 on"
        )
    return min(sides)
