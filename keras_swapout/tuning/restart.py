"""Train a compiled model again from the start: compiling costs more than many a training."""

from __future__ import annotations

import keras
from keras import ops

from keras_swapout.arguments import checked


def start_as(model: keras.Model, new: keras.Model) -> None:
    """Makes `model` what `new` is, and keeps what has been compiled of it.

    Every variable - weights, batch-norm statistics, seed generators, momenta, learning rate, step
    counter, the probabilities of our layers that are `adjustable` and the alpha of an `RBlock` -
    takes the value it has in `new`. What is no variable (a layer's activation, a learning rate
    schedule) stays as it was, so both models must be built by the same code.

    Args:
        model: a compiled model, trained before.
        new: a compiled model of the same structure, not trained yet. It is left as it is.

    Raises:
        TypeError: one is no Keras model. ValueError: one is not compiled; the variables differ in
            number or shape.

    Example:

    >>> def build():
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> first, second = build(), build()
    >>> start_as(first, second)
    >>> bool((first.get_weights()[0] == second.get_weights()[0]).all())
    True
    """
    for name, value in (("model", model), ("new", new)):
        checked(value, keras.Model, name, "a keras.Model that is compiled", lambda m: m.compiled)
    old_values, new_values = _variables(model), _variables(new)
    shapes = [[tuple(v.shape) for v in variables] for variables in (old_values, new_values)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "Argument `new` must have variables of the same shapes as `model`. Received: "
            f"{new.name!r} with {len(new_values)} variables, {model.name!r} with {len(old_values)}"
        )
    for old, value in zip(old_values, new_values, strict=True):
        old.assign(ops.convert_to_numpy(value))
    model.reset_metrics()


def _variables(model):
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return [*model.variables, *optimizer.variables]
