"""Callbacks for `fit`: noise that grows over training time."""

from __future__ import annotations

import keras

from keras_swapout.arguments import checked_number
from keras_swapout.layers.base import RandomLayer
from keras_swapout.submodels.inside import sublayers

__all__ = ["Ramp"]


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
