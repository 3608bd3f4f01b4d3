"""Hypermodels for KerasTuner that compile a network once for many trials."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import keras

from keras_swapout import layers
from keras_swapout.arguments import checked, checked_flag, one_of, refusal
from keras_swapout.consistency.rblock import RBlock
from keras_swapout.layers.merge import GRANULARITIES
from keras_swapout.surgery import insert_after, swap_residuals
from keras_swapout.surgery.places import fitted
from keras_swapout.tuning import spaces
from keras_swapout.tuning.restart import start_as
from keras_swapout.tuning.spaces import Range

try:
    import keras_tuner
except ImportError as error:
    raise ImportError(
        'keras_swapout.tuning needs KerasTuner. Install it with: pip install "keras-swapout[tuner]"'
    ) from error

#: The merges that `SwapoutHyperModel` knows, and the names of their probabilities.
MERGES: dict[str, tuple[Callable[..., keras.Layer], tuple[str, ...]]] = {
    "swapout": (layers.Swapout, ("theta_1", "theta_2")),
    "skip_forward": (layers.SkipForward, ("theta",)),
    "residual_dropout": (layers.ResidualDropout, ("theta",)),
    "stochastic_depth": (layers.StochasticDepth, ("survival_probability",)),
}
#: The layers that `RBlockHyperModel` knows, and whether they have blocks.
REGIONS: dict[str, tuple[Callable[..., keras.Layer], bool]] = {
    "sdropdml": (layers.SDropDML, True),
    "bdropdml": (layers.BDropDML, False),
    "dropblock": (layers.DropBlock2D, True),
}
_KEPT = 4  # compiled models, each with its weights and momenta


class _ReusedSteps(keras_tuner.HyperModel):
    """Trials that differ in probabilities and alpha alone share one compiled training step.

    `build` makes a new model each time, as KerasTuner expects, which is cheap: compiling comes with
    the first step. `fit` then trains a model that has been compiled before, started as the new one.
    """

    def __init__(self, reuse: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reuse = checked_flag(reuse, "reuse")
        self._own: set[str] = set()
        self._compiled: OrderedDict[Any, keras.Model] = OrderedDict()

    def _search(self, hp, space, *args, **kwargs):
        """`space(hp, ...)`, and a note of the names that it searches."""
        probe = keras_tuner.HyperParameters()  # `hp` may know them already
        space(probe, *args, **kwargs)
        self._own |= {p.name for p in probe.space}
        return space(hp, *args, **kwargs)

    def fit(
        self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains, as `keras_tuner.HyperModel.fit`. Callbacks see the model that is trained."""
        if not self.reuse:
            return model.fit(*args, **kwargs)
        key = tuple(
            sorted(
                (name, repr(value))
                for name, value in hp.values.items()
                if name not in self._own and not name.startswith("tuner/")
            )
        )
        if key in self._compiled:
            self._compiled.move_to_end(key)
            start_as(self._compiled[key], model)
        else:
            self._compiled[key] = model
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return self._compiled[key].fit(*args, **kwargs)


