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
from keras_swapout.arguments import (
    checked,
    checked_flag,
    checked_number,
    checked_tensor,
    refusal,
)
from keras_swapout.consistency.added import added_loss, counted_once, doubled
from keras_swapout.consistency.divergence import DIVERGENCES
from keras_swapout.consistency.heads import activations, divergences, head_of, labels_of, per_output
from keras_swapout.consistency.jensen_shannon import (
    LABEL_WEIGHT,
    checked_label_weight,
    consistency_weight,
)
from keras_swapout.consistency.targets import check_crossentropies
from keras_swapout.consistency.terms import Output, consistency, label_term
from keras_swapout.layers.base import numbers_in
from keras_swapout.submodels.fork import forked, stochastic_layers
from keras_swapout.submodels.inside import is_functional, plain_view
from keras_swapout.submodels.views import SplitViews, Views, laid_out

# Whether a training step is running. A context variable, as replicas take turns in threads.
_training_step: contextvars.ContextVar[bool] = contextvars.ContextVar("step", default=False)
ALPHA = "a number >= 0 or a function of the training step"
#: What Keras calls of a model that it trains.
STEPS = (
    "make_train_function",
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
)
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
        divergence: "kl", "js" (bounded by log 2), "mse" (for regression), "gjs" (see below), or a
            function (first, second) -> values (batch, ...). For several outputs also a list or a
            dict by output name; None leaves an output out. Outputs without a loss are left out.
        fraction: share of each batch that is forked, in (0, 1]: the first samples of the batch,
            rounded to a whole number >= 1. The task loss weighs every sample once, forked or not.
            Under a `tf.distribute` strategy the batch is that of a replica: each forks the first
            of its own samples, as many in all up to rounding, but others than one device would.
        stop_gradient: whether each sub-model takes the other's prediction as a constant target,
            the form of deep mutual learning. Of "js" and "gjs", which are symmetric, it halves the
            gradient of the consistency.
        label_weight: pi of "gjs", a number in (0, 1). It is held as `alpha` is, and can be set anew
            likewise.
        **kwargs: those of `keras.Model`.

    Whether outputs are softmax or binary (sigmoid) ones, logits or probabilities, is read off the
    loss and the last activation. Sample and class weights weigh both terms, `loss_weights` an
    output's consistency as its task loss, and masked steps count in neither. An output's
    consistency is reduced by the `reduction` of its loss, and leaves out what that leaves out by
    itself: what Keras masks for it (`ignore_class`), and values that are 0 whatever is predicted,
    as for a one-hot label of zeros; of a loss of one's own with fewer values than there are (a
    number, or one for a sample) all that has no gradient, and the mean of the rest counts.

    "gjs" trains for the generalised Jensen-Shannon divergence of the label y and both predictions,
    a loss that is bounded and robust to wrong labels:

        loss = mean over samples of JS_(pi, 1 - pi)(y, (p1 + p2) / 2) / -(1 - pi) log(1 - pi)
             + alpha * mean over samples of JS(p1, p2) / -log(1 - pi)

    which with alpha = 1 and fraction = 1 is that of the paper (`divergence.generalized_js`), with
    alpha = 0 the label's part alone. As pi -> 0 that goes to the crossentropy of the mean
    prediction (of soft labels less their entropy), as pi -> 1 of hard labels to half its absolute
    error; the second part weighs 1 / pi for a small pi, and nothing as pi -> 1. The compiled losses
    must be Keras' own crossentropies. They say what labels and outputs are (`label_smoothing`,
    `ignore_class`, reduction), and are what `evaluate` and the losses of single outputs report, but
    are not trained. Every output that has a loss must have "gjs", or none; `stop_gradient` is of
    the second part.

    What layers add with `add_loss` counts once, as a mean of both views: which are sums over the
    batch is tried on a few random samples when this is made. Beside "loss", `fit` reports
    "task_loss" and "consistency" (before alpha); metrics are of the first view, losses of single
    outputs the mean of both.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range; the model has no
            stochastic layer, so both views would be equal; it has a step of its own (`train_step`,
            `compute_loss`, ...), which would not be called, as under "gjs" a `task_loss` of a
            subclass; a `label_weight` is given or set without "gjs"; at the latest in `compile`, an
            output is no distribution although the divergence needs one, or "gjs" does not fit.

    Warns:
        if layers with a rate above 0.5 make the two views drop the same units; in training, if
        layers add losses that could not be tried (in a subclassed network, say), of which a sum
        over the batch would count both views, or that are neither a mean nor a sum.

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
    "js", "mse", `fraction` and `stop_gradient` are additions. "gjs": Englesson, Azizpour 2021
    (arXiv 2105.04522); the paper's predictions are those of two augmentations, and alpha is added.
    """

    def __init__(
        self,
        model: keras.Model,
        alpha: float | Callable[[Any], Any] = 1.0,
        divergence: Any = "kl",
        fraction: float = 1.0,
        stop_gradient: bool = False,
        label_weight: float = LABEL_WEIGHT,
        **kwargs: Any,
    ) -> None:
        checked(model, keras.Model, "model", "a keras.Model")
        kwargs = {"name": f"rblock_{model.name}", "dtype": model.dtype_policy, **kwargs}
        # The network casts its inputs itself, as it does without R-Block.
        super().__init__(**{"autocast": False, **kwargs})
        self.model = model
        self._alpha = alpha if callable(alpha) else _checked_alpha(alpha)
        self.divergence = _checked_divergence(divergence)
        self.fraction = checked_number(
            fraction, lambda n: 0 < n <= 1, "fraction", "a number in (0, 1]"
        )
        self.stop_gradient = checked_flag(stop_gradient, "stop_gradient")
        self._label_weight = checked_label_weight(label_weight)
        self._generalized = "gjs" in _kinds(divergence)
        if self._generalized and type(self).task_loss is not RBlock.task_loss:
            raise ValueError(
                'Argument `divergence="gjs"` is a task loss itself, so that the `task_loss` of '
                f"{type(self).__name__} would not be called"
            )
        if self._label_weight != LABEL_WEIGHT:
            self._check_generalized(label_weight)
        check_steps(model)
        self._run = forked(model)
        self._doubled = doubled(model, self._run, self)
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
            self._weight = self._number("alpha", self._alpha)
        if self._generalized:
            self._pi = self._number("label_weight", self._label_weight)
        self.built = model.built
        self._checked = model.built  # what is not built may yet make its layers
        if self._checked:
            _check_layers(model)

    @property
    def alpha(self) -> float | Callable[[Any], Any]:
        """Weight of the consistency term. A number can be set anew at any time: it is a variable of
        the training step, so nothing is compiled again.

        It is one of the weights and goes wherever those go: `set_weights`, files of weights and
        `EarlyStopping(restore_best_weights=True)` bring the alpha of their time along, and this
        attribute, the configuration and what is saved say so.
        """
        if not callable(self._alpha):
            (self._alpha,) = numbers_in(self._weight, [self._alpha])
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        if callable(self._alpha) or callable(value):
            raise ValueError(
                "Argument `alpha` of RBlock can be set anew if both are numbers, as a schedule is "
                f"part of the training step. Received: alpha={value!r} after {self._alpha!r}"
            )
        self._alpha = _checked_alpha(value)
        self._assign(self._weight, self._alpha)

    @property
    def label_weight(self) -> float:
        """Weight of the label in "gjs", a variable as `alpha` is."""
        if self._generalized:
            (self._label_weight,) = numbers_in(self._pi, [self._label_weight])
        return self._label_weight

    @label_weight.setter
    def label_weight(self, value: float) -> None:
        self._check_generalized(value)
        self._label_weight = checked_label_weight(value)
        self._assign(self._pi, self._label_weight)

    def _check_generalized(self, label_weight):
        if not self._generalized:
            raise ValueError(
                'Argument `label_weight` of RBlock is one of divergence="gjs" and would be '
                f"ignored. Received: label_weight={label_weight!r} with "
                f"divergence={self.divergence!r}"
            )

    def _number(self, name, value):
        return self.add_weight(
            name=name,
            initializer=keras.initializers.Constant(value),
            dtype="float32",
            autocast=False,
            trainable=False,
        )

    def _assign(self, variable, value):
        if hasattr(self, "jax_state_sync"):  # else `fit` would put back what it holds meanwhile
            self.jax_state_sync()
        variable.assign(value)

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
            return self.task_loss(x, y, y_pred, sample_weight, training)

        if not _training_step.get():
            return task_loss(y_pred)
        views = self._views(x)
        pairs = _pairs(y_pred, views)
        task = (task_loss(_view(0, pairs, y_pred)) + task_loss(_view(1, pairs, y_pred))) / 2
        samples, replicas = _samples(x), backend.replicas()
        share = views.repeat(samples) / samples
        outputs = list(self._outputs(y, y_pred, pairs, sample_weight))
        apart = consistency(outputs, views, share)
        if self._generalized:
            # Of the compiled loss only the shape: without a reduction that is one of many values.
            label = ops.cast(label_term(outputs, self._pi), task.dtype)
            task = ops.zeros_like(task) + label + added_loss(self, task.dtype)
            apart = apart * consistency_weight(self._pi)
        task = counted_once(task, self, self._doubled, share)
        apart = ops.cast(apart, task.dtype)
        # Under tf.distribute a loss is this replica's share of the whole.
        self._task_loss.update_state(task * replicas, sample_weight=samples)
        self._consistency.update_state(apart * replicas, sample_weight=samples)
        if callable(self._alpha):
            alpha = ops.cast(self._scheduled(ops.convert_to_tensor(self.steps)), task.dtype)
            self.steps.assign_add(1)
        else:
            alpha = ops.cast(self._weight, task.dtype)
        return task + alpha * apart

    def task_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of one view, and that of `evaluate`: what `keras.Model.compute_loss` gives.

        To be overridden in a subclass for a loss that `compile` and `add_loss` can't express.
        """
        return super().compute_loss(x, y, y_pred, sample_weight, training)

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

    def _scheduled(self, step):
        """alpha at a training step, of a schedule."""
        expected = f"{ALPHA} that returns a number"
        alpha = checked_tensor(self._alpha(step), "alpha", expected)
        try:
            return ops.reshape(alpha, ())
        except Exception as error:  # every backend has its own
            raise refusal(ValueError, "alpha", expected, alpha) from error

    def _views(self, x):
        if self.fraction == 1:
            return Views(count=2)
        samples = _samples(x)
        if isinstance(samples, int):
            return Views(count=2, forked=(max(1, round(self.fraction * samples)), samples))
        share = ops.cast(ops.round(self.fraction * ops.cast(samples, "float32")), samples.dtype)
        return Views(count=2, forked=(ops.maximum(share, 1), samples))

    def _outputs(self, y, y_pred, pairs, sample_weight):
        """Those that have a divergence."""
        names = self._names(y_pred)
        losses = per_output(self.loss, names)
        for pair, (function, scale), loss, labels, weight, activation in zip(
            pairs,
            self._functions(names),
            losses,
            labels_of(y, y_pred, names, losses),
            per_output(sample_weight, names),
            self._activations or [None] * len(names),
            strict=True,
        ):
            if function is not None:
                head = head_of(loss, activation)
                yield Output(*pair, function, scale, loss, labels, weight, head)

    # What the outputs are

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`.

        Raises:
            ValueError: also where `divergence` needs a distribution and an output is none, or is
                "gjs" and a loss none of Keras' own crossentropies.
        """
        super().compile(optimizer, loss, *args, **kwargs)
        self._loss_weights = args[0] if args else kwargs.get("loss_weights")
        if self._generalized:
            check_crossentropies(loss)
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

    def save_own_variables(self, store: Any) -> None:
        for variable in self._own_variables():
            store[variable.name] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        for variable in self._own_variables():
            # Not in files of a number where there is a schedule now, of other divergences, or old.
            if variable.name in store:
                variable.assign(store[variable.name])

    def _own_variables(self):
        first = self.steps if callable(self._alpha) else self._weight
        return [first, self._pi] if self._generalized else [first]

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.export`, of what ships: `.model`, in each of Keras' formats."""
        self.model.export(filepath, *args, **kwargs)

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
            "label_weight": self.label_weight,
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


