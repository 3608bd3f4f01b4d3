"""What layers add to the loss: of both views, some of it counts double."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_swapout import backend
from keras_swapout.submodels.inside import is_functional, sublayers
from keras_swapout.submodels.sampling import put_back
from keras_swapout.submodels.views import Views


def doubled(model: keras.Model, run: Callable[..., Any], trained: keras.Model) -> list[bool] | None:
    """Of each loss that layers add in a call, whether it is double with two views instead of one.

    A sum over the batch is, a mean is not. In inference the two views are equal, so that the losses
    of both say it. The network is tried only if it has layers that may add a loss.

    Args:
        model: the network.
        run: the same forked, from `keras_swapout.submodels.fork.forked`.
        trained: what is trained, with the network in it.

    Returns:
        in the order of `trained.losses`, which is its own; None: it can't be tried, or one is
        neither (a norm, or a sum and something else).

    Example:

    >>> from keras_swapout.submodels.fork import forked
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5)])
    >>> doubled(model, forked(model), model)
    []
    """
    if not any(_may_add(layer) for layer in sublayers(model)):
        return []
    if not is_functional(model):
        return None
    rng = np.random.default_rng(0)
    try:
        inputs = tree.map_structure(lambda x: _some(x, rng), model.input)
        with put_back(model):
            model(inputs, training=False)
            one = _values(trained)
            run(inputs, Views(2), False)
            both = _values(trained)
        if not all(one):  # of 0 there is nothing to be seen
            return None
        ratios = [b / a for a, b in zip(one, both, strict=True)]
        told = all(min(abs(ratio - 1), abs(ratio - 2)) < 1e-3 for ratio in ratios)
        return [ratio > 1.5 for ratio in ratios] if told else None
    except Exception:  # it needs inputs of some other kind
        return None


def added_loss(trained: keras.Model, dtype: str) -> Any:
    """The sum of what layers and regularisers add to the loss, this replica's share of it.

    Example:

    >>> dense = keras.layers.Dense(2, kernel_initializer="ones", kernel_regularizer="l2")
    >>> model = keras.Sequential([keras.Input((3,)), dense])
    >>> round(float(added_loss(model, "float32")), 4)
    0.06
    """
    return sum((_share(loss, dtype) for loss in trained.losses), start=0.0)


def counted_once(loss: Any, trained: keras.Model, doubled: list[bool] | None, share: Any) -> Any:
    """`loss`, in which what is `doubled` of the losses that layers add counts once.

    Args:
        trained, doubled: as above.
        share: of the samples, how many have a second view.

    Warns:
        if it is not known of them.
    """
    added = _added(trained)
    if doubled is None or len(doubled) != len(added):
        if added:
            warnings.warn(
                "Layers add losses, and a trial before training could not tell of all whether they "
                "are means over the batch, which count once, or sums, which count both views. "
                f"Received: {len(added)} of {trained.name!r}",
                stacklevel=2,
            )
        return loss
    for value, twice in zip(added, doubled, strict=True):
        if twice:
            loss = loss - _share(value, loss.dtype) * ops.cast(share / (1 + share), loss.dtype)
    return loss


def _share(loss, dtype):
    """As Keras adds it up: the loss of a replica is its share of the whole."""
    return ops.cast(ops.sum(loss), dtype) / backend.replicas()


def _added(trained):
    """The losses without the regularisers of weights, which come last."""
    regularised = sum(w.regularizer is not None for w in trained.trainable_weights)
    return trained.losses[: len(trained.losses) - regularised]


def _values(trained):
    return [float(ops.sum(loss)) for loss in _added(trained)]


def _may_add(layer):
    if layer.activity_regularizer is not None:  # a mean, and in older versions of Keras a sum
        return True
    functions = [f for c in type(layer).__mro__ if not _known(c) for f in vars(c).values()]
    return any("add_loss" in f.__code__.co_names for f in functions if hasattr(f, "__code__"))


def _known(cls):
    return cls.__module__.startswith(("keras.", "keras_swapout."))


def _some(x, rng):
    """A few samples for an input, of ones where they are no real numbers."""
    shape = [3, *(8 if size is None else size for size in x.shape[1:])]
    dtype = keras.backend.standardize_dtype(x.dtype)
    return ops.cast(rng.normal(size=shape) if "float" in dtype else np.ones(shape), dtype)
