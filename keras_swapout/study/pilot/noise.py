"""Wrong labels, on purpose: what they do to a network is what these methods are for."""

from __future__ import annotations

import numpy as np

from keras_swapout.arguments import checked_number


def noisy(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Labels of which a share is wrong, each of the wrong ones any other class.

    Exactly round(share * n) labels are wrong, drawn without replacement.

    Args:
        labels: (n,), ints in 0 .. classes - 1.
        share: in [0, 1).
        classes: how many there are, at least 2.
        seed: of the draw; the same seed, the same labels.

    Raises:
        TypeError, ValueError: `share` is no number in [0, 1).

    Example:

    >>> labels = np.zeros(10, int)
    >>> wrong = noisy(labels, 0.3, classes=4, seed=0)
    >>> int((wrong != labels).sum()), bool((wrong < 4).all())
    (3, True)
    """
    checked_number(share, lambda n: 0 <= n < 1, "share", "a number in [0, 1)")
    rng = np.random.default_rng([seed, 7])
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    found = labels.copy()
    found[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return found
