"""A network out of training: core Keras layers only, the same deterministic outputs."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, tree

from keras_swapout.arguments import checked_flag
from keras_swapout.layers import DropPath, Swapout
from keras_swapout.layers.base import RandomLayer
from keras_swapout.layers.drop import RateLayer
from keras_swapout.submodels.inside import sublayers
from keras_swapout.surgery.find import check_reachable
from keras_swapout.surgery.folding import folded, passing
from keras_swapout.surgery.insert import all_calls
from keras_swapout.surgery.modes import always_training
from keras_swapout.surgery.rewrite import key, rewritten


def strip(model: keras.Model, fold_batch_norm: bool = False) -> keras.Model:
    """A copy of a network without any of our layers, which gives the same deterministic outputs.

    A merge becomes `keras.layers.Add`, behind a `Rescaling` of theta for each operand where its
    theta counts at inference (`rescale=False`); a layer that drops goes, or becomes a `Rescaling`.
    Names and weights stay. What is saved or exported loads where keras_swapout is not installed.
    Keras' own dropouts stay: they do nothing at inference.

    Args:
        model: a functional or Sequential `keras.Model`; nested models are reached. It stays as it
            is; the copy shares no weights with it. Of an `RBlock`, give its `.model`.
        fold_batch_norm: whether a batch normalisation right behind a convolution or a dense layer
            is multiplied into its weights. Outputs then differ by rounding, and training goes on
            from another network: for deployment only.

    Returns:
        An uncompiled `keras.Model`. As it is, Keras' exporters take it: SavedModel, LiteRT, ONNX.
        (Of a network with a `Normalization`, and that is every EfficientNet, Keras' file for ONNX
        can't be run. Here the statistics are NumPy arrays until it is saved, loaded or adapted.)

    Raises:
        TypeError: an argument has the wrong type. ValueError: the model's graph can't be read; a
            layer of ours is in a layer with a `call` of its own, has one itself as a subclass, or
            is called with `training=True`, so that there are no deterministic outputs.

    Example:

    >>> import keras, keras_swapout as ks
    >>> inputs = keras.Input((8,))
    >>> merge = ks.layers.Swapout(1.0, 0.5, rescale=False, name="merge")
    >>> model = keras.Model(inputs, merge([inputs, keras.layers.Dense(8)(inputs)]))
    >>> [type(layer).__name__ for layer in ks.surgery.strip(model).layers]
    ['InputLayer', 'Dense', 'Rescaling', 'Add']

    Source: this package; Swapout (Singh, Hoiem, Forsyth 2016), section 3, for what is computed at
    inference ("deterministic inference"). Batch normalisation is affine there, so it folds.
    """
    checked_flag(fold_batch_norm, "fold_batch_norm")
    check_reachable(model)
    last = {id(x) for x in model.outputs}
    random = always_training(model)
    names = {layer.name for layer in sublayers(model)}
    edits: dict[int, list[Any]] = {}
    new: dict[int, Any] = {}
    for where, found in all_calls(model).items():
        for call in found:
            layer = call.operation
            if not isinstance(layer, (Swapout, RateLayer)):
                continue
            _check_known(layer, where)
            if layer.stochastic and key(call) in random:
                raise ValueError(
                    f"Layer {random[key(call)]!r} is called with training=True, or a model that it "
                    "is in, so it is random at inference too: there are no deterministic outputs "
                    "that the copy could have"
                )
            if id(layer) not in new:
                plain = _plain_merge if isinstance(layer, Swapout) else _plain_dropout
                new[id(layer)] = plain(layer, names)
            steps = new[id(layer)]
            if not steps and id(call.outputs[0]) in last:
                steps = passing(layer, model)
            edits[key(call)] = steps
    stripped = rewritten(model, edits)
    hidden = [x for x in sublayers(stripped) if isinstance(x, RandomLayer) or _is_ours(x)]
    if hidden:
        raise ValueError(
            f"Argument `model`: {hidden[0].name!r} ({type(hidden[0]).__name__}) is in a layer with "
            "a `call` of its own, where it can't be replaced. Call it in the graph of the model "
            "(`keras.Model(inputs, outputs)`) instead"
        )
    stripped = folded(stripped) if fold_batch_norm else stripped
    _make_ready_for_exporters(stripped)
    return stripped


def _is_ours(layer):
    return type(layer).__module__.startswith("keras_swapout.")


def _check_known(layer, where):
    """Raises where somebody's subclass may compute what ours does not."""
    kind = type(layer)
    if not kind.call.__module__.startswith("keras_swapout."):
        raise ValueError(
            f"Argument `model`: {where!r} ({kind.__name__}) is a subclass of a layer of ours with "
            "a `call` of its own; what it gives at inference is not known here"
        )


def _make_ready_for_exporters(model):
    """Has the model called, as Keras asks of what it exports, and holds constants as NumPy arrays.

    The statistics of `Normalization` are plain tensors. A graph of TensorFlow has tensors from
    outside among its inputs, however small they are, and tf2onnx takes every input that is no
    variable for one that a caller gives.
    """
    for layer in sublayers(model):
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.mean, layer.variance = map(ops.convert_to_numpy, (layer.mean, layer.variance))
    # A Sequential model has no `input` before it has been called.
    given = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    model(tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype, x.sparse), given))


def _plain_merge(layer, names) -> list[Any]:
    add = keras.layers.Add(name=layer.name, dtype=layer.dtype_policy)
    thetas = (1.0, 1.0) if layer.rescale else tuple(map(_number, layer.thetas))
    if layer.shortcut:
        thetas = thetas[::-1]
    scales = [
        _scale(layer, theta, _free(f"{layer.name}_theta_{1 if i == layer.shortcut else 2}", names))
        for i, theta in enumerate(thetas)
    ]

    def merge(pair, **kwargs):
        return add([scale(x) if scale else x for scale, x in zip(scales, pair, strict=True)])

    return [merge if any(scales) else add]


def _plain_dropout(layer, names) -> list[Any]:
    if isinstance(layer, DropPath) and not layer.rescale:
        scale = _scale(layer, 1 - _number(layer.rate_in_force), layer.name)
        return [scale] if scale else []
    return []


def _scale(layer, factor, name):
    if factor == 1:
        return None
    return keras.layers.Rescaling(factor, name=name, dtype=layer.dtype_policy)


def _free(name, names):
    """The name, or one like it that no layer has."""
    while name in names:
        name += "_"
    return name


def _number(value) -> float:
    return float(ops.convert_to_numpy(value))
