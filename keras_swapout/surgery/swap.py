"""Swapout, or another stochastic merge, in the place of a network's residual additions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_swapout.arguments import checked_flag, one_of, refusal
from keras_swapout.layers import Swapout
from keras_swapout.schedules import constant, linear, probability
from keras_swapout.surgery.dropouts import passed_at_inference, passes_masks
from keras_swapout.surgery.find import Residual, find_residuals, is_drop_path
from keras_swapout.surgery.graph import is_plus
from keras_swapout.surgery.insert import all_calls, any_mask
from keras_swapout.surgery.places import chosen, fitted, makers
from keras_swapout.surgery.rewrite import key, on_pair, rewritten, without_mask

_THETA_1, _THETA_2 = 1.0, (1.0, 0.5)


def swap_residuals(
    model: keras.Model,
    theta_1: float | Sequence[float] = _THETA_1,
    theta_2: float | Sequence[float] = _THETA_2,
    merge: Callable[[int, int], keras.Layer] | None = None,
    where: str | Sequence[str] | Callable[[Residual], bool] | None = None,
    rescale: bool = True,
    existing: str = "replace",
) -> keras.Model:
    """A copy of a network with Swapout, or another stochastic merge, for its residual additions.

        y = X + F(X)  becomes, in training,  y = Theta1 / theta_1 * X + Theta2 / theta_2 * F(X)

    and at inference stays X + F(X), to the bit (with `rescale=True`). Names, the order of layers
    and of weights, the weights themselves, what is trainable, dtype policies, statistics and masks
    are as before, so files of the model's weights go on being read. A compiled model comes back
    uncompiled. `keras_swapout.surgery.strip` is the way back.

    Args:
        model: a functional or Sequential `keras.Model`; nested models are reached. It stays as it
            is; the copy shares no weights with it.
        theta_1, theta_2: probabilities of KEEPING a unit of X, the shortcut, and of F(X), the
            branch, in [0, 1] (in (0, 1] with `rescale`): a number for all, a pair (start, stop) for
            Linear(start, stop) over depth, or a list with one for each addition.
        merge: for other layers than `keras_swapout.layers.Swapout`: a function (place, places) ->
            layer, which is called on [x, fx], as in `keras_swapout.models`. The layer gets the name
            and the dtype policy of the addition.
        where: which additions: a name or several, or a predicate on a `Residual`. Default all that
            `find_residuals` finds.
        rescale: whether kept units are divided by theta in training; False multiplies by theta at
            inference, as the paper does, which changes a trained network's outputs.
        existing: what to do with a dropout or stochastic depth that a branch ends in already:
            "replace", so that the branch is dropped by the new layer alone, or "keep" both.

    Returns:
        An uncompiled `keras.Model`, of the class of `model` where that can be made of inputs and
        outputs.

    Raises:
        TypeError: an argument has the wrong type. ValueError: the model's graph can't be read,
            nothing is found or meant, a name is of nothing or of what is no residual addition, a
            list of thetas has another length, a layer can't be copied. Warns of what the copy is
            without, and of a stochastic depth that stays, as it multiplies at inference.

    Example:

    >>> import keras, keras_swapout as ks
    >>> x = inputs = keras.Input((8,))
    >>> for i in range(3):
    ...     x = keras.layers.Add(name=f"add_{i}")([x, keras.layers.Dense(8)(x)])
    >>> model = ks.surgery.swap_residuals(keras.Model(inputs, x))
    >>> [(layer.name, layer.theta_2) for layer in model.layers if "add" in layer.name]
    [('add_0', 1.0), ('add_1', 0.75), ('add_2', 0.5)]

    Source: Swapout (Singh, Hoiem, Forsyth 2016), section 3, with Linear(1, 0.5) of section 4 for
    the branches; the shortcut is kept, and the scaling is inverted, for a network that is trained.
    """
    one_of(existing, ("replace", "keep"), "existing")
    checked_flag(rescale, "rescale")
    found = find_residuals(model)
    left = {residual.where: residual.reason for residual in found.left}
    if not found:
        raise ValueError(
            "Argument `model`: no residual addition found in it (an addition of a tensor to what "
            f"layers with weights make of it).\n{found}"
        )
    meant = _meant(where, found, left)
    if merge is None:
        thetas = _over(theta_1, len(meant), "theta_1"), _over(theta_2, len(meant), "theta_2")

        def make(place, _):
            return Swapout(thetas[0][place], thetas[1][place], rescale=rescale)

    elif (theta_1, theta_2, rescale) != (_THETA_1, _THETA_2, True):
        raise ValueError(
            "Arguments `theta_1`, `theta_2` and `rescale` are for Swapout; with a `merge` they are "
            f"its own. Received: theta_1={theta_1!r}, theta_2={theta_2!r}, rescale={rescale!r}"
        )
    else:
        make = makers(merge, "merge")
    edits: dict[int, list[Any]] = {}
    parts = all_calls(model)
    replaced = {key(residual.call) for residual in meant}
    stay = {name for name, some in parts.items() if not {key(c) for c in some} <= replaced}
    masked = any_mask(parts)
    for place, residual in enumerate(meant):
        tail = residual.tail if existing == "replace" and _passes(residual) else None
        if tail:
            edits[key(tail)] = []
        name = _name(residual, stay)
        steps = [on_pair(_merge(make(place, len(meant)), residual, name))]
        if masked and _ends_masks(residual.call, tail):
            steps.append(without_mask(name))
        edits[key(residual.call)] = steps
    return rewritten(model, edits)


def _meant(where, found, left) -> list[Residual]:
    places: dict[str, list[Residual]] = {}
    for residual in found:  # a layer that is called twice has two
        places.setdefault(residual.where, []).append(residual)
    predicate = where if callable(where) else lambda residual: True
    names = chosen(
        (lambda some: any(map(predicate, some))) if callable(where) else where,
        places,
        left,
        "residual additions",
    )
    return [x for x in found if x.where in names and predicate(x)]


def _passes(residual) -> bool:
    """Whether the branch ends in a dropout without which the outputs at inference are the same."""
    if residual.tail is None:
        return False
    layer, tensor = residual.tail.operation, residual.tail.inputs[0]
    if not is_drop_path(layer) or passed_at_inference(layer, tensor) == 1:
        return True
    warnings.warn(
        f"{residual.where!r} keeps {layer.name!r}, in which its branch ends: "
        f"{type(layer).__name__} does not pass its input at inference, so outputs would change",
        stacklevel=3,
    )
    return False


def _ends_masks(addition, tail) -> bool:
    """Whether Keras' masks end at an addition: `+` is no layer; `Add` needs one from each side."""
    ended = tail is not None and not passes_masks(tail.operation, tail.inputs[0])
    return ended or is_plus(addition.operation)


