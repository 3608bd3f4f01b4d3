"""Dropout on one tensor, and what all layers with a drop rate share.

`rate` is the probability of DROPPING, as in Keras. In the two views that `RBlock` compares, and in
`fork`, masks are complementary, which those of Keras' own dropouts are not.
"""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_swapout import random
from keras_swapout.arguments import checked_flag, one_of
from keras_swapout.layers.base import Probability, RandomLayer, one_number
from keras_swapout.layers.cells import drop_units
from keras_swapout.layers.merge import scaled


class RateLayer(RandomLayer):
    """Dropout at a `rate`: the identity at inference, `drop` in training."""

    rate = Probability(0)
    ranks: tuple[float, float] = (2, math.inf)  # the least and the most axes of an input

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(one_number(rate, lambda n: 0 <= n < 1, "rate", "a number in [0, 1)"))

    @property
    def stochastic(self) -> bool:
        return self.adjustable or random.threshold(self.rate) > 0

    @property
    def rate_in_force(self) -> Any:
        """The drop rate: a number, or a scalar tensor."""
        return self.adjusted[0] * self.ramp if self.adjustable else self.rate

    @property
    def overlap(self) -> float:
        """Share of the units that both of two complementary views must drop."""
        return max(0.0, 2 * self.rate - 1)

    def _check(self, inputs: Any) -> None:
        dtype = getattr(inputs, "dtype", None)
        if dtype is None or not keras.backend.is_float_dtype(dtype):
            received = type(inputs) if dtype is None else keras.backend.standardize_dtype(dtype)
            raise TypeError(
                f"Argument `inputs` of layer {self.name!r} must be a tensor of floating dtype. "
                f"Received: {received}"
            )
        least, most = self.ranks
        if not least <= len(inputs.shape) <= most:
            rank = f"{least}" if least == most else f">= {least}"
            raise ValueError(
                f"Argument `inputs` of layer {self.name!r} must have rank {rank}. "
                f"Received: shape {tuple(inputs.shape)}"
            )

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or not self.stochastic:
            return inputs
        with self._drawing() as key:
            return self.drop(inputs, key)

    def drop(self, x: Any, key: Any) -> Any:
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape)


