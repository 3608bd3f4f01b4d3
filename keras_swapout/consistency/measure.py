"""Does a network behave in training as it does at inference? R-Block's claims, measured."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_swapout import metrics
from keras_swapout.arguments import checked, checked_array, checked_count, refusal
from keras_swapout.consistency.divergence import HEAD, Head, log_probabilities
from keras_swapout.consistency.heads import activations, heads
from keras_swapout.consistency.rblock import RBlock
from keras_swapout.submodels.inside import Traced, is_functional, plain_view
from keras_swapout.submodels.sampling import (
    AtInference,
    SubModels,
    checked_steady,
    put_back,
    sampled_layers,
)
from keras_swapout.submodels.views import MOST, Views

INPUTS = "an array (n, ...) of at least one sample"
MODEL = "a keras.Model with one input and one output"


class TrainInferenceConsistency:
    """Measures how a classifier's training-mode behaviour differs from its inference.

    Sub-models are drawn with the masks of training and everything else as at inference: batch
    normalisation uses its moving statistics, so that what is measured is the masks alone. The gap
    is between training mode as it is, with the statistics of the batch, and inference, on the same
    samples. Nothing of the model changes: moving statistics and mask sequences are put back.

    Args:
        model: the network, or an `RBlock` around it. One input, and one output, of class scores
            along the last axis or of binary scores (sigmoid).
        samples: number of sub-models, an int in [2, 10000].
        batch_size: samples of a batch, an int >= 1; training mode has the noise of that.
        head: what the outputs are. None: read off the last activation; a linear one is taken for
            softmax logits.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range; the model has
            several inputs or outputs; the last activation does not say what the output is; when it
            measures, a layer stays random at inference.

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
        checked(model, keras.Model, "model", "a keras.Model")
        self.samples = checked_count(samples, "samples", 2, most=MOST)
        self.batch_size = checked_count(batch_size, "batch_size")
        self.model = model.model if isinstance(model, RBlock) else model
        if is_functional(self.model):
            graph = plain_view(self.model)
            if max(len(graph.inputs), len(graph.outputs)) > 1:
                raise refusal(ValueError, "model", MODEL, model)
        if head is not None:
            expected = f"None or {HEAD} of a distribution"
            checked(head, Head, "head", expected, lambda h: h.distribution)
        self.head = _head_of(self.model) if head is None else head
        self._traced: Traced | None = None  # what the network was when it was compiled

    def __call__(self, x: Any, y: Any = None) -> dict[str, float | None]:
        """The figures on some samples.

        Args:
            x: inputs, an array (n, ...).
            y: labels, ints in 0 .. classes - 1, (n,) (or 0 and 1 of the outputs' shape for
                sigmoid); None leaves out the gaps.

        Returns:
            "two_way_kl", "disagreement", "spread": `keras_swapout.metrics` of the sub-models and
            the full model, None where no layer is stochastic; "accuracy_gap" and "loss_gap": the
            size of the difference between training mode and inference, on the whole batches of x.

        Raises:
            TypeError: `x` or `y` is no array. ValueError: `x` is empty, or gives predictions that
                are NaN; `y` does not fit.
        """
        inputs = x if hasattr(x, "shape") else checked_array(x, "x", INPUTS)
        if not len(inputs.shape) or not len(inputs):
            raise refusal(ValueError, "x", INPUTS, x)
        with put_back(self.model):
            full = self._full(inputs)
            labels = None if y is None else _checked_labels(y, full.shape, self.head)
            figures = self._agreement(full, inputs)
            if labels is not None:
                figures |= self._gaps(full, inputs, labels)
        return figures

    def _full(self, x):
        """Of the network without noise; what is compiled is made anew where it has changed."""
        if self._traced is not None and self._traced.is_of(self.model):
            return self._log_probabilities(self._inference, x)[0]
        self._inference = AtInference(self.model)
        full = checked_steady(
            self.model,
            x,
            lambda: self._log_probabilities(self._inference, x)[0],
            "Measure a network whose layers are off at inference",
        )
        self._sub_models = SubModels(self.model, Views(self.samples, complementary=False))
        self._training_mode = SubModels(self.model, Views(), only_masks=False)
        self._traced = Traced(self.model)  # after a call: by now all is built
        return full

    def _agreement(self, full, x):
        if not sampled_layers(self.model):
            return dict.fromkeys(("two_way_kl", "disagreement", "spread"))
        drawn = self._log_probabilities(self._sub_models, x)
        if np.isnan(full).any() or np.isnan(drawn).any():
            raise refusal(ValueError, "x", "inputs whose predictions are not NaN", x)
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
            _quality(values, y[:whole]) for values in (full[:whole], training)
        )
        return {"accuracy_gap": abs(accuracy - accuracy_), "loss_gap": abs(loss - loss_)}

    def _log_probabilities(self, model, x, size=None):
        """(views, n, ..., outcomes)."""
        size = size or self.batch_size
        batches = []
        for start in range(0, len(x), size):
            batch = x[start : start + size]
            missing = size - len(batch)
            if missing:  # another shape would be compiled again
                batch = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)])
            outputs = tree.flatten(model.predict_on_batch(batch))
            if len(outputs) > 1:  # of a subclassed network nobody knew
                raise refusal(ValueError, "model", MODEL, self.model)
            values = ops.convert_to_numpy(log_probabilities(outputs[0], self.head))
            values = values.reshape(-1, size, *values.shape[1:])
            batches.append(values[:, : size - missing])
        return np.concatenate(batches, axis=1)


def _head_of(model):
    head = heads(model)[0]
    if head.distribution is None:
        raise ValueError(
            "Argument `head` must be a distribution, and the last activation, "
            f"{activations(model)[0]!r}, is none. Give keras_swapout.divergence.Head('softmax', "
            "from_logits=True), for example."
        )
    return head


def _checked_labels(y, shape, head):
    """`y` as the outcomes of log probabilities of this shape."""
    *shape, outcomes = shape
    expected = f"whole numbers in 0 .. {outcomes - 1} of shape {tuple(shape)}"
    labels = checked_array(y, "y", expected)
    if not labels.ndim or len(labels) != shape[0] or labels.size != math.prod(shape):
        raise ValueError(f"Argument `y` must be {expected}. Received: shape {labels.shape}")
    if not np.isin(labels, np.arange(outcomes)).all():
        raise ValueError(
            f"Argument `y` must be {expected}. Received: {labels.min()} .. {labels.max()}"
        )
    labels = labels.astype(int).reshape(shape)
    return labels if head.distribution == "softmax" else 1 - labels  # "label is 1" comes first


def _quality(log_p, outcome):
    """Accuracy and mean negative log likelihood."""
    chosen = np.take_along_axis(log_p, outcome[..., None], axis=-1)
    return float(np.mean(log_p.argmax(-1) == outcome)), float(-chosen.mean())
