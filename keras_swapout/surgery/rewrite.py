"""A copy of a functional model in which some calls are others.

The copy has its own layers, in the order of the original's and by the same names, with the same
weights, statistics, random states and trainable flags. `clone_model` would do for a part of that:
it renames inputs, loses what is adapted and a nested model's `trainable`, compiles the clone of a
compiled model, and does not reach into Sequential ones.
"""

from __future__ import annotations

import inspect
import operator
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_swapout.submodels.inside import (
    Call,
    calls,
    is_functional,
    lambda_output_shape,
    owned_generators,
    sublayers,
)
from keras_swapout.surgery.graph import operation_class

#: In an edit: the copy of what was called.
KEEP = object()

#: For a call, what is called in its place, one on the result of the other: layers, or functions of
#: the call's arguments; with nothing, the call's only tensor passes.
Edits = Mapping[int, Sequence[Any]]


def key(call: Call) -> int:
    """What a call is known by among edits."""
    return id(call.outputs[0])


def on_pair(layer: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    """The edit of an addition whose operands go to a layer as a list: `+` has them one by one."""

    def call(*args, **kwargs):
        pair = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        return layer(pair[:2])

    return call


def without_mask(name: str) -> Callable[[Any], Any]:
    """The edit behind a layer where Keras' masks end: an operation is no layer, and passes none."""
    times = operation_class(operator.mul)(name=f"{name}_without_mask")
    return lambda y: times(y, 1)


def rewritten(model: keras.Model, edits: Edits) -> keras.Model:
    """An uncompiled copy of a functional or Sequential model, with the edits.

    Raises:
        ValueError: a layer can't be copied. Warns of what the copy has not: the class of a model
            that can't be made of inputs and outputs, layers that its graph does not call.
    """
    copy = _Copy(edits)
    new = copy.of(model)
    for old, twin in copy.twins.values():
        if isinstance(old, keras.Layer) and not is_functional(old):
            _same_state(old, twin)
    _same_trainable(model, new, copy.twins)
    return new


class _Copy:
    def __init__(self, edits: Edits) -> None:
        self.edits = edits
        self.twins: dict[int, tuple[Any, Any]] = {}

    def of(self, operation: keras.Operation) -> keras.Operation:
        """The copy of a layer, a model or an operation, one for all its calls."""
        if id(operation) not in self.twins:
            make = self._model if is_functional(operation) else _fresh
            self.twins[id(operation)] = operation, make(operation)
        return self.twins[id(operation)][1]

    def _instead(self, call: Call) -> list[Any]:
        steps = self.edits.get(key(call), [KEEP])
        return [self.of(call.operation) if step is KEEP else step for step in steps]

    def _model(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            steps = [step for call in calls(model) for step in self._instead(call)]
            new = _class_of(model)([*_new_inputs(model).values(), *steps])
        else:
            new = _class_of(model)(*self._graph(model))
        new.name, new.dtype_policy = model.name, model.dtype_policy
        _warn_of_what_is_lost(model, new)
        return new

    def _graph(self, model: keras.Model) -> tuple[Any, Any]:
        """New inputs and outputs."""
        made = _new_inputs(model)

        def given(x):
            return made.get(id(x), x) if isinstance(x, keras.KerasTensor) else x

        for call in calls(model):
            args, kwargs = tree.map_structure(given, (call.args, call.kwargs))
            steps = self._instead(call)
            y = steps[0](*args, **kwargs) if steps else made[id(call.inputs[0])]
            for step in steps[1:]:
                y = step(y)
            made.update(
                (id(old), new) for old, new in zip(call.outputs, tree.flatten(y), strict=True)
            )
        return tree.map_structure(given, (model.input, model.output))


def _new_inputs(model):
    """A new input for each of the model's, by the ids of the old ones."""
    layers = {id(x.output): x for x in sublayers(model) if isinstance(x, keras.layers.InputLayer)}
    configs = {id(x): layers[id(x)].get_config() for x in model.inputs}
    return {i: keras.layers.InputLayer.from_config(c).output for i, c in configs.items()}


def _class_of(model) -> type[keras.Model]:
    """The class of the copy."""
    kind = type(model)
    plain = keras.Sequential if isinstance(model, keras.Sequential) else keras.Model
    if kind.__module__.startswith("keras."):
        return plain
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in parameters if p.kind not in variable]
    everything = [p.kind for p in parameters] == list(variable)
    if everything or names in _CONSTRUCTORS[plain]:
        return kind
    warnings.warn(
        f"Model {model.name!r} becomes a plain keras.{plain.__name__}: what {kind.__name__} has "
        f"beside its graph of layers is lost, as its constructor takes {names} and not "
        f"{_CONSTRUCTORS[plain][0]}",
        stacklevel=2,
    )
    return plain


#: The arguments of constructors that make a model of a graph or of layers.
_CONSTRUCTORS = {
    keras.Model: (["inputs", "outputs"], ["inputs", "outputs", "name"]),
    keras.Sequential: (["layers"], ["layers", "name"], ["layers", "trainable", "name"]),
}
#: What `compile` and `fit` leave on a model, which the copy is without.
_OF_TRAINING = {"optimizer", "history", "stop_training", "stop_evaluating", "stop_predicting"}


def _warn_of_what_is_lost(model, new):
    """Layers can be attributes of a model, and be called by no graph; so can be anything else."""
    graph = [call.operation for call in calls(model) if isinstance(call.operation, keras.Layer)]
    known = {id(part) for layer in graph for part in sublayers(layer)}
    lost = [
        x.name
        for x in sublayers(model)
        if x is not model and id(x) not in known and not isinstance(x, keras.layers.InputLayer)
    ]
    if lost:
        warnings.warn(
            f"The copy of {model.name!r} is without the layers {lost}, which its graph does not "
            "call",
            stacklevel=2,
        )
    attributes = [
        name
        for name, value in vars(model).items()
        if not (hasattr(new, name) or name.startswith("_") or name in _OF_TRAINING)
        and not isinstance(value, keras.Layer)
    ]
    if type(new) is type(model) and attributes:
        warnings.warn(
            f"The copy of {model.name!r} is without the attributes {attributes}, which were set on "
            "it after it was made",
            stacklevel=2,
        )


def _fresh(operation):
    """A copy without its state."""
    try:
        if isinstance(operation, keras.layers.Lambda):  # its configuration would be code, as text
            return type(operation)(
                operation.function,
                output_shape=lambda_output_shape(operation),
                mask=operation.mask,
                arguments=operation.arguments,
                **keras.Layer.get_config(operation),
            )
        return type(operation).from_config(operation.get_config())
    except Exception as error:  # whatever anybody's code raises
        if not isinstance(operation, keras.Layer):
            return operation  # it has no state
        raise ValueError(
            f"Layer {operation.name!r} ({type(operation).__name__}) can't be copied: give it a "
            "`get_config` that holds the arguments of its constructor. Making it anew from that "
            f"ended in: {type(error).__name__}: {error}"
        ) from error


def _same_state(old, twin):
    """Weights, statistics and random states of a layer, and of the layers in it."""
    pairs = list(zip(sublayers(old), sublayers(twin), strict=False))
    shapes = [[tuple(v.shape) for v in x.variables] for x in (old, twin)]
    if len(sublayers(old)) != len(sublayers(twin)) or sorted(shapes[0]) != sorted(shapes[1]):
        raise ValueError(
            f"Layer {old.name!r} ({type(old).__name__}) can't be copied: it has variables of "
            f"shapes {shapes[0]}, what its `get_config` makes has {shapes[1]}. Layers that are "
            "tied in it, or made after it was built, do not come back from a configuration"
        )
    # These know what is where in a quantized layer, and what is derived from it: the statistics of
    # a `Normalization` are in no variable that the computation reads. A vocabulary is an asset.
    for a, b in pairs:
        store: dict[str, Any] = {}
        a.save_own_variables(store)
        if store:
            b.load_own_variables(store)
        if hasattr(a, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                a.save_assets(folder)
                b.load_assets(folder)
        for g, h in zip(owned_generators(a), owned_generators(b), strict=True):
            h.state.assign(ops.copy(g.state))
    if shapes[0] == shapes[1]:  # last, as what is stored has LoRA's weights in the others
        for a, b in zip(old.variables, twin.variables, strict=True):
            b.assign(ops.copy(a))  # or JAX has one buffer, which training on the copy gives away


def _same_trainable(old, new, twins):
    """What is trainable, from the outside in: set on a layer, it is set on all that is in it."""
    new.trainable = old.trainable
    for layer in old.layers:
        if id(layer) not in twins:
            continue
        twin = twins[id(layer)][1]
        if is_functional(layer):
            _same_trainable(layer, twin, twins)
            continue
        for a, b in zip(sublayers(layer), sublayers(twin), strict=True):
            b.trainable = a.trainable
        if [tuple(v.shape) for v in layer.variables] == [tuple(v.shape) for v in twin.variables]:
            for a, b in zip(layer.variables, twin.variables, strict=True):
                if a.trainable != b.trainable:
                    b.trainable = a.trainable  # LoRA freezes one of a layer's
