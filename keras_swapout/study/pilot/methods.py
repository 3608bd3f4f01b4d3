"""The methods a pilot compares. To add one, enter it in `METHODS`; nothing else changes."""

from __future__ import annotations

import dataclasses
import functools
import math
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_swapout.arguments import checked_number
from keras_swapout.schedules import per_block, probability

if TYPE_CHECKING:
    import keras

LINEAR = (1.0, 0.5)  # Linear(1, 0.5): keep everything at the first block, half at the last
RATE = 0.2  # drop rate of the region layers
BLOCK = 0.5  # side of their blocks, as a share of the map's
ALPHA = 1.0  # weight of R-Block's consistency term
#: Of GJS: the weight of the label beside two sub-models, and of the part that makes these agree,
#: by docs/wrong-labels.
LABEL_WEIGHT, GJS_ALPHA = 0.5, 3.0


@dataclass(frozen=True)
class Method:
    """One way of training the network.

    Attributes:
        name: what the command line calls it.
        title: what tables call it.
        what: what a residual block computes, in words or a formula.
        surgery: `surgery(model, values, **kwargs) -> keras.Model`, which puts the method's layers
            into a network. `kwargs` go to the layers.
        needs: what the network has to have: "residuals", additions for the layers to take the place
            of; "blocks", whose ends have channels or units to drop; "positions", ends of blocks
            with those too, of a sequence or a map; "maps"; "noise", layers that draw; "dropouts",
            whose rates can be set; or "" for nothing.
        values: the numbers it can be run with: its probabilities, block size and those of
            `RBlock`, alpha or label_weight, each a number or, over depth, a tuple as in
            `keras_swapout.schedules.per_block`.
        family: "reference", "swapout", "rblock" or, of what a network has itself, "own".
        alone: for R-Block the name of the method that trains the same layers without it.
    """

    name: str
    title: str
    what: str
    surgery: Callable[..., keras.Model]
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    family: str = "swapout"
    alone: str | None = None
    needs: str = "residuals"

    @property
    def alpha(self) -> float | None:
        """Weight of R-Block's consistency term; None where there is none to choose."""
        return self.values.get("alpha")

    @property
    def pairs(self) -> bool:
        """Whether two sub-models are trained, by `RBlock`."""
        return not _OF_RBLOCK.isdisjoint(self.values)

    @property
    def formula(self) -> str:
        """One line: what a block computes, and with which numbers."""
        return ", ".join([self.what, *(_described(*item) for item in self.values.items())])

    def trained(self, model: keras.Model, divergence: Any = "kl", **kwargs: Any) -> keras.Model:
        """The model to compile and train.

        Args:
            model: the network, without the method.
            divergence: R-Block's, for outputs that are no distribution.
            **kwargs: arguments of the layers, such as `adjustable=True`.
        """
        from keras_swapout import RBlock

        given = {name: value for name, value in self.values.items() if name in _OF_RBLOCK}
        values = {name: value for name, value in self.values.items() if name not in given}
        model = self.surgery(model, values, **kwargs)
        if "label_weight" in given:
            divergence = "gjs"
        return RBlock(model, divergence=divergence, **given) if given else model

    def unfit(self, model: keras.Model, loss: Any = None) -> str:
        """Why the method can't be put into a network; "" if it can.

        Args:
            model: the network.
            loss: what it is trained with, as `compile` takes it.
        """
        from keras_swapout.consistency.rblock import check_steps
        from keras_swapout.consistency.targets import check_crossentropies
        from keras_swapout.submodels.fork import stochastic_layers
        from keras_swapout.submodels.inside import sublayers
        from keras_swapout.submodels.trial import augments
        from keras_swapout.surgery import block_ends, find_residuals
        from keras_swapout.surgery.dropouts import drops

        try:
            if self.needs == "residuals" and not find_residuals(model):
                return "the network has no residual addition"
            if self.needs in _RANKS:
                what, ranks = _RANKS[self.needs]
                if any(len(shape) not in ranks for shape in block_ends(model).values()):
                    return f"what the blocks of the network end in has no {what}"
            if self.needs == "noise" and all(map(augments, stochastic_layers(model))):
                return "the network has no dropout of its own"
            if self.needs == "dropouts" and not any(map(drops, sublayers(model))):
                return "the network has no dropout of its own"
            if self.pairs:
                check_steps(model)
            if "label_weight" in self.values:
                check_crossentropies(loss)
        except ValueError as error:  # nothing in it can be reached
            return str(error).removeprefix("Argument `model`: ").removeprefix("Argument `model` ")
        return ""

    def idle(self, model: keras.Model) -> str:
        """Why the method would draw nothing in a network that it can be put into; "" if it would.

        Over depth the default probabilities begin at 1, and one block is the first.
        """
        from keras_swapout.surgery import find_residuals

        first = [v[0] if isinstance(v, tuple) else v for v in self.values.values()]
        if self.family != "swapout" or set(first) != {1.0} or len(find_residuals(model)) > 1:
            return ""
        other = ",".join(f"{name}=0.5" for name in self.values)
        return (
            "over depth the probabilities begin at 1, and the network has one residual addition, "
            f"where nothing would be drawn. Try {self.name.partition('@')[0]}@{other}"
        )

    def deployed(self, trained: keras.Model) -> keras.Model:
        """The network to predict with, which shares its weights with what was trained."""
        return trained.model if self.pairs else trained

    def with_values(self, **values: Any) -> Method:
        """The method with other numbers; its name tells them.

        Raises:
            KeyError: it has no such number. ValueError: it is out of range.

        Example:

        >>> method = METHODS["swapout"].with_values(theta_1=(1.0, 0.7), theta_2=0.9)
        >>> method.name
        'swapout@theta_1=1-0.7,theta_2=0.9'
        >>> METHODS["rblock_sdropdml"].with_values(alpha=0.3).name
        'rblock_sdropdml@0.3'
        """
        base = METHODS[self.name.partition("@")[0]]
        if unknown := set(values) - set(base.values):
            raise KeyError(f"{self.name} has no {', '.join(sorted(unknown))}")
        for name, value in values.items():
            check(name, value)
        merged = {**self.values, **values}
        new = {name: value for name, value in merged.items() if value != base.values[name]}
        if not new:
            return base
        alone = None
        if base.alone:
            others = {name: value for name, value in new.items() if name not in _OF_RBLOCK}
            alone = METHODS[base.alone].with_values(**others).name
        return dataclasses.replace(
            base,
            name=f"{base.name}@{_spelled(new)}",
            title=", ".join([base.title, *(_described(*item) for item in new.items())]),
            values=merged,
            alone=alone,
        )


