"""The terms of R-Block's loss that two views of the outputs make: each the sum over outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_swapout.arguments import checked_tensor
from keras_swapout.consistency.divergence import Head, log_probabilities
from keras_swapout.consistency.jensen_shannon import label_part
from keras_swapout.consistency.reduction import reduced
from keras_swapout.consistency.targets import distribution
from keras_swapout.submodels.views import Views


class Output(NamedTuple):
    """One output, and what there is of it.

    Attributes:
        first, second, mask: both views, as many rows each as the batch has samples, and their mask.
        divergence: a function (first, second) -> values (batch, ...).
        scale: its loss weight.
        loss, labels, weight: what it is trained with, the weight of the samples or None.
        head: what its numbers are.
    """

    first: Any
    second: Any
    mask: Any
    divergence: Callable[[Any, Any], Any]
    scale: float
    loss: Any
    labels: Any
    weight: Any
    head: Head


def consistency(outputs: Sequence[Output], views: Views, share: Any) -> Any:
    """How far both views are apart, of the samples that have two.

    Args:
        views: how the batch is laid out.
        share: the share of its samples that have a second view.
    """
    total = 0.0
    for output in outputs:
        forked = views.repeat(ops.shape(output.first)[0])
        first, second = output.first[:forked], output.second[:forked]
        values = checked_tensor(
            output.divergence(first, second),
            "divergence",
            "a function (first, second) -> values (batch, ...)",
        )
        labels, weight, mask = (
            None if a is None else ops.convert_to_tensor(a)[:forked]
            for a in (output.labels, output.weight, output.mask)
        )
        number = reduced(values, output.loss, labels, first, weight, mask, share)
        total = total + output.scale * number
    return total


def label_term(outputs: Sequence[Output], label_weight: Any) -> Any:
    """The label's part of the generalised Jensen-Shannon divergence, of all samples.

    Args:
        label_weight: a number in (0, 1), or a scalar tensor of one.
    """
    total = 0.0
    for output in outputs:
        y = distribution(output.labels, output.first, output.loss, output.head)
        p, q = (log_probabilities(x, output.head) for x in (output.first, output.second))
        values = label_part(y, p, q, label_weight)
        number = reduced(
            values, output.loss, output.labels, output.first, output.weight, output.mask
        )
        total = total + output.scale * number
    return total
