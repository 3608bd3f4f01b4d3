"""Which distribution the outputs of a compiled model are: read off the loss and the last layer."""

from __future__ import annotations

from typing import Any

import keras

from keras_swapout.divergence import Head
from keras_swapout.fork import is_functional, plain_view

_BY_LOSS = {
    "categoricalcrossentropy": "softmax",
    "sparsecategoricalcrossentropy": "softmax",
    "categoricalfocalcrossentropy": "softmax",
    "kldivergence": "softmax",
    "binarycrossentropy": "sigmoid",
    "binaryfocalcrossentropy": "sigmoid",
}
_BY_OPERATION = {"Softmax": "softmax", "LogSoftmax": "linear", "Sigmoid": "sigmoid"}
_PASS_ON = (
    keras.layers.Activation,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Permute,
    keras.layers.Reshape,
)


def head_of(loss: Any, activation: str | None) -> Head:
    """What an output with this loss and this last activation is.

    The loss decides about the distribution, and, where it is none that this package knows, the
    activation. They are logits if the loss says so or the activation is known to be linear.

    Args:
        loss: a Keras loss, its name, a function, or None.
        activation: "softmax", "sigmoid", "linear", another name, or None where it is not known.

    Example:

    >>> head_of(keras.losses.BinaryCrossentropy(from_logits=True), "linear")
    Head(distribution='sigmoid', from_logits=True, axis=-1)
    >>> head_of("mse", "linear").distribution is None
    True
    """
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    keywords = getattr(loss, "keywords", {})  # of a functools.partial
    function = getattr(loss, "func", loss)
    name = getattr(function, "__name__", type(function).__name__).replace("_", "").lower()
    distribution = _BY_LOSS.get(name)
    if distribution is None and activation in ("softmax", "sigmoid"):
        distribution = activation
    from_logits = getattr(loss, "from_logits", keywords.get("from_logits", False))
    axis = getattr(loss, "axis", keywords.get("axis", -1))
    return Head(distribution, bool(from_logits or activation == "linear"), axis)


def activations(model: keras.Model) -> list[str | None]:
    """The name of the activation behind each output of a model, None where it can't be told.

    Layers that hand probabilities on as they are (`Reshape`, a linear `Activation`, ...) are seen
    through, and so are models inside the model.

    Example:

    >>> inputs = keras.Input((4,))
    >>> probabilities = keras.layers.Dense(3, activation="softmax")(inputs)
    >>> activations(keras.Model(inputs, keras.layers.Reshape((3, 1))(probabilities)))
    ['softmax']
    """
    if not is_functional(model):
        return []
    model = plain_view(model)
    operations = {operation.name: operation for operation in model.operations}
    return [_activation(model, operations[name]) for name in model.output_names]


def _activation(model, operation):
    if isinstance(operation, keras.Model):
        inside = activations(operation)
        return inside[0] if len(inside) == 1 else None
    name = _BY_OPERATION.get(type(operation).__name__)
    if name is None and callable(getattr(operation, "activation", None)):
        name = getattr(operation.activation, "__name__", None)
    if isinstance(operation, _PASS_ON) and name in (None, "linear"):
        try:
            return activations(keras.Model(model.input, operation.input))[0]
        except ValueError:  # a shared layer, whose `input` is of another graph
            return None
    return name
