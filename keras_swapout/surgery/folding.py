"""Batch normalisation multiplied into the layer in front of it: for inference it is affine.

gamma (W x + b - mean) / sqrt(variance + epsilon) + beta  =  W' x + b'
"""

from __future__ import annotations

import collections
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swapout.submodels.inside import is_functional
from keras_swapout.surgery.graph import Graph
from keras_swapout.surgery.modes import always_training
from keras_swapout.surgery.places import fitted
from keras_swapout.surgery.rewrite import key, rewritten

#: For each layer that it folds into, the variable with the weights, and its axes of outputs.
_KERNELS = {
    keras.layers.Dense: ("kernel", (-1,)),
    keras.layers.Conv1D: ("kernel", (-1,)),
    keras.layers.Conv2D: ("kernel", (-1,)),
    keras.layers.Conv3D: ("kernel", (-1,)),
    keras.layers.Conv1DTranspose: ("kernel", (-2,)),
    keras.layers.Conv2DTranspose: ("kernel", (-2,)),
    keras.layers.Conv3DTranspose: ("kernel", (-2,)),
    keras.layers.SeparableConv1D: ("pointwise_kernel", (-1,)),
    keras.layers.SeparableConv2D: ("pointwise_kernel", (-1,)),
    keras.layers.DepthwiseConv1D: ("kernel", (-2, -1)),
    keras.layers.DepthwiseConv2D: ("kernel", (-2, -1)),
}


def folded(model: keras.Model) -> keras.Model:
    """A copy of a model with each batch normalisation folded that can be.

    It can where it is all that uses the output of a linear layer of `_KERNELS`, each is called
    once, computes in the same precision, and it normalises the channels.
    """
    edits: dict[int, list[Any]] = {}
    pairs = []
    last = {id(x) for x in model.outputs}
    for before, call in _foldable(model):
        layer, norm = before.operation, call.operation
        new = fitted(layer, use_bias=True)
        edits[key(before)] = [new]
        edits[key(call)] = passing(norm, model) if id(call.outputs[0]) in last else []
        pairs.append((layer, norm, new))
    copy = rewritten(model, edits)
    for layer, norm, new in pairs:
        new.trainable = layer.trainable
        _fold(layer, norm, new)
    return copy


def passing(layer: keras.Layer, model: keras.Model) -> list[Any]:
    """The edit where a layer goes that is the model's output: an output is known by its name."""
    # By the policy's name: `Identity` has no configuration of its own that could hold the object.
    step = keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy.name)
    if isinstance(model, keras.Sequential):  # is made of layers
        return [step]
    return [lambda x, **kwargs: step(x)]  # without a mask, which `Identity` does not take


def _foldable(model):
    graphs: list[Graph] = []
    training = always_training(model)
    _collect(model, graphs)
    times = collections.Counter(id(c.operation) for graph in graphs for c in graph.calls)
    for graph in graphs:
        for call in graph.calls:
            norm = call.operation
            if type(norm) is not keras.layers.BatchNormalization or key(call) in training:
                continue
            before = graph.producer.get(id(call.inputs[0]))
            if before is None or id(call.inputs[0]) in graph.outputs:
                continue
            layer = before.operation
            alone = len(graph.consumers[id(call.inputs[0])]) == 1
            once = times[id(layer)] == times[id(norm)] == 1
            fits = _is_linear(layer) and _of_channels(norm, layer, call.inputs[0])
            if alone and once and fits and layer.compute_dtype == norm.compute_dtype:
                yield before, call


def _collect(model, graphs):
    graph = Graph(model)
    graphs.append(graph)
    known = set()
    for call in graph.calls:
        if is_functional(call.operation) and id(call.operation) not in known:
            known.add(id(call.operation))
            _collect(call.operation, graphs)


def _is_linear(layer):
    return (
        type(layer) in _KERNELS
        and layer.activation is keras.activations.linear
        and layer.quantization_mode is None
        and not getattr(layer, "lora_enabled", False)
    )


def _of_channels(norm, layer, tensor):
    axis = norm.axis if isinstance(norm.axis, int) else -len(tensor.shape) * 2
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return axis % len(tensor.shape) == (1 if first else len(tensor.shape) - 1)


def _fold(layer, norm, new):
    name, axes = _KERNELS[type(layer)]
    kernel, mean, variance = map(
        _exact, (getattr(layer, name), norm.moving_mean, norm.moving_variance)
    )
    scale = (_exact(norm.gamma) if norm.scale else 1.0) / np.sqrt(variance + norm.epsilon)
    shift = (_exact(norm.beta) if norm.center else 0.0) - mean * scale
    sides = [n if i - kernel.ndim in axes else 1 for i, n in enumerate(kernel.shape)]
    for variable in new.weights:  # a separable convolution has another kernel, as it was
        same = next((v for v in layer.weights if v.name == variable.name), None)
        if same is not None:
            variable.assign(keras.ops.copy(same))
    getattr(new, name).assign(kernel * scale.reshape(sides))
    bias = _exact(layer.bias) if layer.use_bias else 0.0
    new.bias.assign(bias * scale + shift)


def _exact(variable):
    return ops.convert_to_numpy(ops.cast(variable, "float32")).astype("float64")
