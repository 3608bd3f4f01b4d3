"""Which distribution the outputs of a compiled model are: read off the loss and the last layer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree

from keras_swapout.consistency.divergence import Head, two_way
from keras_swapout.submodels.inside import is_functional, plain_view

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
    loss = loss_of(loss)
    name = known_loss(loss)
    distribution = _BY_LOSS.get(name)
    if distribution is None and activation in ("softmax", "sigmoid"):
        distribution = activation
    from_logits = setting(loss, "from_logits", False)
    # Of SparseCategoricalCrossentropy Keras keeps the axis there only; of Dice and Tversky `axis`
    # is something else.
    given = getattr(loss, "_fn_kwargs", getattr(loss, "keywords", {}))
    axis = given.get("axis", -1) if name in _BY_LOSS else -1
    return Head(distribution, bool(from_logits or activation == "linear"), axis)


def known_loss(loss: Any) -> str | None:
    """Of a loss whose distribution is known its name, or that of a class it is derived from.

    Example:

    >>> known_loss(keras.losses.BinaryCrossentropy()), known_loss(keras.losses.Huber())
    ('binarycrossentropy', None)
    """
    loss = loss_of(loss)
    function = getattr(loss, "func", loss)
    named = [function] if hasattr(function, "__name__") else type(function).__mro__
    names = [one.__name__.replace("_", "").lower() for one in named]
    return next((name for name in names if name in _BY_LOSS), None)


def setting(loss: Any, name: str, default: Any) -> Any:
    """What a loss was made with: an attribute, or a keyword of a `functools.partial`.

    Example:

    >>> setting(keras.losses.BinaryCrossentropy(label_smoothing=0.1), "label_smoothing", 0.0)
    0.1
    """
    loss = loss_of(loss)
    return getattr(loss, name, getattr(loss, "keywords", {}).get(name, default))


def loss_of(loss: Any) -> Any:
    """A loss that may be named, as a function or an object; None for None.

    None too for "crossentropy", of which Keras makes one or another by the labels.

    Example:

    >>> loss_of("mse").__name__, loss_of("crossentropy")
    ('mean_squared_error', None)
    """
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        return None
    return keras.losses.get(loss)


def heads(model: keras.Model, trained: keras.Model | None = None) -> list[Head]:
    """What each output of a network is: by its loss if it is compiled, else by its last activation.

    Args:
        model: the network.
        trained: what was compiled to train it, if not the network itself: an `RBlock`, say.

    A linear activation with two units or more is taken for softmax logits where no loss of Keras
    says otherwise; any activation but linear, softmax and sigmoid is no distribution.

    Raises:
        ValueError: neither loss nor activation tells.

    Example:

    >>> heads(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    [Head(distribution='softmax', from_logits=True, axis=-1)]
    """
    trained = model if trained is None else trained
    loss = trained.loss if trained.compiled else None
    if is_functional(model):
        graph = plain_view(model)
        shapes = [x.shape for x in graph.outputs]
        known, names = activations(model), [(None, name) for name in graph.output_names]
    else:
        number = len(loss) if isinstance(loss, (list, tuple)) else 1
        shapes, known, names = [()] * number, [None] * number, [(None, None)] * number
    found = []
    for activation, shape, one in zip(known, shapes, per_output(loss, names), strict=True):
        head = head_of(one, activation)
        if head.distribution is None and not is_of_keras(one):
            if activation == "linear" and shape[-1] not in (1, None):
                head = Head("softmax", from_logits=True)
            elif activation in (None, "linear"):
                raise ValueError(
                    "Argument `head` must say what the outputs are, since neither a loss nor the "
                    f"last activation, {activation!r}, does: keras_swapout.divergence.Head("
                    "'softmax', from_logits=True), for example, or Head(None) for plain numbers. "
                    "Or compile the model with its loss."
                )
        found.append(head)
    return found


def is_of_keras(loss: Any) -> bool:
    """Whether a loss is one of Keras' own, so that what it does is known.

    Example:

    >>> is_of_keras("mse"), is_of_keras(lambda y_true, y_pred: y_pred)
    (True, False)
    """
    if isinstance(loss, str) and loss_of(loss) is None:
        return True
    loss = loss_of(loss)
    # Also the function that Keras has made an object of.
    return all(_module(x).startswith("keras.") for x in (loss, getattr(loss, "fn", loss)))


def _module(function):
    function = getattr(function, "func", function)  # of a functools.partial
    function = function if hasattr(function, "__name__") else type(function)
    return getattr(function, "__module__", "")


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


def divergences(
    names: Sequence[tuple[Any, Any]],
    divergence: Any,
    loss: Any,
    loss_weights: Any,
    known_activations: Sequence[str | None],
    stop_gradient: bool = False,
) -> list[tuple[Callable[[Any, Any], Any] | None, float]]:
    """For each output of a model a function (first, second) -> values, or None, and its weight.

    Args:
        names: for each output the names that a dict may know it by.
        divergence, stop_gradient: as for `RBlock`.
        loss, loss_weights: as for `compile`.
        known_activations: from `activations`.

    Raises:
        ValueError: `divergence` does not fit the outputs, or needs a distribution where an output
            is none.

    Example:

    >>> divergences([(None, "label")], "kl", "mse", None, ["linear"])
    Traceback (most recent call last):
        ...
    ValueError: Argument `divergence='kl'` needs outputs that are a distribution, ...
    """
    several = isinstance(divergence, (list, tuple))
    known = {key for name in names for key in name}
    misspelt = isinstance(divergence, dict) and set(divergence) - known
    if misspelt or (several and len(divergence) != len(names)):
        raise ValueError(
            f"Argument `divergence` must have one entry for each output, of {names}. "
            f"Received: divergence={divergence!r}"
        )
    functions, kinds = [], per_output(divergence, names)
    for name, kind, its_loss, weight, activation in zip(
        names,
        kinds,
        per_output(loss, names),
        per_output(loss_weights, names),
        known_activations or [None] * len(names),
        strict=True,
    ):
        # One divergence for all outputs is one for those that are trained.
        if isinstance(divergence, str) and loss is not None and its_loss is None:
            kind = None
        if "gjs" in kinds and (kind is None) != (its_loss is None):
            raise ValueError(
                'Argument `divergence="gjs"` is the loss of every output that has one, and of no '
                f"other. Received: divergence={divergence!r} with loss={loss!r}"
            )
        if isinstance(kind, str):
            head = head_of(its_loss, activation)
            if kind != "mse" and head.distribution is None:
                raise ValueError(
                    f"Argument `divergence={kind!r}` needs outputs that are a distribution, and "
                    f"what output {name[1] or name[0] or ''} is can't be told from its loss and "
                    "its last activation. Use a softmax or sigmoid activation, a Keras "
                    'crossentropy, divergence="mse" for regression, or a function (first, second) '
                    "-> values."
                )
            # Of two predictions alone "gjs" is "js"; the part with the label is a task loss.
            kind = "js" if kind == "gjs" else kind
            kind = functools.partial(
                two_way, divergence=kind, head=head, stop_gradient=stop_gradient
            )
        functions.append((kind, 1.0 if weight is None else weight))
    return functions


def per_output(value: Any, names: Sequence[tuple[Any, Any]]) -> list[Any]:
    """An argument of `compile` or `fit` for each output: of a dict, of a list, or for all.

    Example:

    >>> per_output({"a": 1}, [(None, "a"), ("b", "dense")])
    [1, None]
    """
    if isinstance(value, dict):
        return [next((value[key] for key in name if key in value), None) for name in names]
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value] * len(names)


def labels_of(
    y: Any, y_pred: Any, names: Sequence[tuple[Any, Any]], losses: Sequence[Any]
) -> list[Any]:
    """The labels of each output, None where it has none, as Keras assigns them.

    Args:
        y, y_pred: labels and predictions, of one structure; or labels by name, in the order of the
            outputs, or only for those with a loss.
        names: for each output the names that a dict may know it by.
        losses: for each output its loss, or None.

    Example:

    >>> labels_of([1, 2], [3, 4, 5], [(None, None)] * 3, ["mse", None, "mse"])
    [1, None, 2]
    """
    if isinstance(y, dict) and not isinstance(y_pred, dict):
        return per_output(y, names)
    labels = [] if y is None else tree.flatten(y)
    if len(labels) == len(names):
        return labels
    rest = iter(labels)
    return [None if loss is None else next(rest, None) for loss in losses]
