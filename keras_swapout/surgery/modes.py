"""Which calls of a network are in training mode at inference too."""

from __future__ import annotations

import keras

from keras_swapout.submodels.inside import calls, is_functional
from keras_swapout.surgery.rewrite import key


def always_training(
    model: keras.Model, path: tuple[str, ...] = (), given: bool | None = None
) -> dict[int, str]:
    """The calls that are in training mode in `model(x)`, by what they or models around them get.

    What a model is called with counts for all in it, whatever that asks for, as it does in Keras.

    Returns:
        For the key of each its name, with the models that it is in. A nested model that is called
        twice, once so, is in training mode.
    """
    found: dict[int, str] = {}
    for call in calls(model):
        training = call.kwargs.get("training") if given is None else given
        where = (*path, call.operation.name)
        if training:
            found[key(call)] = "/".join(where)
        if is_functional(call.operation):
            found.update(always_training(call.operation, where, training))
    return found
