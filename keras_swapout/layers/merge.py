"""The stochastic residual merge, as a function of tensors: Y = Theta1 * X + Theta2 * F(X).

The masks are words of the field compared with a threshold, inside the kernel that uses them. The
merge is linear in (X, F(X)), so its gradient is the same masks on the incoming gradient: the
backward pass draws them again from the key and keeps nothing.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_swapout import backend, random
from keras_swapout.submodels.views import current

COUPLINGS = ("independent", "shared", "complementary")
GRANULARITIES = ("unit", "channel", "sample", "batch")


def merge(
    x: Any,
    fx: Any,
    key: Any,
    thetas: tuple[Any, Any],
    scales: tuple[Any, Any] = (1.0, 1.0),
    coupling: str = "independent",
    granularity: str = "unit",
    channel_axis: int = -1,
) -> Any:
    """One draw of the stochastic merge.

        Y = s1 * Theta1 * X + s2 * Theta2 * F(X),   P(Theta_i = 1) = theta_i

    Args:
        x, fx: X and F(X), tensors of one shape (N, ...) and one floating dtype.
        key: two words from `keras_swapout.random.key`.
        thetas: keep probabilities of X and of F(X): floats in [0, 1] or scalar tensors.
        scales: factors s1, s2 of the kept units.
        coupling: "independent", "shared" (Theta2 = Theta1) or "complementary"
            (Theta2 = 1 - Theta1).
        granularity: "unit", "channel", "sample" or "batch": what shares one pair of Thetas.
        channel_axis: axis of the channels, used by granularity "channel".

    Returns:
        Y, of the shape and dtype of `x`.

    Example:

    >>> x, fx = ops.ones((1, 6)), 10 * ops.ones((1, 6))
    >>> ops.convert_to_numpy(merge(x, fx, [0, 0], (0.5, 0.5))).tolist()
    [[11.0, 10.0, 11.0, 1.0, 1.0, 10.0]]

    Source: Swapout (Singh, Hoiem, Forsyth 2016), section 3.
    """
    rank = len(x.shape)
    axes = {
        "unit": range(rank),
        "channel": {0, channel_axis % rank},
        "sample": {0},
        "batch": {},
    }[granularity]
    field = tuple(axis in axes for axis in range(rank))
    limits = [random.threshold(theta) for theta in thetas]
    batch = current()
    first = batch.first(ops.shape(x)[0])
    # One Theta for the whole batch is one for all replicas; else each has its own part.
    offset = random.replica_offset(first) if field[0] else 0
    place = (key, offset, first, limits, scales)
    static = {
        "coupling": coupling,
        "field": field,
        "views": batch.count,
        "complementary": batch.complementary,
    }

    @ops.custom_gradient
    def draw(x, fx):
        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return _split(upstream, *place, **static)

        return _merge(backend.untaped(x), backend.untaped(fx), *place, **static), grad

    return draw(x, fx)


def _keep(x, key, offset, first, limits, coupling, field, views, complementary):
    """The two boolean masks, of a shape that broadcasts against `x`."""
    shape = tuple(n if drawn else 1 for n, drawn in zip(ops.shape(x), field, strict=True))
    count = ops.shape(x)[0] if field[0] or views > 1 else 1
    rows = random.rows(count, first, offset, views, complementary)
    if not field[0]:  # one Theta for all samples of a view
        rows = rows._replace(sample=ops.zeros_like(rows.sample))
    words = random.sample_words(key, rows, shape[1:])
    low, high = random.halves(words)
    limits = ops.cast(limits, low.dtype)
    keep_1 = ops.less(low, limits[0])
    if coupling == "shared":
        return keep_1, keep_1
    if coupling == "complementary":
        return keep_1, ops.logical_not(keep_1)
    return keep_1, ops.less(high, limits[1])


def scaled(x: Any, weight: Any) -> Any:
    """weight * x, without a multiplication by the number 1.0; `weight` may be a float32 tensor."""
    if isinstance(weight, float):
        return x if weight == 1.0 else ops.multiply(x, weight)
    return ops.multiply(x, ops.cast(weight, x.dtype))


def gate(keep: Any, x: Any, scale: Any) -> Any:
    """scale * x where `keep`, else 0: a selection, as a product would make NaN of infinity."""
    return ops.where(_of_full_shape(keep, x), x * ops.cast(scale, x.dtype), ops.zeros((), x.dtype))


def _of_full_shape(keep, x):
    """`keep` in the shape of `x`, so that XLA on a CPU computes neither more often than needed.

    It computes what it counts as cheap again for each of its uses. Both operations here are counted
    as what they are not: a square root as expensive, so that a mask that many units share is drawn
    once and not for each of them; a comparison of two tensors as having two inputs, where a
    selection by a broadcast mask has one, so that a residual stream that passes through is kept.
    """
    # Not along the batch: the places are a constant of the program.
    sides = zip(keep.shape[1:], ops.shape(x)[1:], strict=True)
    shared = [1, *(n if m == 1 else 1 for m, n in sides)]
    size = math.prod(shared)
    if isinstance(size, int) and size == 1:
        return keep
    drawn = 2 * ops.sqrt(ops.cast(keep, "float32"))  # 0 or 2
    places = ops.reshape(ops.cast(ops.arange(size), "float32"), shared)
    return drawn > places / ops.cast(size, "float32")  # 0 .. 1


def _merge_body(x, fx, key, offset, first, limits, scales, **static):
    keep_1, keep_2 = _keep(x, key, offset, first, limits, **static)
    return ops.add(gate(keep_1, x, scales[0]), gate(keep_2, fx, scales[1]))


def _split_body(upstream, key, offset, first, limits, scales, **static):
    keep_1, keep_2 = _keep(upstream, key, offset, first, limits, **static)
    return gate(keep_1, upstream, scales[0]), gate(keep_2, upstream, scales[1])


_merge = backend.fused(_merge_body)
_split = backend.fused(_split_body)
