"""Layers of one tensor behind places of a network: named ones, or the ends of its blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import keras

from keras_swapout.arguments import refusal
from keras_swapout.submodels.inside import Call, calls, carries_mask, is_functional, sublayers
from keras_swapout.surgery.find import check_reachable, find_residuals
from keras_swapout.surgery.graph import Graph, has_weights
from keras_swapout.surgery.places import WHERE, chosen, fitted, makers
from keras_swapout.surgery.rewrite import KEEP, key, rewritten

_SIZE_ONLY = ("ZeroPadding", "Cropping")
#: What a map shrinks to where a stage ends; a convolution without padding takes less away.
_SMALLER = 0.6


def insert_after(
    model: keras.Model,
    where: str | Sequence[str] | Callable[[keras.Layer], bool],
    layer: keras.Layer | Callable[[int, int], keras.Layer],
) -> keras.Model:
    """A copy of a network with a layer behind each of some places.

    y = f(x) becomes y = layer(f(x)). Weights and their names, what is trainable, statistics and
    policies are as before; a compiled model comes back uncompiled.

    Args:
        model: a functional or Sequential `keras.Model`; nested models are reached. It stays as it
            is; the copy shares no weights with it.
        where: the name of a layer or several ("backbone/conv" for one in a nested model), a
            predicate on layers, or "blocks": behind each residual addition, and the activation that
            follows it, as DropBlock's authors place it; where there are none, at the ends of the
            stages: the last tensor of each size that the whole rest is made of.
        layer: a layer as a pattern, of which each place gets a copy, with a seed of its own if it
            has none; or a function (place, places) -> layer, for a schedule over depth, such as
            `keras_swapout.schedules.per_block` makes.

    Returns:
        An uncompiled `keras.Model`. A layer that is called several times has another one behind
        each call. Where an output of the model is meant, the new layer's is the output.

    Raises:
        TypeError: an argument has the wrong type. ValueError: the model's graph can't be read,
            nothing is meant, a name is of nothing or of several, a layer has several outputs, for
            "blocks" there are neither residual additions nor stages of known size.

    Example:

    >>> import keras, keras_swapout as ks
    >>> model = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=2)
    >>> drop = ks.schedules.per_block(ks.layers.BDropDML, rate=(0.0, 0.2))
    >>> model = ks.surgery.insert_after(model, "blocks", drop)
    >>> [x.name for x in model.layers if "dropdml" in x.name][:2]
    ['block1_conv2_bdropdml', 'block2_conv2_bdropdml']

    Source: "blocks" as in DropBlock (Ghiasi, Lin, Le, NeurIPS 2018), section 4.1, on the sums alone
    and not on the convolutions of a block.
    """
    check_reachable(model)
    if where is None:
        raise refusal(TypeError, "where", f'{WHERE}, or "blocks"', where)
    make = makers(layer)
    meant = _ends(model) if where == "blocks" else _named(model, where)
    taken = {x.name for x in sublayers(model)}
    edits = {}
    meant = list({key(call): call for call in meant}.values())  # two models may share a part
    for place, call in enumerate(meant):
        if len(call.outputs) != 1:
            raise ValueError(
                f"Argument `where`: {call.operation.name!r} has {len(call.outputs)} outputs, and a "
                "layer behind it takes one tensor"
            )
        new = make(place, len(meant))
        name = f"{call.operation.name}_{type(new).__name__.lower()}"
        while name in taken:
            name += "_"
        taken.add(name)
        edits[key(call)] = [KEEP, fitted(new, name=name)]
    return rewritten(model, edits)


def all_calls(model: keras.Model, path: tuple[str, ...] = ()) -> dict[str, list[Call]]:
    """The calls of a model and of those in it, by the names of what is called, with its models."""
    found: dict[str, list[Call]] = {}
    for call in calls(model):
        name = "/".join((*path, call.operation.name))
        if is_functional(call.operation) and name not in found:
            found.update(all_calls(call.operation, (*path, call.operation.name)))
        found.setdefault(name, []).append(call)
    return found


def block_ends(model: keras.Model) -> dict[str, tuple[int | None, ...]]:
    """The places that "blocks" means in `insert_after`, in the order of computation.

    Args:
        model: a functional or Sequential `keras.Model`.

    Returns:
        By name (with the nested models it is in: "backbone/add"), the shape of what is there.

    Raises:
        TypeError, ValueError: as `insert_after`.

    Example:

    >>> import keras
    >>> model = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=2)
    >>> list(block_ends(model).items())[-1]
    ('block5_conv3', (None, 2, 2, 512))
    """
    check_reachable(model)
    ends = {key(call) for call in _ends(model)}
    places = all_calls(model).items()
    return {
        name: tuple(call.outputs[0].shape)
        for name, found in places
        for call in found
        if key(call) in ends
    }


def any_mask(parts: dict[str, list[Call]]) -> bool:
    """Whether Keras' masks may be anywhere among calls: in a nested model none is seen before."""
    return any(carries_mask(y) for some in parts.values() for c in some for y in c.outputs)