def _over(values: Any, places: int, name: str) -> list[float]:
    """Theta for each place: of a number, a pair over depth, or a list of all."""
    if not isinstance(values, (tuple, list)):
        return constant(probability(values, name), places)
    values = [probability(value, f"{name}[{i}]") for i, value in enumerate(values)]
    if len(values) == places:
        return values
    if len(values) == 2:
        return linear(*values, places)
    expected = f"a number, a pair (start, stop), or {places} numbers, one for each addition"
    raise refusal(ValueError, name, expected, values)


def _merge(layer, residual, name):
    """The layer in the place of an addition: under its name, with the shortcut where it is."""
    operation, plus = residual.call.operation, is_plus(residual.call.operation)
    dtype = residual.call.outputs[0].dtype if plus else operation.dtype_policy
    if isinstance(layer, Swapout):
        return fitted(layer, name=name, dtype=dtype, shortcut=residual.shortcut)
    layer = fitted(layer, name=name, dtype=dtype)
    return layer if residual.shortcut == 0 else lambda pair: layer(pair[::-1])


def _name(residual, stay) -> str:
    """The name of the addition, with a number if that stays in use: a layer may be called twice."""
    where, number = residual.where, 0
    while where in stay:
        number += 1
        where = f"{residual.where}_{number}"
    stay.add(where)
    return where.rpartition("/")[2]
