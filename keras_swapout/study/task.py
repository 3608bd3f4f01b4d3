"""What a network predicts: its outputs, the labels that belong to each, and how good it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout.datasets import Info, Split
from keras_swapout.datasets.splits import samples
from keras_swapout.study.measuring import scores

if TYPE_CHECKING:
    import keras

    from keras_swapout.consistency.divergence import Head
    from keras_swapout.inference import Prediction

TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of a network: its name, what it is, and its shape, of a sample."""

    name: str
    head: Head
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network predicts of some data.

    The values of an output are what can be compared with labels: logits (n, ..., outcomes), of a
    sigmoid those of no and yes; where the output is no distribution, the numbers themselves.

    Attributes:
        outputs: of the network, in order.
        targets: what the labels are, of `keras_swapout.datasets.splits.TARGETS`.
        named: whether the network returns a dict of them.
    """

    outputs: tuple[Output, ...]
    targets: str = "classes"
    named: bool = False

    @property
    def heads(self) -> list[Head]:
        return [output.head for output in self.outputs]

    @property
    def divergence(self) -> Any:
        """What R-Block compares its sub-models by: of numbers, the squared difference."""
        each = ["kl" if head.distribution else "mse" for head in self.heads]
        return each if len(each) > 1 else each[0]

    @property
    def single(self) -> Head | None:
        """What the one output is, if it is a distribution along its last axis."""
        head = self.outputs[0].head
        one = len(self.outputs) == 1 and head.distribution is not None
        return head if one and head.axis in (-1, len(self.outputs[0].shape)) else None

    @property
    def classifies(self) -> bool:
        """Whether any output is a distribution."""
        return any(head.distribution for head in self.heads)

    def values(self, outputs: Any) -> list[np.ndarray]:
        """Those of what a network returns."""
        return [_values(x, head) for x, head in zip(_flat(outputs), self.heads, strict=True)]

    def predicted(self, predictions: Any) -> list[np.ndarray]:
        """Those of what `keras_swapout.inference.predict` returns."""
        found: list[Prediction] = _flat(predictions)
        return [
            _values(one.mean, dataclasses.replace(head, from_logits=False))
            for one, head in zip(found, self.heads, strict=True)
        ]

    def labels(self, y: Any) -> list[np.ndarray]:
        """The labels of each output: ints of the shape of its values without the last axis."""
        return [_outcomes(part, o) for part, o in zip(self._parts(y), self.outputs, strict=True)]

    def _parts(self, y):
        if len(self.outputs) == 1:
            return _flat(y)
        if isinstance(y, dict):
            return [y[output.name] for output in self.outputs]
        return _flat(y)

    def quality(self, values: Sequence[np.ndarray], y: Any) -> dict[str, float]:
        """ "accuracy", "nll" and "ece" over all that are distributions, "rmse" and "mae" else.

        Of several outputs their mean. Each label of a sample that has several, and each step,
        counts as one prediction.

        Args:
            values: of n samples.
            y: their labels, as the data have them.
        """
        found: dict[str, list[float]] = {}
        for output, value, labels in zip(self.outputs, values, self.labels(y), strict=True):
            if output.head.distribution is None:
                figures = scores.errors(value, labels)
            else:
                figures = scores.quality(*_rows(value, labels))
            for name, figure in figures.items():
                found.setdefault(name, []).append(figure)
        return {name: float(np.mean(figures)) for name, figures in found.items()}

    def rows(self, values: Sequence[np.ndarray], y: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """Logits (m, outcomes) and labels (m,) of the first output that is a distribution."""
        for output, value, labels in zip(self.outputs, values, self.labels(y), strict=True):
            if output.head.distribution:
                return _rows(value, labels)
        return None

    def flat(self, prediction: Prediction) -> Prediction:
        """A prediction as of m samples of one class each: probabilities (m, outcomes)."""
        (values,) = self.predicted(prediction)
        entropy = prediction.entropy
        return dataclasses.replace(
            prediction,
            mean=np.exp(values.reshape(-1, values.shape[-1])),
            entropy=None if entropy is None else entropy.reshape(-1),
        )

    def describe(self) -> str:
        """A few words: "10 classes"."""
        return "; ".join(
            (f"{output.name}: " if len(self.outputs) > 1 else "") + _described(output)
            for output in self.outputs
        )


def _described(output):
    units = output.shape[-1] if output.shape else 1
    if output.head.distribution is None:
        return "a number" if units == 1 else f"{units} numbers"
    if output.head.distribution == "sigmoid":
        return "yes or no" if units == 1 else f"{units} labels, each yes or no"
    steps = math.prod(output.shape[:-1])
    return f"{units} classes" + (f" at each of {steps} places" if steps > 1 else "")


def find_task(
    model: keras.Model, name: str, info: Info, split: Split, argument: str = "model"
) -> Task:
    """The task of a network on data, after a trial on two samples.

    Args:
        model: the network.
        name: what messages call it.
        info, split: of the data; all labels of the split are looked at.
        argument: what messages call what is given.

    Raises:
        ValueError: the network does not take such inputs, or its outputs don't fit the labels.
    """
    import keras

    wanted, there = getattr(model, "input_shape", None), info.image_shape
    wanted = wanted[1:] if isinstance(wanted, tuple) else None  # else of several inputs, or unknown
    inputs = trial_inputs(info, split)
    if wanted is not None and info.kind != "several" and not _fits(wanted, there):
        raise ValueError(
            f"Argument `{argument}` must take the inputs of the data, {_times(there)}. Received: "
            f"{name!r}, which takes {_times(wanted)}"
        )
    try:
        found = model(inputs, training=False)
    except Exception as error:
        raise ValueError(
            f"Argument `{argument}`: {name!r} does not take inputs of {_times(there)}: {error}"
        ) from error
    arrays = [keras.ops.convert_to_numpy(x) for x in _flat(found)]
    names = _output_names(found, model)
    y = split.labels
    parts = [y.get(one) for one in names] if isinstance(y, dict) else _flat(y)
    outputs = [
        Output(one, head, tuple(array.shape[1:]))
        for one, head, array in zip(names, _heads(model, arrays, parts), arrays, strict=True)
    ]
    if info.targets == "numbers" and len(outputs) == 1 and outputs[0].head.from_logits:
        outputs = [_numbers(model, outputs[0], y)]
    task = Task(tuple(outputs), info.targets, isinstance(found, dict))
    check_labels(task, name, info, split.labels, argument)
    return task


def trial_inputs(info: Info, split: Split) -> Any:
    """Two samples for a first look at a network, whose scale is not known yet."""
    if info.kind == "images":
        shape = (2, *info.image_shape)
        return np.random.default_rng(0).uniform(0, 1, shape).astype("float32")
    return dataclasses.replace(info, scale="raw").scaled(samples(split.images, slice(2)))


def _numbers(model, output, labels):
    """A linear output without a loss is taken for logits, unless there is a number for each."""
    from keras_swapout.consistency.divergence import Head

    each = math.prod(labels.shape[1:]) == math.prod(output.shape)
    return dataclasses.replace(output, head=Head(None)) if each and not model.compiled else output


def _heads(model, arrays, labels):
    from keras_swapout.consistency.heads import activations, heads

    try:
        found = heads(model)
    except ValueError:
        found = []
    if len(found) == len(arrays):
        return found
    # Neither loss nor last activation tells, so the numbers have to.
    known = activations(model) or [None] * len(arrays)
    labels = labels if len(labels) == len(arrays) else [None] * len(arrays)
    return [_guessed(*each) for each in zip(arrays, known, labels, strict=True)]


def _guessed(array, activation, labels):
    from keras_swapout.consistency.divergence import Head

    if array.shape[-1] == 1:
        if labels is None or not np.isin(labels, (0, 1)).all():
            return Head(None)
        unit = activation != "linear" and bool(((array >= 0) & (array <= 1)).all())
        return Head("sigmoid", from_logits=not unit)
    sums = bool((array >= 0).all() and np.allclose(array.sum(axis=-1), 1, atol=1e-3))
    return Head("softmax", from_logits=not sums)


def check_labels(task: Task, name: str, info: Info, y: Any, argument: str = "model") -> None:
    """Raises a ValueError unless the labels are those of the outputs.

    Args:
        task: of the network.
        name: of the network.
        info: of the data.
        y: the labels.
        argument: what the message calls the network.
    """
    what = f"Argument `{argument}` must have an output for "
    parts = _flat(y)
    if len(parts) != len(task.outputs):
        raise ValueError(
            f"{what}each of the {len(parts)} labels of a sample. Received: {name!r} with "
            f"{len(task.outputs)} output(s): {task.describe()}"
        )
    if isinstance(y, dict) and len(parts) > 1 and {o.name for o in task.outputs} != set(y):
        raise ValueError(
            f"{what}each of {', '.join(map(repr, y))}. Received: {name!r} with the outputs "
            f"{', '.join(repr(o.name) for o in task.outputs)}"
        )
    for part, output in zip(task._parts(y), task.outputs, strict=True):
        _check_one(what, name, info, part, output, len(task.outputs) > 1)


def _check_one(what, name, info, y, output, several):
    of = f"{output.name!r} of {name!r}" if several else f"{name!r}"
    received = f"Received: {of}, which gives {_described(output)}"
    head, units = output.head, output.shape[-1] if output.shape else 1
    whole = y.dtype.kind in "iub" or bool((y == np.floor(y)).all())
    if head.distribution is None:
        # Counts look like classes; a network that gives one number is for them.
        number = info.targets == "classes" and math.prod(output.shape) == 1
        if info.targets in ("classes", "labels", "steps") and not number:
            raise ValueError(
                f"{what}each of the {len(info.classes) or 'several'} classes of the data: softmax "
                f"or sigmoid, probabilities or logits. {received}. Compile it with its loss if its "
                "outputs are something else; numbers to predict are floats, not all of them whole"
            )
        if math.prod(y.shape[1:]) != math.prod(output.shape):
            raise ValueError(f"{what}labels of shape {y.shape[1:]}. {received}")
        return
    if not whole:
        raise ValueError(f"{what}numbers, which the labels are: not all are whole. {received}")
    if info.targets == "classes":
        classes = len(info.classes)
        fits = output.shape == (classes,) or (
            head.distribution == "sigmoid" and output.shape == (1,) and classes == 2
        )
        if not fits:
            raise ValueError(
                f"{what}each of the {classes} classes of the data. {received}, with outputs "
                f"{_times(output.shape)}. A last layer that does not fit is replaced with "
                "`new_head`"
            )
        return
    try:
        labels = _outcomes(y, output)
    except ValueError as error:
        raise ValueError(f"{what}labels of shape {y.shape[1:]}. {received}") from error
    most = 2 if head.distribution == "sigmoid" else units
    if labels.min() < 0 or labels.max() >= most:
        raise ValueError(f"{what}each of the labels, {labels.min()} .. {labels.max()}. {received}")


def _outcomes(y, output):
    """Labels of an output as ints of the shape of its values without the last axis; or numbers."""
    y = np.asarray(y)
    shape, head = (len(y), *output.shape), output.head
    if head.distribution is None:
        return y.reshape(shape).astype(np.float64)
    if head.distribution == "sigmoid":
        if y.ndim == 1 and math.prod(output.shape) > 1:  # one class of several
            y = y[:, None] == np.arange(output.shape[-1])
        return y.reshape(shape).astype(np.int64)
    axis = head.axis % len(shape)
    if y.shape == shape:  # one-hot
        return y.argmax(axis=axis)
    return y.reshape(shape[:axis] + shape[axis + 1 :]).astype(np.int64)


def _values(x, head):
    x = np.asarray(x, np.float32)
    if head.distribution is None:
        return x
    if head.distribution == "softmax":
        x = np.moveaxis(x, head.axis, -1)
        return x if head.from_logits else np.log(np.maximum(x, TINY))
    if head.from_logits:
        return np.stack([np.zeros_like(x), x], axis=-1)
    return np.log(np.maximum(np.stack([1 - x, x], axis=-1), TINY))


def _rows(values, labels):
    return values.reshape(-1, values.shape[-1]), labels.reshape(-1)


def _flat(data):
    from keras import tree

    return tree.flatten(data)


def _output_names(found, model):
    if isinstance(found, dict):
        return sorted(found)  # the order of a flattened dict
    names = getattr(model, "output_names", None)
    parts = _flat(found)
    return names if names and len(names) == len(parts) else [str(i) for i in range(len(parts))]


def _fits(wanted, there):
    return len(wanted) == len(there) and all(
        w in (None, n) for w, n in zip(wanted, there, strict=True)
    )


def _times(shape):
    if not isinstance(shape, tuple) or not all(s is None or isinstance(s, int) for s in shape):
        return str(shape)
    return "×".join("any" if side is None else str(side) for side in shape) or "one number"