def _pairs(y_pred, views):
    split = SplitViews()
    with laid_out(views):
        return [_Pair(*split(output)) for output in tree.flatten(y_pred)]


def _view(number, pairs, y_pred):
    return tree.pack_sequence_as(y_pred, [pair[number] for pair in pairs])


def _samples(x):
    return ops.shape(next(value for value in tree.flatten(x) if value is not None))[0]


def check_steps(model):
    """Refuses a network that would be trained in a way of its own, which `fit` here never calls."""
    own = [step for step in STEPS if not _module(getattr(model, step)).startswith("keras.")]
    if own:
        raise ValueError(
            "Argument `model` must be a network that Keras' own training step trains, as that of "
            f"RBlock takes its place. Received: {model.name!r} with its own {', '.join(own)}. A "
            "loss can be given to `compile` or `add_loss`, or be the `task_loss` of a subclass of "
            "RBlock, which may have its own steps as well"
        )


def _module(function):
    return getattr(function, "__module__", None) or ""


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
    return checked_number(alpha, lambda n: 0 <= n < math.inf, "alpha", ALPHA)


def _kinds(divergence):
    if isinstance(divergence, (dict, list, tuple)):
        return list(divergence.values() if isinstance(divergence, dict) else divergence)
    return [divergence]


def _checked_divergence(divergence):
    allowed = (*DIVERGENCES, "gjs")
    expected = (
        f"one of {allowed}, a function, or for several outputs a list or dict of these and None"
    )
    several, kinds = isinstance(divergence, (dict, list, tuple)), _kinds(divergence)
    for kind in kinds:
        if not (isinstance(kind, str) or callable(kind) or (several and kind is None)):
            raise refusal(TypeError, "divergence", expected, divergence)
    if not kinds or any(isinstance(kind, str) and kind not in allowed for kind in kinds):
        raise refusal(ValueError, "divergence", expected, divergence)
    if "gjs" in kinds and any(kind not in ("gjs", None) for kind in kinds):
        expected = 'without others where one is "gjs", the loss of all outputs that are trained'
        raise refusal(ValueError, "divergence", expected, divergence)
    return divergence
