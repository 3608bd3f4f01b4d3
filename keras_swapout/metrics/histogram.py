"""Two weights for every score, in bins fine enough to sort by: a fixed amount of memory.

A histogram is a sum over samples, so batches and replicas add up and its size never changes, which
is what a compiled step needs. What sorting would give follows from it, as if the scores within a
bin were tied.

The bins are on a logarithmic scale, 512 to an octave, of |s| / (1 - |s|) for |s| < 1 and of |s|
from 1 on, with negative scores mirrored. So a bin is 0.14 % wide relative to s, and below 1 also
relative to 1 - s: a probability has as much resolution next to 1 as next to 0. All scores smaller
than 2^-48 in size are one bin of their sign, and so are all above 2^31.

512 is a compromise. Keras computes the result in every training step, which is where the time goes:
half as many bins take half of it, but then a score with a constant in it, a log likelihood of
3000 +- 50 say, is off by 5e-4 in an area under the ROC curve, rather than 1e-4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

PER_OCTAVE = 512
LOWEST, ODDS_END, HIGHEST = -48, 25, 31  # float32 has no number in (1 - 2^-24, 1)
UNIT_BINS = PER_OCTAVE * (ODDS_END - LOWEST)  # of a score in [0, 1)
HALF = UNIT_BINS + PER_OCTAVE * HIGHEST
SIGNED_BINS = 2 * HALF


def add(state: Any, score: Any, first: Any, second: Any) -> None:
    """Add the weights of some samples to a histogram.

    Args:
        state: a variable of size 2 * `UNIT_BINS`, for scores in [0, 1), or 2 * `SIGNED_BINS`.
        score: (n,), floats. NaN makes both weights NaN, unless they are 0.
        first, second: (n,), the weights.
    """
    bins = state.shape[0] // 2
    dtype = ops.dtype(first)
    unknown = ops.isnan(score)
    poison = ops.where(unknown, ops.cast(np.nan, dtype), ops.ones_like(first))
    index = bin_of(ops.where(unknown, ops.zeros_like(score), score), bins)
    values = [ops.where(w == 0, ops.zeros_like(w), w * poison) for w in (first, second)]
    added = ops.segment_sum(
        ops.concatenate(values), ops.concatenate([index, index + bins]), num_segments=2 * bins
    )
    state.assign(ops.convert_to_tensor(state) + added)


def read(state: Any) -> tuple[Any, Any]:
    """The two weights of every bin, by ascending score."""
    state = ops.convert_to_tensor(state)
    bins = state.shape[0] // 2
    return state[:bins], state[bins:]


def bin_of(score: Any, bins: int = SIGNED_BINS) -> Any:
    """The index of the bin that each score falls in, int32; never falls as the score rises.

    Example:

    >>> index = ops.convert_to_numpy(bin_of(np.float32([-3, -0.5, 0, 0.5, 1, 3])))
    >>> (index - HALF).tolist()
    [-38188, -24577, 0, 24576, 37376, 38187]
    """
    size = ops.abs(score)
    below = size < 1
    odds = size / ops.where(below, 1 - size, ops.ones_like(size))
    octave = ops.log2(odds)
    octave = ops.where(below, octave, octave + ODDS_END)
    octave = ops.clip(octave, LOWEST, ODDS_END + HIGHEST)
    index = ops.cast(ops.floor((octave - LOWEST) * PER_OCTAVE), "int32")
    index = ops.minimum(index, HALF - 1)
    if bins == SIGNED_BINS:
        return ops.where(score < 0, HALF - 1 - index, HALF + index)
    return ops.minimum(index, bins - 1)