_OF_RBLOCK = frozenset(("alpha", "label_weight"))
#: What the ends of blocks have to have, and the ranks that have it.
_RANKS = {
    "blocks": ("channels or units", range(2, 99)),
    "positions": ("positions", range(3, 99)),
    "maps": ("height and width", (4,)),
}

SYMBOLS = {
    "theta": "θ",
    "theta_1": "θ₁",
    "theta_2": "θ₂",
    "survival_probability": "θ",
    "block_size": "block",
    "alpha": "α",
    "label_weight": "π",
}


LIMITS = {
    "rate": ("a number in [0, 1)", lambda n: 0 <= n < 1),
    "block_size": ("a share of the map's side, in (0, 1]", lambda n: 0 < n <= 1),
    "alpha": ("a number >= 0", lambda n: 0 <= n < math.inf),
    "label_weight": ("a number in (0, 1)", lambda n: 0 < n < 1),
}


def check(name: str, value: Any) -> None:
    """Raises a TypeError or ValueError unless `value` is one for the number `name`."""
    if name in LIMITS:
        expected, fits = LIMITS[name]
        checked_number(value, fits, name, expected)
    else:
        for theta in value if isinstance(value, tuple) else (value,):
            probability(theta, name)


def _described(name, value):
    """A number for people: "θ₁ Linear(1, 0.5)"."""
    text = [f"{v:g}" for v in (value if isinstance(value, tuple) else (value,))]
    shown = {1: text[0], 2: f"Linear({', '.join(text)})"}.get(len(text), f"{', '.join(text)}")
    return f"{SYMBOLS.get(name, name)} {shown}"


def _spelled(values):
    """Numbers as the command line takes them: "theta_1=1-0.5,alpha=0.3"; alpha alone bare."""
    text = {
        name: "-".join(f"{v:g}" for v in (value if isinstance(value, tuple) else (value,)))
        for name, value in values.items()
    }
    if list(text) == ["alpha"]:
        return text["alpha"]
    return ",".join(f"{name}={value}" for name, value in text.items())


def _parsed(text):
    values = {}
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        try:
            numbers = tuple(map(float, re.split(r"(?<!e)-", value)))
        except ValueError:
            raise KeyError(part) from None
        values[name or "alpha"] = numbers if len(numbers) > 1 else numbers[0]
    return values


# Layers by their names, "module:class": the command line shows the methods without Keras.


def _merged(layer: str):
    """`surgery` with the layer as its merges."""

    def surgery(model, values, **kwargs):
        from keras_swapout.surgery import swap_residuals

        merge = per_block(functools.partial(pkgutil.resolve_name(layer), **kwargs), **values)
        return swap_residuals(model, merge=merge)

    return surgery


def later_ends(model: keras.Model) -> dict[str, tuple[int | None, ...]]:
    """Where region layers lie: the ends of the last two thirds of the blocks, with their shapes.

    Of a single block it is that one's.
    """
    from keras_swapout.surgery import block_ends

    ends = list(block_ends(model).items())
    return dict(ends if len(ends) == 1 else ends[math.ceil(len(ends) / 3) :])


