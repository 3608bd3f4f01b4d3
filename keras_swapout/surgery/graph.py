"""The graph of a functional model: which tensor is made of which."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_swapout.submodels.inside import Call, calls


@functools.cache
def operation_class(of: Callable[[Any, Any], Any]) -> type[keras.Operation]:
    """The class of what `a + b`, say, is in a graph, which has no public name."""
    x = keras.KerasTensor((1,))
    return type(keras.Function([x], of(x, x)).operations[-1])


def is_addition(operation: keras.Operation) -> bool:
    """Whether it is an `Add` layer, or `+`."""
    return type(operation) is keras.layers.Add or is_plus(operation)


def is_plus(operation: keras.Operation) -> bool:
    """Whether it is `+`, which is no layer."""
    return type(operation) is operation_class(operator.add)


def has_weights(operation: keras.Operation) -> bool:
    """Whether it is a layer with weights, or a model."""
    return isinstance(operation, keras.Layer) and bool(operation.weights)


class Graph:
    """The calls of a functional or Sequential model, in order, and what they make of what.

    Tensors are told apart by their ids: the model keeps them.
    """

    def __init__(self, model: keras.Model) -> None:
        self.calls = calls(model)
        self.outputs = {id(x) for x in model.outputs}
        self.producer: dict[int, Call] = {}
        self.consumers: dict[int, list[Call]] = {}
        self._tensors: list[Any] = []
        self._index: dict[int, int] = {}
        self._made_of: list[int] = []  # for each tensor the set of those it is made of, as bits
        for x in model.inputs:
            self._add(x, 0)
        for call in self.calls:
            made_of = 0
            for x in call.inputs:
                if id(x) not in self._index:  # made of no input of the model
                    self._add(x, 0)
                i = self._index[id(x)]
                made_of |= self._made_of[i] | 1 << i
                self.consumers[id(x)].append(call)
            for y in call.outputs:
                self._add(y, made_of)
                self.producer[id(y)] = call

    def _add(self, tensor, made_of):
        self._index[id(tensor)] = len(self._tensors)
        self._tensors.append(tensor)
        self._made_of.append(made_of)
        self.consumers[id(tensor)] = []

    def is_ancestor(self, a: keras.KerasTensor, b: keras.KerasTensor) -> bool:
        """Whether `b` is made of `a`."""
        return bool(self._made_of[self._index[id(b)]] >> self._index[id(a)] & 1)

    def between(self, a: keras.KerasTensor, b: keras.KerasTensor) -> list[keras.KerasTensor]:
        """The tensors on all paths from `a` to `b`, with `b` and without `a`."""
        last = self._index[id(b)]
        inside = self._made_of[last] | 1 << last
        start = self._index[id(a)]
        later = range(start + 1, last + 1)
        return [
            self._tensors[i] for i in later if inside >> i & 1 and self._made_of[i] >> start & 1
        ]

    def makers(self, tensors: list[keras.KerasTensor]) -> list[Call]:
        """The calls that make the tensors, each once."""
        return list({id(c): c for c in (self.producer[id(x)] for x in tensors)}.values())

    def bottlenecks(self) -> Iterator[tuple[Call, keras.KerasTensor]]:
        """The calls whose one output is all that the rest of the network is made of."""
        # The tensors that are still to be used, and how often.
        waiting = {i: len(c) for i, c in self.consumers.items() if c and i not in self.producer}
        for call in self.calls:
            for x in call.inputs:
                waiting[id(x)] -= 1
                if not waiting[id(x)] and id(x) not in self.outputs:
                    del waiting[id(x)]
            for y in call.outputs:
                if self.consumers[id(y)] or id(y) in self.outputs:
                    waiting[id(y)] = len(self.consumers[id(y)])
            if len(waiting) == 1 and len(call.outputs) == 1 and id(call.outputs[0]) in waiting:
                yield call, call.outputs[0]
