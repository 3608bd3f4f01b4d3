"""Which places of a network are meant, and what comes to each of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_swapout.arguments import checked, refusal

WHERE = "names, or a function that says whether a place is meant"


def chosen(where: Any, places: dict[str, Any], left: dict[str, str], what: str) -> list[str]:
    """The places that are meant, by their names, in the order that they have.

    Args:
        where: None for all, a name or several, or a predicate on what `places` holds.
        places: what there is, by its name with the models that it is in: "backbone/add". Its own
            name alone will do where no other has it.
        left: what is none of the places, by name, and why.
        what: the places in words, for errors.

    Raises:
        TypeError: `where` is nothing of the kind. ValueError: a name is of nothing, of several or
            of something that is left; no place is meant.
    """
    if where is None:
        return list(places)
    if callable(where):
        names = [name for name, place in places.items() if where(place)]
        if not names:
            raise ValueError(
                f"Argument `where`: it is true of none of the {len(places)} {what} there are: "
                f"{_some(places)}"
            )
        return names
    if isinstance(where, str):
        where = [where]
    if not isinstance(where, (list, tuple, set, frozenset)) or not all(
        isinstance(name, str) for name in where
    ):
        raise refusal(TypeError, "where", WHERE, where)
    if not where:
        raise refusal(ValueError, "where", f"at least one of the {what}", where)
    asked = {_named(name, places, left, what) for name in where}
    return [name for name in places if name in asked]


def _named(name, places, left, what):
    def called(names):
        return [x for x in names if x == name or x.rpartition("/")[2] == name]

    found = [name] if name in places else called(places)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"Argument `where`: {name!r} is the name of several {what}: {found}")
    for other in called(left):
        raise ValueError(f"Argument `where`: {other!r} is none of the {what}: {left[other]}")
    near = difflib.get_close_matches(name, places, n=3) or list(places)[:3]
    raise ValueError(
        f"Argument `where`: {name!r} is none of the {len(places)} {what}. Near: {_some(near)}"
    )


def _some(names: Sequence[str] | dict[str, Any]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" * (len(names) > 6))


def makers(layer: Any, name: str = "layer") -> Callable[[int, int], keras.Layer]:
    """A function (place, places) -> new layer, of such a function, or of a layer as a pattern."""
    expected = "a layer, or a function (place, number of places) -> layer"
    if isinstance(layer, keras.Layer):
        config = {**layer.get_config(), "name": None}

        def make(place, places):
            return type(layer).from_config(config)

        return make
    if not callable(layer) or isinstance(layer, type):
        raise refusal(TypeError, name, expected, layer)
    used: list[keras.Layer] = []

    def make_and_check(place, places):
        made = checked(layer(place, places), keras.Layer, name, f"{expected}; it returned another")
        if any(made is other for other in used):
            raise ValueError(f"Argument `{name}` must make a new layer for each place. It made one")
        used.append(made)
        return made

    return make_and_check


def fitted(layer: keras.Layer, **config: Any) -> keras.Layer:
    """The layer with other arguments: a name, a dtype, which operand is the shortcut."""
    known = layer.get_config()
    return type(layer).from_config({**known, **config})