def _named(model, where) -> list[Call]:
    places = all_calls(model)
    layers = {n: c for n, c in places.items() if isinstance(c[0].operation, keras.Layer)}
    if callable(where):
        names = chosen(lambda found: where(found[0].operation), layers, {}, "layers")
    else:
        names = chosen(where, places, {}, "places")
    return [call for name in names for call in places[name]]


def _ends(model) -> list[Call]:
    found = find_residuals(model)
    if found:
        after = _followers(model)
        return [after.get(id(x.call.outputs[0]), x.call) for x in found]
    ends = [call for graph in _graphs(model, set()) for call in _stage_ends(graph)]
    if not ends:
        raise ValueError(
            'Argument `where="blocks"`: no residual addition found, and no stage (a map of known '
            "size that is made smaller by what follows, or pooled to a vector). Name the places "
            f"instead.\n{found}"
        )
    return ends


def _graphs(model, seen) -> Iterator[Graph]:
    """Of the model and those in it, each once, in the order of computation."""
    if id(model) in seen:
        return
    seen.add(id(model))
    graph = Graph(model)
    for call in graph.calls:
        if is_functional(call.operation):
            yield from _graphs(call.operation, seen)
    yield graph


def _followers(model) -> dict[int, Call]:
    """The activation that is all that uses a tensor."""
    found = {}
    for graph in _graphs(model, set()):
        for tensor, users in graph.consumers.items():
            if len(users) == 1 and tensor not in graph.outputs and _is_activation(users[0]):
                found[tensor] = users[0]
    return found


def _is_activation(call):
    kind = type(call.operation)
    known = {name.replace("_", "") for name in dir(keras.activations)}  # for `keras.ops.relu`
    named = kind.__name__ == "Activation" or kind.__name__.lower() in known
    return len(call.inputs) == 1 and (named or ".activations" in kind.__module__)


def _stage_ends(graph) -> list[Call]:
    """The last bottleneck of each size, as long as there are weights in what made it so."""
    ends, stage, size = [], None, None
    for call, y in graph.bottlenecks():
        if type(call.operation).__name__.startswith(_SIZE_ONLY):
            continue
        if stage and (_size(y) is None or _size(y) < _SMALLER * size):
            ends.append(stage)
        stage, size = (None, None) if _size(y) is None else (call, _size(y))
    if stage:
        ends.append(stage)
    return [x for i, x in enumerate(ends) if _learns(graph, ends[i - 1] if i else None, x)]


def _size(tensor) -> int | None:
    """The number of positions of a map; None where it is no map, or of unknown size."""
    first = keras.config.image_data_format() == "channels_first"
    sides = tensor.shape[2:] if first else tensor.shape[1:-1]
    return None if not sides or None in sides else math.prod(sides)


def _learns(graph, before, end):
    """Whether weights lie between two bottlenecks; what is nested has ends of its own."""
    if is_functional(end.operation):
        return False
    starts = before.outputs if before else [x for c in graph.calls[:1] for x in c.inputs]
    made = graph.makers([y for x in starts for y in graph.between(x, end.outputs[0])])
    return any(
        has_weights(c.operation) and not isinstance(c.operation, keras.layers.Normalization)
        for c in made
    )
