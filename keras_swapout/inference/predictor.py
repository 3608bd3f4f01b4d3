"""Prediction: deterministic, or the mean of many sub-models with how sure it is.

How samples become a `Prediction` is in prediction.py, the third way, `recalibrate_batch_norm`, in
recalibration.py.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_swapout.arguments import (
    checked,
    checked_count,
    checked_flag,
    checked_number,
    checked_seed,
    checked_verbose,
    refusal,
)
from keras_swapout.consistency.divergence import HEAD, Head, checked_distribution
from keras_swapout.consistency.heads import heads
from keras_swapout.consistency.rblock import RBlock
from keras_swapout.inference.batches import batches, length, mapped, rows
from keras_swapout.inference.prediction import (
    Deterministic,
    Prediction,
    Running,
    joined,
    probabilities,
    sizes,
    summary_of,
)
from keras_swapout.submodels.inside import Traced, is_functional, plain_view, sublayers
from keras_swapout.submodels.overrides import overridden
from keras_swapout.submodels.sampling import (
    AtInference,
    SubModels,
    alone,
    checked_steady,
    put_back,
    sampled_layers,
)
from keras_swapout.submodels.trial import draws_on, foreign
from keras_swapout.submodels.views import Views

MEMORY = 256 * 2**20  # bytes that the activations of one call may take, roughly
MOST_ROWS = 1024  # more rows at once were no faster
MOST_SAMPLES = 10**6  # a probability is then known to 0.0005: with more a number is mistaken
STEP = 20  # samples between two looks at the standard error
TOLERANCE, MAX_SAMPLES = 0.01, 1000  # of samples="auto"
WINDOW = 16  # groups of inputs whose samples="auto" is decided together
KEPT = 8  # predictors of `predict` that stay with a model


def predict(
    model: keras.Model,
    x: Any,
    samples: int | str | None = None,
    batch_size: int | None = None,
    antithetic: bool = True,
    seed: int | None = None,
    *,
    tolerance: float | None = None,
    max_samples: int | None = None,
    return_samples: bool = False,
    head: Head | Sequence[Head] | None = None,
    verbose: bool = True,
) -> Prediction:
    """Predicts once, without noise, or with many sub-models.

        samples=None:  q = softmax(f(x));   samples=T:  q = 1/T sum_t softmax(f(x; masks_t))

    A sub-model is the network with the masks of training and everything else as at inference:
    batch normalisation uses its moving statistics, data augmentation layers do nothing. What comes
    before the first stochastic layer is computed once per input. The model is left as it was, but
    for the places in its mask sequences where `seed` is None.

    Args:
        model: any Keras model, or an `RBlock` around one.
        x: inputs: an array (n, ...), a list or dict of arrays for several inputs, a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or another iterable of batches, of x or
            (x, y, ...).
        samples: None for a deterministic prediction; T, an int in [1, 10**6]; or "auto": draw until
            the standard error of the mean is below `tolerance` for every class, 20 samples at a
            time, at most `max_samples`.
        batch_size: how many rows (an input in one sub-model) the stochastic part runs at once, an
            int >= 1. None: as many as fit 256 MB of activations, at most 1024.
        antithetic: whether samples 2j and 2j + 1 use complementary masks in the layers of this
            package. The mean is the same and its standard error smaller, the marginal distribution
            of a sample unchanged. Other layers draw independently.
        seed: an int in [0, 2**31): the same seed, data, `batch_size` and `samples`, the same
            masks, in any thread. None: the layers' own sequences go on. (Under torch Keras' own
            layers draw from torch's global generator unless they have a seed of their own, and a
            layer without a `keras.random.SeedGenerator` has nothing that a seed could be given to.)
        tolerance: for "auto" only, a number > 0 in units of the mean (a probability); default 0.01.
        max_samples: for "auto" only, an int in [20, 10**6]; default 1000.
        return_samples: whether to keep every sample in memory. See `Predictor.stream` for more
            samples than fit.
        head: what the outputs are, for several a list. None: told by the loss and the last
            activation, see `keras_swapout.consistency.heads.heads`.
        verbose: whether a run of more than a few seconds shows its progress.

    Returns:
        A `Prediction`; of several outputs the same structure of them.

    What is compiled stays with the model, for the next call with the same arguments. Calls in
    several threads take turns where they share layers.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range or has no effect,
            the model has no stochastic layer to sample, or for samples=None one that stays random
            at inference, `x` is empty, or what the outputs are can't be told.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> inputs = keras.Input((8,))
    >>> outputs = keras.layers.Dense(3)(ks.layers.BDropDML(0.5, seed=1)(inputs))
    >>> model, x = keras.Model(inputs, outputs), np.random.rand(5, 8)
    >>> ks.inference.predict(model, x).mean.shape
    (5, 3)
    >>> prediction = ks.inference.predict(model, x, samples=30, seed=0)
    >>> prediction.mean.shape, prediction.mutual_information.shape
    ((5, 3), (5,))
    >>> bool(prediction.standard_error.max() < 0.1)
    True

    Source: MC dropout, Gal and Ghahramani 2016, section 4; for Swapout, Singh, Hoiem, Forsyth 2016,
    section 3.3 (which samples batch normalisation's statistics as well); mutual information as
    Houlsby et al. 2011. Complementary pairs and the standard error are ours.
    """
    predictor = Predictor(
        model,
        samples,
        batch_size,
        antithetic,
        tolerance=tolerance,
        max_samples=max_samples,
        return_samples=return_samples,
        head=head,
    )
    return predictor.kept()(x, seed=seed, verbose=verbose)


class Predictor:
    """`predict` for many calls: a network's functions are compiled once, until it changes.

    Args:
        model, samples, batch_size, antithetic, tolerance, max_samples, return_samples, head: as
            for `predict`, which also says what is raised.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5, seed=1)])
    >>> predictor = Predictor(model, samples=4, head=Head(None))
    >>> [predictor(np.ones((n, 4)), seed=0).mean.shape for n in (2, 3)]
    [(2, 4), (3, 4)]
    """

    def __init__(
        self,
        model: keras.Model,
        samples: int | str | None = None,
        batch_size: int | None = None,
        antithetic: bool = True,
        *,
        tolerance: float | None = None,
        max_samples: int | None = None,
        return_samples: bool = False,
        head: Head | Sequence[Head] | None = None,
    ) -> None:
        self._trained = checked(model, keras.Model, "model", "a keras.Model")
        self.model = model.model if isinstance(model, RBlock) else model
        self.auto = isinstance(samples, str) and samples == "auto"
        if samples is not None and not self.auto:
            also = ", None or 'auto'"
            samples = checked_count(samples, "samples", 1, also, MOST_SAMPLES)
        if batch_size is not None:
            batch_size = checked_count(batch_size, "batch_size", also=" or None")
        if tolerance is not None:
            expected = "None or a number > 0"
            tolerance = checked_number(tolerance, lambda n: 0 < n < math.inf, "tolerance", expected)
        if max_samples is not None:
            also = " or None"
            max_samples = checked_count(max_samples, "max_samples", STEP, also, MOST_SAMPLES)
        for name, value in (("tolerance", tolerance), ("max_samples", max_samples)):
            if value is not None and not self.auto:
                raise refusal(ValueError, name, f"None where samples={samples!r}", value)
        self.antithetic = checked_flag(antithetic, "antithetic")
        self.return_samples = checked_flag(return_samples, "return_samples")
        if self.return_samples and not isinstance(samples, int):
            raise ValueError(
                "Argument `return_samples` needs the same number of samples for every input. "
                f"Received: return_samples=True with samples={samples!r}"
            )
        self.tolerance = TOLERANCE if tolerance is None else tolerance
        self.samples = (max_samples or MAX_SAMPLES) if self.auto else samples
        several = head if isinstance(head, (list, tuple)) else [head]
        if head is not None and not all(isinstance(one, Head) for one in several):
            raise refusal(TypeError, "head", f"None, {HEAD} or a list of them", head)
        self.batch_size, self._given_head = batch_size, head
        self._begin()
        if self.model.built:
            self._check_layers()

    def _begin(self):
        self._functions: dict[tuple[int, bool], keras.Model] = {}
        self._limits: dict[Any, int] = {}  # rows of a call, by the shapes of the inputs
        self._steady = False  # whether inference is known to be without noise
        self._traced: Traced | None = None  # what the network was when they were made

    def kept(self) -> Predictor:
        """The predictor with the same arguments that is kept with the model, or now is this one."""
        head = tuple(self._given_head) if isinstance(self._given_head, list) else self._given_head
        arguments = (self.samples, self.auto, self.batch_size, self.antithetic, self.tolerance)
        # With the model, and past Keras' own __setattr__: what lies elsewhere would keep it alive.
        with _keeping:
            kept = vars(self._trained).setdefault("_keras_swapout_predictors", {})
            found = kept.setdefault((*arguments, self.return_samples, head), self)
            if len(kept) > KEPT:
                del kept[next(iter(kept))]
        return found

    def __call__(self, x: Any, seed: int | None = None, verbose: bool = True) -> Prediction:
        """Predicts for the inputs `x`; arguments and result as for `predict`."""
        parts = []
        for running in self._windows(x, seed, verbose, self._sample):
            parts.append([one.result() for one in running])
        outputs = [joined(output) for output in zip(*parts, strict=True)]
        return tree.pack_sequence_as(self._structure, outputs)

    def stream(
        self, x: Any, seed: int | None = None, verbose: bool = False
    ) -> Iterator[tuple[slice, np.ndarray | Any]]:  # Any: of several outputs
        """Every sample, in pieces that fit the memory.

        Args:
            x, seed, verbose: as for `predict`.

        Yields:
            (which inputs, their T predictions (T, those, classes)): a slice, and probabilities or
            plain numbers, float32; of several outputs the same structure of them.

        Raises:
            ValueError: also where `samples` is None or "auto".

        Example:

        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5, seed=1)])
        >>> predictor = Predictor(model, samples=100, head=Head(None))
        >>> for which, drawn in predictor.stream(np.ones((12, 4)), seed=0):
        ...     print(which, drawn.shape, np.quantile(drawn, 0.9, axis=0).shape)
        slice(0, 10, None) (100, 10, 4) (10, 4)
        slice(10, 12, None) (100, 2, 4) (2, 4)
        """
        if self.samples is None or self.auto:
            raise ValueError(
                "Argument `samples` must be an int to stream samples. Received: "
                f"samples={'auto' if self.auto else None!r}"
            )
        start = 0
        for drawn in self._windows(x, seed, verbose, self._draw_all):
            stop = start + drawn[0].shape[1]
            yield slice(start, stop), tree.pack_sequence_as(self._structure, drawn)
            start = stop

    # A window is the inputs that are worked on together: as many as make one call with all their
    # samples, or with samples="auto" enough to fill calls with those that need more.

    def _windows(self, x, seed, verbose, work):
        seed, verbose = checked_seed(seed), checked_verbose(verbose)
        progress = _Progress(length(x), verbose)
        call = None

        def window(sample):
            nonlocal call
            call = self._call_for(sample, length(x))
            return call.inputs * (WINDOW if self.auto else 1)

        for inputs in batches(x, window):
            # Within, as the caller may do as it likes with the model between two windows.
            place = None if seed is None else (seed, progress.done)
            with put_back(self.model, place, masks=seed is not None, norms=False):
                if self._traced is None or not self._traced.is_of(self.model, self._trained):
                    self._begin()
                    self._check_layers(inputs)
                result = work(inputs, call)
                if self._traced is None:  # by now all is built
                    self._traced = Traced(self.model, self._trained)
            yield result
            progress.add(rows(inputs))
        progress.finish()

    def _call_for(self, sample, count):
        """How many inputs and views a call has, from the memory that one row takes."""
        limit = self.batch_size or self._limit(sample)
        views = 1
        if self.samples is not None:
            most = STEP if self.auto else self.samples
            views = min(most, max(limit, 2 if self.antithetic else 1))
            if self.antithetic and views < most:
                views -= views % 2  # a pair belongs into one call
        inputs = max(1, limit // views)
        return _Call(min(inputs, _rounded(count)) if count else inputs, views)

    def _limit(self, sample):
        shapes = tuple(None if a is None else a.shape for a in tree.flatten(sample))
        with alone(self.model):
            if not self.model.built:
                self.model(sample)
            if shapes not in self._limits:
                self._limits[shapes] = _rows_that_fit(self.model, sample)
            return self._limits[shapes]

    def _check_layers(self, inputs=None):
        """Raises a ValueError where there is nothing to sample; without inputs, if that is sure."""
        if self.samples is None or sampled_layers(self.model):
            return
        if not is_functional(self.model):  # its parts don't say all that it does
            if inputs is None and any(map(foreign, sublayers(self.model))):
                return
            if draws_on(self.model, inputs, training=True):
                return
        raise ValueError(
            f"Argument `samples` needs a model with a layer that is stochastic in training. "
            f"Received: {self.model.name!r}, which has none, so that all samples would be "
            "equal. Use samples=None, or put in a keras_swapout.layers.Swapout, a "
            "keras.layers.Dropout, ... (a layer that draws with no keras.random.SeedGenerator "
            "of its own can say so with an attribute stochastic=True)"
        )

    def _sample(self, inputs, call):
        """A window's samples, summed up: a `Running` for each output."""
        count = rows(inputs)
        if self.samples is None:
            outputs = self._deterministic(inputs, call)
            return [Deterministic(p, head) for p, head in outputs]
        if self.return_samples:
            drawn = self._draw_all(inputs, call)
            return [
                Running(count, head, self.antithetic, p).add(
                    np.arange(count), len(p), summary_of(p, head, self.antithetic)
                )
                for p, head in zip(drawn, self._heads, strict=True)
            ]
        running, active, drawn = None, np.arange(count), 0
        while len(active):
            views = min(call.views, self.samples - drawn)
            if self.auto:
                views = min(views, STEP - drawn % STEP)
            for start in range(0, len(active), call.inputs):
                chosen = active[start : start + call.inputs]
                group = mapped(lambda a, chosen=chosen: a[chosen], inputs)
                outputs = self._call(group, call.inputs, views, reduced=True)
                if running is None:
                    running = [Running(count, head, self.antithetic) for _, head in outputs]
                for one, (sums, _) in zip(running, outputs, strict=True):
                    one.add(chosen, views, sums)
            drawn += views
            if drawn >= self.samples:
                break
            if self.auto and drawn % STEP == 0:
                worst = np.max([one.worst_error() for one in running], axis=0)
                active = active[worst[active] > self.tolerance]
        return running

    def _deterministic(self, inputs, call):
        def run():
            return self._call(inputs, call.inputs, 0, reduced=False)

        if self._steady:
            return run()
        way_out = "Use samples=T to sample them, or layers that are off at inference"
        outputs = checked_steady(self.model, inputs, run, way_out)
        self._steady = True
        return outputs

    def _draw_all(self, inputs, call):
        """(T, n, ...) of each output."""
        pieces, drawn = [], 0
        while drawn < self.samples:
            views = min(call.views, self.samples - drawn)
            outputs = self._call(inputs, call.inputs, views, reduced=False)
            pieces.append([p for p, _ in outputs])
            drawn += views
        return [np.concatenate(output) for output in zip(*pieces, strict=True)]

    def _call(self, inputs, size, views, reduced):
        """One call of the network: (result, head) of each output; padding is cut off."""
        count = rows(inputs)
        if count < size:  # another shape would be compiled again
            missing = size - count
            inputs = mapped(
                lambda a: np.concatenate([a, np.repeat(a[:1], missing, axis=0)]), inputs
            )
        if (views, reduced) not in self._functions:
            self._functions[views, reduced] = self._function(views, reduced)
        outputs = self._functions[views, reduced].predict_on_batch(inputs)
        axis = 0 if reduced or not views else 1
        cut = (slice(None),) * axis + (slice(count),)
        return [
            (tree.map_structure(lambda a: ops.convert_to_numpy(a)[cut], output), head)
            for output, head in zip(outputs, self._heads, strict=True)
        ]

    def _function(self, views, reduced):
        def after(outputs):
            self._structure = tree.map_structure(lambda _: 0, outputs)
            flat = tree.flatten(outputs)
            self._heads = self._known_heads(flat)
            results = []
            for output, head in zip(flat, self._heads, strict=True):
                p = probabilities(output, head)
                if views:
                    p = ops.reshape(p, (views, -1, *sizes(p)[1:]))
                results.append(summary_of(p, head, self.antithetic) if reduced else p)
            return results

        if not views:
            return AtInference(self.model, after)
        return SubModels(self.model, Views(views, complementary=self.antithetic), after)

    def _known_heads(self, outputs):
        known = heads(self.model, self._trained) if self._given_head is None else self._given_head
        known = [known] if isinstance(known, Head) else list(known)
        if len(known) != len(outputs):
            raise ValueError(
                f"Argument `head` must say what each of the {len(outputs)} outputs is. Received: "
                f"{known}"
            )
        for head, x in zip(known, outputs, strict=True):
            if head.distribution:
                checked_distribution(head, len(x.shape))
        # From the end, where axes stay what they are when views come in front.
        return [
            dataclasses.replace(head, axis=head.axis - len(x.shape)) if head.axis >= 0 else head
            for head, x in zip(known, outputs, strict=True)
        ]


