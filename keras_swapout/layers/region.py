"""Structured dropout layers: regions and channels.

`rate` is the probability of DROPPING, as in Keras. `BDropDML` and `SDropDML` are the layers of
R-Block (Wang, Hu, "R-Block: Regularized block of dropout for convolutional networks", 2023,
arXiv 2307.15150): plain regularisers on their own, complementary pairs inside `RBlock` and `fork`.
The paper came without code; how masks are drawn here is this package's own.
"""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_swapout.arguments import checked_flag, is_int, refusal
from keras_swapout.layers.cells import drop_block, drop_cells, drop_units
from keras_swapout.layers.drop import RateLayer


@keras.saving.register_keras_serializable("keras_swapout")
class BDropDML(RateLayer):
    """Drops channels, for difference-maximizing sub-models; `rate` is the probability of DROPPING.

    Whole channels of a sample, and in the two views that `RBlock` compares complementary ones.

        training:   Y = keep * X / (1 - rate),   one keep ~ Bernoulli(1 - rate) for each sample and
                    channel
        inference:  Y = X

    Args:
        rate: probability of DROPPING a channel, in [0, 1). For rate <= 0.5 the two views of a
            sample never drop the same channel; above, they must share 2 rate - 1 of them.
        data_format: "channels_last" or "channels_first"; default
            `keras.config.image_data_format()`.
        adjustable: whether the rate is a non-trainable variable, so that `layer.adjust(rate=0.1)`
            and `keras_swapout.callbacks.Ramp` change it without compiling anything again. The layer
            then has two weights.
        seed: an int in [0, 2**31), or None for a random one. The place in the sequence of masks is
            kept in `.keras` and `.weights.h5` files, not in legacy `.h5` files.

    Call with a tensor (batch, ..., channels) of rank >= 2 and floating dtype.

    Raises:
        TypeError: an argument has the wrong type, or the input no floating dtype. ValueError: an
            argument is out of range; the input has no channels.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> layer = ks.layers.BDropDML(0.5, data_format="channels_last", seed=3)
    >>> y = layer(np.ones((1, 2, 2, 4), "float32"), training=True)
    >>> keras.ops.convert_to_numpy(y)[0, 0].astype(int).tolist()
    [[2, 0, 0, 2], [2, 0, 0, 2]]

    Source: R-Block, "BDropDML". Alone it is spatial dropout (Tompson et al., "Efficient object
    localization using convolutional networks", CVPR 2015, section 3.2).
    """

    arguments = ("rate",)

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(rate, seed=seed, **kwargs)

    def drop(self, x: Any, key: Any) -> Any:
        return drop_units(x, key, self.rate_in_force, "channel", self.channel_axis)


@keras.saving.register_keras_serializable("keras_swapout")
class SDropDML(RateLayer):
    """Drops regions, for difference-maximizing sub-models; `rate` is the probability of DROPPING.

    Contiguous regions, and in the two views of a sample that `RBlock` compares complementary ones.

        training:   Y = keep * X / (1 - rate),   one keep ~ Bernoulli(1 - rate) for each cell of a
                    grid with cells of `block_size`, shifted at random for each sample
        inference:  Y = X

    Every position is dropped with probability `rate`, at the borders as in the middle. Works on
    sequences, images and volumes.

    Args:
        rate: probability of DROPPING a position, in [0, 1). For rate <= 0.5 the two views of a
            sample never drop the same position; above, they must share 2 rate - 1 of the map.
        block_size: side of a region, an int >= 1, or a tuple with one for each spatial axis. A
            block larger than the map cuts it in two at most along each axis.
        per_channel: whether each channel draws its own regions; otherwise all share them.
        data_format: "channels_last" or "channels_first"; default
            `keras.config.image_data_format()`.
        adjustable: whether the rate is a non-trainable variable, so that `layer.adjust(rate=0.1)`
            and `keras_swapout.callbacks.Ramp` change it without compiling anything again. The layer
            then has two weights.
        seed: an int in [0, 2**31), or None for a random one. The place in the sequence of masks is
            kept in `.keras` and `.weights.h5` files, not in legacy `.h5` files.

    Call with a tensor (batch, *spatial, channels) of rank >= 3 and floating dtype.

    Raises:
        TypeError: an argument has the wrong type, or the input no floating dtype. ValueError: an
            argument is out of range; the input has no spatial axis, or another number of them than
            `block_size`.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> layer = ks.layers.SDropDML(0.5, block_size=2, data_format="channels_last", seed=11)
    >>> y = layer(np.ones((1, 4, 4, 1), "float32"), training=True)
    >>> keras.ops.convert_to_numpy(y)[0, ..., 0].astype(int).tolist()
    [[2, 2, 2, 2], [2, 2, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]

    Source: R-Block, "SDropDML"; the shifted grid in the place of DropBlock's centres is ours.
    """

    arguments = ("rate", "block_size", "per_channel")
    ranks = (3, math.inf)

    def __init__(
        self,
        rate: float,
        block_size: int | tuple[int, ...] = 7,
        per_channel: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, seed=seed, **kwargs)
        self.block_size = _block_size(block_size)
        if isinstance(self.block_size, tuple):
            self.ranks = (len(self.block_size) + 2,) * 2
        self.per_channel = checked_flag(per_channel, "per_channel")

    def drop(self, x: Any, key: Any) -> Any:
        axes = len(x.shape) - 2
        sizes = self.block_size if isinstance(self.block_size, tuple) else (self.block_size,) * axes
        blocks: list[int | None] = list(sizes)
        channel = 1 if self.per_channel else None
        blocks.insert(0 if self.channel_axis == 1 else axes, channel)
        return drop_cells(x, key, self.rate_in_force, blocks, self.channel_axis)


