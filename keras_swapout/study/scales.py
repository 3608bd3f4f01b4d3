"""What scale of images a trained network expects, found by trying each on images that it knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax

from keras_swapout.datasets.splits import SCALES

if TYPE_CHECKING:
    import keras

    from keras_swapout.consistency.divergence import Head
    from keras_swapout.datasets import Info

#: A network knows something of images where it is this part of the way from the commonest class to
#: no mistakes, or its loss is less than this part of that of the shares of the classes.
NEAR, BETTER = 0.2, 0.95
TRIED_IMAGES = 256
TEMPERATURES = 2.0 ** np.arange(-4, 8.5, 0.5)


def losses(
    model: keras.Model,
    head: Head,
    images: np.ndarray,
    labels: np.ndarray,
    info: Info,
    scales: Sequence[str] = SCALES,
) -> dict[str, tuple[float, float]]:
    """(negative log likelihood, accuracy) with each scale of the images; infinite and 0 for NaN.

    The likelihood is that at the best temperature. As it is, it would choose the scale that makes a
    network as sure as it should be: of 24 small networks, 6 that had learnt for two epochs seemed
    to expect another scale than their own, at the best temperature none.
    """
    from keras_swapout.inference import predict

    found = {}
    for scale in scales:
        inputs = dataclasses.replace(info, scale=scale).scaled(images)
        p = predict(model, inputs, head=head, verbose=False).mean
        if not np.isfinite(p).all():
            found[scale] = np.inf, 0.0
            continue
        logits = np.log(np.maximum(p, np.finfo(np.float32).tiny)).astype(np.float64)
        rows = np.arange(len(labels))
        tempered = [log_softmax(logits / t, axis=1)[rows, labels] for t in TEMPERATURES]
        accuracy = float((p.argmax(axis=1) == labels).mean())
        found[scale] = -float(max(values.mean() for values in tempered)) + 0.0, accuracy
    return found


def found_scale(
    model: keras.Model,
    head: Head,
    images: np.ndarray,
    labels: np.ndarray,
    info: Info,
    scales: Sequence[str] = SCALES,
) -> tuple[str, str]:
    """The scale with the lowest loss on images that the network may know, and how it was found.

    Args:
        model: a trained network.
        head: what its output is.
        images: raw, (n, height, width, channels).
        labels: (n,).
        info: of the images; "standardise" is by its mean and standard deviation.
        scales: which to try.

    Returns:
        The scale, and a line for the user.

    Raises:
        ValueError: with no scale it is better than guessing.
    """
    tried = losses(model, head, images, labels, info, scales)
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    commonest, entropy = float(shares.max()), float(-(shares * np.log(shares)).sum())
    best = min(tried, key=lambda scale: tried[scale][0])
    loss, accuracy = tried[best]
    said = ", ".join(f"{scale} {nll:.3g}" for scale, (nll, _) in tried.items())
    said = f"negative log likelihood, tempered, on {len(labels)} images: {said}"
    if loss > BETTER * entropy and accuracy - commonest < NEAR * (1 - commonest):
        raise ValueError(
            f"Argument `scale` must be given: with none is {model.name!r} better than guessing. "
            f"Its {said}; guessing has {entropy:.3g}. One that is given is not doubted"
        )
    return best, f"scale: {best} ({said})"
