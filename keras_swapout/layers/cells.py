"""Dropout, as functions of a tensor: units, channels, cells of a grid, or DropBlock's blocks.

A cell grid needs no pooling, no sorting and no stored mask: every position computes the index of
the cell it falls in and compares that cell's word with a threshold, inside the kernel that
multiplies. The result is linear in X, so the gradient is the same masks on the incoming gradient,
drawn again from the key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_swapout import backend, random
from keras_swapout.layers.merge import gate
from keras_swapout.submodels.views import current


def drop_units(
    x: Any,
    key: Any,
    rate: Any,
    granularity: str = "unit",
    channel_axis: int = -1,
    rescale: bool = True,
) -> Any:
    """One draw of dropout on units, channels, samples or the batch.

        Y = keep * X / (1 - rate),   keep = 0 with probability `rate`;   undivided without `rescale`

    Args:
        x: a tensor (N, ...) of rank >= 1 and floating dtype.
        key: two words from `keras_swapout.random.key`.
        rate: DROP probability, in [0, 1): a float or a scalar tensor.
        granularity: "unit", "channel", "sample" or "batch": what shares one keep.
        channel_axis: 1 or -1, used by granularity "channel".
        rescale: whether what is kept is divided by 1 - rate.

    Returns:
        Y, of the shape and dtype of `x`.

    Example:

    >>> y = drop_units(ops.ones((3, 4)), [5, 0], 0.5, "sample")
    >>> ops.convert_to_numpy(y).astype(int).tolist()
    [[0, 0, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]]
    """
    rank = len(x.shape)
    drawn = {"unit": range(rank), "channel": {channel_axis % rank}}.get(granularity, ())
    blocks = [1 if axis in drawn else None for axis in range(1, rank)]
    return drop_cells(x, key, rate, blocks, channel_axis, granularity == "batch", rescale)


def drop_cells(
    x: Any,
    key: Any,
    rate: Any,
    blocks: Sequence[int | None],
    channel_axis: int = -1,
    together: bool = False,
    rescale: bool = True,
) -> Any:
    """One draw of dropout on the cells of a grid.

        Y = keep * X / (1 - rate),   keep = 0 on a cell with probability `rate`

    For each sample the grid is shifted by a random offset along each axis, so that cell borders
    fall anywhere; and as a cell is dropped with the same probability wherever it lies, every
    position is dropped with probability `rate`, borders included. In views that are complements
    (see `keras_swapout.fork`) the two grids are the same and the cells complementary: for
    rate <= 0.5 no position is dropped in both.

    Args:
        x: a tensor (N, ...) of floating dtype.
        key: two words from `keras_swapout.random.key`.
        rate: DROP probability, in [0, 1): a float or a scalar tensor.
        blocks: for each axis after the batch the length of a cell, an int >= 1, or None: one cell
            from end to end.
        channel_axis: 1 or -1; both draw the same cells.
        together: whether all samples of the batch, of all replicas, have the same cells.
        rescale: whether what is kept is divided by 1 - rate.

    Returns:
        Y, of the shape and dtype of `x`.

    Example:

    >>> y = drop_cells(ops.ones((1, 9, 1)), [5, 0], 0.5, (3, None))
    >>> ops.convert_to_numpy(y).astype(int).ravel().tolist()
    [2, 2, 0, 0, 0, 2, 2, 2, 0]
    """
    batch = current()
    first = batch.first(ops.shape(x)[0])
    limit = random.threshold(rate)
    scale = 1 / (1 - rate) if rescale else 1.0
    place = (key, random.replica_offset(first), first, limit, scale)
    static = {
        "blocks": tuple(blocks),
        "channel_axis": channel_axis,
        "together": together,
        "views": batch.count,
        "complementary": batch.complementary,
    }

    @ops.custom_gradient
    def draw(x):
        def grad(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return _drop(upstream, *place, **static)

        return _drop(backend.untaped(x), *place, **static), grad

    return draw(x)


def _drop_body(
    x, key, offset, first, limit, scale, *, blocks, channel_axis, together, views, complementary
):
    shape = ops.shape(x)
    rows = random.rows(shape[0], first, offset, views, complementary)
    if together:  # all are the first sample
        rows = rows._replace(sample=ops.zeros_like(rows.sample))
    # Of a sample's words the first few shift the grid; the others belong to its cells.
    shifts = sum(block is not None and block > 1 for block in blocks)
    cells = [
        1 if block is None else (n + block - 2) // block + 1
        for n, block in zip(shape[1:], blocks, strict=True)
    ]
    stride = shifts + math.prod(cells)
    unflipped = rows._replace(flip=None)  # the grid of a sample is the same in all its views
    used, index = 0, ops.zeros((1,) * len(shape), "uint32")
    channels = channel_axis % len(shape)
    for axis in sorted(range(1, len(shape)), key=lambda axis: axis == channels):  # channels last
        n, block, count = shape[axis], blocks[axis - 1], cells[axis - 1]
        index = index * ops.cast(count, index.dtype)
        if block is None:
            continue
        along = [1] * len(shape)
        along[axis] = -1
        position = ops.reshape(ops.cast(ops.arange(n), "uint32"), along)
        if block > 1:
            place = ops.full((1,) * len(shape), used, "uint32")
            shift = random.words_at(key, unflipped, place, stride)
            size = ops.cast(block, shift.dtype)
            position = (position + shift % size) // size
            used += 1
        index = index + position
    words = random.words_at(key, rows, index + ops.cast(shifts, index.dtype), stride)
    low, _ = random.halves(words)
    return gate(ops.greater_equal(low, ops.cast(limit, low.dtype)), x, scale)


_drop = backend.fused(_drop_body)


def drop_block(
    x: Any, key: Any, rate: Any, block_size: tuple[int, int], channel_axis: int = -1
) -> Any:
    """One draw of the published DropBlock.

        Y = keep * X * (units / units kept),   keep = 0 in blocks around Bernoulli(gamma) centres,
        gamma = rate / (b_h b_w) * H W / ((H - b_h + 1) (W - b_w + 1))

    Blocks lie inside the map and may overlap; each channel of a sample draws its own. The units are
    counted in the whole batch, that of all replicas.

    Args:
        x: a tensor (N, H, W, C), or (N, C, H, W) with `channel_axis=1`, of floating dtype.
        key: two words from `keras_swapout.random.key`.
        rate: the DROP rate that gamma aims at, in [0, 1): a float or a scalar tensor.
        block_size: (b_h, b_w), ints >= 1; a block larger than the map is the whole map.
        channel_axis: 1 or -1.

    Returns:
        Y, of the shape and dtype of `x`; zeros where everything was dropped.

    Example:

    >>> y = drop_block(ops.ones((1, 4, 4, 1)), [3, 0], 0.3, (3, 3))
    >>> ops.convert_to_numpy(y > 0).astype(int)[0, ..., 0].tolist()
    [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]]

    Source: Ghiasi, Lin, Le, "DropBlock", NeurIPS 2018, algorithm 1.
    """
    first = channel_axis == 1
    shape = ops.shape(x)
    samples, channels = shape[0], shape[channel_axis]
    sides = shape[2:4] if first else shape[1:3]
    blocks, sides = zip(*map(_fitted, block_size, sides), strict=True)
    # A block is known by its first corner: there is one place for each way it can lie in the map.
    corners = [side - block + 1 for side, block in zip(sides, blocks, strict=True)]
    area, places = (ops.cast(a * b, "float32") for a, b in (sides, corners))
    gamma = rate / math.prod(blocks) * area / places
    limit = ops.minimum(gamma * 2.0**32, 2.0**32 - 256)  # the largest float32 that is a word
    rows = random.rows(samples, samples, random.replica_offset(samples))
    words = random.sample_words(key, rows, (*corners, channels))
    chosen = ops.less(words, ops.cast(limit, words.dtype))
    edges = [(block - 1, block - 1) for block in blocks]
    padded = ops.pad(ops.cast(chosen, x.dtype), [(0, 0), *edges, (0, 0)])
    dropped = ops.max_pool(padded, tuple(blocks), 1, "valid", data_format="channels_last")
    dropped = ops.transpose(dropped, (0, 3, 1, 2)) if first else dropped
    if not all(isinstance(side, int) for side in sides):
        dropped = dropped[tuple(slice(n) for n in shape)]
    keep = ops.equal(dropped, 0)
    kept = ops.sum(ops.cast(keep, "float32"))
    units = ops.cast(ops.size(keep), "float32")
    units, kept = backend.total([units, kept])
    return gate(keep, x, backend.untaped(units / ops.maximum(kept, 1)))


def _fitted(block, side):
    """A block and a side that it fits in, with the same gamma as the map has.

    A block larger than the map is the whole map. Where the side of the map is not known yet, the
    block can't be made smaller; then the map is taken to be as large as the block, and cut off.
    """
    if isinstance(side, int):
        return min(block, side), side
    return block, ops.maximum(side, block)
