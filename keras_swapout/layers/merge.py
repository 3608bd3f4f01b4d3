"""The stochastic residual merge, as a function of tensors: Y = Theta1 * X + Theta2 * F(X).

The masks are words of the field compared with a threshold, inside the kernel that uses them. The
merge is linear in (X, F(X)), so its gradient is the same masks on the incoming gradient: the
backward pass draws them again from the key and keeps nothing.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_swapout import backend, random

COUPLINGS = ("independent", "shared", "complementary")
GRANULARITIES = ("unit", "channel", "sample", "batch")


def merge(
    x: Any,
    fx: Any,
    key: Any,
    thetas: tuple[float, float],
    scales: tuple[float, float] = (1.0, 1.0),
    coupling: str = "independent",
    granularity: str = "unit",
    channel_axis: int = -1,
) -> Any:
    """One draw of the stochastic merge.

        Y = s1 * Theta1 * X + s2 * Theta2 * F(X),   P(Theta_i = 1) = theta_i

    Args:
        x, fx: X and F(X), tensors of one shape (N, ...) and one floating dtype.
        key: two words from `keras_swapout.random.key`.
        thetas: keep probabilities of X and of F(X), floats in [0, 1].
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
    # One Theta for the whole batch is one for all replicas; else each has its own part.
    offset = random.replica_offset(_field_shape(x, field)) if field[0] else 0
    limits = [random.threshold(theta) for theta in thetas]

    @ops.custom_gradient
    def draw(x, fx):
        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return _split(upstream, key, offset, limits, scales, coupling=coupling, field=field)

        x, fx = backend.untaped(x), backend.untaped(fx)
        return _merge(x, fx, key, offset, limits, scales, coupling=coupling, field=field), grad

    return draw(x, fx)


def _field_shape(x, field):
    return tuple(n if drawn else 1 for n, drawn in zip(ops.shape(x), field, strict=True))


def _keep(x, key, offset, limits, coupling, field):
    """The two boolean masks, of a shape that broadcasts against `x`."""
    low, high = random.halves(random.words(key, _field_shape(x, field), offset=offset))
    limits = ops.cast(limits, low.dtype)
    keep_1 = ops.less(low, limits[0])
    if coupling == "shared":
        return keep_1, keep_1
    if coupling == "complementary":
        return keep_1, ops.logical_not(keep_1)
    return keep_1, ops.less(high, limits[1])


def _gate(keep, x, scale):
    # A selection, not a product: a dropped infinity is 0, not NaN.
    return ops.where(keep, x * ops.cast(scale, x.dtype), ops.zeros((), x.dtype))


def _merge_body(x, fx, key, offset, limits, scales, *, coupling, field):
    keep_1, keep_2 = _keep(x, key, offset, limits, coupling, field)
    return ops.add(_gate(keep_1, x, scales[0]), _gate(keep_2, fx, scales[1]))


def _split_body(upstream, key, offset, limits, scales, *, coupling, field):
    keep_1, keep_2 = _keep(upstream, key, offset, limits, coupling, field)
    return _gate(keep_1, upstream, scales[0]), _gate(keep_2, upstream, scales[1])


_merge = backend.fused(_merge_body)
_split = backend.fused(_split_body)