@keras.saving.register_keras_serializable("keras_swapout")
class Dropout(RateLayer):
    """Dropout of units, channels or samples; `rate` is the probability of DROPPING.

    It takes the place of `keras.layers.Dropout` and, with granularity "channel", of
    `keras.layers.SpatialDropout1D`, `2D` and `3D`: the rate and inference are the same. Masks are
    the same on every backend, complementary in the two views that `RBlock` compares, and are not
    stored.

        training:   Y = keep * X / (1 - rate),   one keep ~ Bernoulli(1 - rate) for each unit, for
                    each channel of a sample, or for each sample
        inference:  Y = X

    Args:
        rate: probability of DROPPING, in [0, 1). For rate <= 0.5 the two views of a sample never
            drop the same unit; above, they must share 2 rate - 1 of them.
        granularity: what shares one draw. "unit": nothing, every unit draws its own. "channel": a
            channel of a sample, at all its positions. "sample": a sample. (In the place of Keras'
            `noise_shape`.)
        data_format: "channels_last" or "channels_first", for granularity "channel"; default
            `keras.config.image_data_format()`.
        adjustable: whether the rate is a non-trainable variable, so that `layer.adjust(rate=0.1)`
            and `keras_swapout.callbacks.Ramp` change it without compiling anything again. The layer
            then has two weights.
        seed: an int in [0, 2**31), or None for a random one. The place in the sequence of masks is
            kept in `.keras` and `.weights.h5` files, not in legacy `.h5` files.

    Call with a tensor (batch, ...) of rank >= 1 and floating dtype.

    Raises:
        TypeError: an argument has the wrong type, or the input no floating dtype. ValueError: an
            argument is out of range; the input has no batch axis.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> layer = ks.layers.Dropout(0.5, seed=5)
    >>> y = layer(np.ones((2, 6), "float32"), training=True)
    >>> keras.ops.convert_to_numpy(y).astype(int).tolist()
    [[0, 2, 0, 2, 0, 2], [0, 0, 2, 2, 2, 0]]

    Source: Srivastava et al., "Dropout: A simple way to prevent neural networks from overfitting",
    JMLR 2014, section 4; as everywhere today, training divides by 1 - rate where the paper
    multiplies at inference. For channels: Tompson et al., "Efficient object localization using
    convolutional networks", CVPR 2015, section 3.2. The rate is met to within 2**-17.
    """

    arguments = ("rate", "granularity")
    ranks = (1, math.inf)

    def __init__(
        self, rate: float, granularity: str = "unit", seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(rate, seed=seed, **kwargs)
        self.granularity = one_of(granularity, ("unit", "channel", "sample"), "granularity")

    def drop(self, x: Any, key: Any) -> Any:
        return drop_units(x, key, self.rate_in_force, self.granularity, self.channel_axis)


@keras.saving.register_keras_serializable("keras_swapout")
class DropPath(RateLayer):
    """Drops the branch of a residual block, whole; `rate` is the probability of DROPPING it.

    It goes around the branch, before the addition: `x + ks.layers.DropPath(0.1)(f(x))`.

        training:   Y = keep * F(X) / (1 - rate),   one keep ~ Bernoulli(1 - rate) for each sample,
                    or for the whole batch
        inference:  Y = F(X)

    With `rescale=False`, Y = keep * F(X) in training and (1 - rate) F(X) at inference. A merge has
    the same distribution, with the addition in one: `StochasticDepth(1 - rate, granularity,
    rescale=rescale)`.

    Args:
        rate: probability of DROPPING the branch, in [0, 1). For rate <= 0.5 the two views of a
            sample never drop it both; above, they must with probability 2 rate - 1.
        granularity: "sample", one draw for each sample; "batch", one for the whole batch.
        rescale: divide what is kept by 1 - rate in training; otherwise inference multiplies by it.
        data_format: "channels_last", "channels_first" or None; makes no difference here.
        adjustable: whether the rate is a non-trainable variable, so that `layer.adjust(rate=0.1)`
            and `keras_swapout.callbacks.Ramp` change it without compiling anything again. The layer
            then has two weights.
        seed: an int in [0, 2**31), or None for a random one. The place in the sequence of masks is
            kept in `.keras` and `.weights.h5` files, not in legacy `.h5` files.

    Call with a tensor (batch, ...) of rank >= 1 and floating dtype.

    Raises:
        TypeError: an argument has the wrong type, or the input no floating dtype. ValueError: an
            argument is out of range; the input has no batch axis.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> layer = ks.layers.DropPath(0.5, seed=3)
    >>> y = layer(np.ones((6, 2), "float32"), training=True)
    >>> keras.ops.convert_to_numpy(y).astype(int).tolist()
    [[2, 2], [0, 0], [0, 0], [2, 2], [0, 0], [2, 2]]

    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016, section 3, which draws
    for the whole batch and does not rescale. One draw for each sample, rescaled, is what is called
    DropPath since (timm, `drop_path`), after Larsson et al., "FractalNet", ICLR 2017, section 3.1,
    whose paths are dropped at a join that keeps one at least; ours are residual. The branch is
    computed also where it is dropped. The rate is met to within 2**-17.
    """

    arguments = ("rate", "granularity", "rescale")
    ranks = (1, math.inf)

    def __init__(
        self,
        rate: float,
        granularity: str = "sample",
        rescale: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, seed=seed, **kwargs)
        self.granularity = one_of(granularity, ("sample", "batch"), "granularity")
        self.rescale = checked_flag(rescale, "rescale")

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training or self.rescale:
            return super().call(inputs, training=training)
        return scaled(inputs, 1 - self.rate_in_force)

    def drop(self, x: Any, key: Any) -> Any:
        rate, axis = self.rate_in_force, self.channel_axis
        return drop_units(x, key, rate, self.granularity, axis, self.rescale)
