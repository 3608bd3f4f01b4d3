"""R-Block: a model whose training step makes two sub-models of the network agree.

Keras' own training step does the work, on every backend: the network that it calls is the forked
one, and the loss that it asks for has the consistency term. So nothing here depends on a backend,
and what works with `fit` keeps working.

Source: Wang, Hu, "R-Block: Regularized block of dropout for convolutional networks", 2023, arXiv
2307.15150.
"""

from __future__ import annotations

import contextvars
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_swapout import backend
from keras_swapout.arguments import checked_number
from keras_swapout.consistency.divergence import DIVERGENCES
from keras_swapout.consistency.heads import activations, divergences, per_output
from keras_swapout.submodels.fork import forked, is_functional, plain_view, stochastic_layers
from keras_swapout.submodels.views import SplitViews, Views, laid_out

# Whether a training step is running. A context variable, as replicas take turns in threads.
_training_step: contextvars.ContextVar[bool] = contextvars.ContextVar("step", default=False)
#: What `fit` reports of the two terms.
TASK_LOSS, CONSISTENCY = "task_loss", "consistency"


@keras.saving.register_keras_serializable("keras_swapout")
class RBlock(keras.Model):
    """Trains a network so that two of its random sub-models predict the same.

        loss = [L(y, p1) + L(y, p2)] / 2
             + alpha * mean over samples of [KL(p1 || p2) + KL(p2 || p1)] / 2

    (the mean also over the pixels, steps or binary labels of a sample, each a distribution of its
    own, as Keras' losses take it). p1 and p2 are the predictions of one sample by two sub-models,
    which our layers make as different as they can be (complementary masks); `DropBlock2D` and
    Keras' own dropouts draw two independent masks, which is R-Drop. Both come from one pass of the
    forked network (see `keras_swapout.fork`). `evaluate` and `predict` run the plain network once.
    What ships is `.model`.

    Args:
        model: the network, with stochastic layers in it. Its weights are trained in place.
        alpha: weight of the consistency term: a number >= 0, or a schedule, a function of the
            training step (a scalar tensor) such as a `keras.optimizers.schedules` object. A number
            is held as a variable: `model.alpha = 0.3` changes it without compiling anything again.
        divergence: "kl", "js" (bounded by log 2), "mse" (for regression), or a function (first,
            second) -> values (batch, ...). For several outputs also a list or a dict by output
            name; None leaves an output out. Outputs without a loss are left out.
        fraction: share of each batch that is forked, in (0, 1]: the first samples of the batch,
            rounded to a whole number >= 1. The task loss weighs every sample once, forked or not.
        stop_gradient: whether each sub-model takes the other's prediction as a constant target,
            the form of deep mutual learning.
        **kwargs: those of `keras.Model`.

    Whether outputs are softmax or binary (sigmoid) ones, logits or probabilities, is read off the
    loss and the last activation. Sample and class weights weigh both terms, `loss_weights` an
    output's consistency as its task loss, and masked steps count in neither. Beside "loss", `fit`
    reports "task_loss" and "consistency" (before alpha); metrics are of the first view, losses of
    single outputs the mean of both.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range; the model has no
            stochastic layer, so both views would be equal; at the latest in `compile`, an output is
            no distribution although the divergence needs one.

    Warns:
        if layers with a rate above 0.5 make the two views drop the same units.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> inputs = keras.Input((8, 8, 1))
    >>> x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    >>> x = ks.layers.SDropDML(0.3, block_size=3)(x)
    >>> outputs = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    >>> rblock = RBlock(keras.Model(inputs, outputs), alpha=1.0)
    >>> rblock.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> x, y = np.random.rand(16, 8, 8, 1), np.random.randint(0, 3, 16)
    >>> history = rblock.fit(x, y, verbose=0).history
    >>> sorted(history)
    ['consistency', 'loss', 'task_loss']
    >>> rblock.model.predict(x, verbose=0).shape
    (16, 3)

    Source: R-Block (Wang, Hu 2023). The paper runs two passes and adds the two task losses where
    this takes their mean, so that alpha and the learning rate mean the same as without R-Block;
    "js", "mse", `fraction` and `stop_gradient` are additions.
    """

    def __init__(
        self,
        model: keras.Model,
        alpha: float | Callable[[Any], Any] = 1.0,
        divergence: Any = "kl",
        fraction: float = 1.0,
        stop_gradient: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"Argument `model` must be a keras.Model. Received: model={model!r} of type "
                f"{type(model)}"
            )
        kwargs = {"name": f"rblock_{model.name}", "dtype": model.dtype_policy, **kwargs}
        # The network casts its inputs itself, as it does without R-Block.
        super().__init__(**{"autocast": False, **kwargs})
        self.model = model
        self._alpha = alpha if callable(alpha) else _checked_alpha(alpha)
        self.divergence = _checked_divergence(divergence)
        self.fraction = checked_number(
            fraction, lambda n: 0 < n <= 1, "fraction", "a number in (0, 1]"
        )
        self.stop_gradient = bool(stop_gradient)
        self._run = forked(model)
        self._activations = activations(model)
        self._loss_weights = None
        if is_functional(model):
            self.output_names = plain_view(model).output_names
        self._task_loss = keras.metrics.Mean(name=TASK_LOSS)
        self._consistency = keras.metrics.Mean(name=CONSISTENCY)
        if callable(alpha):
            self.steps = self.add_weight(
                name="steps",
                initializer="zeros",
                dtype="int32",
                trainable=False,
                aggregation="only_first_replica",
            )
        else:
            self._weight = self.add_weight(
                name="alpha",
                initializer=keras.initializers.Constant(self._alpha),
                dtype="float32",
                autocast=False,
                trainable=False,
            )
        self.built = model.built
        self._checked = model.built  # what is not built may yet make its layers
        if self._checked:
            _check_layers(model)

    @property
    def alpha(self) -> float | Callable[[Any], Any]:
        """Weight of the consistency term. A number can be set anew at any time: it is a variable of
        the training step, so nothing is compiled again.
        """
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        if callable(self._alpha) or callable(value):
            raise ValueError(
                "Argument `alpha` of RBlock can be set anew if both are numbers, as a schedule is "
                f"part of the training step. Received: alpha={value!r} after {self._alpha!r}"
            )
        self._alpha = _checked_alpha(value)
        self._weight.assign(self._alpha)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not _training_step.get():
            return self.model(inputs, training=training)
        return self._run(inputs, self._views(inputs), training)

    # The training step

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """Keras' training step, on two views. Arguments and results depend on the backend."""
        if not self._checked:
            _check_layers(self.model)
            self._checked = True
        token = _training_step.set(True)
        try:
            return super().train_step(*args, **kwargs)
        finally:
            _training_step.reset(token)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of a batch; in a training step, of the two views that `y_pred` holds."""

        def task_loss(y_pred):
            return super(RBlock, self).compute_loss(x, y, y_pred, sample_weight, training)

        if not _training_step.get():
            return task_loss(y_pred)
        views = self._views(x)
        pairs = _pairs(y_pred, views)
        task = (task_loss(_view(0, pairs, y_pred)) + task_loss(_view(1, pairs, y_pred))) / 2
        consistency = ops.cast(self._divergence(y_pred, pairs, views, sample_weight), task.dtype)
        # Under tf.distribute a loss is this replica's share of the whole.
        samples, replicas = _samples(x), backend.replicas()
        self._task_loss.update_state(task * replicas, sample_weight=samples)
        self._consistency.update_state(consistency * replicas, sample_weight=samples)
        if callable(self._alpha):
            alpha = ops.cast(self._alpha(ops.convert_to_tensor(self.steps)), task.dtype)
            self.steps.assign_add(1)
        else:
            alpha = ops.cast(self._weight, task.dtype)
        return task + alpha * consistency

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """As Keras', of the first view in a training step."""
        if _training_step.get():
            y_pred = _view(0, _pairs(y_pred, self._views(x)), y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self) -> dict[str, Any]:
        results = super().get_metrics_result()
        if not _training_step.get():  # `evaluate` has no two views
            del results[TASK_LOSS], results[CONSISTENCY]
        return results

    def _views(self, x):
        if self.fraction == 1:
            return Views(count=2)
        samples = _samples(x)
        if isinstance(samples, int):
            return Views(count=2, forked=(max(1, round(self.fraction * samples)), samples))
        share = ops.cast(ops.round(self.fraction * ops.cast(samples, "float32")), samples.dtype)
        return Views(count=2, forked=(ops.maximum(share, 1), samples))

    def _divergence(self, y_pred, pairs, views, sample_weight):
        names = self._names(y_pred)
        weights = per_output(sample_weight, names)
        total = 0.0
        for pair, (function, scale), weight in zip(
            pairs, self._functions(names), weights, strict=True
        ):
            if function is None:
                continue
            forked = views.repeat(ops.shape(pair.first)[0])
            values = function(pair.first[:forked], pair.second[:forked])
            weight = _weight(values, weight, pair.mask, forked)
            total = total + scale * _MEAN(values, values, sample_weight=weight)
        return total

    # What the outputs are

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any):
        """As `keras.Model.compile`.

        Raises:
            ValueError: also where `divergence` needs a distribution and an output is none.
        """
        super().compile(optimizer, loss, *args, **kwargs)
        self._loss_weights = args[0] if args else kwargs.get("loss_weights")
        if is_functional(self.model):
            self._functions(self._names(plain_view(self.model).output))

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # Keras does not call a `compile` of one's own by itself.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def _names(self, y_pred):
        """For each output the names that a dict may know it by."""
        paths = [path for path, _ in tree.flatten_with_path(y_pred)]
        names = getattr(self, "output_names", None) or [None] * len(paths)
        return [(path[-1] if path else None, name) for path, name in zip(paths, names, strict=True)]

    def _functions(self, names):
        return divergences(
            names,
            self.divergence,
            self.loss,
            self._loss_weights,
            self._activations,
            self.stop_gradient,
        )

    # alpha is in the configuration: weights of another run do not change it.

    def save_own_variables(self, store: Any) -> None:
        if callable(self._alpha):
            store["steps"] = ops.convert_to_numpy(self.steps)

    def load_own_variables(self, store: Any) -> None:
        if callable(self._alpha) and "steps" in store:
            self.steps.assign(store["steps"])

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "trainable": self.trainable,
            "model": serialize(self.model),
            "alpha": serialize(self.alpha),
            "divergence": serialize(self.divergence),
            "fraction": self.fraction,
            "stop_gradient": self.stop_gradient,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RBlock:
        config = dict(config)
        for name in ("model", "alpha", "divergence"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return cls(**config)


class _Pair(NamedTuple):
    """Both views of one output, as many rows each as the batch has samples, and their mask."""

    first: Any
    second: Any
    mask: Any


class MeanOfValues(keras.losses.Loss):
    """The mean of values, weighted and shared among replicas as Keras does it for any loss."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred


_MEAN = MeanOfValues()


def _pairs(y_pred, views):
    split = SplitViews()
    with laid_out(views):
        return [_Pair(*split(output)) for output in tree.flatten(y_pred)]


def _view(number, pairs, y_pred):
    return tree.pack_sequence_as(y_pred, [pair[number] for pair in pairs])


def _samples(x):
    return ops.shape(next(value for value in tree.flatten(x) if value is not None))[0]


def _weight(values, weight, mask, forked):
    """Weights of `values`, or None; masked values count neither in the sum nor in the number."""
    weights = []
    if weight is not None:
        weights.append(ops.cast(weight, values.dtype)[:forked])
    if mask is not None:
        mask = ops.cast(mask, values.dtype)[:forked]
        weights.append(mask * ops.cast(ops.size(mask), mask.dtype) / ops.maximum(ops.sum(mask), 1))
    product = None
    for factor in weights:
        if len(factor.shape) > len(values.shape):
            factor = ops.squeeze(factor, -1)
        missing = len(values.shape) - len(factor.shape)
        factor = ops.reshape(factor, (*ops.shape(factor), *(1,) * missing))
        product = factor if product is None else product * factor
    return None if product is None else product * ops.ones_like(values)


def _check_layers(model):
    found = stochastic_layers(model)
    if not found:
        raise ValueError(
            f"Argument `model` must have a layer that is stochastic in training, or both views "
            f"would be equal. Received: {model.name!r}, which has none. Put in a "
            "keras_swapout.layers.SDropDML, a keras.layers.Dropout, ... (a layer that draws with "
            "no keras.random.SeedGenerator of its own can say so with an attribute stochastic=True)"
        )
    overlaps = {layer.name: layer.overlap for layer in found if getattr(layer, "overlap", 0) > 0}
    if overlaps:
        listed = ", ".join(f"{name} {overlap:.0%}" for name, overlap in overlaps.items())
        warnings.warn(
            f"With a rate above 0.5 the two views of a sample drop partly the same units, here of "
            f"all units: {listed}. Their difference is largest at 0.5.",
            stacklevel=3,
        )


def _checked_alpha(alpha):
    expected = "a number >= 0 or a function of the training step"
    return checked_number(alpha, lambda n: 0 <= n < math.inf, "alpha", expected)


def _checked_divergence(divergence):
    if isinstance(divergence, dict):
        kinds = list(divergence.values())
    else:
        kinds = divergence if isinstance(divergence, (list, tuple)) else [divergence]
    for kind in kinds:
        if kind is not None and not callable(kind) and kind not in DIVERGENCES:
            raise ValueError(
                f"Argument `divergence` must be one of {tuple(DIVERGENCES)}, a function, or for "
                f"several outputs a list or dict of these and None. "
                f"Received: divergence={divergence!r}"
            )
    return divergence