class SwapoutHyperModel(_ReusedSteps):
    """Searches the thetas of a residual network, and if asked to which merge it uses.

    Works with every tuner of KerasTuner and with any objective. Trials that differ in thetas alone
    share one compiled training step (the thetas are variables of it).

    Args:
        build: `build(hp, merge) -> compiled keras.Model`, where `merge` is what
            `keras_swapout.models` take: a function (block_index, number_of_blocks) -> layer called
            on `[x, fx]`. It may search hyperparameters of its own with `hp`; what it does must
            depend on its arguments alone.
        merges: names among "swapout", "skip_forward", "residual_dropout" and "stochastic_depth";
            with several, the merge is searched as well (`merge`), and the thetas are called
            `swapout_theta_1`, `skip_forward_theta`, ...
        kind, theta, start, stages, step: as for `theta_schedule`, for each theta of the merge.
        granularity: as for the layers; None for each layer's own.
        reuse: whether trials share compiled steps. False builds layers whose thetas are constants.
        **kwargs: those of `keras_tuner.HyperModel`.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range, or a name is
            unknown.

    Example:

    >>> import keras, keras_tuner, keras_swapout as ks, numpy as np, tempfile
    >>> def build(hp, merge):
    ...     inputs = keras.Input((8,))
    ...     x = merge(0, 1)([inputs, keras.layers.Dense(8)(inputs)])
    ...     model = keras.Model(inputs, keras.layers.Dense(1)(x))
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> x, y = np.random.rand(32, 8), np.random.rand(32, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tuner = keras_tuner.RandomSearch(
    ...         SwapoutHyperModel(build, kind="constant"), "val_loss", max_trials=2,
    ...         directory=folder)
    ...     tuner.search(x, y, validation_data=(x, y), verbose=0)
    ...     sorted(tuner.get_best_hyperparameters()[0].values)
    ['theta_1', 'theta_2']

    Source: the thetas that the Swapout paper (section 4) chose by hand.
    """

    def __init__(
        self,
        build: Callable[
            [keras_tuner.HyperParameters, Callable[[int, int], keras.Layer]], keras.Model
        ],
        merges: Sequence[str] = ("swapout",),
        kind: str = "linear",
        theta: float | Range = (0.3, 1.0),
        start: float | Range = 1.0,
        stages: int = 3,
        step: float | None = None,
        granularity: str | None = None,
        reuse: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(reuse, **kwargs)
        self.make_model = _function(build)
        self.merges = _names(merges, MERGES, "merges")
        self.space = {"kind": kind, "theta": theta, "start": start, "stages": stages, "step": step}
        spaces.theta_schedule(keras_tuner.HyperParameters(), spaces.MOST, **self.space)
        if granularity is not None:
            one_of(granularity, GRANULARITIES, "granularity")
        self.granularity = granularity

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        name = _choice(hp, "merge", self.merges)
        make, thetas = MERGES[name]
        given = {} if self.granularity is None else {"granularity": self.granularity}

        def merge(block: int, blocks: int) -> keras.Layer:
            values = {}
            for candidate in self.merges:
                with _where(hp, "merge", [candidate], self.merges):
                    for theta in thetas if candidate == name else ():
                        # KerasTuner mixes up equal names of different merges.
                        own = theta if len(self.merges) == 1 else f"{name}_{theta}"
                        schedule = self._search(
                            hp, spaces.theta_schedule, blocks, own, **self.space
                        )
                        values[theta] = schedule[block]
            return make(**values, **given, adjustable=self.reuse)

        return self.make_model(hp, merge)


class SurgeryHyperModel(SwapoutHyperModel):
    """Searches the thetas of a merge that `keras_swapout.surgery` puts into anybody's network.

    As `SwapoutHyperModel`, for a function that knows nothing of merges: its residual additions are
    found and replaced, with `rescale=True`, so that trained weights go on predicting what they did,
    and the copy is compiled as the network is.

    Args:
        build: `build(hp) -> compiled keras.Model`, functional or Sequential, whose metrics can be
            saved. It may search hyperparameters of its own with `hp`.
        **kwargs: those of `SwapoutHyperModel`.

    Raises:
        As `SwapoutHyperModel`; when it builds, as `keras_swapout.surgery.swap_residuals`, and
        ValueError: the model is not compiled.

    Example:

    >>> import keras, keras_tuner, keras_swapout as ks
    >>> def build(hp):
    ...     inputs = keras.Input((8,))
    ...     model = keras.Model(inputs, inputs + keras.layers.Dense(8)(inputs))
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> hp = keras_tuner.HyperParameters()
    >>> model = SurgeryHyperModel(build, kind="constant").build(hp)
    >>> sorted(hp.values), [type(layer).__name__ for layer in model.layers]
    (['theta_1', 'theta_2'], ['InputLayer', 'Dense', 'Swapout'])

    Source: this package.
    """

    def __init__(
        self, build: Callable[[keras_tuner.HyperParameters], keras.Model], **kwargs: Any
    ) -> None:
        build = _function(build)
        super().__init__(lambda hp, merge: _with_merges(build(hp), merge), **kwargs)


def _with_merges(model, merge):
    copy = swap_residuals(
        _compiled(model), merge=lambda block, blocks: fitted(merge(block, blocks), rescale=True)
    )
    return _compiled_as(copy, model)


def _compiled(model):
    if not isinstance(model, keras.Model) or not model.compiled:
        raise refusal(ValueError, "build", "a function that returns a compiled keras.Model", model)
    return model


def _compiled_as(copy, model):
    """A network compiled as another one is."""
    optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
    rest = {k: v for k, v in model.get_compile_config().items() if k not in ("optimizer", "loss")}
    copy.compile(optimizer, model.loss, **keras.saving.deserialize_keras_object(rest))
    return copy


class RBlockHyperModel(_ReusedSteps):
    """Searches drop rate, block size, layer and alpha of a network trained by R-Block.

    Works with every tuner of KerasTuner and with any objective, for R-Block also
    `keras_tuner.Objective("consistency", "min")` from its logs. Trials that differ in rate and
    alpha alone share one compiled training step (both are variables of it).

    Args:
        build: `build(hp, drop, alpha) -> compiled keras.Model`, where `drop(x)` applies a new layer
            to a tensor, and alpha is for `keras_swapout.RBlock(network, alpha=alpha)`. It may
            search hyperparameters of its own with `hp`; what it does must depend on its arguments
            alone.
        layers: names among "sdropdml", "bdropdml" and "dropblock"; with several, the layer is
            searched as well (`layer`).
        rate: as for `drop_rate`. The range has to begin above 0 or consistency alone is a poor
            objective: with nothing dropped, sub-models agree.
        block_size: as for `block_size`, for layers that have blocks.
        alpha: as for `alpha`.
        reuse: whether trials share compiled steps.
        **kwargs: those of `keras_tuner.HyperModel`.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range, or a name is
            unknown.

    Example:

    >>> import keras, keras_tuner, keras_swapout as ks
    >>> def build(hp, drop, alpha):
    ...     inputs = keras.Input((8, 8, 1))
    ...     x = drop(keras.layers.Conv2D(4, 3)(inputs))
    ...     network = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    ...     model = ks.RBlock(network, alpha=alpha)
    ...     model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ...     return model
    >>> hp = keras_tuner.HyperParameters()
    >>> model = RBlockHyperModel(build, rate=(0.1, 0.5)).build(hp)
    >>> sorted(hp.values)
    ['alpha', 'block_size', 'layer', 'rate']

    Source: R-Block (Wang, Hu 2023), whose layers, rates and weights were chosen by hand.
    """

    def __init__(
        self,
        build: Callable[[keras_tuner.HyperParameters, Callable[[Any], Any], float], keras.Model],
        layers: Sequence[str] = ("sdropdml", "bdropdml"),
        rate: float | Range = (0.05, 0.5),
        block_size: int | tuple[int, int] = (2, 7),
        alpha: float | Range = spaces.ALPHA,
        reuse: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(reuse, **kwargs)
        self.make_model = _function(build)
        self.layers = _names(layers, REGIONS, "layers")
        self.rate, self.block_size, self.alpha = rate, block_size, alpha
        probe = keras_tuner.HyperParameters()
        spaces.drop_rate(probe, rate=rate)
        spaces.block_size(probe, block_size=block_size)
        spaces.alpha(probe, alpha=alpha)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        name = _choice(hp, "layer", self.layers)
        make, blocks = REGIONS[name]
        values = {"rate": self._search(hp, spaces.drop_rate, rate=self.rate)}
        weight = self._search(hp, spaces.alpha, alpha=self.alpha)
        with _where(hp, "layer", [n for n in self.layers if REGIONS[n][1]], self.layers):
            if blocks:
                values["block_size"] = spaces.block_size(hp, block_size=self.block_size)

        return self._made(hp, lambda: make(**values, adjustable=self.reuse), weight)

    def _made(self, hp, new, weight):
        """The model of a trial, with `new()` for its layers."""
        return self.make_model(hp, lambda x: new()(x), weight)


class SurgeryRBlockHyperModel(RBlockHyperModel):
    """Searches what R-Block drops, and its alpha, in anybody's network.

    As `RBlockHyperModel`, for a function that knows nothing of it: region layers are put behind the
    blocks by `keras_swapout.surgery.insert_after`, and the copy is trained by `RBlock`, compiled as
    the network is.

    Args:
        build: `build(hp) -> compiled keras.Model`, functional or Sequential, whose metrics can be
            saved. It may search hyperparameters of its own with `hp`.
        where: the places, as for `insert_after`.
        **kwargs: those of `RBlockHyperModel`.

    Raises:
        As `RBlockHyperModel`; when it builds, as `insert_after`, and ValueError: the model is not
        compiled.

    Example:

    >>> import keras, keras_tuner, keras_swapout as ks
    >>> def build(hp):
    ...     inputs = keras.Input((8,))
    ...     x = inputs + keras.layers.Dense(8)(inputs)
    ...     model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    ...     model.compile("sgd", "sparse_categorical_crossentropy")
    ...     return model
    >>> hp = keras_tuner.HyperParameters()
    >>> model = SurgeryRBlockHyperModel(build, layers="bdropdml").build(hp)
    >>> sorted(hp.values), type(model).__name__
    (['alpha', 'rate'], 'RBlock')

    Source: this package.
    """

    def __init__(
        self,
        build: Callable[[keras_tuner.HyperParameters], keras.Model],
        where: Any = "blocks",
        **kwargs: Any,
    ) -> None:
        super().__init__(build, **kwargs)
        self.where = where

    def _made(self, hp, new, weight):
        model = _compiled(self.make_model(hp))
        copy = insert_after(model, self.where, lambda place, places: new())
        return _compiled_as(RBlock(copy, alpha=weight), model)


def _function(build):
    return checked(build, Callable, "build", "a function")


def _names(names, known, argument):
    expected = f"one or more of {tuple(known)}, each once"
    given = (
        (names,) if isinstance(names, str) else checked(names, (list, tuple), argument, expected)
    )
    for name in given:
        checked(name, str, argument, expected, lambda name: name in known)
    if not given or len(set(given)) < len(given):
        raise refusal(ValueError, argument, expected, names)
    return tuple(given)


def _choice(hp, name, values):
    return hp.Choice(name, list(values)) if len(values) > 1 else values[0]


def _where(hp, name, chosen, values):
    """The scope of hyperparameters that matter where `name` is one of `chosen`.

    To be entered in every build, also where they do not: only so KerasTuner learns of them.
    """
    return (
        hp.conditional_scope(name, list(chosen)) if 0 < len(chosen) < len(values) else nullcontext()
    )
