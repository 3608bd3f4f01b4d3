"""Does a network behave in training as it does at inference? R-Block's claims, measured."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swapout import metrics
from keras_swapout.arguments import checked_count
from keras_swapout.consistency.divergence import Head, log_probabilities
from keras_swapout.consistency.heads import activations, heads
from keras_swapout.consistency.rblock import RBlock
from keras_swapout.submodels.sampling import SubModels, masks_only, put_back, sampled_layers
from keras_swapout.submodels.views import Views


class TrainInferenceConsistency:
    """Measures how a classifier's training-mode behaviour differs from its inference.

    Sub-models are drawn with the masks of training and everything else as at inference: batch
    normalisation uses its moving statistics, so that what is measured is the masks alone. The gap
    is between training mode as it is, with the statistics of the batch, and inference, on the same
    samples. Nothing of the model changes: moving statistics and mask sequences are put back.

    Args:
        model: the network, or an `RBlock` around it. One output, of class scores along the last
            axis or of binary scores (sigmoid).
        samples: number of sub-models, an int >= 2.
        batch_size: samples of a batch, an int >= 1; training mode has the noise of that.
        head: what the outputs are. None: read off the last activation; a linear one is taken for
            softmax logits.

    Raises:
        ValueError: an argument is out of range; the last activation does not say what the outputs
            are.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> inputs = keras.Input((8,))
    >>> outputs = keras.layers.Dense(3)(keras.layers.Dropout(0.5, seed=1)(inputs))
    >>> measure = TrainInferenceConsistency(keras.Model(inputs, outputs), samples=4)
    >>> figures = measure(np.random.rand(64, 8), np.random.randint(0, 3, 64))
    >>> sorted(figures)
    ['accuracy_gap', 'disagreement', 'loss_gap', 'spread', 'two_way_kl']

    Source: the claims of R-Block (Wang, Hu 2023): a smaller gap between training and inference and
    a smaller spread of outputs. How they are measured is ours.
    """

    def __init__(
        self,
        model: keras.Model,
        samples: int = 8,
        batch_size: int = 64,
        head: Head | None = None,
    ) -> None:
        self.samples = checked_count(samples, "samples", 2)
        self.batch_size = checked_count(batch_size, "batch_size")
        self.model = model.model if isinstance(model, RBlock) else model
        self.head = _checked_head(self.model) if head is None else head
        self._sub_models = SubModels(
            self.model, Views(samples, complementary=False), stochastic=sampled_layers
        )
        self._training_mode = SubModels(self.model, Views())

    def __call__(self, x: Any, y: Any = None) -> dict[str, float | None]:
        """The figures on some samples.

        Args:
            x: inputs, an array (n, ...).
            y: labels, ints (n,) (or 0 and 1 of the outputs' shape for sigmoid); None leaves out the
                gaps.

        Returns:
            "two_way_kl", "disagreement", "spread": `keras_swapout.metrics` of the sub-models and
            the full model, None where no layer is stochastic; "accuracy_gap" and "loss_gap": the
            size of the difference between training mode and inference, on the whole batches of x.
        """
        with put_back(self.model):
            full = self._log_probabilities(self.model, x)
            figures = self._agreement(full, x)
            if y is not None:
                figures |= self._gaps(full, x, np.asarray(y))
        return figures

    def _agreement(self, full, x):
        if not sampled_layers(self.model):
            return dict.fromkeys(("two_way_kl", "disagreement", "spread"))
        with masks_only(self.model):
            drawn = self._log_probabilities(self._sub_models, x)
        return {
            "two_way_kl": metrics.mean_two_way_kl(full, drawn),
            "disagreement": metrics.disagreement(full, drawn),
            "spread": metrics.spread(drawn),
        }

    def _gaps(self, full, x, y):
        size = min(self.batch_size, len(y))
        whole = len(y) // size * size  # a padded batch would have other statistics
        training = self._log_probabilities(self._training_mode, x[:whole], size)[0]
        (accuracy, loss), (accuracy_, loss_) = (
            _quality(values, y[:whole], self.head) for values in (full[:whole], training)
        )
        return {"accuracy_gap": abs(accuracy - accuracy_), "loss_gap": abs(loss - loss_)}

    def _log_probabilities(self, model, x, size=None):
        """(n, ..., outcomes) of the network, (views, n, ..., outcomes) in training mode."""
        size = size or self.batch_size
        batches = []
        for start in range(0, len(x), size):
            batch = x[start : start + size]
            missing = size - len(batch)
            if missing:  # another shape would be compiled again
                batch = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)])
            outputs = model.predict_on_batch(batch)
            values = ops.convert_to_numpy(log_probabilities(outputs, self.head))
            values = values.reshape(-1, size, *values.shape[1:])
            batches.append(values[:, : size - missing])
        values = np.concatenate(batches, axis=1)
        return values[0] if model is self.model else values


def _checked_head(model):
    head = heads(model)[0]
    if head.distribution is None:
        raise ValueError(
            "Argument `head` must be a distribution, and the last activation, "
            f"{activations(model)[0]!r}, is none. Give keras_swapout.divergence.Head('softmax', "
            "from_logits=True), for example."
        )
    return head


def _quality(log_p, y, head):
    """Accuracy and mean negative log likelihood."""
    outcome = y if head.distribution == "softmax" else 1 - y  # "label is 1" comes first
    outcome = outcome.astype(int).reshape(log_p.shape[:-1])
    chosen = np.take_along_axis(log_p, outcome[..., None], axis=-1)
    return float(np.mean(log_p.argmax(-1) == outcome)), float(-chosen.mean())
