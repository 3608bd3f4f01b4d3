"""What a user would try against wrong labels, each with the settings of its paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras

import keras_swapout as ks
from keras_swapout.study.pilot.methods import RATE, later_ends
from keras_swapout.study.pilot.methods import find as find_method

EPOCHS = 30
SMOOTHING = 0.1  # Szegedy et al. 2016
MIXUP = 1.0  # Zhang et al. 2018, on CIFAR
LATE = 0.75  # of the training, after which a later alpha begins


class LabelMethod(NamedTuple):
    """One way of training.

    Attributes:
        trained: (network, steps of the training) -> what is compiled.
        smoothing: of the labels.
        mixup: whether images and labels are mixed.
        epochs: of the training.
    """

    trained: Callable[[keras.Model, int], keras.Model]
    smoothing: float = 0.0
    mixup: bool = False
    epochs: int = EPOCHS

    @property
    def soft(self) -> bool:
        """Whether the labels are distributions."""
        return bool(self.smoothing or self.mixup)


def find(name: str) -> LabelMethod:
    """The method of a name; a number behind "@" is its alpha or its weight of the label, a second
    one then its alpha, and one behind "-" how many epochs it trains."""
    name, _, epochs = name.partition("-")
    if epochs:
        return find(name)._replace(epochs=int(epochs))
    base, *values = name.split("@")
    if base in _REGULAR:
        method = find_method(base)
        return LabelMethod(lambda model, steps: method.trained(model))
    return _OTHERS[base](*map(float, values))


def _rblock(layer, **kwargs):
    """R-Block over the sub-models of a layer of the pilot's, or of Keras' dropout."""

    def trained(model, steps):
        if layer == "dropout":
            model = _dropout(model)
        else:
            method = find_method(layer)
            model = method.surgery(model, method.values)
        given = dict(kwargs)
        if "late" in given:
            late = given.pop("late")
            given["alpha"] = keras.optimizers.schedules.PiecewiseConstantDecay(
                [int(LATE * steps)], [1.0, late]
            )
        return ks.RBlock(model, **given)

    return LabelMethod(trained)


def _dropout(model):
    return ks.surgery.insert_after(
        model, list(later_ends(model)), lambda place, places: keras.layers.Dropout(RATE)
    )


def _augmented(model, steps, label_weight):
    """The two views of the paper of GJS: each sample augmented twice, in a doubled batch."""
    inputs = keras.Input(model.input_shape[1:])
    x = keras.layers.RandomTranslation(0.125, 0.125, fill_mode="constant")(inputs)
    x = keras.layers.RandomFlip("horizontal")(x)
    network = keras.Model(inputs, model(x))
    return ks.RBlock(network, divergence="gjs", label_weight=label_weight)


_REGULAR = ("plain", "swapout", "stochastic_depth", "bdropdml")  # as the pilot has them
_OTHERS = {
    "smoothing": lambda: LabelMethod(lambda model, steps: model, smoothing=SMOOTHING),
    "mixup": lambda: LabelMethod(lambda model, steps: model, mixup=True),
    "dropout": lambda: LabelMethod(lambda model, steps: _dropout(model)),
    "rdrop": lambda n: _rblock("dropout", alpha=n),
    "rblock": lambda n: _rblock("bdropdml", alpha=n),
    "rblock_s": lambda n: _rblock("sdropdml", alpha=n),
    "rblock_late": lambda n: _rblock("bdropdml", late=n),
    "gjs": lambda n, alpha=1.0: _rblock("bdropdml", divergence="gjs", label_weight=n, alpha=alpha),
    "gjs_augmented": lambda n: LabelMethod(lambda model, steps: _augmented(model, steps, n)),
}
