"""How a network is trained: as it is compiled, else as its papers do or with AdamW."""

from __future__ import annotations

import math

import keras

from keras_swapout.study.networks import Network
from keras_swapout.study.pilot.settings import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Settings

NEW, CONTINUED = 1e-3, 1e-4  # learning rates of AdamW
WARM_UP = 0.05  # share of the steps


def compile_for(
    model: keras.Model, base: keras.Model, network: Network, settings: Settings, steps: int
) -> None:
    """Compiles what is trained for integer labels.

    Args:
        model: the network with a method in it.
        base: the network, which the user may have compiled: then with an optimizer and a loss as
            those are.
        network: where it comes from.
        settings: `optimizer` and `learning_rate` win over the user's.
        steps: of the whole training.

    Raises:
        ValueError: the user's loss is none for integer labels of classes.
    """
    optimizer = _optimizer(base, network, settings, steps)
    if network.choice.kind == "ours":
        plain = [v for v in model.trainable_variables if len(v.shape) < 2]
        optimizer.exclude_from_weight_decay(var_list=plain)
    optimizer.build(model.trainable_variables)
    model.compile(
        optimizer, _loss(base, network), metrics=["accuracy"], jit_compile=settings.jit_compile
    )


def _optimizer(base, network, settings, steps):
    rate = settings.learning_rate
    if settings.optimizer is None and getattr(base, "compiled", False):
        config = base.optimizer.get_config()
        return type(base.optimizer).from_config(
            config if rate is None else {**config, "learning_rate": rate}
        )
    if settings.optimizer is None and network.choice.kind == "ours":
        rate = LEARNING_RATE if rate is None else rate
        return keras.optimizers.SGD(
            keras.optimizers.schedules.PiecewiseConstantDecay(
                [math.floor(0.75 * steps), math.floor(0.875 * steps)],
                [rate, rate / 10, rate / 100],
            ),
            momentum=MOMENTUM,
            # The paper's decay is part of the gradient and gathers momentum; Keras' is not.
            weight_decay=WEIGHT_DECAY / (1 - MOMENTUM),
        )
    if rate is None:
        rate = CONTINUED if network.continued else NEW
    warm_up = max(1, math.ceil(WARM_UP * steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=rate, warmup_steps=warm_up
    )
    optimizer = keras.optimizers.get(settings.optimizer or "adamw")
    return type(optimizer).from_config({**optimizer.get_config(), "learning_rate": schedule})


def _loss(base, network):
    """The user's loss, as one of integer labels; else the cross-entropy."""
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(network.head.from_logits)
    if not getattr(base, "compiled", False):
        return cross_entropy
    loss = base.loss
    name = loss if isinstance(loss, str) else getattr(loss, "name", type(loss).__name__)
    if name == "sparse_categorical_crossentropy":
        return loss
    if name == "categorical_crossentropy" and not getattr(loss, "label_smoothing", 0):
        return cross_entropy  # it is the same of one-hot labels
    raise ValueError(
        f"Argument `model`: {network.choice.model} is compiled with the loss {name!r}; a pilot "
        "trains with (sparse) categorical cross-entropy, without label smoothing"
    )
