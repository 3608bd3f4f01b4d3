"""Callbacks for `fit`: noise that grows over training time, and how well labels are learnt."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_swapout.arguments import checked_count, checked_number
from keras_swapout.consistency.labels import ClassLogits, checked_labels, margins, softmax
from keras_swapout.layers.base import RandomLayer
from keras_swapout.submodels.inside import sublayers

__all__ = ["AreaUnderMargin", "Ramp"]


def __dir__() -> list[str]:
    return __all__


class Ramp(keras.callbacks.Callback):
    """Lets noise in slowly: nothing is dropped in the first epoch, as asked for after `epochs`.

        ramp = min(1, epoch / epochs),   epoch = 0, 1, ...
        theta in force = 1 - ramp * (1 - theta),   drop rate in force = ramp * rate

    It acts on all layers of this package in the model that were made with `adjustable=True`, so
    that nothing is compiled again. Inference uses the theta in force, which in the epoch `epochs`
    and for good is the layer's own. A model saved on the way and trained on with
    `fit(initial_epoch=...)` goes on from there.

    Args:
        epochs: length of the ramp in epochs, a number > 0.

    Raises:
        TypeError: `epochs` is no number. ValueError: it is not above 0; at the beginning of `fit`,
            the model has a layer that can't be adjusted, or none at all, or one with
            "complementary" coupling (`SkipForward`), which drops F(X) entirely where theta is 1.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> layer = ks.layers.BDropDML(0.4, adjustable=True)
    >>> model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 6)), np.ones((8, 1))
    >>> _ = model.fit(x, y, epochs=3, callbacks=[ks.callbacks.Ramp(4)], verbose=0)
    >>> float(layer.ramp)  # in the third epoch
    0.5

    Source: the schedule of DropBlock (Ghiasi, Lin, Le 2018, section 3) and of ScheduledDropPath
    (Zoph et al., "Learning transferable architectures", CVPR 2018, section 3): linear in the epoch.
    """

    def __init__(self, epochs: float) -> None:
        super().__init__()
        expected = "a number above 0"
        self.epochs = checked_number(epochs, lambda n: 0 < n < float("inf"), "epochs", expected)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.layers = [x for x in sublayers(self.model) if isinstance(x, RandomLayer)]
        fixed = [layer.name for layer in self.layers if not layer.adjustable]
        if fixed or not self.layers:
            raise ValueError(
                "Ramp needs layers of keras_swapout made with adjustable=True. Received: "
                + (f"without it, {fixed}" if fixed else f"{self.model.name!r}, which has none")
            )
        swapped = [x.name for x in self.layers if getattr(x, "coupling", "") == "complementary"]
        if swapped:
            raise ValueError(
                "Ramp can't lead theta from 1 where F(X) is kept with 1 - theta: nothing would be "
                f"left of it. Received: complementary coupling in {swapped}"
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        _ = self.model  # JAX keeps the state to itself until somebody asks for the model
        for layer in self.layers:
            layer.ramp.assign(min(1.0, epoch / self.epochs))


class AreaUnderMargin(keras.callbacks.Callback):
    """How well each label was learnt over the whole training: low where it may be wrong.

        margin = z[y] - max_{c != y} z[c]   after each epoch,   scores = mean of it over the epochs

    of a sample with logits z and label y. A network that learns a wrong label late, or against what
    it has learnt of the others, has a low or negative score for it, even if it knows it by heart at
    the end. Of a network that gives probabilities, z are their logarithms.

    Args:
        x: the n training inputs, as `fit` gets them.
        y: their labels, (n,), ints in 0 .. classes - 1.
        batch_size: samples at a time, an int >= 1.

    Attributes:
        scores: (n,), float64, of the epochs of the last `fit` so far; None before the first.
        probabilities: (n, classes), float64, likewise the mean of what was predicted, for
            `keras_swapout.consistency.find_label_issues`: what is learnt late counts as little.

    Raises:
        TypeError, ValueError: an argument is not as above; in `fit`, the network's output is
            something else than classes (softmax, or a sigmoid of one unit).

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("sgd", loss)
    >>> x, y = np.eye(6), np.array([0, 1, 2, 0, 1, 2])
    >>> area = ks.callbacks.AreaUnderMargin(x, y)
    >>> _ = model.fit(x, y, epochs=3, callbacks=[area], verbose=0)
    >>> area.scores.shape, area.probabilities.shape
    ((6,), (6, 3))

    Source: Pleiss, Zhang, Elenberg, Weinberger (2020), "Identifying mislabeled data using the area
    under the margin ranking", arXiv 2001.10528, section 3. Departures: they take the logits of the
    training passes, here the samples are predicted without noise after each epoch, which is a pass
    more; their threshold, by samples of an extra class, is left to the user.
    """

    def __init__(self, x: Any, y: Any, batch_size: int = 32) -> None:
        super().__init__()
        self.x, self.y = x, checked_labels(y, "y")
        self.batch_size = checked_count(batch_size, "batch_size")
        self.scores: np.ndarray | None = None
        self.probabilities: np.ndarray | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._logits, self._epochs = ClassLogits(self.model), 0
        self._scores = self._probabilities = 0.0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        _ = self.model  # JAX keeps the state to itself until somebody asks for the model
        logits = self._logits(self.x, self.batch_size)
        self._scores += margins(logits, self.y, "y")
        self._probabilities += softmax(logits)
        self._epochs += 1
        self.scores = self._scores / self._epochs
        self.probabilities = self._probabilities / self._epochs