@keras.saving.register_keras_serializable("keras_swapout")
class DropBlock2D(RateLayer):
    """DropBlock on maps: drops blocks; `rate` is about the probability of DROPPING a unit.

    As published: the baseline that the region layers are held against.

        training:   Y = keep * X * (units / units kept),   keep = 0 in blocks around centres that
                    each channel of a sample draws with probability gamma
                    = rate / (b_h b_w) * H W / ((H - b_h + 1) (W - b_w + 1))
        inference:  Y = X

    gamma aims at `rate` and misses it: it does not count that blocks overlap, so fewer units are
    dropped (on an 8x8 map with blocks of 3, 9.5 % for rate 0.1 and 38.6 % for 0.5), and border
    units less often than central ones (for rate 0.1, 2.0 % in a corner and 16.4 % in the middle).
    `SDropDML` drops at the exact rate everywhere. In the views of
    `RBlock` its masks are independent, as for any layer that does not pair them.

    Args:
        rate: the DROP rate that gamma aims at, in [0, 1).
        block_size: side of a block, an int >= 1, or (height, width). A block larger than the map
            is the whole map.
        data_format: "channels_last" or "channels_first"; default
            `keras.config.image_data_format()`.
        adjustable: whether the rate is a non-trainable variable, so that `layer.adjust(rate=0.1)`
            and `keras_swapout.callbacks.Ramp` change it without compiling anything again. The layer
            then has two weights.
        seed: an int in [0, 2**31), or None for a random one. The place in the sequence of masks is
            kept in `.keras` and `.weights.h5` files, not in legacy `.h5` files.

    Call with a tensor (batch, height, width, channels) of floating dtype.

    Raises:
        TypeError: an argument has the wrong type, or the input no floating dtype. ValueError: an
            argument is out of range; the input has not rank 4.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> layer = ks.layers.DropBlock2D(0.3, block_size=3, data_format="channels_last", seed=3)
    >>> y = layer(np.ones((1, 4, 4, 1), "float32"), training=True)
    >>> (keras.ops.convert_to_numpy(y)[0, ..., 0] > 0).astype(int).tolist()
    [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]]

    Source: Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks",
    NeurIPS 2018, algorithm 1, with a mask for each channel. Its schedule of the rate over training
    is not part of the layer.
    """

    arguments = ("rate", "block_size")
    ranks = (4, 4)
    overlap = 0.0  # its views are independent, whatever the rate

    def __init__(
        self,
        rate: float,
        block_size: int | tuple[int, int] = 7,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, seed=seed, **kwargs)
        self.block_size = _block_size(block_size)
        if isinstance(self.block_size, tuple) and len(self.block_size) != 2:
            expected = "an int >= 1 or a pair (height, width) of them"
            raise refusal(ValueError, "block_size", expected, block_size)

    def drop(self, x: Any, key: Any) -> Any:
        size = self.block_size
        size = size if isinstance(size, tuple) else (size,) * 2
        return drop_block(x, key, self.rate_in_force, size, self.channel_axis)


def _block_size(value: Any) -> int | tuple[int, ...]:
    expected = "an int in [1, 2**31) or a tuple of them"
    sizes = value if isinstance(value, (tuple, list)) else (value,)
    if not all(map(is_int, sizes)):
        raise refusal(TypeError, "block_size", expected, value)
    if not sizes or not 1 <= min(sizes) <= max(sizes) < 2**31:  # places are words of 32 bits
        raise refusal(ValueError, "block_size", expected, value)
    return tuple(map(int, sizes)) if isinstance(value, (tuple, list)) else int(value)
