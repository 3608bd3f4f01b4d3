"""What is inside a network. The private parts of Keras that this takes are all in here.

There is no public way into the parts of a layer that is no model, to its seed generators, or to
what it was called on. tests/submodels/test_fork.py names the versions that it was tried with.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

import keras


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layer and all layers in it, at any depth."""
    return list(layer._flatten_layers())


def owned_generators(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """The seed generators of the layer itself."""
    return layer._seed_generators


def seed_generators(model: keras.Layer) -> list[keras.random.SeedGenerator]:
    """The seed generators of all layers, each once."""
    found = {id(g): g for layer in sublayers(model) for g in owned_generators(layer)}
    return list(found.values())


def first_call(layer: keras.Layer) -> tuple[tuple, dict[str, Any]] | None:
    """Arguments of the layer's first call in a graph, with `KerasTensor`s; None if there is none.

    (`layer.input` is public, and has the tensors without their places.)
    """
    nodes = layer._inbound_nodes
    return (nodes[0].arguments.args, nodes[0].arguments.kwargs) if nodes else None


def is_functional(layer: keras.Layer) -> bool:
    """Whether the layer is a model whose graph of layers says all that it does."""
    call = getattr(type(layer), "call", None)
    if getattr(call, "__qualname__", "") not in ("Functional.call", "Sequential.call"):
        return False  # a `call` of its own may do anything with the graph
    try:
        return bool(layer.inputs)
    except (AttributeError, ValueError):  # a Sequential model that nobody has told its input
        return False


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of an operation in the graph of a functional model."""

    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[keras.KerasTensor]  # those among the arguments
    outputs: list[keras.KerasTensor]


def calls(model: keras.Model) -> list[Call]:
    """The calls in the graph of a functional or Sequential model, each after what it needs.

    (`clone_model` with a `call_function` that records is public, calls every layer once more, and
    leaves a node on it.)
    """
    model = plain_view(model) if isinstance(model, keras.Sequential) else model
    by_depth = model._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [
        Call(
            node.operation,
            node.arguments.args,
            node.arguments.kwargs,
            list(node.input_tensors),
            list(node.outputs),
        )
        for node in nodes
        if not isinstance(node.operation, keras.layers.InputLayer)
    ]


def lambda_output_shape(layer: keras.layers.Lambda) -> Any:
    """The `output_shape` that a Lambda was given; its configuration has a function's code."""
    return layer._output_shape


def carries_mask(tensor: keras.KerasTensor) -> bool:
    """Whether a layer that is called on the tensor finds a mask of Keras on it."""
    return getattr(tensor, "_keras_mask", None) is not None


def plain_view(model: keras.Model) -> keras.Model:
    """The graph of a functional or Sequential model as a functional model of its own.

    `clone_model` would compile the clone of a compiled model, and does not rewrite Sequential ones.
    """
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


class Traced:
    """What a compiled function has of a network: where two differ, it has to be compiled again.

    The layers, their variables, and the plain attributes (a rate, a dtype policy, an activation),
    but no value of a variable. `quantize` and `enable_lora` change it, and training does not.
    """

    def __init__(self, *models: keras.Model) -> None:
        layers = {id(x): x for model in models for x in sublayers(model)}.values()
        # The objects, and not their ids: an id outlives nothing.
        self._objects = [*layers, *(v for model in models for v in model.variables)]
        self._objects += [model.loss if model.compiled else None for model in models]
        self._values = [layer.dtype_policy.name for layer in layers]
        for layer in layers:
            # `type` and not `isinstance`: a large network has ten thousand attributes.
            plain = [(k, v) for k, v in vars(layer).copy().items() if type(v) in _PLAIN]
            self._values += [(k, v) for k, v in plain if type(v) is not FunctionType]
            self._objects += [
                v for k, v in plain if type(v) is FunctionType and not _of_a_trainer(k)
            ]

    def is_of(self, *models: keras.Model) -> bool:
        """Whether the networks are still what they were."""
        now = Traced(*models)
        return (
            len(now._objects) == len(self._objects)
            and all(a is b for a, b in zip(now._objects, self._objects, strict=True))
            and now._values == self._values
        )


_PLAIN = {bool, int, float, str, FunctionType}


def _of_a_trainer(name):
    """Whether an attribute comes and goes with `fit`, or while a call is overridden."""
    return name.endswith("_function") or name == "call"


class PerLayer:
    """A value for each layer, made when it is first asked for, and gone when the layer is."""

    def __init__(self, make: Callable[[], Any]) -> None:
        # By id, as a layer may have an equality of its own.
        self._make, self._kept, self._lock = make, {}, threading.Lock()

    def __getitem__(self, layer: keras.Layer) -> Any:
        key = id(layer)
        with self._lock:
            if key not in self._kept or self._kept[key][0]() is not layer:
                reference = weakref.ref(layer, functools.partial(self._forget, key))
                self._kept[key] = reference, self._make()
            return self._kept[key][1]

    def _forget(self, key, reference):
        if self._kept.get(key, (None,))[0] is reference:
            self._kept.pop(key, None)