def _dropped(layer: str):
    """`surgery` with the layer behind the blocks, but those of the first third.

    Its `block_size`, where it has one, is the side of a block as a share of the map's.
    """

    def surgery(model, values, **kwargs):
        import keras

        from keras_swapout.surgery import insert_after

        ends = later_ends(model)
        first = keras.config.image_data_format() == "channels_first"

        def new(place, places):
            shape = list(ends.values())[place]
            sides = [side or 2 for side in (shape[2:] if first else shape[1:-1])]
            given = dict(values)
            if "block_size" in given:
                given["block_size"] = max(1, int(given["block_size"] * min(sides)))
            return pkgutil.resolve_name(layer)(**given, **kwargs)

        return insert_after(model, list(ends), new)

    return surgery


def _without_own(model, values, **kwargs):
    """`surgery` that has the network's own dropouts drop nothing, at any depth."""
    from keras_swapout.surgery import set_rates

    set_rates(model, 0.0)
    return model


def _own(model, values, **kwargs):
    """`surgery` that leaves a network its dropouts, ours in their place where that can be done."""
    from keras_swapout.surgery import swap_dropouts

    try:
        return swap_dropouts(model)
    except ValueError:  # they are out of reach; then their views are independent
        return model


def _region_methods(name: str, title: str, what: str, layer: str, needs: str, **values):
    """The layers alone and under R-Block."""
    where = f"{what} behind the last two thirds of the blocks"
    values = {"rate": RATE, **values}
    alone = Method(name, title, where, _dropped(layer), values, family="rblock", needs=needs)
    pairs = "complementary" if name in ("bdropdml", "sdropdml") else "independent"
    return alone, dataclasses.replace(
        alone,
        name=f"rblock_{name}",
        title=f"R-Block, {title}",
        what=f"{title}; loss + α × two-way KL of two {pairs} sub-models",
        values={**alone.values, "alpha": ALPHA},
        alone=name,
    )


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "plain", "plain", "as it is", lambda model, values: model, family="reference", needs=""
        ),
        Method(
            "residual_dropout",
            "residual dropout",
            "Y = Θ (X + F(X))",
            _merged("keras_swapout.layers:ResidualDropout"),
            {"theta": LINEAR},
        ),
        Method(
            "stochastic_depth",
            "stochastic depth",
            "Y = X + Θ F(X), one Θ for the batch",
            _merged("keras_swapout.layers:StochasticDepth"),
            {"survival_probability": LINEAR},
        ),
        Method(
            "skip_forward",
            "SkipForward",
            "Y = Θ X + (1 − Θ) F(X)",
            _merged("keras_swapout.layers:SkipForward"),
            {"theta": LINEAR},
        ),
        Method(
            "swapout",
            "Swapout",
            "Y = Θ₁ X + Θ₂ F(X)",
            _merged("keras_swapout.layers:Swapout"),
            {"theta_1": LINEAR, "theta_2": LINEAR},
        ),
        Method(
            "without_own",
            "without own dropout",
            "as it is, but for the rates of its dropouts: 0",
            _without_own,
            family="own",
            needs="dropouts",
        ),
        Method(
            "rblock_own",
            "R-Block, own dropout",
            "as it is; loss + α × two-way KL of two sub-models",
            _own,
            {"alpha": ALPHA},
            family="own",
            alone="plain",
            needs="noise",
        ),
        *_region_methods(
            "spatial_dropout",
            "SpatialDropout",
            "whole channels, drawn by Keras,",
            "keras.layers:SpatialDropout2D",
            "maps",
        ),
        *_region_methods(
            "dropblock",
            "DropBlock",
            "blocks around random centres",
            "keras_swapout.layers:DropBlock2D",
            "maps",
            block_size=BLOCK,
        ),
        *_region_methods(
            "bdropdml", "BDropDML", "whole channels", "keras_swapout.layers:BDropDML", "blocks"
        ),
        *_region_methods(
            "sdropdml",
            "SDropDML",
            "cells of a shifted grid",
            "keras_swapout.layers:SDropDML",
            "positions",
            block_size=BLOCK,
        ),
        Method(
            "gjs_bdropdml",
            "R-Block, GJS",
            "whole channels behind the last two thirds of the blocks; loss: generalised "
            "Jensen-Shannon divergence of the label and two complementary sub-models, its "
            "consistency × α",
            _dropped("keras_swapout.layers:BDropDML"),
            {"rate": RATE, "label_weight": LABEL_WEIGHT, "alpha": GJS_ALPHA},
            family="rblock",
            alone="bdropdml",
            needs="blocks",
        ),
    )
}


def find(name: str) -> Method:
    """The method of a name: one of `METHODS`, or one with "@" and numbers of its own.

    A probability over depth is `start-stop` for Linear(start, stop), or three, one for each stage.
    R-Block's alpha can go without its name.

    Raises:
        KeyError: there is none, or it has no such number. ValueError: a value is out of range.

    Example:

    >>> find("swapout").title, find("rblock_bdropdml@3").alpha
    ('Swapout', 3.0)
    >>> find("swapout@theta_2=1-0.8").title
    'Swapout, θ₂ Linear(1, 0.8)'
    """
    base, at, values = name.partition("@")
    return METHODS[base].with_values(**_parsed(values)) if at else METHODS[base]


#: What every method is compared with, so it is part of every pilot.
REFERENCE = "plain"
