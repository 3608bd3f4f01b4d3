"""Batch normalisation's statistics estimated again, for the network that predicts.

With stochastic layers the moving statistics are of activations with noise, and from an exponential
average over the last steps of training, while the weights still moved. The deterministic network
has other activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swapout import backend
from keras_swapout.arguments import (
    checked,
    checked_array,
    checked_count,
    checked_flag,
    checked_verbose,
)
from keras_swapout.consistency.rblock import RBlock
from keras_swapout.inference.batches import batches, first
from keras_swapout.inference.moments import Moments
from keras_swapout.submodels.inside import Traced, is_functional, plain_view, sublayers
from keras_swapout.submodels.overrides import overridden
from keras_swapout.submodels.sampling import alone, checked_steady
from keras_swapout.submodels.trial import ROWS


def recalibrate_batch_norm(
    model: keras.Model,
    data: Any,
    steps: int | None = None,
    *,
    in_place: bool = False,
    batch_size: int = 256,
    verbose: bool = True,
) -> keras.Model:
    """Batch normalisation with the exact statistics of the deterministic network.

        mean = 1/M sum_i a_i,   variance = 1/M sum_i (a_i - mean)^2

    over all M positions of all samples in `data`, per channel, with a the layer's input when all
    noise is off and the layers before it have their new statistics already. So there is one pass
    over the data for each batch normalisation, in the order in which they are called; of that pass
    only what comes before the layer is computed (under TensorFlow and JAX). Nothing else changes.

    Args:
        model: a built Keras model with batch normalisation, or an `RBlock` around one.
        data: inputs as they are at inference, training images without augmentation, say: an array
            (n, ...), a list or dict of arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or
            another iterable of batches that can be gone through again. No labels are needed.
        steps: how many batches to use, an int >= 1; None for all. With all, the batches' size
            makes no difference but to time and memory.
        in_place: False gives a copy and leaves `model` alone. True changes the statistics of
            `model`; after an error or an interruption they are what they were. To be able to go
            back later, keep `batch_norm_statistics(model)` and give it to `restore_batch_norm`.
        batch_size: samples of a batch where `data` holds arrays, an int >= 1.
        verbose: whether to show progress, a step for each layer.

    Returns:
        The recalibrated `keras.Model`: `model` or the copy, which is compiled where `model` is, at
        least with its loss.

    A layer that is called several times gets the statistics of all its calls pooled; in a chain of
    its own calls the later ones see its former statistics. Under a `tf.distribute` strategy, with a
    model made in its scope, each batch is split among the replicas and their statistics are pooled,
    so that all replicas, and all workers, whose batches may differ, get the same.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range, `model` is not
            built, has no batch normalisation or a layer that stays random at inference, or `data`
            is empty.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    >>> x = np.array([[0.0, 1.0], [4.0, 3.0]], "float32")
    >>> recalibrated = ks.inference.recalibrate_batch_norm(model, x, verbose=False)
    >>> [keras.ops.convert_to_numpy(v).tolist() for v in recalibrated.non_trainable_variables]
    [[2.0, 2.0], [4.0, 1.0]]

    Source: the second way of prediction in Swapout (Singh, Hoiem, Forsyth 2016, section 3.3) needs
    it; the exact average instead of the exponential one as "precise batch normalisation" (Wu,
    Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3), which takes one pass with the
    batches' own statistics before each layer.
    """
    if isinstance(model, RBlock):
        model = model.model
    checked(model, keras.Model, "model", "a keras.Model that is built", lambda m: m.built)
    checked_flag(in_place, "in_place")
    recalibrator = Recalibrator(model if in_place else copied(model))
    recalibrator(data, steps, batch_size, verbose)
    return recalibrator.model


def batch_norm_statistics(model: keras.Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """The moving mean and variance of each batch normalisation, to go back to.

    Args:
        model: a Keras model.

    Returns:
        A pair of arrays (channels,) for each layer, in the order of the model's layers.

    Raises:
        TypeError: `model` is no Keras model.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    >>> batch_norm_statistics(model)[0][1].tolist()
    [1.0, 1.0]
    """
    # Copies: torch's arrays would change with the layers.
    return [
        tuple(np.array(ops.convert_to_numpy(v)) for v in (layer.moving_mean, layer.moving_variance))
        for layer in _batch_norms(model)
    ]


def restore_batch_norm(
    model: keras.Model, statistics: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Gives each batch normalisation the statistics that `batch_norm_statistics` returned.

    Args:
        model: the model, or one with the same layers.
        statistics: a pair of arrays for each batch normalisation.

    Raises:
        TypeError: an argument has the wrong type. ValueError: the number of pairs, or a shape, does
            not fit.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    >>> restore_batch_norm(model, [(np.zeros(2), np.full(2, 4.0))])
    >>> batch_norm_statistics(model)[0][1].tolist()
    [4.0, 4.0]
    """
    layers = _batch_norms(model)
    wanted = [
        [tuple(v.shape) for v in (layer.moving_mean, layer.moving_variance)] for layer in layers
    ]
    expected = (
        f"a list with a mean and a variance for each of the {len(layers)} batch normalisations, of "
        f"shapes {wanted}"
    )

    def parts(value):
        sequence = (list, tuple, np.ndarray)
        return checked(value, sequence, "statistics", expected, lambda v: getattr(v, "ndim", 1))

    pairs = [
        [checked_array(values, "statistics", expected) for values in parts(pair)]
        for pair in parts(statistics)
    ]
    shapes = [[a.shape for a in pair] for pair in pairs]
    if shapes != wanted:
        raise ValueError(f"Argument `statistics` must be {expected}. Received: shapes {shapes}")
    for layer, (mean, variance) in zip(layers, pairs, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


# The passes are compiled in this many lengths: with one for each layer more time would go into
# compiling, with a single one all of the network would be computed every time.
SEGMENTS = 4


class Recalibrator:
    """`recalibrate_batch_norm` in place, for many calls: compiled once, until the network changes.

    Args:
        model: a built Keras model with batch normalisation.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        if not _batch_norms(model):
            raise ValueError(
                "Argument `model` must have a keras.layers.BatchNormalization. Received: "
                f"{model.name!r}, which has none, so there is nothing to recalibrate"
            )
        self._passes: dict[int, tuple[keras.Layer, _Pass]] = {}
        self._traced: Traced | None = None  # what the network was when they were made

    def __call__(
        self, data: Any, steps: int | None = None, batch_size: int = 256, verbose: bool = False
    ) -> None:
        """Arguments and errors as for `recalibrate_batch_norm`."""
        if steps is not None:
            steps = checked_count(steps, "steps", also=" or None")
        batch_size = checked_count(batch_size, "batch_size")
        verbose = checked_verbose(verbose)
        if isinstance(data, Iterator):  # spent after the first pass
            raise ValueError(
                "Argument `data` must be something that can be gone through again, for there is a "
                f"pass for each layer. Received: {data!r}"
            )
        with alone(self.model):
            if self._traced is None or not self._traced.is_of(self.model):
                self._passes = self._new_passes(data)
                self._traced = Traced(self.model)  # after a call: by now all is built
            self._recalibrate(data, steps, batch_size, verbose)

    def _new_passes(self, data):
        order = _call_order(self.model, first(data, "data", ROWS))
        passes = {}
        for part in np.array_split(np.arange(len(order)), min(SEGMENTS, len(order))):
            to_there = _Pass(self.model, [order[i] for i in part])
            passes |= {id(layer): (layer, to_there) for layer in to_there.layers_seen}
        return passes

    def _recalibrate(self, data, steps, batch_size, verbose):
        bar = keras.utils.Progbar(len(self._passes), verbose=int(verbose), unit_name="layer")
        before = batch_norm_statistics(self.model)
        try:
            for number, (layer, to_there) in enumerate(self._passes.values()):
                found = to_there.moments(layer, batches(data, batch_size, "data", steps))
                layer.moving_mean.assign(found.mean)
                layer.moving_variance.assign(found.squares / found.count)
                bar.update(number + 1)
        except BaseException:
            restore_batch_norm(self.model, before)
            raise


class _Pass(keras.Model):
    """Inputs of the network -> for some of its layers the moments of what they are called on.

    Of each layer (count, mean, squares) with a row for each call and each replica. The network is
    computed as far as the last of the layers, where the backend leaves out what nobody asks for.
    """

    def __init__(self, model, layers):
        super().__init__(name=f"pass_to_{layers[-1].name}", autocast=False)
        self.model, self.layers_seen = model, layers
        # Each runs a few times: under TensorFlow XLA would take longer to compile than to run.
        self.jit_compile = keras.backend.backend() == "jax"
        self.built = True
        # Made once: under tf.distribute it is a function that is traced when it is first called.
        self._run = backend.on_replicas(self) or self.predict_on_batch

    def call(self, inputs, training=None):
        seen = {id(layer): [] for layer in self.layers_seen}

        def watch(layer, call):
            def watched(inputs, *args, **kwargs):
                seen[id(layer)].append(_moments(inputs, kwargs.get("mask"), layer.axis))
                return call(inputs, *args, **kwargs)

            return watched

        with overridden(self.layers_seen, watch):
            self.model(inputs, training=False)
        return [[ops.stack(part) for part in zip(*calls, strict=True)] for calls in seen.values()]

    def moments(self, layer, data):
        """Of one of the layers, pooled over all of the data."""
        place = self.layers_seen.index(layer)
        total = None
        for batch in data:
            rows = zip(*map(ops.convert_to_numpy, self._run(batch)[place]), strict=True)
            for count, mean, squares in rows:
                part = Moments(count.astype(np.float64), mean, squares)
                total = part if total is None else total.pooled(part)
        if not np.all(total.count):
            raise ValueError(
                f"Argument `data` must have a position that is not masked for each channel of "
                f"{layer.name!r}. Received: none for {np.sum(total.count == 0)} of them"
            )
        return total


def _moments(inputs, mask, axis):
    """Count, mean and squared deviations of each channel, over what is not masked."""
    inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    axes = [i for i in range(len(inputs.shape)) if i != axis % len(inputs.shape)]
    if mask is not None:
        mask = ops.expand_dims(ops.cast(mask, "bool"), -1)

    def total(values):
        if mask is not None:
            values = ops.where(mask, values, ops.zeros_like(values))
        return ops.sum(values, axis=axes, keepdims=True)

    count = total(ops.ones_like(inputs))
    mean = total(inputs) / ops.maximum(count, 1)  # a replica may get none of a last batch
    squares = total(ops.square(inputs - mean))
    return [ops.reshape(value, (-1,)) for value in (count, mean, squares)]


def _call_order(model, inputs):
    """The batch normalisations in the order in which they are first called, without noise."""
    order = []

    def noting(layer, call):
        def noted(*args, **kwargs):
            if layer not in order:
                order.append(layer)
            return call(*args, **kwargs)

        return noted

    def run():
        with overridden(_batch_norms(model), noting):
            model(inputs, training=False)

    way_out = "Recalibrate a network whose layers are off at inference"
    checked_steady(model, inputs, run, way_out)
    return order


def copied(model: keras.Model) -> keras.Model:
    """A model with layers of its own and the same weights, compiled with the same loss.

    Raises:
        ValueError: the model can't be made again from its configuration.
    """
    try:
        copy = _clone(model)
        if not copy.built:
            copy.build_from_config(model.get_build_config())
        copy.set_weights(model.get_weights())
    except Exception as error:
        raise ValueError(
            f"Argument `in_place` must be True for {model.name!r}, which can't be copied: it needs "
            "a get_config and a from_config that make it again. Keep batch_norm_statistics(model) "
            "to be able to go back."
        ) from error
    if model.compiled and not copy.compiled:
        copy.compile(loss=model.loss, jit_compile=model.jit_compile)
    return copy


def _clone(model):
    try:
        return keras.models.clone_model(model)
    except Exception:
        if not is_functional(model):
            raise
        # Keras compiles the clone as well, which fails with a loss that it can't make again.
        return keras.models.clone_model(plain_view(model))


def _batch_norms(model):
    checked(model, keras.Layer, "model", "a keras.Model or a keras.Layer")
    return [x for x in sublayers(model) if isinstance(x, keras.layers.BatchNormalization)]
