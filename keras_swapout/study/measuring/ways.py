"""The ways of predicting with one network: deterministic, recalibrated, stochastic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_swapout.consistency.divergence import Head
from keras_swapout.inference import Prediction, Predictor
from keras_swapout.inference.recalibration import Recalibrator, copied
from keras_swapout.submodels.inside import sublayers
from keras_swapout.submodels.sampling import sampled_layers

DETERMINISTIC, RECALIBRATED = "deterministic", "recalibrated"


class Ways:
    """A network's ways of predicting, each compiled once.

    "deterministic"; "recalibrated", where the network has batch normalisation: a copy whose
    statistics are those of the noise-free network; and "stochastic T=30" for each T, where it has a
    stochastic layer.

    Args:
        model: the network, one output of softmax classes.
        samples: the Ts.
        batch_size: inputs of a batch in the first two ways, rows in the third; None as in
            `keras_swapout.inference.predict`.
        head: what the output is; None as in `predict`.

    Example:

    >>> inputs = keras.Input((4,))
    >>> x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(inputs))
    >>> ways = Ways(keras.Model(inputs, keras.layers.Dense(3)(x)), samples=(2, 10))
    >>> ways.names
    ('deterministic', 'recalibrated', 'stochastic T=2', 'stochastic T=10')
    >>> ways.recalibrate(np.random.rand(20, 4))
    >>> ways.predict("stochastic T=10", np.random.rand(5, 4)).mean.shape
    (5, 3)
    """

    def __init__(
        self,
        model: keras.Model,
        samples: Sequence[int] = (30,),
        batch_size: int | None = None,
        head: Head | None = None,
    ) -> None:
        self.model = model
        options = {"batch_size": batch_size, "head": head}
        self._predictors = {DETERMINISTIC: Predictor(model, **options)}
        self._copy = None
        if any(isinstance(x, keras.layers.BatchNormalization) for x in sublayers(model)):
            self._copy = copied(model)
            self._copy.jit_compile = model.jit_compile
            self._recalibrator = Recalibrator(self._copy)
            self._predictors[RECALIBRATED] = Predictor(self._copy, **options)
        if sampled_layers(model):
            self._predictors |= {
                stochastic(count): Predictor(model, samples=count, **options) for count in samples
            }

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._predictors)

    def recalibrate(self, data: Any, batch_size: int = 256) -> None:
        """Estimates the statistics of the recalibrated way, for the weights as they are now.

        Args:
            data: training inputs, as for `keras_swapout.inference.recalibrate_batch_norm`.
            batch_size: samples of a batch.
        """
        if self._copy is not None:
            self._copy.set_weights(self.model.get_weights())
            self._recalibrator(data, batch_size=batch_size)

    def predict(self, name: str, x: np.ndarray, seed: int = 0) -> Prediction:
        """The prediction of one way; `recalibrate` has to come first where it is that one."""
        return self._predictors[name](x, seed=seed, verbose=False)


def stochastic(samples: int) -> str:
    """The name of stochastic inference with T samples."""
    return f"stochastic T={samples}"
