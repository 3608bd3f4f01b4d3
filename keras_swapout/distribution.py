"""Which distribution the outputs of a compiled model are: read off the loss and the last layer."""

from __future__ import annotations

from typing import Any

import keras
from keras import tree

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
    # Of SparseCategoricalCrossentropy Keras keeps the axis there only; of Dice and Tversky `axis`
    # is something else.
    given = getattr(loss, "_fn_kwargs", keywords)
    axis = given.get("axis", -1) if name in _BY_LOSS else -1
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
    known = {}  # activation behind a tensor, by id, with the tensor, as an id outlives nothing

    def call(operation, *args, **kwargs):
        outputs = operation(*args, **kwargs)
        behind = known.get(id(tree.flatten((args, kwargs))[0]), (None, None))[1]
        known.update((id(x), (x, _activation(operation, behind))) for x in tree.flatten(outputs))
        return outputs

    clone = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    return [known.get(id(x), (None, None))[1] for x in clone.outputs]


def _activation(operation, behind):
    if isinstance(operation, keras.Model):
        inside = activations(operation)
        return inside[0] if len(inside) == 1 else None
    name = _BY_OPERATION.get(type(operation).__name__)
    if name is None and callable(getattr(operation, "activation", None)):
        name = getattr(operation.activation, "__name__", None)
    if isinstance(operation, _PASS_ON) and name in (None, "linear"):
        return behind
    return name
