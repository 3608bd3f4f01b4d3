"""How a network is trained: as it is compiled, else as its papers do or with AdamW."""

from __future__ import annotations

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_swapout.consistency.heads import is_of_keras, known_loss, loss_of, per_output
from keras_swapout.study.networks import Network, compiled
from keras_swapout.study.pilot.settings import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Settings
from keras_swapout.study.task import Task

NEW, CONTINUED = 1e-3, 1e-4  # learning rates of AdamW
WARM_UP = 0.05  # share of the steps
#: Losses by the labels that they take.
_ONE_HOT = ("categoricalcrossentropy", "categoricalfocalcrossentropy", "kldivergence")
OURS = ("accuracy", "acc", "crossentropy", "ce")  # metrics that a pilot measures itself


def compile_for(
    model: keras.Model,
    base: keras.Model,
    network: Network,
    settings: Settings,
    steps: int,
    at_once: int = 1,
) -> None:
    """Compiles what is trained for the labels that `targets` makes.

    Args:
        model: the network with a method in it.
        base: the network, which the user may have compiled: then with an optimizer, a loss and loss
            weights as those are.
        network: where it comes from.
        settings: `optimizer` and `learning_rate` win over the user's.
        steps: of the whole training.
        at_once: steps of one call of the compiled function.
    """
    optimizer = _optimizer(base, network, settings, steps)
    if network.choice.kind == "ours":
        plain = [v for v in model.trainable_variables if len(v.shape) < 2]
        optimizer.exclude_from_weight_decay(var_list=plain)
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer,
        loss_for(base, network.task),
        loss_weights=compiled(base).get("loss_weights"),
        metrics=_watched(network.task),
        jit_compile=settings.jit_compile,
        steps_per_execution=at_once,
    )


def _watched(task):
    """What the learning curves of the training show beside the loss."""
    if len(task.outputs) > 1:
        return None
    head = task.outputs[0].head
    if head.distribution is None:
        return [keras.metrics.RootMeanSquaredError("rmse")]
    if head.distribution == "sigmoid":  # of which Keras thinks that it gives probabilities
        return [
            keras.metrics.BinaryAccuracy("accuracy", threshold=0.0 if head.from_logits else 0.5)
        ]
    return ["accuracy"]


def loss_for(base: keras.Model, task: Task) -> Any:
    """The user's loss; else the cross-entropy of a distribution, the squared error of numbers."""
    if getattr(base, "compiled", False):
        return base.loss
    losses = [_default(output.head) for output in task.outputs]
    if len(losses) == 1:
        return losses[0]
    if task.named:
        return {output.name: loss for output, loss in zip(task.outputs, losses, strict=True)}
    return losses


def _default(head):
    if head.distribution is None:
        return keras.losses.MeanSquaredError()
    if head.distribution == "sigmoid":
        return keras.losses.BinaryCrossentropy(head.from_logits)
    return keras.losses.SparseCategoricalCrossentropy(head.from_logits, axis=head.axis)


def targets(base: keras.Model, task: Task, y: Any) -> Any:
    """Labels as the loss takes them.

    Of one output: one-hot for the losses of Keras that need that, of the shape of the output for
    binary ones and for numbers, and ints for all others, but for a loss of the user's that can't be
    called with ints. Of several they are left as they are.

    Args:
        base: the network, compiled or not.
        task: what it predicts.
        y: labels, as the data have them.

    Raises:
        ValueError: the loss can be called with neither.
    """
    if len(task.outputs) > 1:
        return y
    output = task.outputs[0]
    (loss,) = per_output(loss_for(base, task), [(None, output.name)])
    labels = task.labels(y)[0]
    if output.head.distribution == "sigmoid" or output.head.distribution is None:
        return labels.astype(np.float32)
    if _one_hot(loss, output):
        axis = output.head.axis
        one_hot = keras.utils.to_categorical(labels, (None, *output.shape)[axis])
        return np.moveaxis(one_hot, -1, axis)
    return labels.astype(np.int32)


def _one_hot(loss, output):
    """Whether a loss takes labels of classes one-hot."""
    name = known_loss(loss)
    if name is not None or loss is None or is_of_keras(loss):
        return name in _ONE_HOT or (name is None and loss is not None)
    loss = loss_of(loss)
    # One more sample than classes: of as many, ints would be broadcast.
    values = np.full((output.shape[-1] + 1, *output.shape), 1 / output.shape[-1], np.float32)
    for one_hot, labels in ((False, np.zeros_like(values[..., 0])), (True, values)):
        try:  # with floats, which Keras makes of ints
            loss(*map(keras.ops.convert_to_tensor, (labels, values)))
            return one_hot
        except Exception as error:  # of the user's own loss, whatever it raises
            why = error
    raise ValueError(
        "Argument `model` must be compiled with a loss that takes ints or one-hot labels. "
        f"Received: {getattr(loss, '__name__', loss)}, which raises {type(why).__name__}: {why}"
    ) from why


def own_metrics(base: keras.Model) -> dict[str, keras.metrics.Metric]:
    """The metrics that the user has compiled a network of one output with, but for ours; new ones.

    Says which can't be made anew.
    """
    found = compiled(base).get("metrics") or []
    named = found.values() if isinstance(found, dict) else found
    metrics, unknown = {}, []
    for metric in tree.flatten(list(named)):
        if isinstance(metric, str) and metric.lower() in OURS:
            continue
        try:
            made = keras.metrics.get(metric)
            if not isinstance(made, keras.metrics.Metric):  # a function
                made = keras.metrics.MeanMetricWrapper(made, name=made.__name__)
            metrics[made.name] = made
        except (ValueError, TypeError):
            unknown.append(str(metric))
    if unknown:
        warnings.warn(f"left out of the metrics: {', '.join(unknown)}", stacklevel=2)
    return metrics


def papers_sgd(steps: int, rate: float = LEARNING_RATE) -> keras.optimizers.SGD:
    """The optimizer of the Swapout paper, for a training of so many steps.

    Args:
        steps: of the whole training; the rate falls to a tenth after three quarters of them, and to
            a hundredth after seven eighths.
        rate: learning rate at the start.
    """
    return keras.optimizers.SGD(
        keras.optimizers.schedules.PiecewiseConstantDecay(
            [math.floor(0.75 * steps), math.floor(0.875 * steps)],
            [rate, rate / 10, rate / 100],
        ),
        momentum=MOMENTUM,
        # The paper's decay is part of the gradient and gathers momentum; Keras' is not.
        weight_decay=WEIGHT_DECAY / (1 - MOMENTUM),
    )


def _optimizer(base, network, settings, steps):
    rate = settings.learning_rate
    if settings.optimizer is None and getattr(base, "compiled", False):
        config = base.optimizer.get_config()
        if rate is not None:
            inner = config.get("inner_optimizer")  # that of mixed precision has another in it
            (inner["config"] if inner else config)["learning_rate"] = rate
        return type(base.optimizer).from_config(config)
    if settings.optimizer is None and network.choice.kind == "ours":
        return papers_sgd(steps, LEARNING_RATE if rate is None else rate)
    if rate is None:
        rate = CONTINUED if network.continued else NEW
    warm_up = max(1, math.ceil(WARM_UP * steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=rate, warmup_steps=warm_up
    )
    try:
        optimizer = keras.optimizers.get(settings.optimizer or "adamw")
    except ValueError as error:
        raise ValueError(
            "Argument `optimizer` must be a name of keras.optimizers. "
            f"Received: optimizer={settings.optimizer!r}"
        ) from error
    return type(optimizer).from_config({**optimizer.get_config(), "learning_rate": schedule})
