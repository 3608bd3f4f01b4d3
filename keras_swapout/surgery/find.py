"""The residual additions of a network, told by its graph.

A residual addition is y = s + b, of one float shape and not broadcast, in which the shortcut s is
an ancestor of the branch b, or a cheap projection of one, and the branch holds weights. Neither the
order of the operands nor a name says which is which: in ResNets the shortcut is the first operand,
in EfficientNets the second.

Both operands are walked back, as long as the operation may be part of a shortcut, to the first
tensor that the other is made of. (Not to a dominator: a time embedding also feeds the branch.)
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from keras_swapout.arguments import checked
from keras_swapout.layers import Dropout
from keras_swapout.submodels.inside import Call, calls, is_functional, sublayers
from keras_swapout.submodels.trial import foreign
from keras_swapout.surgery.graph import Graph, has_weights, is_addition


def _classes(*parts: str) -> tuple[type[keras.Layer], ...]:
    """The layers of Keras with one of these in their names."""
    names = [name for name in dir(keras.layers) if any(part in name for part in parts)]
    return tuple(getattr(keras.layers, name) for name in names if "Global" not in name)


_RESAMPLING = _classes("Pooling", "ZeroPadding", "Cropping", "UpSampling")
_UPSAMPLING = _classes("UpSampling", "Transpose", "Resizing")
_DROPOUTS = (keras.layers.Dropout, *_classes("SpatialDropout"), Dropout)
_REARRANGING = (
    keras.layers.Identity,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.Rescaling,
)
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
#: Operations that are no layers, by the names of their classes, as these have no public ones.
_LINEAR_OPERATIONS = {
    *("GetItem", "Cast", "Pad", "Identity", "Reshape", "Transpose", "Squeeze", "ExpandDims"),
    "StopGradient",
}
_POSITIONS = ("position", "embedding", "encoding")
_DROP_PATHS = ("stochasticdepth", "stochastic_depth", "droppath", "drop_path", "dropconnect")


def is_drop_path(operation: keras.Operation) -> bool:
    """Whether the layer is named after stochastic depth: every library has its own."""
    name = type(operation).__name__.lower()
    return any(part in name for part in _DROP_PATHS)


@dataclasses.dataclass(frozen=True, eq=False)
class Residual:
    """A residual addition of a network, or what looks like one.

    Attributes:
        name: of the addition.
        where: the same, with the nested models that it is in before it: "backbone/add".
        shape: of the operands, with the batch.
        shortcut: which operand of the addition is the shortcut, 0 or 1; -1 if none is.
        projection: whether the shortcut is more than a tensor that the branch is made of: a
            convolution or a normalisation lies on it.
        branch: what holds weights in the branch, by class, and how often.
        drop: the dropout or stochastic depth that the branch ends in, by class and rate, or "".
        reason: why it is not taken for a residual addition, or "".
    """

    name: str
    where: str
    shape: tuple[int | None, ...]
    shortcut: int = -1
    projection: bool = False
    branch: str = ""
    drop: str = ""
    reason: str = ""
    call: Any = dataclasses.field(default=None, repr=False)  # in the graph
    tail: Any = dataclasses.field(default=None, repr=False)  # the call of the drop


class Residuals(list[Residual]):
    """The residual additions of a network in the order of their computation; prints as a table.

    Attributes:
        left: what looked like one and was left, each with its `reason`.
        opaque: the layers with a `call` of their own and layers in it: what they add is out of
            reach.
    """

    def __init__(self, found: list[Residual], opaque: dict[str, keras.Layer], model: str) -> None:
        super().__init__(x for x in found if not x.reason)
        self.left = [x for x in found if x.reason]
        self.opaque = opaque
        self._model = model

    def __repr__(self) -> str:
        # Here: the library prints what it finds, and reads it nowhere.
        from keras_swapout.surgery.table import table

        return table(self, self._model)


def find_residuals(model: keras.Model) -> Residuals:
    """The residual additions of a functional model, nested models included.

    y = s + b, an `Add` layer or `+` of two tensors of one floating shape, where the shortcut s is a
    tensor that the branch b is made of, or a cheap projection of one (a normalisation, pooling, a
    linear convolution whose kernel is no larger than its stride), and b holds weights. Left, with
    the reason, is what looks like one: more than two operands, a branch that is used elsewhere (the
    cells of NASNet), one with residual additions or upsampling in it (an hourglass), another
    layer's merge of two tensors, a table of positions.

    Args:
        model: a functional or Sequential `keras.Model`. It stays as it is.

    Returns:
        A list of `Residual`, in the order of computation, that prints as a table; what was left is
        in its `left`, the layers that can't be looked into in its `opaque`. A nested model that is
        called twice is looked into once.

    Raises:
        TypeError: not a Keras model. ValueError: a model with a `call` of its own, or a Sequential
            one that does not know its input.

    Example:

    >>> import keras
    >>> x = inputs = keras.Input((8,))
    >>> for i in range(2):
    ...     x = x + keras.layers.Dense(8, name=f"dense_{i}")(x)
    >>> found = find_residuals(keras.Model(inputs, x))
    >>> [(residual.shortcut, residual.branch) for residual in found]
    [(0, 'Dense'), (0, 'Dense')]

    Source: this package; He et al., "Deep residual learning for image recognition", CVPR 2016,
    equations 1 and 2, for what is looked for.
    """
    check_reachable(model)
    found, opaque = [], {}
    _look_into(model, (), found, opaque, {}, set())
    return Residuals(found, opaque, model.name)


def check_reachable(model: Any) -> None:
    """Raises unless the model is one whose graph of layers can be read."""
    checked(model, keras.Model, "model", "a keras.Model")
    if is_functional(model):
        return
    if isinstance(model, keras.Sequential):
        raise ValueError(
            f"Argument `model`: the Sequential model {model.name!r} does not know its input. Give "
            "it a `keras.Input` first, or call it on a batch"
        )
    inner = getattr(model, "model", None)
    if isinstance(inner, keras.Model):
        way_out = f"It wraps the network {inner.name!r}: operate on its `.model`, and wrap that"
    else:
        way_out = (
            "Write it as a functional model of its blocks (`keras.Model(inputs, outputs)`), with "
            "the additions outside of any layer's `call`. The rates of dropouts in it can be "
            "changed in place: `keras_swapout.surgery.set_rates`"
        )
    raise ValueError(
        f"Argument `model`: {model.name!r} ({type(model).__name__}) has a `call` of its own, so "
        f"there is no graph of layers to read. {way_out}"
    )


def _look_into(model, path, found, opaque, residual, seen):
    """`residual`: the sums that are, and the shortcut of each. `seen`: models and sums, by id."""
    if id(model) in seen:
        return
    seen.add(id(model))
    graph = Graph(model)
    for call in graph.calls:
        operation = call.operation
        if is_functional(operation):
            _look_into(operation, (*path, operation.name), found, opaque, residual, seen)
            continue
        where = "/".join((*path, operation.name))
        one = _judge(graph, call, residual)
        if one and id(call.outputs[0]) not in seen:  # two models may have a part in common
            seen.add(id(call.outputs[0]))
            found.append(dataclasses.replace(one, name=operation.name, where=where, call=call))
            if not one.reason:
                residual[id(call.outputs[0])] = call.inputs[one.shortcut]
        elif isinstance(operation, keras.Layer) and _holds_layers(operation):
            opaque[where] = operation


def _holds_layers(layer):
    """Whether the layer has code of its own that calls layers with weights."""
    parts = [part for part in sublayers(layer) if part is not layer and part.weights]
    return bool(parts) and (foreign(layer) or any(map(is_functional, parts)))


def _judge(graph, call, residual) -> Residual | None:
    """What a call is: a residual addition, something like one (with the reason), or None."""
    inputs = call.inputs
    if not is_addition(call.operation):
        return _merge_of_another_layer(graph, call, residual)
    if len(inputs) < 2 or any(not _alike(inputs[0], x) for x in inputs[1:]):
        return None  # a constant, a bias, positions
    shape = tuple(call.outputs[0].shape)
    if len(inputs) > 2:
        return Residual("", "", shape, reason=f"{len(inputs)} operands")
    if inputs[0] is inputs[1]:
        return None
    roles = _roles(graph, inputs, residual)
    if not roles:
        return Residual("", "", shape, reason="no operand is a shortcut of the other")
    if len(roles) == 2 and roles[0].cost == roles[1].cost:
        return Residual("", "", shape, reason="either operand may be the shortcut")
    role = min(roles, key=lambda role: role.cost)
    tail = _tail(graph, inputs[1 - role.operand])
    return Residual(
        "",
        "",
        shape,
        role.operand,
        role.cost > 0,
        _contents(role.calls),
        _named_rate(tail.operation) if tail else "",
        _objection(graph, call, role, residual),
        tail=tail,
    )


def _alike(a, b):
    floating = all(keras.backend.is_float_dtype(x.dtype) for x in (a, b))
    return floating and tuple(a.shape) == tuple(b.shape)


@dataclasses.dataclass(frozen=True)
class _Role:
    """An operand as the shortcut: what it starts from, at what cost, and what the branch is."""

    operand: int
    source: Any
    cost: int
    tensors: list[Any]
    calls: list[Call]


def _roles(graph, inputs, residual) -> list[_Role]:
    roles = []
    for operand in (0, 1):
        branch = inputs[1 - operand]
        for source, cost in _walk_back(graph, inputs[operand], residual):
            if source is branch:
                break
            if graph.is_ancestor(source, branch):
                tensors = graph.between(source, branch)
                calls = graph.makers(tensors)
                if any(has_weights(c.operation) for c in calls):
                    roles.append(_Role(operand, source, cost, tensors, calls))
                break
    return roles


def _walk_back(graph, tensor, residual) -> Iterator[tuple[Any, int]]:
    """The tensors that a shortcut may have started from, nearest first, each with its cost."""
    cost = 0
    yield tensor, cost
    while id(tensor) in graph.producer:
        call = graph.producer[id(tensor)]
        if id(tensor) in residual:  # a whole residual addition is a step to its own shortcut
            tensor = residual[id(tensor)]
        else:
            step = _projection_cost(call.operation)
            if step is None or len(call.inputs) != 1 or len(call.outputs) != 1:
                return
            cost += step
            tensor = call.inputs[0]
        yield tensor, cost


def _projection_cost(operation) -> int | None:
    """What it costs a shortcut to go through the operation; None if it may not."""
    if isinstance(operation, (*_RESAMPLING, *_REARRANGING)) or _drops(operation):
        return 0
    if isinstance(operation, keras.layers.Activation):
        return 0 if _is_linear(operation) else None
    if isinstance(operation, _NORMALIZATIONS):
        return 1
    if type(operation) in _CONVOLUTIONS:
        sides = zip(operation.kernel_size, operation.strides, strict=True)
        small = all(kernel <= stride for kernel, stride in sides)
        return 2 if small and _is_linear(operation) else None
    if type(operation) is keras.layers.Dense:
        return 2 if _is_linear(operation) else None
    if is_functional(operation):
        if len(operation.inputs) != 1 or len(operation.outputs) != 1:
            return None
        steps = calls(operation)
        costs = [_projection_cost(c.operation) if len(c.inputs) == 1 else None for c in steps]
        return None if None in costs else sum(costs)
    if not isinstance(operation, keras.Layer) and type(operation).__module__.startswith("keras."):
        return 0 if type(operation).__name__ in _LINEAR_OPERATIONS else None
    return None


def _is_linear(layer):
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _objection(graph, call, role, residual) -> str:
    """Why an addition with a shortcut and a branch is not a residual one, or ""."""
    kinds = [type(c.operation).__name__ for c in role.calls]
    if len(kinds) == 1 and any(part in kinds[0].lower() for part in _POSITIONS):
        return f"the branch is one {kinds[0]}"
    user = _use_elsewhere(graph, call, role)
    if user:
        return f"the branch is used elsewhere, by {user.operation.name!r}"
    if _is_a_cell(graph, call, role):
        return "a cell: its sum is concatenated with others of the same input"
    inside = sum(id(y) in residual for c in _at_any_depth(role.calls) for y in c.outputs)
    if inside:
        return f"a long skip: {inside} residual additions in its branch"
    shortcut = graph.makers(graph.between(role.source, call.inputs[role.operand]))
    enlarging = _upsampling(role.calls)
    if enlarging and not _upsampling(shortcut):  # a generator's block enlarges both
        return f"an hourglass: {enlarging.name!r} in its branch"
    return ""


def _upsampling(some: list[Call]) -> keras.Operation | None:
    """What enlarges a map among some calls."""
    for c in _at_any_depth(some):
        if isinstance(c.operation, _UPSAMPLING) or type(c.operation).__name__ == "Resize":
            return c.operation
    return None


def _at_any_depth(some: list[Call]) -> Iterator[Call]:
    for c in some:
        yield c
        if is_functional(c.operation):
            yield from _at_any_depth(calls(c.operation))


def _use_elsewhere(graph, call, role) -> Call | None:
    """What uses the branch and is no part of this addition, nor of the next if that follows.

    Attention and MLP may share their input: x + a(h) + b(h).
    """
    ends = [call]
    users = graph.consumers[id(call.outputs[0])]
    if len(users) == 1 and is_addition(users[0].operation):
        ends.append(users[0])
    elsewhere = None
    for end in ends:
        joint = {id(c) for c in graph.makers(graph.between(role.source, end.outputs[0]))}
        uses = (c for x in role.tensors for c in graph.consumers[id(x)] if id(c) not in joint)
        found = next(uses, None)
        if found is None:
            return None
        elsewhere = elsewhere or found
    return elsewhere


def _is_a_cell(graph, call, role):
    y = call.outputs[0]
    users = graph.consumers[id(y)]
    if not users or any(type(c.operation).__name__ != "Concatenate" for c in users):
        return False
    beside = {id(role.source)}  # what is made of the same source, and not of the sum
    for c in graph.calls:
        if any(id(x) in beside for x in c.inputs if x is not y):
            beside.update(id(z) for z in c.outputs if z is not y)
    others = [x for c in users for x in c.inputs if x is not y and x is not role.source]
    return any(id(x) in beside for x in others)


def _tail(graph, branch) -> Call | None:
    """The call of a dropout that the branch ends in."""
    call = graph.producer.get(id(branch))
    if call is None or len(graph.consumers[id(branch)]) != 1 or id(branch) in graph.outputs:
        return None
    alone = len(call.inputs) == 1 and call.kwargs.get("training") is not True
    return call if alone and _drops(call.operation) else None


def _drops(operation):
    """Whether it is a dropout, or stochastic depth that is no block: it has no weights."""
    named = is_drop_path(operation) and not has_weights(operation)
    return isinstance(operation, _DROPOUTS) or named


def _named_rate(layer):
    rate = getattr(layer, "rate", None)
    return type(layer).__name__ + ("" if rate is None else f" {rate:.3g}")


def _contents(calls):
    counts = collections.Counter(
        type(c.operation).__name__ for c in calls if has_weights(c.operation)
    )
    return ", ".join(name + (f" x{n}" if n > 1 else "") for name, n in counts.items())


def _merge_of_another_layer(graph, call, residual) -> Residual | None:
    """Two tensors of one shape that somebody's layer merges: how, only its code says."""
    layer, inputs = call.operation, call.inputs
    if not (
        isinstance(layer, keras.Layer)
        and len(inputs) == 2
        and len(call.outputs) == 1
        and not type(layer).__module__.startswith("keras.src.layers")
        and not layer.weights
        and _alike(*inputs)
        and _alike(inputs[0], call.outputs[0])
    ):
        return None
    roles = _roles(graph, inputs, residual)
    if not roles:
        return None
    role = min(roles, key=lambda role: role.cost)
    ours = type(layer).__module__.startswith("keras_swapout.")
    return Residual(
        "",
        "",
        tuple(call.outputs[0].shape),
        role.operand,
        role.cost > 0,
        _contents(role.calls),
        reason=f"{'already a' if ours else 'merged by'} {type(layer).__name__}",
    )