class _Call(NamedTuple):
    """How many inputs, with how many views each, one call of the network has."""

    inputs: int
    views: int


_keeping = threading.Lock()

# How much at once, and how far.


def _rows_that_fit(model, sample):
    """Rows whose activations fit `MEMORY`, taking a layer's input, output and a work area."""
    largest = max(map(_activation_bytes, _tensors(model)), default=0)
    if not _known(model):
        largest = max(largest, _measured(model, sample))
    return max(1, min(MOST_ROWS, MEMORY // (4 * largest) if largest else MOST_ROWS))


def _known(model):
    """Whether the graph of the network tells the sizes of its activations."""
    if not is_functional(model) or any(None in x.shape[1:] for x in _tensors(model)):
        return False
    # Of a layer made of layers, such as MultiHeadAttention, it shows the end alone.
    parts = [layer for layer in sublayers(model) if not is_functional(layer)]
    return not any(len(sublayers(layer)) > 1 for layer in parts)


def _measured(model, sample):
    """The largest number of bytes that a layer gives in a call on one sample."""
    seen = [0]

    def noting(layer, call):
        def noted(*args, **kwargs):
            outputs = call(*args, **kwargs)
            seen.extend(_activation_bytes(x) for x in tree.flatten(outputs) if hasattr(x, "shape"))
            return outputs

        return noted

    with overridden(sublayers(model), noting):
        model(sample, training=False)
    return max(seen)


def _rounded(count):
    """`count` or up to a quarter more: inputs of many sizes share a few compiled shapes.

    Example:

    >>> _rounded(5), _rounded(256), _rounded(359)
    (5, 256, 384)
    """
    step = max(1, 2 ** (count - 1).bit_length() // 8)
    return math.ceil(count / step) * step


def _tensors(model):
    if not is_functional(model):
        return
    for operation in plain_view(model).operations:
        if isinstance(operation, keras.Model):
            yield from _tensors(operation)
        elif isinstance(operation, keras.layers.Layer):
            yield from tree.flatten(operation.output)


def _activation_bytes(tensor):
    if None in tensor.shape[1:]:
        return 0  # not known before the data
    return 4 * math.prod(tensor.shape[1:])


class _Progress:
    """Keras' progress bar, for what takes more than a few seconds."""

    def __init__(self, total, verbose):
        self.total, self.verbose, self.done = total, verbose, 0
        self.begun, self.bar = time.perf_counter(), None

    def add(self, count):
        self.done += count
        if self.bar is None and self.verbose and time.perf_counter() - self.begun > 3:
            self.bar = keras.utils.Progbar(self.total, unit_name="input")
        if self.bar:
            self.bar.update(self.done, finalize=False)

    def finish(self):
        if self.bar:
            self.bar.update(self.done, finalize=True)
